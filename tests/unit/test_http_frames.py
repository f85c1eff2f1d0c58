"""Ready frames on a real socket: whole ones, half ones, and what comes between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from starlette.types import Receive, Scope, Send
from trio.testing import trio_test

from appliance.http import Door, DoorConfig, serve
from appliance.http.errors import ClientGone
from appliance.http.frames import FRAMES, FrameSocket
from appliance.http.guard import Guard
from appliance.wire.errors import Misconfigured
from appliance.world.feed_frames import text_frame

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
Act = Callable[[FrameSocket, Send], Awaitable[None]]


@asynccontextmanager
async def client_of(act: Act) -> AsyncIterator[trio.SocketStream]:
    """A WebSocket client of a door whose handler does ``act`` with its frame socket."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await act(scope["extensions"][FRAMES], send)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            door: Door = await nursery.start(serve, app, DoorConfig(name="t", websocket_ping_s=None))
            stream = await trio.open_tcp_stream("127.0.0.1", door.port)
            async with stream:
                await stream.send_all(HANDSHAKE)
                yield stream
            nursery.cancel_scope.cancel()


async def frames_in(stream: trio.SocketStream) -> bytes:
    """Everything behind the handshake's answer until the close frame or the end."""
    data = b""
    while part := await stream.receive_some(1 << 16):
        data += part
    return data.partition(b"\r\n\r\n")[2]


@trio_test
async def test_what_fits_goes_at_once_and_the_rest_before_anything_else() -> None:
    big = text_frame(b"x" * (8 << 20))
    states: list[bool] = []

    async def act(socket: FrameSocket, send: Send) -> None:
        states.append(socket.write_now(text_frame(b"one")))
        states.append(socket.write_now(big))  # more than any socket's buffer takes
        states.append(socket.unsent)
        states.append(socket.write_now(text_frame(b"refused while a half waits")))
        await send({"type": "websocket.send", "text": "after"})
        states.append(socket.unsent)
        await socket.write(text_frame(b"last"))
        await socket.flush()

    async with client_of(act) as stream:
        received = await frames_in(stream)
    assert states == [True, True, True, False, False]
    expected = text_frame(b"one") + big + text_frame(b"after") + text_frame(b"last")
    assert received.startswith(expected)
    assert received[len(expected) :][:1] == b"\x88"  # then the close frame


@trio_test
async def test_a_client_that_left_is_gone() -> None:
    seen = trio.Event()

    async def act(socket: FrameSocket, send: Send) -> None:
        with pytest.raises(ClientGone):
            while True:
                await socket.write(text_frame(b"x" * 100_000))
        assert not socket.write_now(text_frame(b"x"))
        seen.set()

    async with client_of(act) as stream:
        await stream.receive_some(100)
        await stream.aclose()
        await seen.wait()


@pytest.mark.parametrize(("own_auth", "token"), [(True, None), (False, "t")])
def test_off_loopback_somebody_asks_for_credentials(own_auth: bool, token: str | None) -> None:
    assert DoorConfig(name="t", listen="0.0.0.0:1", own_auth=own_auth, token=token).address().port == 1
    with pytest.raises(Misconfigured):
        DoorConfig(name="t", listen="0.0.0.0:1").address()


@pytest.mark.parametrize("reads", [True, False])
def test_a_foreign_page_may_listen_where_that_is_a_read(reads: bool) -> None:
    headers = [(b"host", b"localhost"), (b"origin", b"http://evil.example")]
    scope = {"type": "websocket", "path": "/", "headers": headers, "client": ("127.0.0.1", 1)}
    refusal = Guard(DoorConfig(name="t", websocket_reads=reads)).refusal(scope)
    assert (refusal is None) is reads
    remote = {**scope, "client": ("10.0.0.1", 1)}
    guarded = Guard(DoorConfig(name="t", websocket_reads=reads, token="secret")).refusal(remote)
    assert guarded is not None
    assert guarded.code == "TOKEN_REQUIRED"
