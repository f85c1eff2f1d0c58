"""Which processes there are and what belongs together, as ``/proc`` shows it.

A number alone does not name a process for long: :func:`signal_process` checks the start time behind a pidfd,
so a signal never reaches a newcomer with an old number. Everything here is a picture of one moment; who
hunts processes that fork looks again until nothing is left.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

__all__ = [
    "ProcessEntry",
    "cgroup_of",
    "descendants",
    "environment_of",
    "process_entry",
    "processes",
    "signal_process",
]

PROC = Path("/proc")
_ZOMBIE = frozenset({"Z", "X", "x"})


class ProcessEntry(msgspec.Struct, frozen=True):
    """One process: ``started`` is in clock ticks since boot and makes the pid unique."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; what has ended and waits to be reaped does not."""
        return self.state not in _ZOMBIE


def process_entry(pid: int) -> ProcessEntry | None:
    """One process, or ``None`` when there is none of that number."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
        # pid (name) state ppid pgrp session …; the name may hold spaces and brackets: cut behind the last.
        fields = stat[stat.rindex(b")") + 1 :].split()
        return ProcessEntry(
            pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0].decode(), int(fields[19])
        )
    except (OSError, ValueError, IndexError):  # it ended while we looked
        return None


def processes() -> dict[int, ProcessEntry]:
    """All processes that can be seen, by pid."""
    listed = (process_entry(int(name)) for name in os.listdir(PROC) if name.isdigit())
    return {entry.pid: entry for entry in listed if entry is not None}


def descendants(listed: Mapping[int, ProcessEntry], roots: Iterable[int]) -> set[int]:
    """Pids below ``roots``, without them."""
    below: dict[int, list[int]] = {}
    for entry in listed.values():
        below.setdefault(entry.parent, []).append(entry.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        for pid in below.get(waiting.pop(), ()):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return found


def environment_of(pid: int) -> tuple[bytes, ...]:
    """The environment that a process was started with (``NAME=value``); empty when we may not look."""
    try:
        return tuple((PROC / str(pid) / "environ").read_bytes().split(b"\0"))
    except OSError:
        return ()


def cgroup_of(pid: int | str) -> str:
    """Path of a process in the cgroup v2 tree (``/x/y``); empty without that tree or that process."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def signal_process(entry: ProcessEntry, signum: int) -> bool:
    """Send a signal to exactly this process; ``False`` when it has ended or may not be signalled."""
    try:
        fd = os.pidfd_open(entry.pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            return False
        return _signal_by_number(entry, signum)
    try:
        found = process_entry(entry.pid)
        if found is None or found.started != entry.started:
            return False
        signal.pidfd_send_signal(fd, signum)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _signal_by_number(entry: ProcessEntry, signum: int) -> bool:
    """Without pidfds (Linux before 5.3) a tiny race remains between the look and the signal."""
    found = process_entry(entry.pid)
    if found is None or found.started != entry.started:
        return False
    with suppress(OSError):
        os.kill(entry.pid, signum)
        return True
    return False
