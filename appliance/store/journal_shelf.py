"""The segments of an open journal: sealed ones, the active one, those given up; and what readers may see.

``Shelf`` is bookkeeping without I/O. Snapshots are immutable and cached until something changes, so readers
in threads share them. ``Start`` is what recovery hands over.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from appliance.store.journal_pending import Tail
from appliance.store.journal_segment import Segment, Snapshot
from appliance.store.journal_trim import behind, expired
from appliance.store.journal_types import JournalSpec, Level

__all__ = ["Shelf", "Start"]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where a journal goes on, as recovery found it.

    ``tail`` is the active segment, with its descriptor; None only together with ``failure`` (the disk
    refused even the repair, and the journal opens read-only): then writing resumes behind ``prev``.
    """

    journal_id: bytes
    next_seq: int
    sealed: tuple[Segment, ...]
    last_index: int
    prev: tuple[int, int]
    run_s: int
    tail: Tail | None = None
    failure: OSError | None = None


class Shelf:
    """See the module."""

    def __init__(self, spec: JournalSpec, start: Start) -> None:
        self.tail = start.tail
        self.trims = 0
        self.trimmed = 0
        self._spec = spec
        self._prev = start.prev
        self._sealed = start.sealed
        self._given_up: list[str] = []
        self._snapshots: dict[Level, Snapshot] = {}

    @property
    def trusted_end(self) -> tuple[int, int]:
        """Index and offset of the last durable byte: what a new segment names as its predecessor's end."""
        return self._prev if self.tail is None else (self.tail.index, self.tail.synced)

    def changed(self) -> None:
        """Something was written or synced: the next snapshot is a new one."""
        self._snapshots.clear()

    def snapshot(self, level: Level) -> Snapshot:
        """What readers may see now."""
        found = self._snapshots.get(level)
        if found is None:
            segments = self._sealed
            if self.tail is not None:
                segments = (*segments, _view(self.tail, synced=level == "synced"))
            found = self._snapshots[level] = Snapshot(segments)
        return found

    def install(self, tail: Tail) -> None:
        """Make ``tail`` the active segment; the old one is sealed as it is."""
        if self.tail is not None:
            self._sealed = (*self._sealed, _view(self.tail, synced=False))
        self.tail = tail
        self.changed()

    def expire(self, run_s: int) -> None:
        """Give up what a log's limits no longer cover."""
        tail = self.tail
        if self._spec.kind == "log" and tail is not None:
            count = expired(
                self._sealed, self._spec, tail_bytes=tail.offset, tail_run_s=tail.run_s, run_s=run_s
            )
            self._give_up(count)

    def trim_behind(self, seq: int) -> int:
        """Give up sealed segments that hold only records up to ``seq``; returns how many."""
        return self._give_up(behind(self._sealed, seq))

    def _give_up(self, count: int) -> int:
        if count:
            self._given_up += [s.name for s in self._sealed[:count]]
            self._sealed = self._sealed[count:]
            self.trims += 1
            self.trimmed += count
            self.changed()
        return count

    def take_trimmed(self) -> list[str]:
        """Names of files that nobody needs any more, oldest first; each is handed out once."""
        names, self._given_up = self._given_up, []
        return names

    @property
    def has_trimmed(self) -> bool:
        """Whether ``take_trimmed`` would return any."""
        return bool(self._given_up)

    def put_back(self, names: list[str]) -> None:
        """These could not be removed: hand them out again, before the others."""
        self._given_up[:0] = names

    def discard(self, names: Iterable[str]) -> None:
        """Have other files of the directory removed with the next trim."""
        self._given_up += names


def _view(tail: Tail, *, synced: bool) -> Segment:
    last_seq, end = (tail.synced_seq, tail.synced) if synced else (tail.last_seq, tail.offset)
    return Segment(tail.index, tail.first_seq, last_seq, end, tail.run_s)
