"""Accepted records that are not written yet, and the segment they will go to.

``Pending`` collects appends into frames (future groups), taking the checksum while the bytes are hot in the
cache; what one append hands over is never split. ``Tail`` is the state of the active segment. Plain
bookkeeping: no I/O, no clock, no decisions about when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from zlib import crc32

import trio

from appliance.store.journal_format import (
    FLAG_GAP,
    GROUP_OVERHEAD,
    HEADER_SIZE,
    GroupHead,
    frame_group,
)
from appliance.store.journal_segment import SEGMENT_SUFFIX, segment_name
from appliance.store.journal_types import GapReason

__all__ = ["GAP_CODES", "Frame", "Pending", "Tail", "Ticket"]

GAP_CODES: dict[GapReason, bytes] = {GapReason.DROPPED: b"\x01", GapReason.LOST: b"\x02"}
"""The reason byte in the body of a gap group."""

_JOIN_ABOVE = 256
_WEIGHT = 128


class Ticket:
    """What an appender waits on; one per group, shared by everybody whose records are in it."""

    __slots__ = ("error", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: OSError | None = None


class Frame:
    """A group in the making: its records from ``first_seq`` on, their bytes, their running checksum."""

    __slots__ = ("chunks", "count", "crc", "first_seq", "flags", "size", "ticket")

    def __init__(self, first_seq: int) -> None:
        self.first_seq = first_seq
        self.chunks: list[bytes] = []
        self.count = 0
        self.size = 0
        self.crc = 0
        self.flags = 0
        self.ticket: Ticket | None = None

    def add(self, body: bytes, count: int) -> None:
        """Take ``count`` length-prefixed records."""
        self.chunks.append(body)
        self.crc = crc32(body, self.crc)
        self.size += len(body)
        self.count += count

    @property
    def full_size(self) -> int:
        """Bytes in the file."""
        return self.size + GROUP_OVERHEAD

    def buffers(self, position: int, synced: int, wall_ms: int, run_s: int, stem: bytes) -> list[bytes]:
        """The bytes of the group for this place in this segment."""
        chunks: Sequence[bytes] = self.chunks
        if len(chunks) > _JOIN_ABOVE:
            chunks = [b"".join(chunks)]
        head = GroupHead(self.flags, self.first_seq, self.count, self.size, position, synced, wall_ms, run_s)
        front, body, tail = frame_group(chunks, self.crc, head, stem)
        return [front, *body, tail]


class Tail:
    """The active segment: where the next group goes, and what is known to be on the medium.

    ``offset``/``last_seq``: end of what was written; ``synced``/``synced_seq``: end of what is durable.
    ``zeroed``: end of the file. ``marked``: offset that the last mark stands for; ``mark_end``: end of a mark
    that nothing has overwritten yet.
    """

    __slots__ = (
        "fd",
        "first_seq",
        "hints",
        "index",
        "last_seq",
        "mark_end",
        "marked",
        "offset",
        "run_s",
        "stem",
        "synced",
        "synced_seq",
        "zeroed",
    )

    def __init__(self, index: int, first_seq: int, *, run_s: int, offset: int = HEADER_SIZE) -> None:
        self.fd = -1
        self.index = index
        self.first_seq = first_seq
        self.offset = self.synced = self.zeroed = self.marked = offset
        self.last_seq = self.synced_seq = first_seq - 1
        self.mark_end = 0
        self.run_s = run_s
        self.stem = self.name[: -len(SEGMENT_SUFFIX)].encode()
        self.hints: list[tuple[int, int]] = []

    @property
    def name(self) -> str:
        """File name of the segment."""
        return segment_name(self.index, self.first_seq)

    @property
    def dirty(self) -> bool:
        """Whether something was written that is not synced."""
        return self.offset > self.synced

    def distrust(self) -> None:
        """After a failed write or sync: only what was durable before counts."""
        self.offset, self.last_seq = self.synced, self.synced_seq


class Pending:
    """The queue of frames between acceptance and write.

    Args:
        group_bytes: a frame takes further appends up to this size.

    ``size`` is the bytes of records; ``weight`` is what they roughly hold in memory, for bounds.
    """

    __slots__ = ("_group_bytes", "_open", "_queue", "records", "size", "weight")

    def __init__(self, group_bytes: int) -> None:
        self._group_bytes = group_bytes
        self._queue: deque[Frame] = deque()
        self._open: Frame | None = None
        self.size = self.weight = self.records = 0

    def __bool__(self) -> bool:
        return self._open is not None or bool(self._queue)

    def add(self, body: bytes, count: int, first_seq: int) -> Frame:
        """Put one append (already length-prefixed) into a frame; returns that frame."""
        size = len(body)
        frame = self._open
        if frame is None or frame.size + size > self._group_bytes:
            self._close()
            frame = self._open = Frame(first_seq)
        frame.add(body, count)
        self.size += size
        self.weight += size + _WEIGHT
        self.records += count
        return frame

    def gap(self, first_seq: int, count: int, reason: GapReason) -> None:
        """Put a gap group; one that continues the gap before it is merged into it."""
        body = GAP_CODES[reason]
        self._close()
        last = self._queue[-1] if self._queue else None
        if last is not None and last.flags == FLAG_GAP and last.chunks == [body]:
            last.count += count
            return
        frame = Frame(first_seq)
        frame.add(body, count)
        frame.flags = FLAG_GAP
        self.size += frame.size
        self.weight += frame.size + _WEIGHT
        self._queue.append(frame)

    def _close(self) -> None:
        if self._open is not None:
            self._queue.append(self._open)
            self._open = None

    def take(self, room: int, most: int) -> list[Frame]:
        """Remove frames for one write: at least one, then as many as fit into ``room`` and ``most`` bytes."""
        self._close()
        queue = self._queue
        frames = [queue.popleft()]
        total = frames[0].full_size
        while queue and total + queue[0].full_size <= min(room, most):
            frame = queue.popleft()
            total += frame.full_size
            frames.append(frame)
        for frame in frames:
            self.size -= frame.size
            self.weight -= frame.size + _WEIGHT * len(frame.chunks)
            if not frame.flags:
                self.records -= frame.count
        return frames

    def next_size(self) -> int:
        """Bytes of the next group in the file; 0 when there is none."""
        if self._queue:
            return self._queue[0].full_size
        return self._open.full_size if self._open is not None else 0

    def clear(self) -> list[Frame]:
        """Give everything up (a failed disk); returns what was there."""
        self._close()
        frames = list(self._queue)
        self._queue.clear()
        self.size = self.weight = self.records = 0
        return frames
