"""Plans of actions on routes, VPN rules and the storage root. Sans-IO.

Bodies are checked here, so that a wrong one never becomes a message (``spec/admin-api.md §A.3, §B.4``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from appliance.wire import verbs
from appliance.wire.admin.requests import ConfigureRoutes, ConfigureVpns, RouteBody, VpnBody
from appliance.wire.errors import Invalid
from appliance.wire.names import full_name

from .asked import Asked
from .plan import Kind, Plan

if TYPE_CHECKING:
    from .planner import Planner

__all__ = ["add_route", "configure", "delete_route", "routes_read", "set_storage", "storage_metrics"]


def routes_read(planner: Planner, asked: Asked) -> Plan:
    """List one table."""
    return _routes(planner, asked, {})


def _routes(planner: Planner, asked: Asked, payload: Mapping[str, object], *, change: bool = False) -> Plan:
    target = asked.target()
    return Plan(
        action=asked.action,
        kind=Kind.ROUTE_CHANGE if change else Kind.ADMIN,
        dst=full_name("SY.config.routes", target),
        verb=asked.action,
        payload=payload,
        target=target,
        timeout_s=planner.timeout_s(asked.action),
        turn=f"routes:{target}" if change else "",
    )


def add_route(planner: Planner, asked: Asked) -> Plan:
    """Add a route or a VPN rule; raises ``Invalid`` when the body is none."""
    body = asked.shaped(RouteBody if asked.action == "add_route" else VpnBody)
    return _routes(planner, asked, _set_keys(body), change=True)


def delete_route(planner: Planner, asked: Asked) -> Plan:
    """Delete by prefix or pattern; a missing one is the empty text, which nobody has."""
    key = "prefix" if asked.action == "delete_route" else "pattern"
    value = asked.params.get(key, "")
    if not isinstance(value, str):
        raise Invalid(f"{key} must be a string", field=key)
    return _routes(planner, asked, {key: value}, change=True)


def configure(planner: Planner, asked: Asked) -> Plan:
    """Replace whole tables; raises ``Invalid`` when one row is wrong."""
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
        dst=full_name("SY.config.routes", planner.hive),
        payload={"tables": tables, "version": body.version},
        timeout_s=float(planner.timeouts.broadcast_s),
        turn=f"routes:{planner.hive}",
    )


def set_storage(planner: Planner, asked: Asked) -> Plan:
    """Change the storage root; raises ``Invalid`` without a path."""
    path = asked.params.get("path")
    if not isinstance(path, str) or not path.strip():
        raise Invalid("missing path", field="path")
    plan = planner.admin(asked, {"path": path.strip()}, turn="storage")
    version = asked.number("version")
    payload = {**plan.payload, "version": version}
    return msgspec.structs.replace(plan, kind=Kind.STORAGE_SET, payload=payload)


def storage_metrics(planner: Planner, asked: Asked) -> Plan:
    """Ask SY.storage for its figures."""
    return Plan(
        action=asked.action,
        kind=Kind.STORAGE_METRICS,
        dst=full_name("SY.storage", planner.hive),
        verb=verbs.STORAGE_METRICS,
        timeout_s=planner.timeout_s(asked.action),
    )


def _set_keys(body: msgspec.Struct) -> dict[str, object]:
    return {key: value for key, value in msgspec.structs.asdict(body).items() if value is not None}
