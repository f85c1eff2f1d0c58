"""The router's codec: check a frame strictly, rebuild its head, forward its payload bytes untouched.

Three ways through, chosen by the frame (``design.md §5`` *Hot path*):

* *canonical* — only known keys, no white space, no needless escapes. Both objects are decoded into strict
  Structs and encoded back; equal length proves that there is no duplicate key, because the encoder writes
  the shortest form of every value and every key once.
* *spaced* — the same proof, on a compacted copy.
* *loose* — unknown keys, explicit nulls, keys that a sender must not set, needless escapes: keys are scanned
  one by one, look-alikes and duplicates are refused, what must go is removed, all else is kept in order.

The head that leaves is always rebuilt from what was parsed, so that no other language's JSON decoder can
read something from it that the router did not check. Sans-IO; holds one scratch buffer and no other state.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .actions import ActionClass, ActionResult
from .depth import MAX_DEPTH, depth_exceeds
from .envelope import CtxTurn
from .objects import ObjectSyntaxError, scan_object

__all__ = [
    "DECODE_ERRORS",
    "SHALLOW_BYTES",
    "Extras",
    "FastMessage",
    "FastRouting",
    "HotMessage",
    "HotMeta",
    "HotRouting",
    "Parsed",
    "RejectedFrame",
    "encode_into",
    "fast_decode",
    "parse_frame",
    "render",
    "stamp_meta",
]

_U64_MAX: Final = 2**64 - 1
_U64 = Annotated[int, msgspec.Meta(ge=0)]  # msgspec cannot state the upper bound; the loose way checks it


class RejectedFrame(Exception):
    """A frame that is not a legal envelope; ``reason`` is the counter it goes to. The connection stays."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class HotRouting(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """``routing`` in the reference's key order; ``src_l2_name`` is for the router alone to set."""

    src: str
    src_l2_name: str | UnsetType = UNSET
    dst: str | None
    ttl: Annotated[int, msgspec.Meta(ge=0, le=255)]
    trace_id: str


class HotMeta(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """The keys of ``meta`` that need no special care; any other key takes the loose way."""

    type: str
    msg: str | UnsetType = UNSET
    src_ilk: str | UnsetType = UNSET
    dst_ilk: str | UnsetType = UNSET
    ich: str | UnsetType = UNSET
    thread_id: str | UnsetType = UNSET
    ctx: str | UnsetType = UNSET
    scope: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    action: str | UnsetType = UNSET
    action_class: ActionClass | UnsetType = UNSET
    action_result: ActionResult | UnsetType = UNSET
    result_origin: str | UnsetType = UNSET
    result_detail_code: str | UnsetType = UNSET
    priority: str | UnsetType = UNSET
    delivery: str | UnsetType = UNSET
    context: Raw | UnsetType = UNSET


class FullMeta(HotMeta, forbid_unknown_fields=False, kw_only=True):
    """Every known key of ``meta`` with its type; unknown ones are left to the caller."""

    thread_seq: _U64 | UnsetType = UNSET
    ctx_seq: _U64 | UnsetType = UNSET
    ctx_window: list[CtxTurn] | UnsetType = UNSET
    memory_package: dict[str, Raw] | UnsetType = UNSET


class FastRouting(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """``routing`` as a sender may write it."""

    src: str
    dst: str | None
    ttl: Annotated[int, msgspec.Meta(ge=0, le=255)]
    trace_id: str


class FastMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A frame decoded in one pass, for the engine's fast lane; see :func:`fast_decode`."""

    routing: FastRouting
    meta: HotMeta
    payload: Raw


class HotMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A parsed frame: typed ``routing``, ``meta`` and ``payload`` as the bytes they came in."""

    routing: HotRouting
    meta: Raw
    payload: Raw


class Extras(msgspec.Struct, frozen=True):
    """Unknown keys of the top level and of ``routing``, kept for the way out, with their raw values."""

    top: dict[str, Raw]
    routing: dict[str, Raw]


Parsed = tuple[HotMessage, HotMeta, Extras | None]

_encoder = msgspec.json.Encoder()
_encode = _encoder.encode
_encode_into = _encoder.encode_into
_decode = msgspec.json.Decoder(HotMessage).decode
_decode_meta = msgspec.json.Decoder(HotMeta).decode
fast_decode = msgspec.json.Decoder(FastMessage).decode
"""Decode for the fast lane. When encoding the result into a buffer gives as many bytes as the frame has, the
frame is canonical: no duplicate key, no white space, no needless escape. Raises :data:`DECODE_ERRORS`."""

encode_into = _encode_into
_decode_full_meta = msgspec.json.Decoder(FullMeta).decode
_decode_routing = msgspec.json.Decoder(HotRouting).decode
_check_json = msgspec.json.Decoder(Raw).decode
_scratch = bytearray()

SHALLOW_BYTES: Final = 360
"""A fast-lane frame up to this size cannot be too deep: its fixed parts, uuid included, take 110 bytes at
least, and a level of nesting two."""
_SHALLOW_ANYHOW: Final = 2 * MAX_DEPTH + 1
_SHORTEST: Final = len('{"routing":{"src":"","dst":"","ttl":0,"trace_id":""},"meta":{"type":""}}')
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding hostile bytes can raise."""


def parse_frame(frame: bytes, *, trusted: bool = False) -> Parsed:
    """Check one frame body.

    Args:
        frame: JSON bytes without the length header.
        trusted: the sender is ``SY.*`` and may set ``thread_seq`` and ``memory_package``.

    Returns:
        The message, its decoded meta, and the unknown keys when there are any. ``src_l2_name`` is unset.

    Raises:
        RejectedFrame: not a legal envelope (``spec/node-protocol.md §2.1``).
    """
    if len(frame) < _SHORTEST:
        raise RejectedFrame("bad_json", "shorter than any message")
    if not frame.isascii():
        try:
            frame.decode()
        except UnicodeDecodeError as error:
            raise RejectedFrame("bad_utf8", str(error)) from None
    if len(frame) > _SHALLOW_ANYHOW and depth_exceeds(frame):
        raise RejectedFrame("too_deep", f"nesting over {MAX_DEPTH}")
    try:
        message = _decode(frame)
        meta = _decode_meta(message.meta)
        _encode_into(meta, _scratch)
        if len(_scratch) == len(message.meta):
            _encode_into(message, _scratch)
            if len(_scratch) == len(frame) and message.routing.src_l2_name is UNSET:
                return message, meta, None
        if message.routing.src_l2_name is UNSET and _is_canonical(msgspec.json.format(frame, indent=-1)):
            return message, meta, None
    except DECODE_ERRORS:
        pass
    return _parse_loose(frame, trusted)


def _is_canonical(compact: bytes) -> bool:
    message = _decode(compact)
    return len(_encode(message)) == len(compact) and len(_encode(_decode_meta(message.meta))) == len(
        message.meta
    )


# --- the loose way ---------------------------------------------------------------------------------------

_TOP = frozenset(("routing", "meta", "payload"))
_ROUTING = frozenset(field.encode_name for field in msgspec.structs.fields(HotRouting))
_META = frozenset(field.encode_name for field in msgspec.structs.fields(FullMeta))


def _fold(key: str) -> str:
    """What the laxest decoder may take ``key`` for: any case, either case's relatives, cut at a NUL.

    Unicode case folding covers Go and C# (U+017F, U+212A); comparing in upper case, as Java does, adds
    U+0131, and in lower case U+0130; C reads a string up to its first NUL.
    """
    return key.partition("\0")[0].upper().casefold().replace("i\u0307", "i")


_FOLDED: Final = {known: frozenset(map(_fold, known)) for known in (_TOP, _ROUTING, _META)}
_SENDER_MUST_NOT_SET = frozenset(("thread_seq", "memory_package"))


def _pairs(text: str, known: frozenset[str], where: str) -> dict[str, str]:
    """Keys and raw values of one object, in order.

    A key that folds to a known one, or a duplicate, would let another language's decoder read what the
    router did not check (case-insensitive matching, last wins).
    """
    try:
        items = scan_object(text)
    except ObjectSyntaxError as error:
        raise RejectedFrame("bad_json", f"{where}: {error}") from None
    pairs: dict[str, str] = {}
    folded = _FOLDED[known]
    for key, value in items:
        if key in pairs:
            raise RejectedFrame("duplicate_key", f"{where}.{key}")
        if key not in known and _fold(key) in folded:
            raise RejectedFrame("lookalike_key", f"{where}.{key}")
        pairs[key] = value
    return pairs


def _join(pairs: dict[str, str]) -> bytes:
    body = b",".join(_encode(key) + b":" + value.encode() for key, value in pairs.items())
    return b"{" + body + b"}"


def _parse_loose(frame: bytes, trusted: bool) -> Parsed:
    try:
        # The scanner below takes lone surrogates, which no recipient could read; this decoder does not.
        _check_json(frame)
    except DECODE_ERRORS as error:
        raise RejectedFrame("bad_json", str(error)) from None
    top = _pairs(frame.decode(), _TOP, "message")
    if "routing" not in top or "meta" not in top:
        raise RejectedFrame("missing_key", "routing and meta are required")
    routing = _pairs(top["routing"], _ROUTING, "routing")
    routing.pop("src_l2_name", None)
    if "dst" not in routing:
        raise RejectedFrame("missing_key", "routing.dst is required; null lets policy decide")
    meta = {key: value for key, value in _pairs(top["meta"], _META, "meta").items() if value != "null"}
    if not trusted:
        for key in _SENDER_MUST_NOT_SET:
            meta.pop(key, None)
    unknown = {key: Raw(value.encode()) for key, value in routing.items() if key not in _ROUTING}
    meta_bytes = _join(meta)
    try:
        parsed = _decode_routing(_join({key: value for key, value in routing.items() if key in _ROUTING}))
        typed = _decode_full_meta(meta_bytes)
    except DECODE_ERRORS as error:
        raise RejectedFrame("bad_type", str(error)) from None
    if any(number is not UNSET and number > _U64_MAX for number in (typed.thread_seq, typed.ctx_seq)):
        raise RejectedFrame("bad_type", "a sequence number is over 64 bits")
    message = HotMessage(parsed, Raw(meta_bytes), Raw(top.get("payload", "null").encode()))
    extra = {key: Raw(value.encode()) for key, value in top.items() if key not in _TOP}
    return message, typed, Extras(extra, unknown) if extra or unknown else None


# --- the way out -----------------------------------------------------------------------------------------


def stamp_meta(meta: Raw, added: bytes) -> Raw:
    """``meta`` with ``added`` (``b'"key":value,…,'``) right after its opening brace, the rest verbatim."""
    return Raw(b"{" + added + bytes(meta)[1:])


def render(message: HotMessage, extras: Extras | None) -> bytes:
    """JSON bytes of a parsed message on its way out; unknown keys follow the known ones of their object."""
    if extras is None:
        return _encode(message)
    r = message.routing
    routing: dict[str, object] = {"src": r.src}
    if r.src_l2_name is not UNSET:
        routing["src_l2_name"] = r.src_l2_name
    routing |= {"dst": r.dst, "ttl": r.ttl, "trace_id": r.trace_id, **extras.routing}
    return _encode({"routing": routing, "meta": message.meta, "payload": message.payload, **extras.top})
