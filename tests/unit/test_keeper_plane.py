from __future__ import annotations

import os
import socket

import msgspec
import pytest

from appliance.keeper.plane import MAX_WAITING_LINKS, IncomingLink, PlaneContext, link_pair
from appliance.keeper.protocol import (
    KeeperStatistics,
    KeeperStatus,
    Link,
    Ready,
    Reply,
    Status,
    Stop,
    decode_request,
    encode,
)
from appliance.system.channel import Channel
from appliance.system.process import open_descriptors
from appliance.wire.errors import Busy, Unavailable


@pytest.fixture
def ends():
    """The keeper's end, and a context on the other one."""
    keeper, plane = Channel.pair()
    with keeper, plane:
        yield keeper, PlaneContext(name="data", channel=plane, eventfds={"data": 7})


def asked(keeper: Channel):
    packet = keeper.receive()
    assert packet is not None
    return decode_request(packet.data)


def test_a_plane_knows_what_it_was_given(ends) -> None:
    _, context = ends
    assert (context.name, context.eventfds, context.inherited, context.restarts) == (
        "data",
        {"data": 7},
        {},
        0,
    )
    assert context.keeper_pid == os.getppid()


def test_ready_waits_for_its_answer(ends) -> None:
    keeper, context = ends
    keeper.send(encode(Reply(id=1)))
    context.ready(timeout_s=5)
    assert asked(keeper) == Ready(id=1)


def test_an_answer_of_another_request_is_late_and_passed_over(ends) -> None:
    keeper, context = ends
    status = KeeperStatus(pid=5, uptime_s=1.0, stopping=False, planes=(), statistics=KeeperStatistics())
    with pytest.raises(Unavailable, match="did not answer within"):
        context.ready(timeout_s=0.001)
    keeper.send(encode(Reply(id=1)))
    keeper.send(encode(Reply(id=2, result=msgspec.Raw(encode(status)))))
    assert context.status(timeout_s=5) == status
    asked(keeper)
    assert asked(keeper) == Status(id=2)
    assert context.statistics().replies_late == 1


def test_a_refusal_is_raised_as_what_it_is(ends) -> None:
    keeper, context = ends
    keeper.send(encode(Reply(id=1, code="BUSY", message="too many")))
    before = open_descriptors()
    with pytest.raises(Busy, match="too many"):
        context.open_link("SY.admin", timeout_s=5)
    packet = keeper.receive()
    os.close(packet.fds[0])
    assert open_descriptors() == before


def test_a_link_connects_who_asked_with_who_gets_it(ends) -> None:
    keeper, context = ends
    keeper.send(encode(Reply(id=1)))
    with context.open_link("SY.admin", timeout_s=5) as mine:
        packet = keeper.receive()
        assert decode_request(packet.data) == Link(id=1, name="SY.admin")
        with socket.socket(fileno=packet.fds[0]) as theirs:
            mine.sendall(b"hello")
            assert theirs.recv(10) == b"hello"
        assert mine.recv(10) == b""
    assert context.statistics().links_opened == 1


def test_orders_that_come_before_an_answer_are_kept(ends) -> None:
    keeper, context = ends
    mine, theirs = link_pair()
    with mine, theirs:
        keeper.send(encode(Link(name="SY.x", plane="control")), [theirs.fileno()])
        keeper.send(encode(Reply(id=1)))
        context.ready(timeout_s=5)
        order = context.next_order(0)
        assert isinstance(order, IncomingLink)
        assert (order.plane, order.name) == ("control", "SY.x")
        order.sock.close()
        assert context.next_order(0) is None


def test_a_stop_stays_a_stop(ends) -> None:
    keeper, context = ends
    stop = Stop(reason="stop", grace_s=2.0)
    keeper.send(encode(stop))
    assert context.next_order(5) == stop
    assert context.next_order(0) == stop


def test_a_keeper_that_is_gone_is_a_stop_and_answers_nothing(ends) -> None:
    keeper, context = ends
    keeper.close()
    order = context.next_order(5)
    assert isinstance(order, Stop)
    assert order.reason == "the keeper is gone"
    with pytest.raises(Unavailable):
        context.status()


def test_a_keeper_that_goes_while_asked_is_noticed_at_once(ends) -> None:
    keeper, context = ends
    keeper.send(encode(Reply(id=99)))
    keeper.close()
    with pytest.raises(Unavailable):
        context.ready(timeout_s=60)


def test_a_keeper_that_does_not_read_is_not_waited_for_for_ever(ends) -> None:
    _, context = ends
    with pytest.raises(Unavailable, match="does not take requests"):
        for _ in range(10_000):
            context.channel.send(encode(Ready()))
            if context.channel.statistics().refused_full:
                context.ready(timeout_s=0.001)


def test_waiting_links_are_bounded(ends) -> None:
    keeper, context = ends
    before = open_descriptors()
    # A request takes in everything that lies before its answer.
    for _ in range(MAX_WAITING_LINKS + 1):
        mine, theirs = link_pair()
        with mine, theirs:
            keeper.send(encode(Link(name="x", plane="world")), [theirs.fileno()])
    keeper.send(encode(Reply(id=1)))
    context.ready(timeout_s=5)
    assert context.statistics().links_dropped == 1
    assert len(open_descriptors()) == len(before) + MAX_WAITING_LINKS
    while isinstance(link := context.next_order(0), IncomingLink):
        link.sock.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("what", ["nothing", "a file", "two"])
def test_a_link_without_its_socket_is_dropped(ends, what: str) -> None:
    keeper, context = ends
    with open(os.devnull) as file:
        before = open_descriptors()
        fds = {"nothing": [], "a file": [file.fileno()], "two": [file.fileno()] * 2}[what]
        keeper.send(encode(Link(name="x", plane="world")), fds)
        assert context.next_order(0.01) is None
        assert context.statistics().malformed == 1
        assert open_descriptors() == before


def test_what_is_not_an_order_is_counted(ends) -> None:
    keeper, context = ends
    before = open_descriptors()
    keeper.send(b"nonsense", [0])
    assert context.next_order(0.01) is None
    assert context.statistics().malformed == 1
    assert open_descriptors() == before
