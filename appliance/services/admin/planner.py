"""From a call to a plan: every rule about parameters, targets, peers and turns. Sans-IO.

The peers are those of ``spec/admin-api.md §A.8``, the time-outs those of §A.6. What is refused here never
becomes a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from appliance.settings.hive import AdminTimeouts
from appliance.wire import verbs
from appliance.wire.admin.catalogue import ACTIONS
from appliance.wire.admin.outcome import AdminCall
from appliance.wire.admin.requests import (
    ConfigureRoutes,
    ConfigureVpns,
    NodeMessage,
    PublishPackage,
    RouteBody,
    VpnBody,
)
from appliance.wire.errors import Conflict, Invalid, NotFound
from appliance.wire.names import check_hive_id, full_name

from .asked import Asked
from .plan import MOTHER_ONLY, Kind, Plan
from .rollout import plan_sync_hint, plan_update

__all__ = ["DOOR_ACTIONS", "Planner", "shown_action"]

DOOR_ACTIONS: Final = frozenset(
    {"get_storage_metrics", "configure_routes", "configure_vpns", "get_node_logs", "hive_overview"}
)
"""Actions of the HTTP door that are not in the catalogue, and that the gateway does not know."""

ABSENT_SERVICES: Final = {
    "opa_http": "SY.opa.rules",
    "opa_query": "SY.opa.rules",
    "wf_rules_http": "SY.wf-rules",
    "wf_rules_query": "SY.wf-rules",
    "timer_rpc": "SY.timer",
}
"""Services that a later version brings, by handler."""

_LIGHT: Final = frozenset({"hive_status", "list_admin_actions", "get_admin_action_help"})
_HISTORY: Final = ("hive", "category", "limit", "severity", "kind")
_REMOVAL: Final = {
    "NOT_PRIMARY": 409,
    "RUNTIME_MANIFEST_MISSING": 409,
    "MANIFEST_INVALID": 409,
    "RUNTIME_REMOVE_FAILED": 409,
}
_PUBLISH: Final = {"NOT_PRIMARY": 409, "RUNTIME_NOT_AVAILABLE": 409}

Step = Callable[["Planner", Asked], Plan]


class Planner:
    """Plans the actions of one hive.

    Args:
        hive: own hive id.
        is_mother: whether it may do what only the mother does.
        timeouts: ``admin.timeouts``.
    """

    def __init__(self, hive: str, *, is_mother: bool, timeouts: AdminTimeouts) -> None:
        self.hive = hive
        self.is_mother = is_mother
        self.timeouts = timeouts
        self.orchestrator = full_name("SY.orchestrator", hive)

    def plan(self, call: AdminCall) -> Plan:
        """The plan for ``call``.

        Raises:
            Invalid: a parameter is missing or wrong.
            Conflict: ``NOT_PRIMARY``, only the motherbee does this.
            NotFound: ``ACTION_NOT_FOUND`` from the help.
        """
        entry = ACTIONS.get(call.action)
        if entry is None and call.action not in DOOR_ACTIONS:
            raise Invalid("unknown action", field="action")
        if call.action in MOTHER_ONLY and not self.is_mother:
            raise _not_primary(f"{call.action} is done by the motherbee", self.hive)
        asked = Asked(call, self.hive)
        if entry is not None and entry.handler in ABSENT_SERVICES:
            service = ABSENT_SERVICES[entry.handler]
            return Plan(action=shown_action(call.action), kind=Kind.ABSENT, dst=service)
        plan = _STEPS.get(call.action, Planner._orchestrator)(self, asked)
        if not self.is_mother and plan.target not in ("", self.hive):
            raise _not_primary(f"hive {plan.target!r} is administered by the motherbee", self.hive)
        return plan

    def timeout_s(self, action: str) -> float:
        """How long the peer of ``action`` may take."""
        times = self.timeouts
        special = {
            "add_hive": times.add_hive_s,
            "update": times.update_s,
            "sync_hint": times.sync_hint_s,
            "inventory": times.inventory_s,
            "get_storage_metrics": 8,
        }
        return float(special.get(action) or (times.light_s if action in _LIGHT else times.action_s))

    # --- steps -----------------------------------------------------------------------------------------

    def _admin(
        self,
        asked: Asked,
        payload: Mapping[str, object],
        *,
        target: str = "",
        turn: str = "",
        statuses: Mapping[str, int] | None = None,
    ) -> Plan:
        """The usual: an admin message to the local orchestrator, which forwards."""
        return Plan(
            action=asked.action,
            kind=Kind.ADMIN,
            dst=self.orchestrator,
            verb=asked.action,
            payload=dict(payload) | ({"target": target} if target else {}),
            target=target,
            timeout_s=self.timeout_s(asked.action),
            turn=turn,
            statuses=statuses or {},
        )

    def _orchestrator(self, asked: Asked) -> Plan:
        target = asked.target()
        return self._admin(asked, asked.without("target"), target=target)

    def _plain(self, asked: Asked) -> Plan:
        return self._admin(asked, {})

    def _hive_record(self, asked: Asked) -> Plan:
        try:
            hive = check_hive_id(asked.optional_text("hive_id") or asked.target())
        except Invalid as error:
            raise Invalid(error.message, code="INVALID_HIVE_ID", field="hive_id") from error
        turn = f"hive:{hive}" if asked.action == "remove_hive" else ""
        return self._admin(asked, {"hive_id": hive}, turn=turn)

    def _add_hive(self, asked: Asked) -> Plan:
        name = asked.params.get("hive_id")
        return self._admin(asked, asked.without("target"), turn=f"hive:{name}")

    def _history(self, asked: Asked) -> Plan:
        kept = {key: asked.params[key] for key in _HISTORY if key in asked.params}
        if asked.action.startswith("list_"):
            return self._admin(asked, kept)
        target = asked.target()
        return self._admin(asked, {**kept, "hive": target}, target=target)

    def _list_versions(self, asked: Asked) -> Plan:
        return self._admin(asked, {})

    def _remove_runtime(self, asked: Asked) -> Plan:
        target, runtime = asked.target(), asked.text("runtime")
        payload: dict[str, object] = {"runtime": runtime, "version": asked.text("version")}
        hold = asked.number("test_hold_ms")
        if hold is not None:
            payload["test_hold_ms"] = hold
        turn = f"runtime:{runtime.lower()}"
        return self._admin(asked, payload, target=target, turn=turn, statuses=_REMOVAL)

    def _publish(self, asked: Asked) -> Plan:
        body = asked.shaped(PublishPackage)
        for hive in (*body.sync_to, *body.update_to):
            check_hive_id(hive, "sync_to and update_to")
        return Plan(
            action=asked.action,
            kind=Kind.PUBLISH,
            dst=self.orchestrator,
            verb=asked.action,
            payload=asked.without("target"),
            timeout_s=self.timeout_s(asked.action),
            turn=f"runtime:{_package_name(body)}",
            statuses=_PUBLISH,
        )

    def _node_read(self, asked: Asked) -> Plan:
        name, hive = asked.node()
        return self._admin(asked, {"node_name": name}, target=hive)

    def _node_change(self, asked: Asked) -> Plan:
        asked.refuse("name", use="node_name")
        asked.refuse("version", use="runtime_version")
        if asked.action == "kill_node" and not asked.params.get("node_name"):
            unit, hive = asked.optional_text("unit"), asked.target()
            if unit is None:
                raise Invalid("missing unit or node_name", field="node_name")
            return self._admin(asked, asked.without("target"), target=hive, turn=f"unit:{unit}@{hive}")
        name, hive = asked.node()
        payload = {**asked.without("target"), "node_name": name}
        return self._admin(asked, payload, target=hive, turn=f"node:{name}")

    def _set_node_config(self, asked: Asked) -> Plan:
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
        return self._admin(asked, payload, target=hive, turn=f"node:{name}")

    def _routes_read(self, asked: Asked) -> Plan:
        return self._routes(asked, {})

    def _routes(self, asked: Asked, payload: Mapping[str, object], *, change: bool = False) -> Plan:
        target = asked.target()
        return Plan(
            action=asked.action,
            kind=Kind.ROUTE_CHANGE if change else Kind.ADMIN,
            dst=full_name("SY.config.routes", target),
            verb=asked.action,
            payload=payload,
            target=target,
            timeout_s=self.timeout_s(asked.action),
            turn=f"routes:{target}" if change else "",
        )

    def _add_route(self, asked: Asked) -> Plan:
        body = asked.shaped(RouteBody if asked.action == "add_route" else VpnBody)
        return self._routes(asked, _set_keys(body), change=True)

    def _delete_route(self, asked: Asked) -> Plan:
        key = "prefix" if asked.action == "delete_route" else "pattern"
        value = asked.params.get(key, "")
        if not isinstance(value, str):
            raise Invalid(f"{key} must be a string", field=key)
        return self._routes(asked, {key: value}, change=True)

    def _configure(self, asked: Asked) -> Plan:
        body: ConfigureRoutes | ConfigureVpns
        if asked.action == "configure_routes":
            body = asked.shaped(ConfigureRoutes)
        else:
            body = asked.shaped(ConfigureVpns)
        tables: dict[str, object] = {}
        for key in ("routes", "vpns"):
            rows = getattr(body, key, None)
            if rows is not None:
                tables[key] = [_set_keys(row) for row in rows]
        return Plan(
            action=asked.action,
            kind=Kind.ROUTE_TABLES,
            dst=full_name("SY.config.routes", self.hive),
            payload={"tables": tables, "version": body.version},
            timeout_s=float(self.timeouts.broadcast_s),
            turn=f"routes:{self.hive}",
        )

    def _set_storage(self, asked: Asked) -> Plan:
        path = asked.params.get("path")
        if not isinstance(path, str) or not path.strip():
            raise Invalid("missing path", field="path")
        plan = self._admin(asked, {"path": path.strip()}, turn="storage")
        version = asked.number("version")
        payload = {**plan.payload, "version": version}
        return msgspec.structs.replace(plan, kind=Kind.STORAGE_SET, payload=payload)

    def _storage_metrics(self, asked: Asked) -> Plan:
        return Plan(
            action=asked.action,
            kind=Kind.STORAGE_METRICS,
            dst=full_name("SY.storage", self.hive),
            verb=verbs.STORAGE_METRICS,
            timeout_s=self.timeout_s(asked.action),
        )

    def _update(self, asked: Asked) -> Plan:
        return plan_update(asked, self.timeout_s("update"))

    def _sync_hint(self, asked: Asked) -> Plan:
        return plan_sync_hint(asked, self.timeout_s("sync_hint"))

    def _inventory(self, asked: Asked) -> Plan:
        scope = asked.optional_text("scope")
        if scope not in (None, "global", "hive", "summary"):
            raise Invalid("scope must be global, hive or summary", field="scope")
        hive = asked.optional_text("filter_hive") or (asked.target() if scope == "hive" else None)
        kind = asked.optional_text("filter_type")
        payload: dict[str, object] = {"scope": scope or ("hive" if hive else "global")}
        if hive is not None:
            payload["filter_hive"] = hive
        if kind is not None:
            payload["filter_type"] = kind.upper()
        return Plan(
            action=asked.action,
            kind=Kind.SYSTEM,
            dst=self.orchestrator,
            verb=verbs.INVENTORY_REQUEST,
            payload=payload,
            timeout_s=self.timeout_s(asked.action),
        )

    def _identity(self, asked: Asked) -> Plan:
        target = asked.target()
        listing = asked.action == "list_ilks"
        return Plan(
            action=asked.action,
            kind=Kind.SYSTEM,
            dst=full_name("SY.identity", target),
            verb=verbs.ILK_LIST if listing else verbs.ILK_GET,
            payload={} if listing else {"ilk_id": asked.text("ilk_id")},
            target=target,
            timeout_s=self.timeout_s(asked.action),
        )

    def _message(self, asked: Asked) -> Plan:
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
            timeout_s=self.timeout_s(asked.action),
            turn=f"node:{name}",
        )

    def _control(self, asked: Asked) -> Plan:
        name, hive = asked.node(body=False)
        wanted = asked.target(body=False)
        if asked.params.get("url_hive") and wanted != hive:
            raise Invalid(
                f"node_name {name!r} is on another hive than the path ({wanted!r})", field="node_name"
            )
        setting = asked.action == "node_control_config_set"
        return Plan(
            action=asked.action,
            kind=Kind.CONTROL,
            dst=name,
            verb=verbs.CONFIG_SET if setting else verbs.CONFIG_GET,
            payload={**asked.without("url_hive"), "node_name": name},
            target=hive,
            timeout_s=max(self.timeout_s(asked.action) - 5, 1),
            turn=f"node:{name}" if setting else "",
        )

    def _catalogue(self, asked: Asked) -> Plan:
        return Plan(action=asked.action, kind=Kind.CATALOGUE)

    def _help(self, asked: Asked) -> Plan:
        name = asked.text("action")
        if name not in ACTIONS:
            raise NotFound(f"action {name!r} does not exist", code="ACTION_NOT_FOUND")
        return Plan(action=asked.action, kind=Kind.HELP, verb=name)

    def _logs(self, asked: Asked) -> Plan:
        name, hive = asked.node()
        tail = asked.number("tail")
        return Plan(
            action=asked.action,
            kind=Kind.LOGS,
            dst=name,
            payload={"tail": min(200 if tail is None else tail, 5000)},
            target=hive,
        )

    def _overview(self, asked: Asked) -> Plan:
        return Plan(action=asked.action, kind=Kind.OVERVIEW)


def shown_action(action: str) -> str:
    """The name that the envelope gives an action: policy and workflow actions go by inner names (§B.7)."""
    special = {"opa_compile_apply": "compile", "opa_check": "compile", "wf_rules_delete": "delete_workflow"}
    return special.get(action) or action.removeprefix("wf_rules_").removeprefix("opa_")


def _package_name(body: PublishPackage) -> str:
    """What the package is called, as far as the request tells; it only orders publications of one runtime."""
    source = body.source
    if source.kind == "bundle_upload":
        return f"blob:{source.blob_path or ''}"
    try:
        document = msgspec.json.decode((source.files or {}).get("package.json", "null"))
    except msgspec.DecodeError:
        return ""
    return str(document.get("name", "")).lower() if isinstance(document, dict) else ""


def _set_keys(body: msgspec.Struct) -> dict[str, object]:
    return {key: value for key, value in msgspec.structs.asdict(body).items() if value is not None}


def _not_primary(text: str, hive: str) -> Conflict:
    return Conflict(f"{text}; this is {hive!r}", code="NOT_PRIMARY", remedy="Ask the motherbee.")


_STEPS: Final[Mapping[str, Step]] = {
    "hive_status": Planner._plain,
    "list_hives": Planner._plain,
    "get_storage": Planner._plain,
    "list_versions": Planner._list_versions,
    "get_hive": Planner._hive_record,
    "remove_hive": Planner._hive_record,
    "add_hive": Planner._add_hive,
    "list_deployments": Planner._history,
    "get_deployments": Planner._history,
    "list_drift_alerts": Planner._history,
    "get_drift_alerts": Planner._history,
    "remove_runtime_version": Planner._remove_runtime,
    "publish_runtime_package": Planner._publish,
    "get_node_config": Planner._node_read,
    "get_node_state": Planner._node_read,
    "get_node_status": Planner._node_read,
    "run_node": Planner._node_change,
    "start_node": Planner._node_change,
    "restart_node": Planner._node_change,
    "kill_node": Planner._node_change,
    "remove_node_instance": Planner._node_change,
    "set_node_config": Planner._set_node_config,
    "list_routes": Planner._routes_read,
    "list_vpns": Planner._routes_read,
    "add_route": Planner._add_route,
    "add_vpn": Planner._add_route,
    "delete_route": Planner._delete_route,
    "delete_vpn": Planner._delete_route,
    "configure_routes": Planner._configure,
    "configure_vpns": Planner._configure,
    "set_storage": Planner._set_storage,
    "get_storage_metrics": Planner._storage_metrics,
    "update": Planner._update,
    "sync_hint": Planner._sync_hint,
    "inventory": Planner._inventory,
    "list_ilks": Planner._identity,
    "get_ilk": Planner._identity,
    "send_node_message": Planner._message,
    "node_control_config_get": Planner._control,
    "node_control_config_set": Planner._control,
    "list_admin_actions": Planner._catalogue,
    "get_admin_action_help": Planner._help,
    "get_node_logs": Planner._logs,
    "hive_overview": Planner._overview,
}
"""What is not here goes to the orchestrator as it came."""
