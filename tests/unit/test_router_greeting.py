from __future__ import annotations

from typing import Any

import pytest

from appliance.router.connection import State
from tests.router_kit import ROUTER_NAME, ROUTER_UUID, Node, Rig, frame_bytes, message, numbered_uuid, pack

UUID = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"


def refused(rig: Rig, node: Node) -> str:
    """The reason for which ``node`` was turned away; it got no word."""
    assert node.connection.closing == "bad_hello"
    assert not node.read()
    (reason,) = [key for key in rig.counts if key.startswith("hello.")]
    return reason.removeprefix("hello.")


def try_hello(
    name: str = "AI.a", *, rig: Rig | None = None, uid: int = 1000, plane: str | None = None, **changes: Any
) -> str:
    rig = rig or Rig()
    node = rig.accept(uid=uid, plane=plane)
    rig.hello(node, name, **changes)
    return "welcome" if node.connection.state is State.READY else refused(rig, node)


# --- the answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "full"), [("AI.a", "AI.a@north"), ("AI.b@north", "AI.b@north")])
def test_hello_is_answered_with_announce(name: str, full: str) -> None:
    rig = Rig()
    rig.configure(vpns=[{"pattern": "AI.a", "vpn_id": 7}])
    node = rig.connect(name, trace="e1")
    assert node.announced == {
        "routing": {"src": ROUTER_UUID, "dst": node.uuid, "ttl": 1, "trace_id": "e1"},
        "meta": {"type": "system", "msg": "ANNOUNCE"},
        "payload": {
            "uuid": node.uuid,
            "name": full,
            "status": "registered",
            "vpn_id": 7 if name == "AI.a" else 0,
            "router_name": ROUTER_NAME,
        },
    }
    assert rig.engine.changes == [("up", node.connection)]


@pytest.mark.parametrize("written", [UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}"])
def test_src_and_uuid_are_echoed_as_they_were_written(written: str) -> None:
    rig = Rig()
    node = rig.connect("AI.a", uuid=written, src=UUID)
    assert node.announced["routing"]["dst"] == UUID
    assert node.announced["payload"]["uuid"] == written
    assert node.connection.uuid == UUID


def test_announce_is_the_first_frame_even_of_a_node_that_is_spoken_to_at_once() -> None:
    rig = Rig()
    a = rig.connect("AI.a")
    node = rig.accept()
    rig.begin()
    hello = message(
        node.uuid,
        None,
        type="system",
        msg="HELLO",
        payload={"uuid": node.uuid, "name": "AI.b", "version": ""},
    )
    node.feed(pack(frame_bytes(hello)))
    for dst, trace in (("AI.b@north", "t"), ("broadcast", numbered_uuid(50))):
        a.feed(pack(frame_bytes(message(a.uuid, dst, trace=trace))))
    rig.end()
    assert [got["meta"].get("msg") for got in node.read()] == ["ANNOUNCE", None, None]


def test_what_follows_hello_in_the_same_read_is_routed() -> None:
    rig = Rig()
    b = rig.connect("AI.b")
    node = rig.accept()
    rig.begin()
    hello = message(
        node.uuid,
        None,
        type="system",
        msg="HELLO",
        payload={"uuid": node.uuid, "name": "AI.a", "version": ""},
    )
    node.feed(pack(frame_bytes(hello)) + pack(frame_bytes(message(node.uuid, "AI.b@north"))))
    rig.end()
    assert b.read_one()["routing"]["src_l2_name"] == "AI.a@north"


def test_a_second_hello_is_an_ordinary_message() -> None:
    rig = Rig()
    a = rig.connect("AI.a")
    rig.hello(a, "AI.other")
    assert a.read_one()["payload"] == {"original_dst": "null", "reason": "OPA_NO_TARGET"}
    assert a.connection.name == "AI.a@north"


# --- what is turned away ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        message(numbered_uuid(1), None, type="system", msg="WITHDRAW"),
        message(numbered_uuid(1), "AI.b@north"),
        message(
            numbered_uuid(1),
            None,
            type="user",
            msg="HELLO",
            payload={"uuid": numbered_uuid(1), "name": "x", "version": ""},
        ),
    ],
)
def test_the_first_frame_must_be_hello(first: dict[str, Any]) -> None:
    rig = Rig()
    node = rig.accept()
    node.send_bytes(frame_bytes(first))
    assert refused(rig, node) == "not_hello"


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff" * 80, b"GET / HTTP/1.1\r\n\r\n" * 5])
def test_garbage_instead_of_hello_ends_the_connection(body: bytes) -> None:
    rig = Rig()
    node = rig.accept()
    node.send_bytes(body)
    assert node.connection.closing == "bad_hello"
    assert not node.read()
    assert node.connection.rejected == 1


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        {"uuid": UUID, "name": "AI.a"},
        {"uuid": UUID, "version": "1"},
        {"name": "AI.a", "version": "1"},
        {"uuid": UUID, "name": "AI.a", "version": 1},
        {"uuid": UUID, "name": None, "version": "1"},
    ],
)
def test_the_payload_must_have_its_three_texts(payload: Any) -> None:
    rig = Rig()
    node = rig.accept()
    node.send_bytes(frame_bytes(message(UUID, None, type="system", msg="HELLO", payload=payload)))
    assert refused(rig, node) == "payload"


def test_further_keys_and_any_version_are_fine() -> None:
    assert try_hello(payload={"version": "", "more": [1]}) == "welcome"


@pytest.mark.parametrize(
    ("src", "uuid"),
    [(UUID, numbered_uuid(3)), ("", UUID), (UUID, ""), ("AI.a@north", "AI.a@north"), (UUID, "x")],
)
def test_src_and_uuid_must_be_the_same_uuid(src: str, uuid: str) -> None:
    assert try_hello(src=src, uuid=uuid) == "uuid"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("", "name"),
        ("@north", "name"),
        ("AI." + "x" * 248 + "@north", "name"),
        ("AI." + "ü" * 124 + "@north", "name"),
        ("AI." + "x" * 247 + "@north", "welcome"),
        ("AI." + "x" * 247, "welcome"),
        ("AI." + "x" * 248, "name"),
        ("AI.a@south", "foreign_hive"),
        ("AI.a@", "foreign_hive"),
        ("AI.a@north2", "foreign_hive"),
        ("AI.a@NORTH", "foreign_hive"),
        ("IO.mail.a@b.c@north", "welcome"),
        ("plain", "welcome"),
        ("AI.ä\u0000 \n*", "welcome"),
        ("sy.admin", "welcome"),
    ],
)
def test_names(name: str, verdict: str) -> None:
    assert try_hello(name) == verdict


@pytest.mark.parametrize(
    ("name", "uid", "plane", "settings", "verdict"),
    [
        ("SY.timer", 1000, None, {}, "reserved_name"),
        ("RT.other", 1000, None, {}, "reserved_name"),
        ("SY.timer", 1000, "control", {}, "welcome"),
        ("SY.timer", 0, None, {}, "welcome"),
        ("SY.timer", 0, None, {"system_uids": frozenset({7})}, "reserved_name"),
        ("SY.timer", 7, None, {"system_uids": frozenset({7})}, "welcome"),
        ("SY.timer", -1, None, {}, "reserved_name"),
        ("SY.timer@south", 0, "control", {}, "foreign_hive"),
        (ROUTER_NAME, 0, "control", {}, "reserved_name"),
        ("SY.timer", 1000, None, {"open_security": True}, "welcome"),
        ("AI.a@south", 1000, None, {"open_security": True}, "welcome"),
        ("AI." + "x" * 254, 1000, None, {"open_security": True}, "name"),
        ("AI.a", 1000, "control", {}, "welcome"),
    ],
)
def test_reserved_names(
    name: str, uid: int, plane: str | None, settings: dict[str, Any], verdict: str
) -> None:
    assert try_hello(name, rig=Rig(**settings), uid=uid, plane=plane) == verdict


def test_the_routers_own_uuid_is_not_for_nodes() -> None:
    for settings in ({}, {"open_security": True}):
        assert try_hello(rig=Rig(**settings), uuid=ROUTER_UUID) == "reserved_uuid"
    assert try_hello("SY.a", plane="control", uuid=ROUTER_UUID.upper()) == "reserved_uuid"


def test_a_hello_whose_answer_would_not_fit_a_frame_is_refused() -> None:
    bare = len(
        frame_bytes(
            message(
                UUID, None, type="system", msg="HELLO", payload={"uuid": UUID, "name": "AI.a", "version": ""}
            )
        )
    )
    assert try_hello(trace="t" * (131_072 - bare), payload={"version": ""}) == "too_long"


# --- how many -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"open_security": True}])
def test_a_node_too_many_is_turned_away_and_the_appliance_never(settings: dict[str, Any]) -> None:
    rig = Rig(max_nodes=2, **settings)
    first = rig.connect("AI.a")
    rig.connect("AI.b")
    assert try_hello("AI.c", rig=rig) == "too_many_nodes"
    rig.connect("SY.timer")
    first.close()
    rig.connect("AI.d")
    assert rig.engine.greeter.ordinary_nodes == 2


def test_a_node_that_comes_back_at_the_limit_takes_its_own_place() -> None:
    rig = Rig(max_nodes=2)
    first = rig.connect("AI.a")
    rig.connect("AI.b")
    rig.connect("AI.a", uuid=first.uuid)
    assert not first.open
    assert rig.engine.greeter.ordinary_nodes == 2


def test_the_count_of_nodes_needs_no_wall_clock() -> None:
    rig = Rig(max_nodes=1)
    rig.wall_ms = 0
    for _ in range(3):
        rig.connect("AI.a").close()
    assert rig.engine.greeter.ordinary_nodes == 0


def test_who_was_turned_away_does_not_count() -> None:
    rig = Rig(max_nodes=1)
    for _ in range(3):
        rig.hello(rig.accept(), "SY.timer")
        rig.accept().close()
    rig.connect("AI.a")


# --- the same uuid twice ------------------------------------------------------------------------------------


def test_the_newer_connection_wins_and_the_older_is_closed() -> None:
    rig = Rig()
    a, older = rig.connect("AI.a"), rig.connect("AI.b")
    newer = rig.connect("AI.b", uuid=older.uuid)
    assert older.connection.closing == "superseded"
    for dst in ("AI.b@north", older.uuid):
        a.send(dst)
        assert len(newer.read()) == 1
    older.close()
    a.send(older.uuid)
    assert len(newer.read()) == 1


def test_a_probe_that_leaves_late_does_not_unregister_the_real_one() -> None:
    rig = Rig()
    a = rig.connect("AI.a")
    for _ in range(50):
        probe = rig.connect("AI.go", uuid=UUID)
        real = rig.connect("AI.go", uuid=UUID)
        probe.close()
        a.send(UUID)
        assert len(real.read()) == 1
        real.close()
    assert set(rig.engine.fib.by_uuid) == {a.uuid}


def test_another_name_with_a_taken_uuid_wins_too() -> None:
    rig = Rig()
    older = rig.connect("AI.a")
    newer = rig.connect("AI.b", uuid=older.uuid)
    assert not older.open
    assert set(rig.engine.fib.by_name) == {"AI.b@north"}
    assert newer.open


@pytest.mark.parametrize("name", ["AI.evil", "IO.x"])
def test_an_ordinary_node_cannot_take_the_uuid_of_the_appliance(name: str) -> None:
    rig = Rig()
    timer = rig.connect("SY.timer")
    assert try_hello(name, rig=rig, uuid=timer.uuid) == "reserved_uuid"
    assert timer.open
    rig.connect("SY.timer", uuid=timer.uuid)
    assert not timer.open


# --- silence ------------------------------------------------------------------------------------------------


def test_a_newcomer_that_says_nothing_is_closed_at_its_deadline() -> None:
    rig = Rig(hello_timeout_s=5.0)
    early = rig.accept()
    rig.wait(2)
    late = rig.accept()
    assert rig.engine.next_deadline() == early.connection.accepted_at + 5.0
    rig.wait(2.9)
    assert early.open
    rig.wait(0.1)
    assert (early.connection.closing, late.open) == ("hello_timeout", True)
    rig.wait(2)
    assert not late.open
    assert rig.counts["hello.timeout"] == 2
    assert rig.engine.next_deadline() == float("inf")


def test_half_a_hello_is_silence_and_a_registered_node_may_be_silent_for_ever() -> None:
    rig = Rig()
    quiet = rig.connect("AI.a")
    half = rig.accept()
    rig.begin()
    half.feed(b"\0\0\0\xff{")
    rig.end()
    rig.wait(3600)
    assert (quiet.open, half.connection.closing) == (True, "hello_timeout")


# --- held while unconfigured --------------------------------------------------------------------------------


def test_nodes_are_held_until_the_configuration_is_there() -> None:
    rig = Rig(configured=False)
    node = rig.accept()
    rig.begin()
    hello = message(
        node.uuid,
        None,
        type="system",
        msg="HELLO",
        payload={"uuid": node.uuid, "name": "AI.a", "version": ""},
    )
    later = message(node.uuid, "AI.a@north", payload="kept")
    node.feed(pack(frame_bytes(hello)) + pack(frame_bytes(later)))
    rig.end()
    assert node.connection.state is State.HELD
    assert not node.read()
    rig.wait(3600)
    assert node.open
    assert rig.counts["hello_held"] == 1
    rig.configure(vpns=[{"pattern": "AI.a", "vpn_id": 7}])
    rig.begin()
    rig.engine.greeter.release()
    rig.end()
    announced, kept = node.read()
    assert (announced["payload"]["vpn_id"], kept["payload"]) == (7, "kept")
    assert rig.connect("AI.b").announced["meta"]["msg"] == "ANNOUNCE"


def test_the_appliance_is_not_held() -> None:
    rig = Rig(configured=False)
    rig.connect("SY.config.routes")
    assert not rig.engine.greeter.held


def test_a_held_node_that_leaves_is_forgotten() -> None:
    rig = Rig(configured=False, max_nodes=1)
    for _ in range(3):
        node = rig.accept()
        rig.hello(node, "AI.a")
        assert node.connection.state is State.HELD
        node.close()
    rig.engine.greeter.release()
    assert not rig.engine.fib.by_uuid
    assert rig.engine.greeter.ordinary_nodes == 0


def test_a_node_that_gave_up_waiting_and_comes_again_replaces_itself() -> None:
    # Nobody reads a held connection, so that its end is not seen; its successor shows that it is over.
    rig = Rig(configured=False, max_nodes=1)
    nodes = [rig.accept() for _ in range(3)]
    for node in nodes:
        rig.hello(node, "AI.a", uuid=UUID)
    assert [node.connection.closing for node in nodes] == ["superseded", "superseded", None]
    rig.begin()
    rig.engine.greeter.release()
    rig.end()
    assert nodes[2].read_one()["meta"]["msg"] == "ANNOUNCE"


def test_held_nodes_count_towards_the_limit() -> None:
    rig = Rig(configured=False, max_nodes=2)
    for name in ("AI.a", "AI.b"):
        rig.hello(rig.accept(), name)
    assert try_hello("AI.c", rig=rig) == "too_many_nodes"


# --- privileges ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "name", "privileged"),
    [
        ((), "AI.ops", False),
        (("AI.ops",), "AI.ops", True),
        (("AI.ops@north",), "AI.ops", True),
        (("AI.ops@south",), "AI.ops", False),
        (("AI.*",), "AI.ops", True),
        (("*",), "IO.x", True),
        (("AI.o",), "AI.ops", False),
        ((), "SY.admin", True),
    ],
)
def test_who_may_ask_router_internals(patterns: tuple[str, ...], name: str, privileged: bool) -> None:
    assert Rig(admin_nodes=patterns).connect(name).connection.privileged is privileged
