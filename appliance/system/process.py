"""What a parent of processes asks of Linux: names, death signals, adoption, descriptors, exits.

Thin calls without policy; :mod:`appliance.keeper` decides. Exits are looked at first (``next_exited``) and
reaped second (``reap``): between the two the pid, and the process group of the same number, cannot be
given to anybody else, so signals sent then hit nobody else.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

__all__ = [
    "ProcessExit",
    "become_subreaper",
    "children",
    "close_descriptors_except",
    "ensure_stdio",
    "forbid_new_privileges",
    "next_exited",
    "open_descriptors",
    "process_name",
    "reap",
    "set_parent_death_signal",
    "set_process_name",
    "signal_group",
    "thread_count",
]

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_NAME_LIMIT_BYTES = 15  # TASK_COMM_LEN is 16 with its closing zero

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.prctl.restype = ctypes.c_int


class ProcessExit(msgspec.Struct, frozen=True):
    """How a process ended: by an exit code, or by a signal (then ``code`` is ``None``)."""

    code: int | None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit {self.code}"
        try:
            return signal.Signals(self.signal).name
        except ValueError:  # real-time signals have numbers only
            return f"signal {self.signal}"


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def set_process_name(name: str) -> None:
    """Name this process as ``ps`` and ``top`` show it; the kernel keeps the first 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:_NAME_LIMIT_BYTES])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def process_name(pid: int | None = None) -> str:
    """Short name of a process (``/proc/<pid>/comm``), of this one without a pid."""
    return Path(f"/proc/{pid or 'self'}/comm").read_text().removesuffix("\n")


def become_subreaper() -> None:
    """Adopt orphans: a descendant whose parent dies becomes a child of this process, not of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(signum: int, *, parent_pid: int) -> None:
    """Have the kernel send ``signum`` to this process when the thread that forked it ends.

    A change of uid or gid clears it: call again after dropping privileges.

    Args:
        signum: the signal, normally SIGKILL.
        parent_pid: who the parent should be.

    Raises:
        ProcessLookupError: the parent had ended before the kernel knew of the wish.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent_pid:
        raise ProcessLookupError(f"parent {parent_pid} ended before its child was ready")


def forbid_new_privileges() -> None:
    """No program that this process executes from now on gets more rights by a set-id bit."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def thread_count() -> int:
    """Threads of this process, those of C libraries included. Only a process with one may fork safely."""
    return len(os.listdir("/proc/self/task"))


def children(pid: int | None = None) -> tuple[int, ...]:
    """Pids of the living and the not yet reaped children of a process, of this one without a pid."""
    parent = os.getpid() if pid is None else pid
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            stat = Path(f"/proc/{entry}/stat").read_bytes()
            # pid (name) state ppid …; the name may hold spaces and brackets, so cut behind the last one
            if int(stat[stat.rindex(b")") + 1 :].split()[1]) == parent:
                found.append(int(entry))
    return tuple(found)


def open_descriptors() -> frozenset[int]:
    """Numbers of all open file descriptors of this process."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}
    # The listing itself needs one descriptor, which is closed by now.
    return frozenset(fd for fd in listed if _is_open(fd))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def close_descriptors_except(keep: Iterable[int]) -> int:
    """Close every descriptor that is not in ``keep``; returns how many were closed.

    Python objects that own a closed descriptor must not be used nor finalised afterwards: the number may
    belong to somebody else by then.
    """
    closed = 0
    for fd in open_descriptors().difference(keep):
        os.close(fd)
        closed += 1
    return closed


def ensure_stdio() -> int:
    """Open what is closed among descriptors 0, 1 and 2 on ``/dev/null``; returns how many were.

    Else the next file or socket to be opened would become somebody's standard output.
    """
    opened = 0
    for fd in (0, 1, 2):
        if not _is_open(fd):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
            opened += 1
    return opened


def next_exited() -> int | None:
    """Pid of some child that has ended and waits to be reaped, or ``None``. It stays unreaped."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return info.si_pid if info is not None else None


def reap(pid: int) -> ProcessExit | None:
    """Take the exit of a child that has ended; ``None`` while it still runs.

    Raises:
        ChildProcessError: ``pid`` is not a child of this process.
    """
    reaped, status = os.waitpid(pid, os.WNOHANG)
    if reaped == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return ProcessExit(code) if code >= 0 else ProcessExit(None, -code)


def signal_group(group: int, signum: int) -> bool:
    """Send a signal to a whole process group; ``False`` when nobody is in it.

    Raises:
        ValueError: ``group`` is 1 or less; ``kill`` would read that as "everybody".
    """
    if group <= 1:
        raise ValueError(f"not a process group of ours: {group}")
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    return True
