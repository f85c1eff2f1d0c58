"""Clients that stall: none of them may hold a door open or keep it from closing.

Each case is a real client that reads nothing, sends half of something, or drips. The limits are made small
where a case waits for one; the outer deadlines only turn a hang into a failure.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from trio.testing import trio_test

from appliance.http import Door, DoorConfig, json_router, serve
from appliance.system.log import capture

HANG_S = 15.0
CHUNK = bytes(64 * 1024)


async def endless(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield CHUNK

    return StreamingResponse(parts())


async def shielded(request: Request) -> Response:
    """The worst handler: its writes cannot be cancelled."""

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield CHUNK

    response = StreamingResponse(parts())

    class Shielded(Response):
        async def __call__(self, scope: object, receive: object, send: object) -> None:
            with trio.CancelScope(shield=True):
                await response(scope, receive, send)  # type: ignore[arg-type]

    return Shielded()


async def drink(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def ignore(request: Request) -> Response:
    """Never looks at the body and takes its time."""
    await trio.sleep_forever()
    return PlainTextResponse("never")


async def flood(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_bytes(CHUNK)


async def deaf(websocket: WebSocket) -> None:
    await websocket.accept()
    await trio.sleep_forever()


async def listen(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_bytes():
        pass


APP = json_router(
    [
        Route("/endless", endless),
        Route("/shielded", shielded),
        Route("/drink", drink, methods=["POST"]),
        Route("/ignore", ignore, methods=["POST", "GET"]),
        WebSocketRoute("/flood", flood),
        WebSocketRoute("/deaf", deaf),
        WebSocketRoute("/listen", listen),
    ]
)

UPGRADE = (
    b"GET %s HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)
POST = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n"
GET = b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n"
MASKED = b"\x82\xff" + (65536).to_bytes(8, "big") + bytes(4) + bytes(65536)


async def connect(door: Door, data: bytes) -> trio.SocketStream:
    """A client with a small window that sends ``data`` and then does nothing."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", door.port))
    stream = trio.SocketStream(sock)
    await stream.send_all(data)
    return stream


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(HANG_S):
        while not condition():  # noqa: ASYNC110 - the condition is a counter of the door under test
            await trio.sleep(0.005)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="silent"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: loc", b"", id="half-head"),
        pytest.param(POST % b"/drink" + b"half a body", b"", id="half-body"),
        pytest.param(POST % b"/ignore" + bytes(900_000), b"", id="unread-upload"),
        pytest.param(GET % b"/ignore", b"", id="waiting"),
        pytest.param(GET % b"/endless", b"", id="stalled-response"),
        pytest.param(GET % b"/shielded", b"", id="stalled-shielded-response"),
        pytest.param(GET % b"/shielded" * 20, b"", id="pipelined"),
        pytest.param(UPGRADE % b"/flood", b"", id="stalled-websocket"),
        pytest.param(UPGRADE % b"/deaf", b"", id="silent-websocket"),
        pytest.param(UPGRADE % b"/deaf", MASKED[:100], id="half-frame"),
        pytest.param(UPGRADE % b"/deaf", MASKED * 40, id="unread-frames"),
    ],
)
@trio_test
async def test_no_client_outlives_the_grace(first: bytes, then: bytes) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, DoorConfig(name="test", stop_s=0.3))
            nursery.start_soon(hold, door, first, then)
            await until(lambda: door.statistics().open_connections == 1)
            await trio.sleep(0.1)  # into its stall
            nursery.cancel_scope.cancel()
            began = trio.current_time()
        stopped_after_s = trio.current_time() - began
    assert door.statistics().open_connections == 0
    # Far above the grace, far below every other limit of the door: nothing else ended the wait.
    assert stopped_after_s < 5


async def hold(door: Door, first: bytes, then: bytes) -> None:
    """A client that keeps its end open until the door has closed the other."""
    stream = await connect(door, b"")
    with trio.CancelScope(shield=True), trio.move_on_after(HANG_S):
        try:
            await stream.send_all(first)
            if then:
                await stream.receive_some(200)
                await stream.send_all(then)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await until(lambda: not door.statistics().open_connections)
    await trio.aclose_forcefully(stream)


@trio_test
async def test_a_head_that_drips_is_cut_with_a_408() -> None:
    config = DoorConfig(name="test", header_timeout_s=0.3)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, config)
            async with await connect(door, b"") as stream:
                nursery.start_soon(drip, stream)
                answer = b"".join([part async for part in stream])
            assert answer.startswith(b"HTTP/1.1 408")
            assert door.statistics().slow_heads == 1
            nursery.cancel_scope.cancel()


async def drip(stream: trio.SocketStream) -> None:
    try:
        for byte in b"GET / HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"y" * 2000:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.02)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@trio_test
async def test_a_second_head_that_drips_is_cut_too() -> None:
    config = DoorConfig(name="test", header_timeout_s=0.2, keep_alive_s=60)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, config)
            async with await connect(door, GET % b"/nope") as stream:
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
                await stream.send_all(b"GET /no")
                answer = b"".join([part async for part in stream])
            assert b"HTTP/1.1 408" in answer
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("before", [b"", GET % b"/nope"])
@trio_test
async def test_an_idle_connection_is_closed_without_a_word(before: bytes) -> None:
    config = DoorConfig(name="test", keep_alive_s=0.1, header_timeout_s=0.1)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, config)
            async with await connect(door, before) as stream:
                received = b"".join([part async for part in stream])
            assert received.count(b"HTTP/1.1") == (1 if before else 0)
            assert door.statistics().slow_heads == 0
            nursery.cancel_scope.cancel()


@trio_test
async def test_a_body_that_does_not_come_is_a_408() -> None:
    config = DoorConfig(name="test", request_timeout_s=0.2)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, config)
            async with await connect(door, POST % b"/drink" + b"x") as stream:
                answer = b"".join([part async for part in stream])
            assert answer.startswith(b"HTTP/1.1 408")
            assert door.statistics().body_timeouts == 1
            nursery.cancel_scope.cancel()


@trio_test
async def test_a_handler_that_does_not_answer_is_a_504() -> None:
    config = DoorConfig(name="test", request_timeout_s=0.2)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, config)
            async with await connect(door, GET % b"/ignore") as stream:
                answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 504")
            assert door.statistics().deadline_hits == 1
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("data", [GET % b"/endless", GET % b"/shielded", UPGRADE % b"/flood"])
@trio_test
async def test_a_client_that_takes_nothing_is_cut(data: bytes) -> None:
    config = DoorConfig(name="test", write_timeout_s=0.2)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, config)
            stream = await connect(door, data)
            await until(lambda: door.statistics().stalled == 1)
            if data != GET % b"/shielded":  # that handler never looks whether it is still listened to
                await until(lambda: door.statistics().open_connections == 0)
            nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)


@trio_test
async def test_a_stalled_client_does_not_delay_others() -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, DoorConfig(name="test", stop_s=0.1))
            stalled = [await connect(door, GET % b"/endless") for _ in range(5)]
            await trio.sleep(0.05)
            async with await connect(door, GET % b"/nope") as stream:
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
            nursery.cancel_scope.cancel()
        for stream in stalled:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


@trio_test
async def test_clients_that_reset_leave_nothing_behind() -> None:
    cases: list[bytes] = [
        b"",
        b"GET",
        POST % b"/drink" + b"x",
        POST % b"/ignore" + bytes(900_000),
        GET % b"/endless",
        UPGRADE % b"/flood",
        UPGRADE % b"/deaf" + MASKED,
    ]
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, DoorConfig(name="test", request_timeout_s=0.3))
            for data in cases * 3:
                stream = await connect(door, data)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                await trio.aclose_forcefully(stream)
            await until(lambda: door.statistics().connections == len(cases) * 3)
            # The deaf one never notices by itself; the door's stop ends it.
            await until(lambda: door.statistics().open_connections <= 3)
            nursery.cancel_scope.cancel()
    assert door.statistics().open_connections == 0


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(UPGRADE % b"/listen" + MASKED[:10], id="frames-before-accept"),
        pytest.param((UPGRADE % b"/listen").replace(b"13", b"99"), id="wrong-version"),
    ],
)
@trio_test
async def test_a_broken_handshake_frees_its_place(data: bytes) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, DoorConfig(name="test", linger_s=0.1))
            stream = await connect(door, data)
            await until(lambda: door.statistics().connections == 1 and not door.statistics().open_connections)
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


@trio_test
async def test_mutilated_requests_harm_nobody() -> None:
    chance = random.Random(20)
    whole = [POST % b"/drink", GET % b"/nope", UPGRADE % b"/listen" + MASKED[:300]]
    config = DoorConfig(
        name="test", header_timeout_s=0.05, request_timeout_s=0.05, keep_alive_s=0.05, linger_s=0.05
    )
    with trio.fail_after(HANG_S), capture():
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, config)
            for _ in range(150):
                data = bytearray(chance.choice(whole))
                for _ in range(chance.randint(1, 8)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                async with await connect(door, bytes(data)) as stream:
                    with trio.move_on_after(0.01):
                        await stream.receive_some()
            async with await connect(door, GET % b"/nope") as stream:
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
            await until(lambda: door.statistics().open_connections == 0)
            nursery.cancel_scope.cancel()


@trio_test
async def test_a_door_out_of_descriptors_goes_on_when_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    real = trio.SocketListener.accept
    failures = [OSError(errno.EMFILE, "Too many open files")] * 2

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise failures.pop()
        return await real(self)

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    with trio.fail_after(HANG_S), capture() as records:
        async with trio.open_nursery() as nursery:
            door = await nursery.start(serve, APP, DoorConfig(name="test"))
            async with await connect(door, GET % b"/nope") as stream:
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
            assert door.statistics().accept_errors == 2
            nursery.cancel_scope.cancel()
    assert [r.event for r in records].count("http_accept_failed") == 2
