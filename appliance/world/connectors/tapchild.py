"""One run of a program that nobody here wrote: supervised, limited, and gone when it should be.

Between us and the program stands a guard, a process of ours that adopts whatever the program starts. It
holds one end of a pipe: when the other end closes, because the run is over, was stopped, or this process
was killed, it kills everybody below it and ends. The program has a session of its own, no input, an
environment without our secrets, no way to gain rights, and limits on memory, processor time, descriptors
and file size. If the guard itself is killed, the kernel kills the program.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import trio

from appliance.system.process import (
    become_subreaper,
    children,
    close_descriptors_except,
    forbid_new_privileges,
    set_parent_death_signal,
    set_process_name,
)
from appliance.wire.errors import FluxbeeError, Unavailable

__all__ = ["TapChild", "TapLaunch", "TapLimits", "started"]

_READ_BYTES: Final = 1 << 16
_TAIL_BYTES: Final = 8192
_KILL_S: Final = 5.0
_IDLE_S: Final = 0.5
_NICE: Final = 10
_FILES: Final = 256
_FILE_BYTES: Final = 64 << 20


class TapLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one run may use."""

    timeout_s: float = 900.0
    memory_bytes: int = 256 << 20


class TapLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; ``cwd`` is private to it."""

    argv: tuple[str, ...]
    cwd: Path
    limits: TapLimits

    @property
    def environment(self) -> Mapping[str, str]:
        """The whole of it."""
        place = str(self.cwd)
        path = "/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "HOME": place, "TMPDIR": place, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


class TapChild:
    """A running program as its reader sees it."""

    def __init__(self, output: trio.lowlevel.FdStream, words: trio.lowlevel.FdStream) -> None:
        self._output = output
        self._words = words
        self._tail = bytearray()
        self._cut = False
        self._exit = b""
        self.done = trio.Event()

    async def read(self) -> bytes | None:
        """What it printed next; ``None`` when nothing came for a while, empty at the end."""
        with trio.move_on_after(_IDLE_S):
            return bytes(await self._output.receive_some(_READ_BYTES))
        # If the guard was killed, somebody may hold the pipe that is not found any more.
        return b"" if self.done.is_set() else None

    @property
    def exit(self) -> str:
        """How it ended: ``exit 0``, ``signal 9`` or why it was not started; empty while it runs."""
        return self._exit.decode(errors="replace")

    @property
    def tail(self) -> str:
        """The last of what it said on standard error; a line that was cut is left out."""
        text = bytes(self._tail)
        if self._cut:
            text = text.partition(b"\n")[2]
        return text.decode(errors="replace")

    async def _listen(self) -> None:
        while data := await self._words.receive_some(_READ_BYTES):
            self._tail += data
            if len(self._tail) > _TAIL_BYTES:
                self._cut = True
                del self._tail[:-_TAIL_BYTES]

    async def _await_exit(self, status: trio.lowlevel.FdStream) -> None:
        while data := await status.receive_some(512):
            self._exit += data
        self.done.set()


@asynccontextmanager
async def started(launch: TapLaunch) -> AsyncIterator[TapChild]:
    """Run a program for the block; at its end nobody of it is left, however the block ends.

    Raises:
        Unavailable: no process or descriptors to be had.
    """
    guard, pipes = _fork_guard(launch)
    streams = [trio.lowlevel.FdStream(fd) for fd in (pipes.output, pipes.words, pipes.status)]
    child = TapChild(streams[0], streams[1])
    failure: FluxbeeError | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child._listen)
            nursery.start_soon(child._await_exit, streams[2])
            try:
                yield child
            except FluxbeeError as error:  # a nursery would wrap it
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        os.close(pipes.lifeline)
        for stream in streams:
            with trio.CancelScope(shield=True):
                await stream.aclose()
        await _reap(guard)
    if failure is not None:
        raise failure


async def _reap(guard: int) -> None:
    """Wait for the guard, which is ending; one that does not is killed, and its program by the kernel."""
    fd = os.pidfd_open(guard)
    try:
        with trio.CancelScope(shield=True):
            for last in (False, True):
                with trio.move_on_after(_KILL_S):
                    await trio.lowlevel.wait_readable(fd)
                    break
                if not last:
                    os.kill(guard, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(guard, os.WNOHANG)  # noqa: ASYNC222 - does not wait
    finally:
        os.close(fd)


# --- plumbing ----------------------------------------------------------------------------------------------


class _Pipes:
    """Our ends: output, words (standard error), status, and the lifeline, which only closes."""

    def __init__(self) -> None:
        self._all: list[int] = []
        try:
            self.output, self.output_far = self._pipe()
            self.words, self.words_far = self._pipe()
            self.status, self.status_far = self._pipe()
            self.lifeline_far, self.lifeline = self._pipe()
        except OSError:
            self.close()
            raise

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._all += ends
        return ends

    def close_far(self) -> None:
        for fd in (self.output_far, self.words_far, self.status_far, self.lifeline_far):
            os.close(fd)

    def close(self) -> None:
        for fd in self._all:
            os.close(fd)


def _fork_guard(launch: TapLaunch) -> tuple[int, _Pipes]:
    try:
        pipes = _Pipes()
    except OSError as error:
        raise Unavailable(f"no pipes for a tap: {error.strerror}") from error
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of fork() beside threads. The child makes system calls only, takes no lock
            # of ours and never returns.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _be_the_guard(launch, pipes)
    except OSError as error:
        pipes.close()
        raise Unavailable(f"no process for a tap: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    pipes.close_far()
    return pid, pipes


# --- the guard ---------------------------------------------------------------------------------------------


def _be_the_guard(launch: TapLaunch, pipes: _Pipes) -> NoReturn:
    try:
        gc.disable()
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)  # the event loop must not hear our signals
        os.setsid()
        set_process_name("fluxbee-tap")
        become_subreaper()
        _restore_signals()
        null = os.open(os.devnull, os.O_RDWR)
        for fd, source in ((0, null), (1, pipes.output_far), (2, pipes.words_far)):
            os.dup2(source, fd)
        close_descriptors_except({0, 1, 2, pipes.status_far, pipes.lifeline_far})
        guard = os.getpid()
        tap = os.fork()
        if tap == 0:
            _be_the_tap(launch, pipes.status_far, guard)
        for fd in (1, 2):  # the reader must see the end when the program closes its own
            os.dup2(0, fd)
        _watch(tap, pipes)
    finally:
        os._exit(1)


def _watch(tap: int, pipes: _Pipes) -> None:
    """Until the program ended or nobody wants it any more; then nobody below is left."""
    poller = select.poll()
    exited = os.pidfd_open(tap)
    poller.register(exited, select.POLLIN)
    poller.register(pipes.lifeline_far, select.POLLIN)
    while not poller.poll():
        pass
    # Unreaped, its number belongs to nobody else.
    ended = os.waitid(os.P_PID, tap, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    with suppress(ProcessLookupError):
        os.killpg(tap, signal.SIGKILL)
    _kill_children()
    if ended is not None:
        word = "exit" if ended.si_code == os.CLD_EXITED else "signal"
        with suppress(OSError):
            os.write(pipes.status_far, f"{word} {ended.si_status}".encode())


def _kill_children() -> None:
    """Everybody: whose parent was killed becomes a child of ours."""
    pause_s = 0.0005
    while True:
        for pid in children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def _restore_signals() -> None:
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _be_the_tap(launch: TapLaunch, status: int, guard: int) -> NoReturn:
    step = "prepare"
    try:
        os.setsid()
        set_parent_death_signal(signal.SIGKILL, parent_pid=guard)
        forbid_new_privileges()
        os.nice(_NICE)
        os.umask(0o077)
        step = "limit"
        _limit(launch.limits)
        os.chdir(launch.cwd)
        step = f"execute {launch.argv[0]}"
        os.execve(launch.argv[0], launch.argv, dict(launch.environment))  # noqa: S606 - no shell is the point
    except BaseException as error:  # noqa: BLE001 - the top of a process: the reason goes to the parent
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        with suppress(OSError):
            os.write(status, f"cannot {step}: {reason}. ".encode(errors="replace")[:400])
    finally:
        os._exit(127)


def _limit(limits: TapLimits) -> None:
    for what, wanted in (
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_CPU, int(limits.timeout_s) + 1),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(what, (most, most))
