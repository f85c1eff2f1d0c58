"""Reading and deleting entities over HTTP (``spec/flux-state.md §2.3, §2.4``)."""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from appliance.wire.errors import Invalid, NotFound
from appliance.world import Caller, WorldEngine

from .call import JSON, Call, Reply, WrongShape, json_reply
from .events import instant_ms

__all__ = ["delete", "delete_many", "entity", "listing"]

_LIST_KEYS: Final = ("prefix", "namespace", "limit", "after", "at", "seq")
_AT_KEYS: Final = ("at", "seq")
_PAGE: Final = 500
_CHUNK_BYTES: Final = 256 << 10


async def listing(call: Call, engine: WorldEngine) -> Reply | None:
    """EP-30: all entities in order of id, streamed; ``limit`` and ``after`` page through them.

    The tag is the world's sequence: a client that polls an idle world is answered 304.
    """
    query = call.query(_LIST_KEYS)
    if "at" in query or "seq" in query:
        raise Invalid("`at` and `seq` are for one entity: GET /api/state/entities/<id>?at=…")
    limit = call.number(query, "limit")
    pages = engine.listing(
        prefix=query.get("prefix"), namespace=query.get("namespace"), after=query.get("after")
    )
    tag = b'"w%d"' % engine.last_seq
    headers = [JSON, (b"etag", tag), (b"cache-control", b"no-cache")]
    if call.header(b"if-none-match") == tag.decode():
        return Reply(status=304, headers=tuple(headers[1:]))
    # The first page before the answer begins: it may be refused.
    page = [] if limit == 0 else pages.page(_PAGE if limit is None else min(limit, _PAGE))
    if len(page) < _PAGE or limit == len(page) or call.scope["method"] == "HEAD":
        return Reply(b"[%b]" % b",".join(page), headers=tuple(headers))
    await call.send({"type": "http.response.start", "status": 200, "headers": headers})
    left = None if limit is None else limit - len(page)
    chunk, size = [b"[" + page[0], *page[1:]], 0
    while left != 0:
        await trio.lowlevel.checkpoint()
        page = pages.page(_PAGE if left is None else min(left, _PAGE))
        if not page:
            break
        if left is not None:
            left -= len(page)
        chunk += page
        size += sum(map(len, page))
        if size >= _CHUNK_BYTES:
            # The last one stays behind, so that a comma always has something after it.
            kept = chunk.pop()
            await call.send(
                {"type": "http.response.body", "body": b",".join(chunk) + b",", "more_body": True}
            )
            chunk, size = [kept], 0
    await call.send({"type": "http.response.body", "body": b",".join(chunk) + b"]"})
    return None


async def entity(call: Call, engine: WorldEngine, entity_id: str) -> Reply:
    """EP-35; with ``at`` (time) or ``seq`` as it was then."""
    query = call.query(_AT_KEYS)
    if query:
        return await _entity_at(call, engine, entity_id, query)
    found = engine.entity(entity_id)
    if found is None:
        raise NotFound("Entity not found")
    # ``seq`` is the last member (``appliance.world.entities``): unique for each state of each entity.
    tag = b'"e%b"' % found[found.rindex(b":") + 1 : -1]
    headers = ((b"etag", tag), (b"cache-control", b"no-cache"))
    if call.header(b"if-none-match") == tag.decode("latin-1"):
        return Reply(status=304, headers=headers)
    return Reply(found, headers=(JSON, *headers))


async def _entity_at(call: Call, engine: WorldEngine, entity_id: str, query: dict[str, str]) -> Reply:
    at_ms = instant_ms(query["at"], "at") if "at" in query else None
    found = await engine.entity_at(entity_id, seq=call.number(query, "seq"), at_ms=at_ms)
    if found.entity is None:
        raise NotFound("Entity not found")
    complete = b"true" if found.complete else b"false"
    return Reply(found.entity, headers=(JSON, (b"x-flux-complete", complete)))


class _Deleted(msgspec.Struct, rename={"event_id": "eventId"}):
    entity_id: str
    event_id: str
    seq: int


async def delete(engine: WorldEngine, caller: Caller, entity_id: str) -> Reply:
    """EP-40."""
    receipt = await engine.delete(entity_id, caller)
    return json_reply(_Deleted(entity_id, receipt.event_id, receipt.seq))


class _Filter(msgspec.Struct, kw_only=True):
    namespace: str | None = None
    prefix: str | None = None
    entity_ids: list[str] | None = None
    confirm: str | None = None


_filter = msgspec.json.Decoder(_Filter)


async def delete_many(call: Call, engine: WorldEngine, caller: Caller) -> Reply:
    """EP-45 with its safer reading: one filter, and everything only when that is said."""
    wanted = await call.json(_filter)
    given = [name for name in ("namespace", "prefix", "entity_ids") if getattr(wanted, name) is not None]
    if not given:
        raise WrongShape(
            "Failed to deserialize the JSON body into the target type: one of `namespace`, `prefix` and"
            " `entity_ids` is needed"
        )
    if len(given) > 1:
        raise Invalid(f"only one filter is possible, not {' and '.join(given)}", field=given[1])
    if (wanted.namespace == "" or wanted.prefix == "") and wanted.confirm != "all":
        raise Invalid(f'an empty `{given[0]}` needs `"confirm":"all"`', field=given[0])
    report = await engine.delete_many(
        caller, namespace=wanted.namespace, prefix=wanted.prefix, entity_ids=wanted.entity_ids
    )
    return json_reply(report)
