"""One queue per resource: changes of one node, runtime or hive follow each other, others do not wait.

First come, first served (``design.md §5``, Admin API): a place is taken when the ticket is made, not when
its holder first runs, because tasks do not run in the order in which they were started. A queue exists only
while somebody stands in it.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Final

import trio

from appliance.wire.errors import Busy

__all__ = ["PATIENCE_S", "ResourceLocks", "Ticket"]

PATIENCE_S: Final = 60.0
"""More than any caller waits (``spec/admin-api.md §A.6``) but for a publication, which takes no node."""


class Ticket:
    """A place in the queue of one resource; ``async with`` waits for its turn and gives the place up.

    Raises:
        Busy: the turn did not come within the queue's patience; whoever asked has gone long since.

    A ticket that will not be used must be given back with :meth:`release`.
    """

    __slots__ = ("_locks", "resource", "turn")

    def __init__(self, locks: ResourceLocks, resource: str) -> None:
        self._locks = locks
        self.resource = resource
        self.turn = trio.Event()

    async def __aenter__(self) -> None:
        try:
            with trio.move_on_after(self._locks.patience_s):
                await self.turn.wait()
        except BaseException:
            self.release()
            raise
        if not self.turn.is_set():
            self.release()
            raise Busy(f"another change of {self.resource} takes its time")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Leave the queue; the next one is let in when this one was first. Twice is once."""
        self._locks._leave(self)


class ResourceLocks:
    """Queues by name, such as ``node:AI.x@hive``, ``runtime:ai.x``, ``hive:edge-07``.

    Args:
        patience_s: how long a turn is waited for, in seconds.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._queues: dict[str, deque[Ticket]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def ticket(self, resource: str) -> Ticket:
        """Take a place now. Not re-entrant: who holds a resource and asks for it again waits for ever."""
        ticket = Ticket(self, resource)
        queue = self._queues.setdefault(resource, deque())
        queue.append(ticket)
        if len(queue) == 1:
            ticket.turn.set()
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        queue = self._queues.get(ticket.resource)
        if queue is None or ticket not in queue:
            return
        queue.remove(ticket)
        if queue:
            queue[0].turn.set()
        else:
            del self._queues[ticket.resource]
