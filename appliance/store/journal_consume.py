"""Consumers of a journal inside its process: followers, and cursors that remember where they were.

Both read in batches through the journal (files are read in a thread, never on the loop) and wait without
polling. A ``Follower`` forgets; a ``Cursor`` has a name, acknowledges, and starts behind its last
acknowledgement after a restart: at least once. What retention took, a full queue dropped or a medium lost
arrives as an explicit ``Gap``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from appliance.store.files import storage_error
from appliance.store.journal_engine import Engine
from appliance.store.journal_reader import Reader
from appliance.store.journal_segment import Snapshot
from appliance.store.journal_types import Batch, CursorStatistics, Damage, Gap, Level, Record
from appliance.system.disk import Disk
from appliance.wire.errors import Conflict, Invalid

__all__ = ["Consumers", "Cursor", "Follower", "Start"]

Start = Literal["first", "new"] | int
"""Where a new consumer begins: the oldest record there is, the next new one, or a sequence number."""

_DAMAGES_KEPT = 100
_CURSOR_NAME_BYTES = 100
_READ_THREADS = 2


class Follower:
    """Everything from one sequence number on, then what comes, as it comes.

    ``async for item in follower`` gives ``Record`` and ``Gap`` objects one by one; ``batch`` gives lists and
    is the fast way. Made by ``Journal.follow``.
    """

    def __init__(self, source: Consumers, reader: Reader, level: Level) -> None:
        self._source = source
        self._reader = reader
        self._level: Level = level
        self._ready: deque[Record | Gap] = deque()

    @property
    def next_seq(self) -> int:
        """First sequence number that the next ``batch`` may return."""
        return self._reader.next_seq

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Record | Gap:
        while not self._ready:
            batch = await self.batch()
            if batch.gap is not None:
                self._ready.append(batch.gap)
            self._ready += [Record(batch.first_seq + i, batch.at_ms, r) for i, r in enumerate(batch.records)]
        return self._ready.popleft()

    async def batch(self, *, limit_records: int = 4096, limit_bytes: int = 1 << 20) -> Batch:
        """The next records, waiting until there is one (or a gap).

        Raises:
            Unavailable: the disk cannot be read; the place stays.
        """
        while True:
            batch = await self._source.fetch(
                self._reader, level=self._level, limit_records=limit_records, limit_bytes=limit_bytes
            )
            if batch:
                return batch
            await self._source.wait_for(self._reader.next_seq, self._level)

    def close(self) -> None:
        """Release the open file; also done when the object goes."""
        self._reader.close()

    def __del__(self) -> None:
        self._reader.close()


class Cursor(Follower):
    """A named place in a journal that survives restarts. Made by ``Journal.cursor``.

    ``batch`` and ``poll`` read on from the last read; ``ack`` says what is done with. After a restart (or
    ``rewind``) reading starts behind the last acknowledgement that reached the disk, at most
    ``JournalSpec.sync_interval_s`` old, and never beyond what the journal itself has synced.
    """

    def __init__(self, source: Consumers, reader: Reader, level: Level, name: str, acked_seq: int) -> None:
        super().__init__(source, reader, level)
        self.name = name
        self.acked_seq = acked_seq
        self._gaps = 0
        self._gap_records = 0

    async def batch(self, *, limit_records: int = 4096, limit_bytes: int = 1 << 20) -> Batch:
        """The next records, waiting until there is one (or a gap)."""
        batch = await super().batch(limit_records=limit_records, limit_bytes=limit_bytes)
        self._count(batch)
        return batch

    async def poll(self, *, limit_records: int = 4096, limit_bytes: int = 1 << 20) -> Batch:
        """The next records, or an empty batch when there is nothing more for now."""
        batch = await self._source.fetch(
            self._reader, level=self._level, limit_records=limit_records, limit_bytes=limit_bytes
        )
        self._count(batch)
        return batch

    def _count(self, batch: Batch) -> None:
        if batch.gap is not None:
            self._gaps += 1
            self._gap_records += batch.gap.count

    def ack(self, seq: int) -> None:
        """Everything up to ``seq`` is done with; lower numbers than before change nothing."""
        seq = min(seq, self._source.readable_seq("written"))
        if seq > self.acked_seq:
            self.acked_seq = seq
            self._source.acknowledge(self.name, seq)

    def rewind(self) -> None:
        """Read again from behind the last acknowledgement."""
        self._ready.clear()
        self._reader.seek(self.acked_seq + 1)

    def close(self) -> None:
        """Release the name and the open file; the position stays."""
        super().close()
        self._source.release(self)

    def statistics(self) -> CursorStatistics:
        """Where it stands."""
        return CursorStatistics(
            name=self.name,
            acked_seq=self.acked_seq,
            persisted_seq=self._source.persisted_seq(self.name),
            lag_records=max(self._source.readable_seq(self._level) - self.acked_seq, 0),
            lag_bytes=self._source.lag_bytes(self.acked_seq),
            gaps=self._gaps,
            gap_records=self._gap_records,
        )


class Consumers:
    """All readers of one open journal: fetches for them, keeps names and damage.

    Args:
        engine: of the journal.
        disk: where the files are.
        directory: of the journal.
        inline: read on the caller instead of in a thread.
    """

    def __init__(self, engine: Engine, disk: Disk, directory: Path, *, inline: bool) -> None:
        self.damage_count = 0
        self._engine = engine
        self._disk = disk
        self._directory = directory
        self._inline = inline
        self._limiter = trio.CapacityLimiter(_READ_THREADS)
        self._damages: dict[tuple[str, int], Damage] = {}
        self._cursors: dict[str, Cursor] = {}

    # -- making them -------------------------------------------------------------------------------------

    def reader(self, from_seq: int) -> Reader:
        """A place in the files."""
        return Reader(self._disk, self._directory, from_seq)

    def cursor(self, name: str, start: Start, level: Level) -> Cursor:
        """See ``Journal.cursor``."""
        engine = self._engine
        if not 0 < len(name.encode()) <= _CURSOR_NAME_BYTES:
            raise Invalid(f"cursor name {name!r} has no or too many bytes", field="name")
        if name in self._cursors:
            raise Conflict(f"cursor {name} of journal {engine.spec.name} is open already")
        acked = engine.positions.stored(name)
        last_seq = engine.committer.last_seq
        if acked is None:
            starts = {"first": self._snapshot("written").first_seq, "new": last_seq + 1}
            acked = (starts[start] if isinstance(start, str) else start) - 1
        acked = max(min(acked, last_seq), 0)
        cursor = self._cursors[name] = Cursor(self, self.reader(acked + 1), level, name, acked)
        return cursor

    def forget(self, name: str) -> None:
        """See ``Journal.forget_cursor``."""
        if name in self._cursors:
            raise Conflict(f"cursor {name} of journal {self._engine.spec.name} is open")
        self._engine.positions.forget(name, self._engine.now())
        self._engine.pump()

    def release(self, cursor: Cursor) -> None:
        """A cursor was closed."""
        self._cursors.pop(cursor.name, None)

    # -- reading -----------------------------------------------------------------------------------------

    def _snapshot(self, level: Level) -> Snapshot:
        return self._engine.committer.shelf.snapshot(level)

    async def fetch(self, reader: Reader, *, level: Level, limit_records: int, limit_bytes: int) -> Batch:
        """Read on; an empty batch means nothing more for now.

        Raises:
            Unavailable: the disk cannot be read. The reader keeps its place.
        """
        missing = 0
        while reader.next_seq <= (snapshot := self._snapshot(level)).last_seq:
            tail = self._engine.committer.shelf.tail
            call = partial(
                reader.read,
                snapshot,
                limit_records=limit_records,
                limit_bytes=limit_bytes,
                hints=None if tail is None else (tail.index, tail.hints),
            )
            try:
                batch = call() if self._inline else await trio.to_thread.run_sync(call, limiter=self._limiter)
            except FileNotFoundError:
                missing = self._missed(reader, snapshot, missing)
                continue
            except OSError as exc:
                raise storage_error(exc, f"journal {self._engine.spec.name} cannot be read") from exc
            self.note(reader.damages)
            reader.damages.clear()
            return batch
        await trio.lowlevel.checkpoint()
        return Batch(None, reader.next_seq, [], 0)

    def batches(self, from_seq: int, level: Level) -> Iterator[Batch]:
        """See ``Journal.batches``."""
        reader, missing = self.reader(from_seq), 0
        try:
            while reader.next_seq <= (snapshot := self._snapshot(level)).last_seq:
                try:
                    batch = reader.read(snapshot)
                except FileNotFoundError:
                    missing = self._missed(reader, snapshot, missing)
                    continue
                self.note(reader.damages)
                reader.damages.clear()
                yield batch
        except OSError as exc:
            raise storage_error(exc, f"journal {self._engine.spec.name} cannot be read") from exc
        finally:
            reader.close()

    @staticmethod
    def _missed(reader: Reader, snapshot: Snapshot, missing: int) -> int:
        """A file is not there: trimmed meanwhile, unless it is missing a second time."""
        if snapshot.first_seq <= reader.next_seq and missing == reader.next_seq:
            reader.skip_missing(snapshot)
        return reader.next_seq

    async def wait_for(self, seq: int, level: Level) -> None:
        """Wait until record ``seq`` can be read; ``Unavailable`` when the journal is closed before."""
        while self.readable_seq(level) < seq:
            if not self._engine.accepting:
                self._engine.check()
            await self._engine.park()

    def readable_seq(self, level: Level) -> int:
        """Last sequence number that can be read."""
        committer = self._engine.committer
        return committer.durable_seq if level == "synced" else committer.written_seq

    # -- positions and damage ----------------------------------------------------------------------------

    def acknowledge(self, name: str, seq: int) -> None:
        """Persist a cursor's position soon."""
        self._engine.positions.want(name, seq, self._engine.now())
        self._engine.nudge()

    def persisted_seq(self, name: str) -> int:
        """A cursor's position on disk; 0 without one."""
        return self._engine.positions.stored(name) or 0

    def lag_bytes(self, seq: int) -> int:
        """Upper bound of the bytes behind record ``seq``."""
        return sum(s.end for s in self._snapshot("written").segments if s.last_seq > seq)

    def note(self, damages: Iterable[Damage]) -> None:
        """Remember damage, each place once, the newest hundred."""
        for damage in damages:
            key = (damage.file, damage.offset)
            if key in self._damages:
                continue
            self.damage_count += 1
            self._damages[key] = damage
            if len(self._damages) > _DAMAGES_KEPT:
                del self._damages[next(iter(self._damages))]

    @property
    def damages(self) -> tuple[Damage, ...]:
        """What was found damaged since the journal was opened."""
        return tuple(self._damages.values())

    def statistics(self) -> tuple[CursorStatistics, ...]:
        """Figures of all open cursors."""
        return tuple(cursor.statistics() for cursor in self._cursors.values())
