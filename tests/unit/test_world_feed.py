"""Who is sent what: subscriptions, joined ticks, and listeners that fall behind."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.world.feed import Feed, FeedLimits, Subscriber
from appliance.world.updates import Update

AT_MS = 1_770_000_000_123


def change(seq: int, entity_id: str, **properties: object) -> Update:
    return Update(seq, entity_id, AT_MS, properties)


def deletion(seq: int, entity_id: str) -> Update:
    return Update(seq, entity_id, AT_MS, None)


def parsed(data: bytes) -> list[dict[str, object]]:
    """The JSON texts of unmasked text frames."""
    found = []
    while data:
        assert data[0] == 0x81
        size, head = data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[2:10], "big"), 10
        found.append(json.loads(data[head : head + size]))
        data = data[head + size :]
    return found


def drained(feed: Feed, subscriber: Subscriber) -> list[dict[str, object]]:
    found = []
    while data := feed.take(subscriber):
        found += parsed(data)
    return found


def short(frames: list[dict[str, object]]) -> list[object]:
    """Frames as ``(entity, property, value)``, a deletion as ``-entity``, others as their type."""
    result: list[object] = []
    for frame in frames:
        if frame["type"] == "state_update":
            result.append((frame["entity_id"], frame["property"], frame["value"]))
        elif frame["type"] == "entity_deleted":
            result.append(f"-{frame['entity_id']}")
        else:
            result.append(frame["type"])
    return result


def test_a_frame_per_property_in_byte_order_with_the_references_keys() -> None:
    feed = Feed()
    one = feed.attach()
    feed.publish([change(7, "plant/a", z=1, B=None, é={"x": [1]}), deletion(8, "plant/a")])
    assert feed.flush() == [one]
    frames = drained(feed, one)
    assert frames[0] == {
        "type": "state_update",
        "entity_id": "plant/a",
        "property": "B",
        "value": None,
        "timestamp": "2026-02-02T02:40:00.123Z",
        "seq": 7,
    }
    assert list(frames[0])[:5] == ["type", "entity_id", "property", "value", "timestamp"]
    assert [frame.get("property") for frame in frames] == ["B", "z", "é", None]
    assert frames[3] == {
        "type": "entity_deleted",
        "entity_id": "plant/a",
        "timestamp": "2026-02-02T02:40:00.123Z",
        "seq": 8,
    }


def test_who_subscribed_to_what() -> None:
    feed = Feed()
    everything, star, one, none = (feed.attach() for _ in range(4))
    assert feed.subscribe(star, "*")
    assert feed.subscribe(one, "a")
    feed.subscribe(none, "a")
    feed.unsubscribe(none, "a")
    feed.publish([change(1, "a", x=1), change(2, "b", x=2)])
    assert set(feed.flush()) == {everything, star, one}
    both = [("a", "x", 1), ("b", "x", 2)]
    assert short(drained(feed, everything)) == both
    assert short(drained(feed, star)) == both
    assert short(drained(feed, one)) == both[:1]
    assert drained(feed, none) == []


def test_star_is_an_ordinary_member_of_the_set() -> None:
    feed = Feed()
    one = feed.attach()
    for entity_id in ("a", "*", "a"):
        feed.subscribe(one, entity_id)
    feed.publish([change(1, "a", x=1), change(2, "b", x=1)])
    feed.flush()
    assert short(drained(feed, one)) == [("a", "x", 1), ("b", "x", 1)]
    feed.unsubscribe(one, "*")
    feed.publish([change(3, "a", x=2), change(4, "b", x=2)])
    feed.flush()
    assert short(drained(feed, one)) == [("a", "x", 2)]
    feed.unsubscribe(one, "never-subscribed")
    feed.subscribe(one, "*")
    feed.publish([change(5, "b", x=3)])
    feed.flush()
    assert short(drained(feed, one)) == [("b", "x", 3)]


def test_deletions_go_to_everybody_and_keep_their_place() -> None:
    feed = Feed()
    one, empty = feed.attach(), feed.attach()
    feed.subscribe(one, "a")
    feed.subscribe(empty, "q")
    feed.unsubscribe(empty, "q")
    feed.publish([change(1, "a", x=1), deletion(2, "a"), deletion(3, "z"), change(4, "a", x=2)])
    assert set(feed.flush()) == {one, empty}
    assert short(drained(feed, one)) == [("a", "x", 1), "-a", "-z", ("a", "x", 2)]
    assert short(drained(feed, empty)) == ["-a", "-z"]


def test_what_all_are_sent_is_made_once() -> None:
    feed = Feed()
    listeners = [feed.attach() for _ in range(5)]
    feed.publish([change(number, "a", x=number) for number in range(1, 4)])
    feed.flush()
    blobs = {id(feed.take(one)) for one in listeners}
    assert len(blobs) == 1
    assert feed.statistics().frames == 3


def test_nothing_is_kept_for_nobody() -> None:
    feed = Feed()
    feed.publish([change(1, "a", x=1)])
    assert not feed.waiting
    one = feed.attach()
    assert feed.flush() == []
    feed.publish([change(2, "a", x=1)])
    assert feed.waiting
    feed.detach(one)
    feed.detach(one)
    assert feed.flush() == []
    assert not feed.has_listeners


def test_a_full_queue_is_followed_by_last_values_and_says_so() -> None:
    feed = Feed(FeedLimits(queue_bytes=200))
    slow, fast = feed.attach(), feed.attach()
    seen: list[object] = []
    for seq in range(1, 101):
        feed.publish([change(seq, f"e{seq % 3}", x=seq)])
        feed.flush()
        seen += short(drained(feed, fast))
    assert len(seen) == 100
    assert feed.statistics().lagging == 1
    frames = drained(feed, slow)
    kinds = short(frames)
    assert kinds[:3] == [("e1", "x", 1), ("e2", "x", 2), "lagged"]
    assert frames[2]["events"] == 98
    assert sorted(kinds[3:], key=str) == [("e0", "x", 99), ("e1", "x", 100), ("e2", "x", 98)]
    assert feed.statistics().lagging == 0
    assert feed.statistics().recent_entities == 0
    feed.publish([change(101, "e0", x="live")])
    feed.flush()
    assert short(drained(feed, slow)) == [("e0", "x", "live")]


def test_a_selective_listener_lags_within_its_subscription() -> None:
    feed = Feed(FeedLimits(queue_bytes=10))
    one = feed.attach()
    feed.subscribe(one, "a")
    for seq in range(1, 10, 3):
        feed.publish([change(seq, "a", x=seq), change(seq + 1, "b", x=seq), deletion(seq + 2, "c")])
        feed.flush()
    assert short(drained(feed, one)) == [("a", "x", 1), "-c", "lagged", ("a", "x", 7), "-c"]


def test_a_huge_tick_is_coalesced_for_everybody() -> None:
    feed = Feed(FeedLimits(tick_changes=10))
    one, two = feed.attach(), feed.attach()
    feed.publish([change(seq, "a", x=seq) for seq in range(1, 51)])
    assert set(feed.flush()) == {one, two}
    for listener in (one, two):
        assert short(drained(feed, listener)) == ["lagged", ("a", "x", 50)]
    statistics = feed.statistics()
    assert (statistics.coalesced_ticks, statistics.frames) == (1, 0)


def test_a_listener_that_misses_more_than_the_table_holds_is_given_up() -> None:
    feed = Feed(FeedLimits(queue_bytes=1, recent_bytes=20_000))
    slow = feed.attach()
    for seq in range(1, 200):
        feed.publish([change(seq, f"entity-{seq}", x="v" * 50)])
        feed.flush()
    assert slow.given_up
    assert feed.has_some(slow)
    assert len(parsed(feed.take(slow))) == 1
    assert feed.take(slow) == b""
    assert feed.statistics().given_up == 1
    assert feed.statistics().recent_bytes == 0


def test_those_who_lag_less_are_kept_when_the_table_is_full() -> None:
    feed = Feed(FeedLimits(queue_bytes=1, recent_bytes=20_000))
    slow, slower = feed.attach(), feed.attach()
    last = {}
    for seq in range(1, 40):
        feed.publish([change(seq, f"entity-{seq}", x="v" * 50)])
        feed.flush()
        if seq < 30:
            last |= {key: value for key, *value in (f for f in short(drained(feed, slow)) if len(f) == 3)}
    assert slower.given_up
    assert not slow.given_up
    rest = [frame for frame in short(drained(feed, slow)) if len(frame) == 3]
    assert {*last, *(entity for entity, _, _ in rest)} == {f"entity-{seq}" for seq in range(1, 40)}


def test_a_snapshot_comes_before_what_changed_meanwhile() -> None:
    feed = Feed()
    one = feed.attach()
    feed.publish([change(1, "a", x=1)])
    feed.flush()
    drained(feed, one)
    assert feed.hold(one) == 1
    feed.publish([change(2, "a", x=2)])
    feed.flush()
    assert feed.take(one) == b""
    feed.release(one)
    assert feed.has_some(one)
    assert short(drained(feed, one)) == [("a", "x", 2)]
    assert feed.statistics().lags == 0


def test_metrics_reach_all_but_those_who_lag() -> None:
    feed = Feed(FeedLimits(queue_bytes=1))
    _slow, fast = feed.attach(), feed.attach()
    for seq in (1, 2):
        feed.publish([change(seq, "a", x=seq)])
        feed.flush()
        drained(feed, fast)
    assert list(feed.broadcast(b'{"type":"metrics_update"}')) == [fast]
    assert short(drained(feed, fast)) == ["metrics_update"]


def test_subscriptions_are_bounded() -> None:
    feed = Feed(FeedLimits(subscriptions=2))
    one = feed.attach()
    assert [feed.subscribe(one, entity_id) for entity_id in ("a", "b", "c", "a")] == [True, True, False, True]


_EVENTS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["set", "set", "set", "delete", "read", "flush"]),
        st.integers(0, 2),
    ),
    max_size=80,
)


@pytest.mark.parametrize("wanted", [None, {"e0", "e3"}])
@given(events=_EVENTS)
def test_a_slow_listener_ends_up_with_the_state_of_the_world(wanted: set[str] | None, events: list) -> None:
    feed = Feed(FeedLimits(queue_bytes=100, piece_bytes=80, tick_changes=6))
    listener = feed.attach()
    for entity_id in wanted or ():
        feed.subscribe(listener, entity_id)
    world: dict[str, dict[str, int]] = {}
    mirror: dict[str, dict[str, int]] = {}

    def mirror_frames(frames: list[dict]) -> None:
        for frame in frames:
            if frame["type"] == "state_update":
                mirror.setdefault(frame["entity_id"], {})[frame["property"]] = frame["value"]
            elif frame["type"] == "entity_deleted":
                mirror.pop(frame["entity_id"], None)

    for seq, (number, act, name) in enumerate(events, 1):
        entity_id = f"e{number}"
        if act == "set":
            world.setdefault(entity_id, {})[f"p{name}"] = seq
            feed.publish([change(seq, entity_id, **{f"p{name}": seq})])
        elif act == "delete" and world.pop(entity_id, None) is not None:
            feed.publish([deletion(seq, entity_id)])
        elif act == "read":
            mirror_frames(parsed(feed.take(listener)))
        elif act == "flush":
            feed.flush()
    feed.flush()
    mirror_frames(drained(feed, listener))
    assert mirror == {key: value for key, value in world.items() if wanted is None or key in wanted}
    assert feed.statistics().lagging == 0
