"""The control plane: the admin door first, then the SY.* services that :mod:`.services` names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

import msgspec
import trio

from appliance.http import DoorConfig, envelope_shape, serve
from appliance.http.admin import AdminApp
from appliance.services.control_regions import ControlRegions
from appliance.services.health import HealthService
from appliance.services.runtime import run_service
from appliance.store.region_admit import CONTROL
from appliance.system import log as logs

from .door import admin_application, admin_service, module_store
from .hive import Hive, Seams
from .services import Figures, Service, orchestrator_of, services

__all__ = ["control_plane"]

log = logs.get_logger("app")


async def control_plane(
    hive: Hive, seams: Seams, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the admin door and the SY.* services until cancelled; started means that all are connected."""
    regions = _regions(hive, seams)
    orchestrator = orchestrator_of(hive, seams)
    offered = services(hive, regions, orchestrator, seams.reserve)
    health = _health(hive, seams, offered)
    admin = admin_service(hive, seams.reserve)
    own = (
        Service(name="SY.health", serve=health.serve),
        Service(name="SY.admin", serve=admin.serve, figures={"admin": admin.statistics}),
    )
    modules = module_store(hive, seams.reserve)
    figures = {
        **_figures(regions, (*offered, *own)),
        "modules": modules.statistics,
        "reserve": seams.reserve.statistics,
    }
    application, streams = admin_application(
        hive,
        admin,
        health,
        orchestrator,
        dial=seams.dial("SY.admin.tap"),
        keeper=seams.keeper,
        figures=figures,
        modules=modules,
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(regions)
        for service in offered:
            if service.opened is not None:
                await stack.enter_async_context(service.opened())
        nursery = await stack.enter_async_context(trio.open_nursery())
        own_tasks = (seams.reserve.keep, regions.upkeep, regions.publish)
        for task in (*own_tasks, *(task for one in offered for task in one.beside)):
            nursery.start_soon(task)
        # The door is open before the nodes: it can tell why a service does not come up.
        await nursery.start(admin.run)
        nursery.start_soon(streams.run)
        figures["door"] = await nursery.start(_door, hive, application)
        await _start(nursery, hive, seams, (*offered, *own))  # SY.admin last: then its peers are there
        task_status.started()
        await trio.sleep_forever()


def _health(hive: Hive, seams: Seams, offered: Sequence[Service]) -> HealthService:
    return HealthService(
        hive.hive_id,
        hive.settings.role,
        planes=seams.planes,
        journals=lambda: [state for service in offered for state in service.journals()],
        notices=lambda: [notice for service in offered for notice in service.notices()],
        places=(hive.paths.lib, hive.paths.run, hive.settings.storage_dir),
        reserve=seams.reserve,
    )


def _regions(hive: Hive, seams: Seams) -> ControlRegions:
    limits = msgspec.structs.replace(CONTROL, map_bytes=hive.settings.regions.disk_map_bytes)
    return ControlRegions(limits, hive.paths.regions_disk, seams.page, hive.paths.published)


def _figures(regions: ControlRegions, offered: Sequence[Service]) -> dict[str, Figures]:
    """Everybody's statistics by the name in the metrics; the door adds its own when it is open."""
    figures: dict[str, Figures] = {
        "regions": regions.statistics,
        "journals": lambda: [service.journal() for service in offered if service.journal is not None],
    }
    for service in offered:
        figures |= service.figures
    return figures


async def _door(
    hive: Hive, application: AdminApp, *, task_status: trio.TaskStatus[Figures] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the admin door; started means that it listens, and gives its statistics."""
    settings = hive.settings
    config = DoorConfig(
        name="admin",
        listen=settings.admin.listen,
        key="admin.listen",
        token=settings.http.token,
        allowed_hosts=frozenset(settings.http.hosts),
        error_shape=envelope_shape,
    )
    async with trio.open_nursery() as nursery:
        opened = await nursery.start(serve, application, config)
        log.info("admin_listens", address=f"http://{opened.addresses[0]}")
        task_status.started(opened.statistics)


async def _start(nursery: trio.Nursery, hive: Hive, seams: Seams, offered: Sequence[Service]) -> None:
    """Start what has to be ready before any node, then the nodes one after the other."""
    for service in offered:
        if service.started is not None:
            await nursery.start(service.started)
    for service in offered:
        run = partial(run_service, service.name, service.serve, answer_status=service.answer_status)
        await nursery.start(partial(run, dial=seams.dial(service.name), paths=hive.paths))
