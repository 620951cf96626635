// Drives the TypeScript `@modelcontextprotocol/client` (v2); see README.md for the contract.
import { accept, drive, elicits, era, headers, load } from './contract.mjs';

const { Client, StreamableHTTPClientTransport } = load('@modelcontextprotocol/client');
const mode = { legacy: 'legacy', modern: { pin: '2026-07-28' }, auto: 'auto' }[era];

await drive('typescript-v2', async url => {
  const client = new Client({ name: 'typescript-v2', version: '1' }, {
    versionNegotiation: { mode },
    capabilities: elicits ? { elicitation: { form: {}, url: {} } } : {},
  });
  if (elicits) client.setRequestHandler('elicitation/create', accept);
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
  return { client, era: () => client.getNegotiatedProtocolVersion?.() };
});
