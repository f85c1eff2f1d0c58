"""list_nodes, inventory and hive_status: all nodes of the hive at a glance.

``list_nodes`` is the union of what the router sees and what is managed (decision H-2); ``inventory`` is what
the router sees, hive by hive. Who may get a list that no frame holds asks for pages: ``after`` (first ``""``)
in the request, and ``next`` of an answer is the ``after`` of the next page.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import trio

from appliance.supervise.catalog import InstanceCatalog, StoredNode
from appliance.supervise.instance import CONFIG_FILE, STATE_FILE, FileFacts
from appliance.supervise.node_config import SystemPart
from appliance.wire.errors import FluxbeeError, NotFound, Unavailable
from appliance.wire.names import base_name, check_hive_id, hive_of, is_system_name

from .asked import text
from .forward import forward
from .house import Handler, House, Payload, Request
from .router_view import SeenNode
from .status import NodeFacts, inferred_health, lifecycle_of

__all__ = ["InventoryVerbs"]

_PAGE_BYTES: Final = 112 * 1024
"""Most bytes of entries in one answer; a frame has 128 KiB."""

_MOST_PAGES: Final = 512
"""Of another hive's list: 65 536 nodes, the most that ``limits.nodes`` allows."""

_PAGES_S: Final = 5.0
"""How long pages of a list follow its first one before everything is looked at anew."""

_KINDS: Final = frozenset({"AI", "IO", "WF", "SY", "RT"})


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the first page of a list was made of; the pages behind it are made of the same."""

    at: float
    source: str
    names: list[str]
    seen: Mapping[str, SeenNode]
    stored: Mapping[str, StoredNode]


class InventoryVerbs:
    """Handles ``list_nodes``, ``inventory`` and ``hive_status``."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._catalog = InstanceCatalog(house.paths)
        self._shown: _Shown | None = None
        self._looking = trio.CapacityLimiter(1)
        self.handlers: Mapping[str, Handler] = {
            "list_nodes": self.list_nodes,
            "inventory": self.inventory,
            "hive_status": self.hive_status,
        }

    async def hive_status(self, request: Request, source: str) -> Payload:
        """Which hive this is, and since when its orchestrator runs."""
        house = self._house
        return {
            "status": "ok",
            "hive_id": house.hive,
            "pid": os.getpid(),
            "uptime_ms": int((house.clock.monotonic() - house.started_at) * 1000),
        }

    # --- list_nodes ------------------------------------------------------------------------------------

    async def list_nodes(self, request: Request, source: str) -> Payload:
        """Nodes that the router sees and nodes that are managed, stopped ones included."""
        house = self._house
        hive = text(request, "target") or text(request, "hive") or house.hive
        if hive != house.hive:
            return await self._elsewhere(check_hive_id(hive, "target"), request)
        after = _after(request)
        shown = self._shown
        now = house.clock.monotonic()
        if shown is None or not after or now - shown.at > _PAGES_S:
            shown = self._shown = await self._gather(now)
        names, seen, stored = shown.names, shown.seen, shown.stored
        rest = names[bisect_right(names, after) :]
        return {
            "status": "ok",
            "target": hive,
            "hive": hive,
            "inventory_source": shown.source,
            "hive_status": "alive",
            "node_count": len(names),
            **_page((self._listed(name, seen.get(name), stored.get(name)) for name in rest), request),
        }

    async def _elsewhere(self, hive: str, request: Request) -> Payload:
        """Another hive's list; page after page, because it comes in frames."""
        if "after" in request:
            return await forward(self._house, "list_nodes", request, hive)
        whole: Payload = {}
        nodes: list[object] = []
        after: object = ""
        for _ in range(_MOST_PAGES):
            page = await forward(self._house, "list_nodes", {**request, "after": after}, hive)
            found = page.get("nodes")
            whole = whole or page
            if not isinstance(found, list):
                return page
            nodes += found
            after = page.get("next")
            if not after:
                break
        return {**{key: value for key, value in whole.items() if key != "next"}, "nodes": nodes}

    async def _gather(self, now: float) -> _Shown:
        source = "lsa_inventory"
        try:
            seen = await self._house.router.nodes()
        except FluxbeeError:
            seen, source = {}, "managed_instances_fallback"
        stored = await self._look()
        # A process whose directory somebody deleted still lives, and is to be seen.
        managed = {one.name for one in self._house.supervisor.processes() if one.active}
        names = sorted({*seen, *stored, *managed, *self._routers()})
        return _Shown(at=now, source=source, names=names, seen=seen, stored=stored)

    def _routers(self) -> list[str]:
        name = self._house.connected().router_name
        return [name] if name else []

    async def _look(self) -> dict[str, StoredNode]:
        try:
            return await trio.to_thread.run_sync(self._catalog.look, limiter=self._looking)
        except OSError as error:
            raise Unavailable(
                f"{self._house.paths.nodes}: {error.strerror}", code="NODE_INVENTORY_READ_FAILED"
            ) from error

    def _listed(self, name: str, seen: SeenNode | None, stored: StoredNode | None) -> Payload:
        house = self._house
        is_router = name == house.connected().router_name
        process = house.supervisor.process(name)
        facts = NodeFacts(
            process=process,
            visible=seen is not None or is_router,
            config=stored.config if stored else FileFacts(),
            state=stored.state if stored else FileFacts(),
            system=stored.system if stored else SystemPart(),
            state_error=stored.state_error if stored else None,
            is_system=is_system_name(name),
        )
        lifecycle = lifecycle_of(facts)
        managed = stored is not None or process is not None
        entry: Payload = {
            **_seen_part(name, seen),
            "hive": house.hive,
            "status": "active" if facts.visible else lifecycle.lower(),
            "managed": managed,
            "lifecycle_state": lifecycle,
            "health_state": inferred_health(facts, lifecycle)[0],
            "visible_in_router": facts.visible,
        }
        if stored is None:
            return {**entry, "runtime": None, "config": None, "state": None, "identity": None}
        system = stored.system
        return {
            **entry,
            "runtime": {"name": system.runtime, "version": system.runtime_version},
            "config": {
                "path": f"{stored.instance.directory}/{CONFIG_FILE}",
                "exists": facts.config.exists,
                "valid": facts.config.valid,
                "config_version": system.config_version,
            },
            "state": {"path": f"{stored.instance.directory}/{STATE_FILE}", "exists": facts.state.exists},
            "identity": {"ilk_id": system.ilk_id, "tenant_id": system.tenant_id},
        }

    # --- inventory -------------------------------------------------------------------------------------

    async def inventory(self, request: Request, source: str) -> Payload:
        """What is connected: ``scope`` ``global`` (default), ``hive`` (with ``hive``) or ``summary``."""
        house = self._house
        hive = text(request, "hive") or text(request, "filter_hive")
        scope = (text(request, "scope") or ("global" if hive is None else "hive")).lower()
        kind = text(request, "type") or text(request, "filter_type")
        try:
            seen = await house.router.nodes()
        except FluxbeeError as error:
            raise Unavailable(error.message, code="SHM_NOT_FOUND", remedy=error.remedy) from error
        hives = await trio.to_thread.run_sync(self._hives, limiter=house.files)
        now_ms = house.clock.wall_ms()
        nodes = [
            _inventory_entry(node)
            for name, node in sorted(seen.items())
            if kind is None or _kind(name) == kind.upper()
        ]
        if scope == "summary":
            return self._summary(hives, nodes, now_ms)
        if scope == "hive":
            return self._of_hive(hive or house.hive, hives, nodes, now_ms, request)
        rows = [self._hive_row(one, nodes, now_ms) for one in hives]
        return {
            "status": "ok",
            "scope": "global",
            "updated_at": now_ms,
            "total_hives": len(rows),
            "total_nodes": len(nodes),
            "hives": rows,
            **_page((one for one in nodes if str(one["name"]) > _after(request)), request),
        }

    def _hives(self) -> list[str]:
        """The local hive and those in the registry."""
        try:
            with os.scandir(self._house.paths.hives) as entries:
                found = {one.name for one in entries if os.path.isfile(os.path.join(one.path, "info.yaml"))}
        except OSError:
            found = set()
        return sorted(found | {self._house.hive})

    def _hive_row(self, hive: str, nodes: list[Payload], now_ms: int) -> Payload:
        local = hive == self._house.hive
        return {
            "hive_id": hive,
            "is_local": local,
            "status": "alive" if local else "stale",
            "router_name": self._house.connected().router_name if local else None,
            "last_seen": now_ms if local else None,
            "node_count": sum(one["hive"] == hive for one in nodes),
        }

    def _of_hive(
        self, hive: str, hives: list[str], nodes: list[Payload], now_ms: int, request: Request
    ) -> Payload:
        if hive not in hives:
            raise NotFound(f"hive {hive!r} is not known", details={"hive_id": hive})
        row = self._hive_row(hive, nodes, now_ms)
        own = [one for one in nodes if one["hive"] == hive and str(one["name"]) > _after(request)]
        return {
            "status": "ok",
            "scope": "hive",
            "hive_id": hive,
            "is_local": row["is_local"],
            "hive_status": row["status"],
            "router_name": row["router_name"],
            "last_seen": row["last_seen"],
            "node_count": row["node_count"],
            **_page(own, request),
            "updated_at": now_ms,
        }

    def _summary(self, hives: list[str], nodes: list[Payload], now_ms: int) -> Payload:
        return {
            "status": "ok",
            "scope": "summary",
            "updated_at": now_ms,
            "total_hives": len(hives),
            "hives_alive": 1,
            "hives_stale": len(hives) - 1,
            "hives_deleted": 0,
            "total_nodes": len(nodes),
            "nodes_by_type": dict(sorted(Counter(str(one["kind"]) for one in nodes).items())),
            "nodes_by_status": dict(Counter(str(one["status"]) for one in nodes)),
        }


def _kind(name: str) -> str:
    kind = base_name(name).partition(".")[0].upper()
    return kind if kind in _KINDS else "UNKNOWN"


def _seen_part(name: str, seen: SeenNode | None) -> Payload:
    return {
        "uuid": seen.uuid if seen else None,
        "name": name,
        "node_name": name,
        "kind": _kind(name),
        "vpn_id": seen.vpn_id if seen else 0,
        "connected_at": seen.connected_at_ms if seen else None,
    }


def _inventory_entry(seen: SeenNode) -> Payload:
    return {**_seen_part(seen.name, seen), "hive": hive_of(seen.name), "status": "active"}


def _after(request: Request) -> str:
    return text(request, "after") or ""


def _page(entries: Iterable[Payload], request: Request) -> Payload:
    """``nodes``: all entries, or with ``after`` those that fit; ``next`` only when there are more."""
    if "after" not in request:
        return {"nodes": list(entries)}
    taken: list[object] = []
    room, last = _PAGE_BYTES, ""
    for entry in entries:
        encoded = msgspec.json.encode(entry)
        room -= len(encoded) + 1
        if room < 0 and taken:
            return {"nodes": taken, "next": last}
        taken.append(msgspec.Raw(encoded))
        last = str(entry["name"])
    return {"nodes": taken}
