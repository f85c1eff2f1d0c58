"""The world plane: the world's rooms, its door and the node SY.world, bound together."""

from __future__ import annotations

from functools import partial

import trio

from appliance import __version__
from appliance.http import Health, serve
from appliance.http.world import WorldDoor
from appliance.http.world.admintoken import admin_token
from appliance.services.runtime import run_service
from appliance.services.world import WorldService
from appliance.settings import Settings
from appliance.system import log as logs
from appliance.world import WorldEngine, WorldOptions

from .hive import Hive, Seams

__all__ = ["world_options", "world_plane"]

log = logs.get_logger("app")


async def world_plane(
    hive: Hive, seams: Seams, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the world, its door and SY.world until cancelled; started means that all of them serve.

    The door opens when the world has caught up: what it answers is the whole state (DF-48). The node comes
    last and is not waited for without end: clients of the door do not need the router.
    """
    settings = hive.settings
    engine = WorldEngine.at(hive.paths, world_options(settings), page=seams.page)
    token = admin_token(settings.world.admin_token, hive.paths.world_admin_token)
    door = WorldDoor(engine, settings, admin_token=token, health=partial(_health, hive, engine))
    service = WorldService(
        engine,
        auth_enabled=settings.world.auth_enabled,
        node_namespaces=settings.world.node_namespaces,
    )
    async with trio.open_nursery() as rooms:
        await rooms.start(engine.run)
        async with trio.open_nursery() as doors:  # closed before the engine: no request meets its end
            await doors.start(door.hub.run)
            opened = await doors.start(serve, door.app, door.config)
            door.statistics = opened.statistics
            log.info("world_listens", address=f"http://{opened.addresses[0]}")
            if settings.world.admin_token is None:
                log.info("world_admin_token", read_it_with=f"cat {hive.paths.world_admin_token}")
            dial = seams.dial("SY.world")
            await doors.start(partial(run_service, "SY.world", service.serve, dial=dial, paths=hive.paths))
            task_status.started()
            await trio.sleep_forever()


def world_options(settings: Settings) -> WorldOptions:
    """What the engine takes from the settings."""
    return WorldOptions.of(settings.world, map_bytes=settings.regions.disk_map_bytes)


async def _health(hive: Hive, engine: WorldEngine) -> Health:
    reasons = [] if engine.ready else ["the world is being recovered"]
    if engine.failure is not None:
        reasons.append(f"events are not stored: {engine.failure}")
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
