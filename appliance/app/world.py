"""The world plane: the world's rooms, its door and the node SY.world, bound together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from appliance import __version__
from appliance.http import Health, serve
from appliance.http.world import WorldDoor
from appliance.http.world.admintoken import admin_token
from appliance.http.world.connectors import ConnectorDesk, NoConnectors
from appliance.http.world.credentials import Credentials
from appliance.http.world.sources import SourcesDesk
from appliance.services.runtime import run_service
from appliance.services.world import WorldService
from appliance.settings import Settings
from appliance.store.files import STORAGE_FAILED, STORAGE_FULL, STORAGE_READ_ONLY
from appliance.store.reserve import Reserve
from appliance.system import log as logs
from appliance.wire.errors import Damaged, Unavailable
from appliance.world import WorldEngine, WorldOptions
from appliance.world.connectors import (
    KNOWN,
    ConnectorOptions,
    Connectors,
    OAuthClientOptions,
    key_ring,
)

from .hive import Hive, Seams

__all__ = ["connector_options", "world_options", "world_plane"]

log = logs.get_logger("app")


_RETRY_S: Final = 5.0
_PASSING: Final = frozenset({STORAGE_FULL, STORAGE_READ_ONLY, STORAGE_FAILED})


class _StartedOnce:
    """Says that something is started, the first time."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._status: trio.TaskStatus[None] | None = task_status

    def started(self, value: None = None) -> None:
        """Say it."""
        status, self._status = self._status, None
        if status is not None:
            status.started()


async def world_plane(
    hive: Hive, seams: Seams, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the world until cancelled; one that its medium does not let open waits, and nobody waits for it.

    The region of the world cannot be opened on a medium that takes no writes. In one process with the router
    the plane must not fall for that (``design.md §5``, full or failing disk).
    """
    started = _StartedOnce(task_status)
    told = ""
    while True:
        why: str | None = None
        try:
            await _world(hive, seams, task_status=started)
        except (Unavailable, BaseExceptionGroup) as error:
            why = _waits_for(error)
            if why is None:
                raise
        if why is not None and why != told:
            told = why
            log.error("world_waits", code="WORLD_WAITS", error=why)
        started.started()
        await trio.sleep(_RETRY_S)


def _waits_for(error: BaseException) -> str | None:
    """What the medium said, if that is all that went wrong."""
    if isinstance(error, BaseExceptionGroup):
        found = [_waits_for(one) for one in error.exceptions]
        return None if None in found else found[0]
    passing = isinstance(error, Unavailable) and error.code in _PASSING
    return str(error) if passing else None


async def _world(hive: Hive, seams: Seams, *, task_status: trio.TaskStatus[None]) -> None:
    """Run the world, its door and SY.world until cancelled; started means that all of them serve.

    The door opens when the world has caught up: what it answers is the whole state (DF-48). The node comes
    last: clients of the door do not need the router. At the stop the engine outlives the door's grace.
    """
    settings = hive.settings
    engine = WorldEngine.at(hive.paths, world_options(settings), page=seams.page, reserve=seams.reserve)
    token = admin_token(settings.world.admin_token, hive.paths.world_admin_token)
    # The doors are closed before the engine: no request meets its end.
    async with _running(engine), trio.open_nursery() as doors:
        connectors = await _connectors(hive, engine, doors)
        door = WorldDoor(
            engine,
            settings,
            admin_token=token,
            health=partial(_health, hive, engine, seams.reserve),
            connectors=partial(_desk, hive, connectors),
        )
        door.connector_statistics = None if connectors is None else connectors.statistics
        await doors.start(door.hub.run)
        opened = await doors.start(serve, door.app, door.config)
        door.statistics = opened.statistics
        log.info("world_listens", address=f"http://{opened.addresses[0]}")
        if settings.world.admin_token is None:
            log.info("world_admin_token", read_it_with=f"cat {hive.paths.world_admin_token}")
        service = WorldService(
            engine,
            auth_enabled=settings.world.auth_enabled,
            node_namespaces=settings.world.node_namespaces,
            figures=door.figures,
        )
        dial = seams.dial("SY.world")
        await doors.start(partial(run_service, "SY.world", service.serve, dial=dial, paths=hive.paths))
        task_status.started()
        await trio.sleep_forever()


@asynccontextmanager
async def _running(engine: WorldEngine) -> AsyncIterator[None]:
    """Run ``engine`` for the block, and until its end even when what surrounds both is cancelled."""
    life = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with life:
            await engine.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        life.shield = True  # not before: a recovery that takes long must not hold up a stop
        try:
            yield
        finally:
            life.cancel()


async def _connectors(hive: Hive, engine: WorldEngine, doors: trio.Nursery) -> Connectors | None:
    """What feeds this world, under way; ``None`` when it cannot be: the world serves all the same."""
    settings = hive.settings
    try:
        ring = await trio.to_thread.run_sync(key_ring, settings.world.encryption_key, hive.paths.world_keys)
        connectors = Connectors.at(
            hive.paths, engine, connector_options(hive), ring, _oauth_clients(settings)
        )
        await doors.start(connectors.run)
    except (Damaged, Unavailable) as error:
        log.error("world_connectors_off", code="WORLD_CONNECTORS_OFF", error=str(error), remedy=error.remedy)
        return None
    return connectors


def _desk(hive: Hive, connectors: Connectors | None, credentials: Credentials) -> ConnectorDesk:
    if connectors is None:
        return NoConnectors(credentials)
    base = hive.settings.world.oauth.callback_base_url
    return SourcesDesk(connectors, credentials, callback_base=base)


def connector_options(hive: Hive) -> ConnectorOptions:
    """What connectors take from the settings."""
    connectors, sysinfo = hive.settings.world.connectors, hive.settings.world.sysinfo
    return ConnectorOptions(
        hive_id=hive.hive_id,
        taps=dict(one.split("=", 1) for one in hive.settings.world.taps),
        tap_timeout_s=float(connectors.tap_timeout_s),
        tap_memory_bytes=connectors.tap_memory_bytes,
        enabled=connectors.enabled,
        reach=connectors.reach,
        allowed_hosts=connectors.allowed_hosts,
        at_once=connectors.at_once,
        max_sources=connectors.max_sources,
        answer_bytes=connectors.answer_bytes,
        timeout_s=float(connectors.timeout_s),
        github_url=connectors.github_url,
        sysinfo_enabled=sysinfo.enabled,
        sysinfo_namespace=sysinfo.namespace,
        sysinfo_interval_s=float(sysinfo.interval_s),
    )


def _oauth_clients(settings: Settings) -> dict[str, OAuthClientOptions]:
    given = settings.world.oauth
    return {
        name: OAuthClientOptions(
            client_id=client.client_id,
            client_secret=client.client_secret,
            authorize_url=client.authorize_url,
            token_url=client.token_url,
        )
        for name, client in ((name, getattr(given, name)) for name in KNOWN)
    }


def world_options(settings: Settings) -> WorldOptions:
    """What the engine takes from the settings."""
    return WorldOptions.of(settings.world, map_bytes=settings.regions.disk_map_bytes)


async def _health(hive: Hive, engine: WorldEngine, reserve: Reserve) -> Health:
    reasons = [] if engine.ready else ["the world is being recovered"]
    if engine.failure is not None:
        reasons.append(f"events are not stored: {engine.failure}")
    reasons += reserve.reasons()
    statistics = engine.statistics()
    return Health(
        reasons=tuple(reasons),
        facts={
            "version": __version__,
            "hive_id": hive.hive_id,
            "durability": "sync",
            "entities": statistics.entities,
            "last_seq": statistics.last_seq,
        },
    )
