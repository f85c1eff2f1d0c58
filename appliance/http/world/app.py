"""The application behind the world door: which path is served by what (``spec/flux-state.md §2, §5.4, §7``).

Plain dispatch on the path: ids hold slashes in either spelling, every unknown path and method is answered as
HT-03 and HT-08 say, and a router's layers would cost more than most requests do. Everything that a browser
may do across origins is in the headers and in ``OPTIONS`` (HT-10, HT-11); who may write is the guard's and
the credentials' business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.http.guard import is_foreign
from appliance.http.health import HealthSource, health_response
from appliance.http.pages import PAGE_PREFIX, Page, wants_html
from appliance.wire.errors import Invalid, NotFound
from appliance.world import RateLimited, WorldEngine

from . import entities, events
from .administration import Administration
from .call import JSON, Call, Reply, error_body
from .connectors import ConnectorDesk
from .copies import Copies
from .credentials import Brake, Credentials
from .hub import FeedHub
from .openapi import OPENAPI
from .sockets import WorldSocket
from .stream import is_ndjson, publish_stream

__all__ = ["CORS_HEADERS", "WorldApp", "method_not_allowed"]

CORS_HEADERS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"retry-after,etag,x-flux-before-seq,x-flux-complete"),
    (b"vary", b"origin, access-control-request-method, access-control-request-headers"),
)
"""On every response of this door; no credentials, no max-age (HT-10)."""

_PREFLIGHT: Final = Reply(
    headers=(
        (b"access-control-allow-methods", b"GET,POST,PUT,DELETE,OPTIONS"),
        (b"access-control-allow-headers", b"authorization,content-type,idempotency-key,if-none-match"),
    )
)
_ENTITY: Final = b"/api/state/entities/"
_NAMESPACE: Final = b"/api/namespaces/"
_HISTORIES: Final = 8
_SOCKET_PATHS: Final = frozenset({"/", "/api/ws"})
_MANAGER_MOUNTS: Final = ("/api/connector-manager/connectors", "/connector-manager/api/connectors")

Handler = Callable[[Call], Awaitable[Reply | None]]


def method_not_allowed(*allowed: str) -> Reply:
    """405 with ``Allow``; ``GET`` brings ``HEAD`` along (HT-03)."""
    names = [name for method in allowed for name in ((method, "HEAD") if method == "GET" else (method,))]
    return Reply(error_body("Method Not Allowed"), 405, (JSON, (b"allow", ",".join(names).encode())))


def _plain(response: Response) -> Reply:
    """A response of Starlette's as an answer of ours."""
    headers = tuple(pair for pair in response.raw_headers if pair[0] != b"content-length")
    return Reply(bytes(response.body), response.status_code, headers)


class WorldApp:
    """The ASGI application.

    Args:
        hub: the engine and its feed.
        credentials: who is who.
        administration: what only the administrator may do.
        connectors: what is behind the mounting points of connectors.
        copies: backup and restore.
        health: how the world is.
        figures: ``/metrics`` as text.
        own_origins: origins that count as ours, lower case.
        page: the page for browsers.
    """

    def __init__(
        self,
        hub: FeedHub,
        credentials: Credentials,
        administration: Administration,
        *,
        connectors: ConnectorDesk,
        copies: Copies,
        health: HealthSource,
        figures: Callable[[], bytes],
        own_origins: frozenset[str] = frozenset(),
        page: Page | None = None,
    ) -> None:
        self._hub = hub
        self._engine: WorldEngine = hub.engine
        self._credentials = credentials
        self._administration = administration
        self._connectors = connectors
        self._health = health
        self._figures = figures
        self._own = own_origins
        self._page = page
        self._histories = trio.CapacityLimiter(_HISTORIES)
        self._arrivals = Brake(per_minute=6000, burst=4000)
        self._routes: dict[str, dict[str, Handler]] = {
            "/api/events": {"GET": self._history, "POST": self._publish},
            "/api/events/batch": {"POST": self._publish_batch},
            "/api/state/entities": {"GET": self._listing},
            "/api/state/entities/delete": {"POST": self._delete_many},
            "/api/namespaces": {"POST": administration.create},
            "/api/admin/config": {"GET": self._config, "PUT": administration.configure},
            "/api/admin/backup": {"GET": copies.backup},
            "/api/admin/restore": {"POST": copies.restore},
            "/api/ws": {"GET": self._no_upgrade},
            "/health": {"GET": self._health_of},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._openapi},
            "/": {"GET": self._index},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        call = Call(scope, receive, send)
        reply = _PREFLIGHT if call.method == "OPTIONS" else await self._serve(call)
        if reply is not None:
            await reply.send_to(send)

    async def _serve(self, call: Call) -> Reply | None:
        path: str = call.scope["path"]
        methods = self._routes.get(path)
        if methods is not None and (call.method in methods or path != "/api/state/entities/delete"):
            handler = methods.get(call.method)
            return await handler(call) if handler is not None else method_not_allowed(*methods)
        raw: bytes = call.scope["raw_path"]
        if raw.startswith(_ENTITY):
            return await self._entity(call)
        if raw.startswith(_NAMESPACE):
            return await self._namespace(call)
        if path.startswith(PAGE_PREFIX) and self._page is not None and call.method == "GET":
            return await self._file(call, path.removeprefix(PAGE_PREFIX))
        return await self._connector(call, path)

    # --- events and entities ---------------------------------------------------------------------------

    async def _publish(self, call: Call) -> Reply | None:
        caller = self._credentials.caller(call.scope, trio.current_time())
        if is_ndjson(call.header(b"content-type")):
            await publish_stream(call, self._engine, caller)
            return None
        return await events.publish(call, self._engine, caller)

    async def _publish_batch(self, call: Call) -> Reply | None:
        caller = self._credentials.caller(call.scope, trio.current_time())
        if is_ndjson(call.header(b"content-type")):
            await publish_stream(call, self._engine, caller)
            return None
        return await events.publish_batch(call, self._engine, caller)

    async def _history(self, call: Call) -> Reply:
        async with self._histories:
            return await events.history(call, self._engine)

    async def _listing(self, call: Call) -> Reply | None:
        return await entities.listing(call, self._engine)

    async def _delete_many(self, call: Call) -> Reply:
        caller = self._credentials.caller(call.scope, trio.current_time())
        self._credentials.demand_some(caller)
        return await entities.delete_many(call, self._engine, caller)

    async def _entity(self, call: Call) -> Reply:
        entity_id = call.tail(_ENTITY)
        if not entity_id:
            raise NotFound("Not Found")
        if call.method == "GET":
            return await entities.entity(call, self._engine, entity_id)
        if call.method == "DELETE":
            caller = self._credentials.caller(call.scope, trio.current_time())
            return await entities.delete(self._engine, caller, entity_id)
        return method_not_allowed("GET", "DELETE")

    # --- administration --------------------------------------------------------------------------------

    async def _namespace(self, call: Call) -> Reply:
        name, slash, verb = call.tail(_NAMESPACE).partition("/")
        if not name or (slash and verb != "rotate"):
            raise NotFound("Not Found")
        if verb:
            if call.method == "POST":
                return await self._administration.rotate(call, name)
            return method_not_allowed("POST")
        if call.method == "GET":
            return await self._administration.show(name)
        if call.method == "DELETE":
            return await self._administration.remove(call, name)
        return method_not_allowed("GET", "DELETE")

    async def _config(self, call: Call) -> Reply:
        return self._administration.config()

    async def _connector(self, call: Call, path: str) -> Reply:
        for mount in ("/api/connectors", *_MANAGER_MOUNTS):
            if path == mount or path.startswith(mount + "/"):
                parts = tuple(path.removeprefix(mount).split("/")[1:])
                reply = await self._connectors.answer(call, parts, manager=mount in _MANAGER_MOUNTS)
                if reply is not None:
                    return reply
        raise NotFound("Not Found")

    # --- the door itself -------------------------------------------------------------------------------

    async def _no_upgrade(self, call: Call) -> Reply:
        raise Invalid("Connection header did not include 'upgrade'")

    async def _health_of(self, call: Call) -> Reply:
        return _plain(await health_response(self._health))

    async def _ready(self, call: Call) -> Reply:
        ready = self._engine.ready
        body = b'{"ready":true}' if ready else b'{"ready":false,"error":"the world is being recovered"}'
        return Reply(body, 200 if ready else 503)

    async def _metrics(self, call: Call) -> Reply:
        return Reply(
            self._figures(), headers=((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)
        )

    async def _openapi(self, call: Call) -> Reply:
        return Reply(OPENAPI)

    async def _index(self, call: Call) -> Reply:
        if self._page is None or not wants_html(call.header(b"accept") or ""):
            return Reply(b'{"service":"world","openapi":"/openapi.json","feed":"/api/ws"}')
        return _plain(self._page.index(Request(call.scope)))

    async def _file(self, call: Call, name: str) -> Reply:
        found = self._page.file(name, Request(call.scope)) if self._page is not None else None
        if found is None:
            raise NotFound("Not Found")
        return _plain(found)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in _SOCKET_PATHS:
            raise NotFound("Not Found")
        client = scope.get("client")
        if not self._arrivals.take(client[0] if client else "", trio.current_time()):
            raise RateLimited("too many connections at once", retry_after_s=5)
        may_write = not is_foreign(scope, self._own) or self._credentials.is_known(scope, trio.current_time())
        socket = WorldSocket(scope, self._hub, self._credentials, may_write=may_write)
        await socket.serve(receive, send)
