"""The routing engine: bytes in, frames in queues out. No sockets, no files, no clock.

One *turn* is one round of reading: the shell calls :meth:`Engine.begin_turn`, feeds what each connection
sent, and calls :meth:`Engine.end_turn`, after which every connection in ``dirty`` is written once. Rules:
``spec/routing-and-regions.md §3`` with the decisions of ``design.md §5``. Invariants: ``routing.src`` is the
connection's own uuid; a queue never exceeds its bound; every frame is delivered, answered, or counted under
a reason; a sender's mistake touches nobody else.
"""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec import UNSET

from ..wire import verbs
from ..wire.codec import (
    DECODE_ERRORS,
    SHALLOW_BYTES,
    Extras,
    HotMessage,
    HotMeta,
    RejectedFrame,
    encode_into,
    fast_decode,
    parse_frame,
    render,
    stamp_meta,
)
from ..wire.depth import depth_exceeds
from ..wire.frames import HEADER, MAX_FRAME_BYTES
from ..wire.ids import NodeUuid, canonical_uuid
from ..wire.seams import Forwarder, Memory, NoForwarder, NoMemory, NoResolver, Resolver, TurnSink
from ..wire.verbs import UNRECORDED_TYPES
from .broadcast import Dedup, recipients
from .config import EngineSettings
from .connection import Connection, Peer, State
from .control import RouterVerbs
from .fib import Decision, Fib, Hop
from .greeting import Greeter
from .outbox import Admission
from .replies import Replies
from .taps import Taps
from .threads import ThreadCounters

__all__ = ["Engine"]

_unpack = HEADER.unpack_from
_pack = HEADER.pack
_encode = msgspec.json.Encoder().encode
_INTERCEPTED = frozenset({verbs.WITHDRAW, verbs.CONFIG_CHANGED, verbs.OPA_RELOAD})
_ERRORS = frozenset({verbs.UNREACHABLE, verbs.TTL_EXCEEDED})
_ROUTES_CACHED = 4096
_LONGEST_CACHED = 512  # characters of a destination; `base@*` may be as long as a frame
_META_OPENS = b'},"meta":{'
_AFTER_SRC = len(b'{"routing":{"src":"') + 36 + 1
_AFTER_ROUTING = _AFTER_SRC + len(b',"dst":"","ttl":0,"trace_id":""')  # the shortest there is
_SEND_MESSAGE = b'"action_class":"send_message",'
_FAST_BYTES = MAX_FRAME_BYTES - 2048  # a stamped frame still fits: 256 B of name escaped sixfold


class Engine:
    """See the module. The shell owns sockets; ``app`` binds the seams."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        threads: ThreadCounters,
        turns: TurnSink,
        resolver: Resolver | None = None,
        forwarder: Forwarder | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.settings = settings
        self.fib = Fib(static_override=settings.static_override)
        self.replies = Replies(settings.router_uuid, settings.router_name)
        self.threads = threads
        self.resolver = resolver or NoResolver()
        self.forwarder = forwarder or NoForwarder()
        self.memory = memory or NoMemory()
        self.counts: Counter[str] = Counter()
        self.now = 0.0
        self.wall_ms = 0
        self.connections: set[Connection] = set()
        # What the shell must act on after a turn.
        self.dirty: list[Connection] = []
        self.doomed: list[Connection] = []
        self.resumed: list[Connection] = []
        self.changes: list[tuple[str, Connection]] = []
        self.paused: set[Connection] = set()
        self.taps = Taps()
        self.greeter = Greeter(self)
        self.verbs = RouterVerbs(self)
        self._dedup = Dedup()
        self._turns = turns
        self._batch: list[bytes] = []
        self._batch_skipped = 0
        self._recording = False
        self._recording_loose = False
        self._generation = 0
        self._scratch = bytearray()
        self._has_memory = not isinstance(self.memory, NoMemory)

    # --- turns -----------------------------------------------------------------------------------------

    def begin_turn(self, now: float, wall_ms: int) -> None:
        """Start a turn at ``now`` (monotonic seconds) and ``wall_ms`` (epoch, for display only)."""
        self.now = now
        self.wall_ms = wall_ms
        self._recording, self._recording_loose = self._turns.appetite(now)

    def end_turn(self) -> None:
        """Close the turn: reservations and turns are handed over before anything leaves."""
        self.threads.flush()
        if self._batch or self._batch_skipped:
            self._turns.record(b"".join(self._batch), len(self._batch) // 2, self._batch_skipped)
            self._batch = []
            self._batch_skipped = 0

    def accept(self, peer: Peer) -> Connection:
        """A socket was accepted; it has ``hello_timeout_s`` to say HELLO."""
        self._generation += 1
        connection = Connection(self._generation, peer, self.settings.queues, self.now)
        self.connections.add(connection)
        self.greeter.waiting.add(connection)
        return connection

    def receive(self, source: Connection, data: bytes) -> None:
        """Bytes read from ``source``; what is left when the sender must pause stays in ``rest``.

        This is the fast lane: a canonical frame of an ordinary type, to a recipient that this sender has
        reached before and that has room, is checked, stamped and queued right here. Whatever is special
        about a frame sends it the long way through :meth:`_frame`, which obeys the same rules.
        """
        buffer = data
        if source.rest:
            buffer = source.rest + data
            source.rest = b""
        end = len(buffer)
        position = 0
        scratch = self._scratch
        record_any = self._recording_loose
        record_threads = self._recording
        batch = self._batch
        skipped = 0
        counter: list[int] | None = None
        routes = self._fast_routes(source)
        young = self.threads.young
        claim = source.claim
        stamp = source.stamp
        while end - position >= 4:
            (size,) = _unpack(buffer, position)
            start = position + 4
            stop = start + size
            if stop > end:
                if size > MAX_FRAME_BYTES:
                    self._refuse_oversize(source)
                    return
                break
            frame = buffer[start:stop]
            position = stop
            try:
                message = fast_decode(frame)
                encode_into(message, scratch)
            except DECODE_ERRORS:
                message = None
            if message is not None and len(scratch) == size and frame.startswith(claim):
                routing = message.routing
                meta = message.meta
                recipient = routes.get(routing.dst)
                thread = meta.thread_id
                split = scratch.find(_META_OPENS, _AFTER_ROUTING) + 10
                if (
                    recipient is not None
                    and (thread is UNSET or ((counter := young.get(thread)) and counter[0] < counter[1]))
                    and meta.type not in UNRECORDED_TYPES
                    and routing.ttl
                    and frame.startswith(_META_OPENS, split - 10)  # meta follows routing here as there
                    and (size <= SHALLOW_BYTES or (size < _FAST_BYTES and not depth_exceeds(frame)))
                    and (frame.isascii() or _is_utf8(frame))
                ):
                    outbox = recipient.outbox
                    queued = outbox.queued_frames
                    if queued < outbox.half_frames and outbox.queued_bytes < outbox.half_bytes:
                        added = _SEND_MESSAGE if meta.action_class is UNSET else b""
                        if thread is not UNSET and counter is not None:
                            sequence = counter[0] = counter[0] + 1
                            added = b'"thread_seq":%d,%b' % (sequence, added)
                        # scratch holds the head as rebuilt from what was parsed, equally long.
                        body = b"".join((stamp, scratch[_AFTER_SRC:split], added, frame[split:]))
                        size = len(body)
                        pair = (_pack(size), body)
                        outbox.frames += pair
                        outbox.queued_frames = queued + 1
                        outbox.queued_bytes += size + 4
                        if not recipient.dirty:
                            if not queued:
                                outbox.progress_at = self.now
                            recipient.dirty = True
                            self.dirty.append(recipient)
                        if record_any or (record_threads and thread is not UNSET):
                            batch += pair
                        else:
                            skipped += 1
                        continue
            if size > MAX_FRAME_BYTES:
                self._refuse_oversize(source)
                return
            self._frame(source, frame)
            if source.blocked:
                break
            routes = self._fast_routes(source)
            young = self.threads.young
            claim = source.claim
            stamp = source.stamp
        self._batch_skipped += skipped
        rest = buffer[position:] if position else buffer
        if source.closing is None:
            source.rest = rest
        else:
            self._leave_unread(rest)

    def _fast_routes(self, source: Connection) -> dict[str | None, Connection]:
        """Recipients that the fast lane may use: none while somebody watches or memory must be spliced."""
        if self.taps or self._has_memory or source.route_generation != self.fib.generation:
            return {}
        return source.routes

    def close(self, connection: Connection, reason: str) -> None:
        """Take ``connection`` out of every table, now and on every exit path; the shell closes its socket."""
        if connection.closing is not None:
            return
        connection.closing = reason
        connection.blocked = True
        self.counts[f"closed.{reason}"] += 1
        self._leave_unread(connection.rest)
        connection.rest = b""
        lost = connection.outbox.abandon()
        if lost:
            self.counts["lost_unsent"] += lost
        if connection.state is State.READY:
            self.fib.remove(connection)
            self.changes.append(("down", connection))
        connection.state = State.CLOSED
        self.connections.discard(connection)
        self.greeter.forget(connection)
        self.taps.remove(connection)
        if connection.paused_on is not None:
            connection.paused_on.outbox.waiting.discard(connection)
            connection.paused_on = None
        self.paused.discard(connection)
        for sender in list(connection.outbox.waiting):
            self.resume(sender)
        self.doomed.append(connection)

    def _refuse_oversize(self, source: Connection) -> None:
        """There is no finding the next frame after one that is too long: the connection is finished."""
        self.reject(source, "oversize_in")
        self.close(source, "oversize_in")

    def _leave_unread(self, rest: bytes) -> None:
        """Count the whole frames that a connection had sent when it was closed and that nobody looked at."""
        position, left = 0, 0
        while len(rest) - position >= 4:
            position += 4 + _unpack(rest, position)[0]
            left += position <= len(rest)
        if left:
            self.counts["lost_unread"] += left

    # --- pausing senders -------------------------------------------------------------------------------

    def pause(self, sender: Connection, recipient: Connection) -> None:
        """Stop reading ``sender`` until ``recipient`` drained, stalled, or ``pause_s`` passed."""
        if sender.paused_on is None and sender is not recipient:
            sender.paused_on = recipient
            sender.blocked = True
            sender.pause_until = self.now + recipient.outbox.limits.pause_s
            recipient.outbox.waiting.add(sender)
            self.paused.add(sender)
            self.counts["sender_paused"] += 1

    def resume(self, sender: Connection) -> None:
        """Read ``sender`` again; the shell processes its ``rest`` first."""
        if sender.paused_on is not None:
            sender.paused_on.outbox.waiting.discard(sender)
            sender.paused_on = None
            sender.blocked = False
            self.paused.discard(sender)
            self.resumed.append(sender)

    def drained(self, connection: Connection, sent_bytes: int) -> None:
        """``sent_bytes`` of the connection's queue went out; senders that waited for it may go on."""
        outbox = connection.outbox
        outbox.advance(sent_bytes, self.now)
        if outbox.waiting and outbox.roomy():
            for sender in list(outbox.waiting):
                self.resume(sender)

    def expire(self) -> None:
        """Act on what time alone changes: silent newcomers, pauses that are over, taps that ran out."""
        self.greeter.expire()
        for sender in list(self.paused):
            recipient = sender.paused_on
            if recipient is not None and (
                self.now >= sender.pause_until or recipient.outbox.stalled(self.now)
            ):
                self.resume(sender)
        self.taps.expire(self.now)

    def next_deadline(self) -> float:
        """When :meth:`expire` has work at the latest, monotonic seconds; infinity when never."""
        due = self.greeter.next_deadline()
        for sender in self.paused:
            if sender.paused_on is not None:
                outbox = sender.paused_on.outbox
                due = min(due, sender.pause_until, outbox.progress_at + outbox.limits.stall_s + 0.001)
        return due

    # --- one frame -------------------------------------------------------------------------------------

    def _frame(self, source: Connection, frame: bytes) -> None:
        try:
            message, meta, extras = parse_frame(frame, trusted=source.system)
        except RejectedFrame as error:
            self.reject(source, error.reason)
            if source.state is State.NEW:
                self.close(source, "bad_hello")
            return
        if source.state is not State.READY:
            self.greeter.greet(source, frame, meta)
            return
        routing = message.routing
        if routing.src != source.uuid:
            speaker = self._speaker(source, message)
            if speaker is None:
                return
            source = speaker
        kind = meta.type
        if kind == "system" and meta.msg in _INTERCEPTED and self._intercept(source, message, meta, extras):
            return
        routing.src_l2_name = source.name
        ordinary = kind not in UNRECORDED_TYPES
        thread = meta.thread_id
        added = _SEND_MESSAGE if ordinary and meta.action_class is UNSET else b""
        if thread is not UNSET and thread.strip() and getattr(meta, "thread_seq", UNSET) is UNSET:
            added = b'"thread_seq":%d,%b' % (self.threads.next(thread), added)
        if added:
            message.meta = stamp_meta(message.meta, added)
        body = _encode(message) if extras is None else render(message, extras)
        if ordinary:
            self._record(body, thread is not UNSET)
        if routing.ttl == 0:
            self.ttl_exceeded(source, message, meta)
            return
        if thread is not UNSET and ordinary:
            body = self._enrich(body, message, meta, extras)
        if source.route_generation == self.fib.generation:
            recipient = source.routes.get(routing.dst)
            if recipient is not None:
                self._deliver(source, recipient, body, message, meta)
                return
        self._route(source, message, meta, body)

    def _speaker(self, source: Connection, message: HotMessage) -> Connection | None:
        """Whom ``routing.src`` means: this connection, also in another notation or left empty.

        With ``security.local: open`` it may be any node connected here, as in the reference; that node then
        counts as the sender, and gets the errors.
        """
        claimed = message.routing.src
        uuid = canonical_uuid(claimed) if claimed else NodeUuid(source.uuid)
        speaker = source
        if uuid != source.uuid and self.settings.open_security and uuid is not None:
            speaker = self.fib.by_uuid.get(uuid, source)
        if uuid != speaker.uuid:
            self.reject(source, "foreign_src")
            return None
        message.routing.src = speaker.uuid
        return speaker

    def _record(self, body: bytes, threaded: bool) -> None:
        if self._recording_loose or (threaded and self._recording):
            self._batch += (_pack(len(body)), body)
        else:
            self._batch_skipped += 1

    def _enrich(self, body: bytes, message: HotMessage, meta: HotMeta, extras: Extras | None) -> bytes:
        """``body`` with the thread's memory package, when there is one and the frame still fits (§3.11)."""
        if meta.thread_id is UNSET or getattr(meta, "memory_package", UNSET) is not UNSET:
            return body
        package = self.memory.package(meta.thread_id)
        if package is None:
            return body
        plain = message.meta
        message.meta = stamp_meta(plain, b'"memory_package":%b,' % package)
        enriched = render(message, extras)
        message.meta = plain
        if len(enriched) > MAX_FRAME_BYTES:
            self.counts["memory_package_left_out"] += 1
            return body
        return enriched

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

    def mark(self, connection: Connection) -> None:
        """Something waits for ``connection``; the shell writes it at the end of the turn."""
        if not connection.dirty:
            connection.dirty = True
            self.dirty.append(connection)

    # --- system messages with a meaning for the router ---------------------------------------------------

    def _intercept(
        self, source: Connection, message: HotMessage, meta: HotMeta, extras: Extras | None
    ) -> bool:
        if meta.msg == verbs.WITHDRAW:
            self.close(source, "withdraw")
            return True
        if not (source.system or self.settings.open_security):
            # Nodes act on these without looking at the sender; only the appliance may say them (design §5).
            self.reject(source, "control_forbidden")
            return True
        message.routing.src_l2_name = source.name
        body = render(message, extras)
        self.counts["flooded"] += 1
        self.flood(source, body, [node for node in self.fib.by_uuid.values() if node is not source])
        self._tapped(source, message, meta, None, "flooded", body)
        return True

    # --- telling ---------------------------------------------------------------------------------------

    def reject(self, source: Connection, reason: str) -> None:
        """Count a frame that is neither delivered nor answered."""
        source.rejected += 1
        self.counts[reason] += 1

    def tell(self, connection: Connection, body: bytes) -> None:
        """Queue a router-made frame in the control lane."""
        if len(body) > MAX_FRAME_BYTES:
            # It repeats a destination and a trace that filled the sender's own frame.
            self.counts["oversize_out"] += 1
        elif connection.outbox.put_control(body):
            self.mark(connection)
        else:
            self.counts["control_dropped"] += 1

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


def _is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_error(meta: HotMeta) -> bool:
    return meta.type == verbs.SYSTEM and meta.msg in _ERRORS
