from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import msgspec
import pytest

from appliance.keeper.desk import Counters, Desk
from appliance.keeper.node_voice import NodeVoice
from appliance.keeper.nodes import NodeHouse
from appliance.keeper.nodes_protocol import (
    FollowNodes,
    ForgetNode,
    ListNodes,
    NodeEnded,
    NodePage,
    NodeProcess,
    StartNode,
    StopNode,
)
from appliance.keeper.numbers import KeeperSettings
from appliance.keeper.plan import KeeperPlan, PlaneState
from appliance.keeper.protocol import (
    Health,
    KeeperStatus,
    Link,
    Ready,
    Reply,
    Restart,
    Status,
    Stop,
    decode_order,
    encode,
)
from appliance.system.channel import MAX_PACKET_BYTES, Channel, Packet
from appliance.system.process import ProcessExit, open_descriptors
from tests.unit.test_keeper_nodes_protocol import launch


class Office:
    """A desk with two starting planes on real channels."""

    def __init__(self, run_directory: Path) -> None:
        self.plan = KeeperPlan(("data", "control"), KeeperSettings(), seed=1)
        self.plan.start(0.0)
        self.plan.tick(0.0)
        pairs = {name: Channel.pair() for name in self.plan.planes}
        self.ours = {name: pair[0] for name, pair in pairs.items()}
        self.theirs = {name: pair[1] for name, pair in pairs.items()}
        self.counters = Counters()
        voice = NodeVoice("data", self._send, self.ours.__contains__)
        self.nodes = NodeHouse(run_directory, voice, select.poll(), use_cgroups=False)
        self.desk = Desk(self.plan, self.ours, self.counters, started_at=0.0, nodes=self.nodes)

    def _send(self, plane: str, data: bytes) -> bool:
        return self.desk.send(plane, data)

    def ask(self, request, fds=(), now: float = 1.0, plane: str = "control") -> Reply | None:
        self.desk.serve(plane, Packet(encode(request), tuple(fds)), now)
        packet = self.theirs[plane].receive()
        if packet is None:
            return None
        reply = decode_order(packet.data)
        assert isinstance(reply, Reply)
        return reply

    def close(self) -> None:
        for channel in (*self.ours.values(), *self.theirs.values()):
            channel.close()


@pytest.fixture
def office(tmp_path: Path):
    office = Office(tmp_path)
    yield office
    office.close()


def test_ready_and_health_reach_the_plan(office: Office) -> None:
    assert office.ask(Health(id=1, timeout_s=7.0)) == Reply(id=1, result=msgspec.Raw(b"null"))
    assert office.plan.next_deadline() == 8.0
    reply = office.ask(Ready(id=2))
    assert reply is not None
    assert reply.ok
    assert office.plan.state("control") is PlaneState.READY
    assert office.plan.state("data") is PlaneState.STARTING


def test_without_an_id_there_is_no_reply(office: Office) -> None:
    assert office.ask(Ready()) is None
    assert office.plan.state("control") is PlaneState.READY


def test_status_tells_planes_and_counters(office: Office) -> None:
    reply = office.ask(Status(id=1), now=3.5)
    assert reply is not None
    status = msgspec.json.decode(reply.result, type=KeeperStatus)
    assert (status.pid, status.uptime_s, status.stopping) == (os.getpid(), 3.5, False)
    assert [plane.name for plane in status.planes] == ["data", "control"]
    assert status.statistics.requests == 1


def test_a_refusal_names_its_code(office: Office) -> None:
    reply = office.ask(Restart(id=9, plane="moon"))
    assert reply is not None
    assert (reply.id, reply.code) == (9, "NOT_FOUND")
    assert office.counters.requests_rejected == 1


def test_restart_reaches_the_plan(office: Office) -> None:
    office.ask(Restart(id=1, plane="data"))
    assert office.plan.state("data") is PlaneState.STOPPING


def test_a_link_goes_to_the_routing_plane_and_its_descriptor_leaves_the_keeper(office: Office) -> None:
    mine, theirs = socket.socketpair()
    with mine:
        reply = office.ask(Link(id=1, name="SY.admin", plane="I am data, truly"), [theirs.detach()])
        assert reply is not None
        assert reply.ok
        packet = office.theirs["data"].receive()
        assert packet is not None
        assert decode_order(packet.data) == Link(name="SY.admin", plane="control")
        with socket.socket(fileno=packet.fds[0]) as arrived:
            arrived.sendall(b"hello")
        assert mine.recv(10) == b"hello"
        assert mine.recv(10) == b""  # nobody else holds the other end
    assert office.counters.links_forwarded == 1


@pytest.mark.parametrize("count", [0, 2])
def test_a_link_has_one_descriptor(office: Office, count: int) -> None:
    before = open_descriptors()
    reply = office.ask(Link(id=1, name="x"), [os.dup(0) for _ in range(count)])
    assert reply is not None
    assert reply.code == "INVALID_REQUEST"
    assert office.counters.links_refused == 1
    assert open_descriptors() == before


def test_a_link_while_the_routing_plane_is_down_is_refused(office: Office) -> None:
    office.plan.exited("data", ProcessExit(1), 1.0)
    office.ours.pop("data").close()
    before = open_descriptors()
    reply = office.ask(Link(id=1, name="x"), [os.dup(0)])
    assert reply is not None
    assert (reply.code, office.counters.links_refused) == ("UNAVAILABLE", 1)
    assert open_descriptors() == before


def test_a_link_to_a_stopping_routing_plane_is_refused(office: Office) -> None:
    office.ask(Restart(id=1, plane="data"))
    reply = office.ask(Link(id=2, name="x"), [os.dup(0)])
    assert reply is not None
    assert (reply.code, reply.message) == ("UNAVAILABLE", "the plane data is stopping; try again")


def test_links_that_nobody_takes_are_refused_in_the_end(office: Office) -> None:
    before = open_descriptors()
    for _ in range(10_000):
        reply = office.ask(Link(id=1, name="x"), [os.dup(0)])
        assert reply is not None
        if not reply.ok:
            break
    else:
        pytest.fail("the routing plane's channel has no bound")
    assert reply.code == "BUSY"
    assert office.counters.links_refused == 1
    assert office.counters.sends_dropped == 1
    assert open_descriptors() == before


def test_a_plane_that_does_not_read_loses_its_own_answers(office: Office) -> None:
    for _ in range(10_000):
        office.desk.serve("control", Packet(encode(Status(id=1))), 1.0)
        if office.counters.sends_dropped:
            break
    assert office.counters.sends_dropped == 1
    assert office.ask(Status(id=1), plane="data") is not None


def test_sending_to_nobody_is_a_drop(office: Office) -> None:
    assert not office.desk.send("world", encode(Stop(reason="", grace_s=0.0)))
    assert office.counters.sends_dropped == 1


@pytest.mark.parametrize("data", [b"\xff", b"", b"[" * MAX_PACKET_BYTES, b'{"op":"what","id":3}'])
def test_rubbish_is_counted_and_its_descriptors_are_closed(office: Office, data: bytes) -> None:
    before = open_descriptors()
    office.desk.serve("control", Packet(data, (os.dup(0), os.dup(0))), 1.0)
    assert office.counters.requests_rejected == 1
    assert open_descriptors() == before


def test_dropped_packets_of_live_channels_are_counted_in(office: Office) -> None:
    with socket.socket(fileno=os.dup(office.theirs["control"].fileno())) as raw:
        raw.send(b"x" * (MAX_PACKET_BYTES + 1))
    assert office.ours["control"].receive() is None
    office.counters.packets_dropped = 5
    assert office.desk.statistics().packets_dropped == 6


# --- node processes -----------------------------------------------------------------------------------------


def test_what_is_asked_about_nodes_goes_to_the_house(office: Office, tmp_path: Path) -> None:
    order = launch(argv=("/bin/sh", "-c", "exec sleep 600"), log_dir=str(tmp_path / "logs"))
    reply = office.ask(StartNode(id=1, launch=order))
    assert reply is not None
    assert reply.ok, reply
    started = msgspec.json.decode(reply.result, type=NodeProcess)
    try:
        again = office.ask(StartNode(id=2, launch=order))
        assert again is not None
        assert again.code == "NODE_RUNNING"
        listed = office.ask(ListNodes(id=3))
        assert listed is not None
        assert msgspec.json.decode(listed.result, type=NodePage).nodes == (started,)
        running = office.ask(ForgetNode(id=4, name=order.name))
        assert running is not None
        assert running.code == "NODE_RUNNING"
        status = office.ask(Status(id=5))
        assert status is not None
        assert msgspec.json.decode(status.result, type=KeeperStatus).nodes.running == 1
        follows = office.ask(FollowNodes(id=6))
        assert follows is not None
        assert follows.ok
        stopping = office.ask(StopNode(id=7, name=order.name, signal="SIGKILL"))
        assert stopping is not None
        assert msgspec.json.decode(stopping.result, type=NodeProcess).state == "stopping"
        assert started.pid is not None
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert office.nodes.exited(started.pid, 2.0)
        packet = office.theirs["control"].receive()
        assert packet is not None
        told = decode_order(packet.data)
        assert isinstance(told, NodeEnded)
        assert told.process.exit_signal == 9
    finally:
        office.nodes.close()


def test_an_unknown_node_is_not_found(office: Office) -> None:
    for request in (StopNode(id=1, name="AI.a@north"), ForgetNode(id=2, name="AI.a@north")):
        reply = office.ask(request)
        assert reply is not None
        assert reply.code == "NOT_FOUND"
