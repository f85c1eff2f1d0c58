"""A router without journals, run as a process of its own.

``python -m tests.fault.router_program <socket path> <most descriptors>``. It says ``ready`` on stdout when
nodes can connect, and serves until it is killed.
"""

from __future__ import annotations

import os
import resource
import socket
import sys

import trio

from appliance.router.config import EngineSettings
from appliance.router.engine import Engine
from appliance.router.shell import Shell
from appliance.router.threads import ThreadCounters
from tests.router_kit import HIVE, ROUTER_NAME, ROUTER_UUID, Bounds, Turns

__all__ = ["main"]


def main(path: str, most_descriptors: int) -> None:
    """Serve on ``path`` with at most ``most_descriptors`` open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_descriptors, most_descriptors))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.setblocking(False)
    listener.listen(1024)
    engine = Engine(
        EngineSettings(hive=HIVE, router_uuid=ROUTER_UUID, router_name=ROUTER_NAME),
        threads=ThreadCounters(Bounds()),
        turns=Turns(),
    )
    engine.greeter.configured = True
    shell = Shell(engine, listener)
    engine.verbs.extra_status = lambda: {"turns": shell.turns, "open": _open_descriptors()}
    print("ready", flush=True)
    trio.run(shell.run)


def _open_descriptors() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None  # counting takes one


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
