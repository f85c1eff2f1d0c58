"""The admin door's parts, put together: metrics, overview, logs and taps from those who know."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

import appliance.http.admin
from appliance import __version__
from appliance.http import Health, Page
from appliance.http.admin import AdminApp, AdminParts
from appliance.http.admin.metrics import render
from appliance.http.admin.modules import ModuleDoor
from appliance.keeper.trio_plane import TrioPlane
from appliance.sdk import Dial
from appliance.services.admin import AdminService, Direct, NodeLogs, Streams
from appliance.services.health import HealthReport, HealthService
from appliance.services.orchestrator import OrchestratorService
from appliance.store.reserve import Reserve
from appliance.supervise.modules import ModuleStore
from appliance.supervise.tree import TreeLimits
from appliance.system import log as logs
from appliance.wire.errors import FluxbeeError
from appliance.wire.names import full_name

from .hive import Hive
from .services import Figures

__all__ = ["admin_application", "admin_service", "module_store"]

FIGURES_PATIENCE_S: Final = 0.7
"""Who is well answers in a millisecond; a scraper waits for the slowest."""

log = logs.get_logger("app")


def admin_service(hive: Hive, reserve: Reserve) -> AdminService:
    """SY.admin, as the configuration wants it."""
    settings = hive.settings
    everybody = settings.security.local == "open"
    return AdminService(
        hive.hive_id,
        is_mother=settings.role == "motherbee",
        paths=hive.paths,
        timeouts=settings.admin.timeouts,
        admin_nodes=("*",) if everybody else settings.security.admin_nodes,
        reserve=reserve,
    )


def module_store(hive: Hive, reserve: Reserve) -> ModuleStore:
    """The modules below the storage path, as large as packages may be."""
    packages = hive.settings.packages
    limits = TreeLimits(max_bytes=packages.max_bytes, max_entries=packages.max_entries)
    return ModuleStore(hive.settings.storage_dir / "modules", limits, check_room=reserve.check)


def admin_application(
    hive: Hive,
    admin: AdminService,
    health: HealthService,
    orchestrator: OrchestratorService | None,
    *,
    dial: Dial,
    keeper: TrioPlane | None,
    figures: Mapping[str, Figures],
    modules: ModuleStore,
) -> tuple[AdminApp, Streams]:
    """What the admin door serves, and its streams, whose :meth:`run` the control plane runs."""

    async def dropped_bytes(name: str) -> int:
        known = await keeper.nodes() if keeper is not None else []
        return next((one.log_dropped_bytes for one in known if one.name == name), 0)

    node_logs = NodeLogs(hive.hive_id, hive.paths, dropped_bytes=dropped_bytes)
    direct: dict[str, Direct] = {}
    if orchestrator is not None:
        direct[full_name("SY.orchestrator", hive.hive_id)] = orchestrator.answer_here
    admin.bind(overview=_overview(hive, health, orchestrator), logs=node_logs.tail, direct=direct)
    streams = Streams(node_logs, dial, hive.paths, admin.counts)
    page = Path(appliance.http.admin.__file__).parent / "page"
    parts = AdminParts(
        health=_health(health, admin),
        metrics=_metrics(hive, admin, keeper, figures),
        streams=streams,
        page=Page(page) if (page / "index.html").is_file() else None,
        modules=ModuleDoor(modules, hive.paths.spool),
    )
    return AdminApp(admin, parts), streams


def _health(health: HealthService, admin: AdminService) -> Callable[[], Awaitable[Health]]:
    async def source() -> Health:
        report = await health.report()
        reasons = report.reasons
        if not admin.is_connected:
            reasons = (*reasons, "SY.admin is not connected to the router")
        planes = {f"plane.{plane.name}": plane.state for plane in report.planes}
        return Health(reasons=reasons, notices=report.notices, facts={**report.facts, **planes})

    return source


def _overview(
    hive: Hive, health: HealthService, orchestrator: OrchestratorService | None
) -> Callable[[], Awaitable[Mapping[str, object]]]:
    started = time.monotonic()

    async def overview() -> Mapping[str, object]:
        report: HealthReport = await health.report()
        nodes: dict[str, object] = {"connected": report.facts.get("nodes")}
        if orchestrator is not None:
            managed = orchestrator.supervisor.statistics()
            nodes |= {"managed": managed.nodes, "running": managed.active, "parked": managed.parked}
        return {
            "hive_id": hive.hive_id,
            "role": hive.settings.role,
            "version": __version__,
            "uptime_ms": int((time.monotonic() - started) * 1000),
            "reasons": report.reasons,
            "notices": report.notices,
            "facts": report.facts,
            "planes": report.planes,
            "nodes": nodes,
        }

    return overview


def _metrics(
    hive: Hive, admin: AdminService, keeper: TrioPlane | None, figures: Mapping[str, Figures]
) -> Callable[[], Awaitable[bytes]]:
    """The Prometheus text: who is elsewhere is asked at the same time, and has a bounded time to answer."""
    build = {"version": __version__, "hive": hive.hive_id, "role": hive.settings.role}

    async def metrics() -> bytes:
        told: dict[str, object] = {}

        async def ask(name: str, question: Callable[[float], Awaitable[object]]) -> None:
            told[name] = await question(FIGURES_PATIENCE_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "router", admin.router_figures)
            nursery.start_soon(ask, "world", admin.world_figures)
            if keeper is not None:
                nursery.start_soon(ask, "keeper", partial(_keeper_figures, keeper))
        world = told.pop("world")
        sources = [*told.items(), *(world.items() if isinstance(world, Mapping) else [("world", None)])]
        sources += [(name, _own_figures(name, source)) for name, source in figures.items()]
        return render(sources, build=build)

    return metrics


async def _keeper_figures(keeper: TrioPlane, timeout_s: float) -> object:
    try:
        return await keeper.status(timeout_s=timeout_s)
    except FluxbeeError:
        return None


def _own_figures(name: str, source: Figures) -> object:
    try:
        return source()
    except Exception as error:  # one service's defect must not hide the others' figures
        log.exception("statistics_failed", error, code="STATISTICS_FAILED", source=name)
        return None
