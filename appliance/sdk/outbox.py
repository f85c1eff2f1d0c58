"""Frames on their way out: bounded, each with a deadline, and not lost with a connection.

Sans-IO. Frames leave in order, joined into one buffer per send. After a loss a frame that the kernel took
whole is gone (it may have arrived: sending it again could deliver it twice); one that it took in part was
never a frame for the router, and goes out again whole, in its place. What waits longer than its deadline is
dropped and counted, never silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

__all__ = ["BATCH_BYTES", "Outbox"]

BATCH_BYTES = 131_072
"""Joined per send; one more frame may start below it."""


class Outbox:
    """A queue of packed frames.

    Args:
        limit: frames held at most.
        limit_bytes: bytes held at most; one frame always fits into an empty queue.
    """

    __slots__ = ("_batch", "_bytes", "_frames", "_in_batch", "_sent", "expired", "limit", "limit_bytes")

    def __init__(self, *, limit: int, limit_bytes: int) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.expired = 0
        self._frames: deque[tuple[bytes, float]] = deque()
        self._bytes = 0
        self._batch: memoryview | None = None
        self._in_batch = 0  # frames at the front that the batch covers
        self._sent = 0  # bytes of the batch that the kernel took

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size_bytes(self) -> int:
        """Bytes held, headers included."""
        return self._bytes

    def has_room(self, size_bytes: int, now: float) -> bool:
        """Whether a frame of that size fits now; drops what has expired first when it would not."""
        if self._fits(size_bytes):
            return True
        self.expire(now)
        return self._fits(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        if not self._frames:
            return True
        return len(self._frames) < self.limit and self._bytes + size_bytes <= self.limit_bytes

    def put(self, frame: bytes, expires_at: float) -> None:
        """Append; the caller has asked :meth:`has_room`."""
        self._frames.append((frame, expires_at))
        self._bytes += len(frame)

    def next_expiry(self) -> float | None:
        """When the first frame outside the batch under way expires; ``None`` when there is none."""
        return min((expires_at for _, expires_at in self._waiting()), default=None)

    def _waiting(self) -> Iterator[tuple[bytes, float]]:
        return islice(self._frames, self._in_batch, None)

    def expire(self, now: float) -> int:
        """Drop the frames whose deadline has passed, except those of the batch under way; return how many."""
        kept = [entry for entry in self._waiting() if entry[1] > now]
        dropped = len(self._frames) - self._in_batch - len(kept)
        if dropped:
            self._frames = deque((*islice(self._frames, self._in_batch), *kept))
            self._bytes = sum(len(frame) for frame, _ in self._frames)
            self.expired += dropped
        return dropped

    def next_batch(self, now: float) -> memoryview | None:
        """What is to be sent next, ``None`` when nothing is. Stays the same until :meth:`advance` ends it."""
        if self._batch is None:
            frames: list[bytes] = []
            size = 0
            while self._frames and self._frames[0][1] <= now:
                self._drop_first()
            for frame, expires_at in self._frames:
                if size >= BATCH_BYTES or expires_at <= now:
                    break
                frames.append(frame)
                size += len(frame)
            if not frames:
                return None
            self._batch = memoryview(b"".join(frames) if len(frames) > 1 else frames[0])
            self._in_batch, self._sent = len(frames), 0
        return self._batch[self._sent :]

    def _drop_first(self) -> None:
        frame, _ = self._frames.popleft()
        self._bytes -= len(frame)
        self.expired += 1

    def advance(self, sent_bytes: int) -> int:
        """``sent_bytes`` more were taken; return how many frames left the queue with that."""
        if self._batch is None:
            return 0
        self._sent += sent_bytes
        return self._remove(self._in_batch) if self._sent == len(self._batch) else 0

    def rewind(self) -> int:
        """The connection is gone: forget the frames taken whole, keep the rest; return how many went."""
        whole, left = 0, self._sent
        for index in range(self._in_batch):
            left -= len(self._frames[index][0])
            if left < 0:
                break
            whole += 1
        return self._remove(whole)

    def _remove(self, count: int) -> int:
        for _ in range(count):
            self._bytes -= len(self._frames.popleft()[0])
        self._batch, self._in_batch, self._sent = None, 0, 0
        return count
