"""Bodies of answers as Structs, for the API document only: the bytes themselves come from the services.

Payloads that operators' scripts read are spelled out; the others are objects. Keys beyond these may appear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from appliance.wire.routes import RouteEntry, VpnEntry

__all__ = ["ENVELOPES", "Failure", "NotFoundBody", "ShortAnswer"]

Good = Literal["ok", "sync_pending"]
Payload = dict[str, object]


class Failure(msgspec.Struct, kw_only=True):
    """An action that failed; ``payload`` may tell more."""

    status: Literal["error"]
    action: str | None
    payload: Payload | None
    error_code: str
    error_detail: str | Payload | None


class NotFoundBody(msgspec.Struct, kw_only=True):
    """The body for a path that nobody serves."""

    error: Literal["not_found"]


class ShortAnswer(msgspec.Struct, kw_only=True):
    """The short form of ``PUT /config/routes`` and ``/config/vpns``."""

    status: Literal["ok", "error"]
    error_code: str | None = None
    error_detail: str | None = None


class Done(msgspec.Struct, kw_only=True):
    """An action that was carried out."""

    status: Good
    action: str
    payload: Payload
    error_code: None
    error_detail: None


class HiveStatus(msgspec.Struct, kw_only=True):
    """The orchestrator's process."""

    status: Literal["ok"]
    hive_id: str
    pid: int
    uptime_ms: int


class HiveStatusDone(Done, kw_only=True):
    """Answer of ``hive_status``."""

    payload: HiveStatus  # type: ignore[assignment]


class RouteTable(msgspec.Struct, kw_only=True):
    """All static routes of a hive."""

    config_version: int
    routes: list[RouteEntry]


class RouteList(msgspec.Struct, kw_only=True):
    """The route service's own answer: the table is one level further down than elsewhere."""

    status: Literal["ok"]
    action: str
    payload: RouteTable


class RouteListDone(Done, kw_only=True):
    """Answer of ``list_routes``."""

    payload: RouteList  # type: ignore[assignment]


class VpnTable(msgspec.Struct, kw_only=True):
    """All VPN rules of a hive."""

    config_version: int
    vpns: list[VpnEntry]


class VpnList(msgspec.Struct, kw_only=True):
    """The route service's own answer."""

    status: Literal["ok"]
    action: str
    payload: VpnTable


class VpnListDone(Done, kw_only=True):
    """Answer of ``list_vpns``."""

    payload: VpnList  # type: ignore[assignment]


class ActionList(msgspec.Struct, kw_only=True):
    """The action catalogue."""

    registry_version: str
    actions: list[Payload]


class ActionListDone(Done, kw_only=True):
    """Answer of ``list_admin_actions``."""

    payload: ActionList  # type: ignore[assignment]


class LogLines(msgspec.Struct, kw_only=True):
    """The end of a node's log."""

    status: Literal["ok"]
    node_name: str
    lines: list[str]
    dropped_bytes: int


class LogLinesDone(Done, kw_only=True):
    """Answer of ``get_node_logs``."""

    payload: LogLines  # type: ignore[assignment]


ENVELOPES: Final[Mapping[str, type[Done]]] = {
    "": Done,
    "hive_status": HiveStatusDone,
    "list_routes": RouteListDone,
    "list_vpns": VpnListDone,
    "list_admin_actions": ActionListDone,
    "get_node_logs": LogLinesDone,
}
"""By action; the empty name stands for the others."""
