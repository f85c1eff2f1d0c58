"""The rows of the action catalogue, in registry order (``spec/admin-api.md §C.2``).

Flags: ``T`` needs a target, ``R`` reads only, ``C`` wants a confirmation, ``L`` accepts the legacy
``params.hive_id``. Fields are ``name`` or ``name:type``.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["ROWS", "Row"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One action, as short as it can be written down."""

    action: str
    handler: str
    canonical: str | None
    flags: str
    patterns: tuple[str, ...]
    summary: str
    required: str = ""
    optional: str = ""
    example: dict[str, object] | None = None
    body_required: bool = False
    notes: tuple[str, ...] = ()


_HIVE: Final = "/hives/{hive}"
_NODE: Final = "/hives/{hive}/nodes/{node_name}"
_CONTROL: Final = "request_id contract_version:u32 requested_by src_ilk scope context:object ttl:u16"
_INNER: Final = frozenset({"query", "command", "opa_query", "wf_rules_query", "timer_rpc"})


def _row(
    action: str,
    handler: str,
    flags: str,
    path: str,
    summary: str,
    *,
    required: str = "",
    optional: str = "",
    example: dict[str, object] | None = None,
    canonical: str | None = None,
    more: tuple[str, ...] = (),
    body_required: bool = False,
    notes: tuple[str, ...] = (),
) -> Row:
    inner = (canonical or action) if handler in _INNER else None
    patterns = tuple(pattern.replace("…", _HIVE) for pattern in (path, *more))
    return Row(
        action=action,
        handler=handler,
        canonical=inner,
        flags=flags,
        patterns=patterns,
        summary=summary,
        required=required,
        optional=optional,
        example=example,
        body_required=body_required,
        notes=notes,
    )


_REGO: Final[dict[str, object]] = {"rego": 'package router\ndefault target = ""\n'}
_FLOW: Final[dict[str, object]] = {"workflow_name": "pilot", "definition": {"states": {}}}
_NAMED: Final[dict[str, object]] = {"workflow_name": "pilot"}
_ILLUSTRATED_HASH: Final = "0" * 64

_HIVES: Final = (
    _row("hive_status", "query", "R", "GET /hive/status", "Id, process and uptime of the local hive."),
    _row("list_hives", "query", "R", "GET /hives", "List the registered hives and the local one."),
    _row("list_admin_actions", "query", "R", "GET /admin/actions", "List all admin actions."),
    _row(
        "get_admin_action_help",
        "command",
        "R",
        "GET /admin/actions/{action}",
        "Describe one admin action.",
    ),
    _row(
        "publish_runtime_package",
        "command",
        "C",
        "POST /admin/runtime-packages/publish",
        "Install a runtime package and roll it out.",
        required="source:object",
        optional="set_current:bool sync_to:string[] update_to:string[]",
        example={
            "source": {"kind": "bundle_upload", "blob_path": "packages/incoming/ai.greeter-0.3.0.zip"},
            "set_current": True,
        },
    ),
    _row(
        "list_versions", "query", "TR", "GET /versions", "Versions of core, runtimes and vendor, all hives."
    ),
    _row("get_versions", "query", "TR", "GET …/versions", "Versions of core, runtimes and vendor of a hive."),
    _row("list_runtimes", "query", "TR", "GET …/runtimes", "List the runtimes of a hive."),
    _row(
        "get_runtime", "query", "TR", "GET …/runtimes/{runtime}", "One runtime: versions, readiness, usage."
    ),
    _row(
        "remove_runtime_version",
        "command",
        "TC",
        "DELETE …/runtimes/{runtime}/versions/{version}",
        "Delete one version of a runtime.",
        optional="test_hold_ms:u64",
    ),
    _row("list_routes", "query", "TR", "GET …/routes", "List the static routes."),
    _row("list_vpns", "query", "TR", "GET …/vpns", "List the VPN rules."),
    _row("list_nodes", "query", "TR", "GET …/nodes", "List connected and managed nodes."),
    _row("get_storage", "query", "R", "GET /config/storage", "The storage root."),
    _row(
        "add_hive",
        "command",
        "L",
        "POST /hives",
        "Register a worker hive and bring it in.",
        required="hive_id address",
        optional="harden_ssh:bool restrict_ssh:bool require_dist_sync:bool dist_sync_probe_timeout_secs:u64",
        example={"hive_id": "edge-07", "address": "10.20.0.7"},
    ),
    _row("get_hive", "command", "RL", "GET /hives/{hive}", "One hive's record."),
    _row("remove_hive", "command", "CL", "DELETE /hives/{hive}", "Remove a worker hive."),
)

_ROUTES: Final = (
    _row(
        "add_route",
        "command",
        "T",
        "POST …/routes",
        "Add a static route.",
        required="prefix action",
        optional="match_kind next_hop_hive metric:u32 priority:u16",
        example={"prefix": "AI.sales.", "action": "FORWARD", "next_hop_hive": "edge-07"},
    ),
    _row("delete_route", "command", "TC", "DELETE …/routes/{prefix}", "Delete a static route."),
    _row(
        "add_vpn",
        "command",
        "T",
        "POST …/vpns",
        "Add a VPN rule.",
        required="pattern vpn_id:u32",
        optional="match_kind priority:u16",
        example={"pattern": "IO.*", "vpn_id": 12},
    ),
    _row("delete_vpn", "command", "TC", "DELETE …/vpns/{pattern}", "Delete a VPN rule."),
)

_NODES: Final = (
    _row(
        "run_node",
        "command",
        "T",
        "POST …/nodes",
        "Create and start a managed node.",
        required="node_name",
        optional="runtime runtime_version tenant_id unit config:object",
        example={"node_name": "AI.greeter", "runtime": "ai.greeter", "runtime_version": "current"},
    ),
    _row(
        "start_node",
        "command",
        "T",
        f"POST {_NODE}/start",
        "Start a stopped managed node.",
        example={"node_name": "AI.greeter@motherbee"},
        body_required=True,
    ),
    _row(
        "restart_node",
        "command",
        "T",
        f"POST {_NODE}/restart",
        "Restart a managed node.",
        example={"node_name": "AI.greeter@motherbee"},
        body_required=True,
    ),
    _row(
        "kill_node",
        "command",
        "TC",
        f"DELETE {_NODE}",
        "Stop a managed node process.",
        optional="force:bool purge_instance:bool",
        example={"force": False, "purge_instance": True},
    ),
    _row("remove_node_instance", "command", "TC", f"DELETE {_NODE}/instance", "Delete a stopped instance."),
    _row("get_node_config", "command", "TR", f"GET {_NODE}/config", "A node's stored configuration."),
    _row(
        "set_node_config",
        "command",
        "TC",
        f"PUT {_NODE}/config",
        "Change a node's stored configuration.",
        required="config:object",
        optional="replace:bool notify:bool",
        example={"temperature": 0.2},
        notes=(
            "Over HTTP the body is the configuration itself; replace and notify are query parameters.",
            "Over ADMIN_COMMAND it is params.config.",
        ),
    ),
    _row("get_node_state", "command", "TR", f"GET {_NODE}/state", "A node's own state file."),
    _row("get_node_status", "command", "TR", f"GET {_NODE}/status", "Life cycle, health and process."),
    _row(
        "send_node_message",
        "command",
        "T",
        f"POST {_NODE}/messages",
        "Send a message to a node and do not wait.",
        required="msg_type payload:object",
        optional="msg ttl:u16 scope priority src_ilk context:object",
        example={"msg_type": "user", "payload": {"type": "text", "content": "hello"}},
    ),
    _row(
        "node_control_config_get",
        "command",
        "TR",
        f"POST {_NODE}/control/config-get",
        "Ask a node for its live configuration.",
        optional=_CONTROL,
        example={"requested_by": "operator"},
    ),
    _row(
        "node_control_config_set",
        "command",
        "TC",
        f"POST {_NODE}/control/config-set",
        "Give a node a live configuration.",
        required="schema_version:u32 config_version:u64 apply_mode config:object",
        optional=_CONTROL,
        example={"schema_version": 1, "config_version": 7, "apply_mode": "replace", "config": {}},
    ),
    _row("list_ilks", "query", "TR", "GET …/identity/ilks", "List the identities."),
    _row("get_ilk", "command", "TR", "GET …/identity/ilks/{ilk_id}", "One identity with aliases and tenant."),
)

_ROLLOUT: Final = (
    _row("list_deployments", "command", "TR", "GET /deployments", "Deployment history, all hives."),
    _row("get_deployments", "command", "TR", "GET …/deployments", "Deployment history of a hive."),
    _row("list_drift_alerts", "command", "TR", "GET /drift-alerts", "Drift alerts, all hives."),
    _row("get_drift_alerts", "command", "TR", "GET …/drift-alerts", "Drift alerts of a hive."),
    _row(
        "set_storage",
        "command",
        "C",
        "PUT /config/storage",
        "Change the storage root.",
        required="path",
        example={"path": "/var/lib/fluxbee"},
    ),
    _row(
        "update",
        "update",
        "TC",
        "POST …/update",
        "Converge a hive on a manifest.",
        required="manifest_hash",
        optional="category:enum(runtime|core|vendor) manifest_version:u64 runtime runtime_version",
        example={"category": "runtime", "manifest_version": 0, "manifest_hash": _ILLUSTRATED_HASH},
    ),
    _row(
        "sync_hint",
        "sync_hint",
        "TC",
        "POST …/sync-hint",
        "Ask a hive to synchronize now.",
        optional="channel:enum(blob|dist) folder_id wait_for_idle:bool timeout_ms:u64",
        example={"channel": "dist", "wait_for_idle": True, "timeout_ms": 30000},
    ),
    _row(
        "inventory",
        "inventory",
        "R",
        "GET /inventory",
        "Hives and nodes as the router sees them.",
        more=(
            "GET /inventory/summary",
            "GET /inventory/{hive}",
            "GET …/inventory/summary",
            "GET …/inventory/hive",
        ),
    ),
)

_OPA: Final = (
    _row(
        "opa_compile_apply",
        "opa_http",
        "C",
        "POST …/opa/policy",
        "Compile a policy and apply it.",
        required="rego",
        optional="entrypoint version:u64",
        example=_REGO,
    ),
    _row(
        "opa_compile",
        "opa_http",
        "C",
        "POST …/opa/policy/compile",
        "Compile a policy and stage it.",
        required="rego",
        optional="entrypoint version:u64",
        example=_REGO,
    ),
    _row(
        "opa_apply",
        "opa_http",
        "C",
        "POST …/opa/policy/apply",
        "Apply the staged policy.",
        required="version:u64",
        optional="hive",
        example={"version": 14},
    ),
    _row(
        "opa_rollback",
        "opa_http",
        "C",
        "POST …/opa/policy/rollback",
        "Go back to the policy before.",
        optional="hive",
        example={},
    ),
    _row(
        "opa_check",
        "opa_http",
        "R",
        "POST …/opa/policy/check",
        "Compile a policy and keep nothing.",
        required="rego",
        optional="entrypoint version:u64",
        example=_REGO,
    ),
    _row(
        "opa_get_policy",
        "opa_query",
        "R",
        "GET …/opa/policy",
        "The policy in force.",
        canonical="get_policy",
    ),
    _row(
        "opa_get_status",
        "opa_query",
        "R",
        "GET …/opa/status",
        "State of the policy service.",
        canonical="get_status",
    ),
)

_WORKFLOWS: Final = (
    _row(
        "wf_rules_compile_apply",
        "wf_rules_http",
        "",
        "POST …/wf-rules",
        "Compile a workflow and apply it.",
        required="workflow_name definition:object",
        optional="auto_spawn:bool tenant_id version:u64 hive",
        example=_FLOW,
    ),
    _row(
        "wf_rules_compile",
        "wf_rules_http",
        "",
        "POST …/wf-rules/compile",
        "Compile a workflow and stage it.",
        required="workflow_name definition:object",
        optional="auto_spawn version hive",
        example=_FLOW,
    ),
    _row(
        "wf_rules_apply",
        "wf_rules_http",
        "",
        "POST …/wf-rules/apply",
        "Apply the staged workflow.",
        required="workflow_name",
        optional="auto_spawn tenant_id version hive",
        example=_NAMED,
    ),
    _row(
        "wf_rules_rollback",
        "wf_rules_http",
        "",
        "POST …/wf-rules/rollback",
        "Go back to the workflow before.",
        required="workflow_name",
        optional="auto_spawn tenant_id version hive",
        example=_NAMED,
    ),
    _row(
        "wf_rules_delete",
        "wf_rules_http",
        "",
        "POST …/wf-rules/delete",
        "Delete a workflow.",
        required="workflow_name",
        optional="force:bool hive",
        example=_NAMED,
    ),
    _row(
        "wf_rules_get_workflow",
        "wf_rules_query",
        "R",
        "GET …/wf-rules",
        "One workflow's definition.",
        required="workflow_name",
        optional="hive",
        example=_NAMED,
        canonical="get_workflow",
    ),
    _row(
        "wf_rules_get_status",
        "wf_rules_query",
        "R",
        "GET …/wf-rules/status",
        "State of one workflow.",
        required="workflow_name",
        optional="hive",
        example=_NAMED,
        canonical="get_status",
    ),
    _row(
        "wf_rules_list_workflows",
        "wf_rules_query",
        "R",
        "GET …/wf-rules",
        "List the workflows.",
        optional="hive",
        canonical="list_workflows",
    ),
)

_TIMERS: Final = (
    _row(
        "timer_help",
        "timer_rpc",
        "TR",
        "GET …/timer/help",
        "What the timer service can do.",
        canonical="TIMER_HELP",
    ),
    _row(
        "timer_get",
        "timer_rpc",
        "TR",
        "GET …/timer/timers/{timer_uuid}",
        "One timer.",
        required="timer_uuid",
        canonical="TIMER_GET",
    ),
    _row(
        "timer_list",
        "timer_rpc",
        "TR",
        "GET …/timer/timers",
        "List timers.",
        optional="owner_l2_name status_filter limit:u32",
        example={"status_filter": "pending", "limit": 100},
        canonical="TIMER_LIST",
    ),
    _row("timer_now", "timer_rpc", "TR", "GET …/timer/now", "The time now.", canonical="TIMER_NOW"),
    _row(
        "timer_now_in",
        "timer_rpc",
        "TR",
        "POST …/timer/now-in",
        "The time now in a zone.",
        required="tz",
        example={"tz": "Europe/Berlin"},
        canonical="TIMER_NOW_IN",
    ),
    _row(
        "timer_convert",
        "timer_rpc",
        "TR",
        "POST …/timer/convert",
        "An instant in a zone.",
        required="instant_utc_ms:i64 to_tz",
        example={"instant_utc_ms": 1790000000000, "to_tz": "Europe/Berlin"},
        canonical="TIMER_CONVERT",
    ),
    _row(
        "timer_parse",
        "timer_rpc",
        "TR",
        "POST …/timer/parse",
        "Read a local time.",
        required="input layout tz",
        example={"input": "2026-04-02 10:00:00", "layout": "2006-01-02 15:04:05", "tz": "Europe/Berlin"},
        canonical="TIMER_PARSE",
    ),
    _row(
        "timer_format",
        "timer_rpc",
        "TR",
        "POST …/timer/format",
        "Write an instant as local time.",
        required="instant_utc_ms:i64 layout tz",
        example={"instant_utc_ms": 1790000000000, "layout": "2006-01-02 15:04:05", "tz": "Europe/Berlin"},
        canonical="TIMER_FORMAT",
    ),
)

ROWS: Final = (*_HIVES, *_ROUTES, *_NODES, *_ROLLOUT, *_OPA, *_WORKFLOWS, *_TIMERS)
"""All 66 rows."""
