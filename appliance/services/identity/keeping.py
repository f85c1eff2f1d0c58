"""Journal, directory and region ``identity``, kept in step: the journal first, then memory, then the region.

Invariants: memory is what the journal holds; the region is never ahead of it. After an append whose outcome
is unknown the journal is read before anything else is decided. One caller at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from appliance.identity import Directory, Op, Transaction, decode_transaction, encode_transaction
from appliance.store.journal import Journal
from appliance.store.journal_types import Gap, JournalSpec, JournalStatistics
from appliance.store.replay import replay
from appliance.store.reserve import Reserve
from appliance.system.log import get_logger
from appliance.wire.errors import Damaged, FluxbeeError, Unavailable

from .region import Applied, IdentityRegion

__all__ = ["JOURNAL", "IdentityKeeping"]

JOURNAL: Final = "identity"
_BASE_EVERY: Final = 512
"""A base image is written after so many changes; each record holds the rows that changed."""
_OPS_PER_RECORD: Final = 64
"""Of a base image."""

log = get_logger("identity")


class IdentityKeeping:
    """See the module.

    Args:
        directory: what is kept; empty.
        region: its view.
        place: directory of the journal.
    """

    def __init__(self, directory: Directory, region: IdentityRegion, place: Path) -> None:
        self.directory = directory
        self.sequence = 0
        """Of the last record that ``directory`` has."""
        self._region = region
        self._place = place
        self._newest: list[Applied] = []  # what the region may lack
        self._unknown = False  # whether the journal may hold more than ``directory``
        self._unreadable: str | None = None
        self._since_base = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Open the journal and read it; the region is left to :meth:`catch_up`.

        Raises:
            Conflict: another process has it open.
            Unavailable: it cannot be read.
        """
        spec = JournalSpec(name=JOURNAL, kind="state", durability="durable", segment_bytes=1 << 20)
        async with await Journal.opened(self._place, spec) as self._journal:
            try:
                await self._restore()
            except Damaged as error:
                # Of another software version. Nothing is written on top of what cannot be understood.
                self._unreadable = error.message
                log.error("identity_unreadable", code="IDENTITY_UNREADABLE", error=error.message)
            yield self

    async def _restore(self) -> None:
        base = self._journal.base
        upto = 0 if base is None else base.upto_seq
        damaged: Damaged | None = None
        async for part in replay(self._journal):
            if isinstance(part, Gap):
                log.error(
                    "identity_changes_lost", code="IDENTITY_CHANGES_LOST", first=part.first, last=part.last
                )
            elif damaged is None:
                try:
                    self._take_part(part, upto)
                except Damaged as error:
                    damaged = error
        self._since_base = max(0, self.sequence - upto)
        if damaged is not None:
            raise damaged

    def _take_part(self, part: list[tuple[int, bytes]], upto: int) -> None:
        for sequence, record in part:
            ops = decode_transaction(record).ops
            if sequence > upto:
                self._take(sequence, ops)
            else:  # of the base image, whose records all have one number
                self.directory.apply(ops)
                self.sequence = upto

    def _take(self, sequence: int, ops: tuple[Op, ...]) -> None:
        self.directory.apply(ops)
        self._newest.append(Applied(self.sequence, sequence, ops))
        self.sequence = sequence

    # --- how it stands ---------------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why changes are refused now; ``None`` when they are not."""
        if self._unreadable is not None:
            return self._unreadable
        if self._region.failure is not None:
            return self._region.failure
        return "the outcome of a change is not known yet" if self._unknown else None

    @property
    def can_mend(self) -> bool:
        """Whether :meth:`catch_up` may help."""
        return self._unreadable is None

    def figures(self) -> JournalStatistics:
        """Of the journal."""
        return self._journal.statistics()

    @property
    def region_failure(self) -> str | None:
        """Why the region is behind."""
        return self._unreadable or self._region.failure

    async def make_way(self, reserve: Reserve) -> None:
        """Before a change, on a disk that may be full."""
        await reserve.make_way(self._journal)

    # --- changing --------------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Learn what the journal holds and show it in the region.

        Raises:
            Conflict: another process writes the region.
            FluxbeeError: not possible yet.
        """
        if self._unreadable is not None:
            raise Unavailable(self._unreadable, code="IDENTITY_UNREADABLE")
        if self._unknown:
            await self._settle()
        await self._region.show(self.directory, self.sequence, self._newest)
        self._newest.clear()

    async def _settle(self) -> None:
        await self._journal.sync()
        position = self.sequence + 1
        while batch := await self._journal.read(position, level="written"):
            for index, record in enumerate(batch.records):
                self._take(batch.first_seq + index, decode_transaction(record).ops)
            position = batch.next_seq
        self._unknown = False

    async def commit(self, transaction: Transaction) -> None:
        """Journal, memory, region, and a base image now and then.

        Raises:
            FluxbeeError: not stored; or stored and not in the region, then :attr:`sequence` has moved.
        """
        try:
            sequence = await self._journal.append(encode_transaction(transaction))
        except FluxbeeError:
            self._unknown = True
            raise
        self._take(sequence, transaction.ops)
        self._since_base += 1
        await self.catch_up()
        if self._since_base >= _BASE_EVERY:
            await self._write_base()

    async def _write_base(self) -> None:
        rows = tuple(self.directory.rows())  # records never change, so a thread may encode them
        try:
            await self._journal.write_base(self.sequence, _records(rows))
        except FluxbeeError as error:
            log.warning("base_image_not_written", code="BASE_IMAGE_NOT_WRITTEN", error=str(error))
            return
        self._since_base = 0


def _records(rows: tuple[Op, ...]) -> Iterator[bytes]:
    for start in range(0, len(rows), _OPS_PER_RECORD):
        ops = rows[start : start + _OPS_PER_RECORD]
        yield encode_transaction(Transaction(at_ms=0, action="BASE", ops=ops))
