"""The module store: ``<name>/<version>`` below one directory, handed in and out as tar.

An archive is trusted with nothing: members must be plain files and directories that stay below their module.
It is unpacked beside its place and renamed into it, so a version is whole or not there; one that is there
does not change any more (``spec/admin-api.md §B.8``). Blocking calls.
"""

from __future__ import annotations

import errno
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

import msgspec

from appliance.store.files import storage_error
from appliance.wire.errors import Conflict, Invalid, NotFound

from .manifest import check_runtime, check_version, is_version
from .tree import (
    FILE_MODE,
    PROGRAM_MODE,
    TreeLimits,
    case_key,
    check_relative,
    check_space,
    remove_tree,
    scan_tree,
    sync_path,
    sync_tree,
    write_file,
)

__all__ = ["INVALID_ARCHIVE", "MODULE_EXISTS", "ModuleStatistics", "ModuleStore"]

INVALID_ARCHIVE: Final = "INVALID_ARCHIVE"
MODULE_EXISTS: Final = "MODULE_EXISTS"

_INCOMING: Final = ".incoming-"
_PIECE_BYTES: Final = 1 << 18
_BROKEN: Final = (tarfile.TarError, EOFError, ValueError, OverflowError)


class ModuleStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start; ``stored_bytes`` were written to the medium."""

    stored: int
    stored_bytes: int
    refused: int
    read: int


class ModuleStore:
    """Modules below ``root``; calls may come from several threads.

    Args:
        root: made when the first module comes.
        limits: most bytes, entries and depth of a module.
        check_room: raises when the disk is too full for anything that grows.
    """

    def __init__(
        self, root: Path, limits: TreeLimits, *, check_room: Callable[[], None] = lambda: None
    ) -> None:
        self._root = root
        self._limits = limits
        self._check_room = check_room
        self._stored = self._stored_bytes = self._refused = self._read = 0

    def statistics(self) -> ModuleStatistics:
        """Counts since the start."""
        return ModuleStatistics(
            stored=self._stored, stored_bytes=self._stored_bytes, refused=self._refused, read=self._read
        )

    def names(self) -> list[str]:
        """Names of modules, sorted."""
        return _entries(self._root)

    def versions(self, name: str) -> list[str]:
        """Versions of a module, sorted; none for an unknown one. Raises ``Invalid`` for no name."""
        return _entries(self._root / _module(name))

    def find(self, name: str, version: str) -> Path:
        """Directory or file of a version.

        Raises:
            Invalid: a name that is none.
            NotFound: there is no such version.
        """
        path = self._root / _module(name) / check_version(version, "version")
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise NotFound(f"there is no module {name} {version}")
        self._read += 1
        return path

    def pack(self, directory: Path, target: IO[bytes]) -> None:
        """Write ``directory`` as an uncompressed tar, owners and times left out; raises ``Unavailable``."""
        try:
            with tarfile.open(fileobj=target, mode="w|") as archive:
                for entry in scan_tree(directory, self._limits):
                    member = archive.gettarinfo(str(directory / entry.path), entry.path)
                    member.uid = member.gid = member.mtime = 0
                    member.uname = member.gname = ""
                    if entry.is_directory:
                        archive.addfile(member)
                    else:
                        with (directory / entry.path).open("rb") as file:
                            archive.addfile(member, file)
        except OSError as error:
            raise storage_error(error, str(directory)) from error

    def store(self, name: str, version: str, archive: bytes) -> None:
        """Unpack ``archive`` as a new version.

        Raises:
            Invalid: a name that is none; ``INVALID_ARCHIVE``.
            Conflict: ``MODULE_EXISTS``.
            Unavailable: the medium is full or refuses.
        """
        try:
            self._store(_module(name), check_version(version, "version"), archive)
        except (Invalid, Conflict):
            self._refused += 1
            raise
        self._stored += 1

    def _store(self, name: str, version: str, archive: bytes) -> None:
        place = self._root / name / version
        staging = self._root / f"{_INCOMING}{uuid4()}"
        try:
            if place.exists():
                raise _exists(name, version)
            self._check_room()
            staging.mkdir(parents=True)
            written = self._unpack(archive, staging)
            sync_tree(staging, scan_tree(staging, self._limits))
            place.parent.mkdir(exist_ok=True)
            if place.exists():  # another client was faster; of two at once a directory with files refuses
                raise _exists(name, version)
            staging.rename(place)
            sync_path(place.parent)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise _exists(name, version) from error
            raise storage_error(error, str(place)) from error
        finally:
            remove_tree(staging)
        self._stored_bytes += written

    def _unpack(self, archive: bytes, staging: Path) -> int:
        check_space(staging, len(archive))
        written = 0
        try:
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as source:
                for member, relative in self._members(source):
                    path = staging / relative
                    if member.isdir():
                        path.mkdir(parents=True, exist_ok=True)
                        continue
                    path.parent.mkdir(parents=True, exist_ok=True)
                    content = source.extractfile(member)
                    assert content is not None
                    with closing(content):
                        length = write_file(path, iter(partial(content.read, _PIECE_BYTES), b""))
                    if length != member.size:
                        raise _broken("it is cut off")
                    path.chmod(PROGRAM_MODE if member.mode & 0o111 else FILE_MODE)
                    written += length
                # tarfile takes a cut between two members for the end.
                if archive[source.offset : source.offset + tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
                    raise _broken("it is cut off")
        except _BROKEN as error:
            raise _broken(f"{type(error).__name__}: {error}") from error
        except (FileExistsError, NotADirectoryError) as error:
            raise _broken("a name is a file and a directory") from error
        return written

    def _members(self, source: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
        limits, seen, total = self._limits, set[str](), 0
        for count, member in enumerate(source):
            name = member.name.removeprefix("./")
            if member.isdir() and name in ("", "."):
                continue
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _broken(f"{name[:120]!r} is neither a file nor a directory")
            try:
                relative = str(check_relative(name.rstrip("/"), "member", max_depth=limits.max_depth))
            except Invalid as error:
                raise _broken(error.message) from error
            key, total = case_key(relative), total + member.size
            if key in seen:
                raise _broken(f"{name[:120]!r} is there twice")
            if count >= limits.max_entries or total > limits.max_bytes:
                raise _broken("it is too large")
            seen.add(key)
            yield member, relative


def _entries(directory: Path) -> list[str]:
    try:
        names = [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, str(directory)) from error
    return sorted(name for name in names if is_version(name) and not name.startswith(_INCOMING))


def _module(name: str) -> str:
    if name.startswith(_INCOMING):
        raise Invalid(f"invalid module: {name[:80]!r}", field="module")
    return check_runtime(name, "module")


def _exists(name: str, version: str) -> Conflict:
    return Conflict(f"module {name} {version} exists", code=MODULE_EXISTS)


def _broken(why: str) -> Invalid:
    return Invalid(f"the archive is refused: {why}", code=INVALID_ARCHIVE, field="body")
