"""Planes as processes of the keeper: a trio loop each, or one for all (``design.md §4``)."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import trio

from appliance.keeper import EX_CLEAN, EX_CONFIG, EX_SOFTWARE, TOGETHER_PLANE, Keeper, PlaneContext, PlaneMain
from appliance.keeper.nodes_protocol import Claim
from appliance.keeper.trio_plane import TrioPlane
from appliance.router.claims import Claims
from appliance.router.connection import Peer
from appliance.router.listen import check_socket_directory
from appliance.router.plane import DataPlane
from appliance.sdk import Dial
from appliance.services.health import PlaneState
from appliance.settings import Configuration, Settings
from appliance.store.files import storage_error
from appliance.store.generations import GenerationPage
from appliance.store.reserve import Reserve
from appliance.system import log as logs
from appliance.wire.errors import FluxbeeError, Misconfigured

from .control import control_plane
from .hive import Hive, Seams
from .world import world_plane

__all__ = ["data_plane", "plane_mode", "run"]

SWITCH_INTERVAL_S: Final = 0.0005
"""How long another thread may hold the interpreter while a plane's loop waits (``design.md §4``)."""

BEAT_EVERY_S: Final = 10.0
BEAT_VALID_S: Final = 60.0
"""A plane whose loop gave no sign of life for so long is killed and started again by the keeper."""

SPARE_DESCRIPTORS: Final = 2048
"""Open files of a plane besides its nodes: journals, regions, doors and whoever waits to say HELLO."""

TOGETHER_BELOW_BYTES: Final = 512 << 20
"""``planes: auto`` runs one process on a box with less memory than this, or one core."""

log = logs.get_logger("app")


async def data_plane(
    hive: Hive,
    page: GenerationPage,
    *,
    own_eventfd: int | None = None,
    claims: Claims | None = None,
    task_status: trio.TaskStatus[DataPlane] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Route until cancelled; started means that nodes can connect."""
    plane = DataPlane(hive.data_plane_config(), hive.paths, page, own_eventfd=own_eventfd, claims=claims)
    await plane.run(task_status=task_status)


def _in_plane(body: Callable[[TrioPlane, GenerationPage], Awaitable[None]], hive: Hive) -> PlaneMain:
    """A plane's main function: a trio loop with the keeper's orders and one body, until told to stop."""

    def main(context: PlaneContext) -> int:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _allow_descriptors(hive.settings.limits.nodes)
        gc.freeze()
        try:
            trio.run(_live, body, hive, context)
        except (FluxbeeError, BaseExceptionGroup) as error:
            leaves = list(_leaves(error))
            if not all(isinstance(leaf, FluxbeeError) for leaf in leaves):
                raise
            for leaf in leaves:
                log.error(
                    "plane_failed", code="PLANE_FAILED", error=str(leaf), remedy=getattr(leaf, "remedy", "")
                )
            return EX_CONFIG if any(isinstance(leaf, Misconfigured) for leaf in leaves) else EX_SOFTWARE
        return EX_CLEAN

    return main


def _allow_descriptors(nodes: int) -> None:
    """Raise the soft limit of open files to what so many nodes need, as far as the hard one lets us.

    Service managers give 1024, which is less than the nodes that a hive may have. Only planes do this: the
    keeper's other children keep the low limit that programs with ``select`` rely on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = nodes + SPARE_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning("descriptors_short", code="DESCRIPTORS_SHORT", limit=soft, wanted=wanted)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


async def _live(
    body: Callable[[TrioPlane, GenerationPage], Awaitable[None]], hive: Hive, context: PlaneContext
) -> None:
    keeper = TrioPlane(context)
    page = GenerationPage.create(hive.paths.generations)
    for name, fd in context.eventfds.items():
        if name != context.name:
            page.add_waker(fd)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        nursery.start_soon(partial(keeper.beat, every_s=BEAT_EVERY_S, valid_s=BEAT_VALID_S))
        async with trio.open_nursery() as inner:
            inner.start_soon(body, keeper, page)
            await keeper.wait_stop()
            inner.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


def _dial_through(keeper: TrioPlane) -> Callable[[str], Dial]:
    def for_service(name: str) -> Dial:
        async def dial() -> socket.socket:
            return await keeper.open_link(name)

        return dial

    return for_service


def _dial_into(plane: DataPlane, name: str) -> Callable[[str], Dial]:
    def for_service(service: str) -> Dial:
        async def dial() -> socket.socket:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            plane.attach(theirs, Peer(plane=name))
            await trio.lowlevel.checkpoint()
            return ours

        return dial

    return for_service


async def _take_links(keeper: TrioPlane, plane: DataPlane) -> None:
    async for link in keeper.links:
        plane.attach(link.sock, Peer(plane=link.plane))


def _claims_of(keeper: TrioPlane) -> Claims:
    """Who speaks for supervised names, kept current by what the keeper says."""
    claims = Claims()

    def take(name: str, claim: Claim | None) -> None:
        if claim is None:
            claims.unclaim(name)
        else:
            claims.claim(name, session=claim.pid, token_sha256=claim.token_sha256, cgroup=claim.cgroup)

    keeper.watch_claims(take)
    return claims


def _keeper_seams(hive: Hive, keeper: TrioPlane, page: GenerationPage, dial: Callable[[str], Dial]) -> Seams:
    async def planes() -> Sequence[PlaneState]:
        status = await keeper.status(timeout_s=0.7)
        return [
            PlaneState(one.name, one.state, one.restarts, one.parked or one.last_exit)
            for one in status.planes
        ]

    return Seams(
        dial=dial,
        page=page,
        own_eventfd=keeper.context.eventfds.get(keeper.context.name),
        planes=planes,
        keeper=keeper,
        reserve=Reserve(hive.paths.reserve, hive.settings.journals.reserve_bytes),
    )


def _plane_bodies(hive: Hive) -> dict[str, Callable[[TrioPlane, GenerationPage], Awaitable[None]]]:
    async def data(keeper: TrioPlane, page: GenerationPage) -> None:
        eventfd = keeper.context.eventfds.get(keeper.context.name)
        async with trio.open_nursery() as nursery:
            claims = _claims_of(keeper)
            plane = await nursery.start(partial(data_plane, hive, page, own_eventfd=eventfd, claims=claims))
            nursery.start_soon(_take_links, keeper, plane)
            await keeper.ready()

    async def control(keeper: TrioPlane, page: GenerationPage) -> None:
        seams = _keeper_seams(hive, keeper, page, _dial_through(keeper))
        async with trio.open_nursery() as nursery:
            await nursery.start(control_plane, hive, seams)
            await keeper.ready()

    async def world(keeper: TrioPlane, page: GenerationPage) -> None:
        seams = _keeper_seams(hive, keeper, page, _dial_through(keeper))
        async with trio.open_nursery() as nursery:
            await nursery.start(world_plane, hive, seams)
            await keeper.ready()

    async def everything(keeper: TrioPlane, page: GenerationPage) -> None:
        async with trio.open_nursery() as routing:
            plane = await routing.start(partial(data_plane, hive, page, claims=_claims_of(keeper)))
            async with trio.open_nursery() as services:
                seams = _keeper_seams(hive, keeper, page, _dial_into(plane, "control"))
                await services.start(control_plane, hive, seams)
                await services.start(world_plane, hive, seams)
                await keeper.ready()

    return {"data": data, "control": control, "world": world, TOGETHER_PLANE: everything}


def plane_mode(settings: Settings, *, cores: int, memory_bytes: int) -> str:
    """``together`` or ``apart``; ``auto`` decides by the size of the box (``design.md §4``)."""
    if settings.planes != "auto":
        return settings.planes
    return "together" if cores < 2 or memory_bytes < TOGETHER_BELOW_BYTES else "apart"


def run(configuration: Configuration, *, ready: Callable[[Hive, str], None] | None = None) -> int:
    """Run the appliance until it is told to stop.

    Args:
        configuration: what ``fluxbee config check`` accepts.
        ready: called in the parent before the planes start, with the planes' mode; for a greeting.

    Returns:
        exit code: 0 clean stop, 70 every plane failed, 75 something had to be killed, 78 configuration.

    Raises:
        Conflict: another one runs here.
        Misconfigured, Unavailable, Damaged: it cannot start.
    """
    settings = configuration.settings
    logs.configure(level=settings.log.level, format=settings.log.format)
    logs.bridge_stdlib()
    hive = Hive.of(configuration)
    check_socket_directory(hive.paths.routers)
    for notice in configuration.notices:
        log.warning("configuration_notice", code=notice.code, setting=notice.key, notice=notice.message)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    mode = plane_mode(settings, cores=len(os.sched_getaffinity(0)), memory_bytes=pages)
    names = (TOGETHER_PLANE,) if mode == "together" else ("data", "control", "world")
    bodies = _plane_bodies(hive)
    try:
        hive.paths.run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(hive.paths.run)) from error
    if ready is not None:
        ready(hive, mode)
    keeper = Keeper({name: _in_plane(bodies[name], hive) for name in names}, run_directory=hive.paths.run)
    gc.collect()
    return keeper.run()
