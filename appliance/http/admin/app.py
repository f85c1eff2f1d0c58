"""The admin door's ASGI application: resolves paths itself and answers in the envelope.

The order is that of ``spec/admin-api.md §A.2``: ``/health`` first and never behind anything, then the door's
own pages, then the table of endpoints, then 404 with the one body that says so. What an action means is
decided behind :class:`AdminGateway`; here is no rule about single actions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from appliance.http.errors import not_found
from appliance.http.gate import extend_deadline
from appliance.http.health import HealthSource, health_response
from appliance.http.pages import PAGE_PREFIX, Page, wants_html
from appliance.wire.admin.outcome import (
    AdminCall,
    AdminGateway,
    AdminOutcome,
    AdminStreams,
    failure,
    from_error,
)
from appliance.wire.errors import FluxbeeError

from .body import read_body
from .calls import call_of
from .docs import DOCS
from .endpoints import Match, find
from .modules import PATIENCE_S as MODULE_PATIENCE_S
from .modules import ModuleDoor
from .openapi import document_bytes
from .paths import query_of, segments
from .replies import send_bytes, send_outcome
from .sse import stream_events

__all__ = ["AdminApp", "AdminParts"]

Metrics = Callable[[], Awaitable[bytes]]

_SLACK_S: Final = 5.0
_METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class AdminParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the door serves beside actions.

    Attributes:
        health: answers ``/health``.
        metrics: makes the Prometheus text.
        streams: logs and tap as server-sent events.
        page: the admin page.
        modules: the module store.
    """

    health: HealthSource
    metrics: Metrics | None = None
    streams: AdminStreams | None = None
    page: Page | None = None
    modules: ModuleDoor | None = None


class AdminApp:
    """The application.

    Args:
        gateway: executes actions.
        parts: everything else.
    """

    def __init__(self, gateway: AdminGateway, parts: AdminParts) -> None:
        self._gateway = gateway
        self._parts = parts
        self._own: dict[str, ASGIApp] = {
            "/health": self._health,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/tap": self._tap,
            "/": self._index,
            "/admin/executor/functions": self._functions,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; WebSockets are not offered."""
        if scope["type"] != "http":
            await not_found(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            own = self._own.get(path)
            if own is not None and not (method == "HEAD" and path == "/tap"):  # a stream has no length
                await own(scope, receive, send)
                return
            if await self._file(scope, receive, send):
                return
        parts = segments(scope.get("raw_path") or path.encode())
        modules = self._parts.modules
        if parts and modules is not None and modules.serves(method, parts):
            extend_deadline(scope, MODULE_PATIENCE_S)
            await modules.answer(method, parts, receive, send)
            return
        match = find(method, parts) if parts else None
        if match is not None:
            await self._execute(match, scope, receive, send)
        else:
            await not_found(scope, receive, send)

    # --- actions ---------------------------------------------------------------------------------------

    async def _execute(self, match: Match, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = match.endpoint
        body = await read_body(receive)
        try:
            call = call_of(match, scope["query_string"], body)
            if call.action == "get_node_logs" and call.params.get("follow") not in (None, "0", "false"):
                await self._follow_log(call, scope, receive, send)
                return
        except FluxbeeError as error:
            outcome = from_error(endpoint.action, error, form=endpoint.form)
        else:
            extend_deadline(scope, self._gateway.patience_s(call.action) + _SLACK_S)
            outcome = await self._gateway.execute(call)
        await send_outcome(send, outcome)

    async def _follow_log(self, call: AdminCall, scope: Scope, receive: Receive, send: Send) -> None:
        streams = self._parts.streams
        name = str(call.params["node_name"])
        full = name if "@" in name else f"{name}@{call.target}"
        tail = str(call.params.get("tail") or "200")
        if streams is None:
            await send_outcome(send, failure(call.action, "NOT_IMPLEMENTED", "this door has no streams"))
            return
        lines = min(int(tail), 5000) if tail.isascii() and tail.isdigit() and len(tail) < 9 else 200
        await stream_events(streams.log(full, lines), receive, send, action=call.action)

    # --- the door's own paths --------------------------------------------------------------------------

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await health_response(self._parts.health)
        await response(scope, receive, send)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._parts.metrics is None:
            await not_found(scope, receive, send)
            return
        await send_bytes(send, 200, await self._parts.metrics(), _METRICS_TYPE, fresh=True)

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_bytes(send, 200, document_bytes(), b"application/json")

    async def _tap(self, scope: Scope, receive: Receive, send: Send) -> None:
        streams = self._parts.streams
        if streams is None:
            await not_found(scope, receive, send)
            return
        try:
            name = query_of(scope["query_string"]).get("name") or "*"
        except FluxbeeError as error:
            await send_outcome(send, from_error("tap", error))
            return
        pattern = name if "*" in name or "@" in name else f"{name}@*"
        await stream_events(streams.tap(pattern), receive, send, action="tap")

    async def _index(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        page = self._parts.page
        if page is None or not wants_html(request.headers.get("accept", "")):
            await not_found(scope, receive, send)
            return
        await page.index(request)(scope, receive, send)

    async def _file(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """A file of the page or of the API's reading page; ``False`` when the path is neither."""
        path = scope["path"]
        document = DOCS.get(path)
        if document is not None:
            await send_bytes(send, 200, document.body, document.media_type)
            return True
        page = self._parts.page
        if page is None or not path.startswith(PAGE_PREFIX):
            return False
        response = page.file(path.removeprefix(PAGE_PREFIX), Request(scope))
        if response is None:
            return False
        await response(scope, receive, send)
        return True

    async def _functions(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = AdminOutcome(
            http_status=200, status="ok", action="list_executor_functions", payload={"functions": []}
        )
        await send_outcome(send, outcome)
