"""Responses as ASGI messages, without a response object in between: these are small and many."""

from __future__ import annotations

from starlette.types import Send

from appliance.wire.admin.outcome import AdminOutcome

__all__ = ["send_bytes", "send_outcome"]

_JSON = b"application/json"


async def send_outcome(send: Send, outcome: AdminOutcome) -> None:
    """Answer with an action's outcome."""
    await send_bytes(send, outcome.http_status, outcome.body(), _JSON)


async def send_bytes(
    send: Send, status: int, body: bytes, media_type: bytes = _JSON, *, fresh: bool = False
) -> None:
    """Answer with ``body``; ``fresh`` forbids caches to keep it."""
    headers = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    if fresh:
        headers.append((b"cache-control", b"no-store"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
