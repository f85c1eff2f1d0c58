"""ADMIN_COMMAND: the same actions over the router. Judges a command and makes its answer; sans-IO.

The precedence of the refusals is asserted by operators' scripts (``spec/admin-api.md §A.9``). Reading is open
to everybody on the hive, except what may hold secrets; that, and changing, is for ``SY.*`` and
``security.admin_nodes`` (``design.md §5``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from appliance.wire import verbs
from appliance.wire.actions import classify_admin_action, derive_action_outcome
from appliance.wire.admin.catalogue import ACTIONS
from appliance.wire.admin.outcome import AdminCall, AdminOutcome, failure
from appliance.wire.envelope import Message, Meta, build_message
from appliance.wire.errors import Invalid
from appliance.wire.names import full_name, glob_matcher, is_system_name

__all__ = ["Gateway", "answer_command"]

_PRIVATE = frozenset({"get_node_config", "get_node_state", "node_control_config_get", "list_ilks", "get_ilk"})
"""Reads of what may hold secrets or tell of people: asking through SY.admin must not open what is closed to
direct questions, nor reach into another VPN."""

_LEGACY_ROUTERS = frozenset({"list_routers", "get_routers", "add_router", "delete_router"})


class Gateway:
    """Judges commands of one hive.

    Args:
        hive: own hive id; completes bare names.
        admin_nodes: names or globs that may change things besides ``SY.*``; ``*`` means everybody.
    """

    def __init__(self, hive: str, admin_nodes: Iterable[str]) -> None:
        self._admins: list[Callable[[str], bool]] = [
            glob_matcher(name if name == "*" else full_name(name, hive)) for name in admin_nodes
        ]

    def may_change(self, name: str | None) -> bool:
        """Whether the sender that the router calls ``name`` may change things."""
        return name is not None and (is_system_name(name) or any(fits(name) for fits in self._admins))

    def judge(self, message: Message) -> AdminCall | AdminOutcome:
        """The call that a command asks for, or its refusal."""
        try:
            body = message.json()
        except Invalid as error:
            return failure(None, "INVALID_REQUEST", error.message)
        if not isinstance(body, dict):
            return failure(None, "INVALID_REQUEST", "the payload must be a JSON object")
        action = body.get("action")
        if not isinstance(action, str) or not action.strip():
            return failure(None, "INVALID_REQUEST", {"message": "missing payload.action"})
        return self._judge(action.strip(), body, message.source_l2_name)

    def _judge(self, action: str, body: Mapping[str, object], sender: str | None) -> AdminCall | AdminOutcome:
        if action in _LEGACY_ROUTERS:
            text = f"legacy router action is not supported: {action}"
            return failure(action, "INVALID_REQUEST", text)
        entry = ACTIONS.get(action)
        if entry is None:
            return failure(action, "INVALID_REQUEST", f"unknown action {action!r}")
        params = body.get("params")
        if params is None:
            params = {}
        if not isinstance(params, dict):
            return failure(action, "INVALID_REQUEST", "params must be a JSON object or null")
        if "hive_id" in params and not entry.allow_legacy_hive_id:
            text = "legacy field 'hive_id' is not supported for this action; use payload.target"
            return failure(action, "INVALID_REQUEST", text)
        target = body.get("target")
        if target is not None and not isinstance(target, str):
            return failure(action, "INVALID_REQUEST", "target must be a string")
        if entry.requires_target and not (target or "").strip():
            text = "missing target (payload.target required for this action)"
            return failure(action, "INVALID_REQUEST", text)
        if (not entry.read_only or action in _PRIVATE) and not self.may_change(sender):
            return failure(action, "FORBIDDEN", f"{sender or 'an unnamed sender'} may not {action}")
        return AdminCall(action=action, target=target, params=params)


def answer_command(message: Message, outcome: AdminOutcome, *, src: str) -> Message:
    """ADMIN_COMMAND_RESPONSE to the sender (``spec/node-protocol.md §5.7``)."""
    request_id = _request_id(message)
    body: dict[str, object] = msgspec.structs.asdict(outcome.envelope())
    if request_id is not None:
        body["request_id"] = request_id
    action_class = classify_admin_action(outcome.action) if outcome.action else None
    result = derive_action_outcome(action_class, body)
    meta = Meta(
        type=verbs.ADMIN,
        msg=verbs.ADMIN_COMMAND_RESPONSE,
        action=outcome.action,
        action_class=action_class,
        action_result=result.result if result is not None else None,
        result_origin=result.origin if result is not None else None,
    )
    return build_message(
        src=src,
        dst=message.routing.src,
        payload=body,
        meta=meta,
        ttl=max(message.routing.ttl, 1),
        trace_id=message.routing.trace_id,
    )


def _request_id(message: Message) -> object:
    try:
        body = message.json()
    except Invalid:
        return None
    return body.get("request_id") if isinstance(body, dict) else None
