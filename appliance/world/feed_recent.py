"""What changed since the slowest listener fell behind: one table that all who lag share.

Per entity it keeps the last value of each property that changed, and whether the entity was deleted since.
A listener that lags holds two numbers and no frames of its own, so a hundred stalled ones cost an event
nothing more than one does. Nothing is lost but intermediate values: the last state and every deletion come.
Sans-IO; a sequence number orders everything.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from .feed_frames import text_frame
from .updates import Update

__all__ = ["Piece", "Recent"]

_ENTRY_BYTES: Final = 360
_VALUE_BYTES: Final = 320
"""About what an entry and a value take besides their texts, with the update that the value came from."""

_STEPS: Final = 4096
"""Positions looked at for one piece, so that a listener of one entity does not hold the loop."""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A part of what a listener missed: frames to send, and how far it has come with them."""

    frames: bytes
    cursor: int


class _Last:
    """The last value of one property; its frame is made when the first listener needs it."""

    __slots__ = ("_frame", "size_bytes", "update")

    def __init__(self, update: Update, name: str, value: object) -> None:
        self.update = update
        self.size_bytes = _VALUE_BYTES + 2 * len(name) + _about(value)
        self._frame: bytes | None = None

    def frame(self, name: str) -> bytes:
        """The property's frame."""
        if self._frame is None:
            self._frame = next(text_frame(one.data) for one in self.update.frames if one.property == name)
        return self._frame


def _about(value: object) -> int:
    """Bytes of a value in memory, about twice its text: it is kept decoded and, once sent, as a frame."""
    if isinstance(value, str):
        return 2 * len(value)
    return 3 * len(msgspec.json.encode(value)) if isinstance(value, (dict, list)) else 32


class _Entry:
    __slots__ = ("deleted", "properties", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.deleted: Update | None = None
        self.properties: dict[str, _Last] = {}


class Recent:
    """The table; see the module."""

    __slots__ = ("_entries", "_ids", "_pieces", "_seqs", "size_bytes")

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        # Every change's position in order; an entity that changed again leaves stale ones behind.
        self._seqs: list[int] = []
        self._ids: list[str] = []
        # Listeners that fell behind together are served alike.
        self._pieces: dict[tuple[int, int], Piece] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last_seq(self) -> int:
        """Sequence of the last change recorded; 0 while the table is empty."""
        return self._seqs[-1] if self._seqs else 0

    def clear(self) -> None:
        """Forget everything: nobody lags."""
        self._entries.clear()
        self._seqs.clear()
        self._ids.clear()
        self._pieces.clear()
        self.size_bytes = 0

    def record(self, updates: Iterable[Update]) -> None:
        """Take in ``updates``, in order and behind everything recorded before."""
        self._pieces.clear()
        for update in updates:
            entry = self._entries.get(update.entity_id)
            if entry is None:
                entry = self._entries[update.entity_id] = _Entry()
                self.size_bytes += _ENTRY_BYTES + 2 * len(update.entity_id)
            entry.seq = update.seq
            self._seqs.append(update.seq)
            self._ids.append(update.entity_id)
            if update.properties is None:
                self._drop_values(entry)
                entry.deleted = update
                continue
            for name, value in update.properties.items():
                old = entry.properties.get(name)
                last = entry.properties[name] = _Last(update, name, value)
                self.size_bytes += last.size_bytes - (0 if old is None else old.size_bytes)
        if len(self._seqs) > 2 * len(self._entries) + 1024:
            self._compact()

    def _drop_values(self, entry: _Entry) -> None:
        self.size_bytes -= sum(last.size_bytes for last in entry.properties.values())
        entry.properties.clear()

    def forget(self, upto: int) -> None:
        """Drop what everybody who lags has been told: changes with a sequence of at most ``upto``."""
        for number in range(bisect_right(self._seqs, upto)):
            entity_id = self._ids[number]
            entry = self._entries.get(entity_id)
            if entry is not None and entry.seq == self._seqs[number]:
                self._drop_values(entry)
                self.size_bytes -= _ENTRY_BYTES + 2 * len(entity_id)
                del self._entries[entity_id]
        self._compact()

    def _compact(self) -> None:
        kept = [
            (seq, entity_id)
            for seq, entity_id in zip(self._seqs, self._ids, strict=True)
            if (entry := self._entries.get(entity_id)) is not None and entry.seq == seq
        ]
        self._seqs = [seq for seq, _ in kept]
        self._ids = [entity_id for _, entity_id in kept]

    def piece(self, start: int, cursor: int, wanted: Collection[str] | None, *, budget_bytes: int) -> Piece:
        """The next part for a listener.

        Args:
            start: sequence up to which the listener had everything when it fell behind.
            cursor: how far earlier pieces have brought it; ``start`` at first.
            wanted: entities whose values it wants, ``None`` for all; deletions come in any case.
            budget_bytes: the piece ends after the entity that reaches it.

        An entity that changes again while its listener is between two pieces comes again, as a whole.
        """
        if wanted is not None:
            return self._piece(start, cursor, wanted, budget_bytes)
        found = self._pieces.get((start, cursor))
        if found is None:
            found = self._pieces[start, cursor] = self._piece(start, cursor, None, budget_bytes)
            if len(self._pieces) > 8:
                del self._pieces[next(iter(self._pieces))]
        return found

    def _piece(self, start: int, cursor: int, wanted: Collection[str] | None, budget_bytes: int) -> Piece:
        first = bisect_right(self._seqs, cursor)
        frames: list[bytes] = []
        size = 0
        for number in range(first, min(first + _STEPS, len(self._seqs))):
            cursor = self._seqs[number]
            entry = self._entries.get(self._ids[number])
            if entry is None or entry.seq != cursor:
                continue
            made = self._frames(entry, start, wanted is None or self._ids[number] in wanted)
            frames += made
            size += sum(map(len, made))
            if size >= budget_bytes:
                break
        return Piece(b"".join(frames), cursor)

    def _frames(self, entry: _Entry, start: int, values: bool) -> list[bytes]:
        made: list[bytes] = []
        if entry.deleted is not None and entry.deleted.seq > start:
            made += [text_frame(frame.data) for frame in entry.deleted.frames]
        if values:
            properties = sorted(entry.properties.items())
            made += [last.frame(name) for name, last in properties if last.update.seq > start]
        return made
