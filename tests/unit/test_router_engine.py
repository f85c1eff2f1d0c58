"""What the engine does with a frame, in the order of ``spec/routing-and-regions.md §3``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.router.connection import State
from appliance.router.outbox import Limits
from appliance.wire import verbs
from appliance.wire.frames import MAX_FRAME_BYTES
from appliance.wire.seams import Resolution
from tests.envelopes import duplicates
from tests.router_kit import (
    ROUTER_NAME,
    ROUTER_UUID,
    Node,
    Oracle,
    Packages,
    Rig,
    frame_bytes,
    message,
    numbered_uuid,
    pack,
)

DROP = {"action": "DROP", "match_kind": "EXACT"}


def unreachable(node: Node, dst: str | None, reason: str, trace: str = "t") -> dict[str, Any]:
    return {
        "routing": {"src": ROUTER_UUID, "dst": node.uuid, "ttl": 16, "trace_id": trace},
        "meta": {"type": "system", "msg": "UNREACHABLE"},
        "payload": {"original_dst": "null" if dst is None else dst, "reason": reason},
    }


def pair(**rig: Any) -> tuple[Rig, Node, Node]:
    made = Rig(**rig)
    return made, made.connect("AI.a"), made.connect("AI.b")


# --- garbage and half frames --------------------------------------------------------------------------------


def test_garbage_is_counted_by_reason_and_the_connection_stays() -> None:
    rig, a, b = pair()
    a.send_bytes(b"", b"{}", b"\xff" * 100, b"[" * 400, b"x" * 100)
    a.send("AI.b@north")
    assert len(b.read()) == 1
    assert a.open
    assert not a.read()
    assert a.connection.rejected == 5
    assert {reason: rig.counts[reason] for reason in ("bad_json", "bad_utf8", "too_deep")} == {
        "bad_json": 3,
        "bad_utf8": 1,
        "too_deep": 1,
    }


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 50, -1])
def test_a_half_frame_waits_for_its_other_half(cut: int) -> None:
    rig, a, b = pair()
    data = pack(frame_bytes(message(a.uuid, "AI.b@north")))
    rig.begin()
    a.feed(data[:cut])
    assert not b.read()
    a.feed(data[cut:])
    assert len(b.read()) == 1


def test_a_stream_may_come_byte_by_byte() -> None:
    rig, a, b = pair()
    rig.begin()
    for byte in pack(frame_bytes(message(a.uuid, "AI.b@north"))) * 3:
        a.feed(bytes([byte]))
    assert len(b.read()) == 3


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_an_oversize_length_ends_the_connection_before_its_body(size: int) -> None:
    rig, a, b = pair()
    rig.begin()
    a.feed(pack(frame_bytes(message(a.uuid, "AI.b@north"))) + size.to_bytes(4, "big") + b"{")
    rig.end()
    assert len(b.read()) == 1
    assert a.connection.closing == "oversize_in"
    assert rig.counts["oversize_in"] == 1
    assert rig.engine.decide(b.connection, "AI.a@north").connection is None


def test_an_oversize_frame_that_is_there_as_a_whole_is_no_frame_either() -> None:
    _rig, a, b = pair()
    a.send_bytes(frame_bytes(message(a.uuid, "AI.b@north", payload="x" * MAX_FRAME_BYTES)))
    assert not b.read()
    assert a.connection.closing == "oversize_in"


def test_the_largest_frame_is_taken_and_one_that_grows_over_the_limit_is_discarded() -> None:
    rig, a, b = pair()
    for size in (MAX_FRAME_BYTES, MAX_FRAME_BYTES - 100):
        bare = len(frame_bytes(message(a.uuid, "AI.b@north", payload="")))
        a.send("AI.b@north", payload="x" * (size - bare))
    assert rig.counts["oversize_out"] == 1
    assert [len(body) for body in b.read_bytes()] == [
        MAX_FRAME_BYTES - 100 + len(',"src_l2_name":"AI.a@north""action_class":"send_message",')
    ]
    assert a.open
    assert b.open


# --- source -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", ["{}", "{{{}}}", "urn:uuid:{}", "URN:UUID:{}"], ids=["plain", "braced", "urn", "capitals"]
)
def test_the_source_may_be_written_in_any_notation(shape: str) -> None:
    rig = Rig()
    a, b = rig.connect("AI.a", uuid="5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"), rig.connect("AI.b")
    for text in (a.uuid.upper(), a.uuid.replace("-", "")):
        a.send("AI.b@north", src=shape.format(text))
        assert b.read_one()["routing"]["src"] == a.uuid


def test_an_empty_source_means_this_connection() -> None:
    _, a, b = pair()
    a.send("AI.b@north", src="")
    assert b.read_one()["routing"]["src"] == a.uuid


@pytest.mark.parametrize("claim", ["other", "unknown", "router", "text"])
def test_another_source_is_rejected_and_counted(claim: str) -> None:
    rig, a, b = pair()
    src = {"other": b.uuid, "unknown": numbered_uuid(99), "router": ROUTER_UUID, "text": "AI.a@north"}[claim]
    a.send("AI.b@north", src=src)
    assert (a.read(), b.read()) == ([], [])
    assert (rig.counts["foreign_src"], a.connection.rejected) == (1, 1)


def test_the_router_stamps_the_name_it_registered() -> None:
    _, a, b = pair()
    forged = message(a.uuid, "AI.b@north")
    forged["routing"]["src_l2_name"] = "SY.admin@north"
    a.send_bytes(frame_bytes(forged))
    assert b.read_one()["routing"]["src_l2_name"] == "AI.a@north"


# --- thread_seq, action_class, memory_package ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["user", "system", "admin", "query_response", "command"])
def test_every_type_gets_a_sequence_number_in_its_thread(kind: str) -> None:
    _, a, b = pair()
    for thread in ("one", "two", "one"):
        a.send("AI.b@north", type=kind, thread_id=thread)
    assert [got["meta"]["thread_seq"] for got in b.read()] == [1, 1, 2]


def test_senders_of_one_thread_share_its_numbers() -> None:
    rig, a, b = pair()
    c = rig.connect("AI.c")
    for sender in (a, c, a):
        sender.send("AI.b@north", thread_id="one")
    assert [got["meta"]["thread_seq"] for got in b.read()] == [1, 2, 3]


@pytest.mark.parametrize("thread", ["", "  ", "\t\n"])
def test_a_blank_thread_has_no_numbers(thread: str) -> None:
    _, a, b = pair()
    a.send("AI.b@north", thread_id=thread)
    meta = b.read_one()["meta"]
    assert "thread_seq" not in meta
    assert meta["thread_id"] == thread


def test_a_forged_number_does_not_count_and_does_not_arrive() -> None:
    _, a, b = pair()
    for _ in range(2):
        a.send("AI.b@north", thread_id="one", thread_seq=900)
    assert [got["meta"]["thread_seq"] for got in b.read()] == [1, 2]


def test_a_number_of_the_appliance_is_kept_and_does_not_move_the_counter() -> None:
    rig, a, b = pair()
    rig.connect("SY.frontdesk.gov").send("AI.b@north", thread_id="one", thread_seq=900)
    a.send("AI.b@north", thread_id="one")
    assert [got["meta"]["thread_seq"] for got in b.read()] == [900, 1]


def test_reservations_are_written_once_per_turn_and_before_anything_leaves() -> None:
    rig, a, b = pair()
    rig.begin()
    for thread in ("one", "two", "one"):
        a.feed(pack(frame_bytes(message(a.uuid, "AI.b@north", thread_id=thread))))
    assert rig.bounds.writes == []
    assert b.connection.outbox.queued_frames == 3
    rig.engine.end_turn()
    assert len(rig.bounds.writes) == 1
    assert len(rig.bounds.writes[0]) == 2


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        ("user", True),
        ("command", True),
        ("", True),
        ("system", False),
        ("admin", False),
        ("query_response", False),
    ],
)
def test_action_class_is_added_to_ordinary_types(kind: str, added: bool) -> None:
    _, a, b = pair()
    a.send("AI.b@north", type=kind)
    assert b.read_one()["meta"] == {"type": kind} | ({"action_class": "send_message"} if added else {})


def test_an_action_class_of_the_sender_is_kept() -> None:
    _, a, b = pair()
    a.send("AI.b@north", action_class="write")
    assert b.read_one()["meta"]["action_class"] == "write"


def test_a_memory_package_is_attached_to_ordinary_types_of_its_thread() -> None:
    rig, a, b = pair(memory=Packages(one=b'{"package_version":2,"thread_id":"one"}'))
    for kind, thread in (("user", "one"), ("user", "two"), ("system", "one"), ("query_response", "one")):
        a.send("AI.b@north", type=kind, thread_id=thread)
    packages = [got["meta"].get("memory_package") for got in b.read()]
    assert packages == [{"package_version": 2, "thread_id": "one"}, None, None, None]
    assert all(b"memory_package" not in turn for turn in rig.turns.recorded)


def test_a_senders_own_package_is_replaced_and_the_appliances_is_kept() -> None:
    rig, a, b = pair(memory=Packages(one=b'{"mine":1}'))
    for sender in (a, rig.connect("SY.cognition")):
        sender.send("AI.b@north", thread_id="one", memory_package={"theirs": 1})
    bodies = b.read_bytes()
    assert [json.loads(body)["meta"]["memory_package"] for body in bodies] == [{"mine": 1}, {"theirs": 1}]
    assert [duplicates(body) for body in bodies] == [[], []]


def test_a_package_that_makes_a_frame_too_long_is_left_out() -> None:
    rig, a, b = pair(memory=Packages(one=b'{"x":"%b"}' % (b"x" * 60_000)))
    a.send("AI.b@north", thread_id="one", payload="y" * 80_000)
    assert "memory_package" not in b.read_one()["meta"]
    assert rig.counts["memory_package_left_out"] == 1


# --- turns --------------------------------------------------------------------------------------------------


def test_turns_are_ordinary_messages_as_delivered_even_if_nobody_gets_them() -> None:
    rig, a, b = pair()
    for kind in ("user", "command", "query", "command_response", "system", "admin", "query_response"):
        a.send("AI.b@north", type=kind)
    a.send("AI.nobody@north")
    a.send("AI.b@north", ttl=0)
    delivered = b.read_bytes()
    turns = rig.turns.recorded
    assert turns[:4] == delivered[:4]
    assert len(turns) == 6
    assert all(json.loads(turn)["routing"]["src_l2_name"] == "AI.a@north" for turn in turns)


def test_a_hungry_journal_gets_all_and_a_full_one_threads_first() -> None:
    rig, a, _ = pair()
    for hungry in ((True, True), (True, False), (False, False)):
        rig.turns.hungry = hungry
        rig.begin()
        for thread in ("one", None):
            extra = {} if thread is None else {"thread_id": thread}
            a.feed(pack(frame_bytes(message(a.uuid, "AI.b@north", **extra))))
        rig.end()
    assert (len(rig.turns.recorded), rig.turns.skipped, rig.turns.calls) == (3, 3, 3)


def test_a_quiet_turn_hands_over_nothing() -> None:
    rig = Rig()
    rig.wait(1)
    assert rig.turns.calls == 0


# --- ttl ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dst", ["AI.b@north", "AI.nobody@north", "broadcast", None, ROUTER_NAME])
def test_ttl_zero_is_exceeded_whatever_the_destination(dst: str | None) -> None:
    rig, a, b = pair()
    a.send(dst, ttl=0, trace=numbered_uuid(5))
    assert a.read_one() == {
        "routing": {"src": ROUTER_UUID, "dst": a.uuid, "ttl": 16, "trace_id": numbered_uuid(5)},
        "meta": {"type": "system", "msg": "TTL_EXCEEDED"},
        "payload": {"original_dst": "null" if dst is None else dst, "last_hop": f"router:{ROUTER_UUID}"},
    }
    assert not b.read()
    assert rig.counts["ttl_exceeded"] == 1


@pytest.mark.parametrize("ttl", [1, 16, 255])
def test_local_delivery_does_not_decrement_the_ttl(ttl: int) -> None:
    _, a, b = pair()
    a.send("AI.b@north", ttl=ttl)
    assert b.read_one()["routing"]["ttl"] == ttl


# --- unicast ------------------------------------------------------------------------------------------------


def test_unicast_by_name_and_by_every_notation_of_the_uuid() -> None:
    _, a, b = pair()
    notations = [
        "AI.b@north",
        b.uuid,
        b.uuid.upper(),
        f"{{{b.uuid}}}",
        f"urn:uuid:{b.uuid}",
        b.uuid.replace("-", ""),
    ]
    for dst in notations:
        a.send(dst)
    assert [got["routing"]["dst"] for got in b.read()] == notations


def test_a_node_may_write_to_itself() -> None:
    _, a, _ = pair()
    for dst in ("AI.a@north", a.uuid):
        a.send(dst)
        assert a.read_one()["routing"]["dst"] == dst


@pytest.mark.parametrize(
    "dst", ["AI.b", "ai.b@north", "AI.b@south", "", "Broadcast", "AI.nobody@*", numbered_uuid(77)]
)
def test_what_is_not_there_is_not_found(dst: str) -> None:
    rig, a, b = pair()
    a.send(dst, trace="tr")
    assert a.read_one() == unreachable(a, dst, "NODE_NOT_FOUND", "tr")
    assert not b.read()
    assert rig.counts["unreachable.NODE_NOT_FOUND"] == 1


def test_frames_of_one_sender_arrive_in_order() -> None:
    rig, a, b = pair()
    rig.begin()
    bodies = [
        frame_bytes(message(a.uuid, ("AI.b@north", b.uuid)[n % 2], payload=n, **({"q": n} if n % 3 else {})))
        for n in range(50)
    ]
    a.feed(b"".join(map(pack, bodies)))
    rig.end()
    assert [got["payload"] for got in b.read()] == list(range(50))


def test_a_route_that_drops_is_silent_and_counted() -> None:
    rig, a, _ = pair()
    rig.configure(routes=[{"prefix": "AI.x@north", **DROP}])
    a.send("AI.x@north")
    assert not a.read()
    assert rig.counts["route_drop"] == 1


# --- vpn ----------------------------------------------------------------------------------------------------


def test_another_vpn_is_blocked_by_name_and_by_uuid() -> None:
    rig, a, b = pair()
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    for dst in ("AI.b@north", b.uuid, "AI.b@*"):
        a.send(dst)
        assert a.read_one() == unreachable(a, dst, "VPN_BLOCKED")
    assert not b.read()


def test_the_appliance_crosses_vpns_both_ways() -> None:
    rig, _, b = pair()
    timer = rig.connect("SY.timer")
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}, {"pattern": "SY.", "vpn_id": 9}])
    assert timer.connection.vpn == 0
    timer.send("AI.b@north")
    b.send("SY.timer@north")
    assert (len(b.read()), len(timer.read())) == (1, 1)


def test_scope_global_of_an_ordinary_node_does_not_cross_vpns() -> None:
    rig, a, b = pair()
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    a.send("AI.b@north", type="system", scope="global")
    assert a.read_one()["payload"]["reason"] == "VPN_BLOCKED"
    assert not b.read()


def test_a_change_of_rules_counts_from_the_next_frame_on() -> None:
    rig, a, b = pair()
    for vpn, arrives in ((7, False), (0, True), (9, False)):
        rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": vpn}])
        a.send("AI.b@north")
        assert bool(b.read()) is arrives
        assert bool(a.read()) is not arrives
    assert b.announced["payload"]["vpn_id"] == 0


# --- equal names --------------------------------------------------------------------------------------------


def test_among_equal_names_the_oldest_serves_and_the_next_takes_over() -> None:
    rig, a, first = pair()
    second, third = rig.connect("AI.b"), rig.connect("AI.b")
    for gone, serving in ((None, first), (first, second), (second, third)):
        if gone is not None:
            gone.close()
        a.send("AI.b@north")
        assert [len(node.read()) for node in (first, second, third) if node.open] == [
            int(node is serving) for node in (first, second, third) if node.open
        ]
    third.close()
    a.send("AI.b@north")
    assert a.read_one()["payload"]["reason"] == "NODE_NOT_FOUND"


def test_a_standby_that_leaves_changes_nothing() -> None:
    rig, a, first = pair()
    rig.connect("AI.b").close()
    a.send("AI.b@north")
    assert len(first.read()) == 1


def test_equal_names_are_still_reached_by_their_uuids() -> None:
    rig, a, first = pair()
    second = rig.connect("AI.b")
    a.send(second.uuid)
    assert (len(first.read()), len(second.read())) == (0, 1)


# --- resolve ------------------------------------------------------------------------------------------------


def test_policy_decides_where_null_goes_and_null_stays() -> None:
    oracle = Oracle("AI.b@north")
    _, a, b = pair(resolver=oracle)
    a.send(None, src_ilk="ilk:1", unknown=[1])
    assert b.read_one()["routing"]["dst"] is None
    ((asked_for, meta),) = oracle.asked
    assert asked_for == a.uuid
    assert meta.items() >= {"type": "user", "src_ilk": "ilk:1", "unknown": [1]}.items()


def test_policy_never_sees_the_package_of_the_router() -> None:
    oracle = Oracle("AI.b@north")
    _, a, b = pair(resolver=oracle, memory=Packages(one=b"{}"))
    a.send(None, thread_id="one")
    assert "memory_package" not in oracle.asked[0][1]
    assert b.read_one()["meta"]["memory_package"] == {}


@pytest.mark.parametrize("reason", ["OPA_ERROR", "OPA_NO_TARGET"])
def test_no_target_is_answered_with_the_reason(reason: str) -> None:
    _, a, _ = pair(resolver=Oracle(None, reason))
    a.send(None)
    assert a.read_one() == unreachable(a, None, reason)


def test_without_a_policy_there_is_no_target() -> None:
    _, a, _ = pair()
    a.send(None)
    assert a.read_one() == unreachable(a, None, "OPA_NO_TARGET")


def test_a_target_is_a_name_with_vpn_and_wildcard_and_never_a_uuid() -> None:
    oracle = Oracle()
    rig, a, b = pair(resolver=oracle)
    for target, reason in ((b.uuid, "NODE_NOT_FOUND"), ("AI.b@*", None), (ROUTER_NAME, "NODE_NOT_FOUND")):
        oracle.answer = Resolution(target)
        a.send(None)
        assert [got["payload"]["reason"] for got in a.read()] == ([] if reason is None else [reason])
    assert len(b.read()) == 1
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    oracle.answer = Resolution("AI.b@north")
    a.send(None)
    assert a.read_one() == unreachable(a, None, "VPN_BLOCKED")


# --- other hives --------------------------------------------------------------------------------------------


def test_forwarding_needs_a_ttl_of_two_and_takes_one() -> None:
    rig, a, _ = pair()
    rig.configure(routes=[{"prefix": "AI.far", "action": "FORWARD", "next_hop_hive": "south"}])
    a.send("AI.far@south", ttl=2)
    a.send("AI.far@south", ttl=1)
    ((hive, sent, ttl),) = rig.link.forwarded
    assert (hive, ttl, sent.routing.dst, sent.routing.src_l2_name) == (
        "south",
        1,
        "AI.far@south",
        "AI.a@north",
    )
    assert a.read_one()["meta"]["msg"] == "TTL_EXCEEDED"
    assert rig.counts["forwarded"] == 1


@pytest.mark.parametrize("reason", ["WAN_UNAVAILABLE", "GATEWAY_UNAVAILABLE", "PEER_UNAVAILABLE"])
def test_a_hive_out_of_reach_is_answered(reason: str) -> None:
    rig, a, _ = pair()
    rig.link.reasons["south"] = reason
    rig.configure(routes=[{"prefix": "AI.far", "action": "FORWARD", "next_hop_hive": "south"}])
    a.send("AI.far@south")
    assert a.read_one() == unreachable(a, "AI.far@south", reason)


def test_what_is_forwarded_is_stamped_and_not_enriched() -> None:
    rig, a, _ = pair(memory=Packages(one=b"{}"))
    rig.configure(routes=[{"prefix": "AI.far", "action": "FORWARD", "next_hop_hive": "south"}])
    a.send("AI.far@south", thread_id="one")
    meta = json.loads(bytes(rig.link.forwarded[0][1].meta))
    assert meta == {"type": "user", "thread_id": "one", "thread_seq": 1, "action_class": "send_message"}


# --- system messages with a meaning for the router ----------------------------------------------------------


def test_withdraw_ends_this_connection_whatever_it_says() -> None:
    rig, a, b = pair()
    a.send(b.uuid, type="system", msg="WITHDRAW", payload={"uuid": b.uuid})
    assert (a.connection.closing, b.open) == ("withdraw", True)
    assert not b.read()
    b.send("AI.a@north")
    assert b.read_one()["payload"]["reason"] == "NODE_NOT_FOUND"
    assert rig.buried == [a.connection]


@pytest.mark.parametrize("settings", [{}, {"open_security": True}])
def test_withdraw_acts_on_the_connection_whoever_it_claims_to_be(settings: dict[str, Any]) -> None:
    _, a, b = pair(**settings)
    a.send(None, src=b.uuid, type="system", msg="WITHDRAW")
    assert (a.open, b.open) == (False, True)


def test_what_follows_withdraw_is_counted_and_not_read() -> None:
    rig, a, b = pair()
    bye = frame_bytes(message(a.uuid, None, type="system", msg="WITHDRAW"))
    rig.begin()
    a.feed(pack(bye) + pack(frame_bytes(message(a.uuid, "AI.b@north"))) * 3 + b"\0\0\0\x09half")
    rig.end()
    assert not b.read()
    assert rig.counts["lost_unread"] == 3


def test_what_waited_behind_a_withdraw_of_a_paused_sender_is_counted_once() -> None:
    rig, a, b = pair(queues=Limits(frames=4))
    frame = pack(frame_bytes(message(a.uuid, "AI.b@north")))
    bye = pack(frame_bytes(message(a.uuid, None, type="system", msg="WITHDRAW")))
    rig.begin()
    a.feed(frame * 3 + bye + frame * 2)
    rig.end()
    assert a.connection.blocked
    b.read()
    assert not a.open
    assert rig.counts["lost_unread"] == 2


def test_withdraw_in_another_type_is_a_message() -> None:
    _, a, b = pair()
    a.send("AI.b@north", msg="WITHDRAW")
    assert len(b.read()) == 1
    assert a.open


@pytest.mark.parametrize("verb", ["CONFIG_CHANGED", "OPA_RELOAD"])
@pytest.mark.parametrize("dst", ["broadcast", None, "AI.b@north", "SY.other@north", "AI.nobody@south"])
def test_control_of_the_appliance_is_flooded_to_everybody_else(verb: str, dst: str | None) -> None:
    rig, a, b = pair()
    admin = rig.connect("SY.admin")
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    admin.send(dst, type="system", msg=verb, target="AI.a@north", payload={"version": 3})
    for node in (a, b):
        got = node.read_one()
        assert (got["meta"]["msg"], got["payload"]) == (verb, {"version": 3})
        assert got["routing"]["src_l2_name"] == "SY.admin@north"
    assert not admin.read()
    assert rig.counts["flooded"] == 1


@pytest.mark.parametrize("verb", ["CONFIG_CHANGED", "OPA_RELOAD"])
def test_control_of_an_ordinary_node_is_refused(verb: str) -> None:
    rig, a, b = pair()
    for dst in ("broadcast", "AI.b@north"):
        a.send(dst, type="system", msg=verb, trace=numbered_uuid(7))
    assert (a.read(), b.read(), rig.counts["control_forbidden"]) == ([], [], 2)


@pytest.mark.parametrize("verb", ["CONFIG_CHANGED", "OPA_RELOAD"])
def test_with_open_security_control_works_as_the_reference(verb: str) -> None:
    _, a, b = pair(open_security=True)
    a.send("AI.nobody@north", type="system", msg=verb)
    assert b.read_one()["meta"]["msg"] == verb


def test_the_words_in_another_type_are_messages() -> None:
    _, a, b = pair()
    for verb in ("CONFIG_CHANGED", "OPA_RELOAD", "HELLO"):
        a.send("AI.b@north", type="user", msg=verb)
    assert len(b.read()) == 3


# --- errors are never answered ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["UNREACHABLE", "TTL_EXCEEDED"])
@pytest.mark.parametrize(
    ("dst", "ttl"), [("AI.nobody@north", 16), (None, 16), ("AI.b@north", 0), (ROUTER_UUID, 16)]
)
def test_an_error_message_is_never_answered_with_an_error(verb: str, dst: str | None, ttl: int) -> None:
    rig, a, _ = pair()
    a.send(dst, ttl=ttl, type="system", msg=verb)
    assert not a.read()
    assert sum(rig.counts.values()) == 1


@pytest.mark.parametrize("verb", ["UNREACHABLE", "TTL_EXCEEDED"])
def test_only_a_system_message_is_an_error_message(verb: str) -> None:
    _, a, _ = pair()
    a.send("AI.nobody@north", type="user", msg=verb)
    assert a.read_one()["payload"]["reason"] == "NODE_NOT_FOUND"


@pytest.mark.parametrize("dst", [ROUTER_UUID, ROUTER_UUID.upper(), f"{{{ROUTER_UUID}}}", ROUTER_NAME])
def test_mail_to_the_router_is_swallowed_and_counted(dst: str) -> None:
    rig, a, _ = pair()
    for kind in ("user", "system", "query_response"):
        a.send(dst, type=kind, msg="TIMER_NOW_RESPONSE")
    assert not a.read()
    assert rig.counts["to_router"] == 3


def test_an_answer_that_would_not_fit_a_frame_is_counted_instead() -> None:
    rig, a, _ = pair()
    bare = len(frame_bytes(message(a.uuid, "", type="", trace="")))
    a.send("x" * (MAX_FRAME_BYTES - bare), type="", trace="")
    assert not a.read()
    assert rig.counts["oversize_out"] == 1
    assert rig.counts["unreachable.NODE_NOT_FOUND"] == 1


# --- leaving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["eof", "reset", "oversize_in", "write_error"])
def test_every_way_out_unregisters_and_tells_the_shell_once(reason: str) -> None:
    rig, a, b = pair()
    rig.engine.changes.clear()
    b.close(reason)
    b.close("again")
    assert rig.buried == [b.connection]
    assert rig.engine.changes == [("down", b.connection)]
    assert rig.counts[f"closed.{reason}"] == 1
    assert b.connection.state is State.CLOSED
    assert b.connection not in rig.engine.connections
    for dst in ("AI.b@north", b.uuid):
        a.send(dst)
        assert a.read_one()["payload"]["reason"] == "NODE_NOT_FOUND"


def test_what_waited_for_a_recipient_that_left_is_counted() -> None:
    rig, a, b = pair()
    for _ in range(5):
        a.send("AI.b@north")
    assert len(b.read(500)) == 2
    b.close()
    assert rig.counts["lost_unsent"] == 3


def test_nothing_of_a_closed_node_stays_behind() -> None:
    rig, a, b = pair()
    for dst in ("AI.b@north", b.uuid, "AI.b@*"):
        a.send(dst)
    b.close()
    engine = rig.engine
    assert set(engine.fib.by_uuid) == {a.uuid}
    assert set(engine.fib.by_name) == {"AI.a@north"}
    assert engine.connections == {a.connection}
    assert not (engine.greeter.waiting)
    assert not (engine.greeter.held)
    assert not (engine.paused)


# --- bounded memory -----------------------------------------------------------------------------------------


def test_a_long_wildcard_is_not_remembered() -> None:
    rig, a, b = pair()
    a.send("AI.b" + "*" * 100_000 + "@*")
    assert len(b.read()) == 1
    assert not a.connection.routes
    assert rig.engine.fib.by_uuid


def test_nothing_remembered_survives_a_change_of_the_tables() -> None:
    rig, a, b = pair()
    c = rig.connect("AI.c")
    for dst in ("AI.b@north", "AI.c@north"):
        a.send(dst)
    rig.configure(vpns=[{"pattern": "AI.c", "vpn_id": 7}])
    for dst in ("AI.b@north", "AI.c@north"):
        a.send(dst)
    assert (len(b.read()), len(c.read())) == (2, 1)
    assert a.read_one()["payload"]["reason"] == "VPN_BLOCKED"


def test_a_sender_remembers_a_bounded_number_of_destinations() -> None:
    rig, a, b = pair(queues=Limits(frames=100_000))
    rig.begin()
    for stars in range(300):
        a.feed(pack(frame_bytes(message(a.uuid, "AI.b" + "*" * stars + "@*"))))
    assert len(a.connection.routes) <= 300
    for number in range(5000):
        dst = f"{{{b.uuid}}}" if number % 2 else "AI.b" + "*" * (number % 400) + "@*"
        a.feed(pack(frame_bytes(message(a.uuid, dst))))
        assert len(a.connection.routes) <= 4096


# --- everything at once -------------------------------------------------------------------------------------

NAMES = ["AI.a", "AI.b", "IO.c"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [*(f"{name}@north" for name in NAMES), "AI.x@north", "broadcast", None, ROUTER_NAME]
            ),
            st.integers(0, 3),
            st.sampled_from(["user", "system", "query"]),
            st.sampled_from([None, "UNREACHABLE", "CONFIG_CHANGED", "ECHO", "HELLO"]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_every_frame_is_delivered_answered_or_counted(frames: list[tuple[Any, int, str, Any, bool]]) -> None:
    rig = Rig()
    nodes = [rig.connect(name) for name in NAMES]
    for number, (dst, ttl, kind, verb, legal) in enumerate(frames):
        before = sum(rig.counts.values())
        extra = {} if verb is None else {"msg": verb}
        src = nodes[0].uuid if legal else nodes[1].uuid
        nodes[0].send(dst, ttl=ttl, type=kind, trace=numbered_uuid(number), src=src, **extra)
        delivered = sum(len(node.read()) for node in nodes)
        assert delivered or sum(rig.counts.values()) > before
    assert all(node.open for node in nodes)


def test_every_verb_of_the_wire_may_pass_between_two_nodes() -> None:
    rig, a, b = pair()
    taken = {verbs.WITHDRAW, verbs.CONFIG_CHANGED, verbs.OPA_RELOAD}
    words = [getattr(verbs, name) for name in verbs.__all__ if isinstance(getattr(verbs, name), str)]
    for word in words:
        if word not in taken:
            a.send("AI.b@north", type="system", msg=word)
            assert b.read_one()["meta"] == {"type": "system", "msg": word}
    assert not rig.turns.recorded


# --- who takes nothing any more ---------------------------------------------------------------------------


def test_a_node_that_hung_up_is_not_reached_but_is_read_to_its_end() -> None:
    rig, a, b = pair()
    rig.engine.changes.clear()
    for _ in range(3):
        a.send("AI.b@north")
    rig.engine.hang_up(b.connection)
    rig.engine.hang_up(b.connection)
    a.send("AI.b@north")
    assert a.read_one()["payload"]["reason"] == "NODE_NOT_FOUND"
    b.send("AI.a@north", payload="last words")
    assert a.read_one()["payload"] == "last words"
    b.send("AI.none@north")
    assert b.connection.outbox.empty
    b.close()
    assert rig.engine.changes == [("down", b.connection)]
    assert rig.counts["lost_unsent"] == 3
    assert rig.counts["hung_up"] == 1


def test_who_hangs_up_watches_no_longer_and_a_stranger_leaves_no_trace() -> None:
    rig, a, _ = pair()
    watcher, stranger = rig.connect("SY.admin"), rig.accept()
    rig.engine.taps.set(watcher.connection, "*", rig.now)
    rig.engine.changes.clear()
    rig.engine.hang_up(watcher.connection)
    rig.engine.hang_up(stranger.connection)
    assert not rig.engine.taps
    assert rig.engine.changes == [("down", watcher.connection)]
    a.send("AI.b@north")
    assert watcher.connection.outbox.empty


def test_a_standby_takes_over_from_one_that_hung_up() -> None:
    rig, a, b = pair()
    standby = rig.connect("AI.b")
    again = rig.connect("AI.c", uuid=numbered_uuid(50))
    rig.engine.hang_up(b.connection)
    rig.engine.hang_up(again.connection)
    a.send("AI.b@north")
    assert len(standby.read()) == 1
    newer = rig.connect("AI.c", uuid=again.uuid)
    again.close()
    a.send("AI.c@north")
    assert len(newer.read()) == 1


def test_who_waited_for_one_that_hung_up_goes_on() -> None:
    rig, a, b = pair(queues=Limits(frames=4))
    rig.begin()
    a.feed(pack(frame_bytes(message(a.uuid, "AI.b@north"))) * 4)
    assert a.connection.blocked
    rig.engine.hang_up(b.connection)
    rig.end()
    assert not a.connection.blocked
    assert [got["payload"]["reason"] for got in a.read()] == ["NODE_NOT_FOUND"]
