"""The data plane's body: journals, regions, engine and shell put together, and kept up.

Order of starting: the listening socket comes last, when tables and counters stand; a node that connects in
between waits in the backlog. Business nodes are held until the route configuration has been read once.
Order of stopping: what was acknowledged is in the journals; they are closed with their clean mark.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import Final

import msgspec
import trio

from appliance.store.generations import THREAD_TOP, GenerationPage
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec, JournalStatistics
from appliance.store.layouts import NODES, ROUTERS, THREADS, RouterRow
from appliance.store.published import Publisher
from appliance.store.region import Environment
from appliance.store.region_admit import CONTROL, LIVE, EnvironmentFiles, EnvironmentSpec
from appliance.store.replay import replay
from appliance.store.reserve import Reserve
from appliance.system.boot import boot_id
from appliance.system.log import get_logger
from appliance.system.paths import Paths
from appliance.wire.errors import FluxbeeError

from .claims import Claims
from .config import EngineSettings
from .config_view import ConfigView
from .connection import Peer
from .engine import Engine
from .identity import load_router_uuid
from .listen import listen_for_nodes
from .live_regions import LiveRegions
from .shell import Shell
from .thread_ledger import ThreadLedger
from .threads import ThreadCounters
from .turns import TurnBudget, TurnLog

__all__ = ["DataPlane", "DataPlaneConfig"]

_TURNS: Final = "storage.turns"
_THREADS: Final = "threads"
_PUBLISHED: Final = frozenset({ROUTERS.name, NODES.name})
_UPKEEP_S: Final = 5.0
_MAINTAIN_S: Final = 60.0
_REFUSED_S: Final = 1.0
_STOP_S: Final = 3.0
_IMAGE_AFTER_BYTES: Final = 8 << 20
"""A base image of the thread ledger is due after so many bytes of reservations."""

log = get_logger("router")


class DataPlaneConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the data plane takes from ``hive.yaml``; ``engine.router_uuid`` comes from the identity file."""

    engine: EngineSettings
    socket_mode: int = 0o660
    socket_group: str = "fluxbee"
    thread_capacity: int = 65_536
    turn_budget: TurnBudget = TurnBudget()
    turns_keep_bytes: int = 2_000_000_000
    turns_keep_s: float = 7 * 86_400.0
    reserve_bytes: int = 0
    flush_interval_s: float = 0.25
    flush_bytes: int = 1 << 20
    sync_interval_s: float = 1.0
    live: EnvironmentSpec = LIVE


class DataPlane:
    """One router with everything it keeps. Run it once.

    Args:
        config: settings.
        paths: where things lie.
        page: where generations are announced and read.
        own_eventfd: readable when another process announced a generation; ``None`` when there is none.
        claims: who speaks for supervised names; by default no name is supervised.
    """

    def __init__(
        self,
        config: DataPlaneConfig,
        paths: Paths,
        page: GenerationPage,
        *,
        own_eventfd: int | None = None,
        claims: Claims | None = None,
    ) -> None:
        self._claims = Claims() if claims is None else claims  # an empty one is false
        self._config = config
        self._paths = paths
        self._page = page
        self._eventfd = own_eventfd
        self._waker = -1
        self._note_due = trio.Event()
        self._ledger_refused = False

    def attach(self, sock: socket.socket, peer: Peer) -> None:
        """Take a plane's end of a socketpair as a connection of the appliance itself."""
        self.shell.attach(sock, peer)

    async def run(self, *, task_status: trio.TaskStatus[DataPlane] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started means that nodes can connect.

        Raises:
            Conflict: another router runs here.
            Unavailable, Damaged, Misconfigured: it cannot start; the message says why.
        """
        paths, settings = self._paths, self._config.engine
        path = paths.router_identity(settings.router_name)
        uuid = load_router_uuid(path, settings.router_name, int(time.time()))
        settings = msgspec.structs.replace(settings, router_uuid=uuid)
        async with trio.open_nursery() as nursery:
            with ExitStack() as closing:
                closing.callback(nursery.cancel_scope.cancel)
                self._open_regions(settings, closing)
                await self._open_journals(nursery, closing)
                self._build(settings, closing)
                await self._ledger.begin()
                try:
                    nursery.start_soon(self._upkeep)
                    nursery.start_soon(self._publisher.run)
                    task_status.started(self)
                    log.info("router_listens", socket=str(self._socket_path), name=settings.router_name)
                    await self.shell.run()
                finally:
                    with trio.move_on_after(_STOP_S, shield=True):
                        await self._note_stop()

    # --- starting --------------------------------------------------------------------------------------

    def _open_regions(self, settings: EngineSettings, closing: ExitStack) -> None:
        directory = self._paths.regions_tmp
        self._live = Environment(self._config.live, directory, (ROUTERS, NODES, THREADS), page=self._page)
        closing.callback(self._live.close)
        if self._live.opened.set_aside is not None:
            log.warning(
                "live_region_set_aside", code="LIVE_REGION_SET_ASIDE", reason=self._live.opened.reason
            )
        self._regions = LiveRegions(self._live, settings.router_uuid)
        row = RouterRow(settings.router_name, settings.hive, True, time.time_ns() // 1_000_000)
        try:
            self._regions.begin(row)
        except FluxbeeError as error:
            # A view that cannot be written costs a view, not the routing (design.md §5).
            log.error("live_region_failed", code="LIVE_REGION_FAILED", error=str(error))
        self._publisher = Publisher(self._live, self._paths.published / f"{LIVE.name}.mdb")
        self._live.on_change(self._publish)
        files = EnvironmentFiles(self._paths.regions_disk, CONTROL.name)
        self._view = ConfigView(files.data, self._page)
        closing.callback(self._view.close)

    def _publish(self, regions: frozenset[str]) -> None:
        if not regions.isdisjoint(_PUBLISHED):  # thread numbers move all the time and are nobody's to read
            self._publisher.notify()

    async def _open_journals(self, nursery: trio.Nursery, closing: ExitStack) -> None:
        config = self._config
        turns = JournalSpec(
            name=_TURNS,
            kind="log",
            durability="relaxed",
            keep_bytes=config.turns_keep_bytes,
            keep_age_s=config.turns_keep_s,
        )
        threads = JournalSpec(name=_THREADS, kind="state", durability="relaxed", segment_bytes=4 << 20)
        self._turns = await self._journal(turns, nursery, closing)
        self._threads = await self._journal(threads, nursery, closing)
        words = self._page.words
        self._ledger = ThreadLedger(
            self._threads,
            self._live,
            boot_id(),
            recall=partial(words.__getitem__, THREAD_TOP),
            remember=partial(words.__setitem__, THREAD_TOP),
            on_due=lambda: self._note_due.set(),
        )
        await self._ledger.replay(replay(self._threads))

    async def _journal(self, spec: JournalSpec, nursery: trio.Nursery, closing: ExitStack) -> Journal:
        journal = await Journal.opened(self._paths.journals / spec.name, self._paced(spec))
        with trio.CancelScope(
            shield=True
        ):  # who is cancelled here would wait for a task that is out of reach
            scope = await nursery.start(self._keep, journal)
        closing.callback(scope.cancel)
        return journal

    def _paced(self, spec: JournalSpec) -> JournalSpec:
        config = self._config
        return msgspec.structs.replace(
            spec,
            flush_interval_s=config.flush_interval_s,
            flush_bytes=config.flush_bytes,
            sync_interval_s=config.sync_interval_s,
        )

    async def _keep(self, journal: Journal, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Run a journal out of reach of the plane's cancellation: it ends after whoever writes to it."""
        with trio.CancelScope(shield=True) as scope:
            async with journal:
                task_status.started(scope)
                await trio.sleep_forever()

    def _build(self, settings: EngineSettings, closing: ExitStack) -> None:
        config = self._config
        self._turn_log = TurnLog(
            self._turns,
            config.turn_budget,
            time.monotonic(),
            is_full=Reserve(self._paths.reserve, config.reserve_bytes).is_full,
        )
        self.engine = Engine(
            settings,
            threads=ThreadCounters(self._ledger, config.thread_capacity),
            turns=self._turn_log,
        )
        self.engine.verbs.extra_status = self._status
        self.engine.greeter.claims = self._claims
        listener = listen_for_nodes(
            self._paths.routers,
            settings.router_uuid,
            mode=config.socket_mode,
            group=config.socket_group,
        )
        self._socket_path = listener.getsockname()
        self.shell = Shell(self.engine, listener, before_write=self._after_turn)
        closing.callback(self.shell.close)  # a stop may come before the shell runs
        self._watch_generations(closing)
        self._load_configuration()

    def _watch_generations(self, closing: ExitStack) -> None:
        """Wake the shell when a generation moves: another process's through its eventfd, ours through one."""
        fd = self._eventfd
        if fd is None:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            closing.callback(os.close, fd)
            self._page.add_waker(fd)
            closing.callback(self._page.remove_waker, fd)
        self._waker = fd
        self._claims.on_change = partial(os.eventfd_write, fd, 1)  # the next turn checks who is there
        closing.callback(setattr, self._claims, "on_change", None)
        self.shell.watch(fd, partial(_drain, fd))

    # --- every turn ------------------------------------------------------------------------------------

    def _after_turn(self) -> None:
        engine = self.engine
        if self._view.changed:
            self._load_configuration()
        if engine.changes:
            changes, engine.changes = engine.changes, []
            self._regions.apply(changes)

    def _load_configuration(self) -> None:
        tables = self._view.read()
        if tables is None:
            return
        moved = self.engine.fib.configure(tables.routes, tables.vpns)
        self.engine.changes += [("vpn", connection) for connection in moved]
        if not self.engine.greeter.configured:
            self.engine.greeter.release()
        log.info(
            "configuration_loaded",
            version=tables.meta.doc_version,
            routes=len(tables.routes),
            vpns=len(tables.vpns),
            moved=len(moved),
        )

    # --- upkeep and end --------------------------------------------------------------------------------

    async def _upkeep(self) -> None:
        """What need not be done in a turn: notes of the ledger and its image, gaps, readers that died."""
        maintain_at = trio.current_time() + _UPKEEP_S
        while True:
            with trio.move_on_after(_UPKEEP_S):
                await self._note_due.wait()
            self._note_due = trio.Event()
            self._turn_log.tend(time.monotonic())
            if self._regions.behind:
                self._regions.rewrite(self.engine.fib.by_uuid.values())
            if self._view.failure is not None:
                self._view.look_again()
                os.eventfd_write(self._waker, 1)
            if trio.current_time() >= maintain_at:
                maintain_at = trio.current_time() + _MAINTAIN_S
                self._maintain()
            if not await self._keep_ledger():
                await trio.sleep(_REFUSED_S)
                self._note_due.set()

    def _maintain(self) -> None:
        try:
            self._live.upkeep()
        except FluxbeeError as error:
            log.warning("live_region_maintenance", code="LIVE_REGION_MAINTENANCE", error=str(error))

    async def _keep_ledger(self) -> bool:
        """Write what the thread ledger has to say; False when the disk refuses."""
        try:
            if self._ledger.wants_note:
                await self._ledger.note()
            if self._threads.statistics().bytes_since_base > _IMAGE_AFTER_BYTES:
                upto, records = self._ledger.image()
                image = list(records)
                await self._threads.sync()
                await self._threads.write_base(upto, image)
        except FluxbeeError as error:
            if not self._ledger_refused:
                log.warning("thread_ledger_upkeep", code="THREAD_LEDGER_UPKEEP", error=str(error))
            self._ledger_refused = True
            return False
        self._ledger_refused = False
        return True

    async def _note_stop(self) -> None:
        self._turn_log.write_gap()
        try:
            await self._ledger.end()
        except FluxbeeError as error:
            log.warning("no_clean_stop", code="NO_CLEAN_STOP", error=str(error))

    def _status(self) -> dict[str, object]:
        """What this plane adds to ROUTER_STATUS."""
        journals = [self._turns.statistics(), self._threads.statistics()]
        live = self._regions.statistics()
        return {
            "shell_turns": self.shell.turns,
            "journals": [_journal_state(one) for one in journals],
            "regions": [{"name": "region live", "failure": live.failure}],
            "turns": msgspec.structs.asdict(self._turn_log.statistics()),
            "threads": msgspec.structs.asdict(self._ledger.statistics()),
            "configuration_failure": self._view.failure,
            "claimed_names": len(self._claims),
        }


def _drain(eventfd: int) -> None:
    os.eventfd_read(eventfd)  # reading is all: every turn looks at the page


def _journal_state(statistics: JournalStatistics) -> dict[str, object]:
    return {
        "name": f"journal {statistics.name}",
        "failure": statistics.failure,
        "records": statistics.records,
        "bytes_written": statistics.bytes_written,
        "pending_bytes": statistics.pending_bytes,
        "durable_seq": statistics.durable_seq,
    }
