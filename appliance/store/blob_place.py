"""Where blobs lie, reached through directory descriptors so that no symbolic link leads out of the root.

``<root>/<area>/<prefix>/<name>``. The root itself may be reached by any path; every component below it must
be what it claims to be. Directories are made on demand; collection may remove an empty one at any moment, so
a move tries again. Raises plain ``OSError``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from appliance.wire.blob import DIRECTORY_MODE, blob_prefix

__all__ = ["TEMP_PREFIX", "BlobPlace", "open_directory", "regular_file"]

TEMP_PREFIX = ".put-"
"""Files that are being written; directly in the staging area, never a valid blob name."""

_MOVE_ATTEMPTS = 8
_HOSTILE = str.maketrans("/\\\0", "___")


def regular_file(name: str, directory: int) -> os.stat_result | None:
    """Status of the regular file ``name``; ``None`` when it is missing, a link or something else."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def open_directory(name: str, parent: int | None, *, create: bool) -> int:
    """Descriptor of a directory below ``parent``; raises ``OSError`` when it is a link or missing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
    fd = os.open(name, flags, dir_fd=parent)
    os.fchmod(fd, DIRECTORY_MODE)  # the umask is not asked
    return fd


class BlobPlace:
    """The directories of one blob root."""

    __slots__ = ("_root",)

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, area: str, name: str) -> Path:
        """Where ``name`` lies; pure. A name with separators gets them replaced, so it cannot lead away."""
        return self._root / area / blob_prefix(name) / name.translate(_HOSTILE).replace("..", "__")

    @contextmanager
    def area(self, area: str, *, create: bool) -> Iterator[int]:
        """Descriptor of ``staging`` or ``active``."""
        if create:
            self._root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_directory(area, root, create=create)
        finally:
            os.close(root)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def folder(self, area: str, name: str, *, create: bool) -> Iterator[int]:
        """Descriptor of the directory that holds ``name``."""
        with self.area(area, create=create) as parent:
            fd = open_directory(blob_prefix(name), parent, create=create)
        try:
            yield fd
        finally:
            os.close(fd)

    def move(self, source: int, old: str, area: str, name: str, *, durable: bool = False) -> None:
        """Rename ``old`` in directory ``source`` to its place in ``area``, replacing equal content there."""
        for attempt in range(_MOVE_ATTEMPTS):
            try:
                with self.folder(area, name, create=True) as target:
                    os.rename(old, name, src_dir_fd=source, dst_dir_fd=target)
                    if durable:
                        os.fsync(target)
                break
            except FileNotFoundError:
                # Either collection took the empty target directory, or the source is gone.
                if attempt + 1 == _MOVE_ATTEMPTS or regular_file(old, source) is None:
                    raise
        if durable:
            with self.area(area, create=False) as parent:
                os.fsync(parent)  # the directory of the prefix may be new

    def size(self, area: str, name: str) -> int | None:
        """Bytes of the regular file ``name``, ``None`` when it is not there."""
        try:
            with self.folder(area, name, create=False) as directory:
                found = regular_file(name, directory)
        except FileNotFoundError:
            return None
        return None if found is None else found.st_size

    def has(self, area: str, name: str) -> bool:
        """Whether the regular file ``name`` is there."""
        return self.size(area, name) is not None

    def touch(self, area: str, name: str) -> bool:
        """Set the modification time to now; returns whether the file is there."""
        try:
            with self.folder(area, name, create=False) as directory:
                if regular_file(name, directory) is None:
                    return False
                with suppress(PermissionError):  # of another user: it is there, which is what was asked
                    os.utime(name, dir_fd=directory, follow_symlinks=False)
                return True
        except FileNotFoundError:
            return False
