"""Reading a journal forward: records in order, every gap explicit, damage reported and stepped over.

``Reader`` is one consumer's place in the files. It works on immutable snapshots, so it runs in any thread
(one at a time) while the journal is written. ``JournalFiles`` makes snapshots from the directory alone, for
tools and other processes beside a running writer; it never writes, locks or repairs.

Invariant: sequence numbers come out ascending and complete, as a record or inside a ``Gap``; nothing is
left out silently.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from appliance.store.files import storage_error
from appliance.store.journal_examine import examine
from appliance.store.journal_format import FLAG_GAP, HEADER_SIZE, Group
from appliance.store.journal_pending import GAP_CODES
from appliance.store.journal_scan import Hole, Scan, Window
from appliance.store.journal_segment import Segment, Snapshot, load_chain
from appliance.store.journal_types import Batch, Damage, Gap, GapReason, Level
from appliance.system.disk import Disk, RealDisk

__all__ = ["Hints", "JournalFiles", "Reader"]

_REASONS = {code: reason for reason, code in GAP_CODES.items()}
Hints = tuple[int, Sequence[tuple[int, int]]]
"""Segment index, and (sequence number, offset) pairs inside that segment, ascending."""


class Reader:
    """One place in a journal.

    Args:
        disk: where the files are.
        directory: of the journal.
        from_seq: first sequence number wanted (numbers start at 1).
    """

    def __init__(self, disk: Disk, directory: Path, from_seq: int) -> None:
        self.next_seq = max(from_seq, 1)
        self.damages: list[Damage] = []
        self._disk = disk
        self._directory = directory
        self._fd = -1
        self._segment: Segment | None = None
        self._scan: Scan | None = None
        self._window: Window | None = None
        self._records: list[bytes] = []
        self._records_ms = 0
        self._gap: Gap | None = None

    def close(self) -> None:
        """Release the open file."""
        if self._fd >= 0:
            self._disk.close(self._fd)
        self._fd, self._segment, self._scan, self._window = -1, None, None, None

    def seek(self, seq: int) -> None:
        """Read on from ``seq``."""
        self.close()
        self.next_seq = max(seq, 1)
        self._records = []
        self._gap = None

    def skip_missing(self, snapshot: Snapshot) -> None:
        """The segment that comes next is not there and not trimmed: report it, go on behind it."""
        segment = snapshot.holding(self.next_seq)
        if segment is not None:
            self._report(segment, 0, segment.end, "segment missing")
            self._gap = Gap(self.next_seq, segment.last_seq, GapReason.DAMAGED)

    def read(
        self,
        snapshot: Snapshot,
        *,
        limit_records: int = 4096,
        limit_bytes: int = 1 << 20,
        hints: Hints | None = None,
    ) -> Batch:
        """The next records, at least one if there is any, at most until a limit is reached.

        Args:
            snapshot: how far to look.
            limit_records: most records.
            limit_bytes: no further record once this many bytes are collected.
            hints: shortcuts into the active segment.

        Raises:
            OSError: from the disk. The place stays; call again.
        """
        gap = self._take_gap() if self._fill(snapshot, hints) else None
        records: list[bytes] = []
        size = 0
        first_seq = self.next_seq
        while len(records) < limit_records and size < limit_bytes:
            try:
                self._fill(snapshot, hints)
            except OSError:
                if records or gap is not None:
                    break  # hand out what is there; the next call meets the error again
                raise
            if self._gap is not None and gap is not None and not records and self._gap.follows(gap):
                gap = Gap(gap.first, self._take_gap().last, gap.reason)
                first_seq = self.next_seq
            elif self._gap is not None or not self._records:
                break
            else:
                size += self._move(records, limit_records, limit_bytes - size)
        return Batch(gap, first_seq, records, self._records_ms)

    def _fill(self, snapshot: Snapshot, hints: Hints | None) -> bool:
        """Have the next records or the next gap ready, if there are any; True for a gap."""
        if not self._records and self._gap is None:
            self._gap = self._step(snapshot, hints)
        return self._gap is not None

    def _take_gap(self) -> Gap:
        gap, self._gap = self._gap, None
        assert gap is not None
        self.next_seq = gap.last + 1
        return gap

    def _move(self, records: list[bytes], limit_records: int, room: int) -> int:
        """Move ready records to the batch; returns their bytes."""
        ready = self._records
        take = min(len(ready), limit_records - len(records))
        size = 0
        for index in range(take):
            size += len(ready[index])
            if size >= room:
                take = index + 1
                break
        records += ready[:take] if take < len(ready) else ready
        self._records = ready[take:]
        self.next_seq += take
        return size

    def _step(self, snapshot: Snapshot, hints: Hints | None) -> Gap | None:
        """Go on to the next records (kept ready) or gap; neither at the end of the snapshot."""
        while self.next_seq <= snapshot.last_seq:
            if self.next_seq < snapshot.first_seq:
                return Gap(self.next_seq, snapshot.first_seq - 1, GapReason.TRIMMED)
            segment = snapshot.holding(self.next_seq)
            assert segment is not None
            scan = self._scan_of(segment, hints)
            item = scan.next()
            if item is None:
                self._report(segment, scan.offset, max(segment.end - scan.offset, 0), "missing groups")
                return Gap(self.next_seq, segment.last_seq, GapReason.DAMAGED)
            if isinstance(item, Hole):
                self._report(segment, item.start, item.end - item.start, "group")
                if not item.followed:
                    return Gap(self.next_seq, segment.last_seq, GapReason.DAMAGED)
            elif item.last_seq >= self.next_seq and (gap := self._take(segment, item)) is not None:
                return gap
            if self._records:
                return None
        return None

    def _take(self, segment: Segment, group: Group) -> Gap | None:
        skip = self.next_seq - group.first_seq
        if skip < 0:
            assert self._scan is not None
            self._scan.offset = group.offset  # seen again behind the gap
            self._scan.min_seq = group.first_seq
            return Gap(self.next_seq, group.first_seq - 1, GapReason.DAMAGED)
        if group.flags & FLAG_GAP:
            return Gap(self.next_seq, group.last_seq, _REASONS.get(group.body, GapReason.LOST))
        try:
            records = group.records()
        except ValueError:
            self._report(segment, group.offset, group.end - group.offset, "records of a group")
            return Gap(self.next_seq, group.last_seq, GapReason.DAMAGED)
        self._records = records[skip:] if skip else records
        self._records_ms = group.at_ms
        return None

    def _scan_of(self, segment: Segment, hints: Hints | None) -> Scan:
        held = self._segment
        if self._scan is None or self._window is None or held is None or held.index != segment.index:
            return self._open(segment, hints)
        if segment.end != held.end:  # it grew: bytes read ahead of its old end may be stale
            self._window.drop()
            self._scan.end = segment.end
            self._segment = segment
        return self._scan

    def _open(self, segment: Segment, hints: Hints | None) -> Scan:
        self.close()
        self._fd = self._disk.open_read(self._directory / segment.name)
        offset = HEADER_SIZE
        if hints is not None and hints[0] == segment.index:
            at = bisect_right(hints[1], (self.next_seq, 1 << 62))
            offset = hints[1][at - 1][1] if at else offset
        self._segment = segment
        self._window = Window(self._disk, self._fd)
        self._scan = Scan(self._window, segment.stem, offset, segment.end)
        return self._scan

    def _report(self, segment: Segment, offset: int, size: int, what: str) -> None:
        self.damages.append(Damage(str(self._directory / segment.name), offset, size, what))


class JournalFiles:
    """A journal seen from outside: for tools, while a writer may be running in another process.

    Args:
        directory: of the journal.
        disk: where it is.

    ``level="synced"`` ends at the last group that the file itself proves to be synced: the newest one appears
    with the next write, or with the mark that follows after ``JournalSpec.mark_after_s`` of silence.
    """

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        self._directory = directory
        self._disk = disk or RealDisk()

    def snapshot(self, level: Level = "written") -> Snapshot:
        """What is there now. Reads the headers and the last segment.

        Raises:
            NotFound: no such journal.
            Unavailable: the disk cannot be read, or a newer version of the program wrote it.
        """
        try:
            return self._snapshot(level)
        except OSError as exc:
            raise storage_error(exc, f"journal {self._directory}") from exc

    def _snapshot(self, level: Level) -> Snapshot:
        chain = load_chain(self._disk, self._directory)
        if not chain.segments:
            return Snapshot(())
        last = chain.segments[-1]
        run_s = last.header.run_s if last.header else 0
        segment = Segment(last.index, last.first_seq, last.first_seq - 1, last.size, run_s)
        fd = self._disk.open_read(self._directory / last.name)
        try:
            window = Window(self._disk, fd)
            found = examine(window, segment.stem, last.first_seq, self._disk.size(fd), run_s)
        finally:
            self._disk.close(fd)
        last_seq, end = found.next_seq - 1, found.end
        if level == "synced":
            last_seq, end = found.synced_seq, found.synced
        return Snapshot((*chain.sealed(), Segment(last.index, last.first_seq, last_seq, end, run_s)))

    def batches(
        self, from_seq: int = 1, *, level: Level = "written", limit_records: int = 4096
    ) -> Iterator[Batch]:
        """All batches from ``from_seq`` to what is there when it is called.

        Raises:
            NotFound: no such journal.
            Unavailable: as ``snapshot``.
        """
        snapshot = self.snapshot(level)
        reader = Reader(self._disk, self._directory, from_seq)
        try:
            while batch := self._next(reader, snapshot, level, limit_records):
                yield batch
        finally:
            reader.close()

    def _next(self, reader: Reader, snapshot: Snapshot, level: Level, limit_records: int) -> Batch:
        while True:
            try:
                return reader.read(snapshot, limit_records=limit_records)
            except FileNotFoundError:  # trimmed meanwhile, or lost
                snapshot = self.snapshot(level)
                if snapshot.first_seq <= reader.next_seq:
                    reader.skip_missing(snapshot)
            except OSError as exc:
                raise storage_error(exc, f"journal {self._directory}") from exc
