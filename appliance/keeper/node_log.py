"""The log ring of one node: what may be kept, and the two files that hold it.

:class:`LogIntake` decides without I/O: it cuts bytes into lines, stamps them, and spends two budgets, one of
reading (beyond it the pipe is not read, so a flooding node waits) and one of flash (beyond it bytes are
dropped, counted, and one line says how many). :class:`LogRing` writes: short appends to the page cache and
never a sync, so a slow disk costs the keeper no more than a copy until the kernel itself throttles
writers, and the flash budget keeps a node far below that. A failed write is counted and never fatal.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

__all__ = ["CURRENT", "OLDER", "LogBudget", "LogIntake", "LogRing", "time_text"]

CURRENT = "0.log"
OLDER = "1.log"


class LogBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of a node's log; rates are bytes per second, bursts bytes."""

    flash_burst: int = 1 << 20
    flash_rate: int = 64 * 1024
    read_burst: int = 1 << 20
    read_rate: int = 4 << 20
    line_bytes: int = 8192


class _Bucket:
    """Tokens that come back with time."""

    def __init__(self, burst: int, rate: int, now: float) -> None:
        self.burst, self.rate = burst, rate
        self._level, self._at = float(burst), now

    def level(self, now: float) -> float:
        self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, amount: int, now: float) -> None:
        self._level = self.level(now) - amount

    def full_enough_at(self, amount: float, now: float) -> float:
        return now + max(0.0, amount - self.level(now)) / self.rate


def time_text(at_ms: int) -> str:
    """``2026-11-20T10:11:12.123Z`` for epoch milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


class LogIntake:
    """Decides what of a node's output is kept. Sans-IO; ``now`` is monotonic seconds.

    Args:
        budget: numbers.
        now: the time.
    """

    def __init__(self, budget: LogBudget, now: float) -> None:
        self._budget = budget
        self._flash = _Bucket(budget.flash_burst, budget.flash_rate, now)
        self._read = _Bucket(budget.read_burst, budget.read_rate, now)
        self._partial = b""
        self._skipping = False  # in the rest of a line that was cut
        self._over = False
        self._gap_bytes = 0
        self.read_bytes = 0
        self.dropped_bytes = 0
        self.cut_lines = 0

    def feed(self, data: bytes, now: float, at_ms: int) -> bytes:
        """Take what was read from the pipe; returns what is to be written now."""
        self._read.take(len(data), now)
        self.read_bytes += len(data)
        stamp = time_text(at_ms).encode() + b" "
        kept: list[bytes] = []
        position = 0
        while position < len(data):
            if self._over and not self._recover(kept, stamp, now):
                self._drop_all(data[position:])
                break
            end = data.find(b"\n", position)
            self._take(data[position:] if end < 0 else data[position:end], stamp, kept, now)
            if end < 0:
                break
            if not self._skipping:
                self._keep(self._partial, stamp, kept, now)
            self._partial, self._skipping = b"", False
            position = end + 1
        return b"".join(kept)

    def finish(self, now: float, at_ms: int) -> bytes:
        """The node is gone: its unfinished last line and what is to be said about a gap."""
        kept: list[bytes] = []
        stamp = time_text(at_ms).encode() + b" "
        if self._partial:
            self._keep(self._partial, stamp, kept, now)
            self._partial = b""
        if self._gap_bytes:
            kept.append(self._notice(stamp))
        return b"".join(kept)

    def tick(self, now: float, at_ms: int) -> bytes:
        """What time alone brings: the line about a gap, once there is room again."""
        kept: list[bytes] = []
        if self._over:
            self._recover(kept, time_text(at_ms).encode() + b" ", now)
        return b"".join(kept)

    def read_again_at(self, now: float) -> float | None:
        """When the pipe may be read again; ``None`` when it may be now."""
        if self._read.level(now) > 0:
            return None
        return self._read.full_enough_at(self._read.rate * 0.02, now)

    def next_deadline(self, now: float) -> float | None:
        """When ``tick`` has something to say; ``None`` when only new output matters."""
        return self._flash.full_enough_at(self._enough(), now) if self._over else None

    def _enough(self) -> float:
        # One second's worth, so that a flood makes about one gap a second and not one per line.
        return min(self._flash.burst, self._flash.rate)

    def _take(self, piece: bytes, stamp: bytes, kept: list[bytes], now: float) -> None:
        """More of the line that is being read."""
        if self._skipping:
            self._drop(len(piece))
            return
        self._partial += piece
        limit = self._budget.line_bytes
        if len(self._partial) > limit:
            self.cut_lines += 1
            self._drop(len(self._partial) - limit)
            self._keep(self._partial[:limit] + "…".encode(), stamp, kept, now)
            self._partial, self._skipping = b"", True

    def _keep(self, line: bytes, stamp: bytes, kept: list[bytes], now: float) -> None:
        text = line.rstrip(b"\r").decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        entry = stamp + text.encode() + b"\n"
        if self._flash.level(now) < len(entry):
            self._over = True
            self._drop(len(line) + 1)
            return
        self._flash.take(len(entry), now)
        kept.append(entry)

    def _recover(self, kept: list[bytes], stamp: bytes, now: float) -> bool:
        """Whether there is room again after a gap; then the gap is told."""
        if self._flash.level(now) < self._enough():
            return False
        self._over = False
        notice = self._notice(stamp)
        self._flash.take(len(notice), now)
        kept.append(notice)
        return True

    def _drop_all(self, data: bytes) -> None:
        """Over budget: nothing of this is kept but an unfinished last line. No work per line."""
        end = data.rfind(b"\n") + 1
        if end:
            self._drop(len(self._partial) + end)
            self._partial, self._skipping = b"", False
        tail = data[end:]
        if self._skipping or len(self._partial) + len(tail) > self._budget.line_bytes:
            self._drop(len(self._partial) + len(tail))
            self._partial, self._skipping = b"", True
        else:
            self._partial += tail

    def _drop(self, size: int) -> None:
        self.dropped_bytes += size
        self._gap_bytes += size

    def _notice(self, stamp: bytes) -> bytes:
        gap, self._gap_bytes = self._gap_bytes, 0
        return stamp + f"[fluxbee: {gap} bytes of output dropped here]\n".encode()


class LogRing:
    """Two files of one size in a directory: ``0.log`` grows, then becomes ``1.log``.

    Args:
        directory: made when missing; its files are never followed as links.
        size_bytes: of both files together at most.
    """

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        self._half = size_bytes // 2
        self._fd = -1
        self._size = 0
        self.written_bytes = 0
        self.lost_bytes = 0
        self.write_errors = 0

    def write(self, data: bytes) -> None:
        """Append whole lines, rotating between them; what the disk refuses is counted as lost."""
        rotated = False
        try:
            while data:
                self._open()
                part = self._fitting(data)
                if part:
                    data = data[self._append(part) :]
                    rotated = False
                elif rotated:
                    raise OSError("the full file cannot be moved away")
                else:
                    self._rotate()
                    rotated = True
        except OSError:
            self.write_errors += 1
            self.lost_bytes += len(data)
            self.close()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fitting(self, data: bytes) -> bytes:
        """As many whole lines as the file takes; an empty file takes part of a line that is too large."""
        room = self._half - self._size
        if len(data) <= room:
            return data
        end = data.rfind(b"\n", 0, max(0, room)) + 1
        return data[: end or (room if not self._size else 0)]

    def _append(self, data: bytes) -> int:
        written = os.write(self._fd, data)
        self._size += written
        self.written_bytes += written
        return written

    def _open(self) -> None:
        if self._fd < 0:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._directory / CURRENT, flags, 0o640)
            self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        try:
            os.replace(self._directory / CURRENT, self._directory / OLDER)
        except OSError:
            # A file that cannot be renamed must not grow without bound either.
            self.write_errors += 1
            os.truncate(self._directory / CURRENT, 0)
