"""Publishing and history over HTTP (``spec/flux-state.md §2.1, §2.2``).

A body is read once and goes to the engine as it is; only an ``Idempotency-Key`` makes it be opened here, to
give the events ids that the key determines: the engine's own memory of ids then does the rest, over restarts.
"""

from __future__ import annotations

import re
import time
import uuid
from datetime import datetime
from hashlib import sha256
from typing import Final

import msgspec

from appliance.wire.errors import Invalid
from appliance.world import Caller, WorldEngine

from .call import JSON, Call, Reply, json_reply

__all__ = ["HISTORY_KEYS", "event_ids", "history", "instant_ms", "publish", "publish_batch"]

HISTORY_KEYS: Final = ("entity", "since", "until", "limit", "before_seq")
_DAY_MS: Final = 86_400_000
_MOST: Final = 500
_KEY_BYTES: Final = 256


class _Batch(msgspec.Struct):
    events: list[msgspec.Raw]


_batch = msgspec.json.Decoder(_Batch)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def publish(call: Call, engine: WorldEngine, caller: Caller) -> Reply:
    """EP-01."""
    body = event_ids(await call.body(), call.header(b"idempotency-key"), caller, batch=False)
    return json_reply(await engine.publish(body, caller))


async def publish_batch(call: Call, engine: WorldEngine, caller: Caller) -> Reply:
    """EP-05."""
    body = event_ids(await call.body(), call.header(b"idempotency-key"), caller, batch=True)
    return json_reply(await engine.publish_batch(body, caller))


def event_ids(body: bytes, key: str | None, caller: Caller, *, batch: bool) -> bytes:
    """``body`` with an ``eventId`` for each event that has none, made from ``Idempotency-Key``.

    A body that is no JSON of the right kind comes back as it is: the engine says what is wrong with it.

    Raises:
        Invalid: the key is empty or too long.
    """
    if key is None:
        return body
    if not 0 < len(key) <= _KEY_BYTES:
        raise Invalid(f"Idempotency-Key must have 1 to {_KEY_BYTES} characters")
    # Two callers may choose the same key; with their token in it they cannot silence each other.
    seed = sha256(f"{caller.token or ''}\0{key}".encode("utf-8", "surrogateescape")).digest()
    try:
        if not batch:
            return _with_id(body, seed, 0)
        events = _batch.decode(body).events
        return b'{"events":[%b]}' % b",".join(
            _with_id(bytes(event), seed, number) for number, event in enumerate(events)
        )
    except (msgspec.MsgspecError, RecursionError):
        return body


def _with_id(event: bytes, seed: bytes, number: int) -> bytes:
    if not event.lstrip().startswith(b"{"):
        return event
    keys = _object.decode(event)
    if bytes(keys.get("eventId", b"null")) not in (b"null", b'""'):
        return event
    digest = bytearray(sha256(seed + number.to_bytes(8, "big")).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80  # version 8: of one's own making
    made = uuid.UUID(bytes=bytes(digest))
    if "eventId" in keys:  # an explicit null or "": the one case in which the text is rebuilt
        keys["eventId"] = msgspec.Raw(b'"%b"' % str(made).encode())
        return msgspec.json.encode(keys)
    begin = event.index(b"{") + 1
    return b'%b"eventId":"%b"%b%b' % (event[:begin], str(made).encode(), b"," if keys else b"", event[begin:])


async def history(call: Call, engine: WorldEngine) -> Reply:
    """EP-20."""
    query = call.query(HISTORY_KEYS)
    entity = query.get("entity")
    if entity is None:
        raise Invalid("entity parameter is required", field="entity")
    now_ms = time.time_ns() // 1_000_000
    since_ms = instant_ms(query["since"], "since") if "since" in query else now_ms - _DAY_MS
    limit = call.number(query, "limit")
    page = await engine.history(
        entity,
        since_ms=since_ms,
        until_ms=instant_ms(query["until"], "until") if "until" in query else None,
        before_seq=call.number(query, "before_seq"),
        limit=min(max(100 if limit is None else limit, 1), _MOST),
    )
    headers = [JSON]
    if page.next_before_seq is not None:
        headers.append((b"x-flux-before-seq", str(page.next_before_seq).encode()))
    if not page.complete:
        headers.append((b"x-flux-complete", b"false"))
    return Reply(b"[%b]" % b",".join(page.events), headers=tuple(headers))


_MS = re.compile(r"-?[0-9]{1,15}")


def instant_ms(text: str, name: str) -> int:
    """RFC 3339 with a zone, or Unix milliseconds; a ``+`` that a query turned into a blank is put back.

    Raises:
        Invalid: with the wire text (EP-20).
    """
    if _MS.fullmatch(text):
        return int(text)
    try:
        found = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        if found.tzinfo is None:
            raise ValueError(text)
        return int(found.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Invalid(f"invalid `{name}` timestamp (expected ISO 8601)", field=name) from None
