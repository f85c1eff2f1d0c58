"""The routing engine: bytes in, frames in queues out. No sockets, no files, no clock.

One *turn* is one round of reading: the shell calls :meth:`Engine.begin_turn`, feeds what each connection
sent, and calls :meth:`Engine.end_turn`, after which every connection in ``dirty`` is written once. Rules:
``spec/routing-and-regions.md §3`` with the decisions of ``design.md §5``. Invariants: ``routing.src`` is the
connection's own uuid; a queue never exceeds its bound; every frame is delivered, answered, or counted under
a reason; a sender's mistake touches nobody else.
"""

from __future__ import annotations

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
from ..wire.seams import Forwarder, Memory, NoMemory, Resolver, TurnSink
from ..wire.verbs import UNRECORDED_TYPES
from .config import EngineSettings
from .connection import Connection, State
from .control import RouterVerbs
from .delivery import Delivery
from .threads import ThreadCounters

__all__ = ["Engine"]

_unpack = HEADER.unpack_from
_pack = HEADER.pack
_encode = msgspec.json.Encoder().encode
_FLOODED = frozenset({verbs.CONFIG_CHANGED, verbs.OPA_RELOAD})
_META_OPENS = b'},"meta":{'
_AFTER_SRC = len(b'{"routing":{"src":"') + 36 + 1
_AFTER_ROUTING = _AFTER_SRC + len(b',"dst":"","ttl":0,"trace_id":""')  # the shortest there is
_SEND_MESSAGE = b'"action_class":"send_message",'
_FAST_BYTES = MAX_FRAME_BYTES - 2048  # a stamped frame still fits: 256 B of name escaped sixfold


class Engine(Delivery):
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
        super().__init__(settings, resolver=resolver, forwarder=forwarder)
        self.threads = threads
        self.memory = memory or NoMemory()
        self.verbs = RouterVerbs(self)
        self._turns = turns
        self._batch: list[bytes] = []
        self._batch_skipped = 0
        self._recording = False
        self._recording_loose = False
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
                    and (thread is UNSET or (counter := young.get(thread)) or thread.strip())
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
                        if thread is not UNSET:
                            if counter is not None and counter[0] < counter[1]:
                                sequence = counter[0] = counter[0] + 1
                            else:
                                sequence = self.threads.next(thread)
                                young = self.threads.young
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
            else:
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

    def _refuse_oversize(self, source: Connection) -> None:
        """There is no finding the next frame after one that is too long: the connection is finished."""
        self.reject(source, "oversize_in")
        self.close(source, "oversize_in")

    # --- one frame, the general way ----------------------------------------------------------------------

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
        kind = meta.type
        if kind == "system" and meta.msg == verbs.WITHDRAW:
            self.close(source, "withdraw")  # this connection, whatever the frame claims or says
            return
        if routing.src != source.uuid:
            speaker = self._speaker(source, message)
            if speaker is None:
                return
            source = speaker
        if kind == "system" and meta.msg in _FLOODED:
            self._flood_control(source, message, meta, extras)
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

    def _flood_control(
        self, source: Connection, message: HotMessage, meta: HotMeta, extras: Extras | None
    ) -> None:
        if not (source.system or self.settings.open_security):
            # Nodes act on these without looking at the sender; only the appliance may say them (design §5).
            self.reject(source, "control_forbidden")
            return
        message.routing.src_l2_name = source.name
        body = render(message, extras)
        self.counts["flooded"] += 1
        self.flood(source, body, [node for node in self.fib.by_uuid.values() if node is not source])
        self._tapped(source, message, meta, None, "flooded", body)


def _is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True
