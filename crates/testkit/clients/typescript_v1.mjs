// Drives the TypeScript `@modelcontextprotocol/sdk` (v1, legacy only); see README.md for the contract.
import { accept, drive, elicits, headers, load, stdio } from './contract.mjs';

const { Client } = load('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = load('@modelcontextprotocol/sdk/client/stdio.js');
const { StreamableHTTPClientTransport } = load('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { ElicitRequestSchema } = load('@modelcontextprotocol/sdk/types.js');

await drive('typescript-v1', async url => {
  const client = new Client({ name: 'typescript-v1', version: '1' }, {
    capabilities: elicits ? { elicitation: { form: {}, url: {} } } : {},
  });
  if (elicits) client.setRequestHandler(ElicitRequestSchema, accept);
  const server = stdio(url);
  const transport = server
    ? new StdioClientTransport(server)
    : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  await client.connect(transport);
  return { client, era: () => transport.protocolVersion };
});
