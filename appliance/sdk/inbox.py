"""Messages on their way in: a bounded queue between the reader of the socket and the node.

One producer (the reader), any number of consumers. When it is full the reader stops reading and the socket
carries the pressure back to the router. While a request waits for its reply the bound is wider: the reply may
lie behind a burst, and the consumer that would drain the burst may be the one that waits.
"""

from __future__ import annotations

import math
from collections import deque

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from appliance.wire.envelope import Message
from appliance.wire.errors import Unavailable

__all__ = ["Inbox"]

_YIELD_EVERY = 64


def closed_error() -> Unavailable:
    """What every use of a closed node raises."""
    return Unavailable("the node is closed", code="CLOSED", remedy="Connect again.")


class Inbox:
    """The queue.

    Args:
        limit: messages held before the reader is stopped.
        wide_limit: the same while :attr:`wide` is set.
    """

    __slots__ = (
        "_closed",
        "_consumers",
        "_items",
        "_space",
        "_taken",
        "dropped",
        "limit",
        "wide",
        "wide_limit",
    )

    def __init__(self, *, limit: int, wide_limit: int) -> None:
        self.limit = limit
        self.wide_limit = max(limit, wide_limit)
        self.wide = False
        self._items: deque[Message] = deque()
        self._consumers: deque[anyio.Event] = deque()
        self._space: anyio.Event | None = None
        self._closed = False
        self._taken = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bound(self) -> int:
        """The limit in force."""
        return self.wide_limit if self.wide else self.limit

    @property
    def is_full(self) -> bool:
        """Whether the reader has to wait; never when closed, as what comes then is dropped."""
        return len(self._items) >= self.bound and not self._closed

    def put(self, message: Message) -> None:
        """Append; the reader asks :attr:`is_full` between messages. Once closed: dropped and counted."""
        if self._closed:
            self.dropped += 1
            return
        self._items.append(message)
        self._wake_one()

    def _wake_one(self) -> None:
        if self._consumers:
            self._consumers.popleft().set()

    def widen(self, wide: bool) -> None:
        """Set or reset the wider bound."""
        self.wide = wide
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._space is not None and len(self._items) <= self.bound // 2:
            self._space.set()
            self._space = None

    async def wait_space(self) -> None:
        """Return when the queue is not full. For the one producer."""
        while self.is_full:
            self._space = anyio.Event()
            await self._space.wait()

    def close(self) -> None:
        """No more messages come; what is held can still be taken."""
        self._closed = True
        if self._space is not None:
            self._space.set()
        while self._consumers:
            self._wake_one()

    async def get(self, timeout_s: float | None = None) -> Message:
        """The next message.

        Raises:
            TimeoutError: none came within ``timeout_s`` seconds.
            Unavailable: closed and empty (code ``CLOSED``).
        """
        if not self._items:
            with anyio.fail_after(math.inf if timeout_s is None else timeout_s):
                await self._wait_item()
        else:
            self._taken += 1
            await (checkpoint() if self._taken % _YIELD_EVERY == 0 else checkpoint_if_cancelled())
            if not self._items:  # another consumer was quicker while this one yielded
                return await self.get(timeout_s)
        message = self._items.popleft()
        self._wake_reader()
        return message

    async def _wait_item(self) -> None:
        while not self._items:
            if self._closed:
                raise closed_error()
            event = anyio.Event()
            self._consumers.append(event)
            try:
                await event.wait()
            except BaseException:
                if event.is_set() and self._items:  # woken and cancelled at once: pass the wake on
                    self._wake_one()
                elif not event.is_set():
                    self._consumers.remove(event)
                raise
