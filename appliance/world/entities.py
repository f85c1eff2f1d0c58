"""How an entity looks as bytes: its region key, its JSON text, its times.

The JSON text is what clients get, verbatim: ``{"id":…,"properties":{…},"lastUpdated":…,"seq":…}`` (EP-30;
``seq`` is additive, ST-19). Keys keep the order of ids: prefix and namespace queries are range scans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import cast

import msgspec

__all__ = [
    "KEY_HEAD_BYTES",
    "entity_id",
    "entity_json",
    "entity_key",
    "entity_properties",
    "entity_values",
    "rfc3339",
    "rfc3339_z",
]

KEY_HEAD_BYTES = 400
"""Ids are keys as they are up to here; longer ones are this head, a NUL and a SHA-256."""

_LATEST_MS = 253_402_300_799_999  # year 9999; a broken clock must not break a text
_STAMPS_KEPT = 8192
"""A projection in order of ids meets the arrival times of all batches that wait, in any order."""
_encode = msgspec.json.Encoder().encode


class _Entity(msgspec.Struct, gc=False):
    id: str
    properties: Mapping[str, object]
    lastUpdated: str  # noqa: N815 - the wire's name; renaming costs time per row
    seq: int


class _Stored(msgspec.Struct, gc=False):
    id: str
    properties: dict[str, object]


class _Values(msgspec.Struct, gc=False):
    properties: dict[str, msgspec.Raw]


_decoder = msgspec.json.Decoder(_Stored)
_values = msgspec.json.Decoder(_Values)


def entity_key(raw_id: bytes) -> bytes:
    """Region key of an entity id (UTF-8, 1 to 1024 bytes, no control characters: so no NUL)."""
    if len(raw_id) <= KEY_HEAD_BYTES:
        return raw_id
    return raw_id[:KEY_HEAD_BYTES] + b"\0" + hashlib.sha256(raw_id).digest()


@lru_cache(maxsize=_STAMPS_KEPT)
def _stamp(at_ms: int) -> str:
    at_ms = min(max(at_ms, 0), _LATEST_MS)
    text = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at_ms % 1000:03d}" if at_ms % 1000 else text


def rfc3339(at_ms: int) -> bytes:
    """Time as in ``lastUpdated``: numeric offset, a fraction of 0 or 3 digits (EP-31)."""
    return _zoned(at_ms).encode()


@lru_cache(maxsize=_STAMPS_KEPT)
def _zoned(at_ms: int) -> str:
    return _stamp(at_ms) + "+00:00"


def rfc3339_z(at_ms: int) -> bytes:
    """Time as in WebSocket frames."""
    return _stamp(at_ms).encode() + b"Z"


def entity_json(entity_id: str, properties: Mapping[str, object], at_ms: int, seq: int) -> bytes:
    """The JSON text of an entity."""
    return _encode(_Entity(entity_id, properties, _zoned(at_ms), seq))


def entity_properties(text: bytes) -> dict[str, object]:
    """Properties out of an entity's JSON text; ``ValueError`` when it is none."""
    try:
        return _decoder.decode(text).properties
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def entity_values(text: bytes) -> dict[str, object]:
    """As ``entity_properties``, with the values as ``msgspec.Raw``: for a merge that writes them as they are.

    A merge replaces whole values (ST-03), so those that stay need neither be parsed nor be made anew.
    """
    try:
        return cast("dict[str, object]", _values.decode(text).properties)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def entity_id(text: bytes) -> str:
    """Id out of an entity's JSON text; ``ValueError`` when it is none."""
    try:
        return _decoder.decode(text).id
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
