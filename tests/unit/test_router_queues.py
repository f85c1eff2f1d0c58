"""The queue rule (``design.md §5`` *Queue limits*) in simulated time."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.router.outbox import Limits
from tests.router_kit import Node, Rig, frame_bytes, message, numbered_uuid, pack

SMALL = Limits(frames=16, pause_s=0.25, stall_s=0.05)


def crowd(rig: Rig, names: str) -> list[Node]:
    return [rig.connect(f"AI.{name}") for name in names]


def burst(sender: Node, dst: str, count: int, first: int = 0) -> None:
    """``count`` numbered frames in one read, in a turn of their own."""
    sender.rig.begin()
    frames = [
        frame_bytes(message(sender.uuid, dst, payload=number)) for number in range(first, first + count)
    ]
    sender.feed(b"".join(map(pack, frames)))
    sender.rig.end()


def payloads(node: Node, limit: int | None = None) -> list[Any]:
    return [got["payload"] for got in node.read(limit)]


def test_below_half_nobody_waits() -> None:
    rig = Rig(queues=SMALL)
    a, _b = crowd(rig, "ab")
    burst(a, "AI.b@north", 8)
    assert not a.connection.blocked
    assert rig.counts == {}


def test_above_half_the_sender_waits_and_keeps_what_it_had_sent() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 12)
    assert a.connection.blocked
    assert b.connection.outbox.queued_frames == 9
    assert rig.counts == {"sender_paused": 1}
    assert payloads(b) == list(range(12))


def test_the_sender_goes_on_when_a_quarter_is_left() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 9)
    size = b.connection.outbox.queued_bytes // 9
    assert payloads(b, size * 4) == [0, 1, 2, 3]
    assert a.connection.blocked
    assert payloads(b, size) == [4]
    assert not a.connection.blocked
    assert not rig.engine.paused
    assert rig.engine.resumed == []


def test_a_large_frame_counts_by_its_bytes() -> None:
    rig = Rig(queues=Limits(frames=1000, size_bytes=200_000))
    a, b = crowd(rig, "ab")
    for expected in (False, False, True):
        a.send("AI.b@north", payload="x" * 60_000)
        assert a.connection.blocked is expected
    assert len(b.read()) == 3


def test_a_sender_waits_a_quarter_of_a_second_at_most() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 9)
    assert rig.engine.next_deadline() == pytest.approx(rig.now + 0.051)
    for _ in range(6):
        rig.wait(0.04)
        b.read(1)
        assert a.connection.blocked
    rig.wait(0.011)
    assert not a.connection.blocked


def test_who_waited_is_asked_again_frame_by_frame_while_the_recipient_crawls() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 14)
    for _ in range(40):
        rig.wait(0.04)
        b.read(1)
    assert not a.read()
    assert b.connection.outbox.queued_frames == 14
    assert payloads(b) == list(range(14))


def test_a_stalled_recipient_is_refused_at_once() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 8)
    rig.wait(0.051)
    a.send("AI.b@north", trace="tr")
    answer = a.read_one()
    assert (answer["meta"]["msg"], answer["routing"]["trace_id"]) == ("UNREACHABLE", "tr")
    assert answer["payload"] == {"original_dst": "AI.b@north", "reason": "NODE_CONGESTED"}
    assert not a.connection.blocked
    assert rig.counts == {"unreachable.NODE_CONGESTED": 1}
    assert b.connection.outbox.statistics(rig.now).refused == 1


def test_a_sender_that_waits_learns_of_the_stall_when_it_happens() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 12)
    rig.wait(0.05)
    assert a.connection.blocked
    rig.wait(0.001)
    assert not a.connection.blocked
    assert [got["payload"]["reason"] for got in a.read()] == ["NODE_CONGESTED"] * 3
    assert payloads(b) == list(range(9))


def test_a_recipient_that_was_idle_is_not_taken_for_stalled() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 1)
    payloads(b)
    rig.wait(3600)
    burst(a, "AI.b@north", 12)
    assert rig.counts == {"sender_paused": 1}
    assert payloads(b) == list(range(12))


@pytest.mark.parametrize("kind", ["fast", "general", "broadcast"])
def test_no_way_of_queueing_takes_an_idle_recipient_for_stalled(kind: str) -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 1)
    b.read()
    rig.wait(3600)
    rig.begin()
    for number in range(9):
        body = message(
            a.uuid,
            "broadcast" if kind == "broadcast" else "AI.b@north",
            type="user" if kind == "fast" else "system",
            trace=numbered_uuid(500 + number),
        )
        a.feed(pack(frame_bytes(body)))
    rig.end()
    assert a.connection.blocked
    assert len(b.read()) == 9
    assert (b.connection.outbox.queued_frames, b.connection.outbox.queued_bytes) == (0, 0)


def test_a_full_queue_refuses_even_one_that_drains() -> None:
    rig = Rig(queues=Limits(frames=4))
    senders = crowd(rig, "cdefg")
    b = rig.connect("AI.b")
    for sender in senders:
        sender.send("AI.b@north")
    assert b.connection.outbox.queued_frames == 4
    assert [len(sender.read()) for sender in senders] == [0, 0, 0, 0, 1]
    assert rig.counts["unreachable.NODE_CONGESTED"] == 1


def test_errors_about_errors_are_not_told_when_it_is_crowded_either() -> None:
    rig = Rig(queues=Limits(frames=4))
    a, _b = crowd(rig, "ab")
    burst(a, "AI.b@north", 2)
    rig.wait(1)
    a.send("AI.b@north", type="system", msg="UNREACHABLE")
    assert not a.read()
    assert rig.counts == {"unreachable.NODE_CONGESTED": 1}


def test_nobody_waits_for_himself() -> None:
    rig = Rig(queues=SMALL)
    (a,) = crowd(rig, "a")
    burst(a, "AI.a@north", 30)
    assert not a.connection.blocked
    assert rig.counts == {"unreachable.NODE_CONGESTED": 14}
    assert sum(got["meta"].get("msg") == "UNREACHABLE" for got in a.read()) == 14


def test_two_that_fill_each_other_do_not_lock() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 20)
    burst(b, "AI.a@north", 20)
    assert a.connection.blocked
    assert b.connection.blocked
    got: dict[str, list[Any]] = {"a": [], "b": []}
    for _ in range(10):
        rig.wait(0.02)
        got["a"] += payloads(a)
        got["b"] += payloads(b)
    assert got == {"a": list(range(20)), "b": list(range(20))}


def test_a_recipient_that_leaves_sets_its_senders_free() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 12)
    b.close()
    assert not a.connection.blocked
    assert [got["payload"]["reason"] for got in a.read()] == ["NODE_NOT_FOUND"] * 3
    assert rig.counts["lost_unsent"] == 9
    assert not rig.engine.paused


def test_a_sender_that_leaves_while_it_waits_is_forgotten() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 12)
    a.close()
    assert rig.counts["lost_unread"] == 3
    assert not b.connection.outbox.waiting
    assert payloads(b) == list(range(9))
    rig.wait(1)
    assert rig.engine.next_deadline() == float("inf")


def test_a_paused_sender_is_not_read_and_order_holds_over_several_pauses() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    got: list[Any] = []
    sent = 0
    for _ in range(100):
        if not a.connection.blocked:
            burst(a, "AI.b@north", 7, sent)
            sent += 7
        got += payloads(b, 300)
        rig.wait(0.01)
    got += payloads(b)
    assert got == list(range(sent))
    assert rig.counts["sender_paused"] > 5
    assert set(rig.counts) == {"sender_paused"}


def test_a_burst_of_20_000_loses_nothing_to_a_slow_recipient() -> None:
    rig = Rig()
    a, b = crowd(rig, "ab")
    stream = b"".join(pack(frame_bytes(message(a.uuid, "AI.b@north", payload=n))) for n in range(20_000))
    got: list[Any] = []
    position = 0
    while position < len(stream) or not b.connection.outbox.empty or a.connection.rest:
        if position < len(stream) and not a.connection.blocked:
            rig.begin()
            a.feed(stream[position : position + 65_536])
            position += 65_536
            rig.end()
        got += payloads(b, 20_000)
        rig.wait(0.002)
    assert got == list(range(20_000))
    assert not a.read()
    assert set(rig.counts) == {"sender_paused"}
    assert b.connection.outbox.high_frames <= 4096


def test_one_stalled_recipient_does_not_delay_the_others() -> None:
    rig = Rig()
    a, stuck, *fast = crowd(rig, "abcdefghijk")
    got = dict.fromkeys(fast, 0)
    refused = 0
    for turn in range(300):
        rig.begin()
        frames = [frame_bytes(message(a.uuid, node.uuid, payload=turn)) for node in (stuck, *fast)] * 2
        if not a.connection.blocked:
            a.feed(b"".join(map(pack, frames)))
        rig.end()
        for node in fast:
            got[node] += len(node.read())
        refused += len(a.read())
        rig.wait(0.005)
    assert set(got.values()) == {600}
    assert refused == 0
    burst(a, "AI.b@north", 4096)
    burst(a, "AI.c@north", 10)
    assert len(fast[0].read()) == 10
    assert not a.connection.blocked
    assert rig.counts["unreachable.NODE_CONGESTED"] == len(a.read()) + a.connection.outbox.control_dropped


def test_only_the_sender_to_a_crowded_recipient_waits() -> None:
    rig = Rig(queues=SMALL)
    a, _b, c, d = crowd(rig, "abcd")
    burst(a, "AI.b@north", 12)
    burst(c, "AI.d@north", 8)
    assert (a.connection.blocked, c.connection.blocked) == (True, False)
    assert payloads(d) == list(range(8))


def test_answers_of_the_router_have_a_lane_of_their_own() -> None:
    rig = Rig(queues=Limits(frames=4, control_frames=3))
    a, b = crowd(rig, "ab")
    burst(b, "AI.a@north", 2)
    for number in range(5):
        a.send("AI.none@north", trace=str(number))
    assert rig.counts["control_dropped"] == 2
    seen = a.read()
    assert [got["routing"]["trace_id"] for got in seen] == ["0", "1", "2", "t", "t"]


def test_a_broadcaster_waits_for_one_of_the_crowded() -> None:
    rig = Rig(queues=Limits(frames=8))
    a, b, c = crowd(rig, "abc")
    for number in range(5):
        a.send("broadcast", trace=numbered_uuid(100 + number))
    assert a.connection.blocked
    b.read()
    c.read()
    assert not a.connection.blocked


@pytest.mark.parametrize("ready_first", [True, False])
def test_a_deadline_is_never_in_the_past_for_long(ready_first: bool) -> None:
    # The shell sleeps until next_deadline(): whatever is due then must be done by expire(), or it would spin.
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    if ready_first:
        rig.accept()
    burst(a, "AI.b@north", 12)
    for _ in range(50):
        due = rig.engine.next_deadline()
        if due == float("inf"):
            break
        rig.now = max(rig.now, due)
        rig.wait(0.0)
        assert rig.engine.next_deadline() > rig.now
        b.read(20)
    assert rig.counts["sender_paused"] == 1


def test_who_was_only_told_something_is_not_taken_for_stalled() -> None:
    rig = Rig(queues=SMALL)
    a, b = crowd(rig, "ab")
    burst(a, "AI.b@north", 1)
    b.read()
    rig.wait(3600)
    rig.begin()
    b.feed(pack(frame_bytes(message(b.uuid, "AI.none@north"))))
    a.feed(pack(frame_bytes(message(a.uuid, "AI.b@north"))) * 12)
    rig.end()
    assert rig.counts["unreachable.NODE_CONGESTED"] == 0
    assert len(b.read()) == 13
