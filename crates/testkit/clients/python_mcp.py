"""Drives the Python `mcp` client; see README.md for the contract."""

import asyncio
import json
import os
import sys
import time

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from mcp.types import ElicitResult

MODES = {"legacy": "legacy", "modern": "2026-07-28", "auto": "auto"}


async def accept(context, params):
    return ElicitResult(action="accept", content={} if params.mode == "form" else None)


def stdio(file):
    with open(file) as text:
        (server,) = json.load(text)["mcpServers"].values()
    return StdioServerParameters(command=server["command"], args=server["args"])


async def main() -> None:
    url, tool, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    token = os.environ.get("MCP_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    report = {"client": "python-mcp", "era": None, "tools": [], "result_text": "", "is_error": True, "raised": False}
    begin = time.monotonic()
    try:
        async with create_mcp_http_client(headers=headers) as http:
            client = Client(
                stdio(url) if os.path.isfile(url) else streamable_http_client(url, http_client=http),
                mode=MODES[os.environ.get("MCP_ERA", "auto")],
                elicitation_callback=accept if os.environ.get("MCP_ELICIT") else None,
            )
            async with client:
                report["era"] = client.protocol_version
                report["tools"] = [tool.name for tool in (await client.list_tools()).tools]
                begin = time.monotonic()
                result = await client.call_tool(tool, arguments)
                report["result_text"] = "\n".join(block.text for block in result.content if block.type == "text")
                report["is_error"] = bool(result.is_error)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        report |= {"raised": True, "result_text": f"{type(error).__name__}: {error}"}
    report["seconds"] = round(time.monotonic() - begin, 3)
    print(json.dumps(report))


asyncio.run(main())
