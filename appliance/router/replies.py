"""Bodies that the router itself writes (``spec/node-protocol.md §1.4, §3.7``). Sans-IO."""

from __future__ import annotations

import msgspec

from ..wire import verbs
from ..wire.envelope import Message, announce, encode_message, system_message
from .connection import Connection

__all__ = ["Replies", "shown_destination"]


_encode = msgspec.json.Encoder().encode
_META = b'},"meta":{"type":"system","msg":"%b"},"payload":{"original_dst":'
_UNREACHABLE = _META % verbs.UNREACHABLE.encode()
_TTL_EXCEEDED = _META % verbs.TTL_EXCEEDED.encode()


def shown_destination(dst: str | None) -> str:
    """How ``original_dst`` names a destination: the text, or the four letters ``null`` for policy."""
    return "null" if dst is None else dst


class Replies:
    """Builds router-made bodies for the router ``uuid`` called ``name``."""

    __slots__ = ("_head", "_last_hop", "name", "uuid")

    def __init__(self, uuid: str, name: str) -> None:
        self.uuid = uuid
        self.name = name
        self._head = b'{"routing":{"src":"%b","dst":' % uuid.encode()
        self._last_hop = b'"last_hop":"router:%b"' % uuid.encode()

    def announce(self, connection: Connection, hello: Message, said_uuid: str) -> bytes:
        """Answer to HELLO; uuid and src are echoed as they were written."""
        return encode_message(
            announce(
                router=self.uuid,
                router_name=self.name,
                hello_src=hello.routing.src,
                trace_id=hello.routing.trace_id,
                uuid=said_uuid,
                name=connection.name,
                vpn_id=connection.vpn,
            )
        )

    def unreachable(self, to: str, trace_id: str, dst: str | None, reason: str) -> bytes:
        """A destination that cannot be reached, and why.

        Written by hand: a stalled recipient makes one of these for every message, at full speed.
        """
        return self._error(to, trace_id, _UNREACHABLE, dst, b'"reason":' + _encode(reason))

    def ttl_exceeded(self, to: str, trace_id: str, dst: str | None) -> bytes:
        """The hop budget is used up here."""
        return self._error(to, trace_id, _TTL_EXCEEDED, dst, self._last_hop)

    def _error(self, to: str, trace_id: str, meta: bytes, dst: str | None, last: bytes) -> bytes:
        shown = _encode(shown_destination(dst))
        return b'%b%b,"ttl":16,"trace_id":%b%b%b,%b}}' % (
            self._head,
            _encode(to),
            _encode(trace_id),
            meta,
            shown,
            last,
        )

    def system(
        self, to: str, trace_id: str, verb: str, payload: object, ttl: int = verbs.DEFAULT_TTL
    ) -> bytes:
        """Any system message of the router to one node."""
        raw = msgspec.Raw(msgspec.json.encode(payload))
        message = system_message(src=self.uuid, dst=to, verb=verb, payload=raw, ttl=ttl, trace_id=trace_id)
        return encode_message(message)
