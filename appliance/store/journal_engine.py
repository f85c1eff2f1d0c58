"""The moving part of an open journal: the committer's decisions, a writer, and the trio loop between them.

``Engine`` keeps exactly one job under way, hands its outcome to the committer, wakes whom it concerns, and
sleeps until the committer says that something is due. Invariant: every change of the committer is followed by
a look at what it wants next (``pump`` or ``nudge``). It knows nothing of records, readers or bases.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import trio

from appliance.store.journal_commit import Committer
from appliance.store.journal_jobs import Job, WriteJob
from appliance.store.journal_pending import Ticket
from appliance.store.journal_positions import CursorJob, Positions
from appliance.store.journal_recover import Recovered
from appliance.store.journal_types import JournalSpec, JournalState
from appliance.store.journal_writer import InlineWriter, Writer, WriterThread
from appliance.system.clock import Clock, SystemClock
from appliance.system.disk import Disk
from appliance.wire.errors import Conflict, Unavailable

__all__ = ["Engine"]

_LONGEST_NAP_S = 1.0


class Engine:
    """See the module.

    Args:
        directory: of the journal.
        spec: of the journal.
        recovered: what opening found.
        disk: where to write.
        clock: None: the trio loop's own clock while it runs (so a mock clock moves it too).
        inline: perform jobs on the caller instead of in a thread.
    """

    def __init__(
        self,
        directory: Path,
        spec: JournalSpec,
        recovered: Recovered,
        disk: Disk,
        clock: Clock | None,
        *,
        inline: bool,
    ) -> None:
        self.spec = spec
        self.now: Callable[[], float] = time.monotonic if clock is None else clock.monotonic
        self._own_clock = clock is not None
        wall_ms = (clock or SystemClock()).wall_ms
        self.committer = Committer(directory, spec, recovered.start, self.now(), wall_ms)
        self.committer.counters.bytes_written += recovered.bytes_written
        self.positions = Positions(
            directory, recovered.start.journal_id, recovered.positions, spec.sync_interval_s
        )
        self.accepting = True
        self._disk = disk
        self._lock_fd = recovered.lock_fd
        self._writer: Writer = InlineWriter(disk) if inline else WriterThread(disk, spec.name)
        self._state: JournalState | None = None
        self._in_flight: Job | None = None
        self._pumping = False
        self._wake = trio.Event()
        self._sleep_until = -math.inf
        self._tail_closed = False
        self._progress = trio.lowlevel.ParkingLot()

    @property
    def state(self) -> JournalState:
        """What can be done now."""
        if not self.accepting:
            return JournalState.CLOSED
        return JournalState.OPEN if self.committer.failure is None else JournalState.FAILED

    # -- one job at a time -------------------------------------------------------------------------------

    def nudge(self) -> None:
        """Something was accepted: start writing if it is time, else see that the sleeper wakes in time."""
        committer = self.committer
        if self._in_flight is None and committer.eager:
            self.pump()
        elif committer.flush_at < self._sleep_until or self.positions.due < self._sleep_until:
            self._wake.set()

    def pump(self) -> None:
        """Start the next job if none is under way and there is one."""
        if self._pumping or self._state is not JournalState.OPEN:
            return
        self._pumping = True
        try:
            while self._in_flight is None:
                now = self.now()
                job = self.committer.plan(now) or self.positions.plan(now, self.committer.durable_seq)
                if job is None:
                    break
                self._launch(job)
        finally:
            self._pumping = False
        if self._in_flight is None and self._due < self._sleep_until:
            self._wake.set()

    @property
    def _due(self) -> float:
        return min(self.committer.due, self.positions.due)

    def _launch(self, job: Job) -> None:
        self._in_flight = job
        self._writer.put(job)

    def _deliver(self, job: Job) -> None:
        if not job.settled:
            self._settle(job)
            self.pump()

    def _settle(self, job: Job) -> None:
        """Take a finished job's outcome and tell everybody who waits for it."""
        job.settled = True
        self._in_flight = None
        now = self.now()
        if isinstance(job, CursorJob):
            self.positions.done(job, now)
        else:
            for ticket in self.committer.done(job, now):
                ticket.event.set()
        self._progress.unpark_all()

    # -- the service -------------------------------------------------------------------------------------

    def check_fresh(self) -> None:
        """Raise ``Conflict`` unless this journal can be started: it runs once."""
        if self._state is not None:
            raise Conflict(f"journal {self.spec.name} runs already, or was closed")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; what was accepted is flushed and synced, and the end marked, on the way out.

        Raises:
            Conflict: it runs already, or was closed.
        """
        self.check_fresh()
        self._state = JournalState.OPEN
        if not self._own_clock:
            before, self.now = self.now(), trio.current_time
            self.committer.shift(self.now() - before)
        self._writer.start(self._deliver)
        try:
            self.pump()
            task_status.started()
            while self.accepting:
                await self._sleep()
                self.pump()
        finally:
            with trio.move_on_after(self.spec.wait_s) as scope:
                scope.shield = True
                await self._finish()

    async def _sleep(self) -> None:
        self._wake = trio.Event()
        now = self.now()
        self._sleep_until = self._due
        if self._in_flight is not None:  # its delivery pumps, and wakes this task if something is due sooner
            self._sleep_until = max(self._sleep_until, now + _LONGEST_NAP_S)
        with trio.move_on_after(max(self._sleep_until - now, 0.0)):
            await self._wake.wait()

    async def _finish(self) -> None:
        self.accepting = False
        self.committer.want_sync()
        self.pump()
        await self._idle()
        self._state = JournalState.CLOSED
        for job in self._last_jobs():
            self._launch(job)
            await self._idle()
        self._writer.stop()
        self._release()

    async def _idle(self) -> None:
        while self._in_flight is not None:
            await self._progress.park()

    def _last_jobs(self) -> list[Job]:
        now = self.now()
        close = self.committer.close_job(now)
        self._tail_closed = close is not None
        jobs = (self.positions.plan(now, self.committer.durable_seq, all_now=True), close)
        return [job for job in jobs if job is not None]

    def _release(self) -> None:
        tail = self.committer.shelf.tail
        if tail is not None and not self._tail_closed:
            self._disk.close(tail.fd)
        self._disk.close(self._lock_fd)
        self._progress.unpark_all()

    def close(self) -> None:
        """End a journal that does not run: flush, sync and mark on the caller's thread.

        Raises:
            Conflict: it runs; cancel it instead.
        """
        if self._state is JournalState.OPEN:
            raise Conflict(f"journal {self.spec.name} is running")
        if self._state is JournalState.CLOSED:
            return
        self._state = JournalState.CLOSED
        self.accepting = False
        self.committer.want_sync()
        while self.committer.failure is None and (job := self.committer.plan(self.now())) is not None:
            job.perform(self._disk)
            self._settle(job)
        for job in self._last_jobs():
            job.perform(self._disk)
            self._settle(job)
        self._release()

    # -- waiting -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``Unavailable`` when nothing can be accepted."""
        if not self.accepting:
            raise Unavailable(f"journal {self.spec.name} is closed", code="JOURNAL_CLOSED")
        self.committer.check()

    async def wait_ticket(self, ticket: Ticket) -> None:
        """Wait until the group of a durable append is on the medium.

        Raises:
            Unavailable: the disk failed, or did not answer within ``wait_s`` (the outcome is open then).
        """
        with trio.move_on_after(self.spec.wait_s) as scope:
            await ticket.event.wait()
        if scope.cancelled_caught and not ticket.event.is_set():
            raise self._too_slow()
        if ticket.error is not None:
            raise self.committer.unavailable(ticket.error)

    def _too_slow(self) -> Unavailable:
        return Unavailable(
            f"journal {self.spec.name}: the disk did not answer within {self.spec.wait_s:g} s",
            code="STORAGE_STALLED",
            remedy="Check the storage medium; see the kernel's log.",
        )

    async def park(self) -> None:
        """Wait until some job ended."""
        await self._progress.park()

    async def sync(self) -> None:
        """Wait until everything accepted so far is on the medium.

        Raises:
            Unavailable: the disk failed or is too slow.
        """
        committer = self.committer
        target, failures = committer.last_seq, committer.counters.write_errors
        self.check()
        committer.want_sync()
        self.pump()
        with trio.move_on_after(self.spec.wait_s):
            while committer.durable_seq < target:
                if committer.counters.write_errors != failures:
                    raise committer.unavailable()
                await self._progress.park()
            await trio.lowlevel.checkpoint()
            return
        raise self._too_slow()

    async def resume(self) -> None:
        """Try at once to write again after a failure.

        Raises:
            Unavailable: it still fails.
        """
        self.committer.want_resume()
        attempts = self.committer.counters.write_errors
        self.pump()
        with trio.move_on_after(self.spec.wait_s):
            while self.committer.failure is not None:
                if self.committer.counters.write_errors != attempts:
                    raise self.committer.unavailable()
                await self._progress.park()
            return
        raise self._too_slow()

    # -- on the caller's thread --------------------------------------------------------------------------

    def through(self) -> None:
        """Write everything accepted into the page cache now, without sync; waits for a write under way.

        Raises:
            Unavailable: the disk failed or is too slow.
        """
        committer = self.committer
        flying = self._in_flight
        if isinstance(flying, WriteJob):  # a crash must not keep this write and lose the one before it
            if not flying.wait(self.spec.wait_s):
                raise self._too_slow()
            self._settle(flying)
        job = committer.through(self.now())
        if job is not None:
            job.perform(self._disk)
            committer.done(job, self.now())
            self._progress.unpark_all()
        if flying is not None:
            self.pump()
        if self._due < self._sleep_until:
            self._wake.set()
        committer.check()
