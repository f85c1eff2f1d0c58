"""Which message means which action, who may ask for it, and what it locks.

Sources: ``spec/admin-api.md §A.8, §C.3``, ``spec/node-protocol.md §5.5``. The same action comes as a system
verb or in the admin form (``type: admin``, no ``msg``, ``action``).
"""

from __future__ import annotations

from typing import Final

from appliance.supervise.manifest import is_token
from appliance.supervise.names import parse_node_name
from appliance.wire import verbs
from appliance.wire.errors import Invalid

__all__ = [
    "ACTION_OF",
    "MOTHER_ONLY",
    "NODE_CHANGES",
    "SYSTEM_FORM",
    "is_guarded",
    "resource_of",
    "runtime_resource",
]

ACTION_OF: Final = {
    verbs.SPAWN_NODE: "run_node",
    verbs.START_NODE: "start_node",
    verbs.RESTART_NODE: "restart_node",
    verbs.KILL_NODE: "kill_node",
    verbs.REMOVE_NODE_INSTANCE: "remove_node_instance",
    verbs.NODE_CONFIG_GET: "get_node_config",
    verbs.NODE_CONFIG_SET: "set_node_config",
    verbs.NODE_STATE_GET: "get_node_state",
    verbs.NODE_STATUS_GET: "get_node_status",
    verbs.LIST_NODES: "list_nodes",
    verbs.GET_VERSIONS: "get_versions",
    verbs.GET_RUNTIMES: "list_runtimes",
    verbs.GET_RUNTIME: "get_runtime",
    verbs.INVENTORY_REQUEST: "inventory",
    verbs.SYSTEM_UPDATE: "update",
    verbs.SYSTEM_SYNC_HINT: "sync_hint",
    verbs.ADD_HIVE_FINALIZE: "add_hive_finalize",
    verbs.REMOVE_HIVE_CLEANUP: "remove_hive_cleanup",
}
"""Action of each system verb."""

SYSTEM_FORM: Final = {action: verb for verb, action in ACTION_OF.items()}
"""System verb of each action that has one: how it is passed on to another hive."""

NODE_CHANGES: Final = frozenset(
    {"run_node", "start_node", "restart_node", "kill_node", "remove_node_instance", "set_node_config"}
)

MOTHER_ONLY: Final = frozenset(
    {"add_hive", "remove_hive", "publish_runtime_package", "remove_runtime_version"}
)
"""A worker sends these back with ``NOT_PRIMARY`` (``design.md §4``)."""

_OPEN: Final = frozenset({"list_nodes", "list_runtimes", "get_runtime", "hive_status"})


def is_guarded(action: str, request: dict[str, object]) -> bool:
    """Whether only the allow-list may ask.

    Configuration and state may hold secrets, so reading them is guarded too. A sync hint for blobs is open to
    local nodes (``design.md §5``, Sync hints and blobs).
    """
    if action == "sync_hint":
        return request.get("channel", "blob") != "blob"
    return action not in _OPEN


def resource_of(action: str, request: dict[str, object], hive: str) -> str | None:
    """The queue in which a change waits; ``None`` for reads and for what locks by itself."""
    if action in NODE_CHANGES:
        target = request.get("target")
        try:
            name = parse_node_name(request.get("node_name"), target if isinstance(target, str) else hive)
        except Invalid:
            unit = request.get("unit")
            return f"unit:{unit}" if isinstance(unit, str) else None
        return f"node:{name.full}"
    if action == "remove_runtime_version" and is_token(request.get("runtime")):
        return runtime_resource(str(request["runtime"]))
    if action in ("add_hive", "remove_hive"):
        return f"hive:{request.get('hive_id')}"
    if action in ("update", "set_storage", "add_hive_finalize", "remove_hive_cleanup"):
        return f"{action}:{request.get('category', '')}"
    return None


def runtime_resource(runtime: str) -> str:
    """The queue of one runtime; names that differ in case are one runtime (``spec/admin-api.md §G-18``)."""
    return f"runtime:{runtime.casefold()}"
