"""One admin action as it is asked for, and as it ends.

The HTTP door and the message gateway turn what they get into an :class:`AdminCall` and an
:class:`AdminOutcome` into what they answer, so that both go the same way (``spec/admin-api.md §A.4, §A.9``).
No I/O, no rules about single actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec

from ..errors import FluxbeeError
from .codes import http_status_of

__all__ = [
    "AdminCall",
    "AdminGateway",
    "AdminOutcome",
    "AdminStreams",
    "Envelope",
    "EventSource",
    "Form",
    "failure",
    "from_error",
]

Form = Literal["envelope", "short", "bare"]
"""How a body looks: five keys, the short form of ``PUT /config/*``, or the payload by itself."""


class AdminCall(msgspec.Struct, frozen=True, kw_only=True):
    """An action to execute.

    Args:
        action: name in the catalogue, or one of the door's own additions.
        target: hive id, or anything ``…@hive``; ``None`` means the local hive.
        params: what the action takes; plain JSON values.
    """

    action: str
    target: str | None = None
    params: Mapping[str, object] = {}


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The five keys of every answer, always present (``spec/admin-api.md §A.4``)."""

    status: str
    action: str | None
    payload: object = None
    error_code: str | None = None
    error_detail: object = None


class _Short(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    status: str
    error_code: str | None = None
    error_detail: object = None


_encoder = msgspec.json.Encoder()


class AdminOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an action ended; ``payload`` may be :class:`msgspec.Raw`, the inner service's bytes verbatim."""

    http_status: int
    status: str
    action: str | None
    payload: object = None
    error_code: str | None = None
    error_detail: object = None
    form: Form = "envelope"

    def envelope(self) -> Envelope:
        """The five keys."""
        return Envelope(
            status=self.status,
            action=self.action,
            payload=self.payload,
            error_code=self.error_code,
            error_detail=self.error_detail,
        )

    def body(self) -> bytes:
        """The HTTP body."""
        if self.form == "bare":
            return _encoder.encode(self.payload)
        if self.form == "short":
            detail = self.error_detail
            return _encoder.encode(
                _Short(status=self.status)
                if self.error_code is None
                else {"status": self.status, "error_code": self.error_code, "error_detail": detail}
            )
        return _encoder.encode(self.envelope())


def failure(
    action: str | None,
    code: str,
    detail: object,
    *,
    payload: object = None,
    http_status: int | None = None,
    form: Form = "envelope",
) -> AdminOutcome:
    """An action that failed; without ``http_status`` the table of ``spec/admin-api.md §A.5`` decides."""
    return AdminOutcome(
        http_status=http_status if http_status is not None else http_status_of(code),
        status="error",
        action=action,
        payload=payload,
        error_code=code,
        error_detail=detail,
        form=form,
    )


class AdminGateway(Protocol):
    """Executes actions; the door's view of SY.admin."""

    async def execute(self, call: AdminCall) -> AdminOutcome:
        """Execute one action; every failure is an outcome."""

    def patience_s(self, action: str) -> float:
        """Longest time in seconds that :meth:`execute` may take, waiting for its turn included."""


class EventSource(Protocol):
    """One watcher's events; a queue that is bounded and drops what its watcher is too slow for."""

    async def next_event(self, timeout_s: float) -> bytes | None:
        """The next event, UTF-8 text; ``None`` when there was none for ``timeout_s``.

        Raises:
            EOFError: there will be no more.
        """


class AdminStreams(Protocol):
    """What the door hands out as server-sent events; each stream is bounded and counts what it drops."""

    def log(self, node_name: str, tail: int) -> AbstractAsyncContextManager[EventSource]:
        """The last ``tail`` lines of the log of a local node (full name), then its lines as they come.

        Raises:
            FluxbeeError: on entering, when there is no such log here.
        """

    def tap(self, pattern: str) -> AbstractAsyncContextManager[EventSource]:
        """What the router routes for names that match ``pattern``, as JSON objects.

        Raises:
            FluxbeeError: on entering, when the router refuses, or too many watch.
        """


def from_error(action: str | None, error: FluxbeeError, *, form: Form = "envelope") -> AdminOutcome:
    """The outcome of an error of the tree that SY.admin itself raised."""
    payload: object = dict(error.details) or None
    return failure(action, error.code, error.message, payload=payload, form=form)
