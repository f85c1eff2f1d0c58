"""Committed events that the region does not show yet (``design.md §5``, World state).

Two halves: ``front`` takes what commits; ``back`` is being projected. A reader looks in front, then in back,
then in the region. Many events of one entity are one entry: properties are merged as they come, so a busy
entity costs the region one put per cycle. Sans-IO; the caller bounds ``size_bytes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from .entities import entity_json, entity_values

__all__ = ["DELETE", "NOTE", "SET", "Change", "Overlay", "Pending"]

NOTE: Final = 0
"""The event names the entity and changes nothing (EV-09)."""
SET: Final = 1
DELETE: Final = 2

ENTRY_BYTES: Final = 400
"""What an entry costs besides its texts, about."""

Change = tuple[int, str, dict[str, object] | None, int, bool, int]
"""Sequence number, entity id, properties, act, whether the entity existed before, bytes of the event."""


class Pending(msgspec.Struct, gc=False):
    """What the events of one entity since the last cycle come to.

    ``exists`` says whether the entity exists after them; ``head`` is the newest event, ``seq`` the newest one
    that changed properties (0: none), ``at_ms`` its time; ``reset``: nothing of the row below is left.
    ``properties`` may be the first event's own dictionary, which others read too: ``merge`` copies it before
    it changes it. Tens of thousands wait at once and hold plain JSON values: the collector need not look at
    them.
    """

    exists: bool
    head: int = 0
    seq: int = 0
    at_ms: int = 0
    reset: bool = False
    cost: int = ENTRY_BYTES
    properties: dict[str, object] = {}
    own: bool = False

    def merge(self, properties: dict[str, object]) -> None:
        """Take an event's properties over those that came before (ST-03)."""
        if self.own:
            self.properties.update(properties)
        else:
            self.properties, self.own = self.properties | properties, True

    def text(self, entity_id: str, below: bytes) -> bytes:
        """The entity's JSON text over ``below`` (empty: it did not exist); empty when it does not exist."""
        if not self.exists:
            return b""
        if not self.seq:
            return below
        if self.reset or not below:
            return entity_json(entity_id, self.properties, self.at_ms, self.seq)
        merged = entity_values(below)
        merged.update(self.properties)
        return entity_json(entity_id, merged, self.at_ms, self.seq)


class Overlay:
    """See the module."""

    __slots__ = ("back", "back_seq", "front", "front_seq", "size_bytes")

    def __init__(self) -> None:
        self.front: dict[str, Pending] = {}
        self.back: dict[str, Pending] = {}
        self.size_bytes = 0
        self.front_seq = 0
        """Last event that was taken."""
        self.back_seq = 0
        """What the region shows when ``back`` has been projected."""

    def __len__(self) -> int:
        return len(self.front) + len(self.back)

    def take(self, changes: list[Change], at_ms: int) -> None:
        """Take committed changes, in order of their numbers; all arrived at ``at_ms``."""
        front = self.front
        size = 0
        for seq, entity_id, properties, act, existed, cost in changes:
            entry = front.get(entity_id)
            if entry is None:
                entry = front[entity_id] = Pending(existed)
                size += ENTRY_BYTES
            entry.head = seq
            entry.cost += cost
            size += cost
            if act == SET:
                entry.exists = True
                entry.seq, entry.at_ms = seq, at_ms
                if properties is not None:
                    if entry.properties:
                        entry.merge(properties)
                    else:  # nearly always, when many entities change: no call, no copy
                        entry.properties, entry.own = properties, False
            elif act == DELETE:
                entry.exists = False
                entry.reset = True
                entry.properties = {}
        self.size_bytes += size

    def find(self, entity_id: str) -> Pending | None:
        """The newest entry of an entity."""
        return self.front.get(entity_id) or self.back.get(entity_id)

    def text(self, entity_id: str, below: bytes) -> bytes:
        """JSON text of an entity whose region row holds ``below``; empty when it does not exist."""
        entry = self.back.get(entity_id)
        if entry is not None:
            below = entry.text(entity_id, below)
        entry = self.front.get(entity_id)
        return below if entry is None else entry.text(entity_id, below)

    def swap(self) -> bool:
        """Begin a cycle: what was in front is to be projected. False when there is nothing to do.

        What an earlier cycle left in ``back`` stays to be projected first.
        """
        if not self.back:
            self.back, self.front = self.front, {}
            self.back_seq = self.front_seq
        return bool(self.back)

    def settled(self, entity_ids: Iterable[str]) -> None:
        """The region shows these entries of ``back``."""
        self.size_bytes -= sum([entry.cost for entry in map(self.back.pop, entity_ids)])

    def clear(self) -> None:
        """Forget everything: the region was replaced."""
        self.front, self.back = {}, {}
        self.size_bytes = 0

    def ids(self) -> Iterator[str]:
        """Ids of all entries; one may come twice."""
        yield from self.back
        yield from self.front
