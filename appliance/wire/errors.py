"""One tree of errors, cut by what the caller can *do* about them.

Every error carries a stable ``code`` (for programs), an HTTP ``status`` and a one-sentence ``remedy``
(for people). Foreign errors are mapped to this tree at the seam where they enter. Nothing here knows
about transports: the router turns an error into a message, a door turns it into a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Busy",
    "Conflict",
    "Damaged",
    "FluxbeeError",
    "Invalid",
    "Misconfigured",
    "NotFound",
    "Refused",
    "Unavailable",
    "Unreachable",
]


class FluxbeeError(Exception):
    """Root of the tree.

    Args:
        message: what happened, in one sentence, naming the thing it happened to.
        code: stable upper-case word for programs; the class default serves when none fits better.
        remedy: what to do about it, one sentence.
        field: dotted path of the offending input, where there is one.
        details: further keys for the answer of whoever reports the error; JSON values, never secrets.
    """

    code = "INTERNAL"
    status = 500
    remedy = "Look at the log of the service that answered; this is a defect if it repeats."

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        remedy: str | None = None,
        field: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details: Mapping[str, object] = details or {}
        if code is not None:
            self.code = code
        if remedy is not None:
            self.remedy = remedy

    def __str__(self) -> str:
        return self.message


class Refused(FluxbeeError):
    """Policy or permission says no; asking again the same way will not help."""

    code, status = "FORBIDDEN", 403
    remedy = "Use an account, node name or token that is allowed to do this."


class Busy(FluxbeeError):
    """A bound was reached; the same request may succeed after ``retry_after_s`` seconds."""

    code, status = "BUSY", 503
    remedy = "Wait a moment and try again."

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        details: Mapping[str, object] | None = None,
        **kw: str | None,
    ) -> None:
        super().__init__(message, details=details, **kw)
        self.retry_after_s = retry_after_s


class Unreachable(FluxbeeError):
    """The peer exists in principle but cannot be reached now; ``code`` holds the router's reason."""

    code, status = "UNREACHABLE", 502
    remedy = "Check that the destination is connected and in the same VPN."


class NotFound(FluxbeeError):
    """The named thing does not exist."""

    code, status = "NOT_FOUND", 404
    remedy = "Check the name."


class Conflict(FluxbeeError):
    """The thing exists already, or its version moved on."""

    code, status = "CONFLICT", 409
    remedy = "Read the current state and decide again."


class Invalid(FluxbeeError):
    """The input is wrong; ``field`` names where."""

    code, status = "INVALID_REQUEST", 400
    remedy = "Correct the named field."


class Damaged(FluxbeeError):
    """Stored bytes failed their check; the damaged part is set aside and rebuilt where that is possible."""

    code, status = "DAMAGED", 500
    remedy = "The damaged file was set aside; keep it for analysis and check the storage medium."


class Misconfigured(FluxbeeError):
    """A configuration file is wrong; the message names file and key."""

    code, status = "MISCONFIGURED", 500
    remedy = "Correct the named key; `fluxbee config check` verifies the file."


class Unavailable(FluxbeeError):
    """A service, plane or device that is needed is down or read-only."""

    code, status = "UNAVAILABLE", 503
    remedy = "See `fluxbee status` for what is down."
