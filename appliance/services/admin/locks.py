"""Turns: changes of one resource follow each other in the order in which they came, others do not wait.

Reads never come here (``design.md §5``, Admin API). A place in a line is taken without waiting, before the
task that holds it runs, so that calls keep their order. Whoever waits longer than it is patient leaves the
line and has changed nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.wire.errors import Unavailable

__all__ = ["Place", "Turns"]


class Place:
    """One place in the line of ``resource``."""

    __slots__ = ("resource", "turn")

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self.turn = trio.Event()


class Turns:
    """Lines by resource name, such as ``node:AI.x@hive`` or ``routes:motherbee``; FIFO and not re-entrant."""

    def __init__(self) -> None:
        self._lines: dict[str, OrderedDict[Place, None]] = {}
        self.timeouts = 0

    def __len__(self) -> int:
        return len(self._lines)

    def join(self, resource: str) -> Place:
        """Take the last place in the line; :meth:`hold` must follow, or :meth:`leave`."""
        place = Place(resource)
        line = self._lines.setdefault(resource, OrderedDict())
        line[place] = None
        next(iter(line)).turn.set()
        return place

    def leave(self, place: Place) -> None:
        """Give the place up; the next one in the line gets its turn."""
        line = self._lines[place.resource]
        del line[place]
        if line:
            next(iter(line)).turn.set()
        else:
            del self._lines[place.resource]

    @asynccontextmanager
    async def hold(self, place: Place, *, patience_s: float) -> AsyncIterator[None]:
        """Wait for the turn of ``place`` and hold it; the place is given up at the end.

        Raises:
            Unavailable: ``TIMEOUT``, the turn did not come in ``patience_s`` seconds.
        """
        try:
            with trio.move_on_after(patience_s):
                await place.turn.wait()
            if not place.turn.is_set():
                self.timeouts += 1
                text = f"timed out after {patience_s:g} s behind other changes of {place.resource}"
                raise Unavailable(text, code="TIMEOUT")
            yield
        finally:
            self.leave(place)
