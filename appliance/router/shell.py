"""The Unix-socket shell around the engine: one task, one epoll set, one write per destination per turn.

A task per connection would cost an epoll_ctl and a task switch per message; here every socket stays
registered in one level-triggered epoll set, trio waits for that set's own descriptor, and a turn reads all
that is ready before it writes. Sockets are non-blocking throughout. A socket that must not be read (its
sender is paused) is taken out of the set, because a hang-up would report it for ever.
"""

from __future__ import annotations

import errno
import math
import select
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from ..system.log import get_logger
from ..system.peercred import peer_credentials
from .connection import Connection, Peer, State
from .engine import Engine

__all__ = ["Shell"]

READ_BYTES: Final = 65_536
"""Read per wake-up and connection (``design.md §5``)."""

_ACCEPTS_PER_TURN: Final = 64
_ACCEPT_PAUSE_S: Final = 0.1
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_READ: Final = select.EPOLLIN | select.EPOLLRDHUP
_ROUNDS: Final = 4

log = get_logger("router")


class _Link:
    """A connection with its socket and what the epoll set was told about it."""

    __slots__ = ("connection", "fd", "interest", "sock")

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.connection = connection
        self.interest = 0


class Shell:
    """Moves bytes between sockets and an engine.

    Args:
        engine: decides.
        listener: bound, listening, non-blocking Unix socket.
        before_write: called once per turn, after the engine closed it and before anything is written.
    """

    def __init__(
        self, engine: Engine, listener: socket.socket, *, before_write: Callable[[], None] | None = None
    ) -> None:
        self.engine = engine
        self.turns = 0
        self.wakeups: dict[int, Callable[[], None]] = {}
        self._listener = listener
        self._before_write = before_write
        self._epoll = select.epoll()
        self._set = self._epoll.fileno()
        self._links: dict[int, _Link] = {}
        self._by_connection: dict[Connection, _Link] = {}
        self._accept_again_at = 0.0
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    # --- outside ---------------------------------------------------------------------------------------

    def attach(self, sock: socket.socket, peer: Peer) -> None:
        """Take over a connected socket (a plane's inherited end) as a new connection.

        Once the shell has shut, the socket is closed: its sender reads the end and comes again.
        """
        if self._epoll.closed:
            sock.close()
            return
        sock.setblocking(False)
        connection = self.engine.accept(peer)
        connection.accepted_at = time.monotonic()  # the engine's time is that of its last turn
        link = _Link(sock, connection)
        self._links[link.fd] = link
        self._by_connection[connection] = link
        self._want(link, _READ)

    def watch(self, fd: int, on_ready: Callable[[], None]) -> None:
        """Call ``on_ready`` within the turn when ``fd`` is readable (generation eventfds, channels)."""
        self.wakeups[fd] = on_ready
        self._epoll.register(fd, select.EPOLLIN)

    async def run(self) -> None:
        """Serve until cancelled; then every socket is closed."""
        try:
            while True:
                await self._wait()
                self.turn()
        finally:
            self.close()

    async def _wait(self) -> None:
        if self.engine.resumed or self.engine.dirty:
            await trio.lowlevel.checkpoint()
            return
        due = self.engine.next_deadline()
        if self._accept_again_at:
            due = min(due, self._accept_again_at)
        if due == math.inf:  # the usual case; a cancel scope would cost as much as the turn itself
            await trio.lowlevel.wait_readable(self._set)
            return
        with trio.move_on_after(max(due - time.monotonic(), 0.0)):
            await trio.lowlevel.wait_readable(self._set)

    # --- one turn --------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Read all that is ready, decide, write each destination once."""
        engine = self.engine
        self.turns += 1
        now = time.monotonic()
        engine.begin_turn(now, time.time_ns() // 1_000_000)
        if self._accept_again_at and now >= self._accept_again_at:
            self._accept_again_at = 0.0
            self._epoll.modify(self._listener.fileno(), select.EPOLLIN)
        links = self._links
        ready = self._epoll.poll(0, 512)
        # Writing comes first: what is read now must not leave before the turn is closed, and who has room
        # again must not look stalled because this turn came late.
        for fd, events in ready:
            if events & select.EPOLLOUT and fd in links:
                self._write(links[fd])
        for fd, events in ready:
            link = links.get(fd)
            if link is None:
                self._other(fd)
            elif events & ~select.EPOLLOUT and link.connection.closing is None:
                self._read(link, events)
        engine.expire()
        self._settle()

    def _settle(self) -> None:
        """Finish the turn; a resumed sender may produce more, so go round, but not for ever."""
        engine = self.engine
        for _ in range(_ROUNDS):
            while engine.resumed:
                resumed, engine.resumed = engine.resumed, []
                for connection in resumed:
                    if connection.closing is None and not connection.blocked:
                        engine.receive(connection, b"")
                        if not connection.blocked:
                            self._read_again(self._by_connection[connection])
            engine.end_turn()
            if self._before_write is not None:
                self._before_write()
            dirty, engine.dirty = engine.dirty, []
            for connection in dirty:
                connection.dirty = False
                link = self._by_connection.get(connection)
                if link is not None and not link.interest & select.EPOLLOUT:
                    self._write(link)
            for connection in list(engine.paused):
                self._stop_reading(self._by_connection[connection])
            self._bury()
            if not engine.resumed and not engine.dirty:
                return

    def _other(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd in self.wakeups:
            self.wakeups[fd]()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    self.engine.counts["accept_failed"] += 1
                    continue
                # Descriptors are gone: they come back when somebody leaves. Serve those who are here.
                self.engine.counts["accept_out_of_resources"] += 1
                if self.engine.counts["accept_out_of_resources"] == 1:
                    log.warning("accept_out_of_resources", code="ACCEPT_OUT_OF_RESOURCES", error=str(error))
                self._accept_again_at = time.monotonic() + _ACCEPT_PAUSE_S
                self._epoll.modify(self._listener.fileno(), 0)
                return
            self.attach(sock, _peer_of(sock))

    def _read(self, link: _Link, events: int) -> None:
        connection = link.connection
        if connection.state is State.HELD and events & select.EPOLLHUP:
            self.engine.close(connection, "eof")
            return
        if connection.blocked:
            self._stop_reading(link)
            return
        try:
            data = link.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            # ECONNRESET is how a peer that dies with unread data looks: the normal crash path.
            self.engine.close(connection, "reset" if error.errno == errno.ECONNRESET else "read_error")
            return
        if data:
            self.engine.receive(connection, data)
        else:
            self.engine.close(connection, "eof_in_frame" if connection.rest else "eof")

    def _write(self, link: _Link) -> None:
        """Write what waits, until all is out or the socket is full."""
        connection = link.connection
        outbox = connection.outbox
        try:
            while True:
                data = outbox.pending()
                if not data:
                    break
                sent = link.sock.send(data)
                self.engine.drained(connection, sent)
                if sent < len(data):
                    raise BlockingIOError
        except BlockingIOError:
            self._want(link, link.interest | select.EPOLLOUT)
            return
        except OSError:
            # It may have sent a lot before it went; reading finds its end.
            self.engine.hang_up(connection)
        if link.interest & select.EPOLLOUT:
            self._want(link, link.interest & ~select.EPOLLOUT)

    # --- the epoll set ---------------------------------------------------------------------------------

    def _stop_reading(self, link: _Link) -> None:
        # A pause is short; who is held may wait for long, and must not be kept when it is gone.
        watched = select.EPOLLHUP if link.connection.state is State.HELD else 0
        if link.interest & _READ:
            self._want(link, (link.interest & ~_READ) | watched)

    def _read_again(self, link: _Link) -> None:
        self._want(link, link.interest | _READ)

    def _want(self, link: _Link, interest: int) -> None:
        if interest == link.interest:
            return
        if not interest:
            self._epoll.unregister(link.fd)
        elif not link.interest:
            self._epoll.register(link.fd, interest)
        else:
            self._epoll.modify(link.fd, interest)
        link.interest = interest

    def _bury(self) -> None:
        """Close the sockets of connections that ended."""
        doomed, self.engine.doomed = self.engine.doomed, []
        for connection in doomed:
            link = self._by_connection.pop(connection, None)
            if link is None:
                continue
            self._want(link, 0)
            del self._links[link.fd]
            link.sock.close()

    def close(self) -> None:
        """Close every socket, the listening one too; :meth:`run` does it at its end. Once is enough."""
        self._epoll.close()
        for link in self._links.values():
            link.sock.close()
        self._links.clear()
        self._by_connection.clear()
        self._listener.close()


def _peer_of(sock: socket.socket) -> Peer:
    try:
        credentials = peer_credentials(sock)
    except OSError:
        return Peer()
    return Peer(pid=credentials.pid, uid=credentials.uid, gid=credentials.gid)
