"""A router engine without sockets for tests: nodes that send, recipients that read as slowly as told.

:class:`Rig` plays the shell in simulated time: it opens and closes turns, hands resumed senders back to the
engine, and collects who is to be closed. :class:`Node` is one client; what it reads comes out of its queue
through the same calls that the shell makes, so that every byte on the way to a node is accounted for.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from appliance.router.config import EngineSettings
from appliance.router.connection import Connection, Peer, State
from appliance.router.engine import Engine
from appliance.router.fib import RemoteNode
from appliance.router.outbox import Limits
from appliance.router.threads import ThreadCounters
from appliance.wire.codec import HotMessage, HotMeta
from appliance.wire.frames import FrameSplitter
from appliance.wire.routes import Route, VpnRule, parse_routes, parse_vpns
from appliance.wire.seams import Resolution

__all__ = [
    "HIVE",
    "ROUTER_NAME",
    "ROUTER_UUID",
    "Bounds",
    "Link",
    "Node",
    "Oracle",
    "Packages",
    "Rig",
    "Turns",
    "frame_bytes",
    "message",
    "numbered_uuid",
    "pack",
    "routes_in_force",
    "vpns_in_force",
]


def routes_in_force(values: list[object]) -> tuple[Route, ...]:
    """Routes as the router reads them from their region."""
    return tuple(entry.in_force() for entry in parse_routes(values))


def vpns_in_force(values: list[object]) -> tuple[VpnRule, ...]:
    """Rules as the router reads them from their region."""
    return tuple(entry.in_force() for entry in parse_vpns(values))


HIVE = "north"
ROUTER_UUID = "00000000-0000-4000-8000-0000000000ff"
ROUTER_NAME = "RT.gateway@north"
Json = dict[str, Any]


def numbered_uuid(number: int) -> str:
    """The same uuid for the same number, in canonical text."""
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def pack(body: bytes) -> bytes:
    """``body`` with its length in front, without any check."""
    return struct.pack(">I", len(body)) + body


def frame_bytes(value: object) -> bytes:
    """Compact JSON in the order of the dictionaries, as a careful sender writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def message(
    src: str,
    dst: str | None,
    *,
    ttl: int = 16,
    trace: str = "t",
    type: str = "user",
    payload: object = None,
    **meta: object,
) -> Json:
    """An envelope as plain values; ``meta`` keys as keywords."""
    return {
        "routing": {"src": src, "dst": dst, "ttl": ttl, "trace_id": trace},
        "meta": {"type": type, **meta},
        "payload": payload,
    }


class Turns:
    """A turn sink that keeps everything, with an appetite to choose."""

    def __init__(self) -> None:
        self.hungry = (True, True)
        self.recorded: list[bytes] = []
        self.skipped = 0
        self.calls = 0

    def appetite(self, now: float) -> tuple[bool, bool]:
        return self.hungry

    def record(self, framed: bytes, count: int, skipped: int) -> None:
        self.calls += 1
        turns = []
        while framed:  # a turn may be longer than a frame may be: it is what the sender wrote, stamped
            (size,) = struct.unpack_from(">I", framed)
            turns.append(framed[4 : 4 + size])
            framed = framed[4 + size :]
        assert len(turns) == count
        self.recorded += turns
        self.skipped += skipped


class Bounds:
    """A thread store in a dictionary."""

    def __init__(self) -> None:
        self.bounds: dict[bytes, int] = {}
        self.writes: list[list[tuple[bytes, int]]] = []

    def bound(self, key: bytes) -> int:
        return self.bounds.get(key, 0)

    def reserve(self, bounds: Sequence[tuple[bytes, int]]) -> None:
        self.writes.append(list(bounds))
        self.bounds.update(bounds)


class Link:
    """A forwarder that records; ``reasons`` says which hives are out of reach, and how."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.forwarded: list[tuple[str, HotMessage, int]] = []
        self.broadcasts: list[tuple[HotMessage, int]] = []

    def forward(self, hive: str, message: HotMessage, ttl: int, *rest: object) -> str | None:
        reason = self.reasons.get(hive)
        if reason is None:
            self.forwarded.append((hive, message, ttl))
        return reason

    def broadcast(self, message: HotMessage, ttl: int) -> None:
        self.broadcasts.append((message, ttl))


class Oracle:
    """A policy that answers one thing and remembers what it was asked."""

    def __init__(self, target: str | None = None, reason: str = "OPA_NO_TARGET") -> None:
        self.answer = Resolution(target, reason)
        self.asked: list[tuple[str, Json]] = []

    def resolve(self, source_uuid: str, message: HotMessage, meta: HotMeta) -> Resolution:
        self.asked.append((source_uuid, msgspec.json.decode(message.meta)))
        return self.answer


class Packages:
    """A memory with one package per thread."""

    def __init__(self, **packages: bytes) -> None:
        self.packages = packages

    def package(self, thread_id: str) -> bytes | None:
        return self.packages.get(thread_id)


class Node:
    """One client of a :class:`Rig`."""

    def __init__(self, rig: Rig, connection: Connection, uuid: str) -> None:
        self.rig = rig
        self.connection = connection
        self.uuid = uuid
        self.announced: Json = {}
        self._splitter = FrameSplitter()

    @property
    def open(self) -> bool:
        """The engine has not closed this connection."""
        return self.connection.closing is None

    def feed(self, data: bytes) -> None:
        """Raw bytes from this client within the current turn; nothing is read from a paused sender."""
        assert not self.connection.blocked, "the shell does not read a blocked connection"
        self.rig.engine.receive(self.connection, data)

    def send_bytes(self, *bodies: bytes) -> None:
        """Frames with these bodies, in one turn of their own."""
        self.rig.begin()
        self.feed(b"".join(pack(body) for body in bodies))
        self.rig.end()

    def send(self, dst: str | None, **parts: Any) -> None:
        """One message from this node."""
        self.send_bytes(frame_bytes(message(parts.pop("src", self.uuid), dst, **parts)))

    def read_bytes(self, limit: int | None = None) -> list[bytes]:
        """Frame bodies that this client takes from its queue now; ``limit`` in bytes."""
        engine, outbox = self.rig.engine, self.connection.outbox
        bodies: list[bytes] = []
        while limit is None or limit > 0:
            data = bytes(outbox.pending()[:limit])
            if data:
                engine.drained(self.connection, len(data))
                bodies += self._splitter.feed(data)
                limit = None if limit is None else limit - len(data)
            if outbox.empty or limit == 0:
                self.rig.settle()  # who waited for room may have more
            if not data and outbox.empty:
                break
        return bodies

    def read(self, limit: int | None = None) -> list[Json]:
        """Messages that this client takes from its queue now."""
        return [json.loads(body) for body in self.read_bytes(limit)]

    def read_one(self) -> Json:
        """The only message that waits."""
        (only,) = self.read()
        return only

    def close(self, reason: str = "eof") -> None:
        """The socket ended."""
        self.rig.engine.close(self.connection, reason)
        self.rig.settle()


class Rig:
    """An engine in simulated time; keyword arguments are those of :class:`EngineSettings`."""

    def __init__(
        self,
        *,
        resolver: Any = None,
        memory: Any = None,
        configured: bool = True,
        capacity: int = 65_536,
        **settings: Any,
    ) -> None:
        self.turns = Turns()
        self.bounds = Bounds()
        self.link = Link()
        self.now = 1000.0
        self.wall_ms = 1_760_000_000_000
        settings.setdefault("queues", Limits())
        self.engine = Engine(
            EngineSettings(hive=HIVE, router_uuid=ROUTER_UUID, router_name=ROUTER_NAME, **settings),
            threads=ThreadCounters(self.bounds, capacity),
            turns=self.turns,
            resolver=resolver,
            forwarder=self.link,
            memory=memory,
        )
        self.engine.greeter.configured = configured
        self.buried: list[Connection] = []
        self._number = 0
        self.begin()
        self.end()

    @property
    def counts(self) -> dict[str, int]:
        """The engine's counters."""
        return self.engine.counts

    def begin(self) -> None:
        """Open a turn at the rig's time."""
        self.engine.begin_turn(self.now, self.wall_ms)

    def end(self) -> None:
        """Close the turn as the shell does."""
        self.engine.expire()
        self.settle()

    def settle(self) -> None:
        """Give resumed senders back to the engine until nobody is left, and bury the dead."""
        engine = self.engine
        while engine.resumed:
            resumed, engine.resumed = engine.resumed, []
            for connection in resumed:
                if connection.closing is None and not connection.blocked:
                    engine.receive(connection, b"")
        engine.end_turn()
        for connection in engine.dirty:
            connection.dirty = False
        engine.dirty = []
        self.buried += engine.doomed
        engine.doomed = []

    def wait(self, seconds: float) -> None:
        """Let time pass, then a turn in which nothing is read."""
        self.now += seconds
        self.wall_ms += int(seconds * 1000)
        self.begin()
        self.end()

    def accept(self, *, uid: int = 1000, plane: str | None = None) -> Node:
        """A connection that has said nothing yet."""
        self._number += 1
        connection = self.engine.accept(Peer(pid=1, uid=uid, gid=uid, plane=plane))
        return Node(self, connection, numbered_uuid(self._number))

    def hello(self, node: Node, name: str, **changes: Any) -> None:
        """Send HELLO; ``src``, ``uuid``, ``trace`` replace what is usual."""
        uuid = changes.pop("uuid", node.uuid)
        payload = {"uuid": uuid, "name": name, "version": "1.0", **changes.pop("payload", {})}
        node.send_bytes(
            frame_bytes(
                message(
                    changes.pop("src", uuid),
                    None,
                    ttl=1,
                    trace=changes.pop("trace", "hello"),
                    type="system",
                    payload=payload,
                    msg="HELLO",
                )
            )
        )

    def connect(self, name: str, **changes: Any) -> Node:
        """A registered node; ``SY.``/``RT.`` names come from a plane. Its ANNOUNCE has been read."""
        system = name.startswith(("SY.", "RT."))
        plane = changes.pop("plane", "control" if system else None)
        node = self.accept(uid=changes.pop("uid", 1000), plane=plane)
        if "uuid" in changes:
            node.uuid = changes["uuid"]
        self.hello(node, name, **changes)
        assert node.connection.state is State.READY, dict(self.counts)
        node.announced = node.read_one()
        return node

    def configure(self, *, routes: Sequence[Json] = (), vpns: Sequence[Json] = ()) -> None:
        """Static routes and VPN rules, as documents."""
        self.engine.fib.configure(routes_in_force(list(routes)), vpns_in_force(list(vpns)))

    def learn(self, *nodes: RemoteNode) -> None:
        """Nodes of other hives."""
        self.engine.fib.learn(nodes, ())
