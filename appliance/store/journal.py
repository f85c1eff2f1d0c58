"""The journal: append-only, checksummed, segmented; what every view can be rebuilt from (``design.md §2``).

One process writes a journal, held by a lock; ``Journal`` is its face on the trio loop. What it promises:

* ``append_many`` of a *durable* journal returns after its records are on the medium, all or none of them.
* Numbers start at 1 and have no holes; what has no record is an explicit ``Gap``. A number up to
  ``durable_seq`` belongs to its record for ever. A higher one (relaxed class, before its sync) may be lost in
  a power cut and given out again; readers at level ``synced`` never see such a number.
* After an error of the disk nothing unsynced is trusted and no sync is tried again: writing answers
  ``Unavailable`` until a new segment could be made, which is tried by itself.

It does not interpret records and does not touch files on the loop, except in ``write_through``.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from appliance.store.files import storage_error
from appliance.store.journal_consume import Consumers, Cursor, Follower, Start
from appliance.store.journal_engine import Engine
from appliance.store.journal_figures import gather
from appliance.store.journal_format import join_records
from appliance.store.journal_images import Images
from appliance.store.journal_pending import Ticket
from appliance.store.journal_recover import Recovered, recover
from appliance.store.journal_segment import Snapshot
from appliance.store.journal_types import (
    BaseInfo,
    Batch,
    Damage,
    JournalSpec,
    JournalStatistics,
    Level,
    Repair,
)
from appliance.system.clock import Clock, SystemClock
from appliance.system.disk import Disk, RealDisk
from appliance.wire.errors import Invalid

__all__ = ["Journal"]


class Journal:
    """One open journal. Make it with ``open`` (blocking) or ``opened``; serve it with ``run``.

    Appends are accepted at once; they are written while ``run`` is running (``async with journal`` runs it).
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
        self.directory = directory
        self.journal_id = recovered.start.journal_id
        self.repairs: tuple[Repair, ...] = recovered.repairs
        self._engine = Engine(directory, spec, recovered, disk, clock, inline=inline)
        self._committer = self._engine.committer
        self._consumers = Consumers(self._engine, disk, directory, inline=inline)
        self._consumers.note(recovered.damages)
        self._images = Images(self._engine, disk, directory, recovered, clock or SystemClock(), inline=inline)

    # -- opening and serving -----------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: Path,
        spec: JournalSpec,
        *,
        disk: Disk | None = None,
        clock: Clock | None = None,
        inline: bool = False,
    ) -> Self:
        """Open, repair or create the journal in ``directory``. Blocks on the disk.

        Args:
            directory: made if it is missing.
            spec: its kind must be the one it was created with.
            disk: where to write; None means the operating system.
            clock: for stamps and timers; None means the system's, and the trio loop's for timers.
            inline: write on the caller instead of in a thread; for tests and tools.

        Raises:
            Conflict: another process has it open.
            Misconfigured: it has the other kind.
            Unavailable: it cannot be read or created, or is of a newer format. A disk that can be read but
                not written is no error: the journal opens in state ``failed``.
        """
        disk = disk or RealDisk()
        try:
            recovered = recover(directory, spec, disk, clock or SystemClock())
        except OSError as exc:
            raise storage_error(exc, f"journal {spec.name} in {directory}") from exc
        return cls(directory, spec, recovered, disk, clock, inline=inline)

    @classmethod
    async def opened(
        cls,
        directory: Path,
        spec: JournalSpec,
        *,
        disk: Disk | None = None,
        clock: Clock | None = None,
        inline: bool = False,
    ) -> Self:
        """``open`` in a worker thread."""
        call = partial(cls.open, directory, spec, disk=disk, clock=clock, inline=inline)
        return await trio.to_thread.run_sync(call)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; flushes, syncs and marks the end on the way out."""
        await self._engine.run(task_status=task_status)

    async def __aenter__(self) -> Self:
        self._engine.check_fresh()
        self._serving = self._serve()
        await self._serving.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # the block's own error is none of the nursery's: it comes out as it is, not in a group
        await self._serving.__aexit__(None, None, None)

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._engine.run)
            yield
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Close a journal that is not running (tools); blocks on the disk."""
        self._engine.close()

    # -- appending ---------------------------------------------------------------------------------------

    async def append(self, record: bytes) -> int:
        """``append_many`` of one record; returns its sequence number."""
        return (await self.append_many((record,)))[1]

    async def append_many(self, records: Iterable[bytes]) -> tuple[int, int]:
        """Append records as one: all of them are stored, or none.

        Durable class: returns when they are on the medium. Relaxed class: returns when they are accepted. An
        append that is cancelled, or fails with ``STORAGE_STALLED``, may or may not be stored.

        Returns:
            First and last sequence number.

        Raises:
            Busy: too much waits for the disk.
            Invalid: no records, or more than ``max_append_bytes``.
            Unavailable: the disk failed; nothing was acknowledged.
        """
        return await self.append_joined(*join_records(records))

    async def append_joined(self, body: bytes, count: int) -> tuple[int, int]:
        """``append_many`` of ``count`` records joined as ``append_joined_nowait`` takes them."""
        self._check(body, count)
        committer = self._committer
        frame = committer.add(body, count, self._engine.now())
        last = committer.last_seq
        if self.spec.durability == "relaxed":
            self._engine.nudge()
            await trio.lowlevel.checkpoint()
        else:
            ticket = frame.ticket = frame.ticket or Ticket()
            self._engine.nudge()
            await self._engine.wait_ticket(ticket)
        return last - count + 1, last

    def append_nowait(self, records: Iterable[bytes]) -> int:
        """``append_joined_nowait`` of separate records."""
        return self.append_joined_nowait(*join_records(records))

    def append_joined_nowait(self, body: bytes, count: int) -> int:
        """Accept records without waiting; they are written with the next group.

        Args:
            body: records, each as u32 big-endian length and bytes (the framing of the node socket).
            count: how many; a wrong number makes the group unreadable.

        Returns:
            The first sequence number. With ``overflow: drop`` the records may have been left out and counted;
            their numbers are a gap then.

        Raises:
            Busy, Unavailable: with ``overflow: busy``; nothing was accepted.
            Invalid: no records, or more than ``max_append_bytes``.
        """
        self._check(body, count)
        committer = self._committer
        first_seq = committer.last_seq + 1
        if self.spec.overflow == "drop" and not committer.fits(len(body)):
            committer.drop(count, self._engine.now())
        else:
            committer.add(body, count, self._engine.now())
        self._engine.nudge()
        return first_seq

    def write_through(self, records: Iterable[bytes]) -> int:
        """``write_through_joined`` of separate records."""
        return self.write_through_joined(*join_records(records))

    def write_through_joined(self, body: bytes, count: int) -> int:
        """Append and put into the page cache now, on this thread: survives the death of the process.

        A power cut may take it until the next sync (≤ ``sync_interval_s``). Relaxed journals only.

        Returns:
            The first sequence number.

        Raises:
            Busy, Unavailable: not written, or not for sure.
            Invalid: the journal is durable; no records, or too many bytes.
        """
        self._check(body, count)
        if self.spec.durability == "durable":
            raise Invalid(f"journal {self.spec.name} is durable, this write is not", field="durability")
        first_seq = self._committer.last_seq + 1
        self._committer.add(body, count, self._engine.now())
        self._engine.through()
        return first_seq

    def drop(self, count: int) -> None:
        """Record that ``count`` records were left out on purpose (a budget): an explicit gap. Logs only."""
        if self.spec.kind != "log" or count < 1:
            raise Invalid(f"journal {self.spec.name} cannot drop {count} records", field="count")
        self._committer.drop(count, self._engine.now())
        self._engine.nudge()

    def _check(self, body: bytes, count: int) -> None:
        if not self._engine.accepting:
            self._engine.check()
        if count < 1 or len(body) > self.spec.max_append_bytes:
            limit = self.spec.max_append_bytes
            raise Invalid(f"{count} records in {len(body)} bytes; 1 record to {limit} bytes", field="records")

    async def sync(self) -> None:
        """Return when everything accepted so far is on the medium; ``Unavailable`` when that fails."""
        await self._engine.sync()

    async def resume(self) -> None:
        """Try at once to write again after a failure; ``Unavailable`` while it still fails."""
        await self._engine.resume()

    # -- reading -----------------------------------------------------------------------------------------

    async def read(
        self,
        from_seq: int,
        *,
        level: Level = "synced",
        limit_records: int = 4096,
        limit_bytes: int = 1 << 20,
    ) -> Batch:
        """One batch from ``from_seq`` on; empty when there is nothing (yet).

        Raises:
            Unavailable: the disk cannot be read.
        """
        reader = self._consumers.reader(from_seq)
        try:
            return await self._consumers.fetch(
                reader, level=level, limit_records=limit_records, limit_bytes=limit_bytes
            )
        finally:
            reader.close()

    def batches(self, from_seq: int = 1, *, level: Level = "synced") -> Iterator[Batch]:
        """All batches from ``from_seq`` to what is there when it is called. Blocks on the disk.

        For the rebuild of a view, in a thread or before there is a loop.

        Raises:
            Unavailable: the disk cannot be read.
        """
        return self._consumers.batches(from_seq, level)

    def snapshot(self, level: Level = "synced") -> Snapshot:
        """Which segments can be read now; for readers of their own, in other threads."""
        return self._engine.committer.shelf.snapshot(level)

    def follow(self, from_seq: int, *, level: Level = "synced") -> Follower:
        """Everything from ``from_seq`` on, and then what comes."""
        return Follower(self._consumers, self._consumers.reader(from_seq), level)

    def cursor(self, name: str, *, start: Start = "first", level: Level = "synced") -> Cursor:
        """The named consumer ``name``, where it was; a new one begins at ``start``.

        Args:
            name: 1 to 100 bytes of UTF-8.
            start: see ``Start``.
            level: ``written`` also shows what is not synced yet; see ``Level``.

        Raises:
            Conflict: it is open already.
            Invalid: the name.
        """
        return self._consumers.cursor(name, start, level)

    def forget_cursor(self, name: str) -> None:
        """Remove a consumer's position for good; ``Conflict`` while it is open."""
        self._consumers.forget(name)

    # -- trimming and images -----------------------------------------------------------------------------

    def trim_to(self, seq: int) -> int:
        """Give up whole segments of a log that hold only records up to ``seq``; returns how many.

        Raises:
            Invalid: a state journal; it trims behind its base image.
        """
        if self.spec.kind != "log":
            raise Invalid(f"journal {self.spec.name} trims only behind a base image", field="kind")
        count = self._committer.shelf.trim_behind(min(seq, self.durable_seq))
        self._engine.pump()
        return count

    async def write_base(self, upto_seq: int, records: Iterable[bytes]) -> BaseInfo:
        """Write and verify an image of the state after record ``upto_seq``; then trim behind it.

        ``records`` is consumed in a worker thread: it must not touch what the loop changes meanwhile, and as
        plain Python it shares the interpreter with the loop (``design.md §4``).

        Raises:
            Conflict: another image is being written.
            Damaged: it did not read back as it was written.
            Invalid: not a state journal, or ``upto_seq`` is not durable.
            Unavailable: the disk failed; older images and all segments stay.
        """
        return await self._images.write(upto_seq, records)

    @property
    def base(self) -> BaseInfo | None:
        """The newest base image."""
        return self._images.newest

    def read_base(self) -> Iterator[list[bytes]]:
        """The records of the newest base image, in lists; nothing without one. Blocks on the disk.

        Raises:
            Damaged: it fails its check: forget what came so far and call again; the image was set aside,
                and an older one (``keep_bases``) is next.
            Unavailable: the disk cannot be read.
        """
        return self._images.read()

    # -- figures -----------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether it takes no writes because the disk was full when it tried last."""
        failure = self._committer.failure
        return failure is not None and failure.errno in (errno.ENOSPC, errno.EDQUOT)

    @property
    def last_seq(self) -> int:
        """Last sequence number given out."""
        return self._committer.last_seq

    @property
    def durable_seq(self) -> int:
        """Last sequence number on the medium."""
        return self._committer.durable_seq

    @property
    def damages(self) -> tuple[Damage, ...]:
        """What was found damaged since it was opened (the newest hundred)."""
        return self._consumers.damages

    def statistics(self) -> JournalStatistics:
        """Figures since it was opened."""
        return gather(self._engine, self._consumers, self._images, len(self.repairs))
