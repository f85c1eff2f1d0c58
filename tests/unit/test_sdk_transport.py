from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from appliance.sdk.config import NodeConfig, UuidMode, router_candidates
from appliance.sdk.node import connect
from appliance.sdk.transport import SocketTransport, open_unix
from appliance.wire.envelope import announce, decode_message, encode_message
from appliance.wire.errors import Refused, Unreachable
from appliance.wire.frames import FrameSplitter, pack_frame

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory with a short path: a Unix socket's has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="fx") as name:
        yield Path(name)


def listener(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


def stale(path: Path) -> None:
    listener(path).close()


def announcing(greeting: bytes) -> bytes:
    hello = decode_message(FrameSplitter().feed(greeting)[0])
    payload = hello.payload_as(dict[str, str])
    return pack_frame(
        encode_message(
            announce(
                router="33333333-3333-4333-8333-333333333333",
                router_name="RT.real@h",
                hello_src=hello.routing.src,
                trace_id=hello.routing.trace_id,
                uuid=payload["uuid"],
                name=payload["name"] + "@h",
                vpn_id=7,
            )
        )
    )


async def test_bytes_go_both_ways_and_the_end_is_empty() -> None:
    left, right = socket.socketpair()
    transport = SocketTransport(left)
    assert await transport.send_some(b"ping") == 4
    assert right.recv(10) == b"ping"
    right.sendall(b"pong")
    assert await transport.receive(3) == b"pon"
    assert await transport.receive(3) == b"g"
    right.close()
    assert await transport.receive(3) == b""
    with pytest.raises(OSError):
        await transport.send_some(b"x")
    transport.close()


async def test_a_full_socket_is_waited_for_and_cancelling_loses_nothing() -> None:
    left, right = socket.socketpair()
    transport = SocketTransport(left)
    sent = 0
    with anyio.move_on_after(0.05) as scope:
        while True:
            sent += await transport.send_some(bytes(65_536))
    assert scope.cancelled_caught
    right.setblocking(False)
    received = 0
    while received < sent:
        received += len(right.recv(1 << 20))
    assert received == sent
    transport.close()
    right.close()


async def test_receive_waits_for_the_first_byte() -> None:
    left, right = socket.socketpair()
    transport = SocketTransport(left)
    async with anyio.create_task_group() as tasks:

        async def read() -> None:
            assert await transport.receive(100) == b"late"

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        right.send(b"late")
    transport.close()
    right.close()


async def test_nobody_listens(sockets: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await open_unix(sockets / "none.sock")
    stale(sockets / "stale.sock")
    with pytest.raises(ConnectionRefusedError):
        await open_unix(sockets / "stale.sock")


async def test_a_full_backlog_is_waited_for(sockets: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(sockets / "a.sock"))
    listening.listen(0)
    waiting: list[SocketTransport] = []
    with anyio.move_on_after(0.1) as scope:
        while True:
            waiting.append(await open_unix(sockets / "a.sock"))
    assert scope.cancelled_caught
    for transport in waiting:
        transport.close()
    listening.close()


async def test_stale_sockets_are_passed_over(sockets: Path) -> None:
    names = [f"{letter}{'0' * 31}.sock" for letter in "abc"]
    for name in names:
        (sockets / name).touch()
    order = router_candidates(sockets, "AI.chat")
    for path in order:
        path.unlink()
    stale(order[0])
    stale(order[1])
    listening = listener(order[2])
    config = NodeConfig(name="AI.chat", router_socket=sockets, uuid_dir=sockets, close_timeout_s=0.5)

    def serve() -> bytes:
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(announcing(accepted.recv(65_536)))
            return accepted.recv(65_536)

    async def route() -> None:
        goodbye = await anyio.to_thread.run_sync(serve)
        assert decode_message(FrameSplitter().feed(goodbye)[0]).meta.msg == "WITHDRAW"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(route)
        async with connect(config) as node:
            assert (node.full_name, node.vpn_id, node.router_name) == ("AI.chat@h", 7, "RT.real@h")
            assert (sockets / "AI.chat.uuid").read_text() == node.uuid
    listening.close()


@pytest.mark.parametrize("what", ["missing", "stale", "empty directory", "only stale", "too long"])
async def test_no_router_is_one_clear_error(sockets: Path, what: str) -> None:
    place = sockets / "place"
    match what:
        case "stale":
            stale(place)
        case "empty directory":
            place.mkdir()
        case "only stale":
            place.mkdir()
            stale(place / "a.sock")
            stale(place / "b.sock")
        case "too long":
            place = sockets / ("x" * 120)
    config = NodeConfig(name="AI.chat", router_socket=place, uuid_mode=UuidMode.EPHEMERAL)
    with pytest.raises(Unreachable) as caught:
        async with connect(config):
            pass
    assert caught.value.code == "NO_ROUTER"
    assert "fluxbee run" in caught.value.remedy


async def test_a_directory_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, name: str) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("appliance.sdk.handshake.router_candidates", forbidden)
    with pytest.raises(Unreachable, match="Permission"):
        async with connect(NodeConfig(name="AI.chat", uuid_mode=UuidMode.EPHEMERAL)):
            pass


async def test_a_half_frame_and_then_the_end_is_a_refusal(sockets: Path) -> None:
    async def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.sendall(struct.pack(">I", 100) + b"half")
        theirs.shutdown(socket.SHUT_WR)
        kept.append(theirs)
        return ours

    kept: list[socket.socket] = []
    with pytest.raises(Refused):
        async with connect(NodeConfig(name="AI.x", dial=dial, uuid_mode=UuidMode.EPHEMERAL)):
            pass
    kept[0].close()


async def test_a_plane_brings_its_own_socket() -> None:
    async def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        kept.append(theirs)
        return ours

    def serve() -> None:
        while not kept:
            pass
        kept[0].sendall(announcing(kept[0].recv(65_536)))

    kept: list[socket.socket] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, serve)
        async with connect(NodeConfig(name="SY.x", dial=dial, uuid_mode=UuidMode.EPHEMERAL)) as node:
            assert node.full_name == "SY.x@h"
    kept[0].close()
