"""Idempotency by the event id that a client chose, within the last N events (ST-32). Sans-IO.

The window counts events, not time: it does not depend on a clock that may jump, and a restart finds the same
window by reading the tail of the journal.
"""

from __future__ import annotations

__all__ = ["KnownIds"]


class KnownIds:
    """Client event ids of the last ``window`` events; 0 turns it off.

    Two generations bound the memory to the ids of two windows.
    """

    __slots__ = ("_new", "_old", "_since", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self._new: dict[str, tuple[int, str]] = {}
        self._old: dict[str, tuple[int, str]] = {}
        self._since = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def find(self, event_id: str, next_seq: int) -> tuple[int, str] | None:
        """Number and stream of the event that has this id, if it is one of the window before ``next_seq``."""
        found = self._new.get(event_id) or self._old.get(event_id)
        return found if found is not None and found[0] >= next_seq - self.window else None

    def add(self, event_id: str, seq: int, stream: str) -> None:
        """Remember an event."""
        if self.window <= 0:
            return
        if seq - self._since >= self.window:
            self._old, self._new = self._new, {}
            self._since = seq
        self._new[event_id] = (seq, stream)

    def forget(self, event_id: str, seq: int) -> None:
        """The event never came to be."""
        for known in (self._new, self._old):
            if known.get(event_id, (0, ""))[0] == seq:
                del known[event_id]

    def clear(self) -> None:
        """Forget everything."""
        self._new, self._old, self._since = {}, {}, 0
