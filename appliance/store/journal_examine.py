"""Reading the last segment after a stop: what is there, what a crash tore, what rotted.

``examine`` only reads; recovery acts on its verdict, and read-only readers use the same verdict to know how
far they may look. The rules, in order, for bytes where a group should be and none verifies:

1. A later group or mark says that the segment was synced beyond them: an acknowledged group is damaged.
2. They were written to their end (``looks_complete``): a bit flipped since; damaged, numbers not reused.
3. Otherwise a crash tore an unsynced write: cut here. Everything behind was not synced either and goes too,
   so that what remains is a prefix of what was appended.

What cannot be told apart: the newest group of a segment, when nothing follows it (a stop within
``mark_after_s`` of the last write), was written whole, and was damaged in a way that looks like a tear: a
sector turned to zeros, the end cut off, or any flip in a group that holds an aligned sector of zeros by
nature. That is cut and reported as a repair, its bytes are kept aside, and its numbers are given out again.
The other way round, a sector torn in itself (media write sectors whole) may be reported as damage.
"""

from __future__ import annotations

from collections import deque

import msgspec

from appliance.store.journal_format import FLAG_CLEAN, HEADER_SIZE, Group
from appliance.store.journal_scan import Hole, Scan, Window, looks_complete

__all__ = ["Verdict", "examine"]

_HINT_EVERY = 64 << 10


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What ``examine`` found.

    ``end``/``next_seq``: where writing would go on. ``file_end``: end of the file once ``cut`` is cut.
    ``synced``/``synced_seq``: how far the segment itself proves that it was synced. ``mark_end``: where the
    mark ends, 0 without one. ``cut``: torn bytes (start, end). ``damaged``: byte ranges that fail their check
    and stay. ``rotten_tail``: the last group is one of them, so writing must go on in a new segment.
    """

    end: int
    file_end: int
    next_seq: int
    synced: int
    synced_seq: int
    run_s: int
    groups: int
    clean: bool
    mark_end: int
    cut: tuple[int, int] | None
    damaged: tuple[tuple[int, int], ...]
    rotten_tail: bool
    hints: tuple[tuple[int, int], ...]


class _Walk:
    """One pass over the groups, remembering the state before each hole."""

    def __init__(self, first_seq: int, run_s: int) -> None:
        self.next_seq = first_seq
        self.end = HEADER_SIZE
        self.run_s = run_s
        self.synced = HEADER_SIZE
        self.synced_seq = first_seq - 1
        self.groups = 0
        self.hints: list[tuple[int, int]] = []
        self.holes: list[tuple[Hole, int, int]] = []
        self._unproven: deque[tuple[int, int]] = deque()

    def take(self, group: Group) -> None:
        self._prove(group.synced)
        self._unproven.append((group.end, group.last_seq))
        if not self.hints or group.offset - self.hints[-1][1] >= _HINT_EVERY:
            self.hints.append((group.first_seq, group.offset))
        self.next_seq = group.last_seq + 1
        self.end = group.end
        self.run_s = max(self.run_s, group.run_s)
        self.groups += 1

    def take_mark(self, mark: Group) -> None:
        self._prove(mark.synced)
        self.next_seq = max(self.next_seq, mark.first_seq)
        self.end = mark.synced
        self.run_s = max(self.run_s, mark.run_s)

    def _prove(self, synced: int) -> None:
        while self._unproven and self._unproven[0][0] <= synced:
            self.synced, self.synced_seq = self._unproven.popleft()


def examine(window: Window, stem: bytes, first_seq: int, size: int, run_s: int = 0) -> Verdict:
    """Walk the segment of ``size`` bytes whose records start at ``first_seq``.

    Args:
        window: the file.
        stem: file name without ending.
        first_seq: from the name.
        size: of the file.
        run_s: running time from the header.
    """
    walk = _Walk(first_seq, run_s)
    scan = Scan(window, stem, HEADER_SIZE, size)
    proven = HEADER_SIZE
    while (item := scan.next()) is not None:
        if isinstance(item, Hole):
            walk.holes.append((item, walk.next_seq, walk.groups))
            if not item.followed:
                break
        else:
            walk.take(item)
            proven = max(proven, item.synced)
    if scan.mark is not None:
        walk.take_mark(scan.mark)
        proven = max(proven, scan.mark.synced)
    return _judge(window, stem, walk, scan.mark, proven, size)


def _judge(window: Window, stem: bytes, walk: _Walk, mark: Group | None, proven: int, size: int) -> Verdict:
    damaged: list[tuple[int, int]] = []
    for hole, expected, groups in walk.holes:
        last_seq = None
        if hole.start >= proven:
            last_seq = looks_complete(window, stem, hole.start, hole.end, expected)
            if last_seq is None:
                return _torn(walk, hole, expected, groups, damaged, size)
        damaged.append((hole.start, hole.end))
        if not hole.followed and last_seq is not None:
            return _verdict(walk, size, size, last_seq + 1, damaged, rotten_tail=True)
    cut = None
    if mark is not None and not Scan(window, b"", mark.end, size).zeros_from(mark.end):
        cut = (mark.end, size)
    return _verdict(walk, size, walk.end, walk.next_seq, damaged, mark=mark, cut=cut)


def _torn(
    walk: _Walk, hole: Hole, expected: int, groups: int, damaged: list[tuple[int, int]], size: int
) -> Verdict:
    """Everything from ``hole`` on is given up; the walk may have gone further."""
    hints = tuple(h for h in walk.hints if h[1] < hole.start)
    return Verdict(
        end=hole.start,
        file_end=hole.start,
        next_seq=expected,
        synced=min(walk.synced, hole.start),
        synced_seq=min(walk.synced_seq, expected - 1),
        run_s=walk.run_s,
        groups=groups,
        clean=False,
        mark_end=0,
        cut=(hole.start, size),
        damaged=tuple(damaged),
        rotten_tail=False,
        hints=hints,
    )


def _verdict(
    walk: _Walk,
    size: int,
    end: int,
    next_seq: int,
    damaged: list[tuple[int, int]],
    *,
    mark: Group | None = None,
    cut: tuple[int, int] | None = None,
    rotten_tail: bool = False,
) -> Verdict:
    return Verdict(
        end=end,
        file_end=size if cut is None else cut[0],
        next_seq=next_seq,
        synced=walk.synced,
        synced_seq=walk.synced_seq,
        run_s=walk.run_s,
        groups=walk.groups,
        clean=mark is not None and bool(mark.flags & FLAG_CLEAN) and cut is None,
        mark_end=0 if mark is None else mark.end,
        cut=cut,
        damaged=tuple(damaged),
        rotten_tail=rotten_tail,
        hints=tuple(walk.hints),
    )
