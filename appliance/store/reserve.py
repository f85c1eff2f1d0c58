"""Space held back for a full disk: who may still write, and when the reserve is released and made again.

A file of ``journals.reserve_bytes`` is allocated below ``<lib>``. *Room* is what is free plus what that file
holds; releasing the file does not change it, so every process that measures comes to the same answer
(``docs/decisions/0008-room-is-what-is-free-plus-the-reserve.md``). Ordinary writers (world events, turns,
packages) are refused while there is no room beyond the reserve; administration, removal and retention make
way first and may use what the reserve frees. ``ReserveRule`` decides without I/O; ``Reserve`` measures, at
most once a second and only for somebody who writes. Nothing here stops other programs from filling the disk.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec
import trio

from appliance.store.files import storage_error
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError, Unavailable

__all__ = [
    "DISK_FULL",
    "NO_RESERVE",
    "FailingJournal",
    "Reserve",
    "ReserveRule",
    "ReserveStatistics",
    "Space",
    "measure",
]

DISK_FULL: Final = "DISK_FULL"
_REMEDY: Final = "Remove what is not needed: entities, versions of runtimes, files of other programs."
_LOOK_S: Final = 1.0
_KEEP_S: Final = 30.0
_KEEP_FULL_S: Final = 2.0
_SPEND_SHARE: Final = 4
"""Of the room that was seen, ordinary writers use so much before they look again, even within a second."""

_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT})
"""Reasons after which it is worth while to try again; others are the file system's nature."""

log = get_logger("reserve")


class Space(msgspec.Struct, frozen=True):
    """What a file system has for us: free for programs without privileges, and held by the reserve."""

    free_bytes: int
    held_bytes: int

    @property
    def room_bytes(self) -> int:
        """What would be free without the reserve."""
        return self.free_bytes + self.held_bytes


class ReserveRule:
    """Decides from measured space; without I/O and without a clock.

    Args:
        wanted_bytes: size of the reserve; 0: there is none, and nobody is refused.
    """

    def __init__(self, wanted_bytes: int) -> None:
        self.wanted_bytes = wanted_bytes
        self.read_only = False
        """Whether ordinary writers are refused."""

    @property
    def stop_bytes(self) -> int:
        """Ordinary writers stop when there is less room than this."""
        return self.wanted_bytes + self.wanted_bytes // 4

    @property
    def go_bytes(self) -> int:
        """They go on, and the reserve is made again, when there is so much room."""
        return self.wanted_bytes + self.wanted_bytes // 2

    def see(self, space: Space) -> bool:
        """Take a measurement; returns whether :attr:`read_only` has changed."""
        before = self.read_only
        limit = self.go_bytes if before else self.stop_bytes
        self.read_only = space.room_bytes < limit
        return self.read_only is not before

    def releases(self, space: Space) -> bool:
        """Whether somebody essential who wants to write needs what the reserve holds."""
        return space.held_bytes > 0 and space.free_bytes < self.stop_bytes - self.wanted_bytes

    def makes(self, space: Space) -> bool:
        """Whether the reserve is to be made (or made larger) now; not while anybody was refused."""
        is_short = space.held_bytes < self.wanted_bytes
        return is_short and not self.read_only and space.room_bytes >= self.go_bytes


class ReserveStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """As last seen, and counters since the start of this plane."""

    read_only: bool = False
    free_bytes: int = 0
    held_bytes: int = 0
    wanted_bytes: int = 0
    looks: int = 0
    changes: int = 0
    """How often the disk was found full, or not full any more."""
    refused: int = 0
    """Ordinary writes that were refused."""
    released: int = 0
    made: int = 0
    failures: int = 0
    """Attempts to look, to release or to make that the system refused."""


class FailingJournal(Protocol):
    """The part of a journal that matters to somebody who makes way."""

    @property
    def is_full(self) -> bool:
        """Whether it takes no writes because the disk was full."""
        ...

    async def resume(self) -> None:
        """Try again to write; ``Unavailable`` when that fails."""
        ...


def measure(file: Path) -> Space | None:
    """The space of the file system that holds ``file``'s directory; ``None`` when it does not say.

    Raises:
        OSError: the directory is not there.
    """
    place = os.statvfs(file.parent)
    if not place.f_blocks:
        return None
    try:
        held = file.lstat().st_blocks * 512
    except FileNotFoundError:
        held = 0
    return Space(place.f_bavail * place.f_frsize, held)


class Reserve:
    """The reserve as one plane sees it.

    Args:
        file: where it lies (``Paths.reserve``).
        wanted_bytes: ``journals.reserve_bytes``; 0: nothing is measured, nobody is refused.
        now: monotonic seconds.
        measured: looks; the operating system by default.
    """

    def __init__(
        self,
        file: Path,
        wanted_bytes: int,
        *,
        now: Callable[[], float] = time.monotonic,
        measured: Callable[[Path], Space | None] = measure,
    ) -> None:
        self.rule = ReserveRule(wanted_bytes)
        self._file = file
        self._now = now
        self._measured = measured
        self._space = Space(0, 0)
        self._limited = False  # as long as nothing was seen
        self._look_at = -1.0
        self._resume_at = -1.0
        self._allowance = 0
        self._keeps = False
        self._changed = trio.Event()
        self._makes = True
        self._refusal: str | None = None
        self._looks = self._changes = self._refused = self._released = self._made = self._failures = 0

    # -- who writes --------------------------------------------------------------------------------------

    @property
    def read_only(self) -> bool:
        """Whether ordinary writers are refused, as last seen."""
        return self.rule.read_only

    @property
    def space(self) -> Space:
        """As last seen."""
        return self._space

    def is_full(self) -> bool:
        """Whether ordinary writers are refused now; looks when the last look is a second old."""
        if self.rule.wanted_bytes and (self._now() >= self._look_at or self._allowance < 0):
            self.look()
        return self.rule.read_only

    @property
    def _beyond(self) -> float:
        """Room above the limit of ordinary writers, as last seen."""
        return self._space.room_bytes - self.rule.stop_bytes if self._limited else math.inf

    def spend(self, size_bytes: int) -> None:
        """An ordinary writer has written about so much: the next look may come sooner."""
        self._allowance -= size_bytes

    def check(self, owed_bytes: int = 0) -> None:
        """Let an ordinary writer pass.

        Args:
            owed_bytes: what it has accepted before and still has to write.

        Raises:
            Unavailable: ``DISK_FULL``.
        """
        if self.is_full() or self._beyond < owed_bytes:
            self._refused += 1
            raise Unavailable(self.words, code=DISK_FULL, remedy=_REMEDY)

    @property
    def words(self) -> str:
        """Why ordinary writers are refused, for people."""
        return f"the disk is full, {self._space.free_bytes >> 20} MiB free"

    def reasons(self) -> tuple[str, ...]:
        """For a health report; looks."""
        self.look()
        return (f"read-only: {self.words}",) if self.rule.read_only else ()

    def facts(self) -> dict[str, str | int | float | bool]:
        """For a health report, as last seen."""
        if not self.rule.wanted_bytes:
            return {}
        return {
            "read_only": self.rule.read_only,
            "disk_free_bytes": self._space.free_bytes,
            "reserve_bytes": self._space.held_bytes,
        }

    async def make_way(self, *journals: FailingJournal) -> None:
        """Before something essential is written: release the reserve when it is needed, wake ``journals``.

        Never raises for a disk that refuses: the write itself tells.
        """
        if not self.rule.wanted_bytes:
            return
        self.look()
        if self.rule.releases(self._space):
            await trio.to_thread.run_sync(self._release)
            self.look()
        full = [journal for journal in journals if journal.is_full]
        if full and self._space.free_bytes and self._now() >= self._resume_at:
            self._resume_at = self._now() + _LOOK_S
            for journal in full:
                with suppress(FluxbeeError):  # it stays failed, and says so to whoever writes
                    await journal.resume()

    async def fits(self, size_bytes: int, *journals: FailingJournal) -> bool:
        """Whether something large that ends in more room (a base image) should be written now.

        On a full disk only what surely fits, the reserve included: a failed attempt wears flash for nothing.
        """
        if not self.rule.read_only:
            return True
        self.look()
        return await self._squeezed(size_bytes, journals)

    async def _squeezed(self, size_bytes: int, journals: Sequence[FailingJournal]) -> bool:
        if not self.rule.read_only:
            return True
        if size_bytes >= self._space.room_bytes:
            return False
        await self.make_way(*journals)
        return size_bytes < self._space.free_bytes

    # -- looking -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Measure now."""
        if not self.rule.wanted_bytes:
            return
        self._look_at = self._now() + _LOOK_S
        self._looks += 1
        try:
            space = self._measured(self._file)
        except OSError:
            self._failures += 1
            return
        if space is None:
            return
        self._space, self._limited = space, True
        changed = self.rule.see(space)
        self._allowance = max(space.room_bytes - self.rule.stop_bytes, 0) // _SPEND_SHARE
        if changed:
            self._changes += 1
            self._changed.set()
            self._tell()

    def _tell(self) -> None:
        if not self._keeps:
            return  # one plane speaks for all
        free_mib = self._space.free_bytes >> 20
        if self.rule.read_only:
            log.warning("disk_full", code=DISK_FULL, free_mib=free_mib, remedy=_REMEDY)
        else:
            log.info("disk_has_room", free_mib=free_mib)

    # -- the file ----------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Make the reserve whenever there is room for it, until cancelled. One plane does this."""
        self._keeps = True
        if not self.rule.wanted_bytes:
            await trio.to_thread.run_sync(self._release)  # the setting was taken back
            return
        self.look()
        if self._space.held_bytes > self.rule.stop_bytes:
            await trio.to_thread.run_sync(self._release)  # the setting became smaller
        while True:
            self.look()
            if self._makes and self.rule.makes(self._space):
                await trio.to_thread.run_sync(self._make)
                self.look()
            self._changed = trio.Event()
            with trio.move_on_after(_KEEP_FULL_S if self.rule.read_only else _KEEP_S):
                await self._changed.wait()

    def _release(self) -> None:
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            self._failures += 1
            log.warning("reserve_not_released", code="RESERVE_NOT_RELEASED", error=str(error))
            return
        self._released += 1
        if self.rule.wanted_bytes:
            log.warning("reserve_released", code="RESERVE_RELEASED", size_bytes=self._space.held_bytes)

    def _make(self) -> None:
        """Allocate the file; where that does not hold space there is none, until the next start."""
        wanted = self.rule.wanted_bytes
        try:
            fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, wanted)
                held = os.fstat(fd).st_blocks * 512
            finally:
                os.close(fd)
            if held < wanted:
                raise OSError(f"only {held} of {wanted} bytes are held")
        except OSError as error:
            self._not_made(error)
            return
        self._made += 1
        self._refusal = None
        log.info("reserve_made", size_bytes=wanted)

    def _not_made(self, error: OSError) -> None:
        self._failures += 1
        self._makes = error.errno in _PASSING
        with suppress(OSError):  # it is empty or short; the next attempt goes on with it
            self._file.unlink(missing_ok=True)
        told = str(storage_error(error, str(self._file)))
        if told != self._refusal:
            log.warning("reserve_not_made", code="RESERVE_NOT_MADE", error=told)
        self._refusal = told

    def statistics(self) -> ReserveStatistics:
        """A snapshot."""
        return ReserveStatistics(
            read_only=self.rule.read_only,
            free_bytes=self._space.free_bytes,
            held_bytes=self._space.held_bytes,
            wanted_bytes=self.rule.wanted_bytes,
            looks=self._looks,
            changes=self._changes,
            refused=self._refused,
            released=self._released,
            made=self._made,
            failures=self._failures,
        )


NO_RESERVE: Final = Reserve(Path("reserve"), 0)
"""For tools and tests: nobody is refused, nothing is released."""
