from __future__ import annotations

import os
import resource
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.system.channel import (
    MAX_PACKET_BYTES,
    MAX_PACKET_FDS,
    Channel,
    Packet,
    close_all,
)
from appliance.system.process import open_descriptors


@pytest.fixture
def ends():
    left, right = Channel.pair()
    with left, right:
        yield left, right


@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=20))
def test_packets_arrive_whole_and_in_order(packets: list[bytes]) -> None:
    left, right = Channel.pair()
    with left, right:
        for data in packets:
            assert left.send(data)
        got = []
        while (packet := right.receive()) is not None:
            got.append(packet.data)
        assert got == packets


def test_the_largest_packet_passes(ends) -> None:
    left, right = ends
    data = b"x" * MAX_PACKET_BYTES
    assert left.send(data)
    assert right.receive() == Packet(data)


@pytest.mark.parametrize(
    ("data", "fds"),
    [(b"", ()), (b"x" * (MAX_PACKET_BYTES + 1), ()), (b"x", tuple(range(MAX_PACKET_FDS + 1)))],
)
def test_what_is_not_a_packet_is_not_sent(ends, data, fds) -> None:
    left, right = ends
    with pytest.raises(ValueError, match="not a packet"):
        left.send(data, fds)
    assert right.receive() is None


def test_a_descriptor_arrives_as_a_working_duplicate(ends) -> None:
    left, right = ends
    read_end, write_end = os.pipe()
    assert left.send(b"pipe", [write_end])
    os.close(write_end)
    packet = right.receive()
    assert packet is not None
    (fd,) = packet.fds
    assert not os.get_inheritable(fd)
    os.write(fd, b"through")
    os.close(fd)
    assert os.read(read_end, 100) == b"through"
    assert os.read(read_end, 100) == b""  # no third holder
    os.close(read_end)


def test_a_descriptor_in_an_unread_packet_closes_with_the_channel() -> None:
    left, right = Channel.pair()
    mine, theirs = socket.socketpair()
    with mine:
        assert left.send(b"link", [theirs.fileno()])
        theirs.close()
        mine.setblocking(False)
        with pytest.raises(BlockingIOError):
            mine.recv(1)
        right.close()
        left.close()
        assert mine.recv(1) == b""


def test_full_is_said_and_counted_and_ends_when_the_peer_reads(ends) -> None:
    left, right = ends
    data = b"x" * MAX_PACKET_BYTES
    sent = 0
    while left.send(data):
        sent += 1
        assert sent < 1000, "the channel has no bound"
    assert left.statistics().refused_full == 1
    assert not left.wait_writable(0)
    while right.receive() is not None:
        pass
    assert left.wait_writable(1)
    assert left.send(data)
    assert left.statistics().sent == sent + 1
    assert right.statistics().received == sent


def test_many_small_packets_with_descriptors_are_bounded_too(ends) -> None:
    left, right = ends
    before = open_descriptors()
    sent = 0
    while left.send(b"x", [0]):
        sent += 1
        assert sent < 10_000, "the channel has no bound"
    while (packet := right.receive()) is not None:
        close_all(packet.fds)
    assert open_descriptors() == before


def test_the_end_comes_after_the_last_packet() -> None:
    left, right = Channel.pair()
    with right:
        left.send(b"last")
        left.close()
        assert left.closed
        assert right.wait_readable(1)
        assert right.receive() == Packet(b"last")
        assert not right.peer_gone
        for _ in range(2):
            with pytest.raises(EOFError):
                right.receive()
        assert not right.send(b"too late")
        assert right.peer_gone
        assert right.statistics().refused_gone == 1


def test_a_packet_over_the_bound_is_dropped_and_counted() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, Channel(right) as channel:
        before = open_descriptors()
        socket.send_fds(left, [b"x" * (MAX_PACKET_BYTES + 1)], [0])
        left.send(b"next")
        assert channel.receive() is None
        assert channel.receive() == Packet(b"next")
        assert channel.statistics().dropped_truncated == 1
        assert open_descriptors() == before


def test_more_descriptors_than_allowed_are_closed_and_counted() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, Channel(right) as channel:
        before = open_descriptors()
        socket.send_fds(left, [b"x"], [0] * (MAX_PACKET_FDS + 1))
        assert channel.receive() is None
        assert channel.statistics().dropped_truncated == 1
        assert open_descriptors() == before


def test_a_receiver_without_free_descriptors_drops_the_packet(ends) -> None:
    left, right = ends
    left.send(b"x", [0])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        packet = right.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert packet is None
    assert right.statistics().dropped_truncated == 1


def test_forget_leaves_the_descriptor_open() -> None:
    left, right = Channel.pair()
    fd = left.fileno()
    left.forget()
    assert left.closed
    os.fstat(fd)
    os.close(fd)
    right.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_only_seqpacket_sockets_make_a_channel(kind) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    with left, right, pytest.raises(ValueError, match="seqpacket"):
        Channel(left)


def test_waiting_has_a_deadline(ends) -> None:
    left, right = ends
    assert not right.wait_readable(0.001)
    left.send(b"x")
    assert right.wait_readable(1)


def test_closing_twice_is_fine(ends) -> None:
    left, _ = ends
    left.close()
    left.close()
    assert left.statistics().closed
