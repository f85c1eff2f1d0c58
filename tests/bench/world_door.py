"""The world's door: events in over HTTP and WebSocket, updates out to many listeners, reads.

The program has one CPU, its clients another one; they are processes of their own with plain blocking sockets
(for listeners: epoll). Latencies of updates are from before the publisher's request to the listener's read,
by the one monotonic clock of the machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import trio

from appliance.testing.hive import HiveHarness

from .harness import Figure, at_least, at_most, cpus, options, percentile, pinned, rss_anon
from .world import MIB, bodies, plain

__all__ = ["PARTS"]

BATCH = 500
_CLIENTS = 8
_BATCH_PATH = "/api/events/batch"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_VALUE = re.compile(rb'"property":"t","value":(\d+)')
_PUBLISHED = b'"type":"published"'
_fork = multiprocessing.get_context("fork")


@contextmanager
def door() -> Iterator[HiveHarness]:
    """A hive whose world plane is a process of its own on the program's CPU."""
    with tempfile.TemporaryDirectory(prefix="fbw-") as folder, pinned(cpus().program):
        harness = HiveHarness(Path(folder), planes="apart", check_exit=False)
        with harness:
            yield harness


@contextmanager
def elsewhere(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run ``work(pipe, *arguments)`` in a process on the clients' CPU; gives this end of the pipe."""
    ours, theirs = _fork.Pipe()

    def run() -> None:
        os.sched_setaffinity(0, {cpus().clients})
        work(theirs, *arguments)

    process = _fork.Process(target=run)
    process.start()
    try:
        yield cast(Connection, ours)
    finally:
        process.terminate()
        process.join()


# --- clients --------------------------------------------------------------------------------


def request(path: str, body: bytes) -> bytes:
    """A POST as bytes."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send a request and read its whole answer, which must be a 200 with a length."""
    sock.sendall(data)
    received = b""
    while True:
        received += sock.recv(1 << 16)
        head, end, body = received.partition(b"\r\n\r\n")
        if end:
            found = _LENGTH.search(head)
            assert found is not None, head
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(received.decode(errors="replace"))
            if len(body) >= int(found[1]):
                return body


def publishers(pipe: Connection, port: int, requests: list[bytes], clients: int) -> None:
    """Send ``requests`` once, by so many clients that wait for each answer; tells seconds and latencies."""
    waiting = iter(requests)
    took: list[float] = []
    lock = threading.Lock()

    def work() -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            while True:
                with lock:
                    data = next(waiting, None)
                if data is None:
                    return
                began = time.monotonic()
                exchange(sock, data)
                took.append(time.monotonic() - began)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((time.monotonic() - began, took))


def subscribe(port: int) -> socket.socket:
    """A WebSocket, accepted."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(
        b"GET /api/ws HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(4096)
    assert received.startswith(b"HTTP/1.1 101"), received
    return sock


def listeners(pipe: Connection, port: int, count: int, stalled: int, expected: int, limit_s: float) -> None:
    """``count`` listeners, ``stalled`` of which never read; tells the latencies of the others."""
    idle = [subscribe(port) for _ in range(stalled)]
    active = {sock.fileno(): sock for sock in (subscribe(port) for _ in range(count - stalled))}
    poller = select.epoll()
    for fd in active:
        poller.register(fd, select.EPOLLIN)
    pipe.send("ready")
    took: list[float] = []
    deadline = time.monotonic() + limit_s
    while len(took) < expected * len(active) and time.monotonic() < deadline:
        for fd, _ in poller.poll(0.5):
            data = active[fd].recv(1 << 16)
            now = time.monotonic_ns()
            took += [(now - int(value)) / 1e9 for value in _VALUE.findall(data)]
    pipe.send(took)
    del idle


def one_event(entity: str, **properties: object) -> dict[str, object]:
    """An event."""
    return {"stream": "bench", "source": "door", "payload": {"entity_id": entity, "properties": properties}}


def batches(events: int, entities: int) -> list[bytes]:
    """Requests of ``BATCH`` events over so many entities."""
    return [
        request(
            "/api/events/batch",
            json.dumps(
                {
                    "events": [
                        one_event(f"plant/{n * 7919 % entities}", pressure=n / 8, state="running")
                        for n in range(first, first + BATCH)
                    ]
                },
                separators=(",", ":"),
            ).encode(),
        )
        for first in range(0, events, BATCH)
    ]


def appended(texts: list[bytes]) -> float:
    """The least that the promise costs: the same bytes in a journal, each request one synced append."""
    with tempfile.TemporaryDirectory(prefix="fbw-") as folder, pinned(cpus().program):
        return trio.run(plain, Path(folder), texts)


# --- parts --------------------------------------------------------------------------------


def _cpu_s(hive: HiveHarness) -> float:
    """What the world plane has used of its CPU, in seconds."""
    fields = Path(f"/proc/{hive.plane_pid('world')}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _batches(name: str, entities: int, events: int, goal: float, *, filled: bool) -> list[Figure]:
    """Batches of 500 over HTTP by 8 clients; ``filled``: all entities are there before the clock starts."""
    events = options().scaled(events, least=BATCH, multiple=BATCH)
    entities = options().scaled(entities, least=BATCH, multiple=BATCH)
    texts = bodies(entities, events)
    baseline = appended(texts)
    with door() as hive:
        if filled:
            first = [request(_BATCH_PATH, text) for text in bodies(entities, entities, ordered=True)]
            with elsewhere(publishers, hive.world_port, first, _CLIENTS) as pipe:
                pipe.recv()
        requests = [request(_BATCH_PATH, text) for text in texts]
        before = _cpu_s(hive)
        with elsewhere(publishers, hive.world_port, requests, _CLIENTS) as pipe:
            seconds, took = pipe.recv()
        spent = _cpu_s(hive) - before
    return [
        at_least(f"HTTP, {name}", events / seconds, "events/s", goal, baseline=baseline),
        Figure(name=f"{name}: CPU of the world plane per event", value=spent / events * 1e6, unit="µs"),
        Figure(name=f"{name}: a batch, p50", value=percentile(took, 0.5) * 1000, unit="ms"),
        Figure(name=f"{name}: a batch, p99", value=percentile(took, 0.99) * 1000, unit="ms"),
    ]


def burst() -> list[Figure]:
    """One million events as fast as they come."""
    return _batches("burst of 1 M over 10 k entities", 10_000, 1_000_000, 150_000, filled=False)


def sustained() -> list[Figure]:
    """Long enough for many projections."""
    return _batches("sustained over 10 k entities", 10_000, 2_000_000, 100_000, filled=True)


def wide() -> list[Figure]:
    """Hardly ever the same entity twice in a projection."""
    return _batches("sustained over 1 M entities", 1_000_000, 1_000_000, 60_000, filled=True)


def single() -> list[Figure]:
    """Single events, each durable before its answer."""
    figures = []
    with door() as hive:
        for clients, goal in ((8, 4.0), (32, 12.0)):
            count = options().scaled(400) * clients
            body = json.dumps(one_event("plant/one", x=1)).encode()
            with elsewhere(
                publishers, hive.world_port, [request("/api/events", body)] * count, clients
            ) as pipe:
                seconds, took = pipe.recv()
            name = f"single POST, {clients} clients"
            figures += [
                at_most(f"{name}, p50", percentile(took, 0.5) * 1000, "ms", goal),
                Figure(name=name, value=count / seconds, unit="events/s"),
            ]
    return figures


def _heard(name: str, *, count: int, stalled: int, rate: int, seconds: float, goal_ms: float) -> list[Figure]:
    """Publish ``rate`` events a second, in ten requests a second at least, and let listeners time them."""
    per_request = max(1, rate // 100)
    requests = int(options().scaled(int(rate * seconds)) / per_request)
    with door() as hive:
        given = (hive.world_port, count, stalled, requests * per_request, seconds * 3 + 10)
        with (
            elsewhere(listeners, *given) as pipe,
            socket.create_connection(("127.0.0.1", hive.world_port)) as sock,
        ):
            assert pipe.recv() == "ready"
            began = time.monotonic()
            for number in range(requests):
                time.sleep(max(0.0, began + number * per_request / rate - time.monotonic()))
                now = time.monotonic_ns()
                events = [one_event(f"heard/{n}", t=now) for n in range(per_request)]
                exchange(sock, request("/api/events/batch", json.dumps({"events": events}).encode()))
            spent = time.monotonic() - began
            took = pipe.recv()
    expected = requests * per_request * (count - stalled)
    return [
        at_most(f"{name}, p99", percentile(took, 0.99) * 1000, "ms", goal_ms),
        Figure(name=f"{name}, p50", value=percentile(took, 0.5) * 1000, unit="ms"),
        Figure(name=f"{name}, frames", value=len(took) / spent, unit="frames/s"),
        at_least(f"{name}, heard", len(took) / expected, "of all", 1.0),
    ]


def subscribers() -> list[Figure]:
    """One event to a hundred listeners, a thousand times a second."""
    name = "event to 100 subscribers at 1 k events/s"
    return _heard(name, count=100, stalled=0, rate=1000, seconds=6, goal_ms=10)


def crowd() -> list[Figure]:
    """A thousand listeners, a hundred of which stalled."""
    name = "1 000 clients, 100 stalled, 50 events/s"
    return _heard(name, count=1000, stalled=100, rate=50, seconds=10, goal_ms=50)


def reads() -> list[Figure]:
    """The list of 100 k entities, and single reads while events come in."""
    entities = options().scaled(100_000, multiple=BATCH)
    with door() as hive:
        with elsewhere(publishers, hive.world_port, batches(entities, entities), 4) as pipe:
            pipe.recv()
        with socket.create_connection(("127.0.0.1", hive.world_port)) as sock:
            world = hive.plane_pid("world")
            assert world is not None
            before = most = rss_anon(world)
            began, size, looked = time.monotonic(), 0, 0
            sock.sendall(b"GET /api/state/entities HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            while part := sock.recv(1 << 18):
                size += len(part)
                if size - looked > 1 << 20:
                    most, looked = max(most, rss_anon(world)), size
            rate = size / (time.monotonic() - began) / 1e6
        took = []
        with (
            elsewhere(
                publishers, hive.world_port, batches(options().scaled(30_000, multiple=BATCH), 1000), 1
            ),
            socket.create_connection(("127.0.0.1", hive.world_port)) as sock,
        ):
            get = b"GET /api/state/entities/plant%2F5 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
            for _ in range(options().scaled(300)):
                began = time.monotonic()
                exchange(sock, get)
                took.append(time.monotonic() - began)
    return [
        at_least(f"list of {entities} entities", rate, "MB/s", 50),
        at_most("private memory of the world plane grows meanwhile by", (most - before) / MIB, "MiB", 30),
        Figure(name="get while batches come in, p99", value=percentile(took, 0.99) * 1000, unit="ms"),
    ]


def senders(pipe: Connection, port: int, frames: list[bytes]) -> None:
    """Send all frames without waiting and count their answers; tells the seconds."""
    sock = subscribe(port)
    began = time.monotonic()
    thread = threading.Thread(target=lambda: [sock.sendall(frame) for frame in frames])
    thread.start()
    answers, tail = 0, b""
    while answers < len(frames):
        tail += sock.recv(1 << 18)
        answers += tail.count(_PUBLISHED)
        tail = tail[-len(_PUBLISHED) + 1 :]
    pipe.send(time.monotonic() - began)
    thread.join()


def _masked(body: bytes) -> bytes:
    """A client's text frame; the mask is zero, so that masking costs neither side anything in Python."""
    size = len(body)
    length = bytes((0xFE,)) + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
    return b"\x81" + length + bytes(4) + body


def frames() -> list[Figure]:
    """Events by WebSocket, a hundred to a frame, from one sender that does not wait."""
    count = options().scaled(1000)
    events = [one_event(f"plant/{n}", pressure=n / 8, state="running") for n in range(100)]
    unheard = {"type": "subscribe", "entity_id": "nothing"}
    publish = {"type": "publish", "id": 1, "events": events}
    made = [
        _masked(json.dumps(frame, separators=(",", ":")).encode().ljust(126)) for frame in (unheard, publish)
    ]
    with door() as hive, elsewhere(senders, hive.world_port, [made[0] + made[1], *[made[1]] * count]) as pipe:
        seconds = pipe.recv()
    rate = (count + 1) * 100 / seconds
    return [at_least("by WebSocket, frames of 100 events", rate, "events/s", 100_000)]


PARTS = {
    "frames": frames,
    "burst": burst,
    "sustained": sustained,
    "wide": wide,
    "single": single,
    "subscribers": subscribers,
    "crowd": crowd,
    "reads": reads,
}
