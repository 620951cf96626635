// Drives the bridge `mcp-remote`, as a stdio-only host does; see README.md for the contract. The host side is the v1 SDK.
import { drive, load, token } from './contract.mjs';

const { Client } = load('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = load('@modelcontextprotocol/sdk/client/stdio.js');

await drive('mcp-remote', async url => {
  const bridge = `${process.env.MCP_TOOLS}/clients/node_modules/mcp-remote/dist/proxy.js`;
  // The bridge replaces ${BRIDGE_AUTHORIZATION} itself, so the token is in no command line.
  const authorization = token ? ['--header', 'Authorization:${BRIDGE_AUTHORIZATION}'] : [];
  const client = new Client({ name: 'mcp-remote', version: '1' }, { capabilities: {} });
  const transport = new StdioClientTransport({
    command: process.execPath,
    args: [bridge, url, '--allow-http', '--transport', 'http-only', ...authorization],
    env: { ...process.env, BRIDGE_AUTHORIZATION: `Bearer ${token}` },
    // Where a person must sign in, the bridge says so there.
    stderr: process.env.MCP_DEBUG || process.env.MCP_SIGN_IN ? 'inherit' : 'ignore',
  });
  await client.connect(transport, process.env.MCP_SIGN_IN ? { timeout: 240_000 } : undefined);
  return { client, era: () => null };
});
