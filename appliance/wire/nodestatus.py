"""NODE_STATUS_GET: what a node says about its own health (``spec/node-protocol.md §5.1``).

Builders and parsers only; who answers, and when, is the SDK's and the supervisor's business. A health word
that is not one of the four reads as HEALTHY, as both reference SDKs do: a node that answers at all is alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from . import verbs
from .envelope import Message, Meta, build_message, system_message
from .errors import Invalid

if TYPE_CHECKING:
    from .envelope import Json
else:  # msgspec decodes no recursive alias; for it, any JSON value is just a value
    Json = object

__all__ = [
    "HealthState",
    "NodeStatus",
    "build_status_request",
    "build_status_response",
    "is_status_request",
    "is_status_response",
    "parse_health_state",
    "parse_status_response",
]


class HealthState(StrEnum):
    """Values of ``health_state``."""

    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    ERROR = "ERROR"
    UNKNOWN = "UNKNOWN"


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Payload of NODE_STATUS_GET_RESPONSE; the last two are free JSON and left out when absent."""

    status: str
    health_state: HealthState
    last_error: Json = None
    extensions: Json = None


def parse_health_state(text: str) -> HealthState:
    """``text`` in any case and with blanks around it; an unknown word is HEALTHY."""
    try:
        return HealthState(text.strip().upper())
    except ValueError:
        return HealthState.HEALTHY


def is_status_request(message: Message) -> bool:
    """Whether ``message`` asks this node for its status."""
    return message.meta.type == verbs.SYSTEM and message.meta.msg == verbs.NODE_STATUS_GET


def is_status_response(message: Message) -> bool:
    """Whether ``message`` answers a status request."""
    return message.meta.type == verbs.SYSTEM and message.meta.msg == verbs.NODE_STATUS_GET_RESPONSE


def build_status_request(src: str, node_name: str) -> Message:
    """Ask the node with the full L2 name ``node_name``; wait 2 s for the answer, as the reference does."""
    return system_message(
        src=src, dst=node_name, verb=verbs.NODE_STATUS_GET, payload={"node_name": node_name}
    )


def build_status_response(
    request: Message,
    *,
    src: str,
    health: HealthState = HealthState.HEALTHY,
    last_error: Json = None,
    extensions: Json = None,
) -> Message:
    """The answer to ``request``: to the asking connection, same trace, ttl 16."""
    return build_message(
        src=src,
        dst=request.routing.src,
        meta=Meta(type=verbs.SYSTEM, msg=verbs.NODE_STATUS_GET_RESPONSE),
        payload=NodeStatus(status="ok", health_state=health, last_error=last_error, extensions=extensions),
        trace_id=request.routing.trace_id,
    )


def parse_status_response(message: Message) -> NodeStatus:
    """Read the answer; the optional parts may also lie one level down, under ``payload``.

    Raises:
        Invalid: the payload is not an object.
    """
    body = message.json()
    if not isinstance(body, dict):
        raise Invalid("a status response is an object", code="INVALID_PAYLOAD", field="payload")
    inner = body.get("payload")
    nested: Mapping[str, Json] = inner if isinstance(inner, dict) else {}

    def pick(key: str) -> Json:
        value = body.get(key)
        return nested.get(key) if value is None else value

    health, status = pick("health_state"), pick("status")
    return NodeStatus(
        status=status if isinstance(status, str) else "",
        health_state=parse_health_state(health if isinstance(health, str) else ""),
        last_error=pick("last_error"),
        extensions=pick("extensions"),
    )
