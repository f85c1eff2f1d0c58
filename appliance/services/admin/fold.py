"""From a service's answer to the envelope (``spec/admin-api.md §A.4``). Sans-IO.

The answer's bytes travel on verbatim: only the keys that decide are looked at, so the answer for a thousand
nodes costs no more than its copy.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from appliance.wire import verbs
from appliance.wire.admin.codes import http_status_of
from appliance.wire.admin.outcome import AdminOutcome, failure
from appliance.wire.errors import FluxbeeError, Unreachable

__all__ = ["fold", "transport_failure"]


class _Inner(msgspec.Struct, frozen=True):
    """The keys of an inner answer that decide."""

    status: object = None
    ok: object = None
    error_code: object = None
    error_detail: object = None
    message: object = None
    error: object = None


_decoder = msgspec.json.Decoder(_Inner)


def fold(action: str, payload: bytes, statuses: Mapping[str, int] | None = None) -> AdminOutcome:
    """The outcome that the inner answer ``payload`` (JSON bytes) stands for.

    Args:
        action: name for the envelope.
        payload: the answer, kept as it is.
        statuses: HTTP statuses by code where this action bypasses the table of §A.5.
    """
    raw = msgspec.Raw(payload)
    try:
        inner = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return failure(action, "SERVICE_FAILED", "the service answered with something else", payload=raw)
    word = inner.status.lower() if isinstance(inner.status, str) else None
    if word in ("ok", "not_found") or inner.ok is True:
        return AdminOutcome(http_status=200, status="ok", action=action, payload=raw)
    if word == "sync_pending":
        return AdminOutcome(http_status=202, status="sync_pending", action=action, payload=raw)
    nested = inner.error if isinstance(inner.error, dict) else {}
    code = _text(inner.error_code) or _text(nested.get("code")) or "SERVICE_FAILED"
    candidates = (inner.error_detail, inner.message, nested.get("detail"), nested.get("message"))
    detail = next((one for one in candidates if one is not None), None)
    status = (statuses or {}).get(code.upper()) or http_status_of(code)
    return failure(action, code, detail, payload=raw, http_status=status)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def transport_failure(
    action: str, target: str, error: FluxbeeError, *, last_hop: str = "", payload: object = None
) -> AdminOutcome:
    """The outcome when no answer came.

    A router's refusal is ``TRANSPORT_ERROR`` with the token ``UNREACHABLE`` in its text, on which scripts
    retry; silence is ``TIMEOUT``.
    """
    if error.code == "TIMEOUT":
        return failure(action, "TIMEOUT", f"request timed out: {error.message}", payload=payload)
    if isinstance(error, Unreachable):
        expired = error.code == verbs.TTL_EXCEEDED
        word = verbs.TTL_EXCEEDED if expired else verbs.UNREACHABLE
        reason = "" if expired else f" reason={error.code}"
        text = f"router returned {word} for target={target}{reason} original_dst={target} last_hop={last_hop}"
        return failure(action, "TRANSPORT_ERROR", text, payload=payload)
    return failure(action, "TRANSPORT_ERROR", error.message, payload=payload)
