"""The connection of a node: two loops over a transport, kept alive until it is closed.

The reader hands frame bodies to the node, the writer sends what is queued; when either ends, the connection
is made again with the same uuid. A frame length over the limit costs the connection, as the next frame cannot
be found. What is queued outlives a loss, see :mod:`appliance.sdk.outbox`. No message is interpreted here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from appliance.system.log import get_logger
from appliance.wire.errors import Busy, FluxbeeError, Invalid

from .backoff import Backoff
from .config import NodeConfig
from .handshake import Announce, Session, open_session
from .inbox import Inbox, closed_error
from .outbox import Outbox
from .transport import READ_BYTES, Transport

__all__ = ["Connection", "Traffic"]

log = get_logger("sdk")

DRAIN_S = 1.0
"""After a failed send: how long what the router had sent before it went may still be read."""


class Traffic:
    """Plain counters of a connection."""

    __slots__ = ("bytes_in", "bytes_out", "frames_in", "frames_out", "losses", "reconnects")

    def __init__(self) -> None:
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self.losses = self.reconnects = 0


class Connection:
    """Dials, reads, writes and dials again.

    Args:
        config: how to connect.
        uuid: the node's uuid, the same for every connection.
        inbox: the reader waits while it is full.
        deliver: called with each frame body; must not raise.
    """

    def __init__(self, config: NodeConfig, uuid: str, inbox: Inbox, deliver: Callable[[bytes], None]) -> None:
        self.config = config
        self.uuid = uuid
        self.traffic = Traffic()
        self.outbox = Outbox(limit=config.outbound_limit, limit_bytes=config.outbound_limit_bytes)
        self.last_loss: str | None = None
        self.announce: Announce | None = None
        self.is_connected = False
        self.is_closed = False
        self._inbox = inbox
        self._deliver = deliver
        self._session: Session | None = None
        self._logged_reason: str | None = None
        self._connected = anyio.Event()
        self._data = anyio.Event()
        self._room = anyio.Event()
        self._gate = anyio.Lock(fast_acquire=True)

    # -- life cycle ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the first connection; its failure is the caller's to see (errors: :func:`open_session`)."""
        self._begin(await open_session(self.config, self.uuid))

    async def run(self) -> None:
        """Serve the open connection, and each that follows it, until closed or cancelled."""
        backoff = Backoff(cap_s=self.config.reconnect_cap_s)
        while True:
            if self._session is not None:
                began = anyio.current_time()
                await self._serve(self._session)
                backoff.lost(anyio.current_time() - began)
            if self.is_closed:
                return
            await anyio.sleep(backoff.next_wait_s())
            try:
                self._begin(await open_session(self.config, self.uuid))
                self.traffic.reconnects += 1
            except FluxbeeError as error:
                self._note_loss(error)

    def _begin(self, session: Session) -> None:
        self._session = session
        self.announce = session.announce
        self.is_connected = True
        self._logged_reason = None
        self._connected.set()

    def _end(self) -> None:
        if self._session is not None:
            self._session.transport.close()
            self._session = None
        self._disconnected()

    def _disconnected(self) -> None:
        if self.is_connected:
            self.is_connected = False
            self._connected = anyio.Event()
            self.traffic.losses += 1

    def _note_loss(self, reason: Exception) -> None:
        self.last_loss = str(reason) or type(reason).__name__
        if (
            self.last_loss != self._logged_reason and not self.is_closed
        ):  # once per reason, not once per attempt
            log.warning(
                "router_connection_lost",
                code="ROUTER_CONNECTION_LOST",
                node=self.config.name,
                reason=self.last_loss,
            )
        self._logged_reason = self.last_loss

    async def wait_connected(self) -> None:
        """Return when the connection is up.

        Raises:
            Unavailable: the node is closed.
        """
        while self.is_closed or not self.is_connected:
            if self.is_closed:
                raise closed_error()
            await self._connected.wait()

    async def close(self, last_frame: bytes) -> None:
        """Send what is queued and ``last_frame``, for at most ``close_timeout_s``; take no more."""
        if self.is_closed:
            return
        self.is_closed = True
        self._room.set()
        if self.is_connected:
            self.outbox.put(last_frame, math.inf)
            self._data.set()
            with anyio.move_on_after(self.config.close_timeout_s):
                while len(self.outbox) and self.is_connected:
                    self._room = anyio.Event()
                    await self._room.wait()

    def abandon(self) -> None:
        """Let go of the transport; the loops have ended."""
        self.is_closed = True
        self._end()
        self._connected.set()

    # -- loops --------------------------------------------------------------------------------------------

    async def _serve(self, session: Session) -> None:
        """Run both loops until the connection is lost; the queue is ready for the next one after that."""
        try:
            async with anyio.create_task_group() as loops:
                loops.start_soon(self._write, session.transport, loops.cancel_scope)
                await self._read(session)
                loops.cancel_scope.cancel()
        finally:
            self.traffic.frames_out += self.outbox.rewind()
            self._end()
            self._room.set()

    async def _read(self, session: Session) -> None:
        bodies = session.bodies
        try:
            while True:
                await self._hand_over(bodies)
                data = await session.transport.receive(READ_BYTES)
                if not data:
                    self._note_loss(ConnectionError("the router closed the connection"))
                    return
                self.traffic.bytes_in += len(data)
                bodies = session.splitter.feed(data)
        except (OSError, Invalid) as error:
            self._note_loss(error)

    async def _hand_over(self, bodies: list[bytes]) -> None:
        taken = 0
        try:
            for body in bodies:
                if self._inbox.is_full:
                    await self._inbox.wait_space()
                taken += 1
                self._deliver(body)
        finally:
            # Cancelled while the inbox was full: what has been read is the node's, over the bound or not.
            for body in bodies[taken:]:
                self._deliver(body)
            self.traffic.frames_in += len(bodies)

    async def _write(self, transport: Transport, loops: anyio.CancelScope) -> None:
        try:
            while True:
                batch = self.outbox.next_batch(anyio.current_time())
                if batch is None:
                    self._room.set()
                    self._data = anyio.Event()
                    await self._data.wait()
                    continue
                sent = await transport.send_some(batch)
                self.traffic.bytes_out += sent
                if gone := self.outbox.advance(sent):
                    self.traffic.frames_out += gone
                    self._room.set()
        except OSError as error:
            self._note_loss(error)
            self._disconnected()
            loops.deadline = anyio.current_time() + DRAIN_S

    # -- queueing -----------------------------------------------------------------------------------------

    def try_put(self, frame: bytes, deadline_s: float | None = None) -> bool:
        """Queue ``frame`` if there is room now; return whether there was."""
        now = anyio.current_time()
        if self.is_closed or not self.outbox.has_room(len(frame), now):
            return False
        self._put(frame, now, deadline_s)
        return True

    async def put(self, frame: bytes, *, timeout_s: float, deadline_s: float | None = None) -> None:
        """Queue ``frame``, waiting for room.

        Args:
            frame: header and body.
            timeout_s: how long to wait for room.
            deadline_s: how long the frame may wait for a connection; default ``outbound_deadline_s``.

        Raises:
            Busy: there was no room within ``timeout_s`` (code ``QUEUE_FULL``).
            Unavailable: the node is closed.
        """
        await checkpoint_if_cancelled()
        if self.is_closed:
            raise closed_error()
        if self.try_put(frame, deadline_s):
            return
        with anyio.move_on_after(timeout_s) as patience:
            async with self._gate:  # those that wait are served in their order
                await self._wait_room(len(frame))
                self._put(frame, anyio.current_time(), deadline_s)
        if patience.cancelled_caught:
            raise Busy(
                f"{self.config.name} has {len(self.outbox)} messages waiting to be sent",
                code="QUEUE_FULL",
                retry_after_s=1.0,
            )

    async def _wait_room(self, size_bytes: int) -> None:
        while not self.outbox.has_room(size_bytes, now := anyio.current_time()):
            expiry = self.outbox.next_expiry()
            self._room = anyio.Event()
            with anyio.move_on_after(math.inf if expiry is None else max(expiry - now, 0.0)):
                await self._room.wait()
            if self.is_closed:
                raise closed_error()

    def _put(self, frame: bytes, now: float, deadline_s: float | None) -> None:
        self.outbox.put(frame, now + (self.config.outbound_deadline_s if deadline_s is None else deadline_s))
        self._data.set()
