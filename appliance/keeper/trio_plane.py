"""The keeper's orders and answers for a plane that runs on trio.

The keeper itself never imports this module, so it stays free of an event loop. One task, ``run``, reads the
channel and hands out: links to a bounded memory channel, answers to who asked, the stop to everybody who
waits for it. A SIGTERM sent to the plane alone counts as a stop too. Every wait has a deadline.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence

import msgspec
import trio

from appliance.keeper.nodes_protocol import (
    MAX_NODE_RECORDS,
    Claim,
    Claims,
    FollowNodes,
    ForgetNode,
    ListNodes,
    NodeEnded,
    NodeLaunch,
    NodePage,
    NodeProcess,
    StartNode,
    StopNode,
    StopSignal,
    Unclaim,
    check_launch,
)
from appliance.keeper.plane import (
    ANSWER_TIMEOUT_S,
    MAX_WAITING_LINKS,
    IncomingLink,
    NodeWord,
    PlaneContext,
    PlaneStatistics,
    keeper_gone,
    link_pair,
    status_of,
)
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
    encode,
    error_of,
)
from appliance.wire.errors import Busy, Unavailable

__all__ = ["MAX_PENDING_REQUESTS", "TrioPlane", "stream_of"]

MAX_PENDING_REQUESTS = 64
_FIRST_PACKETS = 256
START_TIMEOUT_S = 15.0
"""How long a start may take: the keeper waits for the program to be executed, one start after another."""


class _Pending:
    """A request that waits for its reply."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reply: Reply | None = None


class TrioPlane:
    """The keeper as seen from a plane's trio loop.

    Start :meth:`run` in a nursery before anything else; cancelling it ends the conversation.

    Args:
        context: what the keeper gave; its blocking methods must not be used beside this object.
        links_waiting: how many incoming links may wait in ``links``; one more is closed and counted.
    """

    def __init__(self, context: PlaneContext, *, links_waiting: int = MAX_WAITING_LINKS) -> None:
        self.context = context
        self._channel = context.channel
        self._conversation = context.conversation
        self._links_in, self.links = trio.open_memory_channel[IncomingLink](links_waiting)
        """Receive from ``links``: connections for the router; it ends with :meth:`run`."""
        self._ends_in, self.node_events = trio.open_memory_channel[NodeEnded](MAX_NODE_RECORDS)
        """Receive from ``node_events`` after :meth:`follow_nodes`; it ends with :meth:`run`. Whoever does not
        receive loses events (counted): :meth:`nodes` tells the whole state at any time."""
        self.claims: dict[str, Claim] = {}
        """Who speaks for supervised names, in the routing plane only."""
        self._on_claim: Callable[[str, Claim | None], None] | None = None
        self._pending: dict[int, _Pending] = {}
        self._stop: Stop | None = None
        self._stopping = trio.Event()
        self._over = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the channel until it ends or the task is cancelled.

        Started means that everything is read which the keeper said before, claims on names above all.
        """
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._watch_sigterm)
                self._read_waiting()
                task_status.started()
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self._finish()

    async def wait_stop(self) -> Stop:
        """Wait until the keeper, or a SIGTERM, wants this plane to end. The one wait without a deadline."""
        await self._stopping.wait()
        return self._stop or keeper_gone()

    async def ready(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Tell the keeper that this plane serves. Errors as :meth:`status`."""
        await self._ask(Ready(id=self._conversation.number()), timeout_s)

    async def health(self, valid_s: float, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Give a sign of life; without the next one within ``valid_s`` seconds this plane is killed."""
        await self._ask(Health(id=self._conversation.number(), timeout_s=valid_s), timeout_s)

    async def beat(self, *, every_s: float = 5.0, valid_s: float = 30.0) -> None:
        """Give signs of life until cancelled: run it beside the work whose loop must not hang."""
        while True:
            await self.health(valid_s)
            await trio.sleep(every_s)

    async def status(self, timeout_s: float = ANSWER_TIMEOUT_S) -> KeeperStatus:
        """All planes and the keeper's counters.

        Raises:
            Unavailable: the keeper is gone, did not answer in time, or :meth:`run` is over.
            Busy: ``MAX_PENDING_REQUESTS`` wait already.
        """
        return status_of(await self._ask(Status(id=self._conversation.number()), timeout_s))

    async def restart(self, plane: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Have a plane restarted; returns when the keeper has taken the wish, before it is done.

        Raises:
            NotFound: there is no such plane.
            Conflict: the appliance is stopping.
            Unavailable, Busy: as :meth:`status`.
        """
        await self._ask(Restart(id=self._conversation.number(), plane=plane), timeout_s)

    async def start_node(self, launch: NodeLaunch, timeout_s: float = START_TIMEOUT_S) -> NodeProcess:
        """Start a node process; returns once its program was executed.

        A record of an ended process of that name is replaced. After ``Unavailable`` by timeout it may run
        all the same: look with :meth:`nodes`.

        Raises:
            Conflict: it runs already (``NODE_RUNNING``), or the appliance is stopping.
            Invalid: the launch cannot be; ``LAUNCH_FAILED``: the system refused it, the message says why.
            Busy: too many records, or the router does not take the claim now.
            Unavailable: as :meth:`status`, or the system has no process to give.
        """
        check_launch(launch)
        reply = await self._ask(StartNode(id=self._conversation.number(), launch=launch), timeout_s)
        return msgspec.json.decode(reply.result, type=NodeProcess)

    async def stop_node(
        self,
        name: str,
        *,
        signal: StopSignal = "SIGTERM",
        grace_s: float | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> NodeProcess:
        """Begin to end a node process; returns at once, its end comes as an event.

        Asked again it can only become sooner.

        Args:
            name: full L2 name.
            signal: ``SIGTERM`` asks and kills after ``grace_s``; ``SIGKILL`` kills at once.
            grace_s: seconds; default is the launch's own.
            timeout_s: how long the keeper may take to answer.

        Returns:
            the process as it is now (``exited`` when it had ended before).

        Raises:
            NotFound: no process of that name is known.
            Unavailable, Busy: as :meth:`status`.
        """
        request = StopNode(id=self._conversation.number(), name=name, signal=signal, grace_s=grace_s)
        return msgspec.json.decode((await self._ask(request, timeout_s)).result, type=NodeProcess)

    async def forget_node(self, name: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Drop the record of an ended process and the claim on its name.

        Raises:
            NotFound: no process of that name is known.
            Conflict: it runs (``NODE_RUNNING``).
            Unavailable, Busy: as :meth:`status`.
        """
        await self._ask(ForgetNode(id=self._conversation.number(), name=name), timeout_s)

    async def nodes(self, timeout_s: float = ANSWER_TIMEOUT_S) -> list[NodeProcess]:
        """All processes, running and ended, by name. Errors as :meth:`status`; the time is per page."""
        found: list[NodeProcess] = []
        more = True
        while more:
            request = ListNodes(id=self._conversation.number(), after=found[-1].name if found else "")
            page = msgspec.json.decode((await self._ask(request, timeout_s)).result, type=NodePage)
            found += page.nodes
            more = page.more and bool(page.nodes)
        return found

    async def follow_nodes(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Have every further end sent to ``node_events``. Errors as :meth:`status`."""
        await self._ask(FollowNodes(id=self._conversation.number()), timeout_s)

    def watch_claims(self, on_claim: Callable[[str, Claim | None], None]) -> None:
        """Call back with a name and its claim (``None``: nobody's any more), for all known ones at once."""
        self._on_claim = on_claim
        for name, claim in self.claims.items():
            on_claim(name, claim)

    async def open_link(self, name: str, timeout_s: float = ANSWER_TIMEOUT_S) -> socket.socket:
        """Open a connection to the router; as ``PlaneContext.open_link``, ``stream_of`` makes it a stream."""
        mine, theirs = link_pair()
        with theirs:
            try:
                request = Link(id=self._conversation.number(), name=name)
                await self._ask(request, timeout_s, [theirs.fileno()])
            except BaseException:
                mine.close()
                raise
        self._conversation.links_opened += 1
        return mine

    def statistics(self) -> PlaneStatistics:
        """Counters since this plane's start."""
        return self._conversation.statistics(self._channel)

    async def _watch_sigterm(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as received:
            task_status.started()
            async for _ in received:
                self._end(Stop(reason="SIGTERM", grace_s=0.0))

    async def _read(self) -> None:
        while not self._over:
            await trio.lowlevel.wait_readable(self._channel.fileno())
            self._read_waiting(1)

    def _read_waiting(self, packets: int = _FIRST_PACKETS) -> None:
        for _ in range(packets):
            try:
                packet = self._channel.receive()
            except EOFError:
                self._end(keeper_gone())
                self._over = True
                return
            if packet is None:
                return
            self._dispatch(self._conversation.take(packet))

    def _dispatch(self, taken: Stop | IncomingLink | Reply | NodeWord | None) -> None:
        if isinstance(taken, Stop):
            self._end(taken)
        elif isinstance(taken, IncomingLink):
            try:
                self._links_in.send_nowait(taken)
            except (trio.WouldBlock, trio.BrokenResourceError):  # too many wait, or nobody takes them
                self._conversation.drop(taken)
        elif isinstance(taken, Reply):
            pending = self._pending.get(taken.id)
            if pending is None:
                self._conversation.replies_late += 1
            else:
                pending.reply = taken
                pending.done.set()
        elif isinstance(taken, NodeEnded):
            try:
                self._ends_in.send_nowait(taken)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._conversation.node_events_dropped += 1
        elif isinstance(taken, Claims):
            for claim in taken.claims:
                self._claimed(claim.name, claim)
        elif isinstance(taken, Unclaim):
            self._claimed(taken.name, None)

    def _claimed(self, name: str, claim: Claim | None) -> None:
        if claim is None:
            self.claims.pop(name, None)
        else:
            self.claims[name] = claim
        if self._on_claim is not None:
            self._on_claim(name, claim)

    def _end(self, stop: Stop) -> None:
        self._stop = self._stop or stop
        self._stopping.set()

    def _finish(self) -> None:
        self._over = True
        self._links_in.close()
        self._ends_in.close()
        for pending in self._pending.values():
            pending.done.set()

    async def _ask(self, request: Request, timeout_s: float, fds: Sequence[int] = ()) -> Reply:
        if len(self._pending) >= MAX_PENDING_REQUESTS:
            raise Busy(f"{MAX_PENDING_REQUESTS} requests to the keeper wait already")
        pending = self._pending[request.id] = _Pending()
        try:
            with trio.fail_after(timeout_s):
                await self._send(encode(request), fds)
                if not self._over:
                    await pending.done.wait()
        except trio.TooSlowError:
            raise Unavailable(f"the keeper did not answer within {timeout_s:g} s") from None
        finally:
            del self._pending[request.id]
        if pending.reply is None:
            raise Unavailable("the keeper is gone")
        if not pending.reply.ok:
            raise error_of(pending.reply)
        return pending.reply

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        while not self._channel.send(data, fds):
            if self._channel.peer_gone:
                raise Unavailable("the keeper is gone")
            await trio.lowlevel.wait_writable(self._channel.fileno())
        await trio.lowlevel.checkpoint()


def stream_of(sock: socket.socket) -> trio.SocketStream:
    """A trio stream over one end of a link (:class:`IncomingLink` holds a plain socket)."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
