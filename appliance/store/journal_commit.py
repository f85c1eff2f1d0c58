"""Group commit, without I/O and without a clock: appends and outcomes in, jobs for the writer out.

``Committer`` numbers records, collects them into groups while one job is under way, and decides what the
writer does next: write, sync, roll to a new segment, trim, mark, or try to resume. One job at a time; the
caller gives ``now`` (monotonic seconds) everywhere.

Invariants: nothing is durable before its job came back without error; after an error nothing that was not
durable is trusted, and writing goes on only in a new segment whose header cuts the old one off at its last
durable byte. Sequence numbers of a *durable* journal that failed were told to nobody and are given out
again; those of a *relaxed* one become an explicit gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.store.files import STORAGE_FAILED, storage_error
from appliance.store.journal_format import FLAG_GAP, HEADER_SIZE
from appliance.store.journal_jobs import CloseJob, Job, SyncJob, TrimJob, WriteJob
from appliance.store.journal_pending import Frame, Pending, Tail, Ticket
from appliance.store.journal_place import Placer
from appliance.store.journal_shelf import Shelf, Start
from appliance.store.journal_trim import is_stale
from appliance.store.journal_types import GapReason, JournalSpec
from appliance.wire.errors import Busy, FluxbeeError, Unavailable

__all__ = ["Committer", "Counters"]

_MAX_WRITE = 4 << 20
_HOUSEKEEP_S = 60.0
_HINT_EVERY = 64 << 10
_EVERYTHING = 1 << 40
_PROBE_BYTES = 64 << 10


class Counters:
    """Plain counters; ``JournalStatistics`` explains them."""

    __slots__ = (
        "bytes_written",
        "dropped",
        "groups",
        "lost",
        "records",
        "refused_busy",
        "resumes",
        "syncs",
        "trim_errors",
        "write_errors",
        "writes",
    )

    def __init__(self) -> None:
        self.bytes_written = self.dropped = self.groups = self.lost = self.records = 0
        self.refused_busy = self.resumes = self.syncs = self.trim_errors = 0
        self.write_errors = self.writes = 0


class Committer:
    """See the module.

    Args:
        directory: of the journal.
        spec: of the journal.
        start: what recovery found.
        now: monotonic seconds.
        wall_ms: wall clock for stamps.
    """

    def __init__(
        self, directory: Path, spec: JournalSpec, start: Start, now: float, wall_ms: Callable[[], int]
    ) -> None:
        self.spec = spec
        self.counters = Counters()
        self.shelf = Shelf(spec, start)
        self.failure: OSError | None = None
        self._directory = directory
        self._placer = Placer(directory, spec, start.journal_id, start.last_index, wall_ms)
        self._durable = spec.durability == "durable"
        self._pending = Pending(spec.group_bytes)
        self._flying = 0
        self._next_seq = start.next_seq
        self._durable_seq = start.next_seq - 1
        self._lost_to = self._durable_seq
        self._run_base = start.run_s
        self._opened_at = now
        self.flush_at = self._sync_at = self._mark_at = self._retry_at = math.inf
        self._housekeep_at = math.inf if spec.keep_age_s is None else now
        self._trim_at = -math.inf
        self._retry_s = spec.retry_s[0]
        self._sync_target = 0
        if start.failure is not None:
            self._fail(start.failure, now)

    # -- figures -----------------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """Last sequence number given out."""
        return self._next_seq - 1

    @property
    def written_seq(self) -> int:
        """Last sequence number in the page cache or on the medium."""
        return self._durable_seq if self.shelf.tail is None else self.shelf.tail.last_seq

    @property
    def durable_seq(self) -> int:
        """Last sequence number on the medium: never lost, never given to another record."""
        return self._durable_seq

    @property
    def pending_bytes(self) -> int:
        """Accepted and not yet written, including the job under way."""
        return self._pending.size + self._flying

    @property
    def pending_records(self) -> int:
        """Records that wait for a job."""
        return self._pending.records

    def shift(self, delta_s: float) -> None:
        """The owner's clock changes its origin by ``delta_s``."""
        self._opened_at += delta_s
        self.flush_at += delta_s
        self._sync_at += delta_s
        self._mark_at += delta_s
        self._retry_at += delta_s
        self._trim_at += delta_s
        self._housekeep_at += delta_s

    def run_s(self, now: float) -> int:
        """Seconds that this journal has been running in its whole life."""
        return self._run_base + int(now - self._opened_at)

    # -- accepting ---------------------------------------------------------------------------------------

    def add(self, body: bytes, count: int, now: float) -> Frame:
        """Accept one append of ``count`` length-prefixed records; returns the frame that carries it.

        Raises:
            Busy: too much is waiting.
            Unavailable: the disk failed.
        """
        if not self.fits(len(body)):
            self.check()
            self.counters.refused_busy += 1
            waiting = f"{self.pending_bytes} bytes wait for the disk"
            raise Busy(f"journal {self.spec.name}: {waiting}", retry_after_s=0.2)
        first_seq = self._next_seq
        self._next_seq = first_seq + count
        if self.flush_at == math.inf:
            self.flush_at = now if self._durable else now + self.spec.flush_interval_s
        return self._pending.add(body, count, first_seq)

    def fits(self, size: int) -> bool:
        """Whether ``add`` would take ``size`` bytes now."""
        waiting = self._pending.weight + self._flying
        return self.failure is None and waiting + size <= self.spec.max_pending_bytes

    def drop(self, count: int, now: float) -> None:
        """Leave out ``count`` records: they keep their sequence numbers as an explicit gap."""
        self.counters.dropped += count
        if self.failure is None:
            self._gap(self._next_seq, count, now)
        self._next_seq += count

    def _gap(self, first_seq: int, count: int, now: float) -> None:
        self._pending.gap(first_seq, count, GapReason.DROPPED)
        self.flush_at = min(self.flush_at, now + self.spec.flush_interval_s)

    def check(self) -> None:
        """Raise ``Unavailable`` while the disk is failed."""
        if self.failure is not None:
            raise self.unavailable()

    def unavailable(self, cause: OSError | None = None) -> FluxbeeError:
        """A fresh error that tells a caller why nothing can be written; ``cause`` None: what failed last."""
        cause = cause or self.failure
        if cause is None:
            return Unavailable(f"journal {self.spec.name}: the disk failed meanwhile", code=STORAGE_FAILED)
        error = storage_error(cause, f"journal {self.spec.name} cannot be written")
        return error if isinstance(error, Unavailable) else Unavailable(error.message, code=STORAGE_FAILED)

    # -- planning ----------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When ``plan`` has something to do if nothing else happens (monotonic seconds, may be inf)."""
        if self.failure is not None:
            return self._retry_at
        trim_at = self._trim_at if self.shelf.has_trimmed else math.inf
        return min(self.flush_at, self._sync_at, self._mark_at, self._housekeep_at, trim_at)

    @property
    def eager(self) -> bool:
        """Whether what is pending should be written now rather than at ``due``."""
        return self._durable or self._pending.size >= self.spec.flush_bytes or self._wants_sync

    @property
    def _wants_sync(self) -> bool:
        return self._sync_target > self._durable_seq

    def want_sync(self) -> None:
        """Flush and sync what was accepted until now with the next jobs."""
        self._sync_target = self._next_seq - 1

    def want_resume(self) -> None:
        """Try to resume at the next plan."""
        self._retry_at = -math.inf

    def plan(self, now: float) -> Job | None:
        """The next job, or None. Call only when no job is under way; give its outcome to ``done``."""
        tail = self.shelf.tail
        if self.failure is not None or tail is None:
            return self._plan_resume(now) if now >= self._retry_at else None
        if now >= self._housekeep_at:
            self._housekeep_at = now + _HOUSEKEEP_S
            self.shelf.expire(self.run_s(now))
        # a due sync goes first: steady appends would keep it waiting for ever
        asked = self._wants_sync and tail.last_seq >= self._sync_target
        if tail.dirty and (asked or now >= self._sync_at):
            return SyncJob(tail.fd, tail.offset, tail.last_seq)
        if self._pending and (self.eager or now >= self.flush_at):
            return self._plan_write(tail, now)
        return self._plan_upkeep(tail, now)

    def _plan_write(self, tail: Tail, now: float) -> WriteJob:
        room = self.spec.segment_bytes - tail.offset
        if self._pending.next_size() > room and tail.offset > HEADER_SIZE:
            frames = self._pending.take(self.spec.segment_bytes - HEADER_SIZE, _MAX_WRITE)
            job = self._roll(tail, frames, frames[0].first_seq, now)
        else:
            frames = self._pending.take(room, _MAX_WRITE)
            job = self._placer.groups(tail, frames, self.run_s(now), sync=self._durable)
        if not self._pending:
            self.flush_at = math.inf
        self._flying = sum(f.full_size for f in frames)
        return job

    def _roll(self, tail: Tail, frames: list[Frame], first_seq: int, now: float) -> WriteJob:
        prev = (tail.index, tail.offset)
        return self._placer.segment(frames, first_seq, self.run_s(now), old=tail, prev=prev, finish=True)

    def _plan_upkeep(self, tail: Tail, now: float) -> Job | None:
        """Work that may wait until nothing else does."""
        used = tail.offset > HEADER_SIZE
        too_old = is_stale(self.spec, tail_run_s=tail.run_s, run_s=self.run_s(now))
        if not self._pending and used and (too_old or tail.offset >= self.spec.segment_bytes):
            return self._roll(tail, [], self._next_seq, now)
        if now >= self._trim_at and (names := self.shelf.take_trimmed()):
            return TrimJob(self._directory, names)
        if now >= self._mark_at:
            self._mark_at = math.inf  # the next sync sets it again
            if tail.marked != tail.offset and not tail.dirty:
                return self._placer.mark(tail, self.run_s(now))
        return None

    def through(self, now: float) -> WriteJob | None:
        """One job that writes everything pending into the active segment, without sync and without a roll."""
        tail = self.shelf.tail
        if tail is None or not self._pending:
            return None
        frames = self._pending.take(_EVERYTHING, _EVERYTHING)
        self.flush_at = math.inf
        return self._placer.groups(tail, frames, self.run_s(now), sync=False)

    def close_job(self, now: float) -> CloseJob | None:
        """What ends an orderly run; None when the disk failed (or there is nothing to close)."""
        tail = self.shelf.tail
        if tail is None or self.failure is not None or tail.dirty or self._pending:
            return None
        return self._placer.close(tail, self.run_s(now))

    def _plan_resume(self, now: float) -> WriteJob:
        """A fresh segment behind the last durable byte; gaps say what the failure cost."""
        gaps = Pending(self.spec.group_bytes)
        if self._lost_to > self._durable_seq:
            gaps.gap(self._durable_seq + 1, self._lost_to - self._durable_seq, GapReason.LOST)
        if self._next_seq - 1 > self._lost_to:
            gaps.gap(self._lost_to + 1, self._next_seq - 1 - self._lost_to, GapReason.DROPPED)
        return self._placer.segment(
            gaps.take(_EVERYTHING, _EVERYTHING) if gaps else [],
            self._durable_seq + 1,
            self.run_s(now),
            old=self.shelf.tail,
            prev=self.shelf.trusted_end,
            finish=False,
            probe=_PROBE_BYTES,
        )

    # -- outcomes ----------------------------------------------------------------------------------------

    def done(self, job: Job, now: float) -> list[Ticket]:
        """Take the outcome of a job; returns the tickets that are decided, with errors filled in."""
        self.shelf.changed()
        if isinstance(job, TrimJob):
            if job.error is not None:
                self.counters.trim_errors += 1
                self.shelf.put_back(job.left)
                self._trim_at = now + _HOUSEKEEP_S
            return []
        resuming = isinstance(job, WriteJob) and job.roll is not None and not job.roll.finish
        if job.error is not None:
            return self._fail(job.error, now, job.frames if isinstance(job, WriteJob) else ())
        if self.failure is not None and not resuming:
            return []  # planned before the failure: what it did is behind the last trusted byte
        if isinstance(job, SyncJob):
            self.counters.syncs += 1
            self._synced(job.end, job.last_seq, now)
            return []
        if isinstance(job, CloseJob):
            self.counters.bytes_written += job.written
            self.counters.syncs += 1
        return self._written(job, now, resuming) if isinstance(job, WriteJob) else []

    def _written(self, job: WriteJob, now: float, resuming: bool) -> list[Ticket]:
        counters = self.counters
        counters.writes += 1
        counters.bytes_written += job.written
        counters.syncs += job.sync
        self._flying = 0
        tail = job.tail
        if job.roll is not None:
            self.shelf.install(tail)
            self.shelf.expire(self.run_s(now))
        if resuming:
            self._resumed(job, now)
        elif job.frames:
            self._retry_s = self.spec.retry_s[0]
        if not job.frames and job.roll is None:
            tail.marked, tail.mark_end = tail.offset, job.mark_end
            tail.zeroed = job.zeroed
            return []
        self._account(job, tail)
        if job.sync:
            self._synced(job.end, job.last_seq, now)
        elif self._sync_at == math.inf:
            self._sync_at = now + self.spec.sync_interval_s
        return [f.ticket for f in job.frames if f.ticket is not None]

    def _account(self, job: WriteJob, tail: Tail) -> None:
        position = HEADER_SIZE if job.roll is not None else job.offset
        for frame in job.frames:
            if not tail.hints or position - tail.hints[-1][1] >= _HINT_EVERY:
                tail.hints.append((frame.first_seq, position))
            position += frame.full_size
            if frame.flags != FLAG_GAP:
                self.counters.records += frame.count
            self.counters.groups += 1
        tail.offset, tail.mark_end = job.end, 0
        tail.zeroed = job.zeroed
        tail.last_seq = job.last_seq

    def _synced(self, end: int, last_seq: int, now: float) -> None:
        tail = self.shelf.tail
        assert tail is not None
        tail.synced, tail.synced_seq = end, last_seq
        self._durable_seq = last_seq
        self._sync_at = now + self.spec.sync_interval_s if tail.dirty else math.inf
        self._mark_at = now + self.spec.mark_after_s

    def _fail(self, error: OSError, now: float, frames: Sequence[Frame] = ()) -> list[Ticket]:
        self.counters.write_errors += 1
        given_up = [*frames, *self._pending.clear()]
        if self.failure is None:
            if self._durable:
                self._next_seq = self._durable_seq + 1
            self._lost_to = self._next_seq - 1
            self.counters.lost += self._lost_to - self._durable_seq
        if self.shelf.tail is not None:
            self.shelf.tail.distrust()
        self.shelf.changed()
        self.failure = error
        self._flying = 0
        self.flush_at = self._sync_at = self._mark_at = math.inf
        self._retry_at = now + self._retry_s
        self._retry_s = min(self._retry_s * 2, self.spec.retry_s[1])
        tickets = [f.ticket for f in given_up if f.ticket is not None]
        for ticket in tickets:
            ticket.error = error
        return tickets

    def _resumed(self, job: WriteJob, now: float) -> None:
        """The new segment is durable; numbers dropped meanwhile go into a gap of their own."""
        self.failure = None
        self.counters.resumes += 1
        self._retry_at = math.inf
        missed = self._next_seq - 1 - job.last_seq
        if missed > 0:
            self._gap(job.last_seq + 1, missed, now)
