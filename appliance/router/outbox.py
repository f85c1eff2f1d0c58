"""What waits to be written to one recipient: bounded by frames and bytes, with a lane for control frames.

The rule (``design.md §5`` *Queue limits*): below half full everything is taken. Above, while the recipient
drains, a frame is taken and its *sender* is asked to pause; when the recipient drained nothing for
``stall_s`` it is stalled and frames are refused at once. Full means refused, always. Router-made control
frames have their own small lane, go first, and never wait for data.

Sans-IO: the shell asks for :meth:`Outbox.pending`, writes, and reports with :meth:`Outbox.advance`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from ..wire.frames import HEADER

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Admission", "Limits", "Outbox", "OutboxStatistics"]

_pack = HEADER.pack


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one recipient's queue. Source: ``design.md §5``; all are settings."""

    frames: int = 4096
    size_bytes: int = 4 * 1024 * 1024
    control_frames: int = 1024
    control_bytes: int = 512 * 1024
    pause_s: float = 0.250
    stall_s: float = 0.050


class Admission(Enum):
    """What happens to a frame for a crowded recipient."""

    TAKE = "take"
    TAKE_AND_PAUSE = "take_and_pause"
    REFUSE = "refuse"


class OutboxStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot for status pages; ``refused`` counts frames not taken, ``high_frames`` is the peak depth."""

    frames: int
    size_bytes: int
    high_frames: int
    sent_bytes: int
    refused: int
    control_dropped: int
    stalled: bool


class Outbox:
    """The queue towards one connection.

    ``frames`` (a flat list: header, body, header, body …) is appended to directly by the engine's hot path,
    which also keeps ``queued_frames`` and ``queued_bytes``; everything else goes through methods.
    """

    __slots__ = (
        "_control",
        "_control_bytes",
        "_current",
        "_current_control",
        "_current_frames",
        "_offset",
        "control_dropped",
        "frames",
        "half_bytes",
        "half_frames",
        "high_frames",
        "limits",
        "progress_at",
        "queued_bytes",
        "queued_frames",
        "refused",
        "sent_bytes",
        "waiting",
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.half_frames = limits.frames // 2
        self.half_bytes = limits.size_bytes // 2
        self.frames: list[bytes] = []
        self.queued_frames = 0
        self.queued_bytes = 0
        self.waiting: set[Connection] = set()
        self.progress_at = 0.0
        self.high_frames = 0
        self.sent_bytes = 0
        self.refused = 0
        self.control_dropped = 0
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._current: bytes = b""
        self._offset = 0
        self._current_frames = 0
        self._current_control = 0

    @property
    def empty(self) -> bool:
        """Nothing waits in any lane."""
        return not (self.frames or self._current or self._control)

    def stalled(self, now: float) -> bool:
        """Whether something waits and nothing was taken by the recipient for ``stall_s``."""
        return self.queued_frames > 0 and now - self.progress_at > self.limits.stall_s

    def admit(self, size_bytes: int, now: float) -> Admission:
        """Decide about one frame of ``size_bytes`` for a queue that is at or above half."""
        limits = self.limits
        full = self.queued_frames >= limits.frames or self.queued_bytes + size_bytes + 4 > limits.size_bytes
        if full or self.stalled(now):
            self.refused += 1
            return Admission.REFUSE
        return Admission.TAKE_AND_PAUSE

    def put(self, body: bytes) -> None:
        """Append one data frame that was admitted."""
        size = len(body)
        self.frames.append(_pack(size))
        self.frames.append(body)
        self.queued_frames += 1
        self.queued_bytes += size + 4

    def put_control(self, body: bytes) -> bool:
        """Append one router-made frame; over the lane's bound it is dropped and counted."""
        limits = self.limits
        if (
            len(self._control) >= limits.control_frames
            or self._control_bytes + len(body) + 4 > limits.control_bytes
        ):
            self.control_dropped += 1
            return False
        self._control.append(_pack(len(body)) + body)
        self._control_bytes += len(body) + 4
        return True

    def pending(self) -> memoryview | bytes:
        """The next bytes to write; empty when there is nothing. Stable until :meth:`advance`."""
        if self._current:
            return memoryview(self._current)[self._offset :] if self._offset else self._current
        if self._control:
            self._current = b"".join(self._control)
            self._current_control = len(self._current)
            self._control.clear()
        elif self.frames:
            if self.queued_frames > self.high_frames:
                self.high_frames = self.queued_frames
            self._current = b"".join(self.frames)
            self._current_frames = len(self.frames) // 2
            self.frames = []
        return self._current

    def advance(self, sent_bytes: int, now: float) -> None:
        """``sent_bytes`` (> 0) of :meth:`pending` were taken by the recipient."""
        self.progress_at = now
        self.sent_bytes += sent_bytes
        if self._current_control:
            self._control_bytes -= sent_bytes
            self._current_control -= sent_bytes
        else:
            self.queued_bytes -= sent_bytes
        self._offset += sent_bytes
        if self._offset == len(self._current):
            self.queued_frames -= self._current_frames
            self._current, self._offset, self._current_frames = b"", 0, 0
            return
        # Which frames are gone exactly would cost a walk over all of them; in proportion is close enough.
        left = len(self._current) - self._offset
        frames_left = -(-self._current_frames * left // (left + sent_bytes))
        self.queued_frames -= self._current_frames - frames_left
        self._current_frames = frames_left

    def abandon(self) -> int:
        """Empty every lane; return how many data frames the recipient has not taken to the last byte."""
        lost = len(self.frames) // 2
        if not self._current_control:
            position, end = 0, len(self._current)
            while position < end:
                position += 4 + HEADER.unpack_from(self._current, position)[0]
                lost += position > self._offset
        self.frames = []
        self._control.clear()
        self._current, self._offset, self._current_frames, self._current_control = b"", 0, 0, 0
        self.queued_frames = self.queued_bytes = self._control_bytes = 0
        return lost

    def roomy(self) -> bool:
        """Whether the queue drained to a quarter of its bound, so that paused senders may go on."""
        return self.queued_frames * 2 <= self.half_frames and self.queued_bytes * 2 <= self.half_bytes

    def statistics(self, now: float) -> OutboxStatistics:
        """A snapshot."""
        return OutboxStatistics(
            frames=self.queued_frames,
            size_bytes=self.queued_bytes,
            high_frames=max(self.high_frames, self.queued_frames),
            sent_bytes=self.sent_bytes,
            refused=self.refused,
            control_dropped=self.control_dropped,
            stalled=self.stalled(now),
        )
