"""Carries the feed to the sockets: one tick at a time, each socket written once per tick.

Ready frames go straight to a socket that takes them; a client whose socket is full gets a task that waits for
it, while the feed keeps only what it needs (``appliance.world.feed``). After a tick the hub rests for a part
of the tick's time: what comes meanwhile goes out together, and each socket is written once for all of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import trio

from appliance.http.frames import FrameSocket
from appliance.wire.errors import Busy
from appliance.world import Update, WorldEngine
from appliance.world.entities import rfc3339_z
from appliance.world.feed import Feed, Subscriber

__all__ = ["MAX_JOBS", "FeedHub", "HubStatistics", "Peer"]

_TURN: Final = 64
"""Sockets written before other tasks get a turn."""

_REST: Final = 0.25
"""Rest after a tick, as a part of its time: a quarter keeps the hub below four fifths of the loop."""

_LONGEST_REST_S: Final = 0.02

MAX_JOBS: Final = 4
"""Snapshots that one client may have waiting; each reads the whole state when its turn comes."""

Job = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connected listener.

    Args:
        feed: where its frames come from.
        socket: where they go.
    """

    def __init__(self, feed: Feed, socket: FrameSocket) -> None:
        self.subscriber: Subscriber = feed.attach()
        self.feed = feed
        self.socket = socket
        self._busy = False  # the task writes; it takes what comes by itself
        self._left = b""
        self._jobs: deque[Job] = deque()
        self._wake = trio.Event()

    def push(self) -> None:
        """Write what waits, as far as the socket takes it at once."""
        if self._busy:
            return
        frames = self.feed.take(self.subscriber)
        if frames and not self.socket.write_now(frames):
            self._left = frames
        if self._left or self.socket.unsent or self.feed.has_some(self.subscriber):
            self._rouse()

    def do(self, job: Job) -> bool:
        """Have ``job`` done by the writing task, behind everything that waits and before what follows.

        Returns:
            false, and nothing is done, when ``MAX_JOBS`` wait already.
        """
        if len(self._jobs) >= MAX_JOBS:
            return False
        self._jobs.append(job)
        self._rouse()
        return True

    def _rouse(self) -> None:
        self._busy = True
        self._wake.set()

    async def write(self) -> None:
        """Write what a full socket left waiting, until cancelled.

        Raises:
            ClientGone: nobody reads any more.
            Busy: it is further behind than can be made up for; it must connect again (close 1013).
        """
        while True:
            await self._wake.wait()
            left, self._left = self._left, b""
            await self.socket.write(left)
            while True:
                while frames := self.feed.take(self.subscriber):
                    await self.socket.write(frames)
                if not self._jobs:
                    break
                await self._jobs.popleft()(self)
            if self.subscriber.given_up:
                raise Busy("too far behind; connect again and read the state")
            self._wake = trio.Event()
            self._busy = False


class _Count(msgspec.Struct, frozen=True):
    total: int


class _Events(msgspec.Struct, frozen=True):
    total: int
    rate_per_second: float


class _Connections(msgspec.Struct, frozen=True):
    connections: int


class _Publishers(msgspec.Struct, frozen=True):
    active: int


class _MetricsUpdate(msgspec.Struct, frozen=True, kw_only=True, tag="metrics_update", tag_field="type"):
    timestamp: str
    entities: _Count
    events: _Events
    websocket: _Connections
    publishers: _Publishers


class HubStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What clients of the sockets sent in vain, since the start.

    ``frames_ignored`` were not understood or asked for one subscription too many; ``snapshots_refused`` came
    while ``MAX_JOBS`` of that client waited.
    """

    frames_ignored: int
    snapshots_refused: int


class FeedHub:
    """All listeners of one door.

    Args:
        engine: what happens.
        feed: who wants to know.
        metrics_interval_s: seconds between two metrics frames (WS-22).
    """

    def __init__(self, engine: WorldEngine, feed: Feed, *, metrics_interval_s: float) -> None:
        self.engine = engine
        self.feed = feed
        self._interval_s = metrics_interval_s
        self._peers: dict[Subscriber, Peer] = {}
        self._wake = trio.Event()
        self.frames_ignored = self.snapshots_refused = 0

    def statistics(self) -> HubStatistics:
        """Counts since the start."""
        return HubStatistics(frames_ignored=self.frames_ignored, snapshots_refused=self.snapshots_refused)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand out until cancelled."""
        end = self.engine.subscribe(self._take_in)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_metrics)
                task_status.started()
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    await self._tick()
        finally:
            end()

    def attach(self, socket: FrameSocket) -> Peer:
        """A new listener."""
        peer = Peer(self.feed, socket)
        self._peers[peer.subscriber] = peer
        return peer

    def detach(self, peer: Peer) -> None:
        """The listener is gone."""
        self.feed.detach(peer.subscriber)
        self._peers.pop(peer.subscriber, None)

    @property
    def connections(self) -> int:
        """How many listen (MX-05)."""
        return len(self._peers)

    def _take_in(self, updates: Sequence[Update]) -> None:
        self.feed.publish(updates)
        if self.feed.waiting:
            self._wake.set()

    async def _tick(self) -> None:
        began = trio.current_time()
        await self._push(self.feed.flush())
        await trio.sleep(min(_REST * (trio.current_time() - began), _LONGEST_REST_S))

    async def _push(self, ready: Sequence[Subscriber]) -> None:
        for number, subscriber in enumerate(ready, 1):
            peer = self._peers.get(subscriber)
            if peer is not None:
                peer.push()
            if number % _TURN == 0:
                await trio.lowlevel.checkpoint()

    async def _send_metrics(self) -> None:
        while True:
            if self.feed.has_listeners and self.engine.ready:
                await self._push(self.feed.broadcast(msgspec.json.encode(self._metrics())))
            await trio.sleep(self._interval_s)

    def _metrics(self) -> _MetricsUpdate:
        now = self.engine.metrics()
        return _MetricsUpdate(
            timestamp=rfc3339_z(time.time_ns() // 1_000_000).decode(),
            entities=_Count(now.entities_total),
            events=_Events(now.events_total, now.rate_per_second),
            websocket=_Connections(self.connections),
            publishers=_Publishers(now.publishers_active),
        )
