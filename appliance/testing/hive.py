"""A whole hive in a directory: the real program, real processes, real sockets, in well under a second.

``HiveHarness`` writes a ``hive.yaml`` below a directory of yours, starts ``fluxbee run`` on it and waits
until nodes can connect. Leaving the block stops it and checks that it stopped cleanly. Use it in tests of
nodes and services alike; nothing outside the directory is touched but two loopback ports.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import trio
import yaml

from appliance.sdk import Node, NodeConfig, UuidMode, connect
from appliance.system.paths import Paths

__all__ = ["PROGRAM_ENV", "HiveHarness", "free_port"]

PROGRAM_ENV = "FLUXBEE_PROGRAM"
"""Command line of the program to test, when it is not this interpreter's package (a frozen one, say)."""

START_S = 20.0
STOP_S = 8.0
_LOOK_S = 0.1
"""How often it is looked whether a program that says nothing has ended."""


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program() -> list[str]:
    given = os.environ.get(PROGRAM_ENV)
    return shlex.split(given) if given else [sys.executable, "-m", "appliance"]


class HiveHarness:
    """One running hive; ``with`` and ``async with`` both work.

    Args:
        root: directory of etc, lib and run; kept short, because socket paths are limited to 107 bytes.
            ``None`` means the reference's places, for a namespace of its own.
        planes: ``together`` (one process under the keeper) or ``apart``.
        settings: further keys of ``hive.yaml``, as nested dictionaries; they win over the harness's own.
        check_exit: leaving the block fails unless the hive ended with code 0.
    """

    def __init__(
        self,
        root: Path | None,
        *,
        planes: Literal["together", "apart"] = "together",
        settings: Mapping[str, object] | None = None,
        check_exit: bool = True,
    ) -> None:
        self.paths = Paths(root)
        self.hive_id = "motherbee"
        self.planes = planes
        self.port = free_port()
        while (world_port := free_port()) == self.port:
            pass  # nobody has taken the first one yet
        self.world_port = world_port
        self.log = (root or self.paths.lib) / "hive.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = dict(settings or {})
        self._check_exit = check_exit

    # --- life ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base address of the admin door."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def world_url(self) -> str:
        """Base address of the world's door."""
        return f"http://127.0.0.1:{self.world_port}"

    @property
    def _world(self) -> dict[str, object]:
        # The box does not speak of itself: a test knows everything that its world holds.
        return {"listen": f"127.0.0.1:{self.world_port}", "sysinfo": {"enabled": False}}

    def write_config(self) -> None:
        """Write ``hive.yaml``: a motherbee in which every local peer may do everything."""
        value: dict[str, object] = {
            "hive_id": self.hive_id,
            "role": "motherbee",
            "planes": self.planes,
            "admin": {"listen": f"127.0.0.1:{self.port}"},
            "world": self._world,
            "security": {"admin_nodes": ["*"], "system_uids": [os.getuid()]},
            "log": {"format": "terminal"},
        }
        given = self._settings.get("world")
        value.update(self._settings)
        if isinstance(given, dict):  # keys of the world's own do not take its port away
            value["world"] = {**self._world, **given}
        self.paths.etc.mkdir(parents=True, exist_ok=True)
        self.paths.hive_yaml.write_text(yaml.safe_dump(value))

    def start(self) -> None:
        """Start and wait until it is ready.

        Raises:
            RuntimeError: it ended or did not get ready; the message has the end of its log.
        """
        self.write_config()
        command = [*_program(), "run", "--quiet", "--config", str(self.paths.hive_yaml)]
        if self.paths.root is not None:
            command += ["--root", str(self.paths.root)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        notify = self.log.with_name("notify.sock")
        notify.unlink(missing_ok=True)
        with self.log.open("ab") as output, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            ready.settimeout(_LOOK_S)
            environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
            self._wait_ready(ready)

    def _wait_ready(self, ready: socket.socket) -> None:
        """Until the keeper says READY=1, as it would to systemd: every plane serves, services included."""
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096).split(b"\n"):
                    return
        self.kill()
        raise RuntimeError(f"the hive did not start:\n{self.log_tail()}")

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Stop and return the exit code; a hive that does not stop within 8 s is killed."""
        assert self.process is not None, "the hive was not started"
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the hive did not stop:\n{self.log_tail()}") from None

    def kill(self) -> None:
        """SIGKILL the keeper, as a power cut to the process; its planes die with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self.stop()
        if self._check_exit and kind is None and code != 0:
            raise RuntimeError(f"the hive ended with code {code}:\n{self.log_tail()}")

    async def __aenter__(self) -> Self:
        await trio.to_thread.run_sync(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):  # bounded by STOP_S
            await trio.to_thread.run_sync(self.__exit__, kind, error, trace)

    # --- using it --------------------------------------------------------------------------------------

    def connect(self, name: str, **config: object) -> AbstractAsyncContextManager[Node]:
        """Connect a node with a fresh uuid; further arguments are those of ``NodeConfig``."""
        given: dict[str, object] = {"name": name, "paths": self.paths, "uuid_mode": UuidMode.EPHEMERAL}
        given.update(config)
        return connect(NodeConfig(**given))  # type: ignore[arg-type]

    @property
    def socket_path(self) -> Path:
        """The router's socket, for clients that are no SDK."""
        return next(iter(self.paths.routers.glob("*.sock")))

    def plane_pid(self, plane: str) -> int | None:
        """Process of ``data``, ``control`` or ``world``; of the one process with ``planes: together``."""
        assert self.process is not None, "the hive was not started"
        wanted = "fluxbee-all" if self.planes == "together" else f"fluxbee-{plane}"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split():
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == wanted:
                    return int(pid)
            except OSError:
                continue
        return None

    def kill_plane(self, plane: str) -> int:
        """SIGKILL one plane; returns the pid that it had. The keeper starts it again."""
        pid = self.plane_pid(plane)
        if pid is None:
            raise RuntimeError(f"plane {plane} does not run:\n{self.log_tail()}")
        os.kill(pid, signal.SIGKILL)
        return pid
