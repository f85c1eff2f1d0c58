"""A door on real sockets: opening, serving, limits, closing."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
import trio.lowlevel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket
from trio.testing import trio_test
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, TextMessage
from wsproto.events import Request as WsRequest

from appliance.http import Door, DoorConfig, Health, health_routes, json_router, serve
from appliance.wire.errors import Misconfigured, Unavailable


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def early(request: Request) -> Response:
    """Answers without reading the body."""
    return PlainTextResponse("early")


async def greet(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"hello {text}")


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"part"

    return StreamingResponse(parts())


async def well() -> Health:
    return Health()


ROUTES = [
    *health_routes(well),
    Route("/echo", echo, methods=["GET", "POST"]),
    Route("/early", early, methods=["POST"]),
    Route("/stream", stream),
    WebSocketRoute("/ws", greet),
]


@asynccontextmanager
async def door(app: ASGIApp | None = None, **settings: object) -> AsyncIterator[Door]:
    config = DoorConfig(name="test", **settings)  # type: ignore[arg-type]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            opened = await nursery.start(serve, app or json_router(ROUTES), config)
            yield opened
            nursery.cancel_scope.cancel()


def client(opened: Door) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{opened.port}", trust_env=False)


async def raw(opened: Door, data: bytes) -> bytes:
    """Everything that comes back for ``data`` until the door closes the connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", opened.port)
    async with stream:
        await stream.send_all(data)
        received = b""
        async for part in stream:
            received += part
        return received


@trio_test
async def test_started_means_listening_on_the_reported_port() -> None:
    async with door() as opened:
        assert opened.port != 0
        with socket.create_connection(("127.0.0.1", opened.port), timeout=5):
            pass
        assert opened.statistics().addresses == (f"127.0.0.1:{opened.port}",)


@trio_test
async def test_health_answers_get_and_head() -> None:
    async with door() as opened, client(opened) as http:
        got = await http.get("/health")
        head = await http.head("/health")
        assert got.json() == {"status": "ok"}
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))


@trio_test
async def test_connections_are_kept_and_counted() -> None:
    async with door() as opened, client(opened) as http:
        for n in range(5):
            assert (await http.post("/echo", content=b"x" * n)).content == b"x" * n
        await http.get("/nope")
        counted = opened.statistics()
        assert (counted.connections, counted.open_connections) == (1, 1)
        assert (counted.responses_2xx, counted.responses_4xx) == (5, 1)


@trio_test
async def test_a_chunked_response_and_a_large_echo_arrive_whole() -> None:
    async with door() as opened, client(opened) as http:
        assert (await http.get("/stream")).content == b"partpartpart"
        big = bytes(range(256)) * 8192
        assert (await http.post("/echo", content=big)).content == big


@trio_test
async def test_a_pipelined_request_is_answered_too() -> None:
    async with door() as opened:
        one = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        answer = await raw(opened, one + one[:-2] + b"connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200") == 2


@trio_test
async def test_an_address_in_use_is_named_with_its_remedy() -> None:
    async with door() as opened:
        with pytest.raises(Unavailable) as caught:
            await serve(
                json_router([]),
                DoorConfig(name="second", listen=f"127.0.0.1:{opened.port}", key="admin.listen"),
            )
        assert str(opened.port) in caught.value.message
        assert "admin.listen" in caught.value.remedy


@pytest.mark.parametrize(
    ("listen", "kind"),
    [
        ("192.0.2.77:0", Misconfigured),
        ("no-such-name.invalid:0", Misconfigured),
        ("0.0.0.0:0", Misconfigured),
    ],
)
@trio_test
async def test_an_address_that_is_not_ours_is_misconfigured(listen: str, kind: type[Exception]) -> None:
    token = None if listen.startswith("0.") else "t"
    with pytest.raises(kind):
        await serve(json_router([]), DoorConfig(name="x", listen=listen, token=token))


@trio_test
async def test_a_forbidden_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: object, **kwargs: object) -> list[trio.SocketListener]:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(trio, "open_tcp_listeners", refuse)
    with pytest.raises(Unavailable, match="may not listen"):
        await serve(json_router([]), DoorConfig(name="x", listen="127.0.0.1:80"))


@trio_test
async def test_localhost_opens_every_loopback_family() -> None:
    async with door(listen="localhost:0") as opened:
        assert opened.addresses
        assert all(address.host in {"127.0.0.1", "::1"} for address in opened.addresses)


@trio_test
async def test_a_host_that_is_not_ours_is_refused_on_the_wire() -> None:
    async with door() as opened, client(opened) as http:
        answer = await http.get("/health", headers={"host": "evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "HOST_REFUSED")
        assert opened.statistics().refused_host == 1


@trio_test
async def test_strangers_on_a_wide_door_are_locals_here() -> None:
    """Through a wildcard bind a loopback peer still needs no token; a wrong scope for all does."""
    async with door(listen="0.0.0.0:0", token="s3cret", ask_whom="all") as opened, client(opened) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/echo")).status_code == 401
        assert (await http.get("/echo", headers={"authorization": "Bearer s3cret"})).status_code == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
@trio_test
async def test_what_is_not_http_gets_a_json_400_and_the_door_lives(garbage: bytes) -> None:
    async with door() as opened, client(opened) as http:
        answer = await raw(opened, garbage)
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.endswith(b"}")
        assert opened.statistics().protocol_errors == 1
        assert (await http.get("/health")).status_code == 200


@trio_test
async def test_a_long_head_is_a_431() -> None:
    async with door(max_header_bytes=4096) as opened:
        answer = await raw(opened, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 5000)
        assert answer.startswith(b"HTTP/1.1 431")


@trio_test
async def test_http2_is_not_offered() -> None:
    async with door() as opened, client(opened) as http:
        upgrade = {
            "connection": "upgrade, http2-settings",
            "upgrade": "h2c",
            "http2-settings": "AAMAAABkAAQAAP__",
        }
        assert (await http.get("/health", headers=upgrade)).status_code == 200
        answer = await raw(opened, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 4")


@trio_test
async def test_an_early_answer_to_a_large_upload_is_seen_and_ends_the_connection() -> None:
    async with door(max_body_bytes=100_000_000) as opened:
        head = b"POST /early HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8000000\r\n\r\n"
        answer = await raw(opened, head + bytes(4_000_000))
        assert answer.endswith(b"early")


@trio_test
async def test_a_body_over_the_limit_is_a_413_that_the_client_sees() -> None:
    async with door(max_body_bytes=1000) as opened, client(opened) as http:
        answer = await http.post("/echo", content=b"x" * 2_000_000)
        assert answer.status_code == 413
        assert opened.statistics().bodies_too_large == 1
        assert (await http.get("/health")).status_code == 200


@trio_test
async def test_expect_100_continue_is_answered() -> None:
    async with door() as opened:
        head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nconnection: close\r\n"
        answer = await raw(opened, head + b"expect: 100-continue\r\n\r\nok")
        assert answer.startswith(b"HTTP/1.1 100")
        assert answer.endswith(b"ok")


@trio_test
async def test_a_handler_sees_that_its_client_left() -> None:
    seen = trio.Event()

    async def watch(request: Request) -> Response:
        while not await request.is_disconnected():
            await trio.lowlevel.checkpoint()
        seen.set()
        return PlainTextResponse("to nobody")

    async with door(json_router([Route("/watch", watch)])) as opened:
        stream = await trio.open_tcp_stream("127.0.0.1", opened.port)
        await stream.send_all(b"GET /watch HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await stream.aclose()
        await seen.wait()


@trio_test
async def test_one_connection_too_many_is_told_so() -> None:
    async with door(max_connections=1) as opened:
        first = await trio.open_tcp_stream("127.0.0.1", opened.port)
        async with first:
            await first.send_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await first.receive_some(65536)).startswith(b"HTTP/1.1 200")
            second = await trio.open_tcp_stream("127.0.0.1", opened.port)
            async with second:
                answer = b"".join([part async for part in second])
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in answer
        assert opened.statistics().turned_away == 1


# WebSockets.


class Ws:
    """A WebSocket client on a trio stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.CLIENT)

    @classmethod
    async def open(cls, opened: Door, path: str = "/ws", **headers: str) -> tuple[Ws, object]:
        ws = cls(await trio.open_tcp_stream("127.0.0.1", opened.port))
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        await ws.send(WsRequest(host="localhost", target=path, extra_headers=extra))
        return ws, await ws.next()

    async def send(self, event: object) -> None:
        await self.stream.send_all(self.protocol.send(event))  # type: ignore[arg-type]

    async def next(self) -> object:
        while True:
            for event in self.protocol.events():
                if not isinstance(event, Ping):  # sent at once after the handshake, and then in intervals
                    return event
            data = await self.stream.receive_some(65536)
            self.protocol.receive_data(data or None)


@trio_test
async def test_a_websocket_talks_and_closes() -> None:
    async with door() as opened:
        ws, event = await Ws.open(opened)
        async with ws.stream:
            assert isinstance(event, AcceptConnection)
            assert event.extensions == []
            assert opened.statistics().open_websockets == 1
            await ws.send(TextMessage(data="bee"))
            assert await ws.next() == TextMessage(
                data="hello bee", frame_finished=True, message_finished=True
            )
            await ws.send(CloseConnection(code=1000))
            assert isinstance(await ws.next(), CloseConnection)


@trio_test
async def test_compression_is_declined() -> None:
    async with door() as opened:
        answer = await trio.open_tcp_stream("127.0.0.1", opened.port)
        async with answer:
            await answer.send_all(
                b"GET /ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
                b"sec-websocket-extensions: permessage-deflate\r\n\r\n"
            )
            head = await answer.receive_some(65536)
            assert head.startswith(b"HTTP/1.1 101")
            assert b"permessage-deflate" not in head.lower()


@trio_test
async def test_a_foreign_pages_websocket_is_rejected_with_a_reason() -> None:
    async with door() as opened:
        ws, event = await Ws.open(opened, origin="http://evil.example")
        async with ws.stream:
            assert isinstance(event, RejectConnection)
            assert event.status_code == 403
        assert opened.statistics().refused_origin == 1


@trio_test
async def test_an_unknown_websocket_path_is_a_404() -> None:
    async with door() as opened:
        ws, event = await Ws.open(opened, "/nope")
        async with ws.stream:
            assert isinstance(event, RejectConnection)
            assert event.status_code == 404


@trio_test
async def test_data_after_a_websocket_close_harms_only_that_client() -> None:
    async with door() as opened, client(opened) as http:
        ws, _ = await Ws.open(opened)
        async with ws.stream:
            await ws.send(CloseConnection(code=1000))
            await ws.stream.send_all(b"\x81\x05hello" * 3)
            async for _ in ws.stream:
                pass
        assert (await http.get("/health")).status_code == 200


@trio_test
async def test_a_closing_door_says_1001_to_websockets() -> None:
    async with trio.open_nursery() as nursery:
        opened = await nursery.start(serve, json_router(ROUTES), DoorConfig(name="test"))
        ws, _ = await Ws.open(opened)
        async with ws.stream:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(5):
                event = await ws.next()
        assert isinstance(event, CloseConnection)
        assert event.code == 1001


@trio_test
async def test_a_closing_door_lets_a_running_request_finish() -> None:
    entered, go_on = trio.Event(), trio.Event()

    async def slow(request: Request) -> Response:
        entered.set()
        await go_on.wait()
        return PlainTextResponse("done")

    async with trio.open_nursery() as nursery:
        opened = await nursery.start(serve, json_router([Route("/slow", slow)]), DoorConfig(name="test"))
        stream = await trio.open_tcp_stream("127.0.0.1", opened.port)
        async with stream:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await entered.wait()
            nursery.cancel_scope.cancel()
            go_on.set()
            with trio.CancelScope(shield=True), trio.fail_after(5):
                answer = b"".join([part async for part in stream])
        assert answer.endswith(b"done")
    assert opened.statistics().cut_at_stop == 0
    assert opened.statistics().open_connections == 0
