"""Starts client processes, gives them commands and reaps them, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..harness import pinned

__all__ = ["ROOT", "ClientFailed", "ClientProcess", "Fleet"]

ROOT = Path(__file__).resolve().parents[3]
"""The repository: client processes are started there, so that ``-m tests.bench…`` is found."""

Answer = dict[str, object]


class ClientFailed(RuntimeError):
    """A client process reported an error, died or did not answer in time."""


class ClientProcess:
    """One program that is commanded by JSON lines.

    Args:
        argv: arguments after the interpreter; ends itself when its stdin ends.
        label: what errors call it.
        cpu: the one CPU it may use, or ``None``.
    """

    def __init__(self, argv: Sequence[str], *, label: str, cpu: int | None = None) -> None:
        self.label = label
        with pinned(cpu):
            self.process = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                # Its own group: an interrupt at the terminal reaches the parent, which then ends all in
                # order.
                process_group=0,
            )
        self._read = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def tell(self, do: str, **command: object) -> None:
        """Send a command without waiting for its answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **command}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise ClientFailed(f"{self.label} has died") from error

    def hear(self, timeout_s: float = 30.0) -> Answer:
        """The next line that the process says.

        Raises:
            ClientFailed: it says ``error``, dies, or says nothing for ``timeout_s``.
        """
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ClientFailed(f"{self.label} did not answer within {timeout_s:g} s")
            data = os.read(fd, 65536)
            if not data:
                raise ClientFailed(f"{self.label} has died (status {self.process.wait(5)})")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise ClientFailed(f"{self.label}: {answer['error']}")
        return answer

    def ask(self, do: str, *, timeout_s: float = 30.0, **command: object) -> Answer:
        """Send a command and wait for its answer."""
        self.tell(do, **command)
        return self.hear(timeout_s)

    def end(self, patience_s: float = 2.0) -> None:
        """End the process: close its stdin, then kill; always reaped."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Fleet:
    """The client processes of one measurement; leaving the block ends them all."""

    def __init__(self) -> None:
        self.processes: list[ClientProcess] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if error is not None:
                process.process.kill()
            elif process.process.stdin is not None:
                # All get the word before the first is waited for.
                process.process.stdin.close()
        for process in self.processes:
            process.end()
        self.processes.clear()

    def client(self, label: str, *, cpu: int | None = None) -> ClientProcess:
        """A new process of ``tests.bench.clients.client``."""
        return self.start(["-S", "-E", "-m", "tests.bench.clients.client"], label=label, cpu=cpu)

    def start(self, argv: Sequence[str], *, label: str, cpu: int | None = None) -> ClientProcess:
        """A new process of any program that reads commands or just the end of stdin."""
        process = ClientProcess(argv, label=label, cpu=cpu)
        self.processes.append(process)
        return process
