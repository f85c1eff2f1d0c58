"""Records of the world journal: what is durable, and the only source of everything else. Pure functions.

A record is ``kind u8, arrival i64 ms, previous u64`` (big-endian) and a JSON text. ``previous`` is the number
of the entity's previous event, 0 without one: a chain from the entity's row back through its history that
needs no index. Kinds are part of the format: never reuse one.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "CONFIG",
    "EVENT",
    "EVENT_OF_CLIENT",
    "HEAD",
    "NAMESPACE",
    "NAMESPACE_GONE",
    "RESTORED",
    "FramedHead",
    "RecordHead",
    "StoredEvent",
    "pack",
    "payload_of",
    "unpack",
]

EVENT = 1
"""An event with a generated id."""
EVENT_OF_CLIENT = 2
"""An event whose id the client chose: it counts for idempotency."""
CONFIG = 3
"""The runtime configuration."""
NAMESPACE = 4
"""A namespace as it is from here on."""
NAMESPACE_GONE = 5
"""The name of a namespace that was removed."""
RESTORED = 6
"""Everything before is replaced by the base image that reaches to this record."""

HEAD = struct.Struct(">BqQ")
FramedHead = struct.Struct(">IBqQ")
"""Length prefix of the journal and head in one go; the length counts the head too."""


class RecordHead(NamedTuple):
    """What stands before the JSON text."""

    kind: int
    at_ms: int
    previous: int


class _Payload(msgspec.Struct, gc=False):
    entity_id: Any = None
    properties: Any = None


class StoredEvent(msgspec.Struct, gc=False):
    """What the reducer needs of a stored event."""

    eventId: str  # noqa: N815 - the wire's name
    stream: str
    payload: _Payload


_decoder = msgspec.json.Decoder(StoredEvent)


def pack(kind: int, at_ms: int, previous: int, text: bytes) -> bytes:
    """One record."""
    return HEAD.pack(kind, at_ms, previous) + text


def unpack(record: bytes) -> tuple[RecordHead, bytes]:
    """Head and JSON text; ``ValueError`` when the record is too short."""
    try:
        return RecordHead._make(HEAD.unpack_from(record)), record[HEAD.size :]
    except struct.error as error:
        raise ValueError(f"record of {len(record)} bytes: {error}") from error


def payload_of(text: bytes) -> StoredEvent:
    """What the reducer needs of an event's JSON text; ``ValueError`` when it is none."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
