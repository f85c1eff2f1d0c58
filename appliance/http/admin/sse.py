"""Server-sent events: one watcher, one bounded source, comments as a sign of life.

A watcher that left is found by the next event or sign of life at the latest; the door's write time-out cuts
one that takes nothing. Errors before the first byte are ordinary answers.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

import trio
from starlette.types import Receive, Send

from appliance.wire.admin.outcome import EventSource, from_error
from appliance.wire.errors import FluxbeeError

from .replies import send_outcome

__all__ = ["event_bytes", "stream_events"]

ALIVE_EVERY_S: Final = 15.0
_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def event_bytes(data: bytes) -> bytes:
    """One event; every line of ``data`` becomes a ``data:`` line."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


async def stream_events(
    opening: AbstractAsyncContextManager[EventSource], receive: Receive, send: Send, *, action: str
) -> None:
    """Send what the source yields until it ends or the watcher leaves."""
    started = False
    try:
        async with opening as source:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            started = True
            # At once, so that the watcher knows that it watches.
            await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await _pump(source, send)
                nursery.cancel_scope.cancel()
    except FluxbeeError as error:
        if not started:
            await send_outcome(send, from_error(action, error))
            return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pump(source: EventSource, send: Send) -> None:
    while True:
        try:
            data = await source.next_event(ALIVE_EVERY_S)
        except EOFError:
            return
        body = b": alive\n\n" if data is None else event_bytes(data)
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
