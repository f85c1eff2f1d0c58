"""From a launch to an executed program, or to the honest reason why not.

The child waits for a word before it executes: its parent puts it into its cgroup and has the router told
whose the name is first. What fails in the child comes back over a pipe that closes on ``exec``, so a
missing program is a refusal and not an exit. The keeper has one thread, so the child may run Python.
"""

from __future__ import annotations

import os
import pwd
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

import msgspec

from appliance.keeper.child import ALL_SIGNALS
from appliance.keeper.nodes_protocol import LAUNCH_FAILED, LAUNCH_TOKEN_ENV, NodeLaunch
from appliance.system.process import close_descriptors_except, set_parent_death_signal
from appliance.wire.errors import Invalid, Unavailable

__all__ = ["Credentials", "Launched", "child_environment", "credentials_of", "launch_process"]

_EXEC_TIMEOUT_S = 5.0
"""``execve`` reads one file; a medium that takes longer for that is given up, since planes wait meanwhile."""
_REAP_TIMEOUT_S = 0.5
_EXIT_NOT_EXECUTED = 127
_BUNDLE_PREFIXES = ("_MEI", "_PYI_", "PYINSTALLER_")
_LIBRARY_PATH = "LD_LIBRARY_PATH"


class Credentials(msgspec.Struct, frozen=True):
    """Whose rights a process gets."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class Launched(msgspec.Struct, frozen=True):
    """A process that executes its program; ``output`` is the non-blocking end of its stdout and stderr."""

    pid: int
    output: int


def credentials_of(user: str) -> Credentials | None:
    """The ids of a user, supplementary groups included; ``None`` for no user.

    Raises:
        Invalid: there is no such user here (``LAUNCH_FAILED``).
    """
    if not user:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Invalid(f"there is no user {user} here", code=LAUNCH_FAILED, field="user") from None
    return Credentials(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(user, entry.pw_gid)))


def child_environment(
    wanted: Mapping[str, str], token: str, own: Mapping[str, str], *, frozen: bool = hasattr(sys, "_MEIPASS")
) -> dict[str, str]:
    """The environment of a node: as wanted, with the launch token, without what a bundle set for itself.

    Args:
        wanted: of the launch.
        token: the launch's secret.
        own: the keeper's own environment; a bundle keeps the library path from before in ``…_ORIG``.
        frozen: whether this program is such a bundle.
    """
    environment = {name: value for name, value in wanted.items() if not name.startswith(_BUNDLE_PREFIXES)}
    if frozen:
        original = environment.pop(f"{_LIBRARY_PATH}_ORIG", own.get(f"{_LIBRARY_PATH}_ORIG"))
        if environment.get(_LIBRARY_PATH) == own.get(_LIBRARY_PATH):
            environment.pop(_LIBRARY_PATH, None)
            if original is not None:
                environment[_LIBRARY_PATH] = original
    environment[LAUNCH_TOKEN_ENV] = token
    return environment


def launch_process(
    launch: NodeLaunch,
    environment: Mapping[str, str],
    *,
    credentials: Credentials | None,
    data_limit_bytes: int | None,
    before_exec: Callable[[int], None],
) -> Launched:
    """Fork and execute.

    Args:
        launch: checked.
        environment: the whole of it.
        credentials: whose rights; ``None`` keeps those of this process.
        data_limit_bytes: ``RLIMIT_DATA``, when nothing better limits memory.
        before_exec: gets the pid of the waiting child; if it raises, the child is ended.

    Raises:
        Invalid: it was not executed (``LAUNCH_FAILED``); the message has the step and the system's reason.
        Unavailable: no process or descriptor to be had, or the medium takes too long.
    """
    try:
        plumbing = _Plumbing()
    except OSError as error:
        raise Unavailable(f"no pipes for {launch.name}: {error.strerror}") from error
    keeper_pid = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _become_node(launch, environment, credentials, data_limit_bytes, plumbing, keeper_pid)
    except OSError as error:
        plumbing.close()
        raise Unavailable(f"no process for {launch.name}: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        plumbing.close_far_ends()
        before_exec(pid)
        problem = plumbing.release()
        if problem is not None:
            raise problem
    except BaseException:
        _end_child(pid)
        plumbing.close()
        raise
    return Launched(pid, plumbing.take_output())


def _end_child(pid: int) -> None:
    """Kill and reap. One that hangs on its medium is left to the keeper's loop, which reaps whoever ends."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _REAP_TIMEOUT_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
        select.select([], [], [], 0.002)


class _Plumbing:
    """Three pipes: output to us, the word to go to the child, what went wrong to us."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        try:
            self.output, self.output_far = self._pipe()
            self.go_far, self.go = self._pipe()
            self.wrong, self.wrong_far = self._pipe()
        except OSError:
            self.close()
            raise

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._open.update(ends)
        return ends

    def close_far_ends(self) -> None:
        """In the parent: let go of the child's ends."""
        for fd in (self.output_far, self.go_far, self.wrong_far):
            os.close(fd)
            self._open.discard(fd)

    def release(self) -> Invalid | Unavailable | None:
        """In the parent: let the child execute; the refusal when it could not."""
        with suppress(BrokenPipeError):  # killed already: its exit tells
            os.write(self.go, b"g")
        poller = select.poll()
        poller.register(self.wrong, select.POLLIN)
        if not poller.poll(_EXEC_TIMEOUT_S * 1000):
            return Unavailable(f"the program was not executed within {_EXEC_TIMEOUT_S:g} s")
        text = os.read(self.wrong, 4096).decode(errors="replace")
        return Invalid(text, code=LAUNCH_FAILED, field="launch") if text else None

    def take_output(self) -> int:
        """The read end of the output; everything else is closed."""
        os.set_blocking(self.output, False)
        self._open.discard(self.output)
        self.close()
        return self.output

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())


def _become_node(
    launch: NodeLaunch,
    environment: Mapping[str, str],
    credentials: Credentials | None,
    data_limit_bytes: int | None,
    plumbing: _Plumbing,
    keeper_pid: int,
) -> NoReturn:
    step = "prepare"
    try:
        # Own session first: it is what the router and the hunt for stragglers know a node by.
        os.setsid()
        set_parent_death_signal(signal.SIGKILL, parent_pid=keeper_pid)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(plumbing.output_far, 1)
        os.dup2(plumbing.output_far, 2)
        close_descriptors_except({0, 1, 2, plumbing.go_far, plumbing.wrong_far})
        _default_signals()
        if data_limit_bytes is not None:
            step = "limit memory"
            _limit_data(data_limit_bytes)
        if not os.read(plumbing.go_far, 1):
            os._exit(_EXIT_NOT_EXECUTED)
        if credentials is not None:
            step = f"become user {launch.user}"
            os.setgroups(credentials.groups)
            os.setresgid(credentials.gid, credentials.gid, credentials.gid)
            os.setresuid(credentials.uid, credentials.uid, credentials.uid)
            # A change of ids clears the wish.
            set_parent_death_signal(signal.SIGKILL, parent_pid=keeper_pid)
        step = f"enter {launch.cwd}"
        os.chdir(launch.cwd)
        step = f"execute {launch.argv[0]}"
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL_SIGNALS)
        os.execve(launch.argv[0], launch.argv, environment)  # noqa: S606 - no shell is the point
    except BaseException as error:  # noqa: BLE001 - the top of a process: the reason goes to the parent
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        with suppress(OSError):
            os.write(plumbing.wrong_far, f"cannot {step}: {reason}"[:1000].encode(errors="replace"))
    finally:
        os._exit(_EXIT_NOT_EXECUTED)


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in ALL_SIGNALS - {signal.SIGKILL, signal.SIGSTOP}:
        # Python ignores SIGPIPE and SIGXFSZ for itself; programs expect the usual.
        with suppress(OSError, ValueError):
            signal.signal(signum, signal.SIG_DFL)


def _limit_data(limit_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, wanted))
