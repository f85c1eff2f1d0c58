"""A router process and clients that misbehave, stop, vanish, or are too many."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.wire.frames import MAX_FRAME_BYTES, FrameSplitter
from tests.router_kit import ROUTER_NAME, frame_bytes, message, numbered_uuid, pack

pytestmark = pytest.mark.process

PATIENCE_S = 20.0


class Client:
    """A node on a blocking socket."""

    def __init__(self, path: Path, number: int) -> None:
        self.uuid = numbered_uuid(number)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(os.fspath(path))
        self._splitter = FrameSplitter()
        self._bodies: list[bytes] = []

    def send(self, dst: str | None, **parts: Any) -> None:
        self.sock.sendall(pack(frame_bytes(message(self.uuid, dst, **parts))))

    def hello(self, name: str) -> None:
        payload = {"uuid": self.uuid, "name": name, "version": "1"}
        self.send(None, type="system", msg="HELLO", payload=payload)

    def read(self) -> Any:
        """The next message, or ``None`` at the end."""
        while not self._bodies:
            data = self.sock.recv(65_536)
            if not data:
                return None
            self._bodies += self._splitter.feed(data)
        return json.loads(self._bodies.pop(0))

    def join(self, name: str) -> Client:
        self.hello(name)
        assert self.read()["meta"]["msg"] == "ANNOUNCE"
        return self

    def status(self) -> Any:
        self.send(ROUTER_NAME, type="system", msg="ROUTER_STATUS")
        return self.read()["payload"]


class Router:
    """A router process."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.process = process
        self._clients: list[Client] = []

    def dial(self) -> Client:
        self._clients.append(Client(self.path, len(self._clients) + 1))
        return self._clients[-1]

    def join(self, name: str) -> Client:
        return self.dial().join(name)

    def leave(self) -> None:
        for client in self._clients:
            client.sock.close()


@contextmanager
def router(directory: Path, most_descriptors: int = 1024) -> Iterator[Router]:
    path = directory / "r.sock"
    command = [sys.executable, "-m", "tests.fault.router_program", os.fspath(path), str(most_descriptors)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        made = Router(path, process)
        try:
            assert process.stdout.readline() == b"ready\n"
            yield made
            assert process.poll() is None, "the router ended by itself"
        finally:
            made.leave()
            process.kill()


def test_without_descriptors_those_who_are_here_are_served_and_the_others_wait(tmp_path: Path) -> None:
    with router(tmp_path, most_descriptors=40) as it:
        watcher = it.join("SY.watcher")
        a, b = it.join("AI.a"), it.join("AI.b")
        crowd = [it.dial() for _ in range(60)]
        for number, client in enumerate(crowd):
            client.hello(f"AI.crowd{number}")
        while watcher.status()["counts"].get("accept_out_of_resources", 0) == 0:
            time.sleep(0.01)
        served = crowd[:20]
        for client in served:
            assert client.read()["meta"]["msg"] == "ANNOUNCE"
        for number in range(50):
            a.send("AI.b@north", payload=number)
            assert b.read()["payload"] == number
        # It looks again ten times a second and does not spin meanwhile.
        before = watcher.status()["turns"]
        time.sleep(0.5)
        assert watcher.status()["turns"] - before < 30
        for client in served:
            client.sock.close()
        waited = [client for client in crowd[20:40] if client.read()["meta"]["msg"] == "ANNOUNCE"]
        assert len(waited) == 20
        for client in crowd[20:]:
            client.sock.close()
        assert it.join("AI.late") is not None


def test_a_stopped_process_is_refused_and_nobody_else_notices(tmp_path: Path) -> None:
    with router(tmp_path) as it:
        a, b = it.join("AI.a"), it.join("AI.b")
        reader = f"""
import sys
sys.path.insert(0, {os.fspath(Path.cwd())!r})
from pathlib import Path
from tests.fault.test_router_sockets import Client
client = Client(Path({os.fspath(it.path)!r}), 900).join("AI.slow")
print("ready", flush=True)
count = 0
while (got := client.read())["payload"] != "end":
    count += 1
print(count, flush=True)
"""
        with subprocess.Popen([sys.executable, "-c", reader], stdout=subprocess.PIPE) as slow:
            try:
                assert slow.stdout is not None
                assert slow.stdout.readline() == b"ready\n"
                os.kill(slow.pid, signal.SIGSTOP)
                for _ in range(400):
                    a.send("AI.slow@north", payload="x" * 20_000)
                a.send("AI.b@north", payload="through")
                assert b.read()["payload"] == "through"
                for number in range(100):
                    b.send("AI.a@north", payload=number)
                seen = [a.read() for _ in range(1)]
                while seen[-1]["payload"] != 99:
                    seen.append(a.read())
                refused = sum(got["meta"].get("msg") == "UNREACHABLE" for got in seen)
                assert {got["payload"]["reason"] for got in seen if got["meta"].get("msg")} == {
                    "NODE_CONGESTED"
                }
                os.kill(slow.pid, signal.SIGCONT)
                # What was not refused arrives, in full.
                while True:
                    a.send("AI.slow@north", payload="end")
                    b.send("AI.a@north", payload="mark")
                    answer = a.read()
                    if answer["payload"] == "mark":
                        break
                    assert a.read()["payload"] == "mark"
                assert int(slow.stdout.readline()) == 400 - refused
            finally:
                slow.kill()


def test_a_router_that_stood_still_refuses_nobody_for_it(tmp_path: Path) -> None:
    with router(tmp_path) as it:
        watcher, a, b = it.join("SY.watcher"), it.join("AI.a"), it.join("AI.b")
        it.process.send_signal(signal.SIGSTOP)
        a.sock.setblocking(False)
        stream, taken, sent = b"", 0, 0
        with suppress(BlockingIOError):
            while True:
                taken += a.sock.send(stream[taken:])
                stream += pack(frame_bytes(message(a.uuid, "AI.b@north", payload=sent)))
                sent += 1
        time.sleep(0.1)  # longer than a recipient may stand still
        it.process.send_signal(signal.SIGCONT)
        a.sock.settimeout(PATIENCE_S)
        a.sock.sendall(stream[taken:])
        assert [b.read()["payload"] for _ in range(sent)] == list(range(sent))
        assert watcher.status()["counts"] == {}


def _nuisance(client: Client, dice: random.Random) -> None:
    """One of the things that a bad client does."""
    act = dice.randrange(9)
    frame = pack(frame_bytes(message(client.uuid, "AI.sink@north", payload="x" * dice.randrange(3000))))
    if act == 0:
        client.sock.send(dice.randbytes(dice.randrange(1, 300)))
    elif act == 1:
        client.sock.send(frame[: dice.randrange(1, len(frame))])
        client.sock.close()
    elif act == 2:
        client.sock.send(struct.pack(">I", MAX_FRAME_BYTES + 1 + dice.randrange(10**6)))
    elif act == 3:
        client.sock.close()
    elif act == 4:
        client.sock.send(frame * dice.randrange(1, 10))
    elif act == 5:
        client.sock.send(pack(b'{"routing":{"src":"\xff"}}') * 50 + b"\0" * 400)
    elif act == 6:
        client.sock.shutdown(dice.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
    elif act == 7:
        client.send(None, type="system", msg="WITHDRAW")
    else:
        client.send("broadcast", trace=numbered_uuid(dice.randrange(10**6)), payload="x" * 500)


def test_a_storm_of_bad_clients_leaves_two_good_ones_alone(tmp_path: Path) -> None:
    dice = random.Random(20261120)
    with router(tmp_path) as it:
        watcher, a, b = it.join("SY.watcher"), it.join("AI.a"), it.join("AI.b")
        sink = it.join("AI.sink")
        before = watcher.status()["open"]
        sink.sock.setblocking(False)
        bad: list[Client] = []
        for turn in range(600):
            if len(bad) < 30:
                client = Client(it.path, 10_000 + turn)
                client.sock.settimeout(1.0)
                bad.append(client)
                if dice.random() < 0.9:
                    client.hello(f"AI.bad{turn % 50}")
            victim = dice.choice(bad)
            try:
                _nuisance(victim, dice)
                ended = victim.sock.fileno() < 0
            except OSError:
                ended = True
            if ended or dice.random() < 0.1:
                victim.sock.close()
                bad.remove(victim)
            a.send("AI.b@north", payload=turn, type="command")
            while (got := b.read())["meta"]["type"] != "command":
                assert got["routing"]["dst"] == "broadcast"
            assert got["payload"] == turn
            with suppress(BlockingIOError):
                sink.sock.recv(1 << 20)
        for client in bad:
            client.sock.close()
        # Who never said HELLO has a deadline; in the end as much is open as at the beginning.
        deadline = time.monotonic() + PATIENCE_S
        while (status := watcher_status(watcher))["open"] > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (status["nodes"], status["paused_senders"]) == (4, 0)


def watcher_status(watcher: Client) -> Any:
    """The router's status; broadcasts that came meanwhile are put aside."""
    watcher.send(ROUTER_NAME, type="system", msg="ROUTER_STATUS")
    while (got := watcher.read())["meta"].get("msg") != "ROUTER_STATUS_RESPONSE":
        assert got["routing"]["dst"] == "broadcast"
    return got["payload"]
