"""The one demultiplexer of replies: who waits for which ``trace_id``.

Sans-IO. Every incoming message passes :meth:`Requests.offer` once; a reply goes to the request that waits for
it, a router-made error with that trace ends the request, and everything else is left to the normal queue. The
reference's helpers read the queue themselves and throw away what does not match (``spec/node-protocol.md
§8.3``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from appliance.wire import verbs
from appliance.wire.envelope import Message
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, Unreachable

__all__ = ["LATE_MEMORY", "Pending", "Requests", "is_router_error", "router_error"]

LATE_MEMORY = 1024
"""Abandoned traces that are remembered, so that a late reply is counted and not taken for news."""


class _RouterError(msgspec.Struct):
    """UNREACHABLE and TTL_EXCEEDED payloads (``spec/node-protocol.md §3.7``)."""

    original_dst: str = ""
    reason: str = ""
    last_hop: str = ""


def is_router_error(message: Message) -> bool:
    """Whether ``message`` is UNREACHABLE or TTL_EXCEEDED. Never answer one (``node-protocol §9-12``)."""
    return message.meta.type == verbs.SYSTEM and message.meta.msg in (verbs.UNREACHABLE, verbs.TTL_EXCEEDED)


def router_error(message: Message) -> Unreachable:
    """The error that a router-made message stands for; ``code`` is the router's reason or TTL_EXCEEDED."""
    try:
        body = message.payload_as(_RouterError)
    except Invalid:
        body = _RouterError()
    target = body.original_dst or "the destination"
    if message.meta.msg == verbs.TTL_EXCEEDED:
        return Unreachable(
            f"the message to {target} ran out of hops at {body.last_hop or 'a router'}",
            code=verbs.TTL_EXCEEDED,
            remedy="Send with a higher ttl: 2 reaches another router, 3 another hive, 16 is usual.",
        )
    reason = body.reason or verbs.UNREACHABLE
    return Unreachable(f"the router could not reach {target}: {reason}", code=reason)


class Pending:
    """One request that waits. ``wake`` is called once, when :attr:`result` is there."""

    __slots__ = ("_sent_to", "_wake", "reply_verbs", "result", "trace_id")

    def __init__(
        self, message: Message, reply_verbs: frozenset[str] | None, wake: Callable[[], None]
    ) -> None:
        self.trace_id = message.routing.trace_id
        self.reply_verbs = reply_verbs
        self.result: Message | FluxbeeError | None = None
        self._sent_to = message.routing.dst
        self._wake = wake

    def accepts(self, message: Message, own_uuid: str) -> bool:
        """Whether ``message``, which has this trace, is the reply.

        A request to oneself comes back as it was sent: that one is the request, not the reply.
        """
        if message.routing.src == own_uuid and message.routing.dst == self._sent_to:
            return False
        return self.reply_verbs is None or message.meta.msg in self.reply_verbs

    def finish(self, result: Message | FluxbeeError) -> None:
        """Hand over the result and wake the requester."""
        self.result = result
        self._wake()


class Requests:
    """All requests of one node."""

    __slots__ = ("_late", "_pending", "answered", "late", "refused")

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}
        self._late: OrderedDict[str, None] = OrderedDict()
        self.answered = 0
        self.refused = 0
        self.late = 0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, pending: Pending) -> None:
        """Register a request before it is sent.

        Raises:
            Conflict: another request waits with the same trace id.
        """
        if pending.trace_id in self._pending:
            raise Conflict(
                f"a request with trace id {pending.trace_id} is waiting already",
                field="routing.trace_id",
                remedy="Give each request its own trace id.",
            )
        self._pending[pending.trace_id] = pending

    def remove(self, pending: Pending) -> None:
        """The requester is done; without a result its trace is remembered, to recognise a late reply."""
        if self._pending.get(pending.trace_id) is not pending:
            return
        del self._pending[pending.trace_id]
        if pending.result is None:
            self._late[pending.trace_id] = None
            if len(self._late) > LATE_MEMORY:
                self._late.popitem(last=False)

    def abort(self, error: FluxbeeError) -> None:
        """End every request that still waits with ``error``."""
        for pending in self._pending.values():
            if pending.result is None:
                pending.finish(error)

    def offer(self, message: Message, own_uuid: str) -> bool:
        """Show an incoming message; ``True`` when it was a reply and is dealt with."""
        trace_id = message.routing.trace_id
        pending = self._pending.get(trace_id)
        if pending is None:
            if trace_id not in self._late:
                return False
            self.late += 1
            return True
        if pending.result is not None:
            return False
        if is_router_error(message):
            self.refused += 1
            pending.finish(router_error(message))
            return True
        if not pending.accepts(message, own_uuid):
            return False
        self.answered += 1
        pending.finish(message)
        return True
