"""Reads what nodes print: the two files that the keeper writes below ``Paths.node_logs``.

``0.log`` grows and becomes ``1.log`` when it is full; a reader follows the file, not the name, so no line is
read twice and none is lost while it keeps up. Nothing is read while nobody follows. The keeper owns the
files; nothing here writes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

__all__ = ["POLL_S", "LogCursor", "follow", "read_tail"]

POLL_S: Final = 0.25
"""How often a follower looks for more."""

_CURRENT: Final = "0.log"
_OLDER: Final = "1.log"
_BLOCK_BYTES: Final = 65_536
_LOOK_BYTES: Final = 262_144
_MAX_LINES: Final = 10_000

limiter: Final = trio.CapacityLimiter(4)
"""Threads that followers of node logs use together."""


def read_tail(directory: Path, lines: int) -> list[str]:
    """The last lines of a node's log, oldest first. Blocking; the files are small.

    Args:
        directory: of the node, below ``Paths.node_logs``.
        lines: how many at most, 0 to 10000.

    Returns:
        ``2026-11-20T10:11:12.123Z text`` each; empty when the node never printed anything.
    """
    wanted = min(lines, _MAX_LINES)
    if wanted <= 0:
        return []
    found = b""
    with suppress(OSError):
        found = _last_lines(directory / _CURRENT, wanted)
    missing = wanted - found.count(b"\n")
    if missing > 0:
        with suppress(OSError):
            found = _last_lines(directory / _OLDER, missing) + found
    return _texts(found)[-wanted:]


async def follow(directory: Path) -> AsyncIterator[str]:
    """Lines as they come from now on, until the iterator is closed or cancelled.

    Looks at most four times a second, in a thread. Survives rotation and a directory that comes later;
    whoever is slower than two whole files loses what was in between.

    Args:
        directory: of the node, below ``Paths.node_logs``.
    """
    cursor = LogCursor(directory)
    await trio.to_thread.run_sync(cursor.to_end, limiter=limiter)
    while True:
        for line in await trio.to_thread.run_sync(cursor.read, limiter=limiter):
            yield line
        if not cursor.behind:
            await trio.sleep(POLL_S)


class LogCursor:
    """A place in a ring that moves with the ring. Blocking; for one reader.

    Args:
        directory: of the node.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1  # inode of the file that is being read
        self._offset = 0
        self._partial = b""
        self.behind = False
        """Whether there is more to read at once."""

    def to_end(self) -> None:
        """Skip everything that is there."""
        with suppress(OSError):
            status = (self._directory / _CURRENT).stat()
            self._file, self._offset = status.st_ino, status.st_size

    def read(self) -> list[str]:
        """Whole lines since the last call, at most 256 KiB; empty when there is nothing new."""
        self.behind = False
        try:
            fd = self._open()
        except OSError:
            return []
        try:
            data = os.pread(fd, _LOOK_BYTES, self._offset)
        except OSError:
            return []
        finally:
            os.close(fd)
        self._offset += len(data)
        self.behind = self.behind or len(data) == _LOOK_BYTES
        whole, newline, rest = (self._partial + data).rpartition(b"\n")
        self._partial = rest[-_BLOCK_BYTES:]
        return _texts(whole + newline)

    def _open(self) -> int:
        """The file that is being read, else the next one."""
        fd = os.open(self._directory / _CURRENT, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        status = os.fstat(fd)
        if status.st_ino == self._file:
            if status.st_size < self._offset:  # emptied in place, since it could not be moved
                self._begin(self._file)
            return fd
        older = self._rest_of_older()
        if older is not None:
            os.close(fd)
            self.behind = True  # the newer one comes next
            return older
        self._begin(status.st_ino)
        return fd

    def _rest_of_older(self) -> int | None:
        """The file that was being read, if it became the older one and holds more."""
        if self._file < 0:
            return None
        try:
            fd = os.open(self._directory / _OLDER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        status = os.fstat(fd)
        if status.st_ino == self._file and status.st_size > self._offset:
            return fd
        os.close(fd)
        return None

    def _begin(self, file: int) -> None:
        self._file, self._offset, self._partial = file, 0, b""


def _last_lines(path: Path, lines: int) -> bytes:
    """The end of a file with at most so many whole lines."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        position = os.fstat(fd).st_size
        found = b""
        while position > 0 and found.count(b"\n") <= lines:
            size = min(_BLOCK_BYTES, position)
            position -= size
            found = os.pread(fd, size, position) + found
    finally:
        os.close(fd)
    found = found[: found.rfind(b"\n") + 1]  # what is being written just now is not a line yet
    kept = found.split(b"\n")[-lines - 1 :]
    return b"\n".join(kept)


def _texts(data: bytes) -> list[str]:
    return [line.decode("utf-8", "replace") for line in data.split(b"\n")[:-1]]
