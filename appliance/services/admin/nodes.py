"""Messages to nodes on an operator's behalf: sent once, or CONFIG_GET and CONFIG_SET with their answer.

A node that refuses a configuration is a successful call (``spec/admin-api.md §B.6.8``): the refusal is in
``node_ok`` and ``node_error``.
"""

from __future__ import annotations

import msgspec

from appliance.wire import verbs
from appliance.wire.actions import classify_system_message
from appliance.wire.admin.outcome import AdminOutcome
from appliance.wire.admin.requests import NodeMessage
from appliance.wire.envelope import Meta, build_message, raw_json
from appliance.wire.errors import Invalid, Unavailable, Unreachable

from .fold import transport_failure
from .peers import Peers
from .plan import Plan

__all__ = ["control_node", "send_to_node"]

_TRANSPORT_KEYS = ("ttl", "src_ilk", "scope", "context")


async def send_to_node(peers: Peers, plan: Plan) -> AdminOutcome:
    """Send the message and do not wait.

    Raises:
        Unavailable: the router is not connected, or takes nothing.
    """
    wanted = msgspec.convert(dict(plan.payload), NodeMessage)
    meta = Meta(
        type=wanted.msg_type,
        msg=wanted.msg,
        src_ilk=wanted.src_ilk,
        scope=wanted.scope,
        target=wanted.meta_target,
        action=wanted.meta_action,
        priority=wanted.priority,
        context=None if wanted.context is None else raw_json(wanted.context),
    )
    message = build_message(src="", dst=plan.dst, payload=wanted.payload, meta=meta, ttl=wanted.ttl)
    await peers.tell(message)
    payload = {
        "status": "sent",
        "target": plan.target,
        "node_name": plan.dst,
        "trace_id": message.routing.trace_id,
        "msg_type": wanted.msg_type,
        "msg": wanted.msg,
        "src_ilk": wanted.src_ilk,
        "ttl": wanted.ttl,
    }
    return AdminOutcome(http_status=200, status="ok", action=plan.action, payload=payload)


class _Fault(msgspec.Struct, frozen=True):
    code: str | None = None
    detail: object = None
    message: object = None


class _Answer(msgspec.Struct, frozen=True):
    ok: bool = False
    error: _Fault | None = None


async def control_node(peers: Peers, plan: Plan) -> AdminOutcome:
    """Ask a node with CONFIG_GET or CONFIG_SET.

    Raises:
        Invalid: a transport key has the wrong type.
    """
    message = build_message(
        src="",
        dst=plan.dst,
        payload={key: value for key, value in plan.payload.items() if key not in _TRANSPORT_KEYS},
        meta=_control_meta(plan),
        ttl=_ttl(plan.payload.get("ttl")),
    )
    about: dict[str, object] = {
        "target": plan.target,
        "node_name": plan.dst,
        "request_msg": plan.verb,
        "response_msg": verbs.CONFIG_RESPONSE,
    }
    try:
        raw = await peers.ask(message, plan.timeout_s, reply_verb=verbs.CONFIG_RESPONSE)
    except (Unreachable, Unavailable) as error:
        return transport_failure(plan.action, plan.dst, error, last_hop=peers.last_hop, payload=about)
    try:
        answer = msgspec.json.decode(raw, type=_Answer)
    except msgspec.DecodeError:
        answer = _Answer(error=_Fault(code="INVALID_RESPONSE", detail="the answer is no CONFIG_RESPONSE"))
    fault = answer.error
    refusal = None
    if fault is not None:
        detail = fault.detail if fault.detail is not None else fault.message
        refusal = {"code": fault.code, "detail": detail}
    payload = {**about, "node_ok": answer.ok, "node_error": refusal, "response": msgspec.Raw(raw)}
    return AdminOutcome(http_status=200, status="ok", action=plan.action, payload=payload)


def _control_meta(plan: Plan) -> Meta:
    context = plan.payload.get("context")
    return Meta(
        type=verbs.SYSTEM,
        msg=plan.verb,
        action=plan.verb,
        target=verbs.NODE_CONTROL_TARGET,
        action_class=classify_system_message(plan.verb),
        src_ilk=_word(plan, "src_ilk"),
        scope=_word(plan, "scope"),
        context=None if context is None else raw_json(context),
    )


def _word(plan: Plan, key: str) -> str | None:
    value = plan.payload.get(key)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"{key} must be a string", field=key)
    return value


def _ttl(value: object) -> int:
    if value is None:
        return verbs.DEFAULT_TTL
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid("ttl must be an integer", field="ttl")
    return max(1, min(255, value))
