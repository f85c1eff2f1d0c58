from __future__ import annotations

import os
import subprocess
import sys

import pytest

from appliance.router.claims import Claims, token_digest
from appliance.router.connection import Peer, State
from tests.router_kit import HIVE, Node, Rig

NAME = f"AI.a@{HIVE}"
TOKEN = "mark.secret"
SESSIONS = {100: 100, 101: 100, 200: 200, 201: 201, 202: 202}
CGROUPS = {201: "/fluxbee/unit", 202: "/fluxbee/unit/below", 203: "/fluxbee/unit-2"}


def session_of(pid: int) -> int:
    try:
        return SESSIONS[pid]
    except KeyError:
        raise ProcessLookupError(pid) from None


def claims(cgroup: str = "") -> Claims:
    made = Claims(session_of=session_of, cgroup_of=lambda pid: CGROUPS.get(pid, "/"))
    made.claim(NAME, session=100, token_sha256=token_digest(TOKEN), cgroup=cgroup)
    return made


@pytest.mark.parametrize(
    ("pid", "allowed"), [(100, True), (101, True), (200, False), (999, False), (0, False)]
)
def test_the_session_of_the_node_speaks_for_it(pid: int, allowed: bool) -> None:
    assert claims().allows(NAME, Peer(pid=pid, uid=0), "") is allowed


@pytest.mark.parametrize(("pid", "allowed"), [(201, True), (202, True), (200, False)])
def test_so_does_its_cgroup(pid: int, allowed: bool) -> None:
    assert claims("/fluxbee/unit").allows(NAME, Peer(pid=pid), "") is allowed
    assert not claims().allows(NAME, Peer(pid=pid), "")


def test_a_cgroup_with_a_longer_name_is_another_one() -> None:
    made = Claims(session_of=lambda pid: pid, cgroup_of=lambda pid: CGROUPS[pid])
    made.claim(NAME, session=1, token_sha256="", cgroup="/fluxbee/unit")
    assert not made.allows(NAME, Peer(pid=203), "x")


def test_so_does_whoever_has_the_launch_token() -> None:
    made = claims()
    stranger = Peer(pid=200)
    assert made.allows(NAME, stranger, token_digest(TOKEN))
    for wrong in ("", TOKEN, "x", None, 5, ["mark.secret"]):
        assert not made.allows(NAME, stranger, token_digest(wrong) if wrong != TOKEN else TOKEN)


def test_names_without_a_claim_and_planes_are_free() -> None:
    made = claims()
    assert made.allows("AI.b@north", Peer(pid=200), "")
    assert made.allows(NAME, Peer(plane="control"), "")
    made.unclaim(NAME)
    assert made.allows(NAME, Peer(pid=200), "")
    assert not made.changed


def test_the_kernel_says_who_belongs_to_a_session() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    made = Claims()
    made.claim(NAME, session=child.pid, token_sha256="-")
    try:
        assert made.allows(NAME, Peer(pid=child.pid), "")
        assert not made.allows(NAME, Peer(pid=os.getpid()), "")
    finally:
        child.communicate()


# --- in the router ------------------------------------------------------------------------------------------


def rig(**settings: object) -> Rig:
    made = Rig(**settings)
    made.engine.greeter.claims = claims()
    return made


def enter(made: Rig, pid: int, name: str = "AI.a", *, token: object = None, uuid: str | None = None) -> Node:
    node = made.accept()
    node.connection.peer = Peer(pid=pid, uid=1000)
    made.hello(node, name, uuid=uuid or node.uuid, payload={} if token is None else {"launch_token": token})
    return node


def test_a_stranger_is_refused_the_name_and_counted() -> None:
    made = rig()
    made.configure()
    stranger = enter(made, 200)
    assert stranger.connection.closing == "bad_hello"
    assert made.counts["hello.claimed_name"] == 1
    assert enter(made, 101).connection.state is State.READY
    assert enter(made, 200, "AI.other").connection.state is State.READY


def test_the_token_in_hello_opens_the_name() -> None:
    made = rig()
    made.configure()
    assert enter(made, 200, token=TOKEN).connection.state is State.READY
    assert enter(made, 200, token="wrong").connection.closing == "bad_hello"
    assert enter(made, 101, token=5).connection.state is State.READY


def test_a_stranger_cannot_end_a_node_through_its_uuid() -> None:
    made = rig()
    made.configure()
    node = enter(made, 100)
    stranger = enter(made, 200, "AI.mine", uuid=node.uuid)
    assert stranger.connection.closing == "bad_hello"
    assert made.counts["hello.claimed_uuid"] == 1
    assert node.connection.state is State.READY
    assert enter(made, 101, uuid=node.uuid).connection.state is State.READY
    assert node.connection.closing == "superseded"


def test_who_spoke_for_a_name_before_it_was_claimed_must_go() -> None:
    made = rig()
    made.configure()
    made.engine.greeter.claims = Claims(session_of=session_of)
    stranger, own = enter(made, 200), enter(made, 101)
    woken: list[bool] = []
    made.engine.greeter.claims.on_change = lambda: woken.append(True)
    made.engine.greeter.claims.claim(NAME, session=100, token_sha256="-")
    assert woken == [True]
    made.engine.expire()
    assert stranger.connection.closing == "claimed_name"
    assert own.connection.state is State.READY


def test_open_security_lets_anybody_be_anybody() -> None:
    made = rig(open_security=True)
    made.configure()
    assert enter(made, 200).connection.state is State.READY
    made.engine.greeter.claims.changed.add(NAME)
    made.engine.expire()
    assert "closed.claimed_name" not in made.counts


def test_the_claim_of_a_process_that_has_ended_is_met_by_nobody() -> None:
    made = Claims(session_of=lambda pid: 0, cgroup_of=lambda pid: "")  # 0: from another pid namespace
    made.claim(NAME, session=0, token_sha256="ab" * 32)
    assert not made.allows(NAME, Peer(pid=5), "")
    assert not made.allows(NAME, Peer(pid=5), token_digest(TOKEN))
    made.claim(NAME, session=0, token_sha256="")
    assert not made.allows(NAME, Peer(pid=5), "")
