from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.router.broadcast import DEDUP_WINDOW_S, Dedup, recipients
from appliance.router.outbox import Limits
from appliance.wire.frames import MAX_FRAME_BYTES
from tests.router_kit import Node, Rig, frame_bytes, message, numbered_uuid

ALL = ["AI.a", "AI.b", "AI.c", "SY.timer"]


def hive(**rig: object) -> tuple[Rig, dict[str, Node]]:
    """AI.a and AI.c in VPN 0, AI.b in VPN 7, SY.timer."""
    made = Rig(**rig)  # type: ignore[arg-type]
    made.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    return made, {name: made.connect(name) for name in ALL}


def heard(nodes: dict[str, Node]) -> set[str]:
    return {name for name, node in nodes.items() if node.read()}


# --- de-duplication -----------------------------------------------------------------------------------------


def test_a_trace_is_fresh_once_within_the_window() -> None:
    seen = Dedup()
    assert DEDUP_WINDOW_S == 30.0
    assert [seen.fresh("a", now) for now in (0.0, 0.0, 29.9, 30.0, 59.9)] == [True, False, False, True, False]


def test_old_traces_are_forgotten() -> None:
    seen = Dedup()
    for second in range(100):
        assert seen.fresh(str(second), float(second))
    assert len(seen) == 30


def test_the_oldest_go_first_when_there_are_too_many() -> None:
    seen = Dedup(capacity=3)
    assert all(seen.fresh(trace, 0.0) for trace in "abcd")
    assert (len(seen), seen.forgotten) == (3, 1)
    assert not seen.fresh("d", 1.0)
    assert seen.fresh("a", 1.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20)), max_size=40))
def test_fresh_means_not_seen_within_the_window(steps: list[tuple[str, float]]) -> None:
    seen, told, now = Dedup(), dict[str, float](), 0.0
    for trace, gap in steps:
        now += gap
        expected = trace not in told or now - told[trace] >= DEDUP_WINDOW_S
        assert seen.fresh(trace, now) is expected
        if expected:
            told[trace] = now


# --- who gets a copy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("AI.a", None, {"AI.c", "SY.timer"}),
        ("AI.b", None, {"SY.timer"}),
        ("SY.timer", None, {"AI.a", "AI.b", "AI.c"}),
        ("AI.a", "AI.*", {"AI.c"}),
        ("AI.a", "AI.c@north", {"AI.c"}),
        ("AI.a", "AI.c", set()),
        ("AI.a", "AI.c@*", {"AI.c"}),
        ("AI.a", "*", {"AI.c", "SY.timer"}),
        ("AI.a", "*@south", set()),
        ("AI.a", "", set()),
        ("AI.a", "AI.b@north", set()),
    ],
)
def test_receivers(source: str, target: str | None, expected: set[str]) -> None:
    rig, nodes = hive()
    found = recipients(rig.engine.fib, nodes[source].connection, target)
    assert {node.name.removesuffix("@north") for node in found} == expected
    extra = {} if target is None else {"target": target}
    nodes[source].send("broadcast", trace=numbered_uuid(40), **extra)
    assert heard(nodes) == expected


def test_standbys_hear_broadcasts_too() -> None:
    rig, nodes = hive()
    standby = rig.connect("AI.c")
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(40), target="AI.c@*")
    assert (len(nodes["AI.c"].read()), len(standby.read())) == (1, 1)


@pytest.mark.parametrize(("source", "crosses"), [("AI.a", False), ("SY.timer", True)])
def test_scope_global_crosses_vpns_for_the_appliance_only(source: str, crosses: bool) -> None:
    _, nodes = hive()
    nodes[source].send("broadcast", trace=numbered_uuid(40), type="system", scope="global", msg="TIME_SYNC")
    assert ("AI.b" in heard(nodes)) is crosses


def test_every_copy_is_the_same_and_keeps_dst_and_ttl() -> None:
    _, nodes = hive()
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(40), ttl=2, payload=[1])
    one, other = nodes["AI.c"].read_bytes(), nodes["SY.timer"].read_bytes()
    assert one == other
    assert b'"dst":"broadcast","ttl":2,' in one[0]


def test_no_receiver_is_no_error() -> None:
    rig, nodes = hive()
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(40), target="WF.*")
    assert not nodes["AI.a"].read()
    assert rig.counts == {"broadcast": 1}


# --- traces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", ["", "t", "x" * 36, numbered_uuid(1)[:-1]])
def test_a_broadcast_needs_a_uuid_as_trace(trace: str) -> None:
    rig, nodes = hive()
    nodes["AI.a"].send("broadcast", trace=trace)
    assert heard(nodes) == set()
    assert rig.counts["broadcast_trace_not_uuid"] == 1
    assert nodes["AI.a"].connection.rejected == 1


def test_a_trace_reaches_nobody_twice_in_any_notation_whoever_sends_it() -> None:
    rig, nodes = hive()
    uuid = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
    for trace in (uuid, uuid, uuid.upper(), f"{{{uuid}}}", f"URN:UUID:{uuid}"):
        nodes["AI.a"].send("broadcast", trace=trace, payload=trace)
        nodes["AI.c"].send("broadcast", trace=trace)
    assert len(nodes["SY.timer"].read()) == 1
    assert rig.counts["broadcast_duplicate"] == 9
    rig.wait(30)
    nodes["AI.a"].send("broadcast", trace=uuid)
    assert len(nodes["SY.timer"].read()) == 1


def test_a_broadcast_without_hops_does_not_use_up_its_trace() -> None:
    _, nodes = hive()
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(40), ttl=0)
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(40), ttl=1)
    assert "SY.timer" in heard(nodes)


@pytest.mark.parametrize("word", ["Broadcast", "BROADCAST", "broadcast ", "broadcast@north"])
def test_only_the_exact_word_is_a_broadcast(word: str) -> None:
    _, nodes = hive()
    nodes["AI.a"].send(word, trace=numbered_uuid(40))
    assert heard(nodes) == {"AI.a"}


# --- reach --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ttl", "budget"), [(1, None), (2, None), (3, 2), (16, 15), (255, 254)])
def test_other_hives_are_reached_from_a_ttl_of_three(ttl: int, budget: int | None) -> None:
    rig, nodes = hive()
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(40), ttl=ttl)
    assert [left for _, left in rig.link.broadcasts] == ([] if budget is None else [budget])
    assert heard(nodes) == {"AI.c", "SY.timer"}


def test_a_duplicate_does_not_leave_the_hive_again() -> None:
    rig, nodes = hive()
    for _ in range(2):
        nodes["AI.a"].send("broadcast", trace=numbered_uuid(40))
    assert len(rig.link.broadcasts) == 1


# --- crowded and over-long ----------------------------------------------------------------------------------


def test_who_is_stalled_misses_it_and_is_counted_and_the_others_get_it() -> None:
    rig, nodes = hive(queues=Limits(frames=4))
    for number in range(2):
        nodes["AI.a"].send("broadcast", trace=numbered_uuid(100 + number))
    assert len(nodes["AI.c"].read()) == 2
    rig.wait(0.06)
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(200))
    assert rig.counts["broadcast_congested"] == 1
    assert len(nodes["AI.c"].read()) == 1
    assert len(nodes["SY.timer"].read()) == 2
    assert nodes["AI.a"].connection.paused_on is None


def test_who_is_above_half_and_drains_gets_it_and_the_sender_waits() -> None:
    rig, nodes = hive(queues=Limits(frames=8))
    for number in range(4):
        nodes["AI.a"].send("broadcast", trace=numbered_uuid(100 + number))
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(200))
    assert nodes["AI.a"].connection.blocked
    for name in ("AI.c", "SY.timer"):
        assert len(nodes[name].read()) == 5
    assert not nodes["AI.a"].connection.blocked
    assert rig.counts["sender_paused"] == 1


def test_a_broadcast_of_the_largest_size_arrives() -> None:
    rig, nodes = hive()
    bare = len(frame_bytes(message(nodes["AI.a"].uuid, "broadcast", trace=numbered_uuid(40), payload="")))
    grown = len(',"src_l2_name":"AI.a@north""action_class":"send_message",')
    for more, number in ((1, 40), (0, 41)):
        payload = "x" * (MAX_FRAME_BYTES - bare - grown + more)
        nodes["AI.a"].send("broadcast", trace=numbered_uuid(number), payload=payload)
    assert [len(body) for body in nodes["AI.c"].read_bytes()] == [MAX_FRAME_BYTES]
    assert rig.counts["oversize_out"] == 1


def test_a_broadcast_that_grew_over_the_limit_reaches_nobody_and_is_counted() -> None:
    rig, nodes = hive()
    nodes["AI.a"].send("broadcast", trace=numbered_uuid(40), payload="x" * 130_880)
    assert rig.counts["oversize_out"] == 1
    assert heard(nodes) == set()
