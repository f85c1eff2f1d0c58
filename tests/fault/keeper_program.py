"""A real keeper with planes that do what a test tells them, run as a process of its own.

``python -m tests.fault.keeper_program <run directory> <JSON plan>``. The JSON plan holds ``planes``: name →
behaviour, and ``settings``: numbers of supervision. Each plane listens on ``<run>/<plane>.cmd`` for one
JSON command per connection and answers with JSON.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trio

from appliance.keeper import IncomingLink, Keeper, KeeperSettings, PlaneContext
from appliance.keeper.protocol import encode
from appliance.keeper.trio_plane import TrioPlane, stream_of
from appliance.system.log import get_logger
from appliance.system.process import open_descriptors, process_name
from appliance.wire.errors import Conflict, FluxbeeError, Misconfigured

LOG = get_logger("test")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class ScriptedPlane:
    """A plane without an event loop that serves test commands."""

    def __init__(self, context: PlaneContext, run_directory: Path, behaviour: dict[str, Any]) -> None:
        self.context = context
        self.behaviour = behaviour
        self.links: list[socket.socket] = []
        path = run_directory / f"{context.name}.cmd"
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(16)

    def run(self) -> int:
        if self.behaviour.get("ready", True):
            self.context.ready()
        poller = select.poll()
        for fd in (self.listener.fileno(), self.context.channel.fileno()):
            poller.register(fd, select.POLLIN)
        while True:
            # Orders may have come in while a request waited for its answer: look before waiting.
            while (order := self.context.next_order(0)) is not None:
                if isinstance(order, IncomingLink):
                    order.sock.sendall(f"{order.plane}:{order.name}".encode())
                    self.links.append(order.sock)
                elif self.behaviour.get("ignore_stop"):
                    time.sleep(60)
                else:
                    return 0
            if self.listener.fileno() in {fd for fd, _ in poller.poll()}:
                self.serve()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            command = json.loads(connection.recv(65536))
            try:
                answer = getattr(self, f"do_{command.pop('do')}")(**command)
            except FluxbeeError as error:
                answer = {"error": error.code, "message": error.message}
            connection.sendall(json.dumps(answer).encode())

    def do_about(self) -> dict[str, Any]:
        eventfds = self.context.eventfds
        return {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "session": os.getsid(0),
            "name": process_name(),
            "restarts": self.context.restarts,
            "eventfds": sorted(eventfds),
            "foreign": self.foreign(),
            "blocked": sorted(int(signum) for signum in signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "notify": "NOTIFY_SOCKET" in os.environ,
            "frozen": gc.get_freeze_count(),
            "sigterm": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        }

    def foreign(self) -> int:
        """Descriptors that are neither the plane's own nor stdio under another number (the log's)."""
        stdio = {os.fstat(fd).st_ino for fd in (0, 1, 2)}
        own = {self.context.channel.fileno(), self.listener.fileno(), *self.context.eventfds.values()}
        return sum(os.fstat(fd).st_ino not in stdio for fd in open_descriptors() - own)

    def do_status(self) -> Any:
        return json.loads(encode(self.context.status()))

    def do_restart(self, plane: str) -> None:
        self.context.restart(plane)

    def do_health(self, valid_s: float) -> None:
        self.context.health(valid_s)

    def do_link(self, name: str) -> str:
        sock = self.context.open_link(name)
        self.links.append(sock)
        sock.settimeout(5)
        return sock.recv(1000).decode()

    def do_link_end(self) -> str:
        """What the last link reads at its end."""
        return self.links[-1].recv(1000).decode()

    def do_exit(self, code: int) -> None:
        os._exit(code)

    def do_helper(self) -> int:
        return subprocess.Popen(SLEEP).pid

    def do_daemon(self) -> int:
        """A helper that has left the plane's session and parent."""
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            os.setsid()
            child = os.fork()
            if child == 0:
                time.sleep(60)
            os.write(write_end, str(child).encode())
            os._exit(0)
        os.wait()
        return int(os.read(read_end, 100))

    def do_orphans(self, count: int) -> None:
        """Grandchildren that have ended, all adopted in the one moment when their parent ends too."""
        middle = os.fork()
        if middle == 0:
            pids = []
            for _ in range(count):
                pids.append(os.fork())
                if pids[-1] == 0:
                    os._exit(0)
            for pid in pids:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            os._exit(0)
        os.waitpid(middle, 0)

    def do_flood(self, packets: int) -> dict[str, int]:
        """Send as fast as the channel takes it and read no answers."""
        data = json.dumps({"op": "status", "id": 1}).encode()
        sent = 0
        while sent < packets:
            sent += self.context.channel.send(data)
        return {"sent": sent}

    def do_rubbish(self) -> int:
        """Everything that is not a request, with descriptors where none belong."""
        before = len(open_descriptors())
        for data in (
            b"\xff",
            b"{",
            b"[]",
            b'{"op":"nothing","id":3}',
            b'{"op":"link","name":"x"}',
            b"[" * 60_000,
        ):
            while not self.context.channel.send(data, [0, 1, 2]):
                self.context.channel.wait_writable(1)
        return len(open_descriptors()) - before

    def do_close_channel(self) -> None:
        self.context.channel.close()
        while True:
            time.sleep(60)

    def do_wake(self, plane: str) -> None:
        os.eventfd_write(self.context.eventfds[plane], 1)

    def do_awaited(self) -> int:
        fd = self.context.eventfds[self.context.name]
        select.select([fd], [], [], 5)
        return os.eventfd_read(fd)


def fail(kind: str) -> None:
    if kind == "misconfigured":
        raise ExceptionGroup("nursery", [Misconfigured("hive.yaml: role is wrong")])
    raise RuntimeError(kind)


async def trio_main(context: PlaneContext) -> None:
    """A routing plane on trio that links to itself, greets on every link, and stops when told to."""
    plane = TrioPlane(context)
    async with trio.open_nursery() as nursery:

        async def greet() -> None:
            async for link in plane.links:
                async with stream_of(link.sock) as stream:
                    await stream.send_all(f"{link.plane}:{link.name}".encode())

        await nursery.start(plane.run)
        nursery.start_soon(greet)
        nursery.start_soon(plane.beat)
        await plane.ready()
        async with stream_of(await plane.open_link("SY.self")) as stream:
            LOG.info("greeted", text=b"".join([chunk async for chunk in stream]).decode())
        stop = await plane.wait_stop()
        LOG.info("told", reason=stop.reason)
        nursery.cancel_scope.cancel()


def plane_main(run_directory: Path, behaviour: dict[str, Any]):
    def main(context: PlaneContext) -> int:
        if "exit" in behaviour:
            return behaviour["exit"]
        if "fail" in behaviour:
            fail(behaviour["fail"])
        if "trio" in behaviour:
            trio.run(trio_main, context)
            return 0
        return ScriptedPlane(context, run_directory, behaviour).run()

    return main


def main() -> int:
    run_directory, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
    planes = {name: plane_main(run_directory, behaviour) for name, behaviour in plan["planes"].items()}
    keeper = Keeper(planes, run_directory=run_directory, settings=KeeperSettings(**plan["settings"]), seed=1)
    try:
        return keeper.run()
    except Conflict as error:
        LOG.error("refused", code=error.code, message=error.message)
        return 3


if __name__ == "__main__":
    sys.exit(main())
