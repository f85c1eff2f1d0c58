"""Plans of actions on one node: its life, its files, its log, messages to it. Sans-IO.

A hive in the node's name beats every other target (``spec/admin-api.md §A.8``); changes of one node wait for
each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.wire import verbs
from appliance.wire.admin.requests import NodeMessage
from appliance.wire.errors import Invalid

from .asked import Asked
from .plan import Kind, Plan

if TYPE_CHECKING:
    from .planner import Planner

__all__ = ["control", "logs", "message", "node_change", "node_read", "set_node_config"]


def node_read(planner: Planner, asked: Asked) -> Plan:
    """Read something of one node."""
    name, hive = asked.node()
    return planner.admin(asked, {"node_name": name}, target=hive)


def node_change(planner: Planner, asked: Asked) -> Plan:
    """Change the life of one node; raises ``Invalid`` for legacy fields and without a name."""
    asked.refuse("name", use="node_name")
    asked.refuse("version", use="runtime_version")
    if asked.action == "kill_node" and not asked.params.get("node_name"):
        unit, hive = asked.optional_text("unit"), asked.target()
        if unit is None:
            raise Invalid("missing unit or node_name", field="node_name")
        payload = asked.without("target", "node_name")
        return planner.admin(asked, payload, target=hive, turn=f"unit:{unit}@{hive}")
    name, hive = asked.node()
    payload = {**asked.without("target"), "node_name": name}
    return planner.admin(asked, payload, target=hive, turn=f"node:{name}")


def set_node_config(planner: Planner, asked: Asked) -> Plan:
    """Store a configuration; raises ``Invalid`` when it is no object."""
    name, hive = asked.node()
    config = asked.params.get("config")
    if not isinstance(config, dict):
        raise Invalid("request body must be a JSON object", field="config")
    payload = {
        **asked.without("target"),
        "node_name": name,
        "replace": asked.flag("replace", default=False),
        "notify": asked.flag("notify", default=True),
    }
    return planner.admin(asked, payload, target=hive, turn=f"node:{name}")


def message(planner: Planner, asked: Asked) -> Plan:
    """Send one message; raises ``Invalid`` when a field has the wrong type."""
    asked.shaped(NodeMessage)
    if "msg_type" in asked.params:
        asked.text("msg_type")
    name, hive = asked.node(body=False)
    payload = asked.without("node_name", "target")
    return Plan(
        action=asked.action,
        kind=Kind.MESSAGE,
        dst=name,
        payload=payload,
        target=hive,
        timeout_s=planner.timeout_s(asked.action),
        turn=f"node:{name}",
    )


def control(planner: Planner, asked: Asked) -> Plan:
    """CONFIG_GET or CONFIG_SET; raises ``Invalid`` when path and name disagree about the hive."""
    name, hive = asked.node(body=False)
    wanted = asked.target(body=False)
    if asked.params.get("url_hive") and wanted != hive:
        raise Invalid(f"node_name {name!r} is on another hive than the path ({wanted!r})", field="node_name")
    setting = asked.action == "node_control_config_set"
    return Plan(
        action=asked.action,
        kind=Kind.CONTROL,
        dst=name,
        verb=verbs.CONFIG_SET if setting else verbs.CONFIG_GET,
        payload={**asked.without("url_hive"), "node_name": name},
        target=hive,
        timeout_s=max(planner.timeout_s(asked.action) - 5, 1),
        turn=f"node:{name}" if setting else "",
    )


def logs(planner: Planner, asked: Asked) -> Plan:
    """The end of a node's log."""
    name, hive = asked.node()
    tail = asked.number("tail")
    return Plan(
        action=asked.action,
        kind=Kind.LOGS,
        dst=name,
        payload={"tail": min(200 if tail is None else tail, 5000)},
        target=hive,
    )
