// npm `oidc-provider`, a certified OpenID provider, with its own development pages, one client and no memory beyond its life.
//
// node oidc_provider.mjs MODULES PORT BASE: MODULES is a `node_modules` folder, BASE the public URL of the broker. Whoever types a name signs
// in as it.
import { generateKeyPairSync } from "node:crypto";
import { pathToFileURL } from "node:url";

const [modules, port, base] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const issuer = `http://localhost:${port}`;
const key = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" });
const groups = { "ana@example.org": ["staff"], "ben@example.org": ["staff", "bailiwick-approvers"], "dan@example.org": ["bailiwick-approvers"] };

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...key, alg: "ES256", use: "sig", kid: "one" }] },
  cookies: { keys: ["a key of a test"] },
  clients: [
    {
      client_id: "bailiwick",
      client_secret: "canary-of-the-provider-3d0a9b1c",
      redirect_uris: [`${base}/sign-in/oidc/callback`],
      response_types: ["code"],
      grant_types: ["authorization_code"],
      token_endpoint_auth_method: "client_secret_basic",
      id_token_signed_response_alg: "ES256",
      backchannel_logout_uri: `${base}/sign-in/oidc/logout`,
      backchannel_logout_session_required: true,
    },
  ],
  pkce: { required: () => true },
  // By itself it calls nobody on this machine, where the broker of a test is.
  fetch: (url, options) => fetch(url, { ...options, dispatcher: undefined }),
  features: { backchannelLogout: { enabled: true }, devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
  scopes: ["openid", "profile", "email"],
  claims: { openid: ["sub"], profile: ["groups"], email: ["email", "email_verified"] },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: id, email_verified: true, groups: groups[id] ?? [] }),
  }),
});
provider.on("server_error", (_, error) => console.error("server_error", error));
provider.on("backchannel.error", (_, error) => console.error("backchannel.error", error));
provider.on("backchannel.success", () => console.log("backchannel.success"));
provider.listen(Number(port), "127.0.0.1", () => console.log("listening"));
