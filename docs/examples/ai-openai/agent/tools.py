"""What the model may call, declared in the configuration.

A tool's result is text for the model; a failure is told to the model too, which can then say so. Nothing
that the model writes is trusted: arguments are checked, and it reaches only the nodes that the configuration
names.
"""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import msgspec

from appliance.sdk import Message, Meta, Node, build_message, text_payload
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError, Invalid, Refused

from .model import Call
from .settings import Tool

__all__ = ["describe", "run_tool"]

log = get_logger("ai.openai")

MAX_RESULT_CHARS = 8000


class _Send(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of ``send_message``."""

    text: str
    to: str = ""


def describe(tool: Tool) -> dict[str, object]:
    """The tool as the API's ``tools`` entry."""
    properties: dict[str, object] = {}
    if tool.kind == "send_message":
        properties["text"] = {"type": "string", "description": "what to say to the other node"}
        if not tool.to:
            allowed = ", ".join(tool.allow)
            properties["to"] = {"type": "string", "description": f"full name of the node, one of: {allowed}"}
    parameters = {"type": "object", "properties": properties, "required": sorted(properties)}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


async def run_tool(call: Call, tools: tuple[Tool, ...], request: Message, node: Node) -> str:
    """Run what the model asked for and return the text that it is told."""
    started = time.monotonic()
    tool = next((one for one in tools if one.name == call.function.name), None)
    is_ok = False
    try:
        if tool is None:
            raise Refused("there is no such tool", code="unknown_tool")
        result = await _run(tool, call.function.arguments, request, node)
        is_ok = True
    except FluxbeeError as error:
        result = f"error {error.code}: {error.message}"
    log.info(
        "tool_called",
        tool=call.function.name[:64],
        args_hash=hashlib.sha256(call.function.arguments.encode()).hexdigest()[:16],
        ok=is_ok,
        ms=round((time.monotonic() - started) * 1000),
    )
    return result[:MAX_RESULT_CHARS]


async def _run(tool: Tool, arguments: str, request: Message, node: Node) -> str:
    if tool.kind == "now":
        return datetime.now(UTC).isoformat(timespec="seconds")
    try:
        given = msgspec.json.decode(arguments or "{}", type=_Send)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the arguments do not fit: {error}", code="invalid_arguments") from error
    to = tool.to or given.to
    if not tool.to and not any(fnmatchcase(to, pattern) for pattern in tool.allow):
        raise Refused(f"{to or 'nobody'} is not among {', '.join(tool.allow)}", code="not_allowed")
    meta = Meta(type="user", src_ilk=request.meta.src_ilk, thread_id=request.meta.thread_id)
    question = build_message(src=node.uuid, dst=to, payload=text_payload(given.text), meta=meta)
    answer = await node.request(question, timeout_s=tool.wait_s)
    try:
        return await node.read_text(answer)
    except Invalid:
        return bytes(answer.payload).decode()
