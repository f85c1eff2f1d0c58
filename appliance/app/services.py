"""Which SY.* services the control plane has.

A new service is a function here that makes its :class:`Service`, and a line in :func:`services`; the rest of
the composition root takes it from there. Nothing is opened or started here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import trio

from appliance.identity import RegistryLimits
from appliance.keeper import TOGETHER_PLANE
from appliance.services.config_routes import RouteLimits, RouteService
from appliance.services.control_regions import ControlRegions
from appliance.services.health import JournalState
from appliance.services.identity import IdentityService, IdentitySettings
from appliance.services.orchestrator import OrchestratorConfig, OrchestratorService
from appliance.services.runtime import Serve
from appliance.services.storage import StorageService
from appliance.store.journal_types import JournalStatistics
from appliance.store.reserve import Reserve

from .hive import Hive, Seams
from .software import bind_software

__all__ = ["Figures", "Service", "StartedTask", "orchestrator_of", "services"]

Figures = Callable[[], object]
"""A service's ``statistics``."""


class StartedTask(Protocol):
    """Runs until cancelled; started means ready."""

    def __call__(self, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]:
        """Run."""
        ...


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service, as the composition root sees it.

    Attributes:
        name: of its node.
        serve: the node's body.
        opened: what is open while it lives.
        started: runs for its whole life; all of these are ready before the first node connects.
        beside: further tasks for its whole life.
        figures: what it counts, by the name in the metrics.
        journals: what ``/health`` looks at.
        notices: what people should see, and that leaves the hive well.
        journal: figures of its journal, for the metrics.
        answer_status: ``False`` when it answers NODE_STATUS_GET itself.
    """

    name: str
    serve: Serve
    opened: Callable[[], AbstractAsyncContextManager[object]] | None = None
    started: StartedTask | None = None
    beside: tuple[Callable[[], Awaitable[None]], ...] = ()
    figures: Mapping[str, Figures] = {}
    journals: Callable[[], Sequence[JournalState]] = tuple
    notices: Callable[[], Sequence[str]] = tuple
    journal: Callable[[], JournalStatistics] | None = None
    answer_status: bool | None = None


def services(
    hive: Hive, regions: ControlRegions, orchestrator: OrchestratorService | None, reserve: Reserve
) -> tuple[Service, ...]:
    """The services in the order in which they start; SY.admin and SY.health belong to the door."""
    found = [_config_routes(hive, regions, reserve), _identity(hive, regions, reserve), _storage(hive)]
    if orchestrator is not None:
        found.append(_orchestration(hive, orchestrator))
    return tuple(found)


def _config_routes(hive: Hive, regions: ControlRegions, reserve: Reserve) -> Service:
    settings = hive.settings
    routes = RouteService(
        hive.hive_id,
        hive.paths,
        limits=RouteLimits(settings.limits.static_routes, settings.limits.vpn_rules),
        admin_nodes=("*",) if settings.security.local == "open" else settings.security.admin_nodes,
        regions=regions,
        reserve=reserve,
    )
    return Service(
        name="SY.config.routes",
        serve=routes.serve,
        opened=routes.opened,
        beside=(routes.upkeep,),
        journals=routes.journals,
        journal=routes.journal_statistics,
    )


def _identity(hive: Hive, regions: ControlRegions, reserve: Reserve) -> Service:
    settings = hive.settings
    given = settings.identity
    identity = IdentityService(
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
        reserve=reserve,
    )
    return Service(
        name="SY.identity",
        serve=identity.serve,
        opened=identity.opened,
        beside=(identity.upkeep,),
        figures={"identity": identity.statistics},
        journals=identity.journals,
        journal=identity.journal_statistics,
    )


def _storage(hive: Hive) -> Service:
    storage = StorageService(hive.paths)
    return Service(name="SY.storage", serve=storage.serve, figures={"storage": storage.statistics})


def orchestrator_of(hive: Hive, seams: Seams) -> OrchestratorService | None:
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
        reserve=seams.reserve,
    )
    return OrchestratorService(config, keeper)


def _orchestration(hive: Hive, orchestrator: OrchestratorService) -> Service:
    software = bind_software(hive, orchestrator)
    return Service(
        name="SY.orchestrator",
        serve=orchestrator.serve,
        opened=software.opened,
        started=orchestrator.run,
        beside=(software.run,),
        notices=orchestrator.notices,
        figures={
            "orchestrator": orchestrator.statistics,
            "supervisor": orchestrator.supervisor.statistics,
            "packages": software.publish.statistics,
            "updates": software.updates.statistics,
            "history": software.history.statistics,
        },
        answer_status=False,
    )
