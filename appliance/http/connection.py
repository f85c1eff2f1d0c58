"""One client connection: a trio shell around hypercorn's sans-IO HTTP/1.1 and WebSocket protocol.

hypercorn's own trio server shields its writes from cancellation, so that one client that reads nothing
holds up the stop for ever; its receive cannot show a handler that the client left; it resets a connection
whose upload nobody read, and the client loses the answer that says why. These are properties of its shell
and not of its protocol, so the shell is ours: every wait on the client has a deadline, ``abort`` ends every
wait at once, and nothing that a client does or omits outlives the door's grace. HTTP/2 is not offered: its
many streams would pass by the limits kept here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from hypercorn.config import Config as ProtocolConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, ConnectionState
from hypercorn.typing import Scope as ProtocolScope
from hypercorn.utils import parse_socket_addr
from starlette.types import ASGIApp, Message
from wsproto.connection import ConnectionState as WSState

from appliance.http.config import DoorConfig
from appliance.http.counters import Counters
from appliance.http.errors import ClientGone, Fault
from appliance.http.frames import FRAMES
from appliance.http.inbox import Inbox
from appliance.http.protocol import FaultResponse, Protocol
from appliance.system.log import Repeated, get_logger

__all__ = ["Connection", "plain_response"]

_READ_BYTES = 64 * 1024
_WRITE_BYTES = 64 * 1024
_LINGER_BYTES = 16 * 1024 * 1024
_log = get_logger("http")
_failures = Repeated()


class Connection:
    """Serves one accepted stream until it is closed.

    Args:
        stream: the accepted stream; owned from here on.
        app: the application, already behind its gate.
        config: limits and time-outs.
        protocol_config: hypercorn's settings, shared by a door's connections.
        context: hypercorn's ``WorkerContext``; its ``terminated`` makes responses close their connection.
        counters: where cuts are counted.
        fault_response: shapes the errors that arise below the application.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        app: ASGIApp,
        *,
        config: DoorConfig,
        protocol_config: ProtocolConfig,
        context: WorkerContext,
        counters: Counters,
        fault_response: FaultResponse,
    ) -> None:
        self._stream = stream
        self._app = app
        self._config = config
        self._context = context
        self._counters = counters
        self._fault_response = fault_response
        self._sending = trio.Lock()
        # Covers the reader; its deadline is how long the client may keep us waiting right now.
        self._patience = trio.CancelScope()
        self._idle = True
        self._head_begun = False
        self._closing = False
        self._lost = False
        self._inbox: Inbox | None = None
        self._gone = "http.disconnect"
        self._unsent = b""
        self._helpers: list[trio.CancelScope] = []
        self._nursery: trio.Nursery | None = None
        sock = stream.socket
        self._protocol = Protocol(
            app,  # type: ignore[arg-type]  # passed through to spawn_app, which is ours
            protocol_config,
            context,
            self,  # type: ignore[arg-type]  # of a TaskGroup only spawn_app and spawn are used
            ConnectionState({}),
            False,
            parse_socket_addr(sock.family, sock.getpeername()),
            parse_socket_addr(sock.family, sock.getsockname()),
            self._on_event,
        )
        self._protocol.fault_response = fault_response
        self._protocol.counters = counters

    async def run(self) -> None:
        """Serve until the client leaves, is cut, or the surrounding scope is cancelled."""
        self._patience.deadline = trio.current_time() + self._config.header_timeout_s
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with self._patience:
                    await self._read()
                if self._patience.cancelled_caught and self._idle and self._head_begun and not self._closing:
                    await self._cut_slow_head()
                await self._protocol.handle(Closed())
                if self._inbox is not None:
                    # Not every end in the protocol reaches the application (a broken handshake does not).
                    self._inbox.finish({"type": self._gone})
                for helper in self._helpers:
                    helper.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the client is gone; who was writing to it has been told
        except* Exception as group:  # noqa: BLE001 - the seam to two foreign libraries
            # hypercorn and wsproto raise on some malformed input (a non-ASCII handshake header, data after a
            # WebSocket close): one bad client, not the door's problem.
            self._counters.protocol_errors += 1
            if (count := _failures.hit()) is not None:
                _log.warning(
                    "http_connection_failed",
                    code="HTTP_CONNECTION_FAILED",
                    door=self._config.name,
                    error=repr(group.exceptions[0]),
                    count=count,
                )
        finally:
            self._stream.socket.close()

    def stop(self) -> None:
        """Close as soon as the running request allows: at once when idle, a WebSocket with code 1001."""
        if self._idle and not self._closing:
            self._head_begun = False
            self._patience.cancel()
        elif isinstance(self._protocol.stream, WSStream) and self._nursery is not None:
            self._nursery.start_soon(self._close_websocket, self._protocol.stream)

    def abort(self) -> None:
        """Cut now: every wait on the client, shielded or not, ends with ``ClosedResourceError``."""
        sock = self._stream.socket
        with suppress(OSError):  # closed already
            # A reset instead of an orderly close: what the client has not taken is thrown away.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    # The part of hypercorn's TaskGroup that its protocol uses.

    async def spawn_app(
        self,
        app: AppWrapper,
        config: ProtocolConfig,
        scope: ProtocolScope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for one request; returns where its incoming messages go."""
        assert self._nursery is not None
        self._inbox = inbox = Inbox(config.max_app_queue_size)
        self._gone = f"{scope['type']}.disconnect"
        self._nursery.start_soon(self._run_app, scope, inbox, send)
        return inbox.put  # type: ignore[return-value]  # TypedDicts of one library, mappings of the other

    def spawn(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a helper task of the protocol (WebSocket pings); it ends with the reader."""
        assert self._nursery is not None
        self._nursery.start_soon(self._run_helper, func, args)

    async def _run_helper(self, func: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        # The ping task looks only once per interval whether its WebSocket is still there.
        with trio.CancelScope() as scope:
            self._helpers.append(scope)
            await func(*args)

    async def _run_app(
        self, scope: ProtocolScope, inbox: Inbox, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> None:
        websocket = scope["type"] == "websocket"

        async def forward(message: Message) -> None:
            # A WebSocket's protocol drops what is sent after its end without a word and without a checkpoint:
            # a handler that only sends would never learn of it, and would never let others run.
            if self._lost or self._closing or (inbox.gone and websocket):
                raise ClientGone("the client is gone")
            await send(message)  # type: ignore[arg-type]
            if self._lost:
                raise ClientGone("the client is gone")

        # What ASGI 2.4 asks of a server is kept by ``forward``: a handler learns of a lost client as an
        # OSError.
        scope["asgi"]["spec_version"] = "2.4"
        if scope["type"] == "websocket":
            scope["extensions"][FRAMES] = self  # type: ignore[assignment]  # ASGI leaves its values open
        with suppress(ClientGone):
            await self._app(scope, inbox.get, forward)  # type: ignore[arg-type]
        # A reader that waits for room is let go: nobody takes the rest of this request.
        inbox.finish({"type": self._gone})
        await send(None)

    # Ready frames (``FrameSocket``).

    @property
    def unsent(self) -> bool:
        """Whether ``write_now`` left a part that ``flush`` is to send."""
        return bool(self._unsent)

    def write_now(self, data: bytes) -> bool:
        """Hand whole frames to the socket without waiting; see ``FrameSocket``."""
        if self._lost or self._closing or self._unsent or self._sending.locked():
            return False
        try:
            sent = os.write(self._stream.socket.fileno(), data)
        except BlockingIOError:
            return False
        except OSError:
            self._lost = True  # the reader finds out too, and ends the connection
            return False
        if sent < len(data):
            self._unsent = data[sent:]
        return True

    async def write(self, data: bytes) -> None:
        """Send whole frames; see ``FrameSocket``."""
        if not self._lost and not self._closing:
            await self._write(data)
        if self._lost or self._closing:
            raise ClientGone("the client is gone")

    async def flush(self) -> None:
        """Send what ``write_now`` left; see ``FrameSocket``."""
        await self.write(b"")

    # Reading.

    async def _read(self) -> None:
        discarded = 0
        while True:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._lost = True
                return
            if self._closing:
                discarded += len(data)
                if not data or discarded > _LINGER_BYTES:
                    return
                continue
            if data and self._idle and not self._head_begun:
                self._head_begun = True
                self._patience.deadline = trio.current_time() + self._config.header_timeout_s
            await self._protocol.handle(RawData(bytes(data)))
            stream = self._protocol.stream
            if isinstance(stream, WSStream) and (stream.closed or _said_goodbye(stream)):
                # hypercorn answers a broken handshake, or a message that is too long, and then waits for the
                # client to leave; meanwhile the application would send on, behind the close frame.
                self._begin_closing()
            if not data:
                return

    async def _cut_slow_head(self) -> None:
        self._counters.slow_heads += 1
        self._counters.responses[4] += 1
        fault = Fault(
            status=408,
            code="REQUEST_TIMEOUT",
            message="the request head was not complete in time",
            remedy="Send the whole request at once.",
        )
        headers, body = self._fault_response(fault)
        with trio.move_on_after(self._config.linger_s):
            await self._write(plain_response(408, headers, body))

    # What the protocol asks for.

    async def _on_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._begin_closing()
            await self._protocol.handle(Closed())
        elif isinstance(event, Updated):
            self._set_idle(event.idle)

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        # What came behind the last request may be the beginning of the next.
        self._head_begun = idle and bool(self._protocol.connection.trailing_data[0])
        # While a request runs the reader may wait as long as it likes: the gate's deadline rules.
        patience_s = float("inf")
        if idle:
            patience_s = self._config.header_timeout_s if self._head_begun else self._config.keep_alive_s
        self._patience.deadline = trio.current_time() + patience_s
        if idle and self._context.terminated.is_set():
            self._patience.cancel()

    def _begin_closing(self) -> None:
        """Say that no more will come, then drain for a while.

        Closing a socket with unread bytes resets it, and the client would lose the response that explains why
        its upload was refused.
        """
        if self._closing:
            return
        self._closing = True
        self._patience.deadline = trio.current_time() + self._config.linger_s
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._patience.cancel()  # the client is gone already

    async def _write(self, data: bytes) -> None:
        async with self._sending:
            if self._unsent:  # the rest of a frame: nothing may come between
                data, self._unsent = self._unsent + data, b""
            try:
                with memoryview(data) as view:
                    for start in range(0, len(view), _WRITE_BYTES):
                        with (
                            trio.fail_after(self._config.write_timeout_s),
                            view[start : start + _WRITE_BYTES] as part,
                        ):
                            await self._stream.send_all(part)
            except trio.TooSlowError:
                self._counters.stalled += 1
                self._lost = True
                self.abort()
                await self._protocol.handle(Closed())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._lost = True
                await self._protocol.handle(Closed())

    async def _close_websocket(self, stream: WSStream) -> None:
        if not stream.closed:
            await stream.app_send({"type": "websocket.close", "code": 1001, "reason": "the door closes"})
        self._begin_closing()
        await self._protocol.handle(Closed())


def _said_goodbye(stream: WSStream) -> bool:
    """Whether the protocol sent a close frame; before the handshake it has no connection."""
    connection = getattr(stream, "connection", None)
    return connection is not None and connection.state is WSState.LOCAL_CLOSING


def plain_response(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A whole response as bytes, for clients that never got as far as the protocol; it says ``close``."""
    reason = {408: b"Request Timeout", 503: b"Service Unavailable"}.get(status, b"Error")
    lines = [b"HTTP/1.1 %d %s" % (status, reason)]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"connection: close", b"", body]
    return b"\r\n".join(lines)
