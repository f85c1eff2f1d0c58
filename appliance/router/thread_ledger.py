"""Where thread reservations live: a state journal, and the region that answers ``bound`` (``design.md §5``).

A reservation is in the page cache before the frames of its turn leave, so a killed process repeats no
number. A power cut may lose what was not synced yet; for that there is a *ceiling*, synced ahead, that no
reservation exceeds: after a cut every thread goes on above it. Numbers are skipped then, never repeated.
Whether there was a cut is told by a record with the boot id at each start and one at each clean stop.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from appliance.store.journal_types import Gap
from appliance.store.layouts import THREAD_SEQ
from appliance.store.region import SLICE_PUTS, Environment
from appliance.store.replay import Replayed
from appliance.wire.errors import FluxbeeError

__all__ = ["CEILING_STEP", "LedgerJournal", "LedgerStatistics", "ThreadLedger"]

CEILING_STEP: Final = 1 << 20
"""How far ahead the ceiling is synced: a second of one thread at the router's full speed, twice."""

MAX_THREADS: Final = 1_000_000
"""Threads remembered one by one; beyond it all go on above the highest (about 40 MB of tmpfs)."""

_REGION: Final = "thread"
_BOUND = struct.Struct(">c16sQ")
_NUMBER = struct.Struct(">cQ")
_R, _CEILING, _FLOOR, _BOOT, _STOP = b"R", b"C", b"F", b"B", b"S"


class LedgerJournal(Protocol):
    """The part of a journal that is needed here."""

    def write_through(self, records: Sequence[bytes]) -> int:
        """Into the page cache now; returns the first sequence number."""
        ...

    async def append_many(self, records: Sequence[bytes]) -> object:
        """Accepted on return."""
        ...

    async def sync(self) -> None:
        """Everything accepted so far is on the medium on return."""
        ...


class LedgerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """``unwritten`` reservations could not be stored; ``overruns`` went above the durable ceiling."""

    threads: int
    floor: int
    ceiling: int
    unwritten: int
    overruns: int


class ThreadLedger:
    """A :class:`~appliance.wire.seams.ThreadStore`. Feed :meth:`replay`, then :meth:`begin`, then use it."""

    def __init__(self, journal: LedgerJournal, environment: Environment, boot_id: str) -> None:
        self._journal = journal
        self._environment = environment
        self._boot = boot_id.encode()
        self._last_boot = b""
        self._stopped = True
        self._damaged = False
        self._floor = 0
        self._ceiling = 0
        self._top = 0
        self._unwritten = 0
        self._overruns = 0

    # --- starting and stopping -----------------------------------------------------------------------------

    async def replay(self, stored: AsyncIterator[Replayed]) -> None:
        """Read the whole journal; the region is rebuilt where it is not the journal's view any more.

        A damaged stretch may have held the newest reservations of any thread: all go on above the ceiling.
        """
        rebuilding = _REGION in self._environment.opened.rebuild
        applied = 0 if rebuilding else self._environment.applied_seq(_REGION)
        if rebuilding:
            self._environment.reset(_REGION)
        last = applied
        async for part in stored:
            if isinstance(part, Gap):
                self._damaged = True
                continue
            fresh: dict[bytes, int] = {}
            for sequence, record in part:
                bound = self._take(record)
                if bound is not None and (rebuilding or sequence > applied):
                    fresh[bound[0]] = bound[1]
                last = max(last, sequence)
            self._rebuild(list(fresh.items()))
        if rebuilding:
            self._environment.finish_rebuild(_REGION, applied_seq=last)
        elif last > applied:
            self._store((), last)

    def _rebuild(self, bounds: list[tuple[bytes, int]]) -> None:
        for start in range(0, len(bounds), SLICE_PUTS):
            self._store(bounds[start : start + SLICE_PUTS], None)

    def _take(self, record: bytes) -> tuple[bytes, int] | None:
        kind = record[:1]
        if kind == _R:
            _, key, bound = _BOUND.unpack(record)
            self._top = max(self._top, bound)
            return key, bound
        if kind == _BOOT:
            self._last_boot, self._stopped = record[1:], False
        elif kind == _STOP:
            self._stopped = True
        elif kind == _CEILING:
            self._ceiling = max(self._ceiling, _NUMBER.unpack(record)[1])
        elif kind == _FLOOR:
            self._floor = max(self._floor, _NUMBER.unpack(record)[1])
        return None

    async def begin(self) -> None:
        """Note this start; after a power cut lift every thread above the ceiling. Durable on return."""
        records = []
        if self._damaged or (not self._stopped and self._last_boot != self._boot):
            self._floor = max(self._ceiling, self._top)
            records.append(_NUMBER.pack(_FLOOR, self._floor))
        self._ceiling = max(self._ceiling, self._floor + CEILING_STEP, self._top + CEILING_STEP)
        records += [_NUMBER.pack(_CEILING, self._ceiling), _BOOT + self._boot]
        await self._durably(records)

    async def end(self) -> None:
        """Note a clean stop. Durable on return."""
        await self._durably([_STOP])

    async def _durably(self, records: list[bytes]) -> None:
        await self._journal.append_many(records)
        await self._journal.sync()

    # --- ThreadStore ---------------------------------------------------------------------------------------

    def bound(self, key: bytes) -> int:
        """Highest number that may have been given out for the thread; at least the floor."""
        return max(self._environment.get(THREAD_SEQ, key) or 0, self._floor)

    def reserve(self, bounds: Sequence[tuple[bytes, int]]) -> None:
        """Reservations into page cache and region; a failing disk is counted, not waited for."""
        self._top = max(self._top, *(bound for _, bound in bounds))
        if self._top > self._ceiling:
            self._overruns += 1
        records = [_BOUND.pack(_R, key, bound) for key, bound in bounds]
        try:
            first = self._journal.write_through(records)
        except FluxbeeError:
            self._unwritten += len(bounds)
            self._store(bounds, None)
            return
        self._store(bounds, first + len(records) - 1)

    def _store(self, bounds: Iterable[tuple[bytes, int]], applied_seq: int | None) -> None:
        try:
            with self._environment.change(_REGION, applied_seq=applied_seq) as txn:
                for key, bound in bounds:
                    THREAD_SEQ.put(txn, key, bound)
        except FluxbeeError:
            # The journal has it; within this run the counters' own memory is ahead of the region.
            self._unwritten += 1

    # --- upkeep --------------------------------------------------------------------------------------------

    @property
    def wants_ceiling(self) -> bool:
        """Whether :meth:`raise_ceiling` is due."""
        return self._top + CEILING_STEP // 2 > self._ceiling

    async def raise_ceiling(self) -> None:
        """Sync a higher ceiling; until it is on disk the old one counts."""
        ceiling = self._top + 2 * CEILING_STEP
        await self._durably([_NUMBER.pack(_CEILING, ceiling)])
        self._ceiling = ceiling

    def image(self) -> tuple[int, Iterator[bytes]]:
        """Base image: sequence that it covers, and its records. Consume it before the next change."""
        with self._environment.read() as txn:
            rows = list(THREAD_SEQ.items(txn))
        upto = self._environment.applied_seq(_REGION)
        if len(rows) > MAX_THREADS:
            self._floor = max(self._top, self._floor)
            self._environment.reset(_REGION)
            self._environment.finish_rebuild(_REGION, applied_seq=upto)
            rows = []
        return upto, self._image_records(rows)

    def _image_records(self, rows: list[tuple[bytes, int]]) -> Iterator[bytes]:
        yield _NUMBER.pack(_FLOOR, self._floor)
        yield _NUMBER.pack(_CEILING, self._ceiling)
        yield _BOOT + self._boot
        for key, bound in rows:
            yield _BOUND.pack(_R, key, bound)

    def statistics(self) -> LedgerStatistics:
        """A snapshot."""
        return LedgerStatistics(
            threads=self._environment.count(THREAD_SEQ),
            floor=self._floor,
            ceiling=self._ceiling,
            unwritten=self._unwritten,
            overruns=self._overruns,
        )
