"""Drives the Python `fastmcp` client; see README.md for the contract."""

import asyncio
import json
import os
import sys
import time

from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StreamableHttpTransport

MODES = {"legacy": "legacy", "modern": "2026-07-28", "auto": "auto"}


async def accept(message, response_type, params, context):
    return ElicitResult(action="accept", content={} if params.mode == "form" else None)


async def main() -> None:
    url, tool, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    token = os.environ.get("MCP_TOKEN", "")
    sign_in = bool(os.environ.get("MCP_SIGN_IN"))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    report = {"client": "fastmcp", "era": None, "tools": [], "result_text": "", "is_error": True, "raised": False}
    begin = time.monotonic()
    try:
        client = Client(
            # The library takes the whole file of a host by itself.
            json.load(open(url)) if os.path.isfile(url) else StreamableHttpTransport(url, headers=headers, auth="oauth" if sign_in else None),
            mode=MODES[os.environ.get("MCP_ERA", "auto")],
            elicitation_handler=accept if os.environ.get("MCP_ELICIT") else None,
        )
        async with client:
            report["era"] = getattr(client.session, "protocol_version", None)
            report["tools"] = [tool.name for tool in await client.list_tools()]
            begin = time.monotonic()
            result = await client.call_tool(tool, arguments, raise_on_error=False)
            report["result_text"] = "\n".join(block.text for block in result.content if block.type == "text")
            report["is_error"] = bool(result.is_error)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        report |= {"raised": True, "result_text": f"{type(error).__name__}: {error}"}
    report["seconds"] = round(time.monotonic() - begin, 3)
    print(json.dumps(report))


asyncio.run(main())
