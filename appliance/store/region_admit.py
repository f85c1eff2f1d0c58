"""May the environment that lies here be used, and who may write it.

Three questions before LMDB touches a file. *Who writes?* One process: a lock file, held for life. *Is the
content trusted?* A mark beside the file says in which boot it was last open and whether it was closed
cleanly; what was never synced is trusted only after a clean stop or within the same boot (``design.md §5``).
*Is it sound?* :mod:`region_check` looks. Damaged files are set aside under ``<name>.damaged-<n>``, a bounded
number of them; untrusted ones are removed. Either way the owner starts empty and rebuilds its view.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from enum import Enum
from pathlib import Path

import msgspec

from appliance.system.boot import BootId
from appliance.system.disk import RealDisk
from appliance.wire.errors import Conflict, FluxbeeError

from .files import durable_replace, storage_error
from .region_check import Depth, MetaPages, probe, read_meta_pages

__all__ = [
    "CONTROL",
    "LIVE",
    "MEMORY",
    "REGION_IN_USE",
    "WORLD",
    "Admission",
    "EnvironmentFiles",
    "EnvironmentSpec",
    "Mark",
    "Verdict",
    "WriterLock",
    "admit",
    "judge",
    "read_mark",
    "write_mark",
]

REGION_IN_USE = "REGION_IN_USE"
MARK_FORMAT = 1
MAX_FAILED_OPENS = 3
"""An environment whose owner ended this often in a row before its first maintenance is set aside: LMDB may
have ended it, in a page that the walk does not reach."""

_LMDB_LOCK_BYTES = 8192  # what LMDB makes for its default of 126 readers

DISK_MAP_BYTES = 16 << 30
TMPFS_MAP_BYTES = 256 << 20


class EnvironmentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How one environment is kept; the four of ``design.md §5`` are constants of this module.

    Args:
        name: file name without suffix.
        on_disk: False on tmpfs; bytes written to a disk are counted exactly where the kernel tells.
        sync: every commit is on the medium when it returns.
        map_bytes: fixed size of the map; one sixteenth of it is kept for urgent changes.
        quick_bytes: after a clean stop, files up to this size are checked page by page at the start.
        probe_bytes: after an unclean stop, the same up to this size. Above them every row is read (after a
            clean stop only up to ``probe_bytes``, then the ends of the tables).
        keep_aside: how many damaged predecessors are kept.
    """

    name: str
    on_disk: bool
    sync: bool
    map_bytes: int
    quick_bytes: int = 4 << 20
    probe_bytes: int = 64 << 20
    keep_aside: int = 2


LIVE = EnvironmentSpec(name="live", on_disk=False, sync=False, map_bytes=TMPFS_MAP_BYTES, keep_aside=1)
CONTROL = EnvironmentSpec(name="control", on_disk=True, sync=True, map_bytes=DISK_MAP_BYTES)
MEMORY = EnvironmentSpec(name="memory", on_disk=False, sync=False, map_bytes=TMPFS_MAP_BYTES, keep_aside=1)
WORLD = EnvironmentSpec(name="world", on_disk=True, sync=False, map_bytes=DISK_MAP_BYTES)


class EnvironmentFiles:
    """Where the files of environment ``name`` lie."""

    __slots__ = ("data", "directory", "lmdb_lock", "mark", "name", "writer")

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.data = directory / f"{name}.mdb"
        self.lmdb_lock = directory / f"{name}.mdb-lock"  # the name is LMDB's choice
        self.writer = directory / f"{name}.writer"
        self.mark = directory / f"{name}.mark"

    def asides(self) -> list[tuple[int, Path]]:
        """Predecessors that were set aside, oldest first, with their numbers."""
        pattern = re.compile(re.escape(self.name) + r"\.damaged-([0-9]+)")
        found = (pattern.fullmatch(entry) for entry in os.listdir(self.directory))
        return sorted((int(match[1]), self.directory / match[0]) for match in found if match)

    def remove(self) -> None:
        """Remove data, LMDB's lock file and the mark; what is not there is fine."""
        # The mark goes first: without it nothing that is left would be trusted.
        for path in (self.mark, self.data, self.lmdb_lock):
            with suppress(FileNotFoundError):
                path.unlink()

    def set_aside(self, keep: int) -> Path:
        """Move the data file away, dropping the oldest so that at most ``keep`` (at least one) stay."""
        asides = self.asides()
        target = self.directory / f"{self.name}.damaged-{asides[-1][0] + 1 if asides else 1}"
        for _, old in asides[: max(0, len(asides) - max(1, keep) + 1)]:
            old.unlink()
        self.data.rename(target)
        self.remove()
        return target

    def allocate_lock(self) -> None:
        """Give LMDB's lock file its blocks: it is mapped, and a hole on a full disk would be a SIGBUS."""
        fd = os.open(self.lmdb_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _LMDB_LOCK_BYTES)
        finally:
            os.close(fd)


class WriterLock:
    """The right to write an environment; the kernel takes it back when the process ends, however it ends."""

    __slots__ = ("_fd",)

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            Conflict: ``REGION_IN_USE``; the message names the process that has it.
            Unavailable, NotFound: the lock file cannot be opened.
        """
        try:
            self._fd = RealDisk(mode=0o600).lock(path)
        except BlockingIOError as error:
            raise Conflict(
                f"{path.stem}: process {self._holder(path)} writes this environment",
                code=REGION_IN_USE,
                remedy="Only one process may write an environment; stop that one first.",
            ) from error
        except OSError as error:
            raise storage_error(error, str(path)) from error
        with suppress(OSError):  # a full disk: the lock holds, it only cannot say whose it is
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    @staticmethod
    def _holder(path: Path) -> str:
        try:
            return path.read_text(encoding="ascii") or "(unknown)"
        except (OSError, UnicodeDecodeError):
            return "(unknown)"

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._fd)


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an environment without opening it."""

    format: int
    boot: str
    clean: bool
    opens: int = 0
    """Openings in a row that reached neither maintenance nor a clean stop."""
    suspect: str | None = None


def read_mark(path: Path) -> Mark | None:
    """The mark, or ``None`` when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark)
    except (OSError, msgspec.DecodeError):
        return None


def write_mark(path: Path, mark: Mark) -> bool:
    """Store the mark; returns False when the medium refused.

    A refused mark is removed, so that an outdated one is not believed. On a medium that refuses even that,
    the environment cannot change either, and the old mark stays true.
    """
    try:
        durable_replace(path, msgspec.json.encode(mark))
    except FluxbeeError:
        with suppress(OSError):
            path.unlink()
        return False
    return True


class Verdict(Enum):
    """What to do with a file that is there."""

    CHECK = "check"
    CHECK_ALL = "check all"
    DISCARD = "discard"
    SET_ASIDE = "set aside"


def judge(mark: Mark | None, *, sync: bool, boot: BootId) -> tuple[Verdict, str]:
    """Decide from the mark alone, with the reason."""
    if mark is None:
        return (
            (Verdict.CHECK_ALL, "no mark") if sync else (Verdict.DISCARD, "no mark says that it was synced")
        )
    if mark.format != MARK_FORMAT:
        return Verdict.SET_ASIDE, f"written in format {mark.format}"
    if mark.suspect is not None:
        return Verdict.SET_ASIDE, mark.suspect
    if mark.opens >= MAX_FAILED_OPENS:
        return Verdict.SET_ASIDE, f"its owner ended {mark.opens} times before the first maintenance"
    if mark.clean:
        return Verdict.CHECK, "stopped cleanly"
    if sync or mark.boot == boot:
        return Verdict.CHECK_ALL, "not stopped cleanly"
    return Verdict.DISCARD, "not stopped cleanly in an earlier boot"


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and what became of it.

    ``kept`` is False when the environment starts empty; then ``reason`` says why and ``set_aside`` where the
    damaged predecessor lies, if there is one.
    """

    kept: bool
    reason: str
    set_aside: Path | None = None
    opens: int = 0


def _find_damage(path: Path, spec: EnvironmentSpec, *, clean: bool) -> str:
    """What is wrong with the file; empty when nothing is."""
    try:
        meta = read_meta_pages(path)
    except PermissionError:
        raise  # not the file's fault
    except (OSError, ValueError) as error:  # a bad sector is damage too
        return str(error)
    return probe(path, map_bytes=spec.map_bytes, depth=_depth(meta, spec, clean=clean))


def _depth(meta: MetaPages, spec: EnvironmentSpec, *, clean: bool) -> Depth:
    if meta.file_bytes <= (spec.quick_bytes if clean else spec.probe_bytes):
        return Depth.PAGES
    if not clean or meta.short or meta.file_bytes <= spec.probe_bytes:
        return Depth.ROWS
    return Depth.ENDS


def admit(files: EnvironmentFiles, spec: EnvironmentSpec, boot: BootId) -> Admission:
    """Judge what lies at ``files`` and clear the place when it cannot be used; needs the writer lock.

    Raises:
        Unavailable: the place cannot be read or cleared.
    """
    try:
        return _admit(files, spec, boot)
    except OSError as error:
        raise storage_error(error, str(files.data)) from error


def _admit(files: EnvironmentFiles, spec: EnvironmentSpec, boot: BootId) -> Admission:
    mark = read_mark(files.mark)
    if not files.data.is_symlink() and (not files.data.exists() or files.data.stat().st_size == 0):
        files.remove()
        return Admission(kept=False, reason="new")
    verdict, reason = judge(mark, sync=spec.sync, boot=boot)
    if verdict is Verdict.DISCARD:
        files.remove()
        return Admission(kept=False, reason=reason)
    if verdict is not Verdict.SET_ASIDE:
        damage = _find_damage(files.data, spec, clean=verdict is Verdict.CHECK)
        if not damage:
            opens = 0 if mark is None or mark.clean else mark.opens
            return Admission(kept=True, reason=reason, opens=opens)
        reason = damage
    return Admission(kept=False, reason=f"damaged: {reason}", set_aside=files.set_aside(spec.keep_aside))
