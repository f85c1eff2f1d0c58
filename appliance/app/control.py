"""The control plane: the SY.* services and the admin door, bound together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import msgspec
import trio

from appliance.http import DoorConfig, envelope_shape, serve
from appliance.identity import RegistryLimits
from appliance.keeper import TOGETHER_PLANE
from appliance.services.config_routes import RouteLimits, RouteService
from appliance.services.control_regions import ControlRegions
from appliance.services.health import HealthService
from appliance.services.identity import IdentityService, IdentitySettings
from appliance.services.orchestrator import OrchestratorConfig, OrchestratorService
from appliance.services.orchestrator.software import Software
from appliance.services.runtime import run_service
from appliance.services.storage import StorageService
from appliance.store.region_admit import CONTROL
from appliance.system import log as logs

from .door import Figures, admin_application, admin_service
from .hive import Hive, Seams
from .software import bind_software

__all__ = ["control_plane"]

log = logs.get_logger("app")


async def control_plane(
    hive: Hive, seams: Seams, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the admin door and the SY.* services until cancelled; started means that all are connected."""
    settings = hive.settings
    control = msgspec.structs.replace(CONTROL, map_bytes=settings.regions.disk_map_bytes)
    regions = ControlRegions(control, hive.paths.regions_disk, seams.page, hive.paths.published)
    routes = RouteService(
        hive.hive_id,
        hive.paths,
        limits=RouteLimits(settings.limits.static_routes, settings.limits.vpn_rules),
        admin_nodes=("*",) if settings.security.local == "open" else settings.security.admin_nodes,
        regions=regions,
    )
    identity = _identity(hive, regions)
    storage = StorageService(hive.paths)
    orchestrator = _orchestrator(hive, seams)
    health = HealthService(
        hive.hive_id,
        settings.role,
        planes=seams.planes,
        journals=lambda: [*routes.journals(), *identity.journals()],
        notices=tuple if orchestrator is None else orchestrator.notices,
        places=(hive.paths.lib, hive.paths.run, settings.storage_dir),
    )

    admin = admin_service(hive)
    figures: dict[str, Figures] = {
        "admin": admin.statistics,
        "identity": identity.statistics,
        "storage": storage.statistics,
        "regions": regions.statistics,
    }
    software: Software | None = None
    if orchestrator is not None:
        figures["orchestrator"] = orchestrator.statistics
        figures["supervisor"] = orchestrator.supervisor.statistics
        software = bind_software(hive, orchestrator)
        figures["packages"] = software.publish.statistics
        figures["updates"] = software.updates.statistics
        figures["history"] = software.history.statistics
    application, streams = admin_application(
        hive,
        admin,
        health,
        orchestrator,
        dial=seams.dial("SY.admin.tap"),
        keeper=seams.keeper,
        figures=figures,
    )

    async with AsyncExitStack() as stack:
        stack.enter_context(regions)
        await stack.enter_async_context(routes.opened())
        await stack.enter_async_context(identity.opened())
        if software is not None:
            await stack.enter_async_context(software.opened())
        nursery = await stack.enter_async_context(trio.open_nursery())
        for upkeep in (regions.upkeep, regions.publish, routes.upkeep, identity.upkeep):
            nursery.start_soon(upkeep)
        door = DoorConfig(
            name="admin",
            listen=settings.admin.listen,
            key="admin.listen",
            token=settings.http.token,
            allowed_hosts=frozenset(settings.http.hosts),
            error_shape=envelope_shape,
        )
        await nursery.start(admin.run)
        nursery.start_soon(streams.run)
        opened = await nursery.start(serve, application, door)
        figures["door"] = opened.statistics
        log.info("admin_listens", address=f"http://{opened.addresses[0]}")
        if orchestrator is not None:
            await nursery.start(orchestrator.run)
        if software is not None:
            nursery.start_soon(software.run)
        # The door is open first: it can tell why a service does not come up.
        for name, body in (
            ("SY.config.routes", routes.serve),
            ("SY.identity", identity.serve),
            ("SY.storage", storage.serve),
            ("SY.health", health.serve),
            ("SY.admin", admin.serve),
        ):
            await nursery.start(partial(run_service, name, body, dial=seams.dial(name), paths=hive.paths))
        if orchestrator is not None:
            body = partial(run_service, "SY.orchestrator", orchestrator.serve, answer_status=False)
            await nursery.start(partial(body, dial=seams.dial("SY.orchestrator"), paths=hive.paths))
        task_status.started()
        await trio.sleep_forever()


def _orchestrator(hive: Hive, seams: Seams) -> OrchestratorService | None:
    """SY.orchestrator; without a keeper there is nobody to start nodes."""
    keeper = seams.keeper
    if keeper is None:
        return None
    settings = hive.settings

    async def restart_plane(plane: str) -> None:
        alone = keeper.context.name == TOGETHER_PLANE
        await keeper.restart(TOGETHER_PLANE if alone else plane)

    config = OrchestratorConfig(
        hive=hive.hive_id,
        role=settings.role,
        paths=hive.paths,
        settings=settings.orchestrator,
        admin_nodes=settings.security.admin_nodes,
        open_security=settings.security.local == "open",
        restart_plane=restart_plane,
    )
    return OrchestratorService(config, keeper)


def _identity(hive: Hive, regions: ControlRegions) -> IdentityService:
    settings = hive.settings
    given = settings.identity
    return IdentityService(
        hive.hive_id,
        hive.paths,
        settings=IdentitySettings(
            is_primary=settings.role == "motherbee",
            frontdesk=settings.frontdesk_name(hive.hive_id),
            default_tenant=given.default_tenant,
            auto_tenant=given.auto_tenant,
            frontdesk_tenant_status=given.frontdesk_tenant_status,
            limits=RegistryLimits(ilks=given.max_ilks, tenants=given.max_tenants),
        ),
        regions=regions,
    )
