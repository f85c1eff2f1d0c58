"""What keeps a world running: opening, catching up, projecting, retention, copies. The trio shell's inside.

Order at the start: journal, region, recovery in a worker thread, then requests. Three things change the
region, one at a time: the projection on the loop in small slices, the recovery and a restore in a thread
while nothing else runs. A projection that fails is tried again; the overlay's bound keeps the memory, and
publishers are told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import trio

from appliance.store.generations import GenerationPage
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.store.region_txn import ReadTxn
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.clock import Clock, SystemClock
from appliance.system.disk import Disk, RealDisk
from appliance.system.log import get_logger
from appliance.wire.errors import Busy, Conflict, FluxbeeError, Unavailable

from .committer import WorldCommitter
from .history import History
from .image import ImageHead, image, read_copy, write_copy
from .listeners import Listeners
from .meter import Meter
from .records import RESTORED
from .recovery import Recovered, load_image, recover
from .state import WorldState
from .types import WorldMetrics, WorldOptions, WorldStatistics
from .view import REGION, WorldView

__all__ = ["JOURNAL", "Keeping"]

JOURNAL = JournalSpec(
    name="world",
    kind="state",
    durability="durable",
    keep_bases=2,
    max_append_bytes=64 << 20,
    max_pending_bytes=96 << 20,
)
PROJECT_AFTER_S = 0.5
"""The region follows so much later at least (design: within 1 s): what changes often is written once."""
_HURRY_SHARE = 4
_RETRY_S = 1.0
_UPKEEP_S = 10.0
_SETTLE_S = 30.0
_GHOST_SLICE = 200
_HISTORY_THREADS = 1
"""Walks share what they found of the segments; one is also the cap of DF-14."""

log = get_logger("world")
R = TypeVar("R")


class Keeping:
    """See the module; arguments as of ``WorldEngine``."""

    journal: Journal
    view: WorldView
    committer: WorldCommitter

    def __init__(
        self,
        journal_dir: Path,
        region_dir: Path,
        options: WorldOptions,
        *,
        page: GenerationPage | None,
        clock: Clock | None,
        disk: Disk | None,
        inline: bool,
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self.options = options
        self.clock = clock or SystemClock()
        self.state = WorldState(options)
        self.listeners = Listeners()
        self.ready = False
        self._journal_dir, self._region_dir, self._page = journal_dir, region_dir, page
        self._disk, self._inline = disk, inline
        self._reserve = reserve
        self.history = History(disk or RealDisk(), journal_dir)
        self._meter = Meter(options.publisher_window_s)
        self._recovered = Recovered(rebuilt=False, events=0, gaps=0, gap_records=0, took_ms=0)
        self._dirty, self._hurry = trio.Event(), trio.Event()
        self._settled = trio.lowlevel.ParkingLot()
        self._exclusive = trio.Lock()
        self._projecting = trio.Lock()
        self._past_limiter = trio.CapacityLimiter(_HISTORY_THREADS)
        self._imaged_ms = 0
        self._projections = self._projection_failures = self._history_reads = 0
        self._images = self._image_failures = 0

    # -- life --------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See ``WorldEngine.run``."""
        spec = msgspec.structs.replace(JOURNAL, segment_bytes=self.options.segment_bytes)
        self.journal = await Journal.opened(self._journal_dir, spec, disk=self._disk, inline=self._inline)
        try:
            env = await trio.to_thread.run_sync(self._open_region)
        except BaseException:
            self.journal.close()
            raise
        try:
            async with self.journal:
                await self._start(env)
                await self._serve(task_status)
        finally:
            # Behind the journal's end: what it still synced on the way out is projected too.
            with trio.CancelScope(shield=True):
                await self._finish()
            env.close()

    def _open_region(self) -> Environment:
        spec = msgspec.structs.replace(WORLD, map_bytes=self.options.map_bytes)
        return Environment(spec, self._region_dir, (WORLD_REGION,), page=self._page, clock=self.clock)

    async def _start(self, env: Environment) -> None:
        self.view = WorldView(env, self.options.entity_bytes)
        self._recovered = await trio.to_thread.run_sync(recover, self.journal, self.view, self.state)
        self.committer = WorldCommitter(
            self.journal,
            self.state,
            self.view,
            self.clock,
            self._meter,
            self.listeners,
            self._note_change,
            self._reserve,
        )
        self._imaged_ms = self.clock.wall_ms()
        if self.state.overlay.front:
            self._note_change()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._project_always)
            nursery.start_soon(self._upkeep)
            self.ready = True
            task_status.started()

    async def _finish(self) -> None:
        """Project what was accepted, so that the next start finds a complete region."""
        if not self.ready:
            return
        self.ready = False
        self.committer.closed = Unavailable("the world is being stopped")
        try:
            self.committer.drain()
            async with self._projecting:
                await self._cycle()
        except FluxbeeError as error:
            log.warning("world_stopped_behind", code="WORLD_STOPPED_BEHIND", error=str(error))

    def check_ready(self) -> None:
        """Raise ``Unavailable`` while nothing can be answered."""
        if not self.ready:
            raise Unavailable("the world is not ready", code="WORLD_NOT_READY")

    @property
    def failure(self) -> FluxbeeError | None:
        """Why events are not stored at the moment."""
        return self.committer.failure if self.ready else Unavailable("the world is not ready")

    # -- projecting --------------------------------------------------------------------------------------

    def _note_change(self) -> None:
        self._dirty.set()
        if self.state.overlay.size_bytes > self.options.overlay_bytes // _HURRY_SHARE:
            self._hurry.set()

    async def _project_always(self) -> None:
        while True:
            await self._dirty.wait()
            with trio.move_on_after(PROJECT_AFTER_S):
                await self._hurry.wait()
            self._dirty, self._hurry = trio.Event(), trio.Event()
            try:
                async with self._projecting:
                    await self._cycle()
            except (Busy, Unavailable) as error:
                self._projection_failures += 1
                if self._projection_failures == 1:
                    log.warning("world_projection", code="WORLD_PROJECTION_FAILED", error=str(error))
                self._dirty.set()
                await trio.sleep(_RETRY_S)

    async def _cycle(self) -> None:
        """Bring what is committed now into the region, slice by slice."""
        state, view = self.state, self.view
        target = state.overlay.front_seq
        while state.overlay.swap():
            view.save_changed(state.changed_control)
            for _ in view.project(state.overlay):
                self.committer.made_room()
                await trio.lowlevel.checkpoint()
            self._projections += 1
            if view.env.applied_seq(REGION) >= target:
                break
        if not state.overlay.front and not state.overlay.back:
            view.save_changed(state.changed_control)
            view.mark_applied(state.overlay.front_seq)
        if state.overlay.front:
            self._dirty.set()
        self._settled.unpark_all()

    async def settle(self) -> None:
        """See ``WorldEngine.settle``."""
        self.check_ready()
        target = self.state.overlay.front_seq
        with trio.move_on_after(_SETTLE_S):
            while self.view.env.applied_seq(REGION) < target:
                self._dirty.set()
                self._hurry.set()
                await self._settled.park()
            return
        raise Unavailable("the region does not follow", code="WORLD_PROJECTION_FAILED")

    # -- reading the past --------------------------------------------------------------------------------

    async def read_past(self, call: Callable[[], R]) -> R:
        """Run a walk through the journal in a worker thread."""
        self._history_reads += 1
        return await trio.to_thread.run_sync(call, limiter=self._past_limiter)

    # -- images and copies -------------------------------------------------------------------------------

    async def _upkeep(self) -> None:
        while True:
            await trio.sleep(_UPKEEP_S)
            self.committer.drain()  # what a stalled disk has confirmed after its publisher gave up
            self.view.env.upkeep()
            if self._image_due() and await self._reserve.fits(self._image_bytes(), self.journal):
                try:
                    await self.compact()
                except FluxbeeError as error:
                    log.warning("world_image", code="WORLD_IMAGE_FAILED", error=str(error))

    def _image_due(self) -> bool:
        figures, base = self.journal.statistics(), self.journal.base
        since = figures.bytes_since_base
        full = self._reserve.read_only  # then whole segments, which are all that an image can free
        keep = self.options.segment_bytes if full else self.options.retention_bytes
        enough = max(keep, base.size if base is not None else 0)
        aged = abs(self.clock.wall_ms() - self._imaged_ms) > self.options.retention_s * 1000
        newer = base is None or figures.durable_seq > base.upto_seq
        return newer and (since >= enough or aged)

    def _image_bytes(self) -> int:
        return self.view.env.statistics().used_bytes  # the rows lie tighter in an image than in pages

    async def _cut(self) -> tuple[ReadTxn, ImageHead]:
        """A view of the region that shows exactly the events up to ``head.seq``.

        Configuration and namespaces may be newer than that: their records set them again.
        """
        async with self._projecting:
            await self._cycle()
            head = ImageHead(
                seq=self.view.env.applied_seq(REGION),
                config=self.state.config,
                namespaces=self.state.registry.all(),
            )
            return self.view.env.read(), head

    async def compact(self) -> int:
        """See ``WorldEngine.compact``."""
        self.check_ready()
        previous = self.journal.base
        ghosts: list[bytes] = []
        upto = previous.upto_seq if previous is not None else 0
        async with self._alone():
            txn, head = await self._cut()
            if not head.seq:
                txn.raw.abort()
                return 0
            try:
                records = image(txn, head, drop_upto=upto, ghosts=ghosts)
                await self.journal.write_base(head.seq, records)
            except FluxbeeError:
                self._image_failures += 1
                raise
            finally:
                txn.raw.abort()
            self._images += 1
            self._imaged_ms = self.clock.wall_ms()
            async with self._projecting:
                for start in range(0, len(ghosts), _GHOST_SLICE):
                    self.view.drop_ghosts(ghosts[start : start + _GHOST_SLICE], upto)
                    await trio.lowlevel.checkpoint()
        return head.seq

    def _alone(self) -> trio.Lock:
        """One image, backup or restore at a time."""
        if self._exclusive.locked():
            raise Conflict("an image, a backup or a restore of the world is under way")
        return self._exclusive

    async def backup(self, stream: BinaryIO) -> int:
        """See ``WorldEngine.backup``."""
        self.check_ready()
        async with self._alone():
            txn, head = await self._cut()
            try:
                call = partial(write_copy, stream, image(txn, head, drop_upto=head.seq))
                return await trio.to_thread.run_sync(call)
            finally:
                txn.raw.abort()

    async def restore(self, stream: BinaryIO) -> int:
        """See ``WorldEngine.restore``."""
        self.check_ready()
        async with self._alone(), self.committer.administering:
            seq = await self.committer.control(RESTORED, b"{}")
            self.committer.closed = Busy("the world is being restored", retry_after_s=5.0)
            try:
                while self.committer.flying:
                    await self.journal.sync()
                    self.committer.drain()
                    await trio.lowlevel.checkpoint()
                seq = max(seq, self.state.overlay.front_seq)
                with trio.CancelScope(shield=True):
                    await self._replace(stream, seq)
            finally:
                self.committer.closed = None
        return self.state.entities

    async def _replace(self, stream: BinaryIO, seq: int) -> None:
        async with self._projecting:
            self.view.note_restoring(seq)
            try:
                await self.journal.write_base(seq, read_copy(stream, seq))
            except BaseException:
                self.view.note_restoring(0)
                raise
            self._images += 1
            self.state.clear()
            await trio.to_thread.run_sync(self._load_restored, seq)

    def _load_restored(self, seq: int) -> None:
        load_image(self.journal, self.view, self.state)
        self.view.finish(seq)
        self.state.changed_control.clear()
        self.state.entities = self.view.meta.entities
        self.state.overlay.front_seq = seq

    # -- figures -----------------------------------------------------------------------------------------

    def metrics(self) -> WorldMetrics:
        """See ``WorldEngine.metrics``."""
        now = self.clock.monotonic()
        return WorldMetrics(
            entities_total=self.state.entities,
            events_total=self._meter.total,
            rate_per_second=self._meter.rate(now),
            publishers_active=self._meter.publishers(now),
        )

    def statistics(self) -> WorldStatistics:
        """See ``WorldEngine.statistics``."""
        if not self.ready:
            return WorldStatistics()
        committer, overlay = self.committer, self.state.overlay
        return WorldStatistics(
            events=self._meter.total,
            batches=committer.batches,
            refused=committer.refused,
            duplicates=committer.duplicates,
            busy=committer.busy,
            write_failures=committer.failures,
            entities=self.state.entities,
            namespaces=len(self.state.registry),
            last_seq=self.journal.last_seq,
            durable_seq=self.journal.durable_seq,
            applied_seq=self.view.env.applied_seq(REGION),
            overlay_bytes=overlay.size_bytes,
            overlay_entities=len(overlay),
            projected_rows=self.view.rows_written,
            projections=self._projections,
            projection_failures=self._projection_failures,
            recovered_events=self._recovered.events,
            recovery_ms=self._recovered.took_ms,
            rebuilt=self._recovered.rebuilt,
            gaps=self._recovered.gaps,
            gap_records=self._recovered.gap_records,
            undecodable=self.state.undecodable,
            images=self._images,
            image_failures=self._image_failures,
            history_reads=self._history_reads,
            listeners=len(self.listeners),
            listener_failures=self.listeners.failures,
        )
