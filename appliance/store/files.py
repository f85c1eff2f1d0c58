"""Small files that are replaced whole: the old content or the new one, never a mixture, never neither.

``durable_replace`` writes a temporary file beside the target, syncs it, renames it over the target and syncs
the directory. Invariants: a reader sees one complete version at any moment; after a return the new
version survives a power cut; a failure leaves the old version and no temporary file. What a killed process
left behind is removed by the next replacement of the same file, or by ``clean_temps``. Every byte is
counted. Nothing here reads, merges or locks: two writers of one file are the callers' mistake.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from appliance.system.disk import Disk, RealDisk
from appliance.wire.errors import FluxbeeError, NotFound, Unavailable

__all__ = [
    "STORAGE_FAILED",
    "STORAGE_FULL",
    "STORAGE_READ_ONLY",
    "FileStatistics",
    "clean_temps",
    "durable_replace",
    "file_statistics",
    "is_full",
    "storage_error",
]

STORAGE_FULL = "STORAGE_FULL"
STORAGE_READ_ONLY = "STORAGE_READ_ONLY"
STORAGE_FAILED = "STORAGE_FAILED"

_REASONS = {
    errno.ENOSPC: (STORAGE_FULL, "Free some space, or lower the retention of journals and blobs."),
    errno.EDQUOT: (STORAGE_FULL, "Free some space, or raise the quota."),
    errno.EROFS: (STORAGE_READ_ONLY, "The medium went read-only: check it, then restart."),
    errno.EACCES: (STORAGE_READ_ONLY, "Check owner and rights of the directory."),
    errno.EPERM: (STORAGE_READ_ONLY, "Check owner and rights of the directory."),
}
_FULL_BELOW_BYTES = 1 << 20
_TEMP = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]+)-[0-9]+\.tmp")
_numbers = itertools.count()
_in_flight: set[str] = set()
_counting = threading.Lock()


class FileStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of this process since its start."""

    replaced: int = 0
    bytes_written: int = 0
    failures: int = 0
    temps_removed: int = 0
    temps_kept: int = 0
    """Attempts to remove leftover temporary files that failed."""


_statistics = FileStatistics()


def file_statistics() -> FileStatistics:
    """What this process wrote into small files so far."""
    return _statistics


def _count(**more: int) -> None:
    global _statistics
    with _counting:
        new = {key: getattr(_statistics, key) + value for key, value in more.items()}
        _statistics = msgspec.structs.replace(_statistics, **new)


def storage_error(error: OSError, what: str) -> FluxbeeError:
    """Error of our tree for a failed file call on ``what``.

    ``ENOENT`` becomes ``NotFound``; a full, read-only or failing medium becomes ``Unavailable`` with code
    ``STORAGE_FULL``, ``STORAGE_READ_ONLY`` or ``STORAGE_FAILED`` (``design.md §5``, full or failing disk).
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.ENOENT:
        return NotFound(f"{what}: {reason}")
    code, remedy = _REASONS.get(
        error.errno or 0, (STORAGE_FAILED, "Check the storage medium; see the kernel's log.")
    )
    return Unavailable(f"{what}: {reason}", code=code, remedy=remedy)


def is_full(directory: Path) -> bool:
    """Whether the file system of ``directory`` has less than 1 MiB left for us; False if it does not say."""
    try:
        place = os.statvfs(directory)
    except OSError:
        return False
    return place.f_bavail * place.f_frsize < _FULL_BELOW_BYTES


def durable_replace(path: Path, data: bytes, mode: int = 0o600, *, disk: Disk | None = None) -> int:
    """Replace ``path`` by ``data`` so that either version survives whatever happens.

    Args:
        path: the target; its directory must exist.
        data: the whole new content.
        mode: permission bits of the new file; another ``disk`` decides them itself.
        disk: where to do it; None means the operating system.

    Returns:
        Number of bytes written.

    Raises:
        Unavailable: the medium is full, read-only or failing. The old content is still there, unless it was
            the last step, the sync of the directory, that failed: then a power cut decides which one stays.
        NotFound: the directory does not exist.
    """
    own = disk or RealDisk(mode=mode)
    temp = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")
    _in_flight.add(temp.name)
    try:
        _write(own, temp, data, mode if disk is None else None)
        own.rename(temp, path)
        own.sync_dir(path.parent)
    except OSError as error:
        _count(failures=1)
        with suppress(OSError):  # the failure above is the one to report; the next replacement cleans up
            own.unlink(temp)
        raise storage_error(error, str(path)) from error
    finally:
        _in_flight.discard(temp.name)
    _count(replaced=1, bytes_written=len(data))
    try:
        _clean(own, path.parent, path.name)
    except OSError:  # the directory does not list; the replacement itself is done
        _count(temps_kept=1)
    return len(data)


def _write(disk: Disk, temp: Path, data: bytes, mode: int | None) -> None:
    fd = disk.create(temp)
    try:
        if mode is not None:
            os.fchmod(fd, mode)  # the umask is not asked
        if data:
            disk.pwrite(fd, [data], 0, sync=False)
        disk.sync(fd)
    finally:
        disk.close(fd)


def clean_temps(directory: Path, *, disk: Disk | None = None) -> int:
    """Remove temporary files that ended processes left in ``directory``; returns how many.

    Raises:
        Unavailable, NotFound: the directory cannot be listed.
    """
    try:
        return _clean(disk or RealDisk(), directory, None)
    except OSError as error:
        raise storage_error(error, str(directory)) from error


def _clean(disk: Disk, directory: Path, only_name: str | None) -> int:
    removed = 0
    for entry in disk.names(directory):
        match = _TEMP.fullmatch(entry)
        if match is None or only_name not in (None, match["name"]) or _in_use(entry, int(match["pid"])):
            continue
        try:
            disk.unlink(directory / entry)
        except OSError:
            _count(temps_kept=1)
        else:
            removed += 1
    _count(temps_removed=removed)
    return removed


def _in_use(entry: str, pid: int) -> bool:
    if pid == os.getpid():
        return entry in _in_flight
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:  # a number that no process can have
        return False
    return True
