"""How an entity looks as bytes: its region key, its JSON text, its times.

The JSON text is what clients get, verbatim: ``{"id":…,"properties":{…},"lastUpdated":…,"seq":…}`` (EP-30;
``seq`` is additive, ST-19). Keys keep the order of ids: prefix and namespace queries are range scans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

__all__ = ["KEY_HEAD_BYTES", "entity_json", "entity_key", "entity_properties", "rfc3339", "rfc3339_z"]

KEY_HEAD_BYTES = 400
"""Ids are keys as they are up to here; longer ones are this head, a NUL and a SHA-256."""

_LATEST_MS = 253_402_300_799_999  # year 9999; a broken clock must not break a text
_encode = msgspec.json.encode


class _Stored(msgspec.Struct, gc=False):
    id: str
    properties: dict[str, object]


_decoder = msgspec.json.Decoder(_Stored)


def entity_key(raw_id: bytes) -> bytes:
    """Region key of an entity id (UTF-8, 1 to 1024 bytes, no control characters: so no NUL)."""
    if len(raw_id) <= KEY_HEAD_BYTES:
        return raw_id
    return raw_id[:KEY_HEAD_BYTES] + b"\0" + hashlib.sha256(raw_id).digest()


@lru_cache(maxsize=64)
def _stamp(at_ms: int) -> bytes:
    at_ms = min(max(at_ms, 0), _LATEST_MS)
    text = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at_ms % 1000:03d}".encode() if at_ms % 1000 else text.encode()


def rfc3339(at_ms: int) -> bytes:
    """Time as in ``lastUpdated``: numeric offset, a fraction of 0 or 3 digits (EP-31)."""
    return _stamp(at_ms) + b"+00:00"


def rfc3339_z(at_ms: int) -> bytes:
    """Time as in WebSocket frames."""
    return _stamp(at_ms) + b"Z"


def entity_json(entity_id: str, properties: Mapping[str, object], at_ms: int, seq: int) -> bytes:
    """The JSON text of an entity."""
    return b'{"id":%b,"properties":%b,"lastUpdated":"%b","seq":%d}' % (
        _encode(entity_id),
        _encode(properties),
        rfc3339(at_ms),
        seq,
    )


def entity_properties(text: bytes) -> dict[str, object]:
    """Properties out of an entity's JSON text; ``ValueError`` when it is none."""
    try:
        return _decoder.decode(text).properties
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def entity_id(text: bytes) -> str:
    """Id out of an entity's JSON text; ``ValueError`` when it is none."""
    try:
        return _decoder.decode(text).id
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
