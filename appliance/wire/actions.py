"""Action classes and results: what kind of act a message asks for, and how the act ended.

The tables are those of ``spec/node-protocol.md §2.5``; a verb that they do not name has no class. The class
is stamped on messages by senders and routers and read by policy; the result is stamped on replies.
Sans-IO, no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from . import verbs

__all__ = [
    "ORIGIN_NODE",
    "ActionClass",
    "ActionOutcome",
    "ActionResult",
    "action_class_requires_result",
    "classify_admin_action",
    "classify_routed_message",
    "classify_system_message",
    "derive_action_outcome",
]


class ActionClass(StrEnum):
    """Values of ``meta.action_class``; any other value makes the reference drop the whole message."""

    SEND_MESSAGE = "send_message"
    READ = "read"
    WRITE = "write"
    SYSTEM_CONFIG = "system_config"
    TOPOLOGY_CHANGE = "topology_change"
    EXTERNAL_ACTION = "external_action"
    IDENTITY_CHANGE = "identity_change"
    WORKFLOW_STEP = "workflow_step"
    NODE_LIFECYCLE = "node_lifecycle"


class ActionResult(StrEnum):
    """Values of ``meta.action_result``."""

    BLOCKED = "blocked"
    APPLIED = "applied"
    FAILED = "failed"


class ActionOutcome(msgspec.Struct, frozen=True):
    """What a reply says about its act: ``meta.action_result`` and, when known, ``meta.result_origin``."""

    result: ActionResult
    origin: str | None = None


ORIGIN_NODE = "node"
"""``meta.result_origin`` when the node itself blocked the act."""


def _table(*rows: tuple[ActionClass, str]) -> dict[str, ActionClass]:
    def pairs() -> Iterable[tuple[str, ActionClass]]:
        for action_class, words in rows:
            for word in words.split():
                yield word, action_class

    return dict(pairs())


_ADMIN = _table(
    (
        ActionClass.READ,
        "list_hives get_hive list_nodes get_node_status get_node_config get_node_state get_versions "
        "list_versions inventory opa_get_status opa_get_policy list_routes list_vpns list_runtimes "
        "get_runtime get_runtimes node_control_config_get",
    ),
    (ActionClass.WRITE, "set_node_config node_control_config_set"),
    (
        ActionClass.SYSTEM_CONFIG,
        "add_route delete_route add_vpn delete_vpn opa_apply opa_compile_apply opa_rollback "
        "update_policy_matrix clear_override sync_hint update set_storage remove_runtime_version",
    ),
    (ActionClass.TOPOLOGY_CHANGE, "add_hive remove_hive"),
    (ActionClass.NODE_LIFECYCLE, "run_node kill_node remove_node_instance"),
    (
        ActionClass.IDENTITY_CHANGE,
        "create_tenant update_tenant approve_tenant list_ilks get_ilk delete_ilk list_vocabulary "
        "add_vocabulary deprecate_vocabulary",
    ),
    (ActionClass.SEND_MESSAGE, "send_node_message"),
)

_SYSTEM = _table(
    (
        ActionClass.READ,
        "CONFIG_GET STATUS PING NODE_CONFIG_GET NODE_STATE_GET NODE_STATUS_GET GET_VERSIONS GET_RUNTIMES "
        "LIST_NODES GET_RUNTIME INVENTORY_REQUEST ILK_LIST ILK_GET",
    ),
    (ActionClass.WRITE, "CONFIG_SET NODE_CONFIG_SET"),
    (
        ActionClass.SYSTEM_CONFIG,
        "RUNTIME_UPDATE SYSTEM_UPDATE SYSTEM_SYNC_HINT OPA_APPLY OPA_COMPILE_APPLY OPA_ROLLBACK",
    ),
    (ActionClass.TOPOLOGY_CHANGE, "ADD_HIVE_FINALIZE REMOVE_HIVE_CLEANUP"),
    (ActionClass.NODE_LIFECYCLE, "SPAWN_NODE KILL_NODE REMOVE_NODE_INSTANCE"),
)

_WITHOUT_RESULT = frozenset({ActionClass.SEND_MESSAGE, ActionClass.READ})


def classify_routed_message(message_type: str) -> ActionClass | None:
    """The class a router gives to a message without one, by ``meta.type``.

    ``send_message`` for everything but ``system``, ``admin`` and ``query_response``, which get none.
    """
    return None if message_type in verbs.UNRECORDED_TYPES else ActionClass.SEND_MESSAGE


def classify_admin_action(action: str) -> ActionClass | None:
    """The class of an admin action (lower-case word such as ``run_node``); ``None`` when it has none."""
    return _ADMIN.get(action)


def classify_system_message(verb: str) -> ActionClass | None:
    """The class of a system verb (upper-case word such as ``CONFIG_SET``); ``None`` when it has none."""
    return _SYSTEM.get(verb)


def action_class_requires_result(action_class: ActionClass | None) -> bool:
    """Whether a reply to an act of this class carries ``meta.action_result``."""
    return action_class is not None and action_class not in _WITHOUT_RESULT


def derive_action_outcome(
    action_class: ActionClass | None, reply_payload: Mapping[str, object]
) -> ActionOutcome | None:
    """What a reply's payload says about the act.

    Args:
        action_class: class of the request.
        reply_payload: the reply's payload object; ``status`` and ``error_code`` are read.

    Returns:
        ``None`` for classes without a result, and for a payload that has no ``status`` and is not refused.
    """
    if not action_class_requires_result(action_class):
        return None
    status = reply_payload.get("status")
    word = status.lower() if isinstance(status, str) else None
    if word == "ok":
        return ActionOutcome(ActionResult.APPLIED)
    if word == "blocked" or reply_payload.get("error_code") == "FORBIDDEN":
        return ActionOutcome(ActionResult.BLOCKED, ORIGIN_NODE)
    return None if word is None else ActionOutcome(ActionResult.FAILED)
