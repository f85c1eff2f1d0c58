"""Every file call that durability depends on, behind one small seam.

``Disk`` lists exactly the operations a journal needs; ``RealDisk`` performs them on the operating system.
Tests put a disk there that fails the n-th call or loses what was never synced. Invariants: ``pwrite``
writes everything or raises; with ``sync=True`` it returns only after the bytes are on the medium; errors
are plain ``OSError`` (the caller maps them). Nothing here retries a failed sync, caches or buffers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["Buffer", "Disk", "RealDisk"]

Buffer = bytes | bytearray | memoryview
"""What ``pwrite`` accepts."""

_IOV_MAX = 1024
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_RWF_DSYNC: int = getattr(os, "RWF_DSYNC", 0)


class Disk(Protocol):
    """The file calls of a journal. All block; all raise ``OSError``; descriptors are small integers."""

    def makedirs(self, directory: Path) -> None:
        """Create ``directory`` and its parents; an existing one is fine."""

    def names(self, directory: Path) -> list[str]:
        """Names in ``directory``, sorted."""

    def lock(self, path: Path) -> int:
        """Take the exclusive lock file ``path``; the lock lives as long as the descriptor.

        Raises:
            BlockingIOError: another process (or another open in this one) holds it.
        """

    def open_read(self, path: Path) -> int:
        """Open an existing file for reading."""

    def open_write(self, path: Path) -> int:
        """Open an existing file for reading and writing."""

    def create(self, path: Path) -> int:
        """Create a new file for reading and writing; ``FileExistsError`` if it is there."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""

    def size(self, fd: int) -> int:
        """Length of the file in bytes."""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; shorter only at the end of the file."""

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int, *, sync: bool) -> int:
        """Write all buffers one after the other at ``offset``; returns the number of bytes.

        With ``sync`` these bytes, and the file length that makes them reachable, are on the medium at return.
        """

    def sync(self, fd: int) -> None:
        """Bring everything written to ``fd`` onto the medium (``fdatasync``)."""

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def forget(self, fd: int) -> None:
        """Drop clean cached pages, so that the next read comes from the medium; a hint."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target`` atomically."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def sync_dir(self, directory: Path) -> None:
        """Bring created, renamed and removed names of ``directory`` onto the medium."""


_LOCK_PATIENCE_S = 0.5
_LOCK_LOOK_S = 0.01


def _take(fd: int) -> None:
    """Lock ``fd``. The lock of a process that was killed is sometimes still held a moment after its end."""
    give_up_at = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                raise
        else:
            return
        time.sleep(_LOCK_LOOK_S)


class RealDisk:
    """The operating system's files.

    A synced write is one system call, ``pwritev2(RWF_DSYNC)``: it releases the interpreter lock once, for
    the copy and the wait together (``design.md §4``). Where the kernel or the file system does not know
    the flag it is remembered, and ``pwritev`` + ``fdatasync`` do the same in two calls.

    Args:
        dsync: False starts with the two-call form.
        mode: permission bits of created files and lock files.
    """

    def __init__(self, *, dsync: bool = True, mode: int = 0o640) -> None:
        self.dsync = dsync and _RWF_DSYNC != 0
        self._mode = mode

    def makedirs(self, directory: Path) -> None:
        """Create ``directory`` and its parents; the name of each new one is synced in its parent."""
        missing = []
        at = directory
        while not at.is_dir():
            missing.append(at)
            at = at.parent
        for path in reversed(missing):
            path.mkdir(mode=0o750, exist_ok=True)
            self.sync_dir(path.parent)

    def names(self, directory: Path) -> list[str]:
        """Names in ``directory``, sorted."""
        return sorted(os.listdir(directory))

    def lock(self, path: Path) -> int:
        """Take an exclusive ``flock`` on ``path``; the kernel drops it when the process ends."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode)
        except OSError as exc:
            if exc.errno != errno.EROFS:
                raise
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a read-only mount still knows who was first
        try:
            _take(fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def open_read(self, path: Path) -> int:
        """Open an existing file for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def open_write(self, path: Path) -> int:
        """Open an existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def create(self, path: Path) -> int:
        """Create a new file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Length of the file in bytes."""
        return os.fstat(fd).st_size

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; shorter only at the end of the file."""
        data = os.pread(fd, size, offset)
        if len(data) in (0, size):
            return data
        parts = [data]
        got = len(data)
        while got < size:
            data = os.pread(fd, size - got, offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int, *, sync: bool) -> int:
        """Write everything; a short write goes on behind what was taken, until all is written or it fails."""
        if len(buffers) > _IOV_MAX:
            buffers = [b"".join(buffers)]
        total = sum(map(len, buffers))
        done = self._pwritev(fd, buffers, offset, sync)
        while done < total:
            rest = memoryview(b"".join(buffers))[done:]
            taken = self._pwritev(fd, [rest], offset + done, sync)
            if taken == 0:
                raise OSError(errno.EIO, "the device takes no bytes")
            done += taken
        return total

    def _pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, sync: bool) -> int:
        if sync and self.dsync:
            try:
                return os.pwritev(fd, buffers, offset, _RWF_DSYNC)
            except OSError as exc:
                if exc.errno not in _UNSUPPORTED:
                    raise
            taken = os.pwritev(fd, buffers, offset)  # a bad argument fails here again and is not hidden
            self.dsync = False
        else:
            taken = os.pwritev(fd, buffers, offset)
        if sync:
            os.fdatasync(fd)
        return taken

    def sync(self, fd: int) -> None:
        """``fdatasync``: the data, and the metadata without which it could not be read."""
        os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(fd, size)

    def forget(self, fd: int) -> None:
        """``posix_fadvise(DONTNEED)`` over the whole file."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target`` atomically."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def sync_dir(self, directory: Path) -> None:
        """``fsync`` on the directory."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
