"""The ASGI wrapper around every door's application: the rules that hold for each request.

In order: guard (Host, Origin, token), body limit, deadline, the application, and its errors as JSON. An
application behind a gate may simply raise from the error tree. One object per request and no nested
middleware: each layer of closures costs a small box more than the work it does. Pure ASGI: runs on any
server.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from appliance.http.config import DoorConfig
from appliance.http.counters import Counters
from appliance.http.errors import (
    BodyTimeout,
    ClientGone,
    DeadlinePassed,
    Fault,
    PayloadTooLarge,
    from_http_exception,
)
from appliance.http.guard import Guard, header
from appliance.system.log import get_logger
from appliance.wire.errors import Busy, FluxbeeError, Refused

__all__ = ["Gate", "extend_deadline"]

_DEADLINE = "fluxbee.deadline"
_log = get_logger("http")


def extend_deadline(scope: Scope, seconds: float) -> None:
    """Give the request of ``scope`` ``seconds`` from now to begin its answer.

    For handlers that may rightly take longer than the door's ``request_timeout_s`` (adding a hive takes up to
    180 s, ``spec/admin-api.md §A.6``). Without effect outside a gate.
    """
    deadline = scope.get(_DEADLINE)
    if isinstance(deadline, trio.CancelScope):
        deadline.deadline = trio.current_time() + seconds


class Gate:
    """Wraps ``app`` with the rules of ``config``; what happens is counted in ``counters``."""

    def __init__(self, app: ASGIApp, config: DoorConfig, counters: Counters) -> None:
        self.app = app
        self.config = config
        self.counters = counters
        self.guard = Guard(config)
        self.headers: dict[bytes, bytes] = {
            b"content-security-policy": config.csp.encode(),
            b"x-content-type-options": b"nosniff",
            b"referrer-policy": b"no-referrer",
            **dict(config.headers),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ``http`` or ``websocket`` scope; others (``lifespan``) are not offered by a door."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await _Session(self, scope, receive, send).run()

    def with_headers(self, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """``given`` and those of the door's headers that it does not set itself."""
        named = {bytes(name).lower() for name, _ in given}
        return [*given, *((name, value) for name, value in self.headers.items() if name not in named)]

    def fault_response(self, fault: Fault) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body of the response that reports ``fault``."""
        body = msgspec.json.encode(self.config.error_shape(fault))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *fault.headers(),
        ]
        if fault.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers, body

    def fault_of(self, error: Exception, scope: Scope) -> Fault:
        """What a response says about ``error``; an unexpected one is logged under an id that it names."""
        if isinstance(error, HTTPException):
            error = from_http_exception(error)
        if isinstance(error, FluxbeeError):
            return Fault.from_error(error)
        error_id = uuid.uuid4().hex[:12]
        self.counters.internal_errors += 1
        _log.exception(
            "http_handler_failed",
            error,
            code="HTTP_HANDLER_FAILED",
            door=self.config.name,
            error_id=error_id,
            method=scope.get("method", "WEBSOCKET"),
            path=scope["path"],
        )
        return Fault.internal(error_id)

    def judge(self, scope: Scope) -> None:
        """Raise ``Refused`` (counted) when the request may not pass."""
        refusal = self.guard.refusal(scope)
        if refusal is not None:
            self.counters.refused[refusal.code] += 1
            raise refusal


class _Exchange:
    """One HTTP request and its response."""

    __slots__ = (
        "body_bytes",
        "body_whole",
        "finished",
        "gate",
        "limit",
        "reading",
        "receive",
        "scope",
        "send",
        "started",
        "timer",
    )

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate = gate
        self.scope = scope
        self.receive = receive
        self.send = send
        self.timer = trio.CancelScope()
        self.limit = gate.config.body_limit(scope)
        self.body_bytes = 0
        self.body_whole = False
        self.reading = False
        self.started = False
        self.finished = False

    async def run(self) -> None:
        scope = self.scope
        error: Exception
        try:
            self.gate.judge(scope)
            self._check_announced_length()
            self.timer.deadline = trio.current_time() + self.gate.config.request_timeout_s
            scope[_DEADLINE] = self.timer
            with self.timer:
                await self.gate.app(scope, self._receive, self._send)
            if self.timer.cancelled_caught:
                raise self._too_late()
            if self.started:
                if not self.finished:
                    raise RuntimeError("the handler returned before its response was complete")
                return
            raise RuntimeError("the handler returned without a response")
        except Exception as caught:  # noqa: BLE001 - here a failure becomes an answer
            error = _single(caught)
        if isinstance(error, (ClientGone, ClientDisconnect)):
            self.gate.counters.clients_gone += 1  # nobody is left to be answered
            return
        fault = self.gate.fault_of(error, scope)
        if self.started:
            # Too late for a status: ending here makes the server cut the connection, so the client sees that
            # the body is not whole.
            return
        await self._answer(fault)

    def _too_late(self) -> FluxbeeError:
        if self.reading:
            self.gate.counters.body_timeouts += 1
            return BodyTimeout("the request was not complete in time")
        self.gate.counters.deadline_hits += 1
        return DeadlinePassed("the request timed out before the answer was ready")

    def _check_announced_length(self) -> None:
        announced = header(self.scope, b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > self.limit:
            raise self._too_large()

    def _too_large(self) -> PayloadTooLarge:
        self.gate.counters.bodies_too_large += 1
        return PayloadTooLarge("payload too large", remedy=f"Send at most {self.limit} bytes in one request.")

    async def _receive(self) -> Message:
        self.reading = not self.body_whole  # past the body a handler only waits for the client to leave
        message = await self.receive()
        self.reading = False
        if message["type"] == "http.request":
            self.body_whole = not message.get("more_body", False)
            self.body_bytes += len(message.get("body", b""))
            if self.body_bytes > self.limit:
                raise self._too_large()
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # The deadline is for the beginning of the answer; a long body is the write timeout's business.
            self.timer.deadline = float("inf")
            self.started = True
            status = int(message["status"])
            self.gate.counters.responses[status // 100] += 1
            message = {**message, "headers": self.gate.with_headers(list(message.get("headers", ())))}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finished = True
        await self.send(message)

    async def _answer(self, fault: Fault) -> None:
        headers, body = self.gate.fault_response(fault)
        await self._send({"type": "http.response.start", "status": fault.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class _Session:
    """One WebSocket, from handshake to close."""

    __slots__ = ("accepted", "closed", "gate", "receive", "scope", "send", "timer")

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate = gate
        self.scope = scope
        self.receive = receive
        self.send = send
        self.timer = trio.CancelScope()
        self.accepted = False
        self.closed = False

    async def run(self) -> None:
        counters = self.gate.counters
        counters.open_websockets += 1
        try:
            await self._run()
        finally:
            counters.open_websockets -= 1

    async def _run(self) -> None:
        error: Exception
        try:
            self.gate.judge(self.scope)
            self.timer.deadline = trio.current_time() + self.gate.config.request_timeout_s
            self.scope[_DEADLINE] = self.timer
            with self.timer:
                await self.gate.app(self.scope, self._receive, self._send)
            if self.timer.cancelled_caught:
                self.gate.counters.deadline_hits += 1
                raise DeadlinePassed("the handshake timed out")
            if not self.closed:
                # A handler that simply returns is done with its client: that is a normal closure.
                await self._send({"type": "websocket.close", "code": 1000})
            return
        except Exception as caught:  # noqa: BLE001 - here a failure becomes an answer
            error = _single(caught)
        if isinstance(error, (ClientGone, WebSocketDisconnect)):
            return  # Starlette's way to say that the client left
        fault = self.gate.fault_of(error, self.scope)
        if self.closed:
            return
        if not self.accepted:
            await self._reject(fault)
        else:
            # The reason must fit a control frame: 123 bytes of UTF-8.
            reason = f"{fault.code}: {fault.message}".encode()[:123].decode("utf-8", "ignore")
            await self._send({"type": "websocket.close", "code": _close_code(error), "reason": reason})

    async def _receive(self) -> Message:
        message = await self.receive()
        if message["type"] == "websocket.disconnect":
            self.closed = True
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.timer.deadline = float("inf")
            self.accepted = True
            self.gate.counters.responses[1] += 1
        elif kind == "websocket.close":
            if not self.accepted:
                await self._reject(Fault.from_error(Refused("the door refused this WebSocket")))
                return
            self.closed = True
        elif kind == "websocket.http.response.start":
            self.closed = True
            self.gate.counters.responses[int(message["status"]) // 100] += 1
            message = {**message, "headers": self.gate.with_headers(list(message.get("headers", ())))}
        await self.send(message)

    async def _reject(self, fault: Fault) -> None:
        headers, body = self.gate.fault_response(fault)
        headers.append((b"connection", b"close"))
        await self._send(
            {"type": "websocket.http.response.start", "status": fault.status, "headers": headers}
        )
        await self._send({"type": "websocket.http.response.body", "body": body})


_CLOSE_CODES: Mapping[type[FluxbeeError], int] = {Refused: 1008, PayloadTooLarge: 1009, Busy: 1013}


def _close_code(error: Exception) -> int:
    """RFC 6455 close code for an error after the handshake."""
    return next((code for kind, code in _CLOSE_CODES.items() if isinstance(error, kind)), 1011)


def _single(error: Exception) -> Exception:
    """The one exception inside a group of one: handlers with a nursery raise groups."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
