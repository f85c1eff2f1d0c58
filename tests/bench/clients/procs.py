"""What a tree of processes uses, read from ``/proc``."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_by_thread", "descendants", "field", "growth", "pin", "put_first"]


def descendants(pid: int) -> list[int]:
    """``pid`` and all processes below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                # The name in parentheses may hold anything; the parent follows the last parenthesis.
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_by_thread(pids: list[int]) -> dict[int, int]:
    """Nanoseconds of CPU that each thread of ``pids`` has used."""
    used: dict[int, int] = {}
    for pid in pids:
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                used[int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return used


def growth(before: dict[int, int], after: dict[int, int]) -> int:
    """How much the counters of the threads that are still there have grown; new threads count whole."""
    return sum(count - before.get(thread, 0) for thread, count in after.items())


def pin(pid: int, cpu: int) -> None:
    """Keep all threads of ``pid``, and those that they start, on one CPU."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


def put_first(pid: int) -> bool:
    """Let ``pid`` run before whatever else its CPU is wanted for; whether we may.

    Not by niceness, which counts among the programs of one session only.
    """
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


def field(path: Path, name: str) -> int:
    """The number after ``name`` in a file of lines ``name number``; 0 when it is not there."""
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
