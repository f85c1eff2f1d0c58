"""The order and the bounds of commits."""

from __future__ import annotations

import json

import msgspec
import pytest
import trio

from appliance.wire.errors import Busy, Invalid
from appliance.world import INTERNAL
from appliance.world.events import decode_event
from appliance.world.keeping import JOURNAL
from tests.world_kit import batch, engine_in, event

SMALL = msgspec.structs.replace(JOURNAL, max_append_bytes=1 << 16)


def run(home, use, **options):
    async def main():
        async with engine_in(home, **options) as engine:
            await use(engine, engine._keeping.committer)

    trio.run(main)


def test_what_commits_appears_in_order(tmp_path):
    async def use(engine, committer):
        seen = []
        engine.subscribe(lambda updates: seen.extend(update.seq for update in updates))
        async with trio.open_nursery() as nursery:
            for number in range(30):
                body = batch(*[event(str(part), n=number) for part in range(3)])
                nursery.start_soon(engine.publish_batch, body, INTERNAL)
        assert seen == list(range(1, 91))
        assert committer.flying == 0

    run(tmp_path, use)


def test_nothing_is_taken_while_closed(tmp_path):
    async def use(engine, committer):
        committer.closed = Busy("being restored")
        with pytest.raises(Busy, match="being restored"):
            await engine.publish(json.dumps(event(p=1)).encode(), INTERNAL)
        committer.closed = None
        await engine.publish(json.dumps(event(p=1)).encode(), INTERNAL)

    run(tmp_path, use)


def test_more_than_an_append_may_have(tmp_path, monkeypatch):
    async def use(engine, committer):
        await engine.publish(json.dumps(event("a", p=1)).encode(), INTERNAL)
        limit = engine._keeping.journal.spec.max_append_bytes
        large = event("a", p="x" * limit)
        with pytest.raises(Invalid, match="payload too large"):
            await committer.commit([decode_event(json.dumps(large).encode())], INTERNAL)
        await engine.publish(json.dumps(event("a", p=2)).encode(), INTERNAL)
        assert len((await engine.history("a")).events) == 2, "the refused one left no mark in the chain"

    monkeypatch.setattr("appliance.world.keeping.JOURNAL", SMALL)
    run(tmp_path, use)


def test_figures_count_what_happened(tmp_path):
    async def use(engine, committer):
        await engine.publish_batch(batch(event(p=1), {"stream": "A"}), INTERNAL)
        made = {**event(p=1), "eventId": "x"}
        await engine.publish_batch(batch(made, made), INTERNAL)
        assert (committer.batches, committer.refused, committer.duplicates) == (2, 1, 1)
        assert await committer.count("plant") == 1

    run(tmp_path, use)
