"""The keeper's orders and answers for a plane that runs on trio.

The keeper itself never imports this module, so it stays free of an event loop. One task, ``run``, reads the
channel and hands out: links to a bounded memory channel, answers to who asked, the stop to everybody who
waits for it. A SIGTERM sent to the plane alone counts as a stop too. Every wait has a deadline.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence

import trio

from appliance.keeper.plane import (
    ANSWER_TIMEOUT_S,
    MAX_WAITING_LINKS,
    IncomingLink,
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
        self._pending: dict[int, _Pending] = {}
        self._stop: Stop | None = None
        self._stopping = trio.Event()
        self._over = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the channel until it ends or the task is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._watch_sigterm)
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
        while True:
            await trio.lowlevel.wait_readable(self._channel.fileno())
            try:
                packet = self._channel.receive()
            except EOFError:
                self._end(keeper_gone())
                return
            if packet is not None:
                self._dispatch(self._conversation.take(packet))

    def _dispatch(self, taken: Stop | IncomingLink | Reply | None) -> None:
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

    def _end(self, stop: Stop) -> None:
        self._stop = self._stop or stop
        self._stopping.set()

    def _finish(self) -> None:
        self._over = True
        self._links_in.close()
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
