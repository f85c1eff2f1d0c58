"""Logs and the tap for watchers: a bounded queue each, what a slow watcher misses is counted.

A tap has a connection of its own, because its copies carry the trace ids of others' messages and must not be
taken for answers to ours. At most 8 taps and 16 logs are watched at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from appliance.sdk import Dial, Node, NodeConfig, UuidMode, connect
from appliance.supervise.names import NodeName, parse_node_name
from appliance.supervise.nodelog import POLL_S, LogCursor, read_tail
from appliance.system.paths import Paths
from appliance.wire import verbs
from appliance.wire.admin.outcome import EventSource
from appliance.wire.envelope import system_message
from appliance.wire.errors import Busy, FluxbeeError, NotFound, Refused, Unavailable

from .statistics import Counts

__all__ = ["NodeLogs", "Streams"]

MAX_TAPS: Final = 8
MAX_LOGS: Final = 16
LOG_LINES: Final = 1024
"""Lines that wait for a watcher."""

RENEW_S: Final = 10.0
"""The router forgets a tap that nobody asks for again."""

DroppedBytes = Callable[[str], Awaitable[int]]


class NodeLogs:
    """Reads the logs of this hive's nodes.

    Args:
        hive: own hive id.
        paths: where logs and instances lie.
        dropped_bytes: what a node printed and the keeper could not keep, by full name.
    """

    def __init__(self, hive: str, paths: Paths, *, dropped_bytes: DroppedBytes | None = None) -> None:
        self._hive = hive
        self._paths = paths
        self._dropped_bytes = dropped_bytes
        self._threads = trio.CapacityLimiter(2)

    async def tail(self, name: str, lines: int) -> Mapping[str, object]:
        """The last lines of a node's log.

        Raises:
            Invalid: no node name.
            NotFound: ``NODE_NOT_FOUND``, no such node was ever here.
        """
        node = await self._known(name)
        found = await self._read(node, lines)
        dropped = await self._dropped_bytes(node.full) if self._dropped_bytes is not None else 0
        return {"lines": found, "dropped_bytes": dropped}

    async def _known(self, name: str) -> NodeName:
        node = parse_node_name(name, self._hive)
        places = (self._paths.node_logs / node.full, self._paths.nodes / node.kind / node.full)

        def here() -> bool:
            return any(place.is_dir() for place in places)

        if node.hive != self._hive or not await trio.to_thread.run_sync(here, limiter=self._threads):
            raise NotFound(f"no node {node.full} has a log here", code="NODE_NOT_FOUND")
        return node

    async def _read(self, node: NodeName, lines: int) -> list[str]:
        directory = self._paths.node_logs / node.full
        return await trio.to_thread.run_sync(read_tail, directory, lines, limiter=self._threads)

    async def pump(self, name: str, lines: int, put: Callable[[bytes], None]) -> None:
        """Give ``put`` the last lines and then every further one, until cancelled; errors as :meth:`tail`."""
        node = await self._known(name)
        cursor = LogCursor(self._paths.node_logs / node.full)
        # First the place, then the tail: a line that is printed in between is in both, and is left out once.
        await trio.to_thread.run_sync(cursor.to_end, limiter=self._threads)
        known = await self._read(node, lines)
        for line in known:
            put(line.encode())
        while True:
            fresh = await trio.to_thread.run_sync(cursor.read, limiter=self._threads)
            for line in fresh[_overlap(known, fresh) :]:
                put(line.encode())
            known = []
            if not cursor.behind:
                await trio.sleep(POLL_S)


def _overlap(known: Sequence[str], fresh: Sequence[str]) -> int:
    """How many lines at the end of ``known`` are those at the beginning of ``fresh``."""
    longest = min(len(known), len(fresh))
    return next((size for size in range(longest, 0, -1) if list(known[-size:]) == list(fresh[:size])), 0)


class _Waits:
    """The waits of all watchers, which end together when the service stops."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False

    async def wait(self, receive: Callable[[], Awaitable[bytes]], timeout_s: float) -> bytes | None:
        """What ``receive`` gets within ``timeout_s``; ``EOFError`` when the service stops."""
        event: bytes | None = None
        if not self._stopped:
            with trio.move_on_after(timeout_s) as scope:
                self._scopes.add(scope)
                try:
                    event = await receive()
                finally:
                    self._scopes.discard(scope)
        if self._stopped:
            raise EOFError
        return event

    def stop(self) -> None:
        """End all waits, now and later."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()


class _Lines:
    """A watcher's lines of a log."""

    def __init__(self, counts: Counts, waits: _Waits) -> None:
        self._waits = waits
        self._in, self._out = trio.open_memory_channel[bytes](LOG_LINES)
        self._counts = counts

    def put(self, line: bytes) -> None:
        try:
            self._in.send_nowait(line)
        except trio.WouldBlock:
            self._counts.log_dropped += 1

    async def next_event(self, timeout_s: float) -> bytes | None:
        """See :class:`appliance.wire.admin.outcome.EventSource`."""
        return await self._waits.wait(self._out.receive, timeout_s)


class _Tap:
    """A watcher's tap."""

    def __init__(self, node: Node, counts: Counts, waits: _Waits) -> None:
        self._node = node
        self._waits = waits
        self._counts = counts
        self._dropped = 0

    async def next_event(self, timeout_s: float) -> bytes | None:
        """See :class:`appliance.wire.admin.outcome.EventSource`."""
        return await self._waits.wait(self._next_copy, timeout_s)

    async def _next_copy(self) -> bytes:
        while True:
            try:
                message = await self._node.receive()
            except Unavailable as error:
                raise EOFError from error
            self._count_drops()
            if message.meta.msg == verbs.ROUTER_TAP_EVENT:
                return bytes(message.payload)

    def _count_drops(self) -> None:
        dropped = self._node.statistics().inbound_dropped
        self._counts.tap_dropped += dropped - self._dropped
        self._dropped = dropped


class Streams:
    """Satisfies :class:`appliance.wire.admin.outcome.AdminStreams`.

    Args:
        logs: reads logs.
        dial: connects a tap's node to the router.
        paths: where nodes keep what they keep.
        counts: SY.admin's counters.
    """

    def __init__(self, logs: NodeLogs, dial: Dial, paths: Paths, counts: Counts) -> None:
        self._logs = logs
        self._dial = dial
        self._paths = paths
        self._counts = counts
        self._taps = 0
        self._readers = 0
        self._waits = _Waits()

    async def run(self) -> None:
        """End all streams when cancelled, so that no watcher holds up the stop of the door."""
        try:
            await trio.sleep_forever()
        finally:
            self._waits.stop()

    @asynccontextmanager
    async def log(self, node_name: str, tail: int) -> AsyncIterator[EventSource]:
        """The end of a local node's log, then its lines as they come.

        Raises:
            Busy: too many logs are watched.
            Invalid, NotFound: as :meth:`NodeLogs.tail`.
        """
        if self._readers >= MAX_LOGS:
            raise Busy("too many logs are being watched")
        self._readers += 1
        self._counts.streams_open += 1
        lines = _Lines(self._counts, self._waits)
        try:
            await self._logs.tail(node_name, 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._logs.pump, node_name, tail, lines.put)
                yield lines
                nursery.cancel_scope.cancel()
        finally:
            self._readers -= 1
            self._counts.streams_open -= 1

    @asynccontextmanager
    async def tap(self, pattern: str) -> AsyncIterator[EventSource]:
        """What the router routes for names that match ``pattern``.

        Raises:
            Busy: too many taps are open.
            Refused: the router does not allow it.
            Unreachable, Unavailable: the router is not there.
        """
        if self._taps >= MAX_TAPS:
            raise Busy("too many taps are open")
        self._taps += 1
        self._counts.streams_open += 1
        config = NodeConfig(
            name="SY.admin.tap", paths=self._paths, dial=self._dial, uuid_mode=UuidMode.EPHEMERAL
        )
        try:
            async with connect(config) as node:
                await _ask_for_copies(node, pattern)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_renew, node, pattern)
                    yield _Tap(node, self._counts, self._waits)
                    nursery.cancel_scope.cancel()
        finally:
            self._taps -= 1
            self._counts.streams_open -= 1


async def _renew(node: Node, pattern: str) -> None:
    while True:
        await trio.sleep(RENEW_S)
        try:
            await _ask_for_copies(node, pattern)
        except FluxbeeError:
            await node.close()  # its watcher sees the end of the stream
            return


async def _ask_for_copies(node: Node, pattern: str) -> None:
    question = system_message(
        src=node.uuid, dst=node.router_name, verb=verbs.ROUTER_TAP, payload={"pattern": pattern}
    )
    answer = await node.request(question, reply_verbs=verbs.response_verb(verbs.ROUTER_TAP))
    told = msgspec.json.decode(answer.payload, type=_TapAnswer)
    if told.status != "ok":
        if told.error_code == "BUSY":
            raise Busy("too many taps are open")
        raise Refused(f"the router refuses the tap: {told.message}")


class _TapAnswer(msgspec.Struct, frozen=True):
    status: str = ""
    error_code: str | None = None
    message: str | None = None
