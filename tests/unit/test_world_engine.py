"""The world engine on real files: what doors and services call."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from appliance.testing.clock import FakeClock
from appliance.wire.errors import Busy, Conflict, Damaged, Invalid, NotFound, Refused, Unavailable
from appliance.world import (
    INTERNAL,
    AdminConfig,
    Caller,
    OverQuota,
    RateLimited,
    Unauthorized,
    Update,
    WorldEngine,
)
from appliance.world.engine import MAX_BODY_BYTES
from tests.world_kit import batch, engine_in, event, read_journal, shown


@pytest.fixture
def world(tmp_path):
    """Run an async function with an engine; again to restart it."""

    def run(use: Callable[[WorldEngine], Awaitable[None]], *, mock: bool = False, **options: object) -> None:
        async def main() -> None:
            async with engine_in(tmp_path, inline=mock, **options) as engine:
                await use(engine)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0) if mock else None)

    return run


def one(*args: object, **properties: object) -> bytes:
    return json.dumps(event(*args, **properties)).encode()


def state_of(engine: WorldEngine, entity_id: str = "plant/pump") -> dict[str, object] | None:
    text = engine.entity(entity_id)
    return None if text is None else json.loads(text)["properties"]


def everything(engine: WorldEngine, **filters: str) -> list[str]:
    listing = engine.listing(**filters)
    return [json.loads(text)["id"] for page in iter(listing.page, []) for text in page]


# -- writing -----------------------------------------------------------------------------------------------


def test_an_answered_event_is_visible_and_survives(world):
    """EP-01, SD-23, ST-40 [ours]."""

    async def publish(engine):
        receipt = await engine.publish(one(p=1), INTERNAL)
        assert (receipt.stream, receipt.seq) == ("plant.line2", 1)
        assert state_of(engine) == {"p": 1}
        assert engine.last_seq == 1

    async def look(engine):
        assert state_of(engine) == {"p": 1}
        assert engine.statistics().recovered_events == 0, "it was projected on the way out"

    world(publish)
    world(look)


def test_an_event_is_merged_replaced_or_nothing(world):
    """AT-NEW-8: ST-03, ST-04, EV-08, EV-09; AT-NEW-10: ST-02."""

    async def use(engine):
        await engine.publish(one(a={"x": 1}, b=2), INTERNAL)
        late = event("plant/pump", a={"y": None}, c=None)
        await engine.publish(json.dumps({**late, "timestamp": 1}).encode(), INTERNAL)
        assert state_of(engine) == {"a": {"y": None}, "b": 2, "c": None}
        before = engine.entity("plant/pump")
        await engine.publish(one(), INTERNAL)
        assert engine.entity("plant/pump") == before
        for odd in (None, 7, ...):
            made = event(odd, p=1)
            if odd is ...:
                del made["payload"]["entity_id"]
            await engine.publish(json.dumps(made).encode(), INTERNAL)
        made = event("plant/other")
        made["payload"]["properties"] = [1]
        await engine.publish(json.dumps(made).encode(), INTERNAL)
        assert everything(engine) == ["plant/pump"]
        assert engine.metrics().entities_total == 1
        assert engine.last_seq == 7

    world(use)


def test_the_arrival_is_the_time_of_an_event_without_one(world):
    """EV-04, ST-06, AT-NEW-3."""
    clock = FakeClock()

    async def use(engine):
        await engine.publish(one(p=1), INTERNAL)
        page = await engine.history("plant/pump")
        assert json.loads(page.events[0])["timestamp"] == clock.wall_ms()
        assert json.loads(engine.entity("plant/pump"))["lastUpdated"] == "2026-01-01T00:00:00+00:00"

    world(use, clock=clock)


def test_a_batch_reports_each_event(world):
    """EP-05: shapes, order, one bad event does not sink the others."""

    async def use(engine):
        body = batch(event(p=1), {**event(), "stream": "Bad Stream"}, {"source": "x"}, event("a/b", q=1))
        report = await engine.publish_batch(body, INTERNAL)
        assert (report.successful, report.failed) == (2, 2)
        first, second, third, fourth = report.results
        assert first.event_id is not None
        assert (first.stream, first.error) == ("plant.line2", None)
        assert (second.event_id, second.stream) == (None, "Bad Stream")
        assert second.error == (
            "validation failed: invalid stream format 'Bad Stream': must be lowercase with optional dots"
        )
        assert (third.event_id, third.stream) == (None, None)
        assert fourth.error is None
        assert engine.last_seq == 2
        assert everything(engine) == ["a/b", "plant/pump"]

    world(use)


def test_a_batch_without_one_good_event_stores_nothing(world):
    async def use(engine):
        report = await engine.publish_batch(batch({"stream": "A"}), INTERNAL)
        assert (report.successful, report.failed) == (0, 1)
        assert engine.last_seq == 0
        with pytest.raises(Invalid):
            await engine.publish_batch(b"[]", INTERNAL)

    world(use)


def test_numbers_have_no_holes_and_batches_stay_together(world, tmp_path):
    """ST-15, ST-17, ST-19."""

    async def use(engine):
        async def publisher(name: str) -> None:
            for number in range(5):
                made = [{**event("a/b", p=part), "key": f"{name}:{number}:{part}"} for part in range(7)]
                await engine.publish_batch(batch(*made), INTERNAL)

        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(publisher, name)

    world(use)
    stored = list(read_journal(tmp_path / "journal").values())
    assert len(stored) == 140
    for start in range(0, 140, 7):
        keys = [found["key"] for found in stored[start : start + 7]]
        assert [key.rpartition(":")[2] for key in keys] == list("0123456")
        assert len({key.rpartition(":")[0] for key in keys}) == 1


def test_a_known_event_id_is_answered_and_not_stored(world):
    """AT-NEW-23, ST-32: at once, within a batch, on its way, and after a restart."""
    made = json.dumps({**event(p=1), "eventId": "mine"}).encode()

    async def use(engine):
        first = await engine.publish(made, INTERNAL)
        assert await engine.publish(made, INTERNAL) == first
        other = {**event(p=2), "eventId": "other"}
        answers = []

        async def publish() -> None:
            answers.append(await engine.publish_batch(batch(other, other), INTERNAL))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(publish)
        assert len({str(answer) for answer in answers}) == 1
        assert engine.last_seq == 2
        assert engine.statistics().duplicates == 6

    async def again(engine):
        receipt = await engine.publish(made, INTERNAL)
        assert (receipt.event_id, receipt.seq) == ("mine", 1)
        assert engine.last_seq == 2

    world(use)
    world(again)


def test_the_window_of_event_ids_is_bounded(world):
    made = json.dumps({**event(p=1), "eventId": "mine"}).encode()

    async def use(engine):
        await engine.publish(made, INTERNAL)
        for _ in range(3):
            await engine.publish(one(p=1), INTERNAL)
        assert (await engine.publish(made, INTERNAL)).seq == 5

    world(use, dedup_events=3)


def test_a_client_that_hangs_up_leaves_a_whole_batch(world):
    async def use(engine):
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.publish_batch(batch(event("a/1", p=1), event("a/2", p=1)), INTERNAL)
        await engine.publish(one(p=1), INTERNAL)
        assert everything(engine) == ["a/1", "a/2", "plant/pump"]

    world(use)


# -- deleting ----------------------------------------------------------------------------------------------


def test_deleting_and_coming_back(world):
    """EP-40, AT-NEW-11, ST-10 to ST-12."""

    async def use(engine):
        receipt = await engine.delete("plant/unknown", INTERNAL)
        assert receipt.stream == "flux.events.deletions"
        await engine.publish(one(p=1), INTERNAL)
        await engine.delete("plant/pump", INTERNAL)
        assert state_of(engine) is None
        page = await engine.history("plant/pump")
        tombstone = json.loads(page.events[0])
        assert (tombstone["source"], tombstone["key"]) == ("api", "plant/pump")
        assert tombstone["payload"]["properties"]["__deleted__"] is True
        await engine.publish(one(q=1), INTERNAL)
        assert state_of(engine) == {"q": 1}
        await engine.publish(one(__deleted__=True, z=1), INTERNAL)
        assert state_of(engine) is None
        await engine.publish(one(__deleted__="true"), INTERNAL)
        assert state_of(engine) == {"__deleted__": "true"}
        with pytest.raises(Invalid):
            await engine.delete("", INTERNAL)

    world(use)


def test_deleting_many(world):
    """EP-45 [ours], DF-17."""

    async def use(engine):
        made = [event(f"{name}/{number}", p=1) for name in ("plant", "planet") for number in range(4)]
        await engine.publish_batch(batch(*made), INTERNAL)
        report = await engine.delete_many(INTERNAL, entity_ids=["plant/0", "plant/0", "nobody", ""])
        assert (report.deleted, report.failed, report.errors) == (1, 0, [])
        assert (await engine.delete_many(INTERNAL, namespace="plant")).deleted == 3
        assert everything(engine) == [f"planet/{number}" for number in range(4)]
        with pytest.raises(Invalid, match="Batch too large: 4 entities requested, max is 3"):
            await engine.delete_many(INTERNAL, prefix="plan")
        assert (await engine.delete_many(INTERNAL, prefix="planet/1")).deleted == 1
        for filters in ({}, {"prefix": "a", "namespace": "b"}):
            with pytest.raises(Invalid):
                await engine.delete_many(INTERNAL, **filters)

    world(use, max_batch_delete=3)


# -- reading -----------------------------------------------------------------------------------------------


def test_listing_by_prefix_and_namespace(world):
    """EP-30, AT-IN-5: both mean AND; in order of id; region and overlay alike."""

    async def use(engine):
        ids = ["a/1", "a/2", "a/20", "ab/1", "b", "é/1", "/x", "a/" + "x" * 600]
        for number, name in enumerate(ids):
            await engine.publish(one(name, p=1), INTERNAL)
            if number == 3:
                await engine.settle()
        for _ in range(2):
            ordered = sorted(ids, key=str.encode)
            assert everything(engine) == ordered
            assert everything(engine, namespace="a") == ["a/1", "a/2", "a/20", "a/" + "x" * 600]
            assert everything(engine, namespace="") == ["/x"]
            assert everything(engine, prefix="a/2") == ["a/2", "a/20"]
            assert everything(engine, prefix="a/" + "x" * 500) == ["a/" + "x" * 600]
            assert everything(engine, prefix="a/2", namespace="a") == ["a/2", "a/20"]
            assert everything(engine, prefix="", namespace="ab") == ["ab/1"]
            assert everything(engine, prefix="b", namespace="a") == []
            assert everything(engine, after="a/20") == ordered[ordered.index("a/20") + 1 :]
            await engine.settle()
        assert await engine.entity_count("a") == 4
        assert await engine.entity_count("") == 1

    world(use)


def test_a_listing_is_complete_while_the_world_goes_on(world):
    async def use(engine):
        await engine.publish_batch(batch(*[event(f"a/{n:03d}", p=1) for n in range(100)]), INTERNAL)
        listing, found = engine.listing(), []
        while page := listing.page(7):
            found += page
            await engine.publish(one("a/000", p=len(found)), INTERNAL)
            if len(found) < 40:
                await engine.settle()
        assert len(shown(found)) == 100

    world(use)


def test_history_gives_the_newest(world):
    """EP-20 [ours], AT-NEW-12, DF-12."""
    clock = FakeClock()

    async def use(engine):
        for start in range(0, 600, 100):
            body = batch(*[event("a/b", n=start + n) for n in range(100)], event("a/c", p=1))
            await engine.publish_batch(body, INTERNAL)
            clock.advance(10)
        begun = clock.wall_ms() - 60_000
        page = await engine.history("a/b", limit=500)
        numbers = [json.loads(text)["payload"]["properties"]["n"] for text in page.events]
        assert numbers == list(range(599, 99, -1))
        rest = await engine.history("a/b", limit=500, before_seq=page.next_before_seq)
        assert len(rest.events) == 100
        assert (rest.next_before_seq, rest.complete) == (None, True)
        page = await engine.history("a/b", since_ms=begun + 20_000, until_ms=begun + 40_000, limit=500)
        numbers = [json.loads(text)["payload"]["properties"]["n"] for text in page.events]
        assert numbers == list(range(399, 199, -1))
        assert (await engine.history("nobody")).events == []
        assert (await engine.history("")).events == []

    world(use, clock=clock)


def test_history_over_many_segments_and_after_a_restart(world):
    async def use(engine):
        for number in range(40):
            await engine.publish(one("a/b", n=number, fill="x" * 500), INTERNAL)
            await engine.publish(one(f"a/{number}", fill="y" * 500), INTERNAL)

    async def look(engine):
        page = await engine.history("a/b", limit=100)
        assert len(page.events) == 40
        assert len((await engine.history("a/7")).events) == 1

    world(use, segment_bytes=4096)
    world(look, segment_bytes=4096)


def test_an_entity_as_it_was(world):
    clock = FakeClock()

    async def use(engine):
        stamps = []
        for changes in ({"p": 1}, {"q": 1}, {}, {"__deleted__": True}, {"p": 2}):
            stamps.append(clock.wall_ms())
            await engine.publish(one("a/b", **changes), INTERNAL)
            clock.advance(1)
        expected = [{"p": 1}, {"p": 1, "q": 1}, {"p": 1, "q": 1}, None, {"p": 2}]
        for seq, (at_ms, properties) in enumerate(zip(stamps, expected, strict=True), 1):
            for found in (
                await engine.entity_at("a/b", seq=seq),
                await engine.entity_at("a/b", at_ms=at_ms),
            ):
                assert found.complete
                assert found.seq == seq
                assert (found.entity and json.loads(found.entity)["properties"]) == properties
        nothing = await engine.entity_at("a/b", at_ms=stamps[0] - 1)
        assert (nothing.entity, nothing.seq) == (None, 0)
        assert (await engine.entity_at("a/b", seq=5)).entity == engine.entity("a/b")
        for wrong in ({}, {"seq": 1, "at_ms": 1}):
            with pytest.raises(Invalid):
                await engine.entity_at("a/b", **wrong)

    world(use, clock=clock)


# -- rights, limits, quotas --------------------------------------------------------------------------------


def test_who_may_write(world):
    """AT-NEW-19: HT-30, EP-01, EP-05, EP-45."""

    async def use(engine):
        mine = await engine.create_namespace("plant")
        await engine.create_namespace("other")
        caller = Caller(token=mine.token)
        await engine.publish(one("plant/a", p=1), caller)
        with pytest.raises(Unauthorized, match="Authorization token not provided") as refused:
            await engine.publish(one("plant/a", p=2), Caller())
        assert refused.value.status == 401
        with pytest.raises(Refused, match="Token does not have permission") as refused:
            await engine.publish(one("other/a", p=2), caller)
        assert refused.value.status == 403
        report = await engine.publish_batch(
            batch(event("plant/b", p=1), event("other/b", p=1), event("x", p=1)), caller
        )
        assert (report.successful, report.failed) == (1, 2)
        assert report.results[1].error.startswith("authorization failed: Forbidden: ")
        assert report.results[1].event_id is not None
        assert report.results[2].error.startswith("authorization failed: Invalid entity ID: ")
        with pytest.raises(Refused):
            await engine.delete("other/a", caller)
        with pytest.raises(Refused):
            await engine.delete_many(caller, entity_ids=["plant/a", "other/a"])
        assert everything(engine) == ["plant/a", "plant/b"]
        await engine.delete("plant/b", caller)
        await engine.publish(one("anything", p=1), INTERNAL)

    world(use, auth_enabled=True)


def test_namespaces_survive_rotate_and_go(world):
    """AT-NS-5 to AT-NS-18, DF-24: only a hash is stored."""
    tokens: list[str] = []

    async def use(engine):
        made = await engine.create_namespace("plant")
        tokens.append(made.token)
        with pytest.raises(Conflict, match="Namespace name already exists"):
            await engine.create_namespace("plant")
        with pytest.raises(Invalid, match="too short"):
            await engine.create_namespace("ab")
        with pytest.raises(NotFound):
            await engine.rotate_namespace("none")
        await engine.create_namespace("gone")
        await engine.settle()
        await engine.delete_namespace("gone")
        with pytest.raises(NotFound):
            await engine.delete_namespace("gone")

    async def rotate(engine):
        assert [one.name for one in engine.namespaces()] == ["plant"]
        assert engine.known_token(tokens[0]).name == "plant"
        new = await engine.rotate_namespace("plant")
        assert new.namespace_id == engine.namespace("plant").namespace_id
        assert engine.known_token(tokens[0]) is None
        assert engine.known_token(new.token).name == "plant"
        tokens.append(new.token)
        await engine.set_namespace_quota("plant", 3)
        with pytest.raises(Invalid):
            await engine.set_namespace_quota("plant", -1)

    async def look(engine):
        assert engine.known_token(tokens[1]).max_entities == 3

    world(use)
    world(rotate)
    world(look)


def test_rates_per_namespace(world):
    """HT-40, HT-41, AT-NEW-20."""
    clock = FakeClock()

    async def use(engine):
        made = await engine.create_namespace("plant")
        caller = Caller(token=made.token)
        await engine.set_config(AdminConfig(rate_limit_per_namespace_per_minute=2))
        report = await engine.publish_batch(batch(*[event("plant/a", p=1)] * 3), caller)
        assert [result.error for result in report.results] == [None, None, "rate limit exceeded"]
        with pytest.raises(RateLimited) as limited:
            await engine.publish(one("plant/a", p=1), caller)
        assert (limited.value.status, limited.value.retry_after_s) == (429, 60.0)
        clock.advance(31)
        await engine.publish(one("plant/a", p=1), caller)
        limits = AdminConfig(rate_limit_enabled=False, rate_limit_per_namespace_per_minute=1)
        await engine.set_config(limits)
        report = await engine.publish_batch(batch(*[event("plant/a", p=1)] * 9), caller)
        assert report.failed == 0

    world(use, auth_enabled=True, clock=clock)


def test_rates_per_source_also_without_authentication(world):
    """DF-23."""

    async def use(engine):
        report = await engine.publish_batch(batch(*[event("a", p=1)] * 3), Caller())
        assert [result.error for result in report.results] == [None, None, "rate limit exceeded"]
        report = await engine.publish_batch(batch(*[event("a", p=1)] * 3), INTERNAL)
        assert report.failed == 0

    world(use, per_source_per_minute=2, clock=FakeClock())


def test_the_world_has_room_for_so_many_entities(world):
    """DF-25."""

    async def use(engine):
        report = await engine.publish_batch(batch(*[event(str(n), p=1) for n in range(4)]), INTERNAL)
        assert [bool(result.error) for result in report.results] == [False, False, False, True]
        with pytest.raises(OverQuota) as full:
            await engine.publish(one("new", p=1), INTERNAL)
        assert full.value.status == 507
        await engine.publish(one("0", p=2), INTERNAL)
        await engine.delete("0", INTERNAL)
        await engine.publish(one("new", p=1), INTERNAL)
        assert engine.metrics().entities_total == 3

    world(use, max_entities=3)


def test_a_namespace_has_room_for_so_many_entities(world):
    async def use(engine):
        made = await engine.create_namespace("plant", max_entities=2)
        await engine.publish(one("plant/0", p=1), INTERNAL)
        caller = Caller(token=made.token)
        await engine.publish(one("plant/1", p=1), caller)
        with pytest.raises(OverQuota, match="holds 2 entities already"):
            await engine.publish(one("plant/2", p=1), caller)
        await engine.publish(one("plant/1", p=2), caller)
        await engine.delete("plant/0", caller)
        await engine.publish(one("plant/2", p=1), caller)

    world(use, auth_enabled=True)


def test_an_entity_does_not_grow_without_end(world):
    async def use(engine):
        for number in range(3):
            await engine.publish(one("a", **{f"p{number}": "x" * 3000}), INTERNAL)
        await engine.settle()
        with pytest.raises(OverQuota, match="entity 'a' has more than 8192 bytes"):
            await engine.publish(one("a", q=1), INTERNAL)
        await engine.delete("a", INTERNAL)
        await engine.settle()
        await engine.publish(one("a", q=1), INTERNAL)

    world(use, entity_bytes=8192)


def test_the_configuration_survives(world):
    """EP-80, EP-81, AT-NEW-21."""

    async def use(engine):
        assert engine.config == AdminConfig()
        await engine.set_config(AdminConfig(body_size_limit_single_bytes=5))
        for wrong in (
            AdminConfig(body_size_limit_batch_bytes=0),
            AdminConfig(body_size_limit_single_bytes=MAX_BODY_BYTES + 1),
            AdminConfig(rate_limit_per_namespace_per_minute=-1),
        ):
            with pytest.raises(Invalid):
                await engine.set_config(wrong)
        assert engine.config.body_size_limit_single_bytes == 5

    async def look(engine):
        assert engine.config == AdminConfig(body_size_limit_single_bytes=5)

    world(use)
    world(look)


def test_publishers_wait_for_room_and_then_get_busy(world):
    """design.md §5: an overlay of 64 MiB, then 503 and Retry-After."""

    async def use(engine):
        overlay = engine._keeping.state.overlay
        overlay.size_bytes += 2 << 20
        with pytest.raises(Busy) as busy:
            await engine.publish(one(p=1), INTERNAL)
        assert (busy.value.status, busy.value.retry_after_s) == (503, 1.0)

        async def make_room() -> None:
            await trio.sleep(1)
            overlay.size_bytes -= 2 << 20
            engine._committer.made_room()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            await engine.publish(one(p=1), INTERNAL)
        assert engine.statistics().busy == 1

    world(use, mock=True, overlay_bytes=1 << 20)


# -- feed, images, copies ----------------------------------------------------------------------------------


def test_listeners_hear_what_was_committed_in_order(world):
    """WS-20, WS-21, ST-12: a deletion only if the entity existed."""
    heard: list[Update] = []

    def stumble(_: object) -> None:
        raise RuntimeError("listener")

    async def use(engine):
        engine.subscribe(stumble)
        end = engine.subscribe(heard.extend)
        await engine.publish_batch(
            batch(event("a", b=1, a=2), event("a"), event("x", __deleted__=True)), INTERNAL
        )
        assert [update.seq for update in heard] == [1], "heard before the publisher was answered"
        await engine.delete("a", INTERNAL)
        end()
        end()
        await engine.publish(one("a", p=1), INTERNAL)
        assert engine.statistics().listener_failures == 3

    world(use)
    assert [(update.seq, update.properties) for update in heard] == [(1, {"b": 1, "a": 2}), (4, None)]
    frames = [json.loads(frame.data) for update in heard for frame in update.frames]
    assert [frame["type"] for frame in frames] == ["state_update", "state_update", "entity_deleted"]
    assert [frame.get("property") for frame in frames] == ["a", "b", None]


def test_an_image_lets_old_events_go_and_says_so(world, tmp_path):
    """DF-04, ST-57: retention never drops the only source of a live entity."""

    async def use(engine):
        await engine.create_namespace("plant")
        await engine.publish(one("old", p=1), INTERNAL)
        await engine.publish(one("gone", p=1), INTERNAL)
        await engine.delete("gone", INTERNAL)
        for _ in range(3):
            for number in range(20):
                await engine.publish(one("a", n=number, fill="x" * 900), INTERNAL)
            upto = await engine.compact()
        assert upto == engine.last_seq
        assert engine.statistics().images == 3
        old = await engine.history("old")
        assert (old.events, old.complete) == ([], False)
        assert not (await engine.entity_at("a", seq=upto)).complete

    async def look(engine):
        assert everything(engine) == ["a", "old"]
        assert state_of(engine, "old") == {"p": 1}
        assert [one.name for one in engine.namespaces()] == ["plant"]
        assert engine.metrics().entities_total == 2
        assert engine.statistics().rebuilt

    world(use, segment_bytes=4096)
    for path in (tmp_path / "regions").iterdir():
        path.unlink()
    world(look, segment_bytes=4096)


def test_rows_of_the_forgotten_go_with_their_history(world):
    async def use(engine):
        await engine.publish(one("gone", p=1), INTERNAL)
        await engine.delete("gone", INTERNAL)
        await engine.compact()
        with engine._keeping.view.rows() as rows:
            assert rows.raw(b"gone") is not None, "its history can still be read"
        await engine.publish(one("a", p=1), INTERNAL)
        await engine.compact()
        with engine._keeping.view.rows() as rows:
            assert rows.raw(b"gone") is None
            assert rows.raw(b"a") is not None

    world(use)


def test_retention_writes_images_by_itself(world):
    async def use(engine):
        for number in range(300):
            await engine.publish(one("a", n=number, fill="x" * 5000), INTERNAL)
        await trio.sleep(11)
        assert engine.statistics().images == 1
        await trio.sleep(60)
        assert engine.statistics().images == 1

    world(use, mock=True, retention_bytes=1 << 20)


def test_a_copy_replaces_the_world(world, tmp_path):
    """Backup and restore: all of it or nothing; history starts anew."""
    copy = io.BytesIO()

    async def use(engine):
        await engine.create_namespace("plant")
        await engine.set_config(AdminConfig(body_size_limit_single_bytes=7))
        await engine.publish_batch(batch(*[event(f"a/{n}", p=n) for n in range(50)]), INTERNAL)
        await engine.delete("a/7", INTERNAL)
        assert await engine.backup(copy) == 49
        await engine.delete_namespace("plant")
        await engine.set_config(AdminConfig())
        await engine.publish_batch(batch(event("new", p=1), event("a/1", p=100)), INTERNAL)

    async def restore(engine):
        before = everything(engine)
        data = copy.getvalue()
        for damaged in (data[:-1], data[:200], data[:50] + bytes([data[50] ^ 1]) + data[51:]):
            with pytest.raises(Damaged):
                await engine.restore(io.BytesIO(damaged))
        for other in (b"", b"something else", data[:9] + b"\xff" + data[10:]):
            with pytest.raises(Invalid):
                await engine.restore(io.BytesIO(other))
        assert everything(engine) == before
        assert state_of(engine, "a/1") == {"p": 100}
        assert await engine.restore(io.BytesIO(data)) == 49
        check(engine)
        await engine.publish(one("a/2", q=1), INTERNAL)
        assert len((await engine.history("a/2")).events) == 1
        assert state_of(engine, "a/2") == {"p": 2, "q": 1}

    def check(engine: WorldEngine) -> None:
        assert len(everything(engine)) == 49
        assert state_of(engine, "a/1") == {"p": 1}
        assert [one.name for one in engine.namespaces()] == ["plant"]
        assert engine.config.body_size_limit_single_bytes == 7
        assert engine.metrics().entities_total == 49

    async def look(engine):
        check(engine)
        assert state_of(engine, "a/2") == {"p": 2, "q": 1}

    world(use)
    world(restore)
    world(look)
    for path in (tmp_path / "regions").iterdir():
        path.unlink()
    world(look)


def test_one_copy_at_a_time(world):
    async def use(engine):
        await engine._keeping._exclusive.acquire()
        for call in (engine.compact(), engine.backup(io.BytesIO()), engine.restore(io.BytesIO())):
            with pytest.raises(Conflict):
                await call

    world(use)


def test_an_engine_that_is_not_ready_says_so(tmp_path):
    engine = engine_in(tmp_path)
    assert not engine.ready
    assert engine.statistics().last_seq == 0
    assert isinstance(engine.failure, Unavailable)
    with pytest.raises(Unavailable):
        engine.entity("a")
    with pytest.raises(Unavailable):
        engine.listing()

    async def publish() -> None:
        with pytest.raises(Unavailable):
            await engine.publish(one(p=1), INTERNAL)

    trio.run(publish)


def test_two_engines_do_not_share_a_place(world, tmp_path):
    async def use(engine):
        with pytest.raises(Conflict):
            async with engine_in(tmp_path):
                raise AssertionError

    world(use)


def test_figures(world):
    """MX-01 to MX-04, MX-11."""

    async def use(engine):
        assert math.isclose(engine.metrics().rate_per_second, 0.0)
        await engine.publish_batch(batch(*[event(str(n), p=1) for n in range(10)]), INTERNAL)
        figures = engine.metrics()
        assert (figures.entities_total, figures.events_total, figures.publishers_active) == (10, 10, 1)
        assert figures.rate_per_second == 2.0
        await engine.settle()
        counted = engine.statistics()
        assert (counted.applied_seq, counted.overlay_bytes, counted.events) == (10, 0, 10)

    world(use)
