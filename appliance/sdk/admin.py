"""Giving the hive commands: ADMIN_COMMAND and its answer (``spec/node-protocol.md §5.7, §8.1``).

The same actions as over HTTP, through the router and without a door. A command that the hive answered, with
whatever outcome, is a result; one that nobody answered is an error. Waiting disturbs no other message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from appliance.wire import verbs
from appliance.wire.actions import classify_admin_action
from appliance.wire.envelope import Json, Message, Meta, build_message
from appliance.wire.errors import (
    Busy,
    Conflict,
    FluxbeeError,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    Unreachable,
)
from appliance.wire.ids import new_uuid

from .node import Node

__all__ = ["ADMIN_NODE", "AdminResult", "admin_command", "admin_command_ok"]

ADMIN_NODE: Final = "SY.admin@motherbee"

_WAIT_S: Final = 32.0
"""What most actions may take (``spec/admin-api.md §A.6``), and a little for the way; the reference's helper
gives up after 5 s."""
_LONG_WAITS_S: Final[Mapping[str, float]] = {
    "add_hive": 182.0,
    "update": 62.0,
    "sync_hint": 47.0,
    "publish_runtime_package": 182.0,
}
_KINDS: Final[tuple[tuple[type[FluxbeeError], frozenset[str]], ...]] = (
    (Refused, frozenset({"FORBIDDEN", "UNAUTHORIZED", "WAN_NOT_AUTHORIZED"})),
    (Unreachable, frozenset({"TIMEOUT", "WAN_TIMEOUT", "TRANSPORT_ERROR", "UNREACHABLE"})),
    (Busy, frozenset({"BUSY"})),
    (Conflict, frozenset({"NOT_PRIMARY", "NODE_ALREADY_EXISTS", "HIVE_EXISTS", "sync_pending"})),
)
_ENDINGS: Final[tuple[tuple[type[FluxbeeError], tuple[str, ...]], ...]] = (
    (NotFound, ("NOT_FOUND",)),
    (Conflict, ("_CONFLICT", "_MISMATCH", "_EXISTS", "_RUNNING")),
)


class AdminResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a command.

    Attributes:
        status: ``ok``, ``sync_pending`` or ``error``; what is not there any more counts as ``ok``.
        action: as asked.
        payload: what the action returned, in its own shape (``spec/admin-api.md §B``).
        error_code, error_detail: ``None`` when all is well; the detail is a text or an object.
        action_result: ``applied``, ``blocked`` or ``failed``, for acts that have a result.
        result_origin: who blocked it.
        request_id: as sent.
        trace_id: of request and reply.
    """

    status: str
    action: str
    payload: Json
    error_code: str | None
    error_detail: Json
    action_result: str | None
    result_origin: str | None
    request_id: str | None
    trace_id: str

    @property
    def is_ok(self) -> bool:
        """Whether the hive did it."""
        return self.status == "ok"


async def admin_command(
    node: Node,
    action: str,
    *,
    target: str | None = None,
    params: Mapping[str, Json] | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
    admin: str = ADMIN_NODE,
) -> AdminResult:
    """Have the hive carry out ``action`` and wait for the outcome.

    Args:
        node: who asks; its name must be allowed to (``security.admin_nodes``).
        action: such as ``run_node``; ``list_admin_actions`` lists them all.
        target: hive that is meant, or any name of it (``X@hive``); required by most actions. A hive in
            ``params["node_name"]`` wins over it.
        params: what the action takes.
        timeout_s: how long to wait; by default what the hive itself allows the action.
        request_id: comes back in the result; a fresh uuid by default.
        admin: which admin service to ask.

    Raises:
        Invalid: no action, or params that are no object; ``INVALID_RESPONSE``, the answer is not one.
        Unreachable: ``TIMEOUT``, or the router's reason.
        Busy, Unavailable: the request could not be queued.
    """
    if not action.strip():
        raise Invalid("action is empty", field="action")
    if params is not None and not isinstance(params, Mapping):
        raise Invalid("params is not an object", field="params")
    wait_s = _LONG_WAITS_S.get(action, _WAIT_S) if timeout_s is None else timeout_s
    identity = request_id or new_uuid()
    payload: dict[str, object] = {"action": action}
    if target is not None:
        payload["target"] = target
    payload |= {"params": None if params is None else dict(params), "request_id": identity}
    meta = Meta(
        type=verbs.ADMIN,
        msg=verbs.ADMIN_COMMAND,
        target=admin,
        action=action,
        action_class=classify_admin_action(action),
    )
    message = build_message(src=node.uuid, dst=admin, payload=payload, meta=meta)
    reply = await node.request(message, timeout_s=wait_s, reply_verbs=verbs.ADMIN_COMMAND_RESPONSE)
    return _result(reply, action)


async def admin_command_ok(
    node: Node,
    action: str,
    *,
    target: str | None = None,
    params: Mapping[str, Json] | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
    admin: str = ADMIN_NODE,
) -> AdminResult:
    """:func:`admin_command` whose outcome must be ``ok``.

    Raises:
        FluxbeeError: the outcome was another; ``code`` is the hive's ``error_code`` (or the status), and the
            class says what can be done: ``NotFound``, ``Conflict``, ``Invalid``, ``Refused``, ``Busy``,
            ``Unreachable``, else ``Unavailable``. Also what :func:`admin_command` raises.
    """
    result = await admin_command(
        node,
        action,
        target=target,
        params=params,
        timeout_s=timeout_s,
        request_id=request_id,
        admin=admin,
    )
    if not result.is_ok:
        raise _rejection(result)
    return result


def _result(reply: Message, action: str) -> AdminResult:
    body = reply.json()
    status = body.get("status") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(status, str):
        raise Invalid(f"the answer to {action} has no status", code="INVALID_RESPONSE", field="payload")
    known = ("status", "action", "error_code", "error_detail", "request_id")
    # An older hive puts what the action returned beside the status.
    inner = body["payload"] if "payload" in body else {key: body[key] for key in body if key not in known}
    return AdminResult(
        status=status,
        action=_text(body.get("action")) or action,
        payload=inner,
        error_code=_text(body.get("error_code")),
        error_detail=body.get("error_detail"),
        action_result=reply.meta.action_result,
        result_origin=reply.meta.result_origin,
        request_id=_text(body.get("request_id")),
        trace_id=reply.routing.trace_id,
    )


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def _rejection(result: AdminResult) -> FluxbeeError:
    code = result.error_code or result.status
    detail = result.error_detail
    if isinstance(detail, dict) and isinstance(detail.get("message"), str):
        detail = detail["message"]
    shown = detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()
    return _kind(code)(f"{result.action} was answered {code}: {shown}", code=code)


def _kind(code: str) -> type[FluxbeeError]:
    for kind, codes in _KINDS:
        if code in codes:
            return kind
    for kind, endings in _ENDINGS:
        if code.endswith(endings):
            return kind
    return Invalid if code.startswith(("INVALID_", "MISSING_", "UNKNOWN_")) else Unavailable
