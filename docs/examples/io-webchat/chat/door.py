"""The page and its WebSocket, behind a door of the appliance: Host, Origin, limits and CSP are checked there.

The page says ``hello`` with its session and the last line that it has, and gets ``welcome`` with what it has
missed. Then both sides talk: ``say`` from the page, lines and ``waiting`` to it. Everything that comes in is
checked against Structs; a page that breaks the rules is closed with the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import TypeVar

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from appliance.http import DoorConfig, json_router

from .hub import Hub, Waiting
from .sessions import Entry, Session
from .settings import Settings

__all__ = ["application", "door_config"]

T = TypeVar("T")

PAGE = Path(__file__).resolve().parent.parent / "page"
HELLO_TIMEOUT_S = 10.0
OUTBOX_LIMIT = 256
MAX_FRAME_BYTES = 65536
MAX_ID_CHARS = 64
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The page's first words."""

    session: str | None = None
    after: int = 0


class Say(msgspec.Struct, frozen=True, tag="say"):
    """Something typed."""

    id: str
    text: str


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The answer to hello."""

    session: str
    title: str
    partner: str
    max_chars: int
    last: int
    messages: list[Entry]


class _Page:
    """One open page: a bounded outbox in front of its WebSocket."""

    def __init__(self) -> None:
        self._send, self.outbox = trio.open_memory_channel[object](OUTBOX_LIMIT)
        self.is_too_slow = False

    def show(self, event: object) -> bool:
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.is_too_slow = True
            self._send.close()
            return False
        return True


def door_config(settings: Settings) -> DoorConfig:
    """The door that ``settings`` describe."""
    return DoorConfig(
        name="webchat",
        listen=settings.listen,
        token=settings.token,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        websocket_max_bytes=MAX_FRAME_BYTES,
        csp=CSP,
    )


def application(hub: Hub) -> ASGIApp:
    """Page and WebSocket."""

    async def chat(socket: WebSocket) -> None:
        await _converse(hub, socket)

    files = {
        "/chat.css": _file("chat.css", "text/css; charset=utf-8"),
        "/chat.js": _file("chat.js", "text/javascript; charset=utf-8"),
        "/icon.svg": _file("icon.svg", "image/svg+xml"),
    }
    routes = [Route(path, answer) for path, answer in files.items()]
    return json_router([Route("/", _index(hub)), WebSocketRoute("/chat", chat), *routes])


async def _converse(hub: Hub, socket: WebSocket) -> None:
    await socket.accept()
    try:
        with trio.fail_after(HELLO_TIMEOUT_S):
            hello = _decode(await socket.receive_text(), Hello)
    except (trio.TooSlowError, KeyError):  # KeyError: bytes where text was expected
        hello = None
    if hello is None:
        await socket.close(1008, "hello is missing")
        return
    page = _Page()
    session = hub.open(hello.session)
    await _send(socket, _welcome(hub, session, hello))
    session.viewers.add(page)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, socket, page)
            keeps_rules = await _read(hub, socket, session)
            nursery.cancel_scope.cancel()
    finally:
        session.viewers.discard(page)
    if not keeps_rules:
        await socket.close(1008, "not what this page says")


def _welcome(hub: Hub, session: Session, hello: Hello) -> Welcome:
    settings = hub.settings
    missed = session.since(hello.after if session.secret == hello.session else 0)
    return Welcome(
        session=session.secret,
        title=settings.title,
        partner="" if settings.target == "policy" else settings.target.partition("@")[0],
        max_chars=settings.max_chars,
        last=session.last_seq,
        messages=missed,
    )


async def _read(hub: Hub, socket: WebSocket, session: Session) -> bool:
    """Take what the page says until it leaves; ``False`` when it says what no page of ours would."""
    session.show(Waiting(session.waiting))
    while True:
        try:
            said = _decode(await socket.receive_text(), Say)
        except WebSocketDisconnect:
            return True
        except KeyError:
            return False
        if said is None or not 0 < len(said.id) <= MAX_ID_CHARS:
            return False
        if said.text.strip():
            # Belongs to the session and not to the page: an answer must come even when the page is reloaded.
            hub.tasks.start_soon(hub.say, session, said.text, said.id)


def _decode(text: str, shape: type[T]) -> T | None:
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def _write(socket: WebSocket, page: _Page) -> None:
    async for event in page.outbox:
        await _send(socket, event)
    await socket.close(1013, "too slow")  # it comes back and catches up


async def _send(socket: WebSocket, event: object) -> None:
    await socket.send_text(msgspec.json.encode(event).decode())


def _index(hub: Hub) -> Callable[[Request], Awaitable[Response]]:
    template = (PAGE / "index.html").read_text()

    async def index(_: Request) -> Response:
        body = template.replace("{{title}}", escape(hub.settings.title))
        return _page(body.encode(), "text/html; charset=utf-8")

    return index


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    body = (PAGE / name).read_bytes()

    async def answer(_: Request) -> Response:
        return _page(body, media_type)

    return answer


def _page(body: bytes, media_type: str) -> Response:
    return Response(body, headers={"content-type": media_type, "cache-control": "no-cache"})
