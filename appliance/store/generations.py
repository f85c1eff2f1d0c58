"""One page of memory that says, for every region, how often it has changed.

A file on tmpfs of 512 u64 words in host order, mapped by owners and readers: word 0 is a magic number, word
``SLOTS[region]`` the region's generation. Reading costs tens of nanoseconds and no system call, so a loop can
look once per turn; an eventfd wakes readers that sleep. Invariants: a word has one writing process; a word
never goes back; the page is never replaced while the box runs, so nobody maps an outdated one.

It relies on an aligned 8-byte store and load being one instruction: ``memoryview.cast("Q")`` copies 8 bytes,
which compilers turn into a single move on 64-bit x86 and ARM (a test tries to catch it). The announcement
follows the commit, and a commit is a system call: who sees the new number finds at least that commit.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

import msgspec

from appliance.wire.errors import Misconfigured, NotFound

from .files import storage_error

__all__ = ["PAGE_BYTES", "SLOTS", "THREAD_TOP", "GenerationPage", "GenerationStatistics", "slot_of"]

PAGE_BYTES = 4096
_MAGIC = int.from_bytes(b"FXBGEN01", "big")
_ONE = struct.pack("=Q", 1)

SLOTS = {
    "router": 1,
    "node": 2,
    "config": 3,
    "lsa": 4,
    "opa": 5,
    "identity": 6,
    "memory": 7,
    "world": 8,
    "thread": 9,
}
"""Word of every region. Numbers are part of the file's layout: never reuse one; 11 to 511 are free."""

THREAD_TOP = 10
"""Word of the router alone: the highest thread number reserved in this boot. Its page has its memory already,
so a full disk cannot refuse it."""


def slot_of(region: str) -> int:
    """Word number of ``region``; raises ``Misconfigured`` when the registry does not know it."""
    try:
        return SLOTS[region]
    except KeyError:
        raise Misconfigured(f"region {region!r} is not in the generation registry") from None


class GenerationStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What this process announced."""

    announcements: int
    wakes: int
    wakes_failed: int
    """Wake-ups that an eventfd refused for another reason than being set already."""


class GenerationPage:
    """The mapped page. Get one from :meth:`create` (planes) or :meth:`open` (readers)."""

    __slots__ = ("_announcements", "_map", "_wakers", "_wakes", "_wakes_failed", "words")

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        self.words = memoryview(mapped).cast("Q")
        """All words; ``words[SLOTS["config"]]`` is the cheapest check there is."""
        self._wakers: list[int] = []
        self._announcements = 0
        self._wakes = 0
        self._wakes_failed = 0

    @classmethod
    def create(cls, path: Path) -> Self:
        """Map the page for writing and make it if needed; several processes may do so at once.

        A file that is not a generation page is overwritten in place.

        Raises:
            Unavailable: no space for it, or the file system fails.
        """
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(path, flags, 0o644)
            try:
                # Blocks first: a store into a hole of a full tmpfs would be a SIGBUS.
                os.posix_fallocate(fd, 0, PAGE_BYTES)
                page = cls(mmap.mmap(fd, PAGE_BYTES))
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, str(path)) from error
        if page.words[0] != _MAGIC:
            if any(page.words):
                page._map[:] = bytes(PAGE_BYTES)
            page.words[0] = _MAGIC
        return page

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the page for reading.

        Raises:
            NotFound: no plane has made it yet, or what is there is not a generation page.
            Unavailable: it cannot be read.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_size < PAGE_BYTES:
                    raise NotFound(f"{path}: not a generation page")
                page = cls(mmap.mmap(fd, PAGE_BYTES, prot=mmap.PROT_READ))
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, str(path)) from error
        if page.words[0] != _MAGIC:
            page.close()
            raise NotFound(f"{path}: not a generation page")
        return page

    def get(self, slot: int) -> int:
        """Generation in word ``slot``; 0 until the region was first announced."""
        return self.words[slot]

    def getter(self, slot: int) -> Callable[[], int]:
        """A call without arguments that does what :meth:`get` does, for hot loops."""
        return partial(self.words.__getitem__, slot)

    def announce(self, slot: int, generation: int) -> None:
        """Publish ``generation`` (never smaller than before) and wake who waits; the owner's call.

        Raises:
            ValueError: the number would go back, or the slot is not one.
        """
        words = self.words
        if not 0 < slot < len(words) or generation < words[slot]:
            raise ValueError(f"generation {generation} for word {slot}")
        words[slot] = generation
        self._announcements += 1
        for fd in self._wakers:
            self._wake(fd)

    def _wake(self, fd: int) -> None:
        try:
            os.write(fd, _ONE)
        except OSError as error:
            if error.errno == errno.EAGAIN:  # its counter is full: the reader has not even looked
                self._wakes += 1
            else:
                self._wakes_failed += 1
        else:
            self._wakes += 1

    def add_waker(self, fd: int) -> None:
        """Write 1 to the eventfd ``fd`` (non-blocking, the caller's) at every announcement from here."""
        self._wakers.append(fd)

    def remove_waker(self, fd: int) -> None:
        """Stop writing to ``fd``; call it before closing the descriptor."""
        self._wakers.remove(fd)

    def statistics(self) -> GenerationStatistics:
        """What this process announced so far."""
        return GenerationStatistics(
            announcements=self._announcements, wakes=self._wakes, wakes_failed=self._wakes_failed
        )

    def close(self) -> None:
        """Unmap; calls from :meth:`getter` fail afterwards."""
        self.words.release()
        self._map.close()
