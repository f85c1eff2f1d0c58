"""Sequence numbers per thread: from 1, never repeated, whatever crashes (``design.md §5`` *thread_seq*).

Numbers come from blocks of ``STEP`` reserved in a :class:`~appliance.wire.seams.ThreadStore`; a crash skips
the rest of a block and repeats nothing. Memory is a two-generation LRU: a thread that falls out continues
above its reserved bound. Sans-IO.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from ..wire.seams import ThreadStore

__all__ = ["STEP", "ThreadCounters", "ThreadStatistics", "thread_key"]

STEP: Final = 1024
"""Numbers reserved at once (``design.md §5``)."""

_LONGEST_KEPT: Final = 256
"""Characters of a thread id that is kept as it is; a longer one is kept as its key, for the memory's sake."""


class ThreadStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """``cached`` threads in memory; ``reservations`` made since the start."""

    cached: int
    reservations: int


def thread_key(thread_id: str) -> bytes:
    """16-byte key of a thread: ids are opaque and of any length."""
    return blake2b(thread_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class ThreadCounters:
    """Hands out the next number of a thread.

    Args:
        store: where reserved bounds are kept.
        capacity: threads held in memory at most (about 250 bytes each, never over 1.3 KB).
    """

    __slots__ = ("_half", "_old", "_reservations", "_store", "_unwritten", "young")

    def __init__(self, store: ThreadStore, capacity: int = 65_536) -> None:
        self._store = store
        self._half = max(capacity // 2, 1)
        # Read by the engine's fast lane, which takes numbers below the bound itself.
        self.young: dict[str | bytes, list[int]] = {}  # thread id -> [last given, bound]
        self._old: dict[str | bytes, list[int]] = {}
        self._unwritten: dict[bytes, int] = {}
        self._reservations = 0

    def next(self, thread_id: str) -> int:
        """The next sequence number of ``thread_id``; its reservation is pending until :meth:`flush`."""
        kept = thread_id if len(thread_id) <= _LONGEST_KEPT else thread_key(thread_id)
        counter = self.young.get(kept)
        if counter is None:
            counter = self._recall(kept, thread_id)
        last = counter[0] = counter[0] + 1
        if last > counter[1]:
            counter[1] = last - 1 + STEP
            self._unwritten[thread_key(thread_id)] = counter[1]
        return last

    def flush(self) -> None:
        """Write this turn's reservations; must precede the turn's frames on the wire."""
        if self._unwritten:
            self._reservations += len(self._unwritten)
            bounds = list(self._unwritten.items())
            self._unwritten = {}
            self._store.reserve(bounds)

    def _recall(self, kept: str | bytes, thread_id: str) -> list[int]:
        counter = self._old.pop(kept, None)
        if counter is None:
            key = thread_key(thread_id)
            bound = self._unwritten.get(key) or self._store.bound(key)
            counter = [bound, bound]
        if len(self.young) >= self._half:
            self._old = self.young
            self.young = {}
        self.young[kept] = counter
        return counter

    def statistics(self) -> ThreadStatistics:
        """A snapshot."""
        return ThreadStatistics(cached=len(self.young) + len(self._old), reservations=self._reservations)
