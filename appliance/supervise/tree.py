"""Trees of files that become packages: what may be in them, how they are copied, compared and synced.

A tree has directories and regular files and nothing else: a symbolic link, a device, a socket or a pipe
anywhere in it is refused (``spec/admin-api.md §E.2``). Limits are counted, never believed. Blocking calls.
"""

from __future__ import annotations

import os
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from appliance.store.files import STORAGE_FULL, storage_error
from appliance.wire.errors import FluxbeeError, Invalid, Unavailable

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "PROGRAM_MODE",
    "Progress",
    "TreeEntry",
    "TreeLimits",
    "case_key",
    "check_relative",
    "check_space",
    "copy_tree",
    "free_bytes",
    "is_program",
    "normalize_modes",
    "remove_empty",
    "remove_tree",
    "same_tree",
    "scan_tree",
    "sync_path",
    "sync_tree",
    "write_file",
]

DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644
PROGRAM_MODE: Final = 0o755
_PIECE_BYTES: Final = 1 << 20
_MARGIN_BYTES: Final = 1 << 20
"""Left free beside what is written: the manifest, and directories."""

_MAX_PATH_CHARS: Final = 1024
_MAX_NAME_BYTES: Final = 255


Progress = Callable[[int, int], None]
"""Told while something is copied: bytes so far, and bytes in all."""


class TreeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Most that a package may be; ``ratio`` is unpacked to packed bytes of a bundle."""

    max_bytes: int = 512 << 20
    max_entries: int = 16_384
    max_depth: int = 32
    ratio: int = 200


class TreeEntry(msgspec.Struct, frozen=True):
    """A file or directory: its path below the root with ``/``, and of a file its size in bytes and mode."""

    path: str
    is_directory: bool
    size_bytes: int = 0
    mode: int = 0


def check_relative(text: str, what: str, *, max_depth: int = 32) -> PurePosixPath:
    """``text`` as a path that stays below where it is put.

    Raises:
        Invalid: absolute, ``..``, ``.``, empty parts, backslashes, control characters, too long or too deep.
    """
    parts = text.split("/")
    reason = None
    if not text or len(text) > _MAX_PATH_CHARS:
        reason = "is empty or too long"
    elif text.startswith("/") or (len(text) > 1 and text[1] == ":"):
        reason = "is absolute"
    elif ".." in parts:
        reason = "leads out of the package with '..'"
    elif "" in parts or "." in parts:
        reason = "has an empty part or '.'"
    elif "\\" in text or not text.isprintable():
        reason = "has a backslash or a control character"
    elif len(parts) > max_depth:
        reason = f"is deeper than {max_depth} directories"
    elif any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        reason = "has a name that is too long"
    if reason is not None:
        raise Invalid(f"{what} {text[:120]!r} {reason}", field=what)
    return PurePosixPath(text)


def is_program(path: str) -> bool:
    """Whether a path of a package is below ``bin/``, where every file gets an execute bit."""
    return path.startswith("bin/")


def scan_tree(root: Path, limits: TreeLimits) -> list[TreeEntry]:
    """Everything below ``root``, sorted by path.

    Raises:
        Invalid: a link or special file, a name that is not UTF-8, or a limit is exceeded.
        Unavailable, NotFound: it cannot be read.
    """
    entries: list[TreeEntry] = []
    total = 0
    try:
        for entry in _walk(root, "", limits.max_depth):
            total += entry.size_bytes
            entries.append(entry)
            if len(entries) > limits.max_entries:
                raise Invalid(f"the package has more than {limits.max_entries} files and directories")
            if total > limits.max_bytes:
                raise Invalid(f"the package has more than {limits.max_bytes} bytes")
    except OSError as error:
        raise storage_error(error, str(root)) from error
    return sorted(entries, key=lambda entry: entry.path)


def _walk(directory: Path, prefix: str, depth_left: int) -> Iterator[TreeEntry]:
    if depth_left < 0:
        raise Invalid(f"the package is too deep at {prefix}")
    with os.scandir(directory) as found:
        for item in found:
            path = prefix + item.name
            try:
                path.encode()
            except UnicodeEncodeError:
                raise Invalid(f"{path!r}: the name is not UTF-8") from None
            seen = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(seen.st_mode):
                yield TreeEntry(path, is_directory=True, mode=seen.st_mode)
                yield from _walk(directory / item.name, f"{path}/", depth_left - 1)
            elif stat.S_ISREG(seen.st_mode):
                yield TreeEntry(path, is_directory=False, size_bytes=seen.st_size, mode=seen.st_mode)
            else:
                kind = "symbolic link" if stat.S_ISLNK(seen.st_mode) else "special file"
                raise Invalid(f"{path}: a {kind} may not be in a package", field="package")


def case_key(path: str) -> str:
    """What two paths have in common that a file system without case would take for one."""
    return unicodedata.normalize("NFC", path).casefold()


def free_bytes(directory: Path) -> int:
    """Bytes that we may still write on the file system of ``directory``.

    Raises:
        Unavailable, NotFound: it does not say.
    """
    try:
        place = os.statvfs(directory)
    except OSError as error:
        raise storage_error(error, str(directory)) from error
    return place.f_bavail * place.f_frsize


def check_space(directory: Path, needed_bytes: int) -> None:
    """Raise ``Unavailable`` (``STORAGE_FULL``) unless ``needed_bytes`` and some more are free."""
    free = free_bytes(directory)
    if free < needed_bytes + _MARGIN_BYTES:
        raise Unavailable(
            f"{directory}: {needed_bytes} bytes are needed and {free} are free",
            code=STORAGE_FULL,
            remedy="Remove versions that are not used, or free some space.",
        )


def copy_tree(
    root: Path,
    entries: list[TreeEntry],
    target: Path,
    replaced: Mapping[str, bytes],
    progress: Progress | None = None,
) -> None:
    """Copy ``entries`` of ``root`` below the new directory ``target``; modes and syncing are left to others.

    Args:
        root: where they are.
        entries: what :func:`scan_tree` found there.
        target: must not exist.
        replaced: content that a file gets instead of its own.
        progress: told bytes so far and in all.

    Raises:
        Invalid: a file became something else meanwhile.
        Unavailable: the medium is full or refuses; the caller removes ``target``.
    """
    total = sum(entry.size_bytes for entry in entries)
    done = 0

    def told(pieces: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal done
        for piece in pieces:
            yield piece
            done += len(piece)
            if progress is not None:
                progress(min(done, total), total)

    try:
        target.mkdir(mode=DIRECTORY_MODE)
        for entry in entries:
            if entry.is_directory:
                (target / entry.path).mkdir(mode=DIRECTORY_MODE)
            elif entry.path in replaced:
                write_file(target / entry.path, told([replaced[entry.path]]))
            else:
                with _opened(root / entry.path, entry) as reader:
                    write_file(target / entry.path, told(_pieces(reader, entry)))
    except OSError as error:
        raise storage_error(error, str(target)) from error


@contextmanager
def _opened(source: Path, entry: TreeEntry) -> Iterator[int]:
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(reader).st_mode):
            raise Invalid(f"{entry.path}: changed while it was copied", field="package")
        yield reader
    finally:
        os.close(reader)


def _pieces(reader: int, entry: TreeEntry) -> Iterator[bytes]:
    left = entry.size_bytes
    while left:
        piece = os.read(reader, min(left, _PIECE_BYTES))
        if not piece:
            raise Invalid(f"{entry.path}: became shorter while it was copied", field="package")
        left -= len(piece)
        yield piece


def write_file(path: Path, pieces: Iterable[bytes]) -> int:
    """Write a new file that nobody else made; its length in bytes. Raises ``OSError``."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, FILE_MODE)
    written = 0
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                count = os.write(descriptor, view)
                written += count
                view = view[count:]
    finally:
        os.close(descriptor)
    return written


def normalize_modes(root: Path, entries: list[TreeEntry]) -> None:
    """Modes of an installed package: directories 0755, ``bin/**`` 0755, other files 0644.

    Raises:
        Unavailable: the medium refuses.
    """
    try:
        root.chmod(DIRECTORY_MODE)
        for entry in entries:
            mode = DIRECTORY_MODE if entry.is_directory else FILE_MODE
            if not entry.is_directory and is_program(entry.path):
                mode = PROGRAM_MODE
            (root / entry.path).chmod(mode)
    except OSError as error:
        raise storage_error(error, str(root)) from error


def sync_tree(root: Path, entries: list[TreeEntry]) -> None:
    """Bring a whole tree onto the medium: files first, then directories.

    Raises:
        Unavailable: the medium refuses.
    """
    try:
        for wanted in (False, True):
            for entry in entries:
                if entry.is_directory is wanted:
                    sync_path(root / entry.path)
        sync_path(root)
    except OSError as error:
        raise storage_error(error, str(root)) from error


def sync_path(path: Path) -> None:
    """Sync one file or directory; raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def same_tree(
    root: Path, entries: list[TreeEntry], other: Path, replaced: Mapping[str, bytes], limits: TreeLimits
) -> bool:
    """Whether ``other`` holds the same paths with the same content; modes do not count.

    Args:
        root: the one tree.
        entries: what is in it.
        other: the other.
        replaced: content that a file of ``root`` stands for, instead of its own.
        limits: of ``other``; what exceeds them is different.
    """
    try:
        there = scan_tree(other, limits)
    except Invalid:
        return False
    shapes = [
        (entry.path, entry.is_directory, len(replaced.get(entry.path, b"")) or entry.size_bytes)
        for entry in entries
    ]
    if shapes != [(entry.path, entry.is_directory, entry.size_bytes) for entry in there]:
        return False
    try:
        return all(
            entry.is_directory or _same_file(root / entry.path, other / entry.path, replaced.get(entry.path))
            for entry in entries
        )
    except OSError as error:
        raise storage_error(error, str(other)) from error


def _same_file(one: Path, other: Path, stands_for: bytes | None) -> bool:
    if stands_for is not None:
        return other.read_bytes() == stands_for
    with one.open("rb") as left, other.open("rb") as right:
        while piece := left.read(_PIECE_BYTES):
            if piece != right.read(len(piece)):
                return False
        return not right.read(1)


def remove_tree(root: Path) -> FluxbeeError | None:
    """Remove a tree that nobody needs; what does not go away is told, not raised."""
    try:
        shutil.rmtree(root)
    except FileNotFoundError:
        return None
    except OSError as error:
        return storage_error(error, str(root))
    return None


def remove_empty(directory: Path) -> bool:
    """Remove ``directory`` if nothing is in it; whether it went."""
    with suppress(OSError):
        directory.rmdir()
        return True
    return False
