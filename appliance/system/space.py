"""Which file systems are full, or nearly so, for somebody who must say so to people.

A look costs one ``statvfs`` per directory; the kernel answers it from memory. Directories on one file system
are named once. Nothing is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

__all__ = ["Room", "rooms"]

_FULL_BELOW_BYTES = 1 << 20
"""As :func:`appliance.store.files.is_full`: what is less cannot take a small file and its journal record."""
_LOW_BELOW_BYTES = 64 << 20
_LOW_SHARE = 20


class Room(msgspec.Struct, frozen=True):
    """A directory whose file system has little room left: ``free_bytes`` for programs without privileges."""

    place: Path
    free_bytes: int

    @property
    def full(self) -> bool:
        """Whether there is not enough for a small file."""
        return self.free_bytes < _FULL_BELOW_BYTES

    def __str__(self) -> str:
        word = "full" if self.full else "nearly full"
        return f"the disk of {self.place} is {word}: {self.free_bytes // 1024} KiB are left"


def rooms(places: Iterable[Path]) -> list[Room]:
    """Those of ``places`` that have less than 64 MiB and less than a twentieth left; one per file system."""
    found: dict[int, Room] = {}
    for place in places:
        with suppress(OSError):  # it is not there yet, or does not say
            device, seen = os.stat(place).st_dev, os.statvfs(place)
            free_bytes = seen.f_bavail * seen.f_frsize
            share = seen.f_blocks * seen.f_frsize // _LOW_SHARE
            if free_bytes < max(_FULL_BELOW_BYTES, min(_LOW_BELOW_BYTES, share)):
                found.setdefault(device, Room(place, free_bytes))
    return list(found.values())
