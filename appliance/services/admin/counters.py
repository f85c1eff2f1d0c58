"""Version numbers of configuration: three small files with one integer each (``spec/admin-api.md §A.10``).

A number is on disk before it is used, and is used up even when the step after it fails. Decisions only need
the current number; :class:`VersionCounters` reads and replaces the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from appliance.store.files import durable_replace, storage_error
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.wire.errors import Conflict, Invalid

__all__ = ["MAX_VERSION", "SUBSYSTEM_FILES", "VersionCounters", "next_version"]

MAX_VERSION: Final = 2**53 - 1
"""Highest version that can be asked for. Every JSON reader holds it, and the owner of a configuration has
room above it: one number too high would leave no successor for ever."""

SUBSYSTEM_FILES: Final = {"routes": "routes-vpns", "vpn": "routes-vpns", "storage": "storage"}
"""File of a subsystem; the others share ``general``."""

_ABSURD: Final = 2**62


def next_version(current: int, requested: int | None, *, at_least: int = 0) -> int:
    """The number to use next.

    Args:
        current: what the file says.
        requested: what the caller asked for.
        at_least: what the owner of the configuration has already; the next number is above it.

    Raises:
        Conflict: ``VERSION_MISMATCH``, ``requested`` is not greater than ``current``.
        Invalid: ``requested`` is above :data:`MAX_VERSION`.
    """
    if requested is None:
        return max(current, at_least) + 1
    if requested > MAX_VERSION:
        raise Invalid(f"version must be at most {MAX_VERSION}", field="version")
    if requested <= current:
        raise Conflict(f"version must be greater than current (current={current})", code="VERSION_MISMATCH")
    return requested


class VersionCounters:
    """The files below ``directory``; one loop, and callers hold the subsystem's turn.

    Attributes:
        bytes_written: to flash, since start.
    """

    def __init__(self, directory: Path, reserve: Reserve = NO_RESERVE) -> None:
        self._directory = directory
        self._reserve = reserve
        self._threads = trio.CapacityLimiter(1)
        self.bytes_written = 0

    def _path(self, subsystem: str) -> Path:
        return self._directory / f"{SUBSYSTEM_FILES.get(subsystem, 'general')}.txt"

    async def current(self, subsystem: str) -> int:
        """The number in the file; 0 without one, or when it holds no number.

        A number that leaves no room above it counts as :data:`MAX_VERSION`, so that numbers can go on.
        """
        return await trio.to_thread.run_sync(_read, self._path(subsystem), limiter=self._threads)

    async def take(self, subsystem: str, requested: int | None = None, *, at_least: int = 0) -> int:
        """Use up the next number; errors as :func:`next_version`.

        Raises:
            Unavailable: the file cannot be written.
        """
        number = next_version(await self.current(subsystem), requested, at_least=at_least)
        await self._store(subsystem, number)
        return number

    async def raise_to(self, subsystem: str, number: int) -> int:
        """The greater of ``number`` and the file's, which the file has afterwards; errors as :meth:`take`."""
        current = await self.current(subsystem)
        if number > current:
            await self._store(subsystem, number)
        return max(number, current)

    async def _store(self, subsystem: str, number: int) -> None:
        await self._reserve.make_way()
        written = await trio.to_thread.run_sync(_write, self._path(subsystem), number, limiter=self._threads)
        self.bytes_written += written


def _read(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii")[:32].strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return 0
    except OSError as error:
        raise storage_error(error, str(path)) from error
    number = int(text) if text.isdigit() else 0
    return number if number < _ABSURD else MAX_VERSION


def _write(path: Path, number: int) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(path.parent)) from error
    return durable_replace(path, f"{number}\n".encode("ascii"), mode=0o644)
