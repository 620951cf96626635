// Drives the TypeScript `@modelcontextprotocol/client` (v2) as an agent that proves itself by `private_key_jwt` and binds its tokens with DPoP
// (SEP-1932); see README.md for the contract. MCP_CLIENT_ID is the agent's SPIFFE ID, MCP_KEY its private key in PEM.
import { drive, load } from './contract.mjs';

const { Client, DpopSession, PrivateKeyJwtProvider, StreamableHTTPClientTransport } = load('@modelcontextprotocol/client');

class Provider extends PrivateKeyJwtProvider {
  constructor(options, session) {
    super(options);
    this.session = session;
  }

  dpop() {
    return this.session;
  }
}

await drive('typescript-dpop', async url => {
  const session = await DpopSession.create({ alg: process.env.MCP_DPOP_ALG ?? 'ES256' });
  const authProvider = new Provider({
    clientId: process.env.MCP_CLIENT_ID, privateKey: process.env.MCP_KEY, algorithm: 'ES256', scope: 'agent', expectedIssuer: new URL(url).origin,
  }, session);
  const client = new Client({ name: 'typescript-dpop', version: '1' }, { versionNegotiation: { mode: { pin: '2026-07-28' } } });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { authProvider }));
  return { client, era: () => `${client.getNegotiatedProtocolVersion?.()} ${authProvider.tokens()?.token_type}` };
});
