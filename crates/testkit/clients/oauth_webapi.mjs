// The npm package `oauth4webapi` against our authorization server: client credentials, token exchange, introspection, revocation.
//
// `oauth_webapi.mjs ISSUER CLIENT KEY SUBJECT_TOKEN DETAILS`: the client's ID, the file of its private key, the token of the task of which
// a part is asked for, and the details of RFC 9396. Tells as one line of JSON what it got.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.MCP_TOOLS}/oauth_js/package.json`);
const oauth = await import(pathToFileURL(require.resolve("oauth4webapi")));

const [issuer, clientId, keyFile, subject, details] = process.argv.slice(2);
// It talks to a broker on this very machine, without TLS.
const plain = { [oauth.allowInsecureRequests]: true };
const accessToken = "urn:ietf:params:oauth:token-type:access_token";
const exchange = "urn:ietf:params:oauth:grant-type:token-exchange";

const found = await oauth.discoveryRequest(new URL(issuer), { algorithm: "oauth2", ...plain });
const server = await oauth.processDiscoveryResponse(new URL(issuer), found);
const pem = (await readFile(keyFile, "utf8")).replace(/-----[A-Z ]+-----|\s/g, "");
const key = await crypto.subtle.importKey("pkcs8", Buffer.from(pem, "base64"), { name: "Ed25519" }, false, ["sign"]);
const client = { client_id: clientId };
const proof = oauth.PrivateKeyJwt(key);

const credentials = await oauth.clientCredentialsGrantRequest(server, client, proof, new URLSearchParams(), plain);
const own = await oauth.processClientCredentialsResponse(server, client, credentials);
const form = (token) =>
  new URLSearchParams({ subject_token: token, subject_token_type: accessToken, authorization_details: details });
const given = await oauth.genericTokenEndpointRequest(server, client, proof, exchange, form(subject), plain);
const part = await oauth.processGenericTokenEndpointResponse(server, client, given);
const ask = async () => {
  const answer = await oauth.introspectionRequest(server, client, proof, part.access_token, plain);
  return oauth.processIntrospectionResponse(server, client, answer);
};
const about = await ask();
const revocation = await oauth.revocationRequest(server, client, proof, part.access_token, plain);
await oauth.processRevocationResponse(revocation);
const after = await ask();
const wrong = await oauth.genericTokenEndpointRequest(server, client, proof, exchange, form(own.access_token), plain);
const refused = await oauth.processGenericTokenEndpointResponse(server, client, wrong).then(
  () => null,
  (error) => error.error ?? String(error),
);
console.log(JSON.stringify({ own, part, about, revoked: revocation.status, after, refused }));
