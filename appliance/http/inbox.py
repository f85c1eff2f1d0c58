"""The queue between a connection's reader and one application task.

Differs from a memory channel in two points that a plain channel gets wrong here. What is ready is handed
out before the cancellation check, so Starlette's ``request.is_disconnected()`` (a receive in a cancelled
scope) sees that the client left. And once the client or the application is gone ``put`` never waits, so an
upload that nobody reads cannot hold its connection.
"""

from __future__ import annotations

from collections import deque

import trio
from starlette.types import Message

__all__ = ["Inbox"]


class Inbox:
    """Bounded queue of ASGI messages; ``limit`` is how many wait before the reader pauses."""

    __slots__ = ("_gone", "_limit", "_queue", "_room", "_something")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[Message] = deque()
        self._gone: Message | None = None
        self._room = trio.Event()
        self._something = trio.Event()

    @property
    def gone(self) -> bool:
        """Whether nothing more will come."""
        return self._gone is not None

    async def put(self, message: Message) -> None:
        """Hand over ``message``; waits while the queue is full, never after a disconnect."""
        if message["type"].endswith(".disconnect"):
            self.finish(message)
            return
        while self._gone is None and len(self._queue) >= self._limit:
            self._room = trio.Event()
            await self._room.wait()
        if self._gone is None:
            self._queue.append(message)
            self._something.set()

    def finish(self, message: Message) -> None:
        """Nothing more will come: readers get what waits, then ``message`` again and again."""
        if self._gone is None:
            self._gone = message
        self._room.set()
        self._something.set()

    async def get(self) -> Message:
        """The next message; what is ready is returned even in a cancelled scope."""
        while not self._queue:
            if self._gone is not None:
                return self._gone
            self._something = trio.Event()
            await self._something.wait()
        message = self._queue.popleft()
        self._room.set()
        return message
