"""How an error becomes a response: one place, three shapes.

A handler raises from the error tree (``appliance.wire.errors``); the door answers with its status, code and
remedy as JSON. Which keys the body has is the door's choice (``DoorConfig.error_shape``), because the two
outsides that we must fit differ: the admin API answers with a five-key envelope (``spec/admin-api.md
§A.4``), the world API with an ``error`` key (``spec/flux-state.md`` HT-01). Nothing here knows about
sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from math import ceil

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from appliance.wire.errors import Busy, Conflict, FluxbeeError, Invalid, NotFound, Refused, Unavailable

__all__ = [
    "BodyTimeout",
    "ClientGone",
    "DeadlinePassed",
    "ErrorShape",
    "Fault",
    "PayloadTooLarge",
    "envelope_shape",
    "from_http_exception",
    "not_found",
    "plain_shape",
    "world_shape",
]


class PayloadTooLarge(Invalid):
    """The request body is longer than this path takes; answered with 413."""

    status = 413
    remedy = "Send less in one request."


class DeadlinePassed(Unavailable):
    """The handler did not begin its answer in time; answered with 504."""

    code, status = "TIMEOUT", 504
    remedy = "Try again; if it repeats, see `fluxbee status` for the service that does not answer."


class BodyTimeout(Invalid):
    """The client did not finish its request in time; answered with 408."""

    code, status = "REQUEST_TIMEOUT", 408
    remedy = "Send the whole request without pauses."


class ClientGone(OSError):
    """Nobody takes the answer any more: the client left or was cut. Handlers see it as ASGI's ``OSError``."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What a response says about one error.

    ``message`` is what happened, ``remedy`` what to do; ``retry_after_s`` becomes a ``Retry-After`` header;
    ``field`` is the dotted path of the offending input.
    """

    status: int
    code: str
    message: str
    remedy: str = ""
    field: str | None = None
    retry_after_s: float | None = None

    @classmethod
    def from_error(cls, error: FluxbeeError) -> Fault:
        """The fault that ``error`` describes."""
        return cls(
            status=error.status,
            code=error.code,
            message=error.message,
            remedy=error.remedy,
            field=error.field,
            retry_after_s=error.retry_after_s if isinstance(error, Busy) else None,
        )

    @classmethod
    def internal(cls, error_id: str) -> Fault:
        """The fault of an unexpected exception: says nothing but where to look."""
        return cls(
            status=500,
            code="INTERNAL",
            message=f"internal error {error_id}",
            remedy=f"Look for error_id={error_id} in the log; this is a defect.",
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers that belong to the fault, without length and type."""
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", str(max(1, ceil(self.retry_after_s))).encode())]


ErrorShape = Callable[[Fault], dict[str, object]]
"""Turns a fault into the JSON object of the body."""


def plain_shape(fault: Fault) -> dict[str, object]:
    """The house's own shape: ``error``, ``code``, ``remedy`` and, where there is one, ``field``."""
    body: dict[str, object] = {
        "status": "error",
        "error": fault.message,
        "code": fault.code,
        "remedy": fault.remedy,
    }
    if fault.field is not None:
        body["field"] = fault.field
    return body


def envelope_shape(fault: Fault) -> dict[str, object]:
    """The admin API's five keys, never more (``spec/admin-api.md §A.4``); the remedy ends the detail."""
    detail = f"{fault.message} ({fault.remedy})" if fault.remedy else fault.message
    return {
        "status": "error",
        "action": None,
        "payload": None,
        "error_code": fault.code,
        "error_detail": detail,
    }


def world_shape(fault: Fault) -> dict[str, object]:
    """The world API's shape: ``error`` is what its clients print (``spec/flux-state.md`` HT-01, HT-08)."""
    return {"error": fault.message, "code": fault.code, "remedy": fault.remedy}


def from_http_exception(error: HTTPException) -> FluxbeeError:
    """The error of the tree that says what Starlette's exception said; its status is kept."""
    message = error.detail or HTTPStatus(error.status_code).phrase
    kinds: dict[int, type[FluxbeeError]] = {403: Refused, 401: Refused, 404: NotFound, 409: Conflict}
    kind = kinds.get(error.status_code, Invalid if error.status_code < 500 else Unavailable)
    mapped = kind(message)
    mapped.status = error.status_code
    return mapped


NOT_FOUND_BODY = b'{"error":"not_found"}'


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI application for a path nobody serves: 404 with exactly ``{"error":"not_found"}`` (§A.2)."""
    prefix = "websocket.http" if scope["type"] == "websocket" else "http"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(NOT_FOUND_BODY)).encode())]
    await send({"type": f"{prefix}.response.start", "status": 404, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": NOT_FOUND_BODY})
