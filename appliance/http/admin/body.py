"""The whole body of a request, for every method; the gate bounds it."""

from __future__ import annotations

from starlette.types import Receive

__all__ = ["read_body"]


async def read_body(receive: Receive) -> bytes:
    """All of it, in one piece."""
    message = await receive()
    if not message.get("more_body", False):
        return bytes(message.get("body", b""))
    body = bytearray(message.get("body", b""))
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    return bytes(body)
