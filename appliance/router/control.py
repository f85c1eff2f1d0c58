"""What the router answers about itself: echo, status, nodes, queues, explain, tap (``design.md §4``).

Requests are system messages to the router's uuid or name. Internals are for ``SY.*`` and for
``security.admin_nodes``; anybody else gets ``FORBIDDEN``. Whatever else is sent to the router is swallowed:
an answer could start an endless conversation (``spec/node-protocol.md §9`` edge 12). Sans-IO.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ..wire import verbs
from ..wire.codec import HotMessage, HotMeta
from ..wire.frames import MAX_FRAME_BYTES
from ..wire.ids import canonical_uuid
from .connection import Connection

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["RouterVerbs"]

_SHOWN_BYTES = 8192
"""A tap shows bodies up to this size whole, longer ones without payload."""

_PAGE_BYTES = 96 * 1024
"""Most bytes of entries in one answer: 1 024 nodes do not fit one frame."""


class _Page(msgspec.Struct):
    after: str = ""


class _TapRequest(msgspec.Struct):
    pattern: str = "*"
    stop: bool = False


class _ExplainRequest(msgspec.Struct):
    dst: str
    src: str | None = None


class RouterVerbs:
    """Dispatches requests to the router. ``extra_status`` lets the shell add its own figures."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.extra_status: Callable[[], dict[str, object]] = dict
        self._verbs: dict[str, Callable[[Connection, HotMessage], object]] = {
            verbs.ROUTER_STATUS: self._status,
            verbs.ROUTER_NODES: self._nodes,
            verbs.ROUTER_QUEUES: self._queues,
            verbs.ROUTER_STATISTICS: self._statistics,
            verbs.ROUTER_EXPLAIN: self._explain,
            verbs.ROUTER_TAP: self._tap,
        }

    def handle(self, source: Connection, message: HotMessage, meta: HotMeta) -> None:
        """A unicast to the router itself."""
        engine = self._engine
        verb = meta.msg if meta.type == verbs.SYSTEM and isinstance(meta.msg, str) else ""
        if verb == verbs.ECHO:
            self._answer(source, message, verbs.ECHO_REPLY, {})
        elif verb not in self._verbs:
            engine.reject(source, "to_router")
        elif not source.privileged and not engine.settings.open_security:
            engine.reject(source, "router_verb_forbidden")
            refusal = _error("FORBIDDEN", "router internals are for SY.* and security.admin_nodes")
            self._answer(source, message, verbs.response_verb(verb), refusal)
        else:
            try:
                payload = self._verbs[verb](source, message)
            except msgspec.DecodeError as error:
                payload = _error("INVALID_REQUEST", f"payload: {error}")
            self._answer(source, message, verbs.response_verb(verb), payload)

    def _answer(self, source: Connection, message: HotMessage, verb: str, payload: object) -> None:
        engine = self._engine
        trace_id = message.routing.trace_id
        body = engine.replies.system(source.uuid, trace_id, verb, payload)
        if len(body) > MAX_FRAME_BYTES:
            payload = _error("TOO_LARGE", "the answer does not fit a frame")
            body = engine.replies.system(source.uuid, trace_id, verb, payload)
        engine.tell(source, body)

    def _page(
        self, key: str, message: HotMessage, describe: Callable[[Connection], dict[str, object]]
    ) -> dict[str, object]:
        """One page of the nodes, by name; ``next`` is what to give as ``after`` for the next one, or null."""
        after = (msgspec.json.decode(message.payload, type=_Page | None) or _Page()).after
        nodes = sorted(
            (place, node)
            for node in self._engine.fib.by_uuid.values()
            if (place := f"{node.name} {node.uuid}") > after
        )
        entries: list[msgspec.Raw] = []
        room = _PAGE_BYTES
        for place, node in nodes:
            entry = msgspec.json.encode(describe(node))
            room -= len(entry) + 1
            if room < 0:
                return {"status": "ok", key: entries, "next": after}
            entries.append(msgspec.Raw(entry))
            after = place
        return {"status": "ok", key: entries, "next": None}

    # --- answers ---------------------------------------------------------------------------------------

    def _status(self, source: Connection, message: HotMessage) -> dict[str, object]:
        engine = self._engine
        settings = engine.settings
        return {
            "status": "ok",
            "hive": settings.hive,
            "router_uuid": settings.router_uuid,
            "router_name": settings.router_name,
            "nodes": len(engine.fib.by_uuid),
            "held": len(engine.greeter.held),
            "configured": engine.greeter.configured,
            "paused_senders": len(engine.paused),
            "taps": len(engine.taps),
            "counts": dict(sorted(engine.counts.items())),
            **self.extra_status(),
        }

    def _nodes(self, source: Connection, message: HotMessage) -> dict[str, object]:
        serving = {same[0] for same in self._engine.fib.by_name.values()}

        def describe(node: Connection) -> dict[str, object]:
            return {
                "name": node.name,
                "uuid": node.uuid,
                "vpn_id": node.vpn,
                "connected_at_ms": node.connected_at_ms,
                "pid": node.peer.pid,
                "uid": node.peer.uid,
                "serving": node in serving,
            }

        return self._page("nodes", message, describe)

    def _queues(self, source: Connection, message: HotMessage) -> dict[str, object]:
        now = self._engine.now

        def describe(node: Connection) -> dict[str, object]:
            numbers = msgspec.structs.asdict(node.outbox.statistics(now))
            return {"name": node.name, "rejected": node.rejected} | numbers

        return self._page("queues", message, describe)

    def _statistics(self, source: Connection, message: HotMessage) -> dict[str, object]:
        engine = self._engine
        threads = msgspec.structs.asdict(engine.threads.statistics())
        return {"status": "ok", "counts": dict(engine.counts), "threads": threads}

    def _explain(self, source: Connection, message: HotMessage) -> dict[str, object]:
        engine = self._engine
        request = msgspec.json.decode(message.payload, type=_ExplainRequest)
        asker = source
        if request.src is not None:
            uuid = canonical_uuid(request.src)
            same = engine.fib.by_name.get(request.src, [])
            found = engine.fib.by_uuid.get(uuid) if uuid else (same[0] if same else None)
            if found is None:
                return _error("NOT_FOUND", f"src: no node {request.src!r} is connected here")
            asker = found
        decision = engine.decide(asker, request.dst)
        return {
            "status": "ok",
            "src": asker.name,
            "dst": request.dst,
            "hop": decision.hop.value,
            "node": decision.connection.name if decision.connection else None,
            "hive": decision.hive,
            "why": decision.why,
        }

    def _tap(self, source: Connection, message: HotMessage) -> dict[str, object]:
        engine = self._engine
        request = msgspec.json.decode(message.payload, type=_TapRequest)
        if request.stop:
            engine.taps.remove(source)
        elif not engine.taps.set(source, request.pattern, engine.now):
            return _error("BUSY", "too many taps are open")
        return {"status": "ok", "dropped": engine.taps.dropped}

    # --- showing traffic to taps -------------------------------------------------------------------------

    def show(
        self,
        source: Connection,
        message: HotMessage,
        meta: HotMeta,
        recipient: Connection | None,
        outcome: str,
        body: bytes,
    ) -> None:
        """Copy one routed frame to the taps that want it; a slow watcher loses copies, nobody waits."""
        engine = self._engine
        names = (source.name, recipient.name) if recipient is not None else (source.name,)
        for watcher in engine.taps.watchers(*names):
            if watcher is source or watcher is recipient:
                continue
            event = {
                "at_ms": engine.wall_ms,
                "from": source.name,
                "to": recipient.name if recipient is not None else None,
                "dst": message.routing.dst,
                "type": meta.type,
                "msg": meta.msg if isinstance(meta.msg, str) else None,
                "trace_id": message.routing.trace_id,
                "outcome": outcome,
                "size_bytes": len(body),
                "frame": msgspec.Raw(body) if body and len(body) <= _SHOWN_BYTES else None,
            }
            copy = engine.replies.system(
                watcher.uuid, message.routing.trace_id, verbs.ROUTER_TAP_EVENT, event
            )
            if len(copy) <= MAX_FRAME_BYTES and watcher.outbox.put_control(copy):
                engine.mark(watcher)
            else:
                engine.taps.dropped += 1


def _error(code: str, message: str) -> dict[str, object]:
    return {"status": "error", "error_code": code, "message": message}
