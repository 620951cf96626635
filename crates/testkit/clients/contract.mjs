// What the Node clients share: the contract of README.md around one connected client.
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

/** Loads from the folder that `cargo xtask tools` filled, wherever this script lies. */
export const load = createRequire(`${process.env.MCP_TOOLS}/clients/package.json`);
export const era = process.env.MCP_ERA ?? 'auto';
export const elicits = process.env.MCP_ELICIT === '1';
export const token = process.env.MCP_TOKEN ?? '';
export const headers = token ? { Authorization: `Bearer ${token}` } : {};
export const accept = request => request.params.mode === 'url' ? { action: 'accept' } : { action: 'accept', content: {} };
/** What starts the one server of a host's file, if `url` is the path of one. */
export const stdio = url => existsSync(url)
  ? Object.values(JSON.parse(readFileSync(url, 'utf8')).mcpServers).map(({ command, args }) => ({ command, args }))[0]
  : undefined;

/** `connect(url)` gives `{ client, era() }`, where `client` has listTools, callTool and close. */
export async function drive(name, connect) {
  const [, , url, tool, args] = process.argv;
  const report = { client: name, era: null, tools: [], result_text: '', is_error: true, raised: false };
  let begin = performance.now();
  let connected;
  try {
    connected = await connect(url);
    report.era = connected.era() ?? null;
    report.tools = (await connected.client.listTools()).tools.map(tool => tool.name);
    begin = performance.now();
    const result = await connected.client.callTool({ name: tool, arguments: JSON.parse(args) });
    report.result_text = result.content.filter(block => block.type === 'text').map(block => block.text).join('\n');
    report.is_error = result.isError === true;
  } catch (error) {
    report.raised = true;
    report.result_text = `${error.name}: ${error.message}`;
  }
  report.seconds = Math.round(performance.now() - begin) / 1000;
  console.log(JSON.stringify(report));
  await connected?.client.close().catch(() => {});
  process.exit(0);
}
