"""Where named consumers of a journal stand, on disk.

One small file per consumer with two slots in different pages, written in turn: a torn or failed write leaves
the other slot, and no metadata changes (a replaced file would cost eight times the flash). ``Positions``
plans writes, at most one job per interval for all consumers together; it does no I/O itself. A lost or
damaged file means reading again from where the consumer starts: at least once, never skipped.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote
from zlib import crc32

import msgspec

from appliance.store.journal_jobs import Job
from appliance.system.disk import Disk

__all__ = ["CursorJob", "Positions", "StoredPosition", "load_positions"]

_PREFIX, _SUFFIX = "cursor-", ".pos"
_SLOT = struct.Struct(">4sQQ16s")
_CRC = struct.Struct(">I")
_MAGIC = b"FXC1"
_STRIDE = 4096
_RETRY_S = 5.0


class StoredPosition(msgspec.Struct, frozen=True):
    """A consumer's last persisted acknowledgement; ``generation`` decides which slot is newer."""

    acked_seq: int
    generation: int


def _file(name: str) -> str:
    return f"{_PREFIX}{quote(name, safe='')}{_SUFFIX}"


def _pack(name: str, journal_id: bytes, position: StoredPosition) -> bytes:
    data = _SLOT.pack(_MAGIC, position.generation, position.acked_seq, journal_id)
    return data + _CRC.pack(crc32(data + name.encode()))


def _unpack(name: str, journal_id: bytes, data: bytes) -> StoredPosition | None:
    if len(data) < _SLOT.size + 4:
        return None
    magic, generation, acked, owner = _SLOT.unpack_from(data)
    whole = crc32(data[: _SLOT.size] + name.encode()) == _CRC.unpack_from(data, _SLOT.size)[0]
    if not whole or magic != _MAGIC or owner != journal_id:
        return None
    return StoredPosition(acked, generation)


def load_positions(disk: Disk, directory: Path, journal_id: bytes) -> dict[str, StoredPosition]:
    """Positions of all consumers of this journal; unreadable files count as absent."""
    found = {}
    for file in disk.names(directory):
        if not (file.startswith(_PREFIX) and file.endswith(_SUFFIX)):
            continue
        name = unquote(file[len(_PREFIX) : -len(_SUFFIX)])
        fd = disk.open_read(directory / file)
        try:
            slots = [_unpack(name, journal_id, disk.pread(fd, _STRIDE, at)) for at in (0, _STRIDE)]
        finally:
            disk.close(fd)
        valid = [slot for slot in slots if slot is not None]
        if valid:
            found[name] = max(valid, key=lambda slot: slot.generation)
    return found


class CursorJob(Job):
    """Write some positions, each synced; ``gone`` are files to remove."""

    __slots__ = ("directory", "gone", "items", "written")

    def __init__(
        self, directory: Path, items: Sequence[tuple[str, bytes, int, int, int]], gone: Sequence[str]
    ) -> None:
        super().__init__()
        self.directory = directory
        self.items = items
        self.gone = gone
        self.written = 0

    def run(self, disk: Disk) -> None:
        """One small synced write per consumer; a missing file is created first."""
        for file in self.gone:
            try:
                disk.unlink(self.directory / file)
            except FileNotFoundError:
                continue
        for file, data, offset, _, _ in self.items:
            self._write(disk, self.directory / file, data, offset)

    def _write(self, disk: Disk, path: Path, data: bytes, offset: int) -> None:
        created = False
        try:
            fd = disk.open_write(path)
        except FileNotFoundError:
            fd = disk.create(path)
            created = True
        try:
            self.written += disk.pwrite(fd, [data], offset, sync=True)
            if created:
                disk.sync_dir(self.directory)
        finally:
            disk.close(fd)


class Positions:
    """What to persist for which consumer, and when.

    Args:
        directory: of the journal.
        journal_id: identity of the journal; another journal's positions are not used.
        stored: what ``load_positions`` found.
        interval_s: shortest time between two jobs.
    """

    def __init__(
        self, directory: Path, journal_id: bytes, stored: Mapping[str, StoredPosition], interval_s: float
    ) -> None:
        self.errors = 0
        self.bytes_written = 0
        self._directory = directory
        self._journal_id = journal_id
        self._stored = dict(stored)
        self._wanted: dict[str, int] = {}
        self._gone: list[str] = []
        self._interval_s = interval_s
        self._due = math.inf
        self._last_at = -math.inf

    def stored(self, name: str) -> int | None:
        """The persisted position, or None."""
        position = self._stored.get(name)
        return None if position is None else position.acked_seq

    @property
    def due(self) -> float:
        """When ``plan`` has something to do (monotonic seconds, may be inf)."""
        return self._due

    def want(self, name: str, acked_seq: int, now: float) -> None:
        """Persist this position soon."""
        self._wanted[name] = acked_seq
        self._due = min(self._due, max(now, self._last_at + self._interval_s))

    def forget(self, name: str, now: float) -> None:
        """Remove a consumer's file."""
        self._wanted.pop(name, None)
        self._stored.pop(name, None)
        self._gone.append(_file(name))
        self._due = min(self._due, now)

    def plan(self, now: float, durable_seq: int, *, all_now: bool = False) -> CursorJob | None:
        """A job for what is wanted; positions beyond ``durable_seq`` are written as ``durable_seq``."""
        if not self._wanted and not self._gone:
            self._due = math.inf
            return None
        if now < self._due and not all_now:
            return None
        items = []
        for name, wanted in self._wanted.items():
            known = self._stored.get(name)
            generation = 1 if known is None else known.generation + 1
            acked = min(wanted, durable_seq)
            if known is not None and known.acked_seq == acked:
                continue  # the journal has not come further: nothing to write yet
            data = _pack(name, self._journal_id, StoredPosition(acked, generation))
            items.append((_file(name), data, generation % 2 * _STRIDE, acked, generation))
        self._last_at = now
        self._due = now + self._interval_s if self._wanted else math.inf
        if not items and not self._gone:
            return None
        self._due = math.inf
        gone, self._gone = self._gone, []
        return CursorJob(self._directory, items, gone)

    def done(self, job: CursorJob, now: float) -> None:
        """Take the outcome; after an error everything stays wanted and goes into the same slots again."""
        self.bytes_written += job.written
        if job.error is not None:
            self.errors += 1
            self._due = now + _RETRY_S
            return
        for file, _, _, acked, generation in job.items:
            if file in self._gone:
                continue
            name = unquote(file[len(_PREFIX) : -len(_SUFFIX)])
            self._stored[name] = StoredPosition(acked, generation)
            if self._wanted.get(name) == acked:
                del self._wanted[name]
        if self._wanted:
            self._due = now + self._interval_s
