"""Who performs jobs: a thread of its own for each journal, or the caller.

``WriterThread`` takes one finished job at a time, performs it with the interpreter lock released, and tells
the trio loop by ``run_sync_soon``; it never polls and never decides. ``InlineWriter`` performs a job
before ``put`` returns: for tools and tests, where nobody shares the loop with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

import trio

from appliance.store.journal_jobs import Job
from appliance.system.disk import Disk

__all__ = ["InlineWriter", "Writer", "WriterThread"]

Deliver = Callable[[Job], None]


class Writer(Protocol):
    """Performs jobs, one after the other, and hands each back on the loop."""

    def start(self, deliver: Deliver) -> None:
        """Begin; ``deliver`` is called on the loop that called ``start``."""

    def put(self, job: Job) -> None:
        """Perform ``job`` after the ones before it."""

    def stop(self) -> None:
        """End after the jobs that were put; does not wait."""


class WriterThread:
    """See the module. The thread is a daemon: a disk that hangs must not keep the process from ending."""

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk = disk
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()

    def start(self, deliver: Deliver) -> None:
        """Start the thread; call inside ``trio.run``."""
        token = trio.lowlevel.current_trio_token()
        threading.Thread(
            target=self._work, args=(token, deliver), name=f"journal-{self._name}", daemon=True
        ).start()

    def put(self, job: Job) -> None:
        """Hand a job to the thread."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Let the thread end after the jobs before."""
        self._jobs.put(None)

    def _work(self, token: trio.lowlevel.TrioToken, deliver: Deliver) -> None:
        take = self._jobs.get
        while (job := take()) is not None:
            try:
                job.perform(self._disk)
            finally:
                with suppress(trio.RunFinishedError):  # nobody is left to tell; the job keeps its outcome
                    token.run_sync_soon(deliver, job)


class InlineWriter:
    """See the module."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._deliver: Deliver | None = None

    def start(self, deliver: Deliver) -> None:
        """Remember whom to tell."""
        self._deliver = deliver

    def put(self, job: Job) -> None:
        """Perform and deliver at once."""
        job.perform(self._disk)
        assert self._deliver is not None
        self._deliver(job)

    def stop(self) -> None:
        """Nothing to end."""
