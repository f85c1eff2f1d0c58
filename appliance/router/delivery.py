"""Where a parsed message goes, and its way into the recipients' queues. Sans-IO.

The middle layer of the engine: destination to decision (``spec/routing-and-regions.md §3.4–3.9``), admission
to queues, broadcast, and the errors that senders get. Every message is delivered, answered, or counted.
"""

from __future__ import annotations

from msgspec import UNSET

from ..wire import verbs
from ..wire.codec import HotMessage, HotMeta
from ..wire.frames import HEADER, MAX_FRAME_BYTES
from ..wire.ids import canonical_uuid
from ..wire.seams import Forwarder, NoForwarder, NoResolver, Resolver
from .broadcast import Dedup, recipients
from .config import EngineSettings
from .connection import Connection
from .control import RouterVerbs
from .fib import Decision, Hop
from .links import Links
from .outbox import Admission

__all__ = ["Delivery"]

_pack = HEADER.pack
_ERRORS = frozenset({verbs.UNREACHABLE, verbs.TTL_EXCEEDED})
_ROUTES_CACHED = 4096
_LONGEST_CACHED = 512  # characters of a destination; `base@*` may be as long as a frame


class Delivery(Links):
    """Decides and delivers. ``verbs`` answers what is sent to the router itself."""

    verbs: RouterVerbs

    def __init__(
        self, settings: EngineSettings, *, resolver: Resolver | None, forwarder: Forwarder | None
    ) -> None:
        super().__init__(settings)
        self.resolver = resolver or NoResolver()
        self.forwarder = forwarder or NoForwarder()
        self._dedup = Dedup()

    # --- deciding --------------------------------------------------------------------------------------

    def decide(self, source: Connection, dst: str) -> Decision:
        """Where a frame of ``source`` to the uuid or name ``dst`` would go."""
        uuid = canonical_uuid(dst)
        if uuid is not None:
            return self.fib.by_destination_uuid(source, uuid)
        return self.fib.by_destination_name(source, dst)

    def _route(self, source: Connection, message: HotMessage, meta: HotMeta, body: bytes) -> None:
        dst = message.routing.dst
        if dst is None:
            resolution = self.resolver.resolve(source.uuid, message, meta)
            if resolution.target is None:
                self.unreachable(source, message, meta, resolution.reason)
                return
            # A policy names nodes; a uuid text from it is looked up as a name (§3.8).
            decision = self.fib.by_destination_name(source, resolution.target)
        elif dst == verbs.BROADCAST:
            self._broadcast(source, message, meta, body)
            return
        elif dst == self.replies.name or canonical_uuid(dst) == self.replies.uuid:
            self.verbs.handle(source, message, meta)
            return
        else:
            decision = self.decide(source, dst)
            if decision.connection is not None and len(dst) <= _LONGEST_CACHED:
                self._remember(source, dst, decision.connection)
        self._follow(source, message, meta, body, decision)

    def _remember(self, source: Connection, dst: str, recipient: Connection) -> None:
        if source.route_generation != self.fib.generation or len(source.routes) >= _ROUTES_CACHED:
            source.routes = {}
            source.route_generation = self.fib.generation
        source.routes[dst] = recipient

    def _follow(
        self, source: Connection, message: HotMessage, meta: HotMeta, body: bytes, decision: Decision
    ) -> None:
        if decision.connection is not None:
            self._deliver(source, decision.connection, body, message, meta)
        elif decision.hive is not None:
            ttl = message.routing.ttl
            if ttl < 2:
                self.ttl_exceeded(source, message, meta)
                return
            reason = self.forwarder.forward(decision.hive, message, ttl - 1)
            if reason is None:
                self.counts["forwarded"] += 1
            else:
                self.unreachable(source, message, meta, reason)
        elif decision.hop is Hop.DROP:
            self.counts["route_drop"] += 1
            self._tapped(source, message, meta, None, "route_drop")
        else:
            blocked = decision.hop is Hop.BLOCKED
            self.unreachable(source, message, meta, verbs.VPN_BLOCKED if blocked else verbs.NODE_NOT_FOUND)

    # --- delivering ------------------------------------------------------------------------------------

    def _deliver(
        self, source: Connection, recipient: Connection, body: bytes, message: HotMessage, meta: HotMeta
    ) -> None:
        size = len(body)
        outbox = recipient.outbox
        if size > MAX_FRAME_BYTES:
            self.counts["oversize_out"] += 1
            return
        if outbox.queued_frames >= outbox.half_frames or outbox.queued_bytes >= outbox.half_bytes:
            admission = outbox.admit(size, self.now)
            if admission is Admission.REFUSE:
                self.unreachable(source, message, meta, verbs.NODE_CONGESTED)
                return
            self.pause(source, recipient)
        elif not outbox.queued_frames:
            outbox.progress_at = self.now
        outbox.frames += (_pack(size), body)
        outbox.queued_frames += 1
        outbox.queued_bytes += size + 4
        if not recipient.dirty:
            recipient.dirty = True
            self.dirty.append(recipient)
        if self.taps:
            self._tapped(source, message, meta, recipient, "delivered", body)

    def _broadcast(self, source: Connection, message: HotMessage, meta: HotMeta, body: bytes) -> None:
        routing = message.routing
        trace = canonical_uuid(routing.trace_id)
        if trace is None:
            self.reject(source, "broadcast_trace_not_uuid")
            return
        if not self._dedup.fresh(trace, self.now):
            self.reject(source, "broadcast_duplicate")
            return
        target = meta.target if meta.target is not UNSET else None
        self.counts["broadcast"] += 1
        self.flood(source, body, list(recipients(self.fib, source, target)))
        self._tapped(source, message, meta, None, "broadcast", body)
        if routing.ttl >= 3:
            self.forwarder.broadcast(message, routing.ttl - 1)

    def flood(self, source: Connection, body: bytes, nodes: list[Connection]) -> None:
        """One copy to each of ``nodes``; who is full or stalled misses it and is counted."""
        if len(body) > MAX_FRAME_BYTES:
            self.counts["oversize_out"] += 1
            return
        pair = (_pack(len(body)), body)
        size = len(body) + 4
        for node in nodes:
            outbox = node.outbox
            if outbox.queued_frames >= outbox.half_frames or outbox.queued_bytes >= outbox.half_bytes:
                if outbox.admit(size, self.now) is Admission.REFUSE:
                    self.counts["broadcast_congested"] += 1
                    continue
                self.pause(source, node)
            elif not outbox.queued_frames:
                outbox.progress_at = self.now
            outbox.frames += pair
            outbox.queued_frames += 1
            outbox.queued_bytes += size
            self.mark(node)

    # --- errors to the sender --------------------------------------------------------------------------

    def unreachable(self, source: Connection, message: HotMessage, meta: HotMeta, reason: str) -> None:
        """Answer UNREACHABLE, but never to an error message (``node-protocol §9`` edge 12)."""
        self.counts[f"unreachable.{reason}"] += 1
        self._tapped(source, message, meta, None, reason)
        if not _is_error(meta):
            r = message.routing
            self.tell(source, self.replies.unreachable(source.uuid, r.trace_id, r.dst, reason))

    def ttl_exceeded(self, source: Connection, message: HotMessage, meta: HotMeta) -> None:
        """Answer TTL_EXCEEDED, but never to an error message."""
        self.counts["ttl_exceeded"] += 1
        self._tapped(source, message, meta, None, "ttl_exceeded")
        if not _is_error(meta):
            r = message.routing
            self.tell(source, self.replies.ttl_exceeded(source.uuid, r.trace_id, r.dst))

    def _tapped(
        self,
        source: Connection,
        message: HotMessage,
        meta: HotMeta,
        recipient: Connection | None,
        outcome: str,
        body: bytes = b"",
    ) -> None:
        if self.taps:
            self.verbs.show(source, message, meta, recipient, outcome, body)


def _is_error(meta: HotMeta) -> bool:
    return meta.type == verbs.SYSTEM and meta.msg in _ERRORS
