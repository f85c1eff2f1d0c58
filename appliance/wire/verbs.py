"""The words of the wire: message types, verbs, scopes and router-made reasons, each in one place.

Source: ``spec/node-protocol.md §2.3, §3.7, §5``. A word that several rooms write or compare belongs here.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADD_HIVE_FINALIZE",
    "ADMIN",
    "ADMIN_COMMAND",
    "ADMIN_COMMAND_RESPONSE",
    "ANNOUNCE",
    "BROADCAST",
    "COMMAND",
    "COMMAND_RESPONSE",
    "CONFIG_CHANGED",
    "CONFIG_GET",
    "CONFIG_RESPONSE",
    "CONFIG_SET",
    "DEFAULT_TTL",
    "ECHO",
    "ECHO_REPLY",
    "GATEWAY_UNAVAILABLE",
    "GET_RUNTIME",
    "GET_RUNTIMES",
    "GET_VERSIONS",
    "HEALTH_GET",
    "HELLO",
    "IDENTITY_METRICS",
    "ILK_ADD_CHANNEL",
    "ILK_GET",
    "ILK_LIST",
    "ILK_PROVISION",
    "ILK_REGISTER",
    "ILK_UPDATE",
    "INVENTORY_REQUEST",
    "INVENTORY_RESPONSE",
    "KILL_NODE",
    "LIST_NODES",
    "NODE_CONFIG_GET",
    "NODE_CONFIG_SET",
    "NODE_CONGESTED",
    "NODE_CONTROL_TARGET",
    "NODE_NOT_FOUND",
    "NODE_STATE_GET",
    "NODE_STATUS_GET",
    "NODE_STATUS_GET_RESPONSE",
    "OPA_ERROR",
    "OPA_NO_TARGET",
    "OPA_RELOAD",
    "PEER_UNAVAILABLE",
    "PING",
    "PONG",
    "QUERY",
    "QUERY_RESPONSE",
    "REMOVE_HIVE_CLEANUP",
    "REMOVE_NODE_INSTANCE",
    "RESTART_NODE",
    "ROUTER_EXPLAIN",
    "ROUTER_NODES",
    "ROUTER_QUEUES",
    "ROUTER_STATISTICS",
    "ROUTER_STATUS",
    "ROUTER_TAP",
    "ROUTER_TAP_EVENT",
    "RUNTIME_UPDATE",
    "SCOPE_GLOBAL",
    "SCOPE_VPN",
    "SPAWN_NODE",
    "START_NODE",
    "STATUS",
    "STORAGE_METRICS",
    "SYSTEM",
    "SYSTEM_SYNC_HINT",
    "SYSTEM_UPDATE",
    "TIMER_PURGE_OWNER",
    "TIMER_RESPONSE",
    "TIME_SYNC",
    "TNT_APPROVE",
    "TNT_CREATE",
    "TTL_EXCEEDED",
    "UNREACHABLE",
    "UNRECORDED_TYPES",
    "USER",
    "VPN_BLOCKED",
    "WAN_UNAVAILABLE",
    "WITHDRAW",
    "WORLD_DELETE",
    "WORLD_GET",
    "WORLD_HISTORY",
    "WORLD_LIST",
    "WORLD_PUBLISH",
    "WORLD_STATISTICS",
    "response_verb",
]

# meta.type
USER: Final = "user"
SYSTEM: Final = "system"
ADMIN: Final = "admin"
COMMAND: Final = "command"
COMMAND_RESPONSE: Final = "command_response"
QUERY: Final = "query"
QUERY_RESPONSE: Final = "query_response"

UNRECORDED_TYPES: Final = frozenset({SYSTEM, ADMIN, QUERY_RESPONSE})
"""Types that are neither recorded as turns nor enriched (``node-protocol §2.4``)."""

# routing.dst and meta.scope
BROADCAST: Final = "broadcast"
SCOPE_GLOBAL: Final = "global"
SCOPE_VPN: Final = "vpn"
DEFAULT_TTL: Final = 16

# link
HELLO: Final = "HELLO"
ANNOUNCE: Final = "ANNOUNCE"
WITHDRAW: Final = "WITHDRAW"
ECHO: Final = "ECHO"
ECHO_REPLY: Final = "ECHO_REPLY"
TIME_SYNC: Final = "TIME_SYNC"

# router-made errors and their reasons
UNREACHABLE: Final = "UNREACHABLE"
TTL_EXCEEDED: Final = "TTL_EXCEEDED"
NODE_NOT_FOUND: Final = "NODE_NOT_FOUND"
VPN_BLOCKED: Final = "VPN_BLOCKED"
OPA_ERROR: Final = "OPA_ERROR"
OPA_NO_TARGET: Final = "OPA_NO_TARGET"
PEER_UNAVAILABLE: Final = "PEER_UNAVAILABLE"
GATEWAY_UNAVAILABLE: Final = "GATEWAY_UNAVAILABLE"
WAN_UNAVAILABLE: Final = "WAN_UNAVAILABLE"
NODE_CONGESTED: Final = "NODE_CONGESTED"

# configuration
CONFIG_CHANGED: Final = "CONFIG_CHANGED"
CONFIG_GET: Final = "CONFIG_GET"
CONFIG_SET: Final = "CONFIG_SET"
CONFIG_RESPONSE: Final = "CONFIG_RESPONSE"
NODE_CONTROL_TARGET: Final = "node_config_control"
OPA_RELOAD: Final = "OPA_RELOAD"
NODE_STATUS_GET: Final = "NODE_STATUS_GET"
NODE_STATUS_GET_RESPONSE: Final = "NODE_STATUS_GET_RESPONSE"
ADMIN_COMMAND: Final = "ADMIN_COMMAND"
ADMIN_COMMAND_RESPONSE: Final = "ADMIN_COMMAND_RESPONSE"

# what the router answers about itself, to SY.* and to the names that may (design.md §4)
ROUTER_STATUS: Final = "ROUTER_STATUS"
ROUTER_NODES: Final = "ROUTER_NODES"
ROUTER_QUEUES: Final = "ROUTER_QUEUES"
ROUTER_STATISTICS: Final = "ROUTER_STATISTICS"
ROUTER_EXPLAIN: Final = "ROUTER_EXPLAIN"
ROUTER_TAP: Final = "ROUTER_TAP"
ROUTER_TAP_EVENT: Final = "ROUTER_TAP_EVENT"

# how the hive is, answered by SY.health
HEALTH_GET: Final = "HEALTH_GET"

# who is who: SY.identity (spec/identity-and-knowledge.md §2)
ILK_PROVISION: Final = "ILK_PROVISION"
ILK_REGISTER: Final = "ILK_REGISTER"
ILK_ADD_CHANNEL: Final = "ILK_ADD_CHANNEL"
ILK_UPDATE: Final = "ILK_UPDATE"
ILK_LIST: Final = "ILK_LIST"
ILK_GET: Final = "ILK_GET"
TNT_CREATE: Final = "TNT_CREATE"
TNT_APPROVE: Final = "TNT_APPROVE"
IDENTITY_METRICS: Final = "IDENTITY_METRICS"

# asked of several services (spec/identity-and-knowledge.md §2.9)
PING: Final = "PING"
PONG: Final = "PONG"
STATUS: Final = "STATUS"

# turns: SY.storage (spec/identity-and-knowledge.md §7.4)
STORAGE_METRICS: Final = "STORAGE_METRICS"

# replication of blobs and packages (spec/node-protocol.md §5.5)
SYSTEM_SYNC_HINT: Final = "SYSTEM_SYNC_HINT"

# nodes, runtimes and hives: SY.orchestrator (node-protocol §5.5); timers: SY.timer (§5.8)
SPAWN_NODE: Final = "SPAWN_NODE"
START_NODE: Final = "START_NODE"
RESTART_NODE: Final = "RESTART_NODE"
KILL_NODE: Final = "KILL_NODE"
REMOVE_NODE_INSTANCE: Final = "REMOVE_NODE_INSTANCE"
NODE_CONFIG_GET: Final = "NODE_CONFIG_GET"
NODE_CONFIG_SET: Final = "NODE_CONFIG_SET"
NODE_STATE_GET: Final = "NODE_STATE_GET"
LIST_NODES: Final = "LIST_NODES"
GET_VERSIONS: Final = "GET_VERSIONS"
GET_RUNTIMES: Final = "GET_RUNTIMES"
GET_RUNTIME: Final = "GET_RUNTIME"
SYSTEM_UPDATE: Final = "SYSTEM_UPDATE"
RUNTIME_UPDATE: Final = "RUNTIME_UPDATE"
ADD_HIVE_FINALIZE: Final = "ADD_HIVE_FINALIZE"
REMOVE_HIVE_CLEANUP: Final = "REMOVE_HIVE_CLEANUP"
INVENTORY_REQUEST: Final = "INVENTORY_REQUEST"
INVENTORY_RESPONSE: Final = "INVENTORY_RESPONSE"
TIMER_PURGE_OWNER: Final = "TIMER_PURGE_OWNER"
TIMER_RESPONSE: Final = "TIMER_RESPONSE"

# world state by message: SY.world (design.md §5, §7)
WORLD_PUBLISH: Final = "WORLD_PUBLISH"
WORLD_GET: Final = "WORLD_GET"
WORLD_LIST: Final = "WORLD_LIST"
WORLD_HISTORY: Final = "WORLD_HISTORY"
WORLD_DELETE: Final = "WORLD_DELETE"
WORLD_STATISTICS: Final = "WORLD_STATISTICS"


def response_verb(verb: str) -> str:
    """The verb of the answer to a generic system request (``node-protocol §5``)."""
    return f"{verb}_RESPONSE"
