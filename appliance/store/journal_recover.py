"""Opening a journal for writing: lock, order the segments, repair the tail, find images and positions.

What a crash tore is cut and kept aside; what rotted stays where it is, is reported, and writing goes on in a
new segment. After an unclean stop the last segment is synced, dropped from the page cache and read again
from the medium: what an earlier process failed to sync must not look stored. A disk that refuses the repair
opens the journal read-only. Blocking: run it in a thread when a loop is waiting.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

import msgspec

from appliance.store.journal_base import find_bases
from appliance.store.journal_examine import Verdict, examine
from appliance.store.journal_pending import Tail
from appliance.store.journal_place import Placer
from appliance.store.journal_positions import StoredPosition, load_positions
from appliance.store.journal_scan import Window
from appliance.store.journal_segment import Chain, Segment, StoredSegment, load_chain
from appliance.store.journal_shelf import Start
from appliance.store.journal_types import BaseInfo, Damage, JournalSpec, Repair
from appliance.system.clock import Clock
from appliance.system.disk import Disk
from appliance.wire.errors import Conflict, Misconfigured

__all__ = ["Recovered", "recover"]

_LOCK = "journal.lock"
_ASIDE = ".aside"
_ASIDE_MAX_FILES = 8
_ASIDE_MAX_BYTES = 4 << 20


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What opening found; ``lock_fd`` holds the writer's lock."""

    start: Start
    lock_fd: int
    damages: tuple[Damage, ...]
    repairs: tuple[Repair, ...]
    bases: tuple[BaseInfo, ...]
    positions: dict[str, StoredPosition]
    bytes_written: int
    clean: bool


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """The last segment as it is now; ``fd`` is open for writing unless ``failure`` came in the way."""

    stored: StoredSegment
    verdict: Verdict
    fd: int
    failure: OSError | None
    repair: Repair | None


def recover(directory: Path, spec: JournalSpec, disk: Disk, clock: Clock) -> Recovered:
    """Open, and repair if needed, the journal in ``directory``; creates it when it is not there.

    Raises:
        Conflict: another process writes it.
        Misconfigured: it is there with the other kind.
        Unavailable: a newer version wrote it.
        OSError: it cannot be read, or not be created.
    """
    disk.makedirs(directory)
    try:
        lock_fd = disk.lock(directory / _LOCK)
    except BlockingIOError:
        raise Conflict(f"journal {directory} is open in another process", code="JOURNAL_LOCKED") from None
    recovery = _Recovery(directory, spec, disk, clock)
    try:
        return recovery.run(lock_fd)
    except BaseException:
        recovery.abandon()
        disk.close(lock_fd)
        raise


class _Recovery:
    def __init__(self, directory: Path, spec: JournalSpec, disk: Disk, clock: Clock) -> None:
        self._directory = directory
        self._spec = spec
        self._disk = disk
        self._clock = clock
        self._damages: list[Damage] = []
        self._written = 0
        self._floor_seq = 1
        self._floor_index = 0
        self._fd = -1

    def abandon(self) -> None:
        """Close what was opened on the way to an error."""
        if self._fd >= 0:
            self._disk.close(self._fd)

    def run(self, lock_fd: int) -> Recovered:
        chain, found = self._last_segment()
        self._damages += chain.damages
        journal_id = chain.journal_id or secrets.token_bytes(16)
        bases = self._bases()
        start = self._start(chain.sealed(), found, journal_id, bases)
        return Recovered(
            start=start,
            lock_fd=lock_fd,
            damages=tuple(self._damages),
            repairs=(found.repair,) if found and found.repair else (),
            bases=tuple(bases),
            positions=load_positions(self._disk, self._directory, journal_id),
            bytes_written=self._written,
            clean=found is not None and found.verdict.clean,
        )

    def _check_kind(self, chain: Chain) -> None:
        kind = 1 if self._spec.kind == "state" else 0
        if any(s.header is not None and s.header.kind != kind for s in chain.segments):
            raise Misconfigured(f"journal {self._directory} is not a {self._spec.kind} journal", field="kind")

    def _bases(self) -> list[BaseInfo]:
        bases, damages, temps = find_bases(self._disk, self._directory)
        self._damages += damages
        with suppress(OSError):  # found again at the next open
            for name in temps:
                self._disk.unlink(self._directory / name)
        return bases

    # -- the last segment --------------------------------------------------------------------------------

    def _last_segment(self) -> tuple[Chain, _Found | None]:
        """The chain without unusable newest files, and its last segment, repaired."""
        unusable: list[str] = []
        while True:
            chain = load_chain(self._disk, self._directory, unusable)
            self._check_kind(chain)
            if not chain.segments:
                self._clear((), unusable)
                return chain, None
            last = chain.segments[-1]
            self._floor_index = max(self._floor_index, last.index)
            verdict = self._examine(last, self._disk.open_read(self._directory / last.name), close=True)
            if last.header is not None or verdict.groups:
                self._clear(chain.strays, unusable)
                return chain, self._settle(last, verdict)
            # its header never reached the disk, so nothing in it was ever acknowledged
            unusable.append(last.name)
            self._floor_seq = max(self._floor_seq, last.first_seq)

    def _clear(self, strays: tuple[str, ...], unusable: list[str]) -> None:
        with suppress(OSError):  # they are outside the chain: harmless, and found again at the next open
            for name in strays:
                self._disk.unlink(self._directory / name)
            for name in unusable:
                self._disk.rename(self._directory / name, self._directory / (name + _ASIDE))
            self._prune_aside()

    def _examine(self, stored: StoredSegment, fd: int, *, close: bool = False) -> Verdict:
        try:
            stem = Segment(stored.index, stored.first_seq, 0, 0).stem
            return examine(
                Window(self._disk, fd), stem, stored.first_seq, self._disk.size(fd), _made_at(stored)
            )
        finally:
            if close:
                self._disk.close(fd)

    def _settle(self, stored: StoredSegment, verdict: Verdict) -> _Found:
        """Sync, read again from the medium, cut what is torn."""
        fd, repair, failure = -1, None, None
        try:
            fd = self._fd = self._disk.open_write(self._directory / stored.name)
            if not verdict.clean:
                self._disk.sync(fd)
                self._disk.forget(fd)
                verdict = self._examine(stored, fd)
            if verdict.cut is not None:
                repair = self._cut(stored, fd, verdict.cut)
        except OSError as exc:
            failure = exc
            if fd >= 0:  # only what the medium gives back counts now
                self._disk.forget(fd)
                verdict = self._examine(stored, fd)
                self._disk.close(fd)
                fd = self._fd = -1
        for start, end in verdict.damaged:
            self._damages.append(Damage(str(self._directory / stored.name), start, end - start, "group"))
        return _Found(stored=stored, verdict=verdict, fd=fd, failure=failure, repair=repair)

    def _cut(self, stored: StoredSegment, fd: int, cut: tuple[int, int]) -> Repair:
        start, end = cut
        torn = self._disk.pread(fd, min(end - start, _ASIDE_MAX_BYTES), start).rstrip(b"\0")
        kept = self._keep_aside(f"{stored.name}-{start}{_ASIDE}", torn)
        self._disk.truncate(fd, start)
        self._disk.sync(fd)
        return Repair(str(self._directory / stored.name), start, len(torn), kept)

    def _keep_aside(self, name: str, data: bytes) -> str | None:
        """Keep torn bytes for analysis; a full disk must not stop the repair for it."""
        path = self._directory / name
        try:
            with suppress(FileNotFoundError):
                self._disk.unlink(path)
            fd = self._disk.create(path)
            try:
                self._written += self._disk.pwrite(fd, [data], 0, sync=False)
            finally:
                self._disk.close(fd)
            self._prune_aside()
        except OSError:
            return None
        return str(path)

    def _prune_aside(self) -> None:
        aside = [n for n in self._disk.names(self._directory) if n.endswith(_ASIDE)]
        for name in aside[:-_ASIDE_MAX_FILES]:
            self._disk.unlink(self._directory / name)

    # -- where to go on ----------------------------------------------------------------------------------

    def _start(
        self, sealed: tuple[Segment, ...], found: _Found | None, journal_id: bytes, bases: list[BaseInfo]
    ) -> Start:
        behind = max([b.upto_seq + 1 for b in bases], default=1)
        next_seq = max(self._floor_seq, behind, found.verdict.next_seq if found else 1)
        missing = found is not None and next_seq > found.verdict.next_seq
        if missing:
            self._damages.append(Damage(str(self._directory), 0, 0, "newest groups missing"))
        start = Start(
            journal_id=journal_id,
            next_seq=next_seq,
            sealed=sealed,
            last_index=self._floor_index,
            prev=(0, 0),
            run_s=found.verdict.run_s if found else 0,
        )
        if found is None:
            return self._fresh(start)
        if found.failure is None and not missing and not found.verdict.rotten_tail:
            return msgspec.structs.replace(start, tail=_tail(found))
        return self._behind(start, found)

    def _behind(self, start: Start, found: _Found) -> Start:
        """Writing cannot go on in the last segment: it becomes a sealed one."""
        stored, verdict = found.stored, found.verdict
        last = Segment(stored.index, stored.first_seq, verdict.next_seq - 1, verdict.end, _made_at(stored))
        start = msgspec.structs.replace(
            start, sealed=(*start.sealed, last), prev=(last.index, last.end), failure=found.failure
        )
        if found.failure is not None:
            return start
        self._disk.close(found.fd)
        self._fd = -1
        return self._fresh(start)

    def _fresh(self, start: Start) -> Start:
        """Make a new segment the active one."""
        placer = Placer(self._directory, self._spec, start.journal_id, start.last_index, self._clock.wall_ms)
        job = placer.segment([], start.next_seq, start.run_s, old=None, prev=start.prev, finish=True)
        job.perform(self._disk)
        self._written += job.written
        tail = job.tail if job.error is None else None
        return msgspec.structs.replace(start, tail=tail, failure=job.error, last_index=job.tail.index)


def _made_at(stored: StoredSegment) -> int:
    return stored.header.run_s if stored.header is not None else 0


def _tail(found: _Found) -> Tail:
    stored, verdict = found.stored, found.verdict
    tail = Tail(stored.index, stored.first_seq, run_s=_made_at(stored), offset=verdict.end)
    tail.fd = found.fd
    tail.last_seq = tail.synced_seq = verdict.next_seq - 1
    tail.marked = verdict.end if verdict.mark_end else 0
    tail.mark_end = verdict.mark_end
    tail.zeroed = max(verdict.end, verdict.file_end)
    tail.hints = list(verdict.hints)
    return tail
