"""A plane's side of the keeper: what a plane is given, and how it asks and is told.

``PlaneContext`` is for code without an event loop; a plane on trio wraps it in
:class:`appliance.keeper.trio_plane.TrioPlane`. ``Conversation`` is the part without I/O that both share.
Waiting links are bounded: one too many is closed, and its sender reads the end of the connection.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from appliance.keeper.nodes_protocol import Claims, NodeEnded, Unclaim
from appliance.keeper.protocol import (
    Health,
    KeeperStatus,
    Link,
    Ready,
    Reply,
    Request,
    Restart,
    Status,
    Stop,
    decode_order,
    encode,
    error_of,
)
from appliance.system.channel import Channel, ChannelStatistics, Packet, close_all
from appliance.wire.errors import Invalid, Unavailable

__all__ = [
    "MAX_WAITING_LINKS",
    "Conversation",
    "IncomingLink",
    "NodeWord",
    "PlaneContext",
    "PlaneMain",
    "PlaneStatistics",
    "keeper_gone",
    "link_pair",
    "status_of",
]

MAX_WAITING_LINKS = 64
NodeWord = NodeEnded | Claims | Unclaim
"""What the keeper says about node processes without being asked."""
ANSWER_TIMEOUT_S = 5.0
"""How long the keeper may take for an answer. Its turns take microseconds; this covers a frozen machine."""


class IncomingLink(msgspec.Struct, frozen=True):
    """A connection for the router, from ``plane`` (as the keeper knows it). The taker owns ``sock``."""

    plane: str
    name: str
    sock: socket.socket


class PlaneStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a plane's side of its channel."""

    requests: int
    replies: int
    replies_late: int
    links_opened: int
    links_received: int
    links_dropped: int
    malformed: int
    node_events_dropped: int = 0
    channel: ChannelStatistics


class Conversation:
    """Numbers requests, reads what the keeper sends, counts; no I/O beyond closing descriptors."""

    def __init__(self) -> None:
        self.requests = self.replies = self.replies_late = 0
        self.links_opened = self.links_received = self.links_dropped = self.malformed = 0
        self.node_events_dropped = 0

    def number(self) -> int:
        """A fresh request id, above 0."""
        self.requests += 1
        return self.requests

    def take(self, packet: Packet) -> Stop | IncomingLink | Reply | NodeWord | None:
        """What a packet means; ``None`` when it means nothing (counted, its descriptors closed)."""
        try:
            order = decode_order(packet.data)
        except Invalid:
            self._malformed(packet)
            return None
        if isinstance(order, Link):
            return self._link(order, packet)
        close_all(packet.fds)
        if isinstance(order, Reply):
            self.replies += 1
        return order

    def drop(self, link: IncomingLink) -> None:
        """Close a link that cannot be kept; its sender reads the end."""
        link.sock.close()
        self.links_dropped += 1

    def statistics(self, channel: Channel) -> PlaneStatistics:
        """The counters of the conversation over ``channel``."""
        return PlaneStatistics(
            requests=self.requests,
            replies=self.replies,
            replies_late=self.replies_late,
            links_opened=self.links_opened,
            links_received=self.links_received,
            links_dropped=self.links_dropped,
            malformed=self.malformed,
            node_events_dropped=self.node_events_dropped,
            channel=channel.statistics(),
        )

    def _link(self, order: Link, packet: Packet) -> IncomingLink | None:
        if len(packet.fds) != 1:
            self._malformed(packet)
            return None
        try:
            sock = socket.socket(fileno=packet.fds[0])
        except OSError:  # the descriptor is something else than a socket
            self._malformed(packet)
            return None
        self.links_received += 1
        return IncomingLink(order.plane, order.name, sock)

    def _malformed(self, packet: Packet) -> None:
        close_all(packet.fds)
        self.malformed += 1


class PlaneContext:
    """What the keeper gives to a plane; made in the plane's own process.

    Args:
        name: the plane's name (``data``, ``control``, ``world`` or ``all``).
        channel: this end of the packet channel to the keeper.
        eventfds: one non-blocking eventfd per running plane, this one included. Write 1 to another's to say
            "a generation has changed", read your own when it is readable.
        inherited: descriptors that the whole program was started with, by name.
        restarts: how often this plane was started before.
        keeper_pid: pid of the parent.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        name: str,
        channel: Channel,
        eventfds: Mapping[str, int],
        inherited: Mapping[str, int] | None = None,
        restarts: int = 0,
        keeper_pid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.channel = channel
        self.eventfds = dict(eventfds)
        self.inherited = dict(inherited or {})
        self.restarts = restarts
        self.keeper_pid = os.getppid() if keeper_pid is None else keeper_pid
        self.conversation = Conversation()
        self._clock = clock
        self._links: deque[IncomingLink] = deque()
        self._stop: Stop | None = None

    def ready(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Tell the keeper that this plane serves. Errors as :meth:`status`."""
        self._ask(Ready(id=self.conversation.number()), timeout_s)

    def health(self, valid_s: float, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Give a sign of life; without the next one within ``valid_s`` seconds this plane is killed."""
        self._ask(Health(id=self.conversation.number(), timeout_s=valid_s), timeout_s)

    def status(self, timeout_s: float = ANSWER_TIMEOUT_S) -> KeeperStatus:
        """All planes and the keeper's counters.

        Raises:
            Unavailable: the keeper is gone, or did not answer in time.
        """
        return status_of(self._ask(Status(id=self.conversation.number()), timeout_s))

    def restart(self, plane: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Have a plane restarted; returns when the keeper has taken the wish, before it is done.

        Raises:
            NotFound: there is no such plane.
            Conflict: the appliance is stopping.
            Unavailable: as :meth:`status`.
        """
        self._ask(Restart(id=self.conversation.number(), plane=plane), timeout_s)

    def open_link(self, name: str, timeout_s: float = ANSWER_TIMEOUT_S) -> socket.socket:
        """Open a connection to the router.

        It may be used at once: what is written waits in the socket until the routing plane takes it. When
        that plane ends first, the connection reads its end; open another.

        Args:
            name: what the connection is for, 1 to 256 characters; the router sees it.
            timeout_s: how long the keeper may take.

        Returns:
            a connected blocking stream socket.

        Raises:
            Unavailable: the routing plane does not run, or as :meth:`status`.
            Busy: the routing plane has too many links waiting.
        """
        mine, theirs = link_pair()
        with theirs:
            try:
                self._ask(Link(id=self.conversation.number(), name=name), timeout_s, [theirs.fileno()])
            except BaseException:
                mine.close()
                raise
        self.conversation.links_opened += 1
        return mine

    def next_order(self, timeout_s: float) -> Stop | IncomingLink | None:
        """Wait for an order at most ``timeout_s`` seconds; ``None`` when there was none.

        A stop comes before waiting links and comes again and again. A keeper that is gone reads as a stop.
        """
        deadline = self._clock() + timeout_s
        while self._stop is None and not self._links:
            left_s = deadline - self._clock()
            if not self.channel.wait_readable(left_s) and left_s <= 0:
                return None
            self._receive()
        return self._stop or self._links.popleft()

    def statistics(self) -> PlaneStatistics:
        """Counters since this plane's start."""
        return self.conversation.statistics(self.channel)

    def _receive(self) -> Reply | None:
        try:
            packet = self.channel.receive()
        except EOFError:
            self._stop = self._stop or keeper_gone()
            return None
        taken = None if packet is None else self.conversation.take(packet)
        if isinstance(taken, Stop):
            self._stop = taken
        elif isinstance(taken, IncomingLink):
            if len(self._links) < MAX_WAITING_LINKS:
                self._links.append(taken)
            else:
                self.conversation.drop(taken)
        elif isinstance(taken, NodeEnded):  # a plane without an event loop does not supervise
            self.conversation.node_events_dropped += 1
        return taken if isinstance(taken, Reply) else None

    def _ask(self, request: Request, timeout_s: float, fds: Sequence[int] = ()) -> Reply:
        deadline = self._clock() + timeout_s
        data = encode(request)
        while not self.channel.send(data, fds):
            if self.channel.peer_gone or not self.channel.wait_writable(deadline - self._clock()):
                raise Unavailable(f"the keeper does not take requests ({type(request).__name__})")
        while self.channel.wait_readable(deadline - self._clock()):
            reply = self._receive()
            if reply is not None and reply.id == request.id:
                if not reply.ok:
                    raise error_of(reply)
                return reply
            if reply is not None:
                self.conversation.replies_late += 1
            if self.channel.peer_gone:
                raise Unavailable("the keeper is gone")
        raise Unavailable(f"the keeper did not answer within {timeout_s:g} s")


PlaneMain = Callable[[PlaneContext], "int | None"]
"""What a plane runs; its result is the exit code (``None`` is 0), 78 means a configuration error."""


def keeper_gone() -> Stop:
    """The order that the end of the channel stands for."""
    return Stop(reason="the keeper is gone", grace_s=0.0)


def link_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new router connection; the second one is to be sent through the keeper."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def status_of(reply: Reply) -> KeeperStatus:
    """The status in a reply."""
    return msgspec.json.decode(reply.result, type=KeeperStatus)
