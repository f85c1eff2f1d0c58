from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.sdk.config import NodeConfig, UuidMode
from appliance.sdk.node import connect
from appliance.testing.link import FakeRouter, memory_link
from appliance.wire.envelope import build_message
from appliance.wire.errors import Unreachable
from appliance.wire.frames import MAX_FRAME_BYTES

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_bytes_both_ways_and_the_end() -> None:
    left, right = memory_link()
    assert await left.send_some(b"ping") == 4
    assert right.waiting_bytes == 4
    assert await right.receive(2) == b"pi"
    assert await right.receive(9) == b"ng"
    await right.send_some(b"last words")
    right.close()
    right.close()
    assert await left.receive(100) == b"last words"
    assert await left.receive(100) == b""
    with pytest.raises(BrokenPipeError):
        await left.send_some(b"x")
    with pytest.raises(OSError):
        await right.receive(1)


async def test_a_full_link_makes_the_sender_wait() -> None:
    left, right = memory_link()
    right.capacity_bytes = 3
    assert await left.send_some(b"abcdef") == 3
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send_some, b"def")
        await anyio.wait_all_tasks_blocked()
        assert await right.receive(10) == b"abc"
    assert right.take() == b"def"


async def test_a_close_ends_every_wait() -> None:
    left, right = memory_link()
    right.capacity_bytes = 0

    async def send() -> None:
        with pytest.raises(BrokenPipeError):
            await left.send_some(b"x")

    async def receive() -> None:
        assert await left.receive(1) == b""

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        right.close()


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=10), st.integers(1, 7))
def test_any_fragmentation_carries_the_same_bytes(parts: list[bytes], chunk: int) -> None:
    async def main() -> bytes:
        left, right = memory_link()
        right.chunk_bytes = chunk
        for part in parts:
            await left.send_some(part)
        left.close()
        received = b""
        while data := await right.receive(1000):
            assert len(data) <= chunk
            received += data
        return received

    assert anyio.run(main) == b"".join(parts)


def settings(router: FakeRouter, name: str) -> NodeConfig:
    return NodeConfig(name=name, dial=router.dial, uuid_mode=UuidMode.EPHEMERAL)


async def test_the_router_carries_by_uuid_name_and_to_all() -> None:
    router = FakeRouter(hive="h")
    async with (
        connect(settings(router, "AI.a")) as a,
        connect(settings(router, "AI.b")) as b,
        connect(settings(router, "AI.c@h")) as c,
    ):
        for dst in (b.uuid, "AI.b@h", "broadcast"):
            await a.send(build_message(src="", dst=dst, payload=dst))
        assert [(await b.receive(5)).json() for _ in range(3)] == [b.uuid, "AI.b@h", "broadcast"]
        assert (await c.receive(5)).source_l2_name == "AI.a@h"
        await a.send(build_message(src="", dst="AI.a@h", payload="to myself"))
        assert (await a.receive(5)).json() == "to myself"
        await a.send(build_message(src="", dst="AI.none@h"))
        assert (await a.receive(5)).meta.msg == "UNREACHABLE"
        await a.send(build_message(src="", dst=None))
        assert [peer.name for peer in router.peers] == ["AI.a@h", "AI.b@h", "AI.c@h"]


async def test_a_router_that_is_down_and_comes_back() -> None:
    router = FakeRouter()
    async with connect(settings(router, "AI.a")):
        router.stop()
        with pytest.raises(Unreachable):
            await router.dial()
        assert not router.peers[0].is_open
        router.is_up = True
        assert (await router.wait_peers(2)).name == "AI.a@test"


async def test_a_peer_that_has_no_room() -> None:
    router = FakeRouter()
    async with connect(settings(router, "AI.a")) as a, connect(settings(router, "AI.b")) as b:
        router.peers[1].link._peer.capacity_bytes = 10
        await a.send(build_message(src="", dst=b.uuid))
        await router.peers[0].wait(lambda peer: router.dropped == 1)
        with pytest.raises(BufferError):
            router.peers[1].send_bytes(bytes(MAX_FRAME_BYTES))
        with pytest.raises(TimeoutError):
            await router.peers[1].next_message(timeout_s=0.001)
