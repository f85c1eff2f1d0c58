"""A nats-server of its own for one measurement: one core, core NATS only, nothing on disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from ..harness import pinned
from .fleet import ClientFailed

__all__ = ["NatsServer", "find_nats"]

START_S = 10.0


def find_nats(given: str | None) -> str | None:
    """Path of ``nats-server``: ``given``, else from the usual places; ``None`` for ``""`` or none found."""
    if given is not None:
        return given or None
    return shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class NatsServer:
    """Runs ``program`` on ``cpu`` within the block; ``address`` is ``host:port``."""

    def __init__(self, program: str, *, cpu: int) -> None:
        self._program = program
        self._cpu = cpu
        self._folder = tempfile.TemporaryDirectory(prefix="fluxbee-bench-nats-")
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> NatsServer:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = Path(self._folder.name) / "nats.conf"
        # max_pending above every burst of ours: the server must not cut a subscriber that is merely behind.
        config.write_text(f'listen: "127.0.0.1:{port}"\nmax_pending: 1073741824\nmax_payload: 1048576\n')
        with pinned(self._cpu):
            self._process = subprocess.Popen(
                [self._program, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "GOMAXPROCS": "1"},
            )
        self.address = f"127.0.0.1:{port}"
        try:
            self._wait_until_it_answers(port)
        except ClientFailed:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_until_it_answers(self, port: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    pass
            except ConnectionRefusedError:
                time.sleep(0.02)
                continue
            return
        raise ClientFailed(f"{self._program} did not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._folder.cleanup()
