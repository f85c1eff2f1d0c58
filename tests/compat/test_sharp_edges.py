"""Sharp edges of the router and the wire, one test each, named by their number.

``node_NN``: ``spec/node-protocol.md §9``, 1 to 27; ``routing_NN``: ``spec/routing-and-regions.md §9.1``. An
edge without a test here has a line in ``docs/decisions/0003-sharp-edges.md``; the last test sees to that.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from appliance.router.fib import RemoteNode
from appliance.router.threads import ThreadCounters
from appliance.wire.frames import MAX_FRAME_BYTES, FrameTooLarge, pack_frame
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

UUID = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"


def two() -> tuple[Rig, Node, Node]:
    rig = Rig()
    return rig, rig.connect("AI.a"), rig.connect("AI.b")


def reason(node: Node) -> str:
    return str(node.read_one()["payload"]["reason"])


# --- wire and connection ------------------------------------------------------------------------------------


def test_node_01_length_is_big_endian_and_limited_to_131072_bytes() -> None:
    assert pack_frame(b"x" * 258)[:4] == b"\x00\x00\x01\x02"
    assert len(pack_frame(b"x" * 131_072)) == 131_076
    with pytest.raises(FrameTooLarge):
        pack_frame(b"x" * 131_073)


def test_node_02_the_key_is_type() -> None:
    rig, a, b = two()
    old = message(a.uuid, "AI.b@north")
    old["meta"] = {"msg_type": "user"}
    a.send_bytes(frame_bytes(old))
    assert rig.counts == {"bad_type": 1}
    assert not b.read()


def test_node_03_the_end_of_a_probe_does_not_unregister_the_real_connection() -> None:
    rig = Rig()
    probe = rig.connect("AI.go", uuid=UUID)
    real = rig.connect("AI.go", uuid=UUID)  # in the same millisecond
    probe.close()
    real.send("AI.go@north")
    assert len(real.read()) == 1


def test_node_04_announce_is_the_first_frame() -> None:
    rig, a, _ = two()
    late = rig.accept()
    rig.begin()
    payload = {"uuid": late.uuid, "name": "AI.late", "version": "1"}
    late.feed(pack(frame_bytes(message(late.uuid, None, type="system", msg="HELLO", payload=payload))))
    a.feed(pack(frame_bytes(message(a.uuid, "broadcast", trace=UUID))))
    rig.end()
    assert [got["meta"].get("msg") for got in late.read()] == ["ANNOUNCE", None]


@pytest.mark.parametrize("end", ["eof", "reset", "oversize", "withdraw", "hang up", "superseded"])
def test_node_05_every_exit_path_unregisters(end: str) -> None:
    rig, a, b = two()
    if end == "oversize":
        rig.begin()
        a.feed(b"\x7f\xff\xff\xff")
        rig.end()
    elif end == "withdraw":
        a.send(None, type="system", msg="WITHDRAW")
    elif end == "hang up":
        rig.engine.hang_up(a.connection)
    elif end == "superseded":
        rig.connect("AI.other", uuid=a.uuid).close()
    else:
        a.close(end)
    b.send("AI.a@north")
    assert reason(b) == "NODE_NOT_FOUND"
    assert set(rig.engine.fib.by_uuid) == {b.uuid}


def test_node_06_the_source_is_bound_to_the_connection() -> None:
    rig, a, b = two()
    timer = rig.connect("SY.timer")
    a.send("AI.b@north", src=timer.uuid)
    assert not b.read()
    assert rig.counts["foreign_src"] == 1


def test_node_07_an_empty_source_is_this_connection() -> None:
    _, a, b = two()
    a.send("AI.b@north", src="")
    assert b.read_one()["routing"]["src_l2_name"] == "AI.a@north"


@pytest.mark.parametrize("name", ["SY.admin", "SY.admin@north", "RT.gateway", "RT.x"])
def test_node_08_system_names_are_reserved(name: str) -> None:
    rig = Rig()
    node = rig.accept(uid=1000)
    rig.hello(node, name)
    assert not node.open
    assert rig.counts["hello.reserved_name"] == 1


def test_node_09_names_of_other_hives_are_refused() -> None:
    rig = Rig()
    node = rig.accept()
    rig.hello(node, "AI.a@south")
    assert rig.counts["hello.foreign_hive"] == 1
    Rig(open_security=True).connect("AI.a@south")


def test_node_10_withdraw_acts_on_its_connection() -> None:
    _, a, b = two()
    a.send(None, src=b.uuid, type="system", msg="WITHDRAW", payload={"uuid": b.uuid})
    assert (a.open, b.open) == (False, True)


# --- routing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dst", [ROUTER_UUID, ROUTER_NAME])
def test_node_12_mail_to_the_router_is_swallowed_and_errors_are_not_answered(dst: str) -> None:
    rig, a, _ = two()
    a.send(dst, type="system", msg="TIMER_ERROR")
    for verb in ("UNREACHABLE", "TTL_EXCEEDED"):
        a.send("AI.gone@north", type="system", msg=verb)
        a.send("AI.b@north", type="system", msg=verb, ttl=0)
    assert not a.read()
    assert rig.counts["to_router"] == 1


def test_node_13_local_delivery_takes_no_hop() -> None:
    _, a, b = two()
    a.send("AI.b@north", ttl=1)
    assert b.read_one()["routing"]["ttl"] == 1


def test_node_14_a_broadcast_needs_a_fresh_uuid_as_trace_and_its_loss_is_counted() -> None:
    rig, a, b = two()
    for trace in ("not a uuid", UUID, UUID):
        a.send("broadcast", trace=trace)
    assert len(b.read()) == 1
    assert (rig.counts["broadcast_trace_not_uuid"], rig.counts["broadcast_duplicate"]) == (1, 1)


def test_node_15_config_changed_reaches_everybody_from_the_appliance_only() -> None:
    rig, a, b = two()
    routes = rig.connect("SY.config.routes")
    a.send("AI.b@north", type="system", msg="CONFIG_CHANGED")
    assert not b.read()
    routes.send("AI.b@north", type="system", msg="CONFIG_CHANGED")
    assert [node.read_one()["routing"]["src_l2_name"] for node in (a, b)] == ["SY.config.routes@north"] * 2


def test_node_16_null_stays_null() -> None:
    rig = Rig(resolver=Oracle("AI.b@north"))
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    a.send(None)
    assert b.read_one()["routing"]["dst"] is None


@pytest.mark.parametrize("dst", ["AI.b", "Broadcast"])
def test_node_17_names_are_complete_and_mind_their_case(dst: str) -> None:
    _, a, _ = two()
    a.send(dst, trace=UUID)
    assert reason(a) == "NODE_NOT_FOUND"


def test_node_18_a_glob_with_any_hive_is_anycast_to_the_longest_name() -> None:
    rig, a, b = two()
    longest = rig.connect("AI.bbb")
    a.send("AI.*@*")
    assert (len(a.read()), len(b.read()), len(longest.read())) == (0, 0, 1)


def test_node_19_prefix_is_starts_with_and_glob_crosses_all_signs() -> None:
    rig, _, b = two()
    for pattern, kind in (("AI.b.*", "PREFIX"), ("A*north", "GLOB")):
        rig.configure(vpns=[{"pattern": pattern, "match_kind": kind, "vpn_id": 7}])
        assert b.connection.vpn == 7
    assert rig.connect("AI.bee").connection.vpn == 7


def test_node_20_drop_hides_no_connected_node_and_no_uuid() -> None:
    rig, a, b = two()
    rig.configure(routes=[{"prefix": ".*", "action": "DROP"}])
    for dst in ("AI.b@north", b.uuid):
        a.send(dst)
        assert len(b.read()) == 1
    a.send(numbered_uuid(99))
    assert reason(a) == "NODE_NOT_FOUND"
    a.send("AI.gone@north")
    assert not a.read()


@pytest.mark.parametrize(("target", "hears"), [("AI.b", False), ("AI.b@*", True), ("AI.b@north", True)])
def test_node_21_the_filter_of_a_broadcast_is_a_full_name(target: str, hears: bool) -> None:
    _, a, b = two()
    a.send("broadcast", trace=UUID, target=target)
    assert bool(b.read()) is hears


def test_node_22_vpns_apply_to_uuids_and_reveal_existence() -> None:
    rig, a, b = two()
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    a.send(b.uuid)
    assert reason(a) == "VPN_BLOCKED"
    assert b.announced["payload"]["vpn_id"] == 0  # what it was told has gone stale


def test_node_23_numbers_survive_a_restart_and_cannot_be_forged() -> None:
    rig, a, b = two()
    a.send("AI.b@north", type="system", thread_id="t", thread_seq=500)
    assert b.read_one()["meta"]["thread_seq"] == 1
    assert ThreadCounters(rig.bounds).next("t") > 1


def test_node_24_a_frame_that_grows_over_the_limit_costs_that_frame_only() -> None:
    rig, a, b = two()
    bare = len(frame_bytes(message(a.uuid, "AI.b@north", payload="")))
    a.send("AI.b@north", payload="x" * (MAX_FRAME_BYTES - bare))
    a.send("AI.b@north", payload="next")
    assert b.read_one()["payload"] == "next"
    assert (a.open, b.open, rig.counts["oversize_out"]) == (True, True, 1)


def test_node_25_an_unknown_action_class_is_refused_and_counted() -> None:
    rig, a, b = two()
    a.send("AI.b@north", action_class="destroy")
    assert not b.read()
    assert rig.counts == {"bad_type": 1}
    assert a.open


def test_node_26_unknown_keys_arrive() -> None:
    _, a, b = two()
    strange = message(a.uuid, "AI.b@north", private=1)
    strange["routing"]["hop"] = [2]
    strange["more"] = {"x": 3}
    a.send_bytes(frame_bytes(strange))
    got = b.read_one()
    assert (got["meta"]["private"], got["routing"]["hop"], got["more"]) == (1, [2], {"x": 3})


@pytest.mark.parametrize("kind", ["user", "command", "query"])
def test_node_27_what_nobody_gets_is_recorded_too(kind: str) -> None:
    rig, a, _ = two()
    a.send("AI.gone@north", type=kind)
    assert len(rig.turns.recorded) == 1


# --- routing-and-regions §9.1 -------------------------------------------------------------------------------


def test_routing_01_nobody_speaks_as_somebody_else() -> None:
    rig, a, b = two()
    a.send("AI.b@north", src=b.uuid)
    assert (len(b.read()), rig.counts["foreign_src"]) == (0, 1)


def test_routing_02_a_name_of_another_hive_cannot_beat_the_real_node() -> None:
    rig, a, _ = two()
    rig.learn(RemoteNode(uuid=UUID, name="AI.c@south", vpn_id=0, hive="south"))
    impostor = rig.accept()
    rig.hello(impostor, "AI.c@south")
    assert not impostor.open
    a.send("AI.c@south")
    assert rig.link.forwarded[0][0] == "south"


@pytest.mark.parametrize(("override", "arrives"), [(False, True), (True, False)])
def test_routing_03_whether_routes_override_nodes_is_a_setting(override: bool, arrives: bool) -> None:
    rig = Rig(static_override=override)
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    rig.configure(routes=[{"prefix": "AI.b", "action": "DROP"}])
    a.send("AI.b@north")
    assert bool(b.read()) is arrives


def test_routing_04_config_changed_stays_in_the_hive_whatever_its_destination() -> None:
    rig, a, _ = two()
    rig.learn(RemoteNode(uuid=UUID, name="AI.c@south", vpn_id=0, hive="south"))
    rig.connect("SY.admin").send("AI.c@south", type="system", msg="CONFIG_CHANGED")
    assert len(a.read()) == 1
    assert not rig.link.forwarded


def test_routing_05_policy_is_asked_once_per_frame() -> None:
    oracle = Oracle("AI.far@south")
    rig = Rig(resolver=oracle)
    rig.learn(RemoteNode(uuid=UUID, name="AI.far@south", vpn_id=0, hive="south"))
    rig.connect("AI.a").send(None)
    assert len(oracle.asked) == 1
    assert rig.link.forwarded[0][0] == "south"


def test_routing_06_vpn_zero_is_a_zone() -> None:
    rig, _a, b = two()
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 10}])
    b.send("AI.a@north")
    assert reason(b) == "VPN_BLOCKED"


def test_routing_07_the_hive_of_a_name_starts_at_its_first_at_sign() -> None:
    rig = Rig()
    mail = rig.connect("IO.mail.a@b.c@north")
    assert mail.announced["payload"]["name"] == "IO.mail.a@b.c@north"
    rig.connect("AI.x@north")
    there = rig.connect("AI.x@b.c@north")
    mail.send("AI.x@*")
    assert len(there.read()) == 1


def test_routing_08_an_unknown_hive_is_an_unknown_node() -> None:
    _, a, _ = two()
    a.send("AI.x@nowhere")
    assert reason(a) == "NODE_NOT_FOUND"


def test_routing_10_equal_names_stand_by_and_a_blocked_first_ends_the_search() -> None:
    rig, a, first = two()
    second = rig.connect("AI.b")
    for _ in range(3):
        a.send("AI.b@north")
    assert (len(first.read()), len(second.read())) == (3, 0)
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    a.send("AI.b@north")
    assert reason(a) == "VPN_BLOCKED"


def test_routing_13_another_broadcast_under_the_same_trace_is_lost_for_30_seconds() -> None:
    rig, a, b = two()
    for payload in (1, 2):
        a.send("broadcast", trace=UUID, payload=payload)
    rig.wait(30)
    a.send("broadcast", trace=UUID, payload=3)
    assert [got["payload"] for got in b.read()] == [1, 3]


def test_routing_14_a_hive_out_of_reach_is_answered_at_once() -> None:
    rig, a, _ = two()
    rig.learn(RemoteNode(uuid=UUID, name="AI.c@south", vpn_id=0, hive="south"))
    rig.link.reasons["south"] = "WAN_UNAVAILABLE"
    a.send("AI.c@south")
    assert reason(a) == "WAN_UNAVAILABLE"


def test_routing_17_a_consumer_may_take_thread_and_number_as_a_key() -> None:
    rig = Rig()
    seen: set[int] = set()
    for _ in range(3):
        rig.engine.threads = ThreadCounters(rig.bounds)
        a, b = rig.connect("AI.a"), rig.connect("AI.b")
        for _ in range(5):
            a.send("AI.b@north", thread_id="t")
        seen |= {got["meta"]["thread_seq"] for got in b.read()}
        a.close()
        b.close()
    assert len(seen) == 15


def test_routing_20_a_superseded_connection_is_closed_and_no_source_any_more() -> None:
    rig, a, _ = two()
    older = rig.connect("AI.c", uuid=UUID)
    rig.connect("AI.c", uuid=UUID)
    assert older.connection.closing == "superseded"
    assert older.connection in rig.buried
    a.send(UUID)
    assert older.connection.outbox.empty


def test_routing_21_a_full_journal_of_turns_stops_no_routing() -> None:
    rig, a, b = two()
    rig.turns.hungry = (False, False)
    a.send("AI.b@north")
    assert len(b.read()) == 1
    assert rig.turns.skipped == 1


def test_memory_packages_never_reach_policy_or_turns() -> None:
    oracle = Oracle("AI.b@north")
    rig = Rig(resolver=oracle, memory=Packages(t=b'{"package_version":2}'))
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    a.send(None, thread_id="t", memory_package={"forged": True})
    assert "memory_package" not in oracle.asked[0][1]
    assert "memory_package" not in json.loads(rig.turns.recorded[0])["meta"]
    assert b.read_one()["meta"]["memory_package"] == {"package_version": 2}


# --- nothing is left out ------------------------------------------------------------------------------------


def test_every_edge_has_a_test_or_a_line() -> None:
    here = Path(__file__)
    record = (here.parents[2] / "docs" / "decisions" / "0003-sharp-edges.md").read_text()
    decided = record.partition("**Without a test in that file:**")[2]
    for family, edges in (("node", range(1, 28)), ("routing", range(1, 24))):
        tested = {int(number) for number in re.findall(rf"def test_{family}_(\d\d)_", here.read_text())}
        written = {int(number) for number in re.findall(rf"^\| {family} (\d+) \|", decided, re.MULTILINE)}
        assert tested | written == set(edges)
        assert not tested & written
