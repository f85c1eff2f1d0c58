"""The shell with real sockets: one router, clients as other processes would be, all in one loop."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.router.config import EngineSettings
from appliance.router.connection import Peer, State
from appliance.router.engine import Engine
from appliance.router.outbox import Limits
from appliance.router.shell import READ_BYTES, Shell
from appliance.router.threads import ThreadCounters
from appliance.wire.frames import MAX_FRAME_BYTES, FrameSplitter
from tests.router_kit import (
    HIVE,
    ROUTER_NAME,
    ROUTER_UUID,
    Bounds,
    Turns,
    frame_bytes,
    message,
    numbered_uuid,
    pack,
)

PATIENCE_S = 20.0


class Client:
    """One node's end of its socket."""

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        self.stream = stream
        self.uuid = numbered_uuid(number)
        self._splitter = FrameSplitter()
        self._bodies: list[bytes] = []

    @property
    def sock(self) -> trio.socket.SocketType:
        return self.stream.socket

    async def send(self, dst: str | None, **parts: Any) -> None:
        await self.stream.send_all(pack(frame_bytes(message(self.uuid, dst, **parts))))

    async def read(self) -> Any:
        """The next message; ``None`` at the end of the stream."""
        while not self._bodies:
            data = await self.stream.receive_some(READ_BYTES)
            if not data:
                return None
            self._bodies += self._splitter.feed(bytes(data))
        return json.loads(self._bodies.pop(0))

    async def read_many(self, count: int) -> list[Any]:
        return [await self.read() for _ in range(count)]


class Office:
    """A router on a socket file, and clients of it."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.bounds = Bounds()
        self.turns = Turns()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.fspath(path))
        listener.setblocking(False)
        listener.listen(1024)
        self.listener = listener
        self.engine = Engine(
            EngineSettings(hive=HIVE, router_uuid=ROUTER_UUID, router_name=ROUTER_NAME, **settings),
            threads=ThreadCounters(self.bounds),
            turns=self.turns,
        )
        self.engine.greeter.configured = True
        self.shell = Shell(self.engine, listener)
        self._running = trio.CancelScope()
        self._clients: list[Client] = []

    async def dial(self) -> Client:
        return self._client(await trio.open_unix_socket(os.fspath(self.path)))

    def _client(self, stream: trio.SocketStream) -> Client:
        self._clients.append(Client(stream, len(self._clients) + 1))
        return self._clients[-1]

    def inherited(self) -> Client:
        """A client at one end of a socketpair whose other end the router was given."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.shell.attach(theirs, Peer(plane="control"))
        return self._client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    def leave(self) -> None:
        for client in self._clients:
            client.sock.close()

    async def hello(self, client: Client, name: str) -> Any:
        payload = {"uuid": client.uuid, "name": name, "version": "1"}
        await client.send(None, type="system", msg="HELLO", ttl=1, payload=payload)
        return await client.read()

    async def connect(self, name: str) -> Client:
        client = await self.dial()
        answer = await self.hello(client, name)
        assert answer["payload"]["status"] == "registered"
        return client

    def connection(self, client: Client) -> Any:
        """The engine's side of ``client``."""
        return self.engine.fib.by_uuid.get(client.uuid)

    async def run(self) -> None:
        with self._running:
            await self.shell.run()

    def stop(self) -> None:
        self._running.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the router work until ``condition`` holds."""
        while not condition():  # noqa: ASYNC110 - the router has no events for tests
            await trio.sleep(0.001)


@asynccontextmanager
async def office(path: Path, **settings: Any) -> AsyncIterator[Office]:
    made = Office(path / "r.sock", **settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        try:
            yield made
        finally:
            made.leave()
        nursery.cancel_scope.cancel()


def served(scene: Callable[..., Awaitable[None]], path: Path, **settings: Any) -> None:
    """Run ``scene(office)`` beside a router."""

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with office(path, **settings) as made:
                await scene(made)

    trio.run(main)


# --- hello --------------------------------------------------------------------------------------------------


def test_announce_is_the_first_frame(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        chatter = await it.connect("AI.chatter")
        client = await it.dial()
        hello = message(
            client.uuid,
            None,
            type="system",
            msg="HELLO",
            payload={"uuid": client.uuid, "name": "AI.b", "version": "1"},
        )
        await client.stream.send_all(pack(frame_bytes(hello)))
        for number in range(20):
            await chatter.send("broadcast", trace=numbered_uuid(1000 + number))
            await chatter.send("AI.b@north")
        assert (await client.read())["meta"]["msg"] == "ANNOUNCE"

    served(scene, tmp_path)


def test_a_peer_is_known_by_its_process(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        client = await it.connect("AI.a")
        assert it.connection(client).peer == Peer(pid=os.getpid(), uid=os.getuid(), gid=os.getgid())

    served(scene, tmp_path)


def test_who_says_nothing_is_let_go(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        client = await it.dial()
        assert await client.read() is None
        assert it.engine.counts["hello.timeout"] == 1

    served(scene, tmp_path, hello_timeout_s=0.02)


def test_a_refused_hello_ends_in_the_end_of_the_stream(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        client = await it.dial()
        assert await it.hello(client, "AI.a@elsewhere") is None

    served(scene, tmp_path)


# --- carrying -----------------------------------------------------------------------------------------------

SIZES = [
    200,
    359,
    361,
    4096,
    READ_BYTES - 4,
    READ_BYTES - 3,
    READ_BYTES,
    READ_BYTES + 1,
    MAX_FRAME_BYTES - 200,
]


def test_frames_of_many_sizes_and_the_largest_inclusive(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a, b = await it.connect("AI.a"), await it.connect("AI.b")
        bare = len(frame_bytes(message(a.uuid, "AI.b@north", payload="")))
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                for size in SIZES:
                    await a.send("AI.b@north", payload="x" * (size - bare))

            nursery.start_soon(write)
            got = [len(json.dumps((await b.read())["payload"])) - 2 for _ in SIZES]
        assert got == [size - bare for size in SIZES]
        # The router adds nothing to a system message but the sender's name.
        stamp = len(',"src_l2_name":"AI.a@north"')
        largest = MAX_FRAME_BYTES - stamp
        bare = len(frame_bytes(message(a.uuid, "AI.b@north", type="system", payload="")))
        for size in (largest, largest + 1):
            await a.send("AI.b@north", type="system", payload="x" * (size - bare))
        await a.send("AI.b@north", payload="last")
        assert len((await b.read())["payload"]) == largest - bare
        assert (await b.read())["payload"] == "last"
        assert it.engine.counts["oversize_out"] == 1

    served(scene, tmp_path)


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_any_fragmentation_of_what_is_sent(tmp_path: Path, chunk: int) -> None:
    async def scene(it: Office) -> None:
        a, b = await it.connect("AI.a"), await it.connect("AI.b")
        data = b"".join(pack(frame_bytes(message(a.uuid, "AI.b@north", payload=n))) for n in range(5))
        for start in range(0, len(data), chunk):
            await a.stream.send_all(data[start : start + chunk])
        assert [got["payload"] for got in await b.read_many(5)] == list(range(5))

    served(scene, tmp_path)


def test_what_does_not_fit_the_socket_follows_when_it_is_read(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a, b = await it.connect("AI.a"), await it.connect("AI.b")
        for number in range(40):
            await a.send("AI.b@north", payload=[number, "x" * 30_000])
        await it.until(lambda: it.connection(b).outbox.queued_frames > 0)
        for number in range(40):
            assert (await b.read())["payload"][0] == number
        await it.until(lambda: bool(it.connection(b).outbox.empty))

    served(scene, tmp_path, queues=Limits(stall_s=30.0, pause_s=30.0))


def test_an_oversize_length_ends_the_connection_at_once(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a = await it.connect("AI.a")
        await a.stream.send_all(struct.pack(">I", MAX_FRAME_BYTES + 1))
        assert await a.read() is None
        assert it.engine.counts["oversize_in"] == 1

    served(scene, tmp_path)


# --- the order of a turn ------------------------------------------------------------------------------------


class Clock:
    """Stands in for the module ``time`` in the shell."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class Scene:
    """A router that turns when it is told to. AI.a has filled AI.b's socket and half its queue, and waits."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        monkeypatch.setattr("appliance.router.shell.time", self.clock)
        self.it = Office(path / "r.sock", queues=Limits(frames=8))
        self.socks = [self.join(name, number) for number, name in enumerate(("AI.a", "AI.b", "AI.c"), 1)]
        self.b = self.it.engine.fib.by_name["AI.b@north"][0]
        while self.b.outbox.queued_frames < 5:
            self.send(1, payload="x" * 30_000)
            self.it.shell.turn()

    def join(self, name: str, number: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(os.fspath(self.it.path))
        payload = {"uuid": numbered_uuid(number), "name": name, "version": "1"}
        hello = message(numbered_uuid(number), None, type="system", msg="HELLO", payload=payload)
        sock.sendall(pack(frame_bytes(hello)))
        self.it.shell.turn()
        self.it.shell.turn()
        sock.recv(READ_BYTES)
        return sock

    def send(self, number: int, **parts: Any) -> None:
        frame = frame_bytes(message(numbered_uuid(number), parts.pop("dst", "AI.b@north"), **parts))
        self.socks[number - 1].sendall(pack(frame))

    def make_room(self) -> None:
        """AI.b reads all that its socket holds."""
        self.socks[1].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.socks[1].recv(READ_BYTES):
                pass

    def close(self) -> None:
        self.it.shell.close()
        for sock in self.socks:
            sock.close()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path, monkeypatch)
    yield made
    made.close()


def test_a_number_does_not_leave_before_its_reservation_is_written(scene: Scene) -> None:
    """AI.b gets room in the very turn that gives out a number to a message for it."""
    write = scene.it.shell._write
    early: list[bytes] = []

    def watched(link: Any) -> None:
        if scene.it.engine.threads._unwritten:
            early.append(bytes(link.connection.outbox.pending()))
        write(link)

    scene.it.shell._write = watched  # type: ignore[method-assign]
    scene.clock.now += 0.01
    scene.send(3, thread_id="new")
    scene.make_room()
    scene.it.shell.turn()
    assert scene.it.bounds.bounds
    assert early == []


def test_before_writing_the_turn_is_closed_and_its_owner_is_asked(scene: Scene) -> None:
    told: list[tuple[int, int]] = []

    def before_write() -> None:
        told.append(
            (len(scene.it.bounds.bounds), scene.it.engine.fib.by_uuid[numbered_uuid(3)].outbox.queued_frames)
        )

    scene.it.shell._before_write = before_write
    scene.send(3, thread_id="new", dst="AI.c@north")
    scene.it.shell.turn()
    assert told == [(1, 1)]


def test_who_has_room_again_is_not_stalled_because_the_turn_came_late(scene: Scene) -> None:
    scene.clock.now += 5.0  # the router stood still, not the recipient
    scene.send(3, payload="late")
    scene.make_room()
    scene.it.shell.turn()
    assert scene.it.engine.counts["unreachable.NODE_CONGESTED"] == 0
    assert scene.b.outbox.empty


# --- slow and absent readers --------------------------------------------------------------------------------


def test_a_peer_that_never_reads_is_refused_and_nobody_else_notices(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a, stuck, b = [await it.connect(f"AI.{name}") for name in ("a", "stuck", "b")]
        congested = 0
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                for _ in range(200):
                    await a.send("AI.stuck@north", payload="x" * 20_000)
                await a.send("AI.b@north", payload="through")

            nursery.start_soon(write)
            assert (await b.read())["payload"] == "through"
        answers = it.engine.counts["unreachable.NODE_CONGESTED"]
        for _ in range(answers):
            answer = await a.read()
            congested += answer["payload"]["reason"] == "NODE_CONGESTED"
        assert congested == answers > 0
        assert it.connection(stuck).outbox.queued_bytes <= Limits().size_bytes

    served(scene, tmp_path)


def test_a_paused_sender_that_closes_loses_nothing(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a, b = await it.connect("AI.a"), await it.connect("AI.b")
        frame = pack(frame_bytes(message(a.uuid, "AI.b@north", payload="x" * 2000)))
        sent, waiting = 0, b""
        while not (it.engine.paused and waiting):
            waiting = waiting or frame
            try:
                waiting = waiting[a.sock._sock.send(waiting) :]  # type: ignore[attr-defined]
            except BlockingIOError:
                await trio.sleep(0.001)
            sent += not waiting
        await a.stream.aclose()
        got = await b.read_many(sent)
        assert len(got) == sent
        await it.until(lambda: len(it.engine.connections) == 1)
        assert it.engine.counts["lost_unread"] == 0
        assert it.engine.counts["closed.eof" if waiting == frame else "closed.eof_in_frame"] == 1

    served(scene, tmp_path, queues=Limits(frames=64, stall_s=30.0, pause_s=30.0))


@pytest.mark.parametrize("unread", [True, False], ids=["with unread data", "all read"])
def test_who_sends_a_lot_and_goes_is_heard_to_the_end(tmp_path: Path, unread: bool) -> None:
    async def scene(it: Office) -> None:
        a, b = await it.connect("AI.a"), await it.connect("AI.b")
        if unread:
            await b.send("AI.a@north")
            await it.until(lambda: it.engine.counts["warm"] == 0 and it.connection(a).outbox.sent_bytes > 250)
        # Its first message is answered, to a socket that is gone by then; three reads' worth follow.
        frames = [frame_bytes(message(a.uuid, "AI.nobody@north"))]
        frames += [frame_bytes(message(a.uuid, "AI.b@north", payload=[n, "x" * 1500])) for n in range(100)]
        data = b"".join(map(pack, frames))
        assert len(data) > 2 * READ_BYTES
        # All in one call and closed at once: the router sees it only afterwards.
        assert a.sock._sock.send(data) == len(data)  # type: ignore[attr-defined]
        a.sock.close()
        got = await b.read_many(100)
        assert [one["payload"][0] for one in got] == list(range(100))
        await it.until(lambda: len(it.engine.connections) == 1)
        assert set(it.engine.fib.by_name) == {"AI.b@north"}

    served(scene, tmp_path)


def test_a_reset_with_unread_data_unregisters(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a, b = await it.connect("AI.a"), await it.connect("AI.b")
        for _ in range(10):
            await b.send("AI.a@north")
        await it.until(lambda: it.connection(a).outbox.sent_bytes > 2000)
        a.sock.close()
        await it.until(lambda: len(it.engine.connections) == 1)
        assert it.engine.counts["closed.reset"] == 1
        await b.send("AI.a@north")
        assert (await b.read())["payload"]["reason"] == "NODE_NOT_FOUND"

    served(scene, tmp_path)


@pytest.mark.parametrize(
    ("tail", "reason"), [(b"", "eof"), (b"\0\0", "eof_in_frame"), (b"\0\0\1\0{", "eof_in_frame")]
)
def test_the_end_of_a_stream_is_told_from_a_broken_frame(tmp_path: Path, tail: bytes, reason: str) -> None:
    async def scene(it: Office) -> None:
        a = await it.connect("AI.a")
        if tail:
            await a.stream.send_all(tail)
        await a.stream.aclose()
        await it.until(lambda: not it.engine.connections)
        assert it.engine.counts[f"closed.{reason}"] == 1

    served(scene, tmp_path)


def test_a_half_closed_peer_has_ended(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a = await it.connect("AI.a")
        await a.stream.send_eof()
        assert await a.read() is None

    served(scene, tmp_path)


# --- held ---------------------------------------------------------------------------------------------------


def test_held_nodes_are_announced_when_the_configuration_comes(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        it.engine.greeter.configured = False
        client, left = await it.dial(), await it.dial()
        async with trio.open_nursery() as nursery:
            for one, name in ((client, "AI.a"), (left, "AI.b")):
                payload = {"uuid": one.uuid, "name": name, "version": "1"}
                await one.send(None, type="system", msg="HELLO", payload=payload)
                await one.send("AI.a@north", payload="after hello")
            await it.until(lambda: len(it.engine.greeter.held) == 2)
            await left.stream.aclose()
            await it.until(lambda: len(it.engine.greeter.held) == 1)
            assert it.engine.counts["closed.eof"] == 1
            it.engine.greeter.release()
            (await it.dial()).sock.close()
            nursery.start_soon(trio.sleep, 0)
            assert (await client.read())["meta"]["msg"] == "ANNOUNCE"
            assert (await client.read())["payload"] == "after hello"
        assert it.connection(client).state is State.READY

    served(scene, tmp_path)


# --- many ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_nodes_connect_at_once(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        clients: list[Client] = []

        async def join(number: int) -> None:
            clients.append(await it.connect(f"AI.worker{number}"))

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(join, number)
        assert len(it.engine.fib.by_uuid) == 1000
        for client, after in itertools.pairwise(clients):
            await client.send(after.uuid)
        for client in clients[1:]:
            assert (await client.read())["meta"]["action_class"] == "send_message"
        for client in clients:
            client.sock.close()
        await it.until(lambda: not it.engine.connections)
        assert it.engine.counts["closed.eof"] == 1000

    served(scene, tmp_path)


# --- attach and the end -------------------------------------------------------------------------------------


def test_an_inherited_end_is_the_appliance_itself(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        client = it.inherited()
        assert (await it.hello(client, "SY.admin"))["payload"]["name"] == "SY.admin@north"
        assert it.connection(client).system

    served(scene, tmp_path)


def test_an_end_attached_to_an_idle_router_has_its_full_time_for_hello(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a = await it.connect("AI.a")
        await trio.sleep(0.3)  # the engine's time stands still meanwhile
        client = it.inherited()
        await a.send("AI.a@north")
        await a.read()
        assert (await it.hello(client, "SY.admin")) is not None

    served(scene, tmp_path, hello_timeout_s=0.25)


def test_other_descriptors_are_watched(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        fd = os.eventfd(0, os.EFD_NONBLOCK)
        woken: list[int] = []
        it.shell.watch(fd, lambda: woken.append(os.eventfd_read(fd)))
        os.eventfd_write(fd, 3)
        await it.until(lambda: woken == [3])
        os.close(fd)

    served(scene, tmp_path)


def test_cancelling_closes_everything(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a, silent = await it.connect("AI.a"), await it.dial()
        await it.until(lambda: len(it.engine.connections) == 2)
        it.stop()
        assert await a.read() is None
        assert await silent.read() is None
        assert it.listener.fileno() == -1
        with pytest.raises(OSError) as caught:
            await it.dial()
        assert caught.value.errno == errno.ECONNREFUSED
        late = it.inherited()
        assert await late.read() is None

    served(scene, tmp_path)


def test_an_idle_router_sleeps(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        await it.connect("AI.a")
        before = it.shell.turns
        await trio.sleep(0.05)
        assert it.shell.turns - before <= 1

    served(scene, tmp_path)


def test_a_router_with_paused_senders_does_not_spin(tmp_path: Path) -> None:
    async def scene(it: Office) -> None:
        a, b = await it.connect("AI.a"), await it.connect("AI.b")
        frame = pack(frame_bytes(message(a.uuid, "AI.b@north", payload="x" * 60_000)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.stream.send_all, frame * 20)
            await it.until(lambda: bool(it.engine.paused))
            before = it.shell.turns
            await trio.sleep(0.05)
            assert it.shell.turns - before <= 2
            await b.read_many(20)

    served(scene, tmp_path, queues=Limits(frames=8, stall_s=30.0, pause_s=30.0))
