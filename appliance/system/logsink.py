"""Where log lines go: a file descriptor that must never hold up the one who logs.

A router that writes to a pipe nobody reads would stand still for ever, so no write here may block. Setting
O_NONBLOCK on stderr itself is no way: the flag belongs to the open file, which is shared with the shell, the
other planes and every node. Instead, by kind of descriptor:

* socket (journald): ``send(MSG_DONTWAIT)``, non-blocking for that one call;
* pipe or terminal: the same object opened once more through ``/proc/self/fd``, which gives an open file of
  our own that may be O_NONBLOCK;
* regular file: a plain write; no reader can stop it;
* where opening again is not allowed: a write of at most PIPE_BUF bytes after ``poll`` said that it fits. Two
  writers that pass the same poll can still meet in the last free page; this is the one case left.

What does not fit now waits in a bounded backlog that every later line tries to drain first; beyond the bound
the newest lines are dropped and counted. There is no thread: the keeper forks, and a writer thread beside a
busy loop waits milliseconds for the GIL (``design.md §4``).
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

__all__ = ["BACKLOG_BYTES", "ListSink", "Sink", "SinkStatistics", "StreamSink"]

BACKLOG_BYTES = 256 * 1024
"""Most bytes of lines that wait for a slow reader."""

_PIPE_BUF = select.PIPE_BUF


class SinkStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since start: lines and bytes written, lines dropped, writes that failed, bytes waiting."""

    written_lines: int
    written_bytes: int
    dropped_lines: int
    failed_writes: int
    backlog_bytes: int


class Sink:
    """What a logger needs: take one line, never block, never raise."""

    def write(self, line: bytes) -> None:
        """Take one line, with its line feed."""
        raise AssertionError("a sink says how it writes")

    def take_dropped(self) -> int:
        """Lines dropped since the last call, once there is room to tell it; else 0."""
        return 0


class StreamSink(Sink):
    """A sink over a file descriptor, by default stderr.

    Args:
        fd: the descriptor; it stays the caller's.
        backlog_bytes: most bytes that wait for a slow reader.
    """

    def __init__(self, fd: int = 2, *, backlog_bytes: int = BACKLOG_BYTES) -> None:
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._limit_bytes = backlog_bytes
        self._written_lines = self._written_bytes = self._dropped_lines = self._failed_writes = 0
        self._untold = 0
        self._lock = threading.RLock()  # a signal handler may log while its own thread is in here
        self._fd = fd
        self._own_fd: int | None = None
        self._socket: socket.socket | None = None
        self._put = self._open(fd)

    def write(self, line: bytes) -> None:
        """Write ``line`` now, or let it wait, or drop it."""
        with self._lock:
            if self._drain():
                self._hold(self._put_all(line))
            elif self._backlog_bytes + len(line) <= self._limit_bytes:
                self._backlog.append(line)
                self._backlog_bytes += len(line)
            else:
                self._dropped_lines += 1
                self._untold += 1

    def flush(self, timeout_s: float = 0.0) -> bool:
        """Write what waits, as far as the reader takes it within ``timeout_s``; whether nothing is left."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while True:
            with self._lock:
                if self._drain():
                    return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            poll.poll(left_s * 1000)

    def take_dropped(self) -> int:
        """Lines dropped since the last call, once nothing waits any more."""
        with self._lock:
            if self._backlog or not self._untold:
                return 0
            count, self._untold = self._untold, 0
            return count

    def statistics(self) -> SinkStatistics:
        """Counts since start."""
        with self._lock:
            return SinkStatistics(
                written_lines=self._written_lines,
                written_bytes=self._written_bytes,
                dropped_lines=self._dropped_lines,
                failed_writes=self._failed_writes,
                backlog_bytes=self._backlog_bytes,
            )

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's to write, and its lock may be held by nobody."""
        self._lock = threading.RLock()
        self._backlog.clear()
        self._backlog_bytes = self._untold = 0

    def close(self) -> None:
        """Give back what was opened here; later lines are dropped."""
        with self._lock:
            self._put = _closed
            if self._socket is not None:
                self._socket.close()
            if self._own_fd is not None:
                os.close(self._own_fd)
                self._own_fd = None

    def _open(self, fd: int) -> Callable[[bytes], int]:
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            return _closed
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            return self._send
        if stat.S_ISREG(mode):
            return lambda data: os.write(fd, data)
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            own = self._own_fd = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            return lambda data: _write_if_it_fits(fd, data)
        return lambda data: os.write(own, data)

    def _send(self, data: bytes) -> int:
        assert self._socket is not None
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _drain(self) -> bool:
        """Write what waits; False when something still does."""
        while self._backlog:
            line = self._backlog.popleft()
            self._backlog_bytes -= len(line)
            rest = self._put_all(line)
            if rest:
                self._hold(rest)
                return False
        return True

    def _hold(self, rest: bytes) -> None:
        if rest:
            self._backlog.appendleft(rest)
            self._backlog_bytes += len(rest)

    def _put_all(self, line: bytes) -> bytes:
        """Write a line as far as it goes now and return the rest."""
        while line:
            try:
                count = self._put(line)
            except BlockingIOError:
                return line
            except OSError:
                self._failed_writes += 1  # reader gone, disk full: the line is lost, and counted
                return b""
            if count == 0:
                return line
            self._written_bytes += count
            line = line[count:]
        self._written_lines += 1
        return b""


class ListSink(Sink):
    """A sink that keeps its lines; for tests."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        """Keep ``line``."""
        self.lines.append(line)


def _closed(data: bytes) -> int:
    raise OSError("the log's descriptor is closed")


def _write_if_it_fits(fd: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        return 0
    return os.write(fd, data[:_PIPE_BUF])
