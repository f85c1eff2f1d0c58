"""A subtree of cgroup v2 of our own: one group per unit, with limits, killed as a whole.

Groups alone (without controllers) are worth having: nobody leaves one by ``fork`` or ``setsid``, so
``cgroup.kill`` ends everything that a unit ever started. Limits need controllers, which the kernel hands
down only from a group without processes of its own; so a process that is alone in its group moves itself one
step down. No policy: which limits are wanted, and what happens without, is decided by the caller.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from appliance.system.procfs import cgroup_of

__all__ = ["CONTROLLERS", "Cgroup", "CgroupTree", "cgroup_mount"]

CONTROLLERS = ("cpu", "memory", "pids")
_LEAF = "fluxbee-self"


class Cgroup:
    """One group of processes.

    Args:
        folder: its directory.
        path: the same as ``/proc/<pid>/cgroup`` shows it.
    """

    def __init__(self, folder: Path, path: str) -> None:
        self.folder = folder
        self.path = path

    def add(self, pid: int) -> None:
        """Move a process into the group; what it forks from now on is born there. Raises ``OSError``."""
        _write(self.folder / "cgroup.procs", str(pid))

    def kill(self) -> int:
        """SIGKILL everybody in the group, forks included; returns how many were found in it."""
        found = self.members()
        if found:
            try:
                _write(self.folder / "cgroup.kill", "1")
            except OSError:  # Linux before 5.14: the caller hunts its processes
                return 0
        return len(found)

    def members(self) -> tuple[int, ...]:
        """Pids in the group now, the ones below it included."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.folder):
            with suppress(OSError, ValueError):
                found += map(int, (Path(folder) / "cgroup.procs").read_text().split())
        return tuple(found)

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed because the group had used up its memory."""
        try:
            words = (self.folder / "memory.events").read_text().split()
        except OSError:
            return 0
        values = dict(zip(words[::2], words[1::2], strict=False))
        return int(values.get("oom_kill", "0"))

    def remove(self) -> bool:
        """Remove the group and what is below; ``False`` while somebody is in it."""
        for folder, _, _ in os.walk(self.folder, topdown=False):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


class CgroupTree:
    """Our folder below the group that this process was started in.

    Without controllers the folder exists only while there are groups in it, so a process that is killed
    leaves none behind in a tree that nobody clears.

    Args:
        folder: its directory.
        path: the same as ``/proc/<pid>/cgroup`` shows it.
        controllers: which limits groups in it can have.
    """

    def __init__(self, folder: Path, path: str, controllers: Iterable[str]) -> None:
        self.folder = folder
        self.path = path
        self.controllers = frozenset(controllers)

    @classmethod
    def open(cls, name: str, *, mount: Path | None = None, own: str | None = None) -> Self | None:
        """Make the folder ``name`` below our own group and get what controllers there are.

        Args:
            name: of the folder, one per hive on a machine.
            mount: where cgroup v2 is mounted; found when not given.
            own: path of our own group; found when not given.

        Returns:
            ``None`` when there is no such tree or it may not be written.
        """
        mount = mount or cgroup_mount()
        own = cgroup_of("self") if own is None else own
        if mount is None or not own.startswith("/"):
            return None
        home = mount / own.strip("/")
        if home.name == _LEAF:  # a keeper before us in this very process group moved down
            home = home.parent
        folder = home / name
        try:
            folder.mkdir(exist_ok=True)
            (folder / "cgroup.procs").read_bytes()  # a mount that hides the tree has no such file
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            return None
        _hand_down(home, folder)
        tree = cls(folder, f"/{folder.relative_to(mount)}", _enabled(folder))
        tree._tidy()
        return tree

    def create(
        self,
        unit: str,
        *,
        memory_bytes: int | None = None,
        pids: int | None = None,
        cpu_weight: int | None = None,
    ) -> Cgroup:
        """Make the group of a unit with the limits that its controllers allow.

        Raises:
            OSError: the group or a limit cannot be set.
        """
        group = self.group(unit)
        group.folder.mkdir(parents=True, exist_ok=True)
        if "memory" in self.controllers:
            limit = "max" if memory_bytes is None else str(memory_bytes)
            _write(group.folder / "memory.max", limit)
            with suppress(OSError):  # without swap, and before Linux 4.19, there are no such files
                _write(group.folder / "memory.swap.max", "max" if memory_bytes is None else "0")
            with suppress(OSError):
                _write(group.folder / "memory.oom.group", "1")
        if "pids" in self.controllers:
            _write(group.folder / "pids.max", "max" if pids is None else str(pids))
        if "cpu" in self.controllers:
            _write(group.folder / "cpu.weight", str(cpu_weight or 100))
        return group

    def group(self, unit: str) -> Cgroup:
        """The group of a unit, whether it exists or not."""
        return Cgroup(self.folder / unit, f"{self.path.rstrip('/')}/{unit}")

    def discard(self, group: Cgroup) -> bool:
        """Remove a group; ``False`` while somebody is in it."""
        gone = group.remove()
        self._tidy()
        return gone

    def units(self) -> tuple[str, ...]:
        """Names of the groups that exist."""
        with suppress(OSError):
            return tuple(sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir()))
        return ()

    def close(self) -> None:
        """Remove the folder if it is empty."""
        with suppress(OSError):
            self.folder.rmdir()

    def _tidy(self) -> None:
        if not self.controllers:
            self.close()


def cgroup_mount(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path | None:
    """Where cgroup v2 is mounted, also beside version 1; ``None`` when it is not."""
    with suppress(OSError):
        for line in mountinfo.read_text(errors="replace").splitlines():
            head, _, tail = line.partition(" - ")
            if tail.startswith("cgroup2 "):
                return Path(head.split()[4].replace("\\040", " "))
    return None


def _hand_down(home: Path, folder: Path) -> None:
    """Enable controllers for our folder and for the groups in it, as far as the kernel lets us."""
    wanted = _words(home / "cgroup.controllers") & set(CONTROLLERS)
    missing = wanted - _words(home / "cgroup.subtree_control")
    if missing and _words(home / "cgroup.procs") == {str(os.getpid())}:
        leaf = home / _LEAF
        with suppress(OSError):
            leaf.mkdir(exist_ok=True)
            _write(leaf / "cgroup.procs", str(os.getpid()))
    for control in (home / "cgroup.subtree_control", folder / "cgroup.subtree_control"):
        for controller in sorted(wanted - _words(control)):
            with suppress(OSError):  # somebody else is in the group: groups without this limit, then
                _write(control, f"+{controller}")


def _enabled(folder: Path) -> set[str]:
    return _words(folder / "cgroup.subtree_control") & set(CONTROLLERS)


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _write(path: Path, text: str) -> None:
    # No O_CREAT: on a real tree every control file exists, and what is not there cannot be asked for.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
