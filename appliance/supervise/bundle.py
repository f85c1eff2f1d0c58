"""Packages that arrive as one file or as text: unpacked into a staging directory, trusting nothing.

A bundle is a zip with exactly one directory at its root. Its headers are claims: sizes, counts and the ratio
are checked before anything is written and counted again while unpacking. Refused are names that leave the
directory, links and devices, the same name twice (also when only case differs), encryption, and methods
other than stored and deflated. What fails leaves staging to its caller, who removes it. Blocking calls.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from appliance.store.files import storage_error
from appliance.wire.errors import FluxbeeError, Invalid

from .package import DESCRIPTION_FILE
from .tree import (
    DIRECTORY_MODE,
    FILE_MODE,
    PROGRAM_MODE,
    TreeLimits,
    case_key,
    check_relative,
    check_space,
    is_program,
    write_file,
)

__all__ = ["INVALID_LAYOUT", "INVALID_ZIP", "stage_inline", "unpack_bundle"]

INVALID_ZIP: Final = "INVALID_ZIP"
INVALID_LAYOUT: Final = "INVALID_PACKAGE_LAYOUT"

_END: Final = struct.Struct("<4s4H2LH")
_END_MARK: Final = b"PK\x05\x06"
_END64_MARK: Final = b"PK\x06\x07"
_END64_BYTES: Final = 20
_TAIL_BYTES: Final = _END.size + 65_535
_DIRECTORY_BYTES_PER_ENTRY: Final = 256
"""zipfile reads the whole directory into objects: its size is bounded before that."""

_ENCRYPTED: Final = 0x1
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PIECE_BYTES: Final = 1 << 18
_RATIO_FLOOR_BYTES: Final = 4 << 20
"""Below this a high ratio harms nobody: a short text of spaces has one."""

_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)
"""What zipfile raises when bytes are not what they claim to be."""


def unpack_bundle(bundle: Path, staging: Path, limits: TreeLimits) -> Path:
    """Unpack ``bundle`` below the existing empty directory ``staging``.

    Args:
        bundle: a zip file.
        staging: on the file system where the package will be installed.
        limits: most bytes, entries, depth and ratio.

    Returns:
        The package's root directory, below ``staging``.

    Raises:
        Invalid: ``INVALID_ZIP`` (no zip, cut off, wrong checksum), ``INVALID_PACKAGE_LAYOUT`` (not one root
            with a package.json), ``INVALID_REQUEST`` (an entry that may not be, or too much of it).
        Unavailable: the medium is full or refuses.
    """
    try:
        with bundle.open("rb") as file:
            _check_end(file, limits)
            try:
                with zipfile.ZipFile(file) as archive:
                    infos = archive.infolist()
                    root = _checked(infos, os.fstat(file.fileno()).st_size, limits)
                    check_space(staging, sum(info.file_size for info in infos))
                    _write_entries(archive, infos, staging, limits)
            except _BROKEN as error:
                raise _no_zip(f"{type(error).__name__}: {error}") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # an offset in the archive that leads before its beginning
            raise _no_zip(str(error)) from error
        raise storage_error(error, error.filename or str(staging)) from error
    return staging / root


def _no_zip(why: str) -> Invalid:
    return Invalid(f"the bundle is not a sound zip: {why}", code=INVALID_ZIP, remedy="Pack it again.")


def _refused(why: str) -> Invalid:
    return Invalid(f"the bundle is refused: {why}", field="blob_path", remedy="Pack only plain files.")


# --- before anything is written ----------------------------------------------------------------------------


def _check_end(file: IO[bytes], limits: TreeLimits) -> None:
    """Bound the directory of the archive by what its end record says; zipfile itself does not."""
    size = file.seek(0, os.SEEK_END)
    if size > limits.max_bytes:
        raise _refused(f"it has more than {limits.max_bytes} bytes")
    start = max(0, size - _TAIL_BYTES)
    file.seek(start)
    tail = file.read(_TAIL_BYTES)
    at = tail.rfind(_END_MARK)
    if at < 0 or at + _END.size > len(tail):
        raise _no_zip("it has no end record")
    _, disk, _, _, entries, directory_bytes, _, _ = _END.unpack_from(tail, at)
    if tail[max(0, at - _END64_BYTES) : at].startswith(_END64_MARK) or entries == 0xFFFF or disk:
        raise _no_zip("zip64 and archives in parts are not taken")
    if entries > limits.max_entries:
        raise _refused(f"it has more than {limits.max_entries} entries")
    if directory_bytes > limits.max_entries * _DIRECTORY_BYTES_PER_ENTRY:
        raise _refused("its directory is too large")
    file.seek(0)


def _checked(infos: list[zipfile.ZipInfo], packed_bytes: int, limits: TreeLimits) -> str:
    """Name of the one root directory, after every entry was judged."""
    if len(infos) > limits.max_entries:
        raise _refused(f"it has more than {limits.max_entries} entries")
    names = _Names()
    total = 0
    for info in infos:
        total += info.file_size
        _check_entry(info)
        path = check_relative(info.orig_filename.rstrip("/"), "entry", max_depth=limits.max_depth + 1)
        names.add(str(path), is_directory=info.is_dir())
    if total > limits.max_bytes:
        raise _refused(f"it claims {total} bytes, and at most {limits.max_bytes} are taken")
    if total > _RATIO_FLOOR_BYTES and total > packed_bytes * limits.ratio:
        raise _refused(f"it would become more than {limits.ratio} times as large")
    roots = names.roots()
    if len(roots) != 1 or f"{roots[0]}/{DESCRIPTION_FILE}" not in names.files:
        raise Invalid(
            f"a bundle has exactly one directory at its root, with {DESCRIPTION_FILE} in it;"
            f" this one has {', '.join(sorted(roots)[:5]) or 'nothing'}",
            code=INVALID_LAYOUT,
            remedy="Pack with `fluxbee scaffold pack`.",
        )
    return roots[0]


def _check_entry(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    if info.flag_bits & _ENCRYPTED:
        raise _no_zip(f"{name!r} is encrypted")
    if info.compress_type not in _METHODS:
        raise _no_zip(f"{name!r} is packed by method {info.compress_type}; use stored or deflated")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if kind == stat.S_IFLNK else "a special file"
        raise _refused(f"{name!r} is {what}")
    if kind and (kind == stat.S_IFDIR) != name.endswith("/"):
        raise _refused(f"{name!r} is a directory and a file at once")
    if name.endswith("/") and info.file_size:
        raise _refused(f"{name!r} is a directory with content")


class _Names:
    """Every path of an archive with the directories above it; refuses what a file system could confuse."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._directories: set[str] = set()
        self._by_case: dict[str, str] = {}
        self._explicit: set[str] = set()

    def add(self, path: str, *, is_directory: bool) -> None:
        if path in self._explicit:
            raise _refused(f"{path!r} is in it twice")
        self._explicit.add(path)
        parts = path.split("/")
        for depth in range(1, len(parts)):
            self._claim("/".join(parts[:depth]), is_directory=True)
        self._claim(path, is_directory=is_directory)

    def _claim(self, path: str, *, is_directory: bool) -> None:
        known = self._by_case.setdefault(case_key(path), path)
        if known != path:
            raise _refused(f"{path!r} and {known!r} differ in case only")
        if path in (self.files if is_directory else self._directories):
            raise _refused(f"{path!r} is a directory and a file at once")
        (self._directories if is_directory else self.files).add(path)

    def roots(self) -> list[str]:
        return [path for path in self.files | self._directories if "/" not in path]


# --- unpacking ---------------------------------------------------------------------------------------------


def _write_entries(
    archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], staging: Path, limits: TreeLimits
) -> None:
    left = limits.max_bytes
    for info in infos:
        target = staging / info.orig_filename.rstrip("/")
        if info.is_dir():
            target.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            continue
        target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        written = write_file(target, _unpacked(archive, info, left))
        if written != info.file_size:
            raise _no_zip(f"{info.orig_filename!r} has {written} bytes and claims {info.file_size}")
        left -= written
        target.chmod(PROGRAM_MODE if info.external_attr >> 16 & 0o111 else FILE_MODE)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, left: int) -> Iterator[bytes]:
    with archive.open(info) as member:
        while piece := member.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise _refused("it unpacks to more than is taken")
            yield piece


def stage_inline(files: Mapping[str, object], staging: Path, limits: TreeLimits) -> Path:
    """Write ``files`` (relative path to text) as a package below ``staging``; ``bin/**`` is executable.

    Returns:
        The package's root directory.

    Raises:
        Invalid: a path or a text that may not be, or a limit is exceeded.
        Unavailable: the medium is full or refuses.
    """
    contents = _inline_contents(files, limits)
    check_space(staging, sum(len(content) for content in contents.values()))
    root = staging / "package"
    try:
        root.mkdir(mode=DIRECTORY_MODE)
        for path, content in contents.items():
            target = root / path
            target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            write_file(target, [content])
            target.chmod(PROGRAM_MODE if is_program(path) else FILE_MODE)
    except OSError as error:
        raise storage_error(error, str(root)) from error
    return root


def _inline_contents(files: Mapping[str, object], limits: TreeLimits) -> dict[str, bytes]:
    if not files or len(files) > limits.max_entries:
        raise _inline_refused(f"1 to {limits.max_entries} files are taken")
    names = _Names()
    contents: dict[str, bytes] = {}
    left = limits.max_bytes
    for name, text in files.items():
        if not isinstance(text, str):
            raise _inline_refused(f"{name!r} is not text")
        path = str(check_relative(name, "source.files", max_depth=limits.max_depth))
        try:
            names.add(path, is_directory=False)
        except FluxbeeError as error:
            raise _inline_refused(error.message) from None
        contents[path] = text.encode(errors="surrogatepass")
        left -= len(contents[path])
        if left < 0:
            raise _inline_refused(f"more than {limits.max_bytes} bytes")
    return contents


def _inline_refused(why: str) -> Invalid:
    return Invalid(f"source.files: {why}", field="source.files")
