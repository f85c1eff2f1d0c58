"""Disks that go wrong on purpose: one that fails the n-th call, one that loses power.

``FaultDisk`` wraps any disk and answers chosen calls with ENOSPC, EROFS or EIO. ``CrashDisk`` keeps files in
memory together with what the medium holds: ``after_power_cut`` gives the disk that the next boot finds, where
every sector that was not synced is old or new by chance, writes are torn, and names that were not synced
may be missing. Both are deterministic: the same seed gives the same disk.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from appliance.system.disk import Buffer, Disk

__all__ = ["CHANGING_CALLS", "CrashDisk", "FaultDisk"]

SECTOR = 512
CHANGING_CALLS = frozenset(
    {"makedirs", "lock", "create", "open_write", "pwrite", "sync", "truncate", "rename", "unlink", "sync_dir"}
)
"""Calls that a full, read-only or failing device refuses."""

T = TypeVar("T")


class FaultDisk:
    """A disk that fails on command.

    Args:
        inner: the disk that does the work.
        fail_at: index of the first changing call that fails, counted from 0; None fails none.
        error: the errno it fails with.
        sticky: whether all later changing calls fail as well, until ``heal``.
        only: which calls count and fail; default all changing ones.
        part: share of the bytes that a failing ``pwrite`` still writes.
    """

    def __init__(
        self,
        inner: Disk,
        *,
        fail_at: int | None = None,
        error: int = errno.ENOSPC,
        sticky: bool = False,
        only: frozenset[str] = CHANGING_CALLS,
        part: float = 0.0,
    ) -> None:
        self.calls: list[str] = []
        self.failed: list[str] = []
        self.fail_at = fail_at
        self.error = error
        self.sticky = sticky
        self._inner = inner
        self._only = only
        self._part = part
        self._guard = threading.Lock()

    def heal(self) -> None:
        """Fail no more."""
        self.fail_at = None

    def _refuses(self, call: str) -> bool:
        if call not in self._only:
            return False
        with self._guard:
            index = len(self.calls)
            self.calls.append(call)
            at = self.fail_at
            refuses = at is not None and (index == at or (self.sticky and index > at))
            if refuses:
                self.failed.append(call)
        return refuses

    def _pass(self, call: str, work: Callable[[], T]) -> T:
        if self._refuses(call):
            raise OSError(self.error, os.strerror(self.error))
        return work()

    def makedirs(self, directory: Path) -> None:
        """As the inner disk, or the fault; so are all the others."""
        self._pass("makedirs", lambda: self._inner.makedirs(directory))

    def names(self, directory: Path) -> list[str]:
        """See ``Disk``."""
        return self._inner.names(directory)

    def lock(self, path: Path) -> int:
        """See ``Disk``."""
        return self._pass("lock", lambda: self._inner.lock(path))

    def open_read(self, path: Path) -> int:
        """See ``Disk``."""
        return self._pass("open_read", lambda: self._inner.open_read(path))

    def open_write(self, path: Path) -> int:
        """See ``Disk``."""
        return self._pass("open_write", lambda: self._inner.open_write(path))

    def create(self, path: Path) -> int:
        """See ``Disk``."""
        return self._pass("create", lambda: self._inner.create(path))

    def close(self, fd: int) -> None:
        """See ``Disk``."""
        self._inner.close(fd)

    def size(self, fd: int) -> int:
        """See ``Disk``."""
        return self._inner.size(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See ``Disk``."""
        return self._pass("pread", lambda: self._inner.pread(fd, size, offset))

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int, *, sync: bool) -> int:
        """See ``Disk``; a failing call may write ``part`` of its bytes before, as a full device does."""
        if self._refuses("pwrite"):
            data = b"".join(buffers)
            kept = data[: int(len(data) * self._part)]
            if kept:
                self._inner.pwrite(fd, [kept], offset, sync=False)
            raise OSError(self.error, os.strerror(self.error))
        return self._inner.pwrite(fd, buffers, offset, sync=sync)

    def sync(self, fd: int) -> None:
        """See ``Disk``."""
        self._pass("sync", lambda: self._inner.sync(fd))

    def truncate(self, fd: int, size: int) -> None:
        """See ``Disk``."""
        self._pass("truncate", lambda: self._inner.truncate(fd, size))

    def forget(self, fd: int) -> None:
        """See ``Disk``."""
        self._inner.forget(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See ``Disk``."""
        self._pass("rename", lambda: self._inner.rename(source, target))

    def unlink(self, path: Path) -> None:
        """See ``Disk``."""
        self._pass("unlink", lambda: self._inner.unlink(path))

    def sync_dir(self, directory: Path) -> None:
        """See ``Disk``."""
        self._pass("sync_dir", lambda: self._inner.sync_dir(directory))


class _File:
    """Content as programs see it, content on the medium, and every version of a sector in between."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.medium = bytearray(data)
        self.versions: dict[int, list[bytes]] = {}
        self.sizes: list[int] = []

    def write(self, offset: int, data: bytes) -> None:
        before = len(self.data)
        end = offset + len(data)
        if end > before:
            self.data.extend(bytes(end - before))
            self.sizes.append(end)
        self.data[offset:end] = data
        self._touch(min(offset, before) if end > before else offset, end)

    def truncate(self, size: int) -> None:
        before = len(self.data)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self.sizes.append(size)
        self._touch(min(size, before), max(size, before))

    def _touch(self, start: int, end: int) -> None:
        for sector in range(start // SECTOR, (end + SECTOR - 1) // SECTOR):
            self.versions.setdefault(sector, []).append(self._now(sector))

    def _now(self, sector: int) -> bytes:
        return bytes(self.data[sector * SECTOR : (sector + 1) * SECTOR]).ljust(SECTOR, b"\0")

    def sync(self, start: int = 0, end: int | None = None) -> None:
        """Bring sectors of ``start..end`` to the medium, and the length of the file."""
        last = len(self.data) if end is None else end
        self._resize(self.medium, len(self.data))
        for sector in [s for s in self.versions if s * SECTOR < last and (s + 1) * SECTOR > start]:
            self._store(self.medium, sector, self._now(sector))
            del self.versions[sector]
        if end is None:
            self.versions.clear()
        self.sizes.clear()

    @staticmethod
    def _resize(content: bytearray, size: int) -> None:
        del content[size:]
        content.extend(bytes(size - len(content)))

    @staticmethod
    def _store(content: bytearray, sector: int, data: bytes) -> None:
        room = max(len(content) - sector * SECTOR, 0)
        content[sector * SECTOR : (sector + 1) * SECTOR] = data[:room]

    def cut(self, rng: random.Random, torn_bytes: bool) -> bytes:
        """What the medium holds after a power cut."""
        content = bytearray(self.medium)
        self._resize(content, rng.choice([len(content), *self.sizes]))
        keep = rng.choice([0.0, 0.5, 0.9, 1.0, rng.random()])
        for sector, versions in sorted(self.versions.items()):
            if rng.random() >= keep:
                continue
            new = rng.choice(versions)
            if torn_bytes and rng.random() < 0.1:
                old = bytes(content[sector * SECTOR : (sector + 1) * SECTOR]).ljust(SECTOR, b"\0")
                at = rng.randrange(SECTOR)
                new = new[:at] + old[at:]
            self._store(content, sector, new)
        return bytes(content)


class CrashDisk:
    """Files in memory, with a power switch.

    Synced bytes and synced names survive ``after_power_cut``; of the rest each sector may be there or not, in
    any version it had, a file's length may be any it had, and of the changes of names a prefix survives (as
    on a journalling file system). ``pwrite(sync=True)`` makes only its own range durable, as RWF_DSYNC does.

    Args:
        files: initial content, durable.
    """

    def __init__(self, files: dict[Path, bytes] | None = None) -> None:
        self._files = {path: _File(data) for path, data in (files or {}).items()}
        self._durable = dict(self._files)
        self._changes: list[list[tuple[Path, _File | None]]] = []
        self._open: dict[int, _File] = {}
        self._locks: dict[int, Path] = {}
        self._next_fd = 1000
        self._guard = threading.RLock()

    # -- what happens to it ------------------------------------------------------------------------------

    def after_power_cut(self, seed: int, *, torn_bytes: bool = False) -> CrashDisk:
        """The disk that the next boot finds.

        Args:
            seed: of all chances.
            torn_bytes: also tear single sectors at any byte (real sectors are atomic).
        """
        rng = random.Random(seed)  # noqa: S311 -- chance that must repeat, not a secret
        names = dict(self._durable)
        for change in self._changes[: rng.randint(0, len(self._changes))]:
            _apply(names, change)
        return CrashDisk({path: file.cut(rng, torn_bytes) for path, file in sorted(names.items())})

    def after_kill(self) -> CrashDisk:
        """The disk that a new process finds when only the old one died: everything written is there."""
        return CrashDisk({path: bytes(file.data) for path, file in self._files.items()})

    def files(self) -> dict[Path, bytes]:
        """Present content by path."""
        return {path: bytes(file.data) for path, file in self._files.items()}

    def flip(self, path: Path, offset: int, bit: int) -> None:
        """Flip one stored bit."""
        for content in (self._files[path].data, self._files[path].medium):
            content[offset] ^= 1 << bit

    # -- Disk --------------------------------------------------------------------------------------------

    def makedirs(self, directory: Path) -> None:
        """Directories are not modelled: every one exists."""

    def names(self, directory: Path) -> list[str]:
        """See ``Disk``."""
        return sorted(path.name for path in self._files if path.parent == directory)

    def lock(self, path: Path) -> int:
        """See ``Disk``."""
        with self._guard:
            if path in self._locks.values():
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            fd = self._new_fd(_File())
            self._locks[fd] = path
            return fd

    def _new_fd(self, file: _File) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = file
        return self._next_fd

    def open_read(self, path: Path) -> int:
        """See ``Disk``."""
        with self._guard:
            if path not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return self._new_fd(self._files[path])

    def open_write(self, path: Path) -> int:
        """See ``Disk``."""
        return self.open_read(path)

    def create(self, path: Path) -> int:
        """See ``Disk``."""
        with self._guard:
            if path in self._files:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            file = self._files[path] = _File()
            self._changes.append([(path, file)])
            return self._new_fd(file)

    def close(self, fd: int) -> None:
        """See ``Disk``; an unknown descriptor is an error, as in an operating system."""
        with self._guard:
            if self._open.pop(fd, None) is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._locks.pop(fd, None)

    def open_files(self) -> int:
        """How many descriptors are open; a test of leaks."""
        return len(self._open)

    def size(self, fd: int) -> int:
        """See ``Disk``."""
        return len(self._open[fd].data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See ``Disk``."""
        return bytes(self._open[fd].data[offset : offset + size])

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int, *, sync: bool) -> int:
        """See ``Disk``."""
        data = b"".join(buffers)
        with self._guard:
            file = self._open[fd]
            file.write(offset, data)
            if sync:
                file.sync(offset, offset + len(data))
        return len(data)

    def sync(self, fd: int) -> None:
        """See ``Disk``."""
        with self._guard:
            self._open[fd].sync()

    def truncate(self, fd: int, size: int) -> None:
        """See ``Disk``."""
        with self._guard:
            self._open[fd].truncate(size)

    def forget(self, fd: int) -> None:
        """Clean pages equal the medium here: nothing to do."""

    def rename(self, source: Path, target: Path) -> None:
        """See ``Disk``."""
        with self._guard:
            if source not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
            file = self._files[target] = self._files.pop(source)
            self._changes.append([(target, file), (source, None)])

    def unlink(self, path: Path) -> None:
        """See ``Disk``."""
        with self._guard:
            if path not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            del self._files[path]
            self._changes.append([(path, None)])

    def sync_dir(self, directory: Path) -> None:
        """See ``Disk``; changes in other directories stay open."""
        with self._guard:
            for change in self._changes:
                if change[0][0].parent == directory:
                    _apply(self._durable, change)
            self._changes = [c for c in self._changes if c[0][0].parent != directory]


def _apply(names: dict[Path, _File], change: Sequence[tuple[Path, _File | None]]) -> None:
    for path, file in change:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file
