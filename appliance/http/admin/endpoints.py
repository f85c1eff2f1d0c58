"""The table of endpoints: method and path in, action and where its parameters come from out.

One table feeds the routing and the API document. Order matters only where the specification says so; there is
no 405: an unknown method on a known path is an unknown path (``spec/admin-api.md §A.2``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from appliance.wire.admin import requests as bodies
from appliance.wire.admin.outcome import Form

__all__ = ["ENDPOINTS", "Endpoint", "Match", "find"]

Body = Literal["none", "open", "strict", "config"]
"""``none``: not looked at. ``open``: a JSON object, empty means ``{}``. ``strict``: an object that must be
there. ``config``: an object that is one parameter called ``config``, and must be there."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method and path.

    Attributes:
        method, path: the path is a template; ``{hive}`` is never decoded.
        action: what it executes.
        instead: a query field, and the action that is executed when it is given.
        body: how the body is read.
        shape: what the body looks like, for the API document.
        query: query fields that become parameters: name to parameter.
        fixed: parameters that the path stands for.
        path_wins: a body cannot replace a path's parameter.
        summary: for the API document.
        form: how the answer looks.
    """

    method: str
    path: str
    action: str
    body: Body = "none"
    shape: object = None
    query: Mapping[str, str] = {}
    fixed: Mapping[str, object] = {}
    path_wins: bool = False
    instead: tuple[str, str] | None = None
    summary: str = ""
    form: Form = "envelope"


def _get(path: str, action: str, **more: object) -> Endpoint:
    return msgspec.convert({"method": "GET", "path": path, "action": action, **more}, Endpoint)


def _post(path: str, action: str, shape: object = None, **more: object) -> Endpoint:
    given = {"body": "open", **more}
    made = msgspec.convert({"method": "POST", "path": path, "action": action, **given}, Endpoint)
    return msgspec.structs.replace(made, shape=shape)


def _with(endpoint: Endpoint, **more: object) -> Endpoint:
    return msgspec.structs.replace(endpoint, **more)


_H: Final = "/hives/{hive}"
_N: Final = "/hives/{hive}/nodes/{node_name}"
_HISTORY: Final = {"category": "category", "limit": "limit"}
_ALERTS: Final = {**_HISTORY, "severity": "severity", "kind": "kind"}
_HIVE_QUERY: Final = {"hive": "target"}
_TYPE: Final = {"type": "filter_type"}

_GLOBAL: Final = (
    _get("/admin/actions", "list_admin_actions"),
    _get("/admin/actions/{action}", "get_admin_action_help"),
    _post("/admin/runtime-packages/publish", "publish_runtime_package", bodies.PublishPackage, body="strict"),
    _get("/hive/status", "hive_status"),
    _get("/hive/overview", "hive_overview", summary="Planes, health, facts and counts at one look."),
    _get("/versions", "list_versions", query=_HIVE_QUERY, instead=("hive", "get_versions")),
    _get(
        "/deployments",
        "list_deployments",
        query={**_HISTORY, **_HIVE_QUERY},
        instead=("hive", "get_deployments"),
    ),
    _get(
        "/drift-alerts",
        "list_drift_alerts",
        query={**_ALERTS, **_HIVE_QUERY},
        instead=("hive", "get_drift_alerts"),
    ),
    _get("/inventory", "inventory", query={**_TYPE, "hive": "filter_hive"}),
    _get("/inventory/summary", "inventory", fixed={"scope": "summary"}),
    _get("/inventory/nodes", "inventory", query=_TYPE, fixed={"scope": "global"}),
    _get("/inventory/{filter_hive}", "inventory", query=_TYPE, fixed={"scope": "hive"}),
    _get("/routes", "list_routes", query=_HIVE_QUERY),
    _post("/routes", "add_route", bodies.RouteBody, body="strict", query=_HIVE_QUERY),
    _with(_get("/routes", "delete_route", query={"prefix": "prefix", **_HIVE_QUERY}), method="DELETE"),
    _get("/vpns", "list_vpns", query=_HIVE_QUERY),
    _post("/vpns", "add_vpn", bodies.VpnBody, body="strict", query=_HIVE_QUERY),
    _with(_get("/vpns", "delete_vpn", query={"pattern": "pattern", **_HIVE_QUERY}), method="DELETE"),
    _with(
        _post(
            "/config/routes",
            "configure_routes",
            bodies.ConfigureRoutes,
            body="strict",
            summary="Replace the tables of static routes and VPN rules.",
            form="short",
        ),
        method="PUT",
    ),
    _with(
        _post(
            "/config/vpns",
            "configure_vpns",
            bodies.ConfigureVpns,
            body="strict",
            summary="Replace the table of VPN rules.",
            form="short",
        ),
        method="PUT",
    ),
    _get("/config/storage", "get_storage"),
    _with(_post("/config/storage", "set_storage", bodies.StorageBody, body="strict"), method="PUT"),
    _get("/config/storage/metrics", "get_storage_metrics", summary="Counts of the storage service."),
    _get("/hives", "list_hives"),
    _post("/hives", "add_hive", bodies.AddHive),
)

_HIVE: Final = (
    _get(_H, "get_hive"),
    _with(_get(_H, "remove_hive"), method="DELETE"),
    _get(f"{_H}/status", "inventory", query=_TYPE, fixed={"scope": "hive"}),
    _get(f"{_H}/inventory/summary", "inventory", fixed={"scope": "summary"}),
    _get(f"{_H}/inventory/hive", "inventory", query=_TYPE, fixed={"scope": "hive"}),
    _get(f"{_H}/versions", "get_versions"),
    _get(f"{_H}/deployments", "get_deployments", query=_HISTORY),
    _get(f"{_H}/drift-alerts", "get_drift_alerts", query=_ALERTS),
    _get(f"{_H}/runtimes", "list_runtimes"),
    _get(f"{_H}/runtimes/{{runtime}}", "get_runtime"),
    _with(
        _get(
            f"{_H}/runtimes/{{runtime}}/versions/{{version}}",
            "remove_runtime_version",
            query={"test_hold_ms": "test_hold_ms"},
        ),
        method="DELETE",
    ),
    _get(f"{_H}/routes", "list_routes"),
    _post(f"{_H}/routes", "add_route", bodies.RouteBody, body="strict"),
    _with(_get(f"{_H}/routes/{{prefix}}", "delete_route"), method="DELETE"),
    _get(f"{_H}/vpns", "list_vpns"),
    _post(f"{_H}/vpns", "add_vpn", bodies.VpnBody, body="strict"),
    _with(_get(f"{_H}/vpns/{{pattern}}", "delete_vpn"), method="DELETE"),
    _get(f"{_H}/identity/ilks", "list_ilks", query={"after": "after", "limit": "limit"}),
    _get(f"{_H}/identity/ilks/{{ilk_id}}", "get_ilk"),
    _post(f"{_H}/update", "update", bodies.Update),
    _post(f"{_H}/sync-hint", "sync_hint", bodies.SyncHint),
)

_NODES: Final = (
    _get(f"{_H}/nodes", "list_nodes"),
    _post(f"{_H}/nodes", "run_node", bodies.RunNode),
    _with(_post(_N, "kill_node", bodies.KillNode), method="DELETE"),
    _get(f"{_N}/status", "get_node_status"),
    _get(f"{_N}/state", "get_node_state"),
    _get(f"{_N}/config", "get_node_config"),
    _with(
        _post(
            f"{_N}/config",
            "set_node_config",
            bodies.AnyObject,
            body="config",
            query={"replace": "replace", "notify": "notify"},
        ),
        method="PUT",
    ),
    _get(
        f"{_N}/logs",
        "get_node_logs",
        query={"tail": "tail", "follow": "follow"},
        summary="Last lines of a node's output; follow=1 streams server-sent events.",
    ),
    _post(f"{_N}/start", "start_node", bodies.AnyObject),
    _post(f"{_N}/restart", "restart_node", bodies.AnyObject),
    _with(_post(f"{_N}/instance", "remove_node_instance", bodies.AnyObject), method="DELETE"),
    _post(f"{_N}/messages", "send_node_message", bodies.NodeMessage),
    _post(
        f"{_N}/control/config-get",
        "node_control_config_get",
        bodies.ConfigGetBody,
        path_wins=True,
    ),
    _post(
        f"{_N}/control/config-set",
        "node_control_config_set",
        bodies.ConfigSetBody,
        path_wins=True,
    ),
)


def _scoped(
    method: str,
    path: str,
    action: str,
    query: Mapping[str, str] | None = None,
    instead: tuple[str, str] | None = None,
) -> Iterable[Endpoint]:
    """A path of the policy or workflow service, and its twin below a hive."""
    for prefix in ("", _H):
        given = dict(query or {})
        if not prefix:
            given |= {"hive": "target", "target": "target"}
        made = Endpoint(method=method, path=f"{prefix}{path}", action=action, query=given, instead=instead)
        yield made if method == "GET" else _with(made, body="open", shape=bodies.AnyObject)


_WORKFLOW: Final = {"workflow_name": "workflow_name"}

_LATER: Final = (
    *_scoped("POST", "/opa/policy", "opa_compile_apply"),
    *_scoped("POST", "/opa/policy/compile", "opa_compile"),
    *_scoped("POST", "/opa/policy/apply", "opa_apply"),
    *_scoped("POST", "/opa/policy/rollback", "opa_rollback"),
    *_scoped("POST", "/opa/policy/check", "opa_check"),
    *_scoped("GET", "/opa/policy", "opa_get_policy"),
    *_scoped("GET", "/opa/status", "opa_get_status"),
    *_scoped("POST", "/wf-rules", "wf_rules_compile_apply"),
    *_scoped("POST", "/wf-rules/compile", "wf_rules_compile"),
    *_scoped("POST", "/wf-rules/apply", "wf_rules_apply"),
    *_scoped("POST", "/wf-rules/rollback", "wf_rules_rollback"),
    *_scoped("POST", "/wf-rules/delete", "wf_rules_delete"),
    *_scoped(
        "GET",
        "/wf-rules",
        "wf_rules_list_workflows",
        _WORKFLOW,
        ("workflow_name", "wf_rules_get_workflow"),
    ),
    *_scoped("GET", "/wf-rules/status", "wf_rules_get_status", _WORKFLOW),
    _get(f"{_H}/timer/help", "timer_help"),
    _get(
        f"{_H}/timer/timers",
        "timer_list",
        query={name: name for name in ("owner_l2_name", "status_filter", "limit")},
    ),
    _get(f"{_H}/timer/timers/{{timer_uuid}}", "timer_get"),
    _get(f"{_H}/timer/now", "timer_now"),
    _post(f"{_H}/timer/now-in", "timer_now_in", bodies.AnyObject),
    _post(f"{_H}/timer/convert", "timer_convert", bodies.AnyObject),
    _post(f"{_H}/timer/parse", "timer_parse", bodies.AnyObject),
    _post(f"{_H}/timer/format", "timer_format", bodies.AnyObject),
)

ENDPOINTS: Final = (*_GLOBAL, *_HIVE, *_NODES, *_LATER)
"""All endpoints that execute an action."""


class Match(msgspec.Struct, frozen=True):
    """An endpoint, and the segments that stand for its parameters, still encoded."""

    endpoint: Endpoint
    values: tuple[tuple[str, str], ...]


def _template(path: str) -> tuple[str, ...]:
    return tuple(path.strip("/").split("/"))


_BY_SHAPE: Final[dict[tuple[str, int, str], list[tuple[tuple[str, ...], Endpoint]]]] = {}
for _endpoint in ENDPOINTS:
    _parts = _template(_endpoint.path)
    _BY_SHAPE.setdefault((_endpoint.method, len(_parts), _parts[0]), []).append((_parts, _endpoint))


def find(method: str, parts: tuple[str, ...]) -> Match | None:
    """The endpoint for ``method`` and the path's segments; the first that fits in the table's order."""
    if not parts:
        return None
    for template, endpoint in _BY_SHAPE.get((method, len(parts), parts[0]), ()):
        values = []
        for wanted, given in zip(template, parts, strict=True):
            if wanted.startswith("{"):
                if not given:
                    break
                values.append((wanted[1:-1], given))
            elif wanted != given:
                break
        else:
            return Match(endpoint, tuple(values))
    return None
