from __future__ import annotations

from typing import Any

import pytest

from appliance.router.outbox import Limits
from appliance.wire.frames import MAX_FRAME_BYTES
from tests.router_kit import (
    HIVE,
    ROUTER_NAME,
    ROUTER_UUID,
    Node,
    Rig,
    frame_bytes,
    message,
    numbered_uuid,
    pack,
)

VERBS = [
    "ROUTER_STATUS",
    "ROUTER_NODES",
    "ROUTER_QUEUES",
    "ROUTER_STATISTICS",
    "ROUTER_EXPLAIN",
    "ROUTER_TAP",
]


def ask(node: Node, verb: str, payload: Any = None, dst: str = ROUTER_NAME) -> dict[str, Any]:
    """The router's answer to a request of ``node``."""
    node.send(dst, type="system", msg=verb, payload=payload, trace="q")
    answer = node.read_one()
    assert answer["routing"] == {"src": ROUTER_UUID, "dst": node.uuid, "ttl": 16, "trace_id": "q"}
    assert answer["meta"] == {"type": "system", "msg": f"{verb}_RESPONSE"}
    payload = answer["payload"]
    assert isinstance(payload, dict)
    return payload


def rig_with_admin(**settings: Any) -> tuple[Rig, Node]:
    rig = Rig(**settings)
    return rig, rig.connect("SY.admin")


# --- echo and permission ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dst", [ROUTER_NAME, ROUTER_UUID, f"urn:uuid:{ROUTER_UUID}"])
def test_anybody_may_ask_for_an_echo(dst: str) -> None:
    node = Rig().connect("AI.a")
    node.send(dst, type="system", msg="ECHO", trace="e", ttl=1)
    assert node.read_one() == {
        "routing": {"src": ROUTER_UUID, "dst": node.uuid, "ttl": 16, "trace_id": "e"},
        "meta": {"type": "system", "msg": "ECHO_REPLY"},
        "payload": {},
    }


@pytest.mark.parametrize("verb", VERBS)
def test_internals_are_for_the_privileged(verb: str) -> None:
    rig = Rig(admin_nodes=("AI.ops",))
    node = rig.connect("AI.a")
    assert ask(node, verb)["error_code"] == "FORBIDDEN"
    assert rig.counts["router_verb_forbidden"] == 1
    payload = {"dst": "AI.a@north"} if verb == "ROUTER_EXPLAIN" else {}
    for allowed in (rig.connect("AI.ops"), rig.connect("SY.admin"), Rig(open_security=True).connect("AI.a")):
        assert ask(allowed, verb, payload)["status"] == "ok"


@pytest.mark.parametrize("verb", VERBS)
def test_the_verbs_are_system_messages(verb: str) -> None:
    rig, admin = rig_with_admin()
    for kind in ("user", "command", "query"):
        admin.send(ROUTER_NAME, type=kind, msg=verb)
    assert not admin.read()
    assert rig.counts["to_router"] == 3


# --- status -------------------------------------------------------------------------------------------------


def test_status_says_who_and_how_much() -> None:
    rig, admin = rig_with_admin()
    node = rig.connect("AI.a")
    rig.accept()
    node.send("AI.x@north")
    rig.engine.verbs.extra_status = lambda: {"turns": 12}
    assert ask(admin, "ROUTER_STATUS") == {
        "status": "ok",
        "hive": HIVE,
        "router_uuid": ROUTER_UUID,
        "router_name": ROUTER_NAME,
        "nodes": 2,
        "held": 0,
        "configured": True,
        "paused_senders": 0,
        "taps": 0,
        "counts": {"unreachable.NODE_NOT_FOUND": 1},
        "turns": 12,
    }


def test_statistics_have_every_counter() -> None:
    rig, admin = rig_with_admin()
    rig.connect("AI.a").send("AI.x@north", thread_id="t")
    answer = ask(admin, "ROUTER_STATISTICS")
    assert answer["counts"] == {"unreachable.NODE_NOT_FOUND": 1}
    assert answer["threads"] == {"cached": 1, "reservations": 1}


# --- nodes and queues ---------------------------------------------------------------------------------------


def test_nodes_are_listed_by_name_with_their_standbys() -> None:
    rig, admin = rig_with_admin()
    rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    first, second = rig.connect("AI.b"), rig.connect("AI.b")
    answer = ask(admin, "ROUTER_NODES", {})
    assert [(one["name"], one["uuid"], one["vpn_id"], one["serving"]) for one in answer["nodes"]] == [
        ("AI.b@north", first.uuid, 7, True),
        ("AI.b@north", second.uuid, 7, False),
        ("SY.admin@north", admin.uuid, 0, True),
    ]
    assert answer["nodes"][0] == {
        "name": "AI.b@north",
        "uuid": first.uuid,
        "vpn_id": 7,
        "connected_at_ms": rig.wall_ms,
        "pid": 1,
        "uid": 1000,
        "serving": True,
    }
    assert answer["next"] is None


@pytest.mark.parametrize(("verb", "key"), [("ROUTER_NODES", "nodes"), ("ROUTER_QUEUES", "queues")])
def test_a_thousand_nodes_come_in_pages_that_fit_a_frame(verb: str, key: str) -> None:
    rig, admin = rig_with_admin()
    names = sorted(f"AI.worker.{'x' * 100}.{number}@{HIVE}" for number in range(1000))
    for name in names:
        rig.connect(name)
    seen, after, pages = [], "", 0
    while after is not None:
        admin.send(ROUTER_NAME, type="system", msg=verb, payload={"after": after})
        (body,) = admin.read_bytes()
        assert len(body) <= MAX_FRAME_BYTES
        admin.send(ROUTER_NAME, type="system", msg=verb, payload={"after": after})
        answer = admin.read_one()["payload"]
        seen += [one["name"] for one in answer[key]]
        after, pages = answer["next"], pages + 1
    assert seen == [*names, f"SY.admin@{HIVE}"]
    assert pages > 1


def test_queues_show_what_waits() -> None:
    rig, admin = rig_with_admin()
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    a.send("AI.b@north")
    a.send_bytes(b"")
    rig.now += 1
    waiting = {one["name"]: one for one in ask(admin, "ROUTER_QUEUES")["queues"]}
    assert waiting["AI.a@north"]["rejected"] == 1
    assert waiting["AI.b@north"]["frames"] == 1
    assert waiting["AI.b@north"]["size_bytes"] == b.connection.outbox.queued_bytes
    assert waiting["AI.b@north"]["stalled"] is True


@pytest.mark.parametrize("payload", [1, [], "x", {"after": 1}])
def test_a_page_request_of_another_shape_is_invalid(payload: Any) -> None:
    _, admin = rig_with_admin()
    assert ask(admin, "ROUTER_NODES", payload)["error_code"] == "INVALID_REQUEST"


# --- explain ------------------------------------------------------------------------------------------------


def test_explain_says_where_a_frame_would_go_and_why() -> None:
    rig, admin = rig_with_admin()
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    rig.configure(
        routes=[{"prefix": "AI.far", "action": "FORWARD", "next_hop_hive": "south"}],
        vpns=[{"pattern": "AI.b", "vpn_id": 7}],
    )
    cases = {
        ("AI.b@north", None): ("local", "AI.b@north", None),
        ("AI.b@north", "AI.a@north"): ("blocked", None, None),
        (b.uuid, a.uuid): ("blocked", None, None),
        (b.uuid, b.uuid.upper()): ("local", "AI.b@north", None),
        ("AI.far@south", "AI.a@north"): ("hive", None, "south"),
        ("AI.none@north", None): ("none", None, None),
    }
    for (dst, src), expected in cases.items():
        answer = ask(admin, "ROUTER_EXPLAIN", {"dst": dst} | ({} if src is None else {"src": src}))
        assert (answer["hop"], answer["node"], answer["hive"]) == expected
        assert answer["why"]
    assert rig.counts == {}


@pytest.mark.parametrize("payload", [None, [], {}, {"dst": None}, {"dst": 1}, {"dst": "x", "src": 1}, "x"])
def test_explain_needs_a_destination(payload: Any) -> None:
    _, admin = rig_with_admin()
    assert ask(admin, "ROUTER_EXPLAIN", payload)["error_code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("src", ["AI.gone@north", "AI.gone", "", numbered_uuid(99)])
def test_explain_for_somebody_who_is_not_here(src: str) -> None:
    _, admin = rig_with_admin()
    assert ask(admin, "ROUTER_EXPLAIN", {"dst": "x", "src": src})["error_code"] == "NOT_FOUND"


def test_an_answer_that_does_not_fit_says_so() -> None:
    _, admin = rig_with_admin()
    answer = ask(admin, "ROUTER_EXPLAIN", {"dst": "x", "src": "\u00a0" * 60_000})
    assert answer["error_code"] == "TOO_LARGE"


# --- tap ----------------------------------------------------------------------------------------------------


def test_a_tap_sees_what_matches_and_neither_its_own_traffic_nor_the_router_s() -> None:
    rig, admin = rig_with_admin()
    a, b, c = (rig.connect(name) for name in ("AI.a", "AI.b", "AI.c"))
    assert ask(admin, "ROUTER_TAP", {"pattern": "AI.b@*"}) == {"status": "ok", "dropped": 0}
    a.send("AI.b@north", payload={"x": 1}, trace="one", msg="m")
    b.send("AI.a@north", trace="two")
    a.send("AI.c@north")
    c.send("AI.none@north")
    b.send("SY.admin@north")
    seen = admin.read()
    events = [got["payload"] for got in seen if got["meta"].get("msg") == "ROUTER_TAP_EVENT"]
    assert [event["trace_id"] for event in events] == ["one", "two"]
    (delivered,) = b.read_bytes()
    assert events[0] == {
        "at_ms": rig.wall_ms,
        "from": "AI.a@north",
        "to": "AI.b@north",
        "dst": "AI.b@north",
        "type": "user",
        "msg": "m",
        "trace_id": "one",
        "outcome": "delivered",
        "size_bytes": len(delivered),
        "frame": message(a.uuid, "AI.b@north", trace="one", msg="m", payload={"x": 1})
        | {
            "routing": {
                "src": a.uuid,
                "src_l2_name": "AI.a@north",
                "dst": "AI.b@north",
                "ttl": 16,
                "trace_id": "one",
            },
            "meta": {"type": "user", "msg": "m", "action_class": "send_message"},
        },
    }


def test_every_outcome_is_shown() -> None:
    rig, admin = rig_with_admin()
    a = rig.connect("AI.a")
    rig.connect("AI.b")
    rig.configure(routes=[{"prefix": "AI.d", "action": "DROP"}], vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    ask(admin, "ROUTER_TAP", {})
    for dst, ttl in (("AI.none@north", 1), ("AI.d@x", 1), ("AI.b@north", 1), (None, 1), ("AI.a@north", 0)):
        a.send(dst, ttl=ttl)
    a.send("broadcast", trace=numbered_uuid(60))
    rig.connect("SY.config.routes").send("broadcast", type="system", msg="CONFIG_CHANGED")
    outcomes = [
        got["payload"]["outcome"] for got in admin.read() if got["meta"].get("msg") == "ROUTER_TAP_EVENT"
    ]
    assert outcomes == [
        "NODE_NOT_FOUND",
        "route_drop",
        "VPN_BLOCKED",
        "OPA_NO_TARGET",
        "ttl_exceeded",
        "broadcast",
        "flooded",
    ]


def test_a_tap_ends_by_itself_when_it_is_not_renewed_or_its_owner_leaves() -> None:
    rig, admin = rig_with_admin()
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    ask(admin, "ROUTER_TAP", {})
    rig.wait(30)
    a.send("AI.b@north")
    assert not admin.read()
    ask(admin, "ROUTER_TAP", {})
    ask(admin, "ROUTER_TAP", {"stop": True})
    a.send("AI.b@north")
    assert not admin.read()
    ask(admin, "ROUTER_TAP", {})
    admin.close()
    assert not rig.engine.taps
    a.send("AI.b@north")
    assert len(b.read()) == 3


def test_there_are_only_so_many_taps() -> None:
    rig, _ = rig_with_admin()
    answers = [ask(rig.connect(f"SY.{number}"), "ROUTER_TAP", {})["status"] for number in range(9)]
    assert answers == ["ok"] * 8 + ["error"]


def test_long_bodies_are_shown_without_their_content_and_none_makes_a_frame_too_long() -> None:
    rig, admin = rig_with_admin()
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    ask(admin, "ROUTER_TAP", {})
    a.send("AI.b@north", payload="x" * 9000)
    event = admin.read_one()["payload"]
    assert (event["frame"], event["size_bytes"]) == (None, len(b.read_bytes()[0]))
    a.send("AI.b@north", trace="t" * 100_000)
    assert not admin.read()
    assert len(b.read()) == 1
    assert rig.engine.taps.dropped == 1


def test_a_slow_watcher_loses_copies_and_nobody_waits() -> None:
    rig, admin = rig_with_admin(queues=Limits(control_frames=5))
    a, b = rig.connect("AI.a"), rig.connect("AI.b")
    ask(admin, "ROUTER_TAP", {})
    rig.begin()
    a.feed(pack(frame_bytes(message(a.uuid, "AI.b@north"))) * 50)
    rig.end()
    assert len(b.read()) == 50
    assert len(admin.read()) == 5
    assert ask(admin, "ROUTER_TAP", {})["dropped"] == 45
    assert not a.connection.blocked
