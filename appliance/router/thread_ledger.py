"""Where thread reservations live: a state journal, and the region that answers ``bound`` (``design.md §5``).

A reservation is in the page cache before the frames of its turn leave, so a killed process repeats no
number. A power cut may lose what was not synced yet; for that there is a *ceiling*, synced ahead, that no
reservation exceeds: after a cut every thread goes on above it. Numbers are skipped then, never repeated.
Whether there was a cut is told by a record with the boot id at each start and one at each clean stop.

A disk that takes no writes does not stop numbering: reservations live in the region alone until the journal
has a *floor* above them; were both refused, a word of shared memory still tells the next process how far they
went. Only if the disk refuses from the very start, and power then goes, may numbers come again.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from appliance.store.journal_types import Gap, GapReason
from appliance.store.layouts import THREAD_SEQ
from appliance.store.region import SLICE_PUTS, Environment
from appliance.store.replay import Replayed
from appliance.wire.errors import FluxbeeError

__all__ = ["CEILING_STEP", "LedgerJournal", "LedgerStatistics", "ThreadLedger"]

CEILING_STEP: Final = 1 << 20
"""How far ahead the ceiling is synced: a second of one thread at the router's full speed, twice."""

MAX_THREADS: Final = 1_000_000
"""Threads remembered one by one; beyond it all go on above the highest (about 40 MB of tmpfs)."""

_MAX_MISSING: Final = 4096
"""Reservations that the region did not take and that are held here; beyond it all threads are lifted."""

_PLAUSIBLE: Final = 1 << 40
"""How far above the durable ceiling a number in shared memory is believed: a month at full speed."""

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
    """``unwritten`` reservations are not in the journal, ``unstored`` ones not in the region, so far or ever.

    ``overruns`` went above the durable ceiling; ``noted`` says that the journal knows of this start.
    """

    threads: int
    floor: int
    ceiling: int
    unwritten: int
    unstored: int
    overruns: int
    noted: bool


class ThreadLedger:
    """A :class:`~appliance.wire.seams.ThreadStore`. Feed :meth:`replay`, then :meth:`begin`, then use it.

    Args:
        journal: open and running.
        environment: with region ``thread``.
        boot_id: of the kernel.
        recall: reads a number from memory that outlives the process, but not the boot.
        remember: writes it.
        on_due: called when :meth:`note` should not wait for the next upkeep.
    """

    def __init__(
        self,
        journal: LedgerJournal,
        environment: Environment,
        boot_id: str,
        *,
        recall: Callable[[], int],
        remember: Callable[[int], None],
        on_due: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._environment = environment
        self._boot = boot_id.encode()
        self._on_due = on_due
        self._recall = recall
        self._remember = remember
        self._last_boot = b""
        self._stopped = True
        self._damaged = False
        self._lost = 0
        self._floor = 0
        self._ceiling = 0
        self._top = 0
        self._noted = False
        # Events after which the journal needs a floor above all reservations, and how many it got one for.
        self._debts = self._paid = 0
        self._missing: dict[bytes, int] = {}
        self._unwritten = 0
        self._unstored = 0
        self._overruns = 0

    # --- starting and stopping -----------------------------------------------------------------------------

    async def replay(self, stored: AsyncIterator[Replayed]) -> None:
        """Read the whole journal; the region is rebuilt where it is not the journal's view any more.

        A damaged stretch may have held the newest reservations of any thread: all go on above the ceiling.
        """
        rebuilding = _REGION in self._environment.opened.rebuild
        applied = 0 if rebuilding else self._environment.applied_seq(_REGION)
        last = 0
        async for part in stored:
            if isinstance(part, Gap):
                self._damaged = True
                self._lost += part.count if part.reason is GapReason.DAMAGED else 0
                last = part.last
                continue
            fresh: dict[bytes, int] = {}
            for sequence, record in part:
                bound = self._take(record)
                if bound is not None and (rebuilding or sequence > applied):
                    fresh[bound[0]] = bound[1]
                last = sequence
            self._rebuild(list(fresh.items()))
        if not rebuilding and (last < applied or not self._stopped or self._recall() > self._top):
            self._compare_region()
        if last < applied:
            # Not the journal that this region was a view of: its rows count, but cannot be kept up.
            self._damaged = rebuilding = True
            self._empty_region()
        if self._recalled > max(self._top, self._floor):
            self._damaged = True  # neither journal nor region took the last reservations
        self._complete(last, rebuilding)

    def _rebuild(self, bounds: list[tuple[bytes, int]]) -> None:
        for start in range(0, len(bounds), SLICE_PUTS):
            self._store(bounds[start : start + SLICE_PUTS], None)

    def _compare_region(self) -> None:
        """An earlier process that was killed may have kept reservations that the journal refused."""
        try:
            with self._environment.read() as txn:
                # Big-endian numbers: the greatest bytes are the greatest number.
                highest = int.from_bytes(
                    max((raw for _, raw in THREAD_SEQ.raw_items(txn)), default=b""), "big"
                )
        except FluxbeeError:
            self._damaged = True
            return
        if highest > self._top:
            self._top = highest
            self._debts += 1

    def _empty_region(self) -> None:
        try:
            self._environment.reset(_REGION)
        except FluxbeeError:
            self._unstored += 1

    def _complete(self, last: int, rebuilding: bool) -> None:
        if self._missing:
            return  # it stays behind, and is brought up again at the next start
        try:
            if rebuilding:
                self._environment.finish_rebuild(_REGION, applied_seq=last)
            else:
                with self._environment.change(_REGION, applied_seq=last):
                    pass
        except FluxbeeError:
            self._unstored += 1

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
            # It was above everything before it, so what was lost there is of no interest any more.
            self._damaged, self._lost = False, 0
        return None

    @property
    def _recalled(self) -> int:
        """What shared memory tells; on a disk that refuses, processes go above the ceiling. Not garbage."""
        recalled = self._recall()
        return recalled if recalled <= self._ceiling + _PLAUSIBLE else self._ceiling

    async def begin(self) -> None:
        """Note this start; after a power cut or damage lift every thread above the ceiling.

        Durable on return, unless the disk refuses: then it is tried again with every :meth:`note`.
        """
        if self._damaged or (not self._stopped and self._last_boot != self._boot):
            # A record that was lost can have moved the highest number by no more than a new ceiling does.
            highest = max(self._ceiling, self._top, self._floor, self._recalled)
            self._floor = highest + self._lost * 2 * CEILING_STEP
            self._debts += 1
        try:
            await self._write_notes(CEILING_STEP)
        except FluxbeeError:
            self._on_due()

    async def end(self) -> None:
        """Note a clean stop. Durable on return.

        Raises:
            Unavailable, Busy: the disk refuses; in another boot this will look like a power cut.
        """
        if self._owes_floor:
            await self._write_notes(CEILING_STEP)
        await self._durably([_STOP])

    async def _durably(self, records: list[bytes]) -> None:
        await self._journal.append_many(records)
        await self._journal.sync()

    # --- ThreadStore ---------------------------------------------------------------------------------------

    def bound(self, key: bytes) -> int:
        """Highest number that may have been given out for the thread; at least the floor."""
        try:
            stored = self._environment.get(THREAD_SEQ, key) or 0
        except FluxbeeError:
            stored = self._top  # nobody was given more
        return max(stored, self._floor, self._missing.get(key, 0))

    def reserve(self, bounds: Sequence[tuple[bytes, int]]) -> None:
        """Reservations into page cache and region; a failing disk is counted, not waited for."""
        self._top = max(self._top, *(bound for _, bound in bounds))
        self._remember(self._top)
        if self._top > self._ceiling:
            self._overruns += 1
        records = [_BOUND.pack(_R, key, bound) for key, bound in bounds]
        applied_seq = None
        try:
            applied_seq = self._journal.write_through(records) + len(records) - 1
        except FluxbeeError:
            self._unwritten += len(bounds)
            self._debts += 1
        self._store(bounds, None if self._owes_floor else applied_seq)
        if self.wants_note:
            self._on_due()

    def _store(self, bounds: Iterable[tuple[bytes, int]], applied_seq: int | None) -> None:
        """Raise bounds in the region; what it does not take is kept in memory and tried again."""
        wanted = {**self._missing, **dict(bounds)}
        try:
            with self._environment.change(_REGION, applied_seq=applied_seq) as txn:
                for key, bound in wanted.items():
                    THREAD_SEQ.put(txn, key, max(bound, THREAD_SEQ.get(txn, key) or 0))
            self._missing = {}
        except FluxbeeError:
            self._unstored += len(wanted) - len(self._missing)
            self._missing = wanted
            if len(wanted) > _MAX_MISSING:
                # No longer each on its own. The region stays behind until the journal has this floor.
                self._floor, self._missing = max(self._floor, self._top), {}
                self._debts += 1

    # --- upkeep --------------------------------------------------------------------------------------------

    @property
    def _owes_floor(self) -> bool:
        return self._debts > self._paid

    @property
    def wants_note(self) -> bool:
        """Whether :meth:`note` has something to write."""
        return not self._noted or self._owes_floor or self._top + CEILING_STEP // 2 > self._ceiling

    async def note(self) -> None:
        """Sync a higher ceiling, and what a refusing disk kept from the journal.

        Raises:
            Unavailable, Busy: the disk refuses; until it takes this the old ceiling counts.
        """
        await self._write_notes(2 * CEILING_STEP)

    async def _write_notes(self, ahead: int) -> None:
        debts = self._debts
        floor = max(self._floor, self._top)
        records = [_NUMBER.pack(_FLOOR, floor)] if self._owes_floor else []
        ceiling = max(self._ceiling, floor + ahead)
        records.append(_NUMBER.pack(_CEILING, ceiling))
        if not self._noted:
            records.append(_BOOT + self._boot)
        await self._durably(records)
        self._ceiling, self._noted, self._paid = ceiling, True, debts

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
            unstored=self._unstored,
            overruns=self._overruns,
            noted=self._noted,
        )
