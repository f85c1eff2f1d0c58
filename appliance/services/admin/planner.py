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
from appliance.wire.admin.requests import PublishPackage
from appliance.wire.errors import Conflict, Invalid, NotFound
from appliance.wire.names import check_hive_id, full_name

from . import config_steps, node_steps
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

    def admin(
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
        return self.admin(asked, asked.without("target"), target=target)

    def _plain(self, asked: Asked) -> Plan:
        return self.admin(asked, {})

    def _hive_record(self, asked: Asked) -> Plan:
        try:
            hive = check_hive_id(asked.optional_text("hive_id") or asked.target())
        except Invalid as error:
            raise Invalid(error.message, code="INVALID_HIVE_ID", field="hive_id") from error
        turn = f"hive:{hive}" if asked.action == "remove_hive" else ""
        return self.admin(asked, {"hive_id": hive}, turn=turn)

    def _add_hive(self, asked: Asked) -> Plan:
        name = asked.params.get("hive_id")
        return self.admin(asked, asked.without("target"), turn=f"hive:{name}")

    def _history(self, asked: Asked) -> Plan:
        kept = {key: asked.params[key] for key in _HISTORY if key in asked.params}
        if asked.action.startswith("list_"):
            return self.admin(asked, kept)
        target = asked.target()
        return self.admin(asked, {**kept, "hive": target}, target=target)

    def _list_versions(self, asked: Asked) -> Plan:
        return self.admin(asked, {})

    def _remove_runtime(self, asked: Asked) -> Plan:
        target, runtime = asked.target(), asked.text("runtime")
        payload: dict[str, object] = {"runtime": runtime, "version": asked.text("version")}
        hold = asked.number("test_hold_ms")
        if hold is not None:
            payload["test_hold_ms"] = hold
        turn = f"runtime:{runtime.lower()}"
        return self.admin(asked, payload, target=target, turn=turn, statuses=_REMOVAL)

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
        page: dict[str, object] = {"after": asked.optional_text("after"), "limit": asked.number("limit")}
        page = {key: value for key, value in page.items() if value is not None}
        return Plan(
            action=asked.action,
            kind=Kind.ILKS if listing else Kind.SYSTEM,
            dst=full_name("SY.identity", target),
            verb=verbs.ILK_LIST if listing else verbs.ILK_GET,
            payload=page if listing else {"ilk_id": asked.text("ilk_id")},
            target=target,
            timeout_s=self.timeout_s(asked.action),
        )

    def _catalogue(self, asked: Asked) -> Plan:
        return Plan(action=asked.action, kind=Kind.CATALOGUE)

    def _help(self, asked: Asked) -> Plan:
        name = asked.text("action")
        if name not in ACTIONS:
            raise NotFound(f"action {name!r} does not exist", code="ACTION_NOT_FOUND")
        return Plan(action=asked.action, kind=Kind.HELP, verb=name)

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
    "get_node_config": node_steps.node_read,
    "get_node_state": node_steps.node_read,
    "get_node_status": node_steps.node_read,
    "run_node": node_steps.node_change,
    "start_node": node_steps.node_change,
    "restart_node": node_steps.node_change,
    "kill_node": node_steps.node_change,
    "remove_node_instance": node_steps.node_change,
    "set_node_config": node_steps.set_node_config,
    "list_routes": config_steps.routes_read,
    "list_vpns": config_steps.routes_read,
    "add_route": config_steps.add_route,
    "add_vpn": config_steps.add_route,
    "delete_route": config_steps.delete_route,
    "delete_vpn": config_steps.delete_route,
    "configure_routes": config_steps.configure,
    "configure_vpns": config_steps.configure,
    "set_storage": config_steps.set_storage,
    "get_storage_metrics": config_steps.storage_metrics,
    "update": Planner._update,
    "sync_hint": Planner._sync_hint,
    "inventory": Planner._inventory,
    "list_ilks": Planner._identity,
    "get_ilk": Planner._identity,
    "send_node_message": node_steps.message,
    "node_control_config_get": node_steps.control,
    "node_control_config_set": node_steps.control,
    "list_admin_actions": Planner._catalogue,
    "get_admin_action_help": Planner._help,
    "get_node_logs": node_steps.logs,
    "hive_overview": Planner._overview,
}
"""What is not here goes to the orchestrator as it came."""
