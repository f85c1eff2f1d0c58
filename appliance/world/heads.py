"""Newest event and existence of entities, including events that are still on their way to the disk.

The chain of an entity's history needs its newest event's number when the next one is written, before the
earlier one is durable. Two generations of a dictionary: the older one is given up only when all of it is
durable, so nothing under way is ever forgotten, and what is durable is found in overlay or region. Sans-IO.
"""

from __future__ import annotations

__all__ = ["Heads"]

GENERATION = 50_000


class Heads:
    """See the module. A value is ``newest event's number << 1 | exists``.

    Args:
        generation: entries after which the older generation may be given up.
    """

    __slots__ = ("_generation", "_upto", "new", "old")

    def __init__(self, generation: int = GENERATION) -> None:
        self._generation = generation
        self._upto = 0
        self.new: dict[str, int] = {}
        self.old: dict[str, int] = {}

    def get(self, entity_id: str) -> int | None:
        """Value of an entity, or None when it is not remembered."""
        value = self.new.get(entity_id)
        return self.old.get(entity_id) if value is None else value

    def age(self, last_seq: int, durable_seq: int) -> None:
        """Give the older generation up when there are enough newer ones; call it between batches.

        Args:
            last_seq: newest number given out.
            durable_seq: everything up to here is in overlay or region.
        """
        if len(self.new) > self._generation and self._upto <= durable_seq:
            self.old, self.new = self.new, {}
            self._upto = last_seq

    def clear(self) -> None:
        """Forget everything."""
        self.new, self.old = {}, {}
        self._upto = 0
