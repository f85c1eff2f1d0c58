"""Copies of region environments for nodes and tools.

Only planes open live environments, because a reader that is stopped inside a transaction fills the map
(``design.md §5``). Everybody else reads a compacted copy that never changes: the owner writes it beside the
last one and renames it into place, at most once a second and for at most 1 % of the time. Invariants: a copy
is complete and of one moment; a reader keeps the copy it has while it looks at it; a failed copy leaves the
last one. Nothing is synced: copies lie on tmpfs and are made anew at every start.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from appliance.wire.errors import Busy, FluxbeeError

from .files import storage_error
from .region_reader import RegionReader
from .region_statistics import EnvironmentStatistics
from .region_table import RegionSpec

__all__ = ["REGION_TOO_LARGE", "PublishSchedule", "PublishedRegion", "Publisher", "PublisherStatistics"]

REGION_TOO_LARGE = "REGION_TOO_LARGE"

MIN_INTERVAL_S = 1.0
TIME_SHARE = 0.01
MAX_COPY_BYTES = 64 << 20


class PublishSchedule:
    """When the next copy may start. Sans-IO; ``now`` is monotonic seconds.

    Args:
        min_interval_s: between the starts of two copies.
        time_share: part of the time that copying may take: 0.01 makes a copy of 50 ms wait 5 s for the next.
    """

    __slots__ = ("_changed", "_earliest", "_min_interval_s", "_started", "_time_share")

    def __init__(self, *, min_interval_s: float = MIN_INTERVAL_S, time_share: float = TIME_SHARE) -> None:
        self._min_interval_s = min_interval_s
        self._time_share = time_share
        self._changed = False
        self._started: float | None = None
        self._earliest = float("-inf")

    def changed(self) -> None:
        """There is something that the last copy does not have."""
        self._changed = True

    def wait_s(self, now: float) -> float | None:
        """Seconds until a copy should start, 0 for at once; ``None`` while nothing is to be done."""
        if not self._changed or self._started is not None:
            return None
        return max(0.0, self._earliest - now)

    def begin(self, now: float) -> None:
        """A copy starts; what changes from here on is for the next one."""
        self._changed = False
        self._started = now

    def finish(self, took_s: float, *, done: bool) -> None:
        """The copy ended after ``took_s`` seconds; without success it is tried again in its turn."""
        started = 0.0 if self._started is None else self._started
        self._earliest = started + max(self._min_interval_s, took_s / self._time_share)
        self._started = None
        self._changed |= not done


class PublisherStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one publisher since its start; sizes in bytes, times in seconds."""

    copies: int = 0
    failures: int = 0
    bytes_written: int = 0
    last_bytes: int = 0
    last_took_s: float = 0.0
    last_error: str = ""


class Source(Protocol):
    """What is published: :class:`appliance.store.region.Environment`, or a stand-in."""

    def copy_to(self, fd: int) -> None:
        """Write a compacted copy to ``fd``."""
        ...

    def statistics(self) -> EnvironmentStatistics:
        """Figures; ``used_bytes`` is looked at."""
        ...


class Publisher:
    """Keeps one published copy up to date.

    Args:
        source: the environment; call :meth:`notify` after its changes (``env.on_change``).
        path: where the copy appears.
        schedule: pace.
        mode: permission bits of the copy.
        gid: group of the copy, so that nodes of other users may read it; ``None`` leaves it.
        max_bytes: a larger environment is not copied but counted as a failure.
        limiter: of the threads that copy.
    """

    def __init__(
        self,
        source: Source,
        path: Path,
        *,
        schedule: PublishSchedule | None = None,
        mode: int = 0o640,
        gid: int | None = None,
        max_bytes: int = MAX_COPY_BYTES,
        limiter: trio.CapacityLimiter | None = None,
    ) -> None:
        self._source = source
        self._path = path
        self._schedule = schedule or PublishSchedule()
        self._mode = mode
        self._gid = gid
        self._max_bytes = max_bytes
        self._limiter = limiter
        self._wake = trio.Event()
        self._statistics = PublisherStatistics()

    def notify(self, regions: object = None) -> None:
        """Something changed; to be called on the loop that runs :meth:`run`."""
        self._schedule.changed()
        self._wake.set()

    def statistics(self) -> PublisherStatistics:
        """Figures since the start."""
        return self._statistics

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish now and after changes, for ever; started means that the first copy was tried."""
        self._schedule.changed()
        started = False
        while True:
            wait_s = self._schedule.wait_s(trio.current_time())
            if wait_s is None:
                self._wake = trio.Event()
                await self._wake.wait()
            elif wait_s > 0:
                await trio.sleep(wait_s)
            else:
                await self._publish_in_thread()
                if not started:
                    started = True
                    task_status.started()

    async def _publish_in_thread(self) -> None:
        self._schedule.begin(trio.current_time())
        begun = time.perf_counter()
        done = False
        try:
            await trio.to_thread.run_sync(self.publish, limiter=self._limiter)
            done = True
        except FluxbeeError as error:
            self._statistics = msgspec.structs.replace(
                self._statistics, failures=self._statistics.failures + 1, last_error=str(error)
            )
        finally:
            self._schedule.finish(time.perf_counter() - begun, done=done)

    def publish(self) -> int:
        """Make one copy now; blocks. Returns its size in bytes.

        Raises:
            Busy: ``REGION_TOO_LARGE``.
            Unavailable: no space, or the environment was closed.
        """
        used_bytes = self._source.statistics().used_bytes
        if used_bytes > self._max_bytes:
            text = f"{self._path.name}: {used_bytes} bytes are more than a copy may have ({self._max_bytes})"
            raise Busy(text, code=REGION_TOO_LARGE, retry_after_s=60.0)
        begun = time.perf_counter()
        try:
            size_bytes = self._copy()
        except OSError as error:
            raise storage_error(error, str(self._path)) from error
        self._statistics = msgspec.structs.replace(
            self._statistics,
            copies=self._statistics.copies + 1,
            bytes_written=self._statistics.bytes_written + size_bytes,
            last_bytes=size_bytes,
            last_took_s=time.perf_counter() - begun,
        )
        return size_bytes

    def _copy(self) -> int:
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temp = self._path.with_name(f".{self._path.name}.tmp")
        with suppress(FileNotFoundError):
            temp.unlink()  # of a process that was killed; there is one publisher per path
        fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._source.copy_to(fd)
            if self._gid is not None:
                os.fchown(fd, -1, self._gid)
            os.fchmod(fd, self._mode)
            temp.rename(self._path)
            return os.fstat(fd).st_size
        except BaseException:
            with suppress(FileNotFoundError):
                temp.unlink()
            raise
        finally:
            os.close(fd)


class PublishedRegion(RegionReader):
    """Reads the newest published copy: ``PublishedRegion(path, [SPEC]).get(TABLE, key)``.

    It notices a new copy by itself at the next call; a ``read()`` block or an iterator in progress stays with
    the copy it began with. See :class:`RegionView` for the calls and :class:`RegionReader` for their errors.

    Args:
        path: the copy; it need not exist yet.
        regions: what is going to be read; their schema numbers are checked with every new copy.
    """

    __slots__ = ()

    def __init__(self, path: Path, regions: tuple[RegionSpec, ...] | list[RegionSpec] = ()) -> None:
        super().__init__(path, regions, lock=False)
