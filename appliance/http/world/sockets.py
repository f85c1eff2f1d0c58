"""One WebSocket of the world (``spec/flux-state.md §4``), with additive frames to publish and to read.

``subscribe`` and ``unsubscribe`` are never answered, and what cannot be understood is ignored (WS-12). The
additive requests ``publish``, ``get`` and ``list`` are answered in order, with the ``id`` they came with.
Publish frames that wait together are committed together, so a sender need not wait between them.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio
from starlette.types import Message, Receive, Scope, Send

from appliance.http.errors import ClientGone
from appliance.http.frames import FRAMES, FrameSocket
from appliance.wire.errors import FluxbeeError, Refused
from appliance.world import Caller, WorldEngine
from appliance.world.feed import ALL
from appliance.world.feed_frames import text_frame
from appliance.world.together import Outcome, Wanted, publish_together

from .credentials import Credentials
from .hub import FeedHub, Peer

__all__ = ["WorldSocket"]

_PAGE: Final = 500
_TOGETHER: Final = 64
"""Publish frames committed together at most."""


class _Request(msgspec.Struct, kw_only=True):
    """Any frame from a client; other members are ignored (WS-10)."""

    type: str
    entity_id: str | None = None
    alias: str | None = msgspec.field(default=None, name="entityId")
    snapshot: bool = False
    id: msgspec.Raw = msgspec.Raw(b"null")
    events: list[msgspec.Raw] = []
    token: str | None = None
    prefix: str | None = None
    after: str | None = None
    limit: int = _PAGE

    @property
    def target(self) -> str | None:
        return self.entity_id if self.entity_id is not None else self.alias


_decode = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.encode


class WorldSocket:
    """Serves one client until it leaves.

    Args:
        scope: its handshake.
        hub: where updates come from.
        credentials: who is who.
        may_write: whether publish frames are taken (a page of another origin may only read, DF-35).
    """

    def __init__(self, scope: Scope, hub: FeedHub, credentials: Credentials, *, may_write: bool) -> None:
        self._engine: WorldEngine = hub.engine
        self._hub = hub
        self._credentials = credentials
        self._may_write = may_write
        self._scope = scope
        self._socket: FrameSocket = scope["extensions"][FRAMES]

    async def serve(self, receive: Receive, send: Send) -> None:
        """Accept and serve; returns or raises ``ClientGone`` when the client is gone."""
        await receive()
        await send({"type": "websocket.accept"})
        peer = self._hub.attach(self._socket)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.write)
                await self._read(peer, receive)
                nursery.cancel_scope.cancel()
        except* ClientGone:
            pass  # both tasks may have found out
        finally:
            self._hub.detach(peer)

    async def _read(self, peer: Peer, receive: Receive) -> None:
        waiting: list[_Request] = []
        while True:
            message: Message | None = None
            if waiting:
                with trio.CancelScope() as scope:  # only what is here already
                    scope.cancel()
                    message = await receive()
            else:
                message = await receive()
            request = self._understood(message)
            if request is not None and request.type == "publish" and len(waiting) < _TOGETHER:
                waiting.append(request)
                continue
            if waiting:
                await self._publish(waiting)
                waiting = [request] if request is not None and request.type == "publish" else []
            if message is not None and message["type"] == "websocket.disconnect":
                return
            if request is not None and not waiting:
                await self._answer(peer, request)

    def _understood(self, message: Message | None) -> _Request | None:
        text = None if message is None else message.get("text")
        if text is None:
            return None
        try:
            return _decode(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            self._hub.frames_ignored += 1
            return None

    async def _answer(self, peer: Peer, request: _Request) -> None:
        kind = request.type
        if kind == "subscribe":
            await self._subscribe(peer, request)
        elif kind == "unsubscribe" and request.target is not None:
            self._hub.feed.unsubscribe(peer.subscriber, request.target)
        elif kind == "get" and request.target is not None:
            found = self._engine.entity(request.target)
            await self._reply(b"entity", request, b'"entity":%b' % (found or b"null"))
        elif kind == "list":
            page = self._engine.listing(prefix=request.prefix, after=request.after)
            texts = page.page(min(max(request.limit, 1), _PAGE))
            await self._reply(b"entities", request, b'"entities":[%b]' % b",".join(texts))
        else:
            self._hub.frames_ignored += 1

    async def _subscribe(self, peer: Peer, request: _Request) -> None:
        wanted = ALL if request.target is None else request.target
        if not self._hub.feed.subscribe(peer.subscriber, wanted):
            self._hub.frames_ignored += 1
        elif request.snapshot and not peer.do(lambda one: self._snapshot(one, wanted)):
            self._hub.snapshots_refused += 1
            await self._reply(b"error", request, b'"status":429,"error":"too many snapshots wait already"')

    async def _snapshot(self, peer: Peer, wanted: str) -> None:
        """The state first, then what changed since it was read (WS-04); in the peer's writing task."""
        seq = peer.feed.hold(peer.subscriber)
        head = b'{"type":"snapshot","entity_id":%b,"seq":%d,"entities":[' % (_encode(wanted), seq)
        try:
            if wanted == ALL:
                listing = self._engine.listing()
                while page := listing.page(_PAGE):
                    await self._socket.write(text_frame(head + b",".join(page) + b'],"last":false}'))
                texts = b""
            else:
                texts = self._engine.entity(wanted) or b""
            await self._socket.write(text_frame(head + texts + b'],"last":true}'))
        finally:
            peer.feed.release(peer.subscriber)

    async def _publish(self, requests: list[_Request]) -> None:
        """Publish the events of frames that came together; each frame gets its own answer."""
        wanted: list[Wanted] = []
        for number, request in enumerate(requests):
            try:
                wanted.append(Wanted(self._caller(request.token), request.events))
            except FluxbeeError as error:
                await self._report(requests[:number], await publish_together(self._engine, wanted))
                await self._report([request], [error])
                await self._publish(requests[number + 1 :])
                return
        await self._report(requests, await publish_together(self._engine, wanted))

    async def _report(self, requests: list[_Request], outcomes: list[Outcome]) -> None:
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, FluxbeeError):
                said = (outcome.status, _encode(outcome.message))
                await self._reply(b"error", request, b'"status":%d,"error":%b' % said)
            else:
                await self._reply(b"published", request, _encode(outcome)[1:-1])

    def _caller(self, token: str | None) -> Caller:
        if not self._may_write:
            raise Refused("a page of another origin may not write here", code="ORIGIN_REFUSED")
        if token is None:
            return self._credentials.caller(self._scope, trio.current_time())
        return self._credentials.caller_of(self._scope, token, trio.current_time())

    async def _reply(self, kind: bytes, request: _Request, members: bytes) -> None:
        text = b'{"type":"%b","id":%b,%b}' % (kind, bytes(request.id), members)
        await self._socket.write(text_frame(text))
