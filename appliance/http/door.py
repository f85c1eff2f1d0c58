"""Opens a door, serves it and closes it in time.

Started means bound and listening. Cancellation is the stop path: the listening sockets close, idle
connections end at once, running requests get ``stop_s``, then whatever is left is cut; a client that reads
nothing, sends half a request or keeps a WebSocket open cannot make that longer. More connections than
``max_connections`` are told so and closed.
"""

from __future__ import annotations

import errno
import socket
import sys

import trio
from hypercorn.config import Config as ProtocolConfig
from hypercorn.logging import Logger as ProtocolLogger
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

from appliance.http.config import DoorConfig, Listen
from appliance.http.connection import Connection, plain_response
from appliance.http.counters import Counters, DoorStatistics
from appliance.http.errors import Fault
from appliance.http.gate import Gate
from appliance.system.log import get_logger
from appliance.wire.errors import Misconfigured, Unavailable

__all__ = ["Door", "serve"]

_BACKLOG = 128
_log = get_logger("http")


async def serve(
    app: ASGIApp, config: DoorConfig, *, task_status: trio.TaskStatus[Door] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``app`` behind the door that ``config`` describes, until cancelled.

    ``await nursery.start(serve, app, config)`` returns the ``Door`` once it listens: ``door.addresses``
    holds the real ports, ``door.statistics()`` the counts.

    Raises:
        Misconfigured: the address is wrong, foreign to this machine, or off loopback without a token.
        Unavailable: somebody else listens there, or the port may not be bound.
    """
    await Door(app, config).serve(task_status=task_status)


class Door:
    """One listening address and its connections; serves once."""

    def __init__(self, app: ASGIApp, config: DoorConfig) -> None:
        self.config = config
        self.addresses: tuple[Listen, ...] = ()
        self._counters = Counters()
        self._gate = Gate(app, config, self._counters)
        self._context = WorkerContext(None)
        self._protocol_config = _protocol_config(config)
        self._connections: set[Connection] = set()
        self._stopping = trio.Event()
        self._someone_left = trio.Event()

    @property
    def port(self) -> int:
        """The bound TCP port (the first, where a name gave several addresses)."""
        return self.addresses[0].port

    def statistics(self) -> DoorStatistics:
        """Counts since the door opened."""
        return self._counters.freeze(
            name=self.config.name,
            addresses=tuple(str(address) for address in self.addresses),
            open_connections=len(self._connections),
        )

    async def serve(self, *, task_status: trio.TaskStatus[Door] = trio.TASK_STATUS_IGNORED) -> None:
        """Bind, listen and serve until cancelled; see ``serve`` for the errors."""
        listeners = await self._bind()
        try:
            async with trio.open_nursery() as nursery:
                connections = await nursery.start(self._hold_connections)
                try:
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, connections)
                        _log.info("door_open", door=self.config.name, listen=[str(a) for a in self.addresses])
                        task_status.started(self)
                finally:
                    for listener in listeners:
                        listener.socket.close()
                    self._stopping.set()
        finally:
            for listener in listeners:
                listener.socket.close()

    async def _bind(self) -> list[trio.SocketListener]:
        wanted = self.config.address()
        try:
            listeners = await trio.open_tcp_listeners(wanted.port, host=wanted.host, backlog=_BACKLOG)
        except OSError as error:
            raise _bind_error(error, wanted, self.config) from error
        bound = [listener.socket.getsockname() for listener in listeners]
        self.addresses = tuple(Listen(name[0], name[1]) for name in bound)
        return listeners

    async def _hold_connections(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Own the connections' tasks; they outlive the cancellation of the door by the grace period."""
        with trio.CancelScope(shield=True) as grace:
            async with trio.open_nursery() as connections:
                task_status.started(connections)
                await self._stopping.wait()
                await self._context.terminated.set()
                for connection in tuple(self._connections):
                    connection.stop()
                connections.start_soon(self._cut_after_grace, grace)

    async def _cut_after_grace(self, grace: trio.CancelScope) -> None:
        deadline = trio.current_time() + self.config.stop_s
        with trio.CancelScope(deadline=deadline):
            while self._connections:
                self._someone_left = trio.Event()
                await self._someone_left.wait()
        self._counters.cut_at_stop += len(self._connections)
        for connection in tuple(self._connections):
            # Before the cancellation, because a handler may shield a write; a closed socket ends that too.
            connection.abort()
        grace.cancel()

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _ACCEPT_OVERLOAD:
                    raise
                # Out of descriptors or memory: the pending connection stays in the backlog, so a loop
                # without a pause would spin. See trio's serve_listeners for the same choice.
                self._counters.accept_errors += 1
                _log.error(
                    "http_accept_failed", code="HTTP_ACCEPT_FAILED", door=self.config.name, error=str(error)
                )
                await trio.sleep(0.1)
                continue
            self._counters.connections += 1
            if len(self._connections) >= self.config.max_connections:
                self._turn_away(stream)
            else:
                connections.start_soon(self._serve_connection, stream)

    def _turn_away(self, stream: trio.SocketStream) -> None:
        self._counters.turned_away += 1
        self._counters.responses[5] += 1
        fault = Fault(
            status=503,
            code="BUSY",
            message="too many connections",
            remedy="Wait a moment and try again.",
            retry_after_s=1.0,
        )
        headers, body = self._gate.fault_response(fault)
        with stream.socket as sock:
            # Fits a fresh socket's buffer, so this does not wait; a client that sent already may see a reset.
            raw = socket.socket(fileno=sock.detach())
        with raw:
            try:
                raw.send(plain_response(503, headers, body), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                raw.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the client left first

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        try:
            _tune(stream.socket)
            connection = Connection(
                stream,
                self._gate,
                config=self.config,
                protocol_config=self._protocol_config,
                context=self._context,
                counters=self._counters,
                fault_response=self._gate.fault_response,
            )
        except OSError:
            stream.socket.close()  # the client left between accept and here
            return
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._someone_left.set()


_ACCEPT_OVERLOAD = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


def _tune(sock: trio.socket.SocketType) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Half-open peers (a laptop that went to sleep) are found by the kernel, also where no data flows.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    # Writable means "few bytes unsent" instead of "room in a buffer of megabytes": bounds memory per
    # client, and makes the write time-out measure what the client takes.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 * 1024)


def _bind_error(error: OSError, wanted: Listen, config: DoorConfig) -> Misconfigured | Unavailable:
    reason = error.errno
    if isinstance(error.__cause__, OSError) and reason is None:
        reason = error.__cause__.errno
    if isinstance(error, socket.gaierror):
        return Misconfigured(
            f"{config.key}: the name {wanted.host!r} does not resolve",
            remedy="Write an address of this machine.",
            field=config.key,
        )
    if reason == errno.EADDRINUSE:
        return Unavailable(
            f"the {config.name} door cannot listen on {wanted}: another process does",
            code="ADDRESS_IN_USE",
            remedy=f"Stop that process (`ss -ltnp sport = :{wanted.port}` names it) or change {config.key}.",
        )
    if reason in {errno.EACCES, errno.EPERM}:
        return Unavailable(
            f"the {config.name} door may not listen on {wanted}",
            remedy=f"Ports below 1024 need a privilege; choose a higher one in {config.key}.",
        )
    if reason == errno.EADDRNOTAVAIL:
        return Misconfigured(
            f"{config.key}: this machine has no address {wanted.host}",
            remedy="Write an address of this machine, or 127.0.0.1.",
            field=config.key,
        )
    return Unavailable(f"the {config.name} door cannot listen on {wanted}: {error}")


class _ProtocolLog(ProtocolLogger):
    """hypercorn's log calls, into ours; it installs no handlers and keeps no access log."""

    def __init__(self, config: ProtocolConfig) -> None:
        self.access_logger = None
        self.error_logger = None

    async def exception(self, message: str, *args: object, **kwargs: object) -> None:
        error = sys.exception()
        if error is None:
            await self.error(message, *args)
        else:
            _log.exception("http_protocol_failed", error, code="HTTP_PROTOCOL_FAILED", detail=message)

    async def error(self, message: str, *args: object, **kwargs: object) -> None:
        _log.error("http_protocol_failed", code="HTTP_PROTOCOL_FAILED", detail=_text(message, args))

    async def warning(self, message: str, *args: object, **kwargs: object) -> None:
        _log.warning("http_protocol_warning", code="HTTP_PROTOCOL_WARNING", detail=_text(message, args))


def _text(message: str, args: tuple[object, ...]) -> str:
    return message % args if args else message


def _protocol_config(config: DoorConfig) -> ProtocolConfig:
    protocol = ProtocolConfig()
    protocol.logger_class = _ProtocolLog
    protocol.h11_max_incomplete_size = config.max_header_bytes
    protocol.include_date_header = False
    protocol.include_server_header = False
    protocol.keep_alive_max_requests = 1_000_000  # connections are bounded by number and idleness, not by use
    protocol.websocket_max_message_size = config.websocket_max_bytes
    protocol.websocket_ping_interval = config.websocket_ping_s
    return protocol
