// Drives the TypeScript `@modelcontextprotocol/client` (v2); see README.md for the contract.
import { accept, drive, elicits, era, headers, load, stdio } from './contract.mjs';

const { Client, StreamableHTTPClientTransport } = load('@modelcontextprotocol/client');
const { StdioClientTransport } = load('@modelcontextprotocol/client/stdio');
const mode = { legacy: 'legacy', modern: { pin: '2026-07-28' }, auto: 'auto' }[era];

await drive('typescript-v2', async url => {
  const client = new Client({ name: 'typescript-v2', version: '1' }, {
    versionNegotiation: { mode },
    capabilities: elicits ? { elicitation: { form: {}, url: {} } } : {},
  });
  if (elicits) client.setRequestHandler('elicitation/create', accept);
  const server = stdio(url);
  await client.connect(server
    ? new StdioClientTransport(server)
    : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
  return { client, era: () => client.getNegotiatedProtocolVersion?.() };
});
