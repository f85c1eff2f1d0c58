"""Walking through the groups of one segment: verified groups, and holes where bytes fail their check.

``Scan`` yields groups in file order and, where a group should start but none verifies, a ``Hole`` up to the
next position where one does. It decides nothing about seq gaps, repair or blame; ``looks_complete``
answers the one question that a hole's bytes can answer: was this written to its end (then a bit flipped) or
not (then a crash tore it)? Reads in blocks, so memory stays bounded by the largest group.
"""

from __future__ import annotations

import msgspec

from appliance.store.journal_format import (
    FLAG_MARK,
    GROUP_MAGIC,
    GROUP_OVERHEAD,
    HEAD_SIZE,
    SECTOR,
    TAIL_SIZE,
    Group,
    parse_head,
    parse_tail,
    split_records,
    tail_distance,
    verify_group,
)
from appliance.system.disk import Disk

__all__ = ["Hole", "Scan", "Window", "looks_complete"]

_BLOCK = 256 << 10
_PLAUSIBLE_RECORDS = 1 << 24
_FLIPS = 2


class Hole(msgspec.Struct, frozen=True):
    """Bytes ``start`` to ``end`` that are no group; ``followed``: a valid group or mark comes after them."""

    start: int
    end: int
    followed: bool


class Window:
    """Block-wise reading of one file: most requests are slices of the last block read."""

    __slots__ = ("_base", "_data", "_disk", "_fd")

    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self._fd = fd
        self._base = 0
        self._data = b""

    def take(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; shorter at the end of the file."""
        at = offset - self._base
        if at < 0 or at + size > len(self._data):
            self._data = self._disk.pread(self._fd, max(size, _BLOCK), offset)
            self._base, at = offset, 0
        return self._data[at : at + size]

    def drop(self) -> None:
        """Forget the block: the file may have changed behind it."""
        self._base, self._data = 0, b""


class Scan:
    """Iterator over one segment from ``offset`` to ``end`` (exclusive).

    Args:
        window: the file.
        stem: file name without ending; part of every checksum.
        offset: where a group starts.
        end: valid bytes end here; may be raised later (a growing segment).
        first_seq: no group below this number is taken for valid (0: any).
    """

    __slots__ = ("_stem", "_window", "end", "mark", "min_seq", "offset")

    def __init__(self, window: Window, stem: bytes, offset: int, end: int, first_seq: int = 0) -> None:
        self._window = window
        self._stem = stem
        self.offset = offset
        self.end = end
        self.min_seq = first_seq
        self.mark: Group | None = None

    def next(self) -> Group | Hole | None:
        """The next group or hole; None at ``end``, before zeros up to ``end``, or at a mark (see ``mark``).

        After a trailing hole (not ``followed``) the offset stays, so a growing segment can be tried again.
        """
        if self.offset >= self.end:
            return None
        group = self._group_at(self.offset)
        if group is not None:
            return self._accept(group)
        if self._find_mark() or self.zeros_from(self.offset):
            return None
        found = self._resync(self.offset + 1)
        hole = Hole(self.offset, self.end if found is None else found, found is not None)
        if found is not None:
            self.offset = found
        return hole

    def _accept(self, group: Group) -> Group | None:
        if group.flags & FLAG_MARK:
            self.mark = group
            return None
        self.offset = group.end
        self.min_seq = group.last_seq + 1
        return group

    def _find_mark(self) -> bool:
        """A mark stands at the next sector boundary behind the last group, with zeros between."""
        at = -(-self.offset // SECTOR) * SECTOR
        if at == self.offset or self._window.take(self.offset, at - self.offset).strip(b"\0"):
            return False
        group = self._group_at(at)
        if group is not None and group.flags & FLAG_MARK and group.synced == self.offset:
            self.mark = group
        return self.mark is not None

    def _group_at(self, offset: int) -> Group | None:
        head = parse_head(self._window.take(offset, HEAD_SIZE), offset)
        if head is None or offset + head.size > self.end or head.first_seq < self.min_seq:
            return None
        return verify_group(self._window.take(offset, head.size), head, self._stem)

    def zeros_from(self, offset: int) -> bool:
        """Whether everything from ``offset`` to ``end`` is zero (or missing)."""
        while offset < self.end:
            block = self._window.take(offset, min(_BLOCK, self.end - offset))
            if not block:
                return True
            if block.strip(b"\0"):
                return False
            offset += len(block)
        return True

    def _resync(self, offset: int) -> int | None:
        """Where the next verifying group or mark starts, at or after ``offset``."""
        while offset < self.end:
            block = self._window.take(offset, min(_BLOCK, self.end - offset))
            if len(block) < GROUP_OVERHEAD:
                return None
            at = block.find(GROUP_MAGIC)
            while at >= 0:
                if self._group_at(offset + at) is not None:
                    return offset + at
                at = block.find(GROUP_MAGIC, at + 1)
            offset += max(len(block) - len(GROUP_MAGIC) + 1, 1)
        return None


def looks_complete(window: Window, stem: bytes, start: int, end: int, expected_seq: int) -> int | None:
    """Last sequence number of a group (or run of groups) that was written to its end, but fails its check.

    A write that a crash tore leaves whole sectors, or everything behind a cut, as they were before: zeros, or
    a mark at their start (segments are never recycled). So bytes without an untouched sector that end with
    a group's tail, or whose head reaches exactly to their end, were all written, and a bit flipped since.
    None means torn. A record that itself holds an aligned sector of zeros makes a flip look torn: the limit.
    """
    last_used = _end_of_bytes(window, start, end)
    if last_used - start < GROUP_OVERHEAD or _has_untouched_sector(window, stem, start, last_used):
        return None
    tail = window.take(last_used - TAIL_SIZE, TAIL_SIZE)
    ends = parse_tail(tail)
    told = 0 if ends is None or not _plausible(ends[0], expected_seq) else ends[0]
    head = parse_head(window.take(start, HEAD_SIZE), start)
    if head is None or head.first_seq != expected_seq or start + head.size != last_used:
        return told or None
    if not _plausible(head.last_seq, expected_seq) or tail_distance(tail, head.last_seq) > _FLIPS:
        return told or None
    body = window.take(start + HEAD_SIZE, head.body_bytes)
    return _which(body, expected_seq, told or head.last_seq, head.last_seq)


def _plausible(last_seq: int, expected_seq: int) -> bool:
    return expected_seq <= last_seq < expected_seq + _PLAUSIBLE_RECORDS


def _which(body: bytes, first_seq: int, tail_seq: int, head_seq: int) -> int:
    """Head or tail, whichever counts the records right; the higher one if neither does."""
    for last_seq in (tail_seq, head_seq):
        try:
            split_records(body, last_seq - first_seq + 1)
        except ValueError:
            continue
        return last_seq
    return max(tail_seq, head_seq)


def _end_of_bytes(window: Window, start: int, end: int) -> int:
    """Offset behind the last byte in ``start..end`` that is not zero."""
    last = start
    offset = start
    while offset < end:
        block = window.take(offset, min(_BLOCK, end - offset))
        if not block:
            break
        used = len(block.rstrip(b"\0"))
        if used:
            last = offset + used
        offset += len(block)
    return last


def _has_untouched_sector(window: Window, stem: bytes, start: int, end: int) -> bool:
    offset = start
    while offset < end:
        stop = min(offset - offset % SECTOR + SECTOR, end)
        piece = window.take(offset, stop - offset)
        if not piece.strip(b"\0") and (len(piece) == SECTOR or offset == start):
            return True
        if piece.startswith(GROUP_MAGIC) and offset != start and _is_mark(window, stem, offset):
            return True
        offset = stop
    return False


def _is_mark(window: Window, stem: bytes, offset: int) -> bool:
    head = parse_head(window.take(offset, HEAD_SIZE), offset)
    if head is None or not head.flags & FLAG_MARK:
        return False
    return verify_group(window.take(offset, head.size), head, stem) is not None
