"""An in-memory link, and a small router that speaks over it: nodes are tested without sockets.

:class:`MemoryLink` is one end of a byte-stream pair with the SDK's transport shape. :class:`FakeRouter`
shakes hands with every node that dials it and carries messages between them by uuid and by name; a test can
also script it frame by frame, byte by byte. It acts inside the sender's call, so no task of its own and no
time is involved. It has no policy, no VPNs and no other hive.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint

from appliance.wire import verbs
from appliance.wire.envelope import (
    Message,
    announce,
    decode_message,
    encode_message,
    system_message,
)
from appliance.wire.errors import Unreachable
from appliance.wire.frames import FrameSplitter, pack_frame
from appliance.wire.ids import new_uuid
from appliance.wire.names import full_name

__all__ = ["FakeRouter", "MemoryLink", "Peer", "memory_link"]

CAPACITY_BYTES = 4 * 1024 * 1024


class MemoryLink:
    """One end of a pair; make both with :func:`memory_link`.

    Attributes:
        capacity_bytes: what the other end may have in flight towards this end.
        chunk_bytes: most bytes one ``receive`` here returns; 1 shows every fragmentation.
        on_bytes: called when bytes or the end of the stream have arrived here.
    """

    def __init__(self) -> None:
        self.capacity_bytes = CAPACITY_BYTES
        self.chunk_bytes: int | None = None
        self.on_bytes: Callable[[], None] | None = None
        self.is_closed = False
        self._peer: MemoryLink = self
        self._incoming = bytearray()
        self._change = anyio.Event()

    def _touch(self) -> None:
        self._change.set()
        self._change = anyio.Event()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have arrived here and were not received."""
        return len(self._incoming)

    def take(self, max_bytes: int | None = None) -> bytes:
        """What has arrived, without waiting; ``b""`` when nothing has."""
        bound = min(size for size in (max_bytes, self.chunk_bytes, len(self._incoming)) if size is not None)
        data = bytes(self._incoming[:bound])
        del self._incoming[:bound]
        if data:
            self._peer._touch()
        return data

    def put(self, data: bytes | memoryview) -> int:
        """Hand over what fits, without waiting; return how many bytes.

        Raises:
            BrokenPipeError: either end is closed.
        """
        if self.is_closed or self._peer.is_closed:
            raise BrokenPipeError(errno.EPIPE, "memory link is closed")
        peer = self._peer
        fits = bytes(data[: max(peer.capacity_bytes - len(peer._incoming), 0)])
        peer._incoming += fits
        peer._arrived()
        return len(fits)

    def _arrived(self) -> None:
        self._touch()
        if self.on_bytes is not None:
            self.on_bytes()

    async def receive(self, max_bytes: int) -> bytes:
        """See :class:`appliance.sdk.transport.Transport`."""
        await checkpoint()
        while True:
            if self.is_closed:
                raise OSError(errno.EBADF, "memory link is closed")
            if data := self.take(max_bytes):
                return data
            if self._peer.is_closed:
                return b""
            await self._change.wait()

    async def send_some(self, data: bytes | memoryview) -> int:
        """See :class:`appliance.sdk.transport.Transport`."""
        await checkpoint()
        while not (sent := self.put(data)):
            await self._change.wait()
        return sent

    def close(self) -> None:
        """Close this end; the other end reads what is under way and then the end of the stream."""
        if not self.is_closed:
            self.is_closed = True
            self._touch()
            self._peer._arrived()


def memory_link() -> tuple[MemoryLink, MemoryLink]:
    """Two connected ends."""
    left, right = MemoryLink(), MemoryLink()
    left._peer, right._peer = right, left
    return left, right


class Peer:
    """The router's side of one node's connection.

    Attributes:
        link: the router's end.
        hello: the node's HELLO, once it has come.
        uuid: the node's uuid, ``""`` before HELLO.
        name: the node's full name, ``""`` before HELLO.
        received: every message after HELLO, in order, whether it was carried further or not.
    """

    def __init__(self, router: FakeRouter, link: MemoryLink) -> None:
        self.link = link
        self.hello: Message | None = None
        self.uuid = ""
        self.name = ""
        self.received: list[Message] = []
        self._router = router
        self._splitter = FrameSplitter()
        self._change = anyio.Event()
        link.on_bytes = self._on_bytes

    def _on_bytes(self) -> None:
        while data := self.link.take():
            for body in self._splitter.feed(data):
                self._on_message(decode_message(body))
        self._change.set()
        self._change = anyio.Event()

    def _on_message(self, message: Message) -> None:
        if self.hello is None:
            self.hello = message
            payload = message.payload_as(dict[str, str])
            self.uuid, self.name = payload["uuid"], full_name(payload["name"], self._router.hive)
            if self._router.announces:
                self.announce()
        else:
            self.received.append(message)
            self._router._carry(self, message)

    def announce(self) -> None:
        """Send the ANNOUNCE; a router with ``announces=True`` has done so already."""
        hello = self.hello
        assert hello is not None, "the node has not said HELLO"
        answer = announce(
            router=self._router.uuid,
            router_name=self._router.name,
            hello_src=hello.routing.src,
            trace_id=hello.routing.trace_id,
            uuid=self.uuid,
            name=self.name,
            vpn_id=0,
        )
        self.send(answer)

    def send(self, message: Message) -> None:
        """A message to the node, exactly as it is."""
        self.send_bytes(pack_frame(encode_message(message)))

    def send_bytes(self, data: bytes) -> None:
        """Any bytes to the node."""
        if self.link.put(data) < len(data):
            raise BufferError("the node's end of the memory link is full")

    async def wait(self, condition: Callable[[Peer], bool], *, timeout_s: float = 5.0) -> None:
        """Return when ``condition`` holds; it is asked again whenever bytes or the end have come."""
        with anyio.fail_after(timeout_s):
            while not condition(self):
                await self._change.wait()

    async def next_message(self, *, timeout_s: float = 5.0) -> Message:
        """Wait for a message of the node and take it out of :attr:`received`."""
        await self.wait(lambda peer: bool(peer.received), timeout_s=timeout_s)
        return self.received.pop(0)

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed."""
        return not (self.link.is_closed or self.link._peer.is_closed)

    def close(self) -> None:
        """Close the connection, as a router does that stops or refuses."""
        self.link.close()


class FakeRouter:
    """A router for tests; give :meth:`dial` to ``NodeConfig.dial``.

    Args:
        hive: completes bare names.
        announces: answer HELLO at once; ``False`` leaves it to :meth:`Peer.announce`.
        carries: deliver what nodes send; ``False`` only records it, for a test that scripts the answers.

    Attributes:
        peers: one per dialled connection, in order; the last one is the current one of a single node.
        is_up: while ``False``, dialling fails.
        dropped: messages that no open connection, or no room, was there for.
    """

    def __init__(self, *, hive: str = "test", announces: bool = True, carries: bool = True) -> None:
        self.hive = hive
        self.announces = announces
        self.carries = carries
        self.uuid: str = new_uuid()
        self.name = f"RT.fake@{hive}"
        self.is_up = True
        self.peers: list[Peer] = []
        self.dropped = 0
        self._dialled = anyio.Event()

    async def dial(self) -> MemoryLink:
        """A new connection.

        Raises:
            Unreachable: the router is down.
        """
        await checkpoint()
        if not self.is_up:
            raise Unreachable("the fake router is down", code="NO_ROUTER")
        ours, theirs = memory_link()
        self.peers.append(Peer(self, ours))
        self._dialled.set()
        self._dialled = anyio.Event()
        return theirs

    async def wait_peers(self, count: int, *, timeout_s: float = 5.0) -> Peer:
        """Return the ``count``-th connection when it has said HELLO."""
        with anyio.fail_after(timeout_s):
            while len(self.peers) < count:
                await self._dialled.wait()
        peer = self.peers[count - 1]
        await peer.wait(lambda it: it.hello is not None, timeout_s=timeout_s)
        return peer

    def stop(self) -> None:
        """Go down: close every connection and refuse new ones until :attr:`is_up` is set again."""
        self.is_up = False
        for peer in self.peers:
            peer.close()

    def _carry(self, sender: Peer, message: Message) -> None:
        if message.meta.type == verbs.SYSTEM and message.meta.msg == verbs.WITHDRAW:
            sender.close()
            return
        if not self.carries:
            return
        message.routing.src_l2_name = sender.name
        dst = message.routing.dst
        reached = [peer for peer in self.peers if peer.is_open and peer.hello is not None]
        if dst == verbs.BROADCAST:
            targets = [peer for peer in reached if peer is not sender]
        else:
            targets = [peer for peer in reached if dst in (peer.uuid, peer.name)][:1]
            if not targets and dst is not None:
                self._refuse(sender, message)
        for peer in targets:
            try:
                peer.send(message)
            except (BufferError, OSError):
                self.dropped += 1

    def _refuse(self, sender: Peer, message: Message) -> None:
        sender.send(
            system_message(
                src=self.uuid,
                dst=message.routing.src,
                verb=verbs.UNREACHABLE,
                payload={"original_dst": message.routing.dst, "reason": verbs.NODE_NOT_FOUND},
                trace_id=message.routing.trace_id,
            )
        )
