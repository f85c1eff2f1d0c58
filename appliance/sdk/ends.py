"""The two sides of a node that its tasks hold: one sends, one receives.

Both are thin handles: any number of tasks of one event loop may share them, and neither owns the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from appliance.wire.envelope import Message
from appliance.wire.errors import Unavailable

from .inbox import Inbox

if TYPE_CHECKING:
    from .node import Node

__all__ = ["SEND_TIMEOUT_S", "NodeReceiver", "NodeSender"]

SEND_TIMEOUT_S = 30.0
"""How long a sender waits for room in the queue, unless it says otherwise."""


class NodeSender:
    """The outbound side. One object serves any number of tasks; :meth:`clone` is there for symmetry."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def clone(self) -> NodeSender:
        """Another handle of the same connection."""
        return NodeSender(self._node)

    @property
    def uuid(self) -> str:
        """L1 uuid of the connection."""
        return self._node.uuid

    @property
    def full_name(self) -> str:
        """L2 name as the router announced it."""
        return self._node.full_name

    async def send(
        self, message: Message, *, timeout_s: float = SEND_TIMEOUT_S, deadline_s: float | None = None
    ) -> None:
        """Queue ``message``; on return it is queued, nothing more: this layer has no acknowledgement.

        ``routing.src`` is set to this node's uuid. A ``text/v1`` payload over the budget is off-loaded to a
        blob. What is queued survives a lost connection for ``deadline_s``.

        Args:
            message: what to send; it is not changed.
            timeout_s: how long to wait for room in the queue.
            deadline_s: how long it may wait for a connection; default ``NodeConfig.outbound_deadline_s``.

        Raises:
            FrameTooLarge: an :class:`Invalid` with size and limit; nothing was queued.
            Busy: no room within ``timeout_s``.
            Unavailable: the node is closed.
        """
        await self._node._send(message, timeout_s, deadline_s)


class NodeReceiver:
    """The inbound side: messages that no request waits for, in the order of arrival."""

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def receive(self, timeout_s: float | None = None) -> Message:
        """The next message.

        A lost connection is no error here: messages resume when it is back (``node.is_connected`` tells).

        Raises:
            TimeoutError: none came within ``timeout_s`` seconds.
            Unavailable: the node is closed and nothing is left (code ``CLOSED``).
        """
        return await self._inbox.get(timeout_s)

    def close(self) -> None:
        """Take no more messages; what is held can still be received, and requests are not affected."""
        self._inbox.close()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except Unavailable:
            raise StopAsyncIteration from None
