"""Finds and kills what a node has started, however it tried to get away.

A cgroup holds everybody. Without one, a process belongs to a node when it is in its session, below its main
process, was seen below it when the stop began, or was adopted by the keeper and carries the launch's
token in the environment that it was started with. What leaves the session, its parents *and* its environment
behind is found only by a cgroup, or when the keeper itself ends.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import select
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from appliance.keeper.nodes_protocol import LAUNCH_TOKEN_ENV
from appliance.system.cgroup import Cgroup, CgroupTree
from appliance.system.procfs import (
    ProcessEntry,
    descendants,
    environment_of,
    process_entry,
    processes,
    signal_process,
)

__all__ = ["Quarry", "TokenMint", "sweep"]

Listed = Mapping[int, ProcessEntry]
"""All processes at one moment, by pid."""

_ROUNDS = 12
_PAUSE_S = 0.001
"""Between rounds, growing: a killed process needs a moment to end. Twelve rounds take 66 ms at most."""


class TokenMint:
    """Makes launch tokens that tell whose they are: after a crash, the next keeper knows its leftovers.

    Args:
        run_directory: of this hive; one keeper at a time holds it.
    """

    def __init__(self, run_directory: Path) -> None:
        self.mark = hashlib.sha256(os.fsencode(run_directory.absolute())).hexdigest()[:16]

    def token(self) -> str:
        """A fresh secret."""
        return f"{self.mark}.{secrets.token_urlsafe(24)}"

    @property
    def needle(self) -> bytes:
        """How every environment begins its token that was made for this hive."""
        return f"{LAUNCH_TOKEN_ENV}={self.mark}.".encode()


class Quarry:
    """All processes of one node.

    Args:
        pid: main process and leader of the session.
        token: of the launch.
        group: its cgroup, if it has one.
    """

    def __init__(self, pid: int, token: str, group: Cgroup | None) -> None:
        self.pid = pid
        self.group = group
        self._variable = f"{LAUNCH_TOKEN_ENV}={token}".encode()
        self._seen: dict[int, int] = {}  # pid → start time

    def terminate(self, listed: Listed | None = None) -> None:
        """SIGTERM to everybody who can be found now (or in ``listed``); they are remembered for the hunt."""
        for entry in self._find(listed):
            self._seen[entry.pid] = entry.started
            signal_process(entry, signal.SIGTERM)

    def kill(self, listed: Listed | None = None) -> tuple[int, tuple[ProcessEntry, ...]]:
        """SIGKILL to everybody, again and again until nobody is left.

        Args:
            listed: a look at all processes, if there was one since the main process ended: when it shows
                nobody, there is nobody who could have forked since.

        Returns:
            how many were killed, and who still has not ended (stuck in the kernel).
        """
        killed: set[tuple[int, int]] = set()
        left: list[ProcessEntry] = []
        for turn in range(_ROUNDS):
            left = self._find(listed)
            listed = None
            if not left:
                break
            if self.group is not None:
                self.group.kill()
            else:
                _kill_groups(left)
            for entry in left:
                killed.add((entry.pid, entry.started))
                signal_process(entry, signal.SIGKILL)
            select.select([], [], [], _PAUSE_S * turn)
        return len(killed), tuple(left)

    def _find(self, listed: Listed | None = None) -> list[ProcessEntry]:
        keeper = os.getpid()
        if (
            self.group is not None
        ):  # nobody gets out of it, so the machine's other processes are not looked at
            entries = (process_entry(pid) for pid in {self.pid, *self.group.members()})
        else:
            listed = processes() if listed is None else listed
            roots = {self.pid, *(one.pid for one in listed.values() if self._ours(one, keeper))}
            entries = (listed.get(pid) for pid in roots | descendants(listed, roots))
        return [entry for entry in entries if entry is not None and entry.alive and entry.pid != keeper]

    def _ours(self, entry: ProcessEntry, keeper: int) -> bool:
        if entry.session == self.pid or self._seen.get(entry.pid) == entry.started:
            return True
        adopted = entry.parent == keeper and entry.alive
        return adopted and self._variable in environment_of(entry.pid)


def _kill_groups(entries: Iterable[ProcessEntry]) -> None:
    """Kill whole process groups at once: who forks faster than we look is still in its group."""
    own = os.getsid(0)
    for group in {entry.group for entry in entries if entry.session != own and entry.group > 1}:
        with suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def sweep(mint: TokenMint, tree: CgroupTree | None) -> int:
    """End what a keeper of this hive left that was killed; call it while holding the hive's lock.

    Returns:
        how many processes were killed.
    """
    spared = _ancestors()
    killed: set[int] = set()
    groups = [tree.group(unit) for unit in tree.units()] if tree is not None else []
    for group in groups:
        killed.update(group.members())
        group.kill()
    for turn in range(_ROUNDS):
        left = _leftovers(mint.needle, spared)
        if not left:
            break
        _kill_groups(left)
        for entry in left:
            killed.add(entry.pid)
            signal_process(entry, signal.SIGKILL)
        select.select([], [], [], _PAUSE_S * turn)
    if tree is not None:
        for group in groups:
            tree.discard(group)
    return len(killed)


def _leftovers(needle: bytes, spared: Iterable[int]) -> list[ProcessEntry]:
    return [
        entry
        for entry in processes().values()
        if entry.alive
        and entry.pid not in spared
        and any(variable.startswith(needle) for variable in environment_of(entry.pid))
    ]


def _ancestors() -> set[int]:
    """This process and those above it: a keeper may be started from the shell of an old node."""
    found: set[int] = set()
    entry = process_entry(os.getpid())
    while entry is not None and entry.pid not in found:
        found.add(entry.pid)
        entry = process_entry(entry.parent)
    return found
