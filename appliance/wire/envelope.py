"""The message envelope as services and nodes see it (``spec/node-protocol.md §2``).

``payload`` stays raw bytes until somebody asks for it; unknown keys are dropped on decode, as both
reference SDKs do. The router does not use these classes for traffic: see :mod:`appliance.wire.codec`.
Sans-IO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from . import verbs
from .errors import Invalid
from .ids import new_uuid

__all__ = [
    "CtxTurn",
    "Json",
    "Message",
    "Meta",
    "Routing",
    "announce",
    "build_message",
    "decode_message",
    "encode_message",
    "hello",
    "raw_json",
    "system_message",
    "withdraw",
]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
T = TypeVar("T")
_NULL = msgspec.Raw(b"null")

if TYPE_CHECKING:
    _MaybeRaw = msgspec.Raw | None
else:
    _MaybeRaw = msgspec.Raw
    """msgspec reads ``Raw | None`` as null and nothing else; an absent key still is ``None``, the default."""


class Routing(msgspec.Struct, kw_only=True):
    """Who sends to whom. ``src_l2_name`` is written by the router; a sender's value never arrives."""

    src: str
    src_l2_name: str | None = None
    dst: str | None
    ttl: int
    trace_id: str


class CtxTurn(msgspec.Struct, kw_only=True, rename={"sender": "from"}):
    """One entry of the legacy ``ctx_window``."""

    seq: int
    ts: str
    sender: str
    type: str
    text: str


class Meta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What kind of message it is. Keys and their meaning: ``spec/node-protocol.md §2.3``."""

    type: str
    msg: str | None = None
    src_ilk: str | None = None
    dst_ilk: str | None = None
    ich: str | None = None
    thread_id: str | None = None
    thread_seq: int | None = None
    ctx: str | None = None
    ctx_seq: int | None = None
    ctx_window: list[CtxTurn] | None = None
    memory_package: _MaybeRaw = None
    scope: str | None = None
    target: str | None = None
    action: str | None = None
    action_class: str | None = None
    action_result: str | None = None
    result_origin: str | None = None
    result_detail_code: str | None = None
    priority: str | None = None
    delivery: str | None = None
    context: _MaybeRaw = None


class Message(msgspec.Struct, kw_only=True):
    """One message. Build it with :func:`build_message` or :func:`system_message`."""

    routing: Routing
    meta: Meta
    payload: msgspec.Raw = _NULL

    def json(self) -> Json:
        """The payload as plain JSON values."""
        return self.payload_as(object)  # type: ignore[return-value]

    def payload_as(self, shape: type[T]) -> T:
        """The payload decoded as ``shape`` (a Struct or any type msgspec knows).

        Raises:
            Invalid: the payload does not have that shape; the message names where.
        """
        try:
            return msgspec.json.decode(self.payload, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"payload: {error}", code="INVALID_PAYLOAD", field="payload") from error

    @property
    def source_l2_name(self) -> str | None:
        """L2 name of the sender as stamped by the router; ``None`` on router-made messages."""
        return self.routing.src_l2_name


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


class _WireRouting(msgspec.Struct, omit_defaults=True):
    """``Routing`` as it is written: ``dst`` always present, an unset ``src_l2_name`` left out."""

    src: str
    src_l2_name: str | msgspec.UnsetType
    dst: str | None
    ttl: int
    trace_id: str


class _WireMessage(msgspec.Struct):
    routing: _WireRouting
    meta: Meta
    payload: msgspec.Raw


def raw_json(value: object) -> msgspec.Raw:
    """``value`` (JSON values, Structs, or already :class:`msgspec.Raw`) as JSON bytes."""
    return value if isinstance(value, msgspec.Raw) else msgspec.Raw(_encoder.encode(value))


def encode_message(message: Message) -> bytes:
    """JSON bytes of ``message``; the frame header is not included."""
    r = message.routing
    stamp = msgspec.UNSET if r.src_l2_name is None else r.src_l2_name
    wire = _WireMessage(
        _WireRouting(r.src, stamp, r.dst, r.ttl, r.trace_id), message.meta, raw_json(message.payload)
    )
    return _encoder.encode(wire)


def decode_message(body: bytes) -> Message:
    """Parse one frame body.

    Raises:
        Invalid: not an envelope; the message says where. The connection it came from is still good.
    """
    try:
        message = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not a message: {error}", code="INVALID_FRAME") from error
    # A Raw that msgspec hands out is a view of the whole frame; a copy lets the frame go.
    message.payload = message.payload.copy()
    meta = message.meta
    if meta.context is not None:
        meta.context = _own(meta.context)
    if meta.memory_package is not None:
        meta.memory_package = _own(meta.memory_package)
    return message


def _own(raw: msgspec.Raw) -> msgspec.Raw | None:
    """A copy; an explicit null is as good as an absent key (``node-protocol §2.1``)."""
    return None if bytes(raw) == b"null" else raw.copy()


def build_message(
    *,
    src: str,
    dst: str | None,
    payload: object = None,
    meta: Meta | None = None,
    type: str = verbs.USER,
    ttl: int = verbs.DEFAULT_TTL,
    trace_id: str | None = None,
) -> Message:
    """A message ready to send.

    Args:
        src: uuid of the sending connection.
        dst: uuid, L2 name, ``base@*``, ``"broadcast"``, or ``None`` to let policy decide.
        payload: JSON values, a Struct, or :class:`msgspec.Raw`.
        meta: full meta; without it one with just ``type`` is made.
        type: ``meta.type`` when ``meta`` is not given.
        ttl: hop budget, 0–255.
        trace_id: correlation; a fresh uuid when not given.
    """
    return Message(
        routing=Routing(src=src, dst=dst, ttl=ttl, trace_id=new_uuid() if trace_id is None else trace_id),
        meta=meta or Meta(type=type),
        payload=raw_json(payload),
    )


def system_message(
    *,
    src: str,
    dst: str | None,
    verb: str,
    payload: object = None,
    ttl: int = verbs.DEFAULT_TTL,
    trace_id: str | None = None,
    scope: str | None = None,
    action: str | None = None,
    target: str | None = None,
) -> Message:
    """A ``type: system`` message with ``meta.msg`` = ``verb``."""
    meta = Meta(type=verbs.SYSTEM, msg=verb, scope=scope, action=action, target=target)
    return build_message(src=src, dst=dst, payload=payload, meta=meta, ttl=ttl, trace_id=trace_id)


def hello(uuid: str, name: str, version: str, trace_id: str | None = None) -> Message:
    """The first frame of a connection (``spec/node-protocol.md §1.4``)."""
    payload = {"uuid": uuid, "name": name, "version": version}
    return system_message(src=uuid, dst=None, verb=verbs.HELLO, payload=payload, ttl=1, trace_id=trace_id)


def withdraw(uuid: str) -> Message:
    """The last frame of a connection that leaves on purpose (``spec/node-protocol.md §1.5``)."""
    return system_message(src=uuid, dst=None, verb=verbs.WITHDRAW, payload={"uuid": uuid}, ttl=1)


def announce(
    *, router: str, router_name: str, hello_src: str, trace_id: str, uuid: str, name: str, vpn_id: int
) -> Message:
    """The router's answer to HELLO; ``hello_src`` and ``uuid`` are echoed verbatim."""
    payload = {
        "uuid": uuid,
        "name": name,
        "status": "registered",
        "vpn_id": vpn_id,
        "router_name": router_name,
    }
    return system_message(
        src=router, dst=hello_src, verb=verbs.ANNOUNCE, payload=payload, ttl=1, trace_id=trace_id
    )
