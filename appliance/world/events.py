"""Events as they come in: parsing, the rules of ``spec/flux-state.md §1``, generated ids. Sans-IO.

What is stored is what was parsed, encoded anew: unknown envelope keys are gone (EV-11), numbers and text are
well formed, so no reader of the log can understand an event differently than the reducer did. The first rule
that fails wins; its text is the wire text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from appliance.wire.depth import MAX_DEPTH, depth_exceeds
from appliance.wire.errors import Invalid

__all__ = [
    "MAX_EVENTS",
    "Event",
    "IdSource",
    "decode_batch",
    "decode_event",
    "encode_event",
    "entity_id_fault",
    "fault_of",
]

MAX_EVENTS = 100_000
"""Events in one batch (EV-21)."""
MAX_STREAM_BYTES = 255
MAX_TEXT_BYTES = 512
MAX_ID_BYTES = 1024
_SHORT = 100
"""Characters that fit whatever they are."""

_I64 = msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)
_STREAM = re.compile(r"[a-z0-9]+(?:\.[a-z0-9]+)*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KNOWN_STREAMS = 4096
_good_streams: set[str] = set()


class Event(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One event in the stored form (EV-12); key order is that of the wire."""

    eventId: str | None = None  # noqa: N815 - the wire's name; renaming costs time per event
    stream: str
    source: str
    timestamp: Annotated[int, _I64] | None = None
    key: str | None = None
    schema: str | None = None
    payload: Any


class _Batch(msgspec.Struct, gc=False):
    events: list[Event]


class _RawBatch(msgspec.Struct, gc=False):
    events: list[msgspec.Raw]


_KEYS = {f'"{name}"'.encode(): name for name in Event.__struct_fields__}
_REQUIRED = frozenset({"stream", "source", "payload"})
_OPTIONAL = {name: attrgetter(name) for name in Event.__struct_fields__ if name not in _REQUIRED}
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19
_event = msgspec.json.Decoder(Event)
_batch = msgspec.json.Decoder(_Batch)
_raw_batch = msgspec.json.Decoder(_RawBatch)
_encode = msgspec.json.Encoder().encode


def decode_event(text: bytes) -> Event:
    """One event out of its JSON text.

    Raises:
        Invalid: step 0 of §1.2; the message is the parser's.
    """
    try:
        event = _event.decode(text)
        if twice := _doubled(text):
            raise Invalid(f"duplicate field `{twice}`", field=twice)
        if _has_long_number(text):
            event.payload = _as_doubles(event.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(_words(error), field="event") from error
    return event


def decode_batch(text: bytes) -> Sequence[Event | str]:
    """The events of a batch in order; text for one that does not parse.

    Raises:
        Invalid: the text is not ``{"events":[…]}``, or holds no or too many events.
    """
    try:
        parsed = _batch.decode(text).events
        plain = _plain(text, parsed) and not _has_long_number(text)
        events: Sequence[Event | str] = parsed if plain else _one_by_one(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        events = _one_by_one(text)
    if not events:
        raise Invalid("Batch request must contain at least one event", field="events")
    if len(events) > MAX_EVENTS:
        raise Invalid(f"{len(events)} events in one batch, at most {MAX_EVENTS}", field="events")
    return events


def _one_by_one(text: bytes) -> list[Event | str]:
    """One bad event must not sink the others, and only it is told (EP-05)."""
    try:
        str(text, "utf-8")  # raw values are passed over unread
        raws = _raw_batch.decode(text).events
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(_words(error), field="events") from error
    events: list[Event | str] = []
    for raw in raws:
        try:
            events.append(decode_event(bytes(raw)))
        except Invalid as error:
            events.append(error.message)
    return events


def _plain(text: bytes, events: Sequence[Event]) -> bool:
    """Whether no envelope key comes twice in an event: its name is there just as often as the key is.

    A property of that name, or one hidden by an escape, only costs the closer look.
    """
    if b"\\u" in text:
        return False
    for key, name in _KEYS.items():
        seen = text.count(key)
        if name in _REQUIRED:
            if seen != len(events):
                return False
        elif seen and seen != len(events) - list(map(_OPTIONAL[name], events)).count(None):
            return False
    return True


def _doubled(text: bytes) -> str:
    """Name of an envelope key that comes twice, or nothing (EV-11)."""
    if b"\\u" not in text and all(text.count(key) <= 1 for key in _KEYS):
        return ""
    names: list[str] = []

    def pairs(found: list[tuple[str, object]]) -> None:
        names[:] = [name for name, _ in found]  # the outermost object comes last

    json.loads(text, object_pairs_hook=pairs)
    known = [name for name in names if name in Event.__struct_fields__]
    return next((name for name in known if known.count(name) > 1), "")


def _has_long_number(text: bytes) -> bool:
    """Whether an integer may be beyond 64 bits: so many digits in a row, wherever they stand."""
    return _LONG_NUMBER in text.translate(_DIGITS)


def _words(error: Exception) -> str:
    return "recursion limit exceeded" if isinstance(error, RecursionError) else str(error)


def fault_of(event: Event) -> str:
    """What is wrong with an event (§1.2 steps 1 to 6, EV-21); empty when nothing is."""
    payload, timestamp = event.payload, event.timestamp
    if (
        event.stream in _good_streams
        and type(payload) is dict
        and 0 < len(event.source) <= _SHORT
        and (timestamp is None or timestamp > 0)
        and not (event.key or event.schema or event.eventId)
    ):  # what nearly all events look like
        entity_id = payload.get("entity_id")
        if type(entity_id) is not str or (0 < len(entity_id) <= _SHORT and entity_id.isprintable()):
            return ""
    return _first_fault(event)


def _first_fault(event: Event) -> str:
    stream = event.stream
    if not stream:
        return "stream is required"
    if not event.source:
        return "source is required"
    payload = event.payload
    if payload is None:
        return "payload is required"
    if stream not in _good_streams and (fault := _stream_fault(stream)):
        return fault
    if event.timestamp is not None and event.timestamp <= 0:
        return f"timestamp must be positive, got {event.timestamp}"
    if type(payload) is not dict:
        return "payload must be a JSON object"
    entity_id = payload.get("entity_id")
    if type(entity_id) is str and (fault := entity_id_fault(entity_id)):
        return fault
    return _length_fault(event)


def _stream_fault(stream: str) -> str:
    if not _STREAM.match(stream):
        return f"invalid stream format '{stream}': must be lowercase with optional dots"
    if len(stream) > MAX_STREAM_BYTES:
        return f"stream is longer than {MAX_STREAM_BYTES} bytes"
    if len(_good_streams) >= _KNOWN_STREAMS:
        _good_streams.clear()
    _good_streams.add(stream)
    return ""


def entity_id_fault(entity_id: str) -> str:
    """What is wrong with an entity id (EV-21); empty when nothing is."""
    # A character has at most four bytes: encoding is for the few that may be too long.
    if not entity_id or (len(entity_id) > MAX_ID_BYTES // 4 and len(entity_id.encode()) > MAX_ID_BYTES):
        return f"entity_id must have 1 to {MAX_ID_BYTES} bytes"
    if _CONTROL.search(entity_id):
        return "entity_id must not contain control characters"
    return ""


def _length_fault(event: Event) -> str:
    for name, text in (
        ("source", event.source),
        ("key", event.key),
        ("schema", event.schema),
        ("eventId", event.eventId),
    ):
        if text and len(text) > MAX_TEXT_BYTES // 4 and len(text.encode()) > MAX_TEXT_BYTES:
            return f"{name} is longer than {MAX_TEXT_BYTES} bytes"
    return ""


def encode_event(event: Event) -> bytes:
    """The stored JSON text.

    Raises:
        Invalid: nested deeper than 128.
    """
    try:
        text = _encode(event)
    except RecursionError as error:
        raise Invalid("recursion limit exceeded", field="payload") from error
    if len(text) > 2 * MAX_DEPTH and depth_exceeds(text, MAX_DEPTH):
        raise Invalid("recursion limit exceeded", field="payload")
    return text


def _as_doubles(value: object) -> object:
    """``value`` with integers beyond 64 bits as doubles (EV-13)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            value[name] = _as_doubles(inner)
    elif isinstance(value, list):
        value[:] = [_as_doubles(inner) for inner in value]
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        try:
            return float(value)
        except OverflowError as error:
            raise Invalid("number out of range", field="payload") from error
    return value


class IdSource:
    """UUIDv7 texts (EV-01): unique, and ascending within one call."""

    __slots__ = ()

    def take(self, count: int, now_ms: int) -> tuple[str, int]:
        """Prefix of ``count`` ids and the first value of their last twelve hex digits.

        Id *i* is ``f"{prefix}{first + i:012x}"``: 26 random bits in the prefix and 47 in the first value.
        """
        noise = secrets.randbits(26)
        ms = max(now_ms, 0) & ((1 << 48) - 1)
        prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{noise & 0xFFF:03x}-{0x8000 | noise >> 12:04x}-"
        return prefix, secrets.randbits(47)
