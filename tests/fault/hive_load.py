"""Load on a hive that is being broken, and the book-keeping that finds out what a promise was worth.

:class:`PlainNode` is a node without SDK that comes back by itself; :class:`Traffic` runs several of them on
several threads and remembers every number that anybody saw; :class:`RouteChanger` changes routes and knows
which changes were acknowledged. All of it runs in the test's own trio loop.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from appliance.testing.hive import HiveHarness
from appliance.wire.frames import FrameSplitter

__all__ = ["SERVICES", "PlainNode", "RouteChanger", "Traffic", "packed"]

SERVICES = frozenset(
    f"SY.{name}"
    for name in ("admin", "config.routes", "health", "identity", "orchestrator", "storage", "world")
)
"""The appliance's own nodes."""

Json = dict[str, Any]


def packed(message: Json) -> bytes:
    """A frame."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return struct.pack(">I", len(body)) + body


class PlainNode:
    """A node that knows only the wire. It dials again 10 ms after every loss, with the same uuid.

    Args:
        hive: where; the socket's path may change between dials.
        name: without hive.
        on_message: gets every message after the ANNOUNCE.
    """

    def __init__(
        self, hive: HiveHarness, name: str, on_message: Callable[[Json], None] | None = None
    ) -> None:
        self.hive = hive
        self.name = name
        self.full_name = f"{name}@{hive.hive_id}"
        self.uuid = str(uuid.uuid4())
        self.connected = False
        self.announces = 0
        self.losses = 0
        self.vpn_id = 0
        self._on_message = on_message or (lambda message: None)
        self._answers: dict[str, trio.MemorySendChannel[Json]] = {}
        self._stream: trio.SocketStream | None = None
        self._sending = trio.Lock()

    # --- life ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be connected, until cancelled."""
        while True:
            try:
                await self._live()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, StopIteration):
                pass
            finally:
                self._gone()
            await trio.sleep(0.01)

    async def _live(self) -> None:
        path = next(iter(self.hive.paths.routers.glob("*.sock")), None)
        if path is None:
            raise FileNotFoundError
        await self.open(path)
        splitter = FrameSplitter()
        assert self._stream is not None
        stream = self._stream
        while data := await stream.receive_some(65_536):
            for body in splitter.feed(data):
                self._take(json.loads(body))

    async def open(self, path: Path) -> None:
        """Connect and say HELLO."""
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with trio.fail_after(5):
                await sock.connect(str(path))
            self._stream = trio.SocketStream(sock)
        except BaseException:
            sock.close()
            raise
        hello = {"uuid": self.uuid, "name": self.name, "version": "1"}
        await self.send(self.message(None, {"type": "system", "msg": "HELLO"}, hello, ttl=1))

    def _take(self, message: Json) -> None:
        meta = message["meta"]
        if meta.get("msg") == "ANNOUNCE":
            self.connected = True
            self.announces += 1
            self.vpn_id = message["payload"]["vpn_id"]
            return
        waiting = self._answers.pop(message["routing"]["trace_id"], None)
        if waiting is not None:
            waiting.send_nowait(message)
        else:
            self._on_message(message)

    def _gone(self) -> None:
        self.losses += self.connected
        self.connected = False
        for waiting in self._answers.values():
            waiting.close()  # there will be no answer on this connection
        self._answers.clear()
        self.drop()

    def drop(self) -> None:
        """Close the socket without a word, as a node that is killed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.socket.close()

    # --- talking ---------------------------------------------------------------------------------------

    def message(self, dst: str | None, meta: Json, payload: object = None, *, ttl: int = 16) -> Json:
        """A message from this node with a fresh trace."""
        routing = {"src": self.uuid, "dst": dst, "ttl": ttl, "trace_id": str(uuid.uuid4())}
        return {"routing": routing, "meta": meta, "payload": payload}

    async def send(self, *messages: Json) -> bool:
        """Write frames with one call; False when there is no connection any more."""
        stream = self._stream
        if stream is None:
            return False
        async with self._sending:
            try:
                with trio.fail_after(10):
                    await stream.send_all(b"".join(map(packed, messages)))
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return False
        return True

    async def request(self, dst: str, meta: Json, payload: object, *, timeout_s: float) -> Json | None:
        """The answer, ``None`` when there was none in time."""
        question = self.message(dst, meta, payload)
        trace = question["routing"]["trace_id"]
        send, receive = trio.open_memory_channel[Json](1)
        self._answers[trace] = send
        try:
            with trio.move_on_after(timeout_s):
                if await self.send(question):
                    return await receive.receive()
        except trio.EndOfChannel:
            return None
        finally:
            self._answers.pop(trace, None)
        return None

    async def router(self, verb: str, *, timeout_s: float = 2.0) -> Json | None:
        """The payload that the router answers to one of its verbs."""
        to = f"RT.gateway@{self.hive.hive_id}"
        answer = await self.request(to, {"type": "system", "msg": verb}, {}, timeout_s=timeout_s)
        return (
            None if answer is None or answer["meta"].get("msg") != f"{verb}_RESPONSE" else answer["payload"]
        )


class Traffic:
    """Sources that send bursts on shared and on ever new threads to sinks that write down what they see.

    Args:
        hive: where.
        pairs: how many sources, and how many sinks.
        seed: of all chances.
        pause_s: between two bursts of a source.
    """

    THREADS: Sequence[str] = tuple(f"thread:{number}" for number in range(6))

    def __init__(self, hive: HiveHarness, *, pairs: int = 3, seed: int = 1, pause_s: float = 0.01) -> None:
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        self.numbers: dict[str, set[int]] = defaultdict(set)
        self.repeated: list[tuple[str, int]] = []
        self.seen = 0
        self.sent = 0
        self.sinks = [PlainNode(hive, f"AI.sink{number}", self._see) for number in range(pairs)]
        self.sources = [PlainNode(hive, f"IO.source{number}") for number in range(pairs)]
        self._fresh = 0

    @property
    def nodes(self) -> list[PlainNode]:
        """All of them."""
        return [*self.sinks, *self.sources]

    def _see(self, message: Json) -> None:
        meta = message["meta"]
        number = meta.get("thread_seq")
        if number is None:
            return
        self.seen += 1
        numbers = self.numbers[meta["thread_id"]]
        if number in numbers:
            self.repeated.append((meta["thread_id"], number))
        numbers.add(number)

    async def run(self) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.run)
            for source in self.sources:
                nursery.start_soon(self._send, source)

    async def _send(self, source: PlainNode) -> None:
        chance = self._chance
        while True:
            if source.connected:
                burst = [self._one(source, chance.choice(self.THREADS)) for _ in range(chance.randint(1, 12))]
                self._fresh += 1
                burst.append(self._one(source, f"fresh:{self._fresh}"))
                if await source.send(*burst):
                    self.sent += len(burst)
            await trio.sleep(self._pause_s)

    def _one(self, source: PlainNode, thread: str) -> Json:
        sink = self._chance.choice(self.sinks)
        return source.message(sink.full_name, {"type": "user", "thread_id": thread}, "x" * 40)


class RouteChanger:
    """Adds and deletes routes one after the other and knows what must be there.

    ``known`` were acknowledged (and not deleted since); of ``open`` nobody knows: no answer came.
    """

    MOST = 40

    def __init__(self, hive: HiveHarness, *, seed: int = 1, pause_s: float = 0.01) -> None:
        self.node = PlainNode(hive, "IO.operator")
        self.known: set[str] = set()
        self.open: set[str] = set()
        self.version = 0
        self.acknowledged = 0
        self.refused: dict[str, int] = defaultdict(int)
        self.wrong: list[str] = []
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        self._count = 0
        self._to = f"SY.config.routes@{hive.hive_id}"
        self._busy = trio.Lock()
        self._waiting = trio.Event()

    async def next_acknowledgement(self) -> None:
        """Return at the moment at which a change is acknowledged."""
        self._waiting = trio.Event()
        await self._waiting.wait()

    async def run(self) -> None:
        """Be connected and change routes until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.node.run)
            while True:
                if self.node.connected:
                    async with self._busy:
                        await self.change()
                await trio.sleep(self._pause_s)

    async def ask(self, action: str, payload: Json, *, timeout_s: float = 1.0) -> Json | None:
        """The answer of the route service; ``None`` when it is not known whether it was asked."""
        answer = await self.node.request(
            self._to, {"type": "admin", "action": action}, payload, timeout_s=timeout_s
        )
        if answer is None:
            return None
        if answer["meta"].get("msg") == "UNREACHABLE":
            return {"status": "error", "error_code": answer["payload"]["reason"]}
        return dict(answer["payload"])

    async def change(self) -> None:
        """One change; what became of it goes into the books."""
        if len(self.known) + len(self.open) >= self.MOST or (self.known and self._chance.random() < 0.4):
            await self._try("delete_route", self._chance.choice(sorted(self.known or self.open)), {})
        else:
            self._count += 1
            await self._try("add_route", f"AI.route.{self._count}", {"action": "DROP"})

    async def _try(self, action: str, prefix: str, more: Json) -> None:
        # From here on nobody knows, until there is an answer; perhaps this task is cancelled before.
        was = "known" if prefix in self.known else "open" if prefix in self.open else "unknown"
        self.known.discard(prefix)
        self.open.add(prefix)
        answer = await self.ask(action, {"prefix": prefix, **more})
        if answer is None:
            return
        code = answer.get("error_code", "ok")
        if code in ("ok", "APPLY_FAILED"):  # the second is stored, only not yet in force
            self._settle(prefix, "known" if action == "add_route" else "unknown")
        elif code == "NOT_FOUND":  # it was never added, or is deleted already
            if was == "known":
                self.wrong.append(f"{prefix} is gone")
            self._settle(prefix, "unknown")
        else:
            self._settle(prefix, was)
        if code != "ok":
            self.refused[code] += 1
            return
        self.acknowledged += 1
        version = answer["payload"]["config_version"]
        if version <= self.version:
            self.wrong.append(f"version {version} after {self.version}")
        self.version = version
        self._waiting.set()

    def _settle(self, prefix: str, state: str) -> None:
        self.open.discard(prefix)
        if state != "unknown":
            (self.known if state == "known" else self.open).add(prefix)

    async def check(self, *, timeout_s: float = 0.3) -> bool:
        """Compare with what the service has; False when it does not answer (yet)."""
        async with self._busy:
            answer = await self.ask("list_routes", {}, timeout_s=timeout_s)
            if answer is None or answer["status"] != "ok":
                return False
            listed = {route["prefix"] for route in answer["payload"]["routes"]}
            lost = self.known - listed
            extra = listed - self.known - self.open
            if lost or extra:
                self.wrong.append(f"lost {sorted(lost)}, came back {sorted(extra)}")
            if answer["payload"]["config_version"] < self.version:
                self.wrong.append(f"version {answer['payload']['config_version']} after {self.version}")
            self.version = max(self.version, answer["payload"]["config_version"])
            self.known = listed
            self.open = set()
            return True
