"""What the writer thread does: one finished job at a time, prepared on the loop, mostly one system call.

A job carries bytes, offsets and descriptors; ``run`` only calls the disk and keeps what it learned in its
slots. It decides nothing and retries nothing. After ``run`` raised, nothing that the job wrote is trusted.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from appliance.store.journal_pending import Frame, Tail
from appliance.system.disk import Buffer, Disk

__all__ = ["CloseJob", "Job", "Roll", "SyncJob", "TrimJob", "WriteJob"]


class Job:
    """One piece of work; ``error`` says how it ended.

    ``settled`` is for the loop: whether the outcome was taken already (a job can be taken early).
    """

    __slots__ = ("_busy", "error", "settled")

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.settled = False
        self._busy = threading.Lock()  # an Event is four times as dear, and one waiter is all there is
        self._busy.acquire()

    def run(self, disk: Disk) -> None:
        """Do it; raises ``OSError``."""
        raise NotImplementedError

    def perform(self, disk: Disk) -> None:
        """Run and record the outcome; never raises ``OSError``, and looks failed after anything else."""
        self.error = OSError(errno.EIO, "the journal's writer ended unexpectedly")
        try:
            self.run(disk)
            self.error = None
        except OSError as exc:
            self.error = exc
        finally:
            self._busy.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait, on another thread, until ``perform`` ended; False after ``timeout_s``."""
        done = self._busy.acquire(timeout=timeout_s)
        if done:
            self._busy.release()
        return done


class Roll:
    """Closing one segment and starting the next.

    ``old_fd`` None: there is no segment to finish. ``finish`` False: the old one failed and is only closed
    (its valid end is recorded in the new header). Otherwise it is cut to ``old_end`` if it is longer, and
    synced, before the new file exists: whoever finds the new file may trust the old one up to ``old_end``.
    """

    __slots__ = ("cut", "directory", "finish", "name", "old_end", "old_fd")

    def __init__(
        self, directory: Path, name: str, *, old_fd: int | None, old_end: int, cut: bool, finish: bool
    ) -> None:
        self.directory = directory
        self.name = name
        self.old_fd = old_fd
        self.old_end = old_end
        self.cut = cut
        self.finish = finish

    def run(self, disk: Disk, buffers: Sequence[Buffer]) -> tuple[int, int]:
        """Create the new segment with ``buffers`` (header first); returns its descriptor and bytes."""
        if self.old_fd is not None and self.finish:
            if self.cut:
                disk.truncate(self.old_fd, self.old_end)
            disk.sync(self.old_fd)
        path = self.directory / self.name
        fd = disk.create(path)
        try:
            written = disk.pwrite(fd, buffers, 0, sync=True)
            disk.sync_dir(self.directory)
        except OSError:
            self._undo(disk, fd, path)
            raise
        if self.old_fd is not None:
            disk.close(self.old_fd)
        return fd, written

    @staticmethod
    def _undo(disk: Disk, fd: int, path: Path) -> None:
        try:
            disk.close(fd)
            disk.unlink(path)
        except OSError:
            return  # outside the chain of segments it does no harm; the next open removes it


class WriteJob(Job):
    """Groups at the end of ``tail``; with a ``roll``, as the first bytes of a new segment.

    ``end`` and ``last_seq`` say where valid bytes and sequence numbers end when it is done; ``sync``: these
    bytes are on the medium then. ``frames`` are what it carries (none for a mark).
    """

    __slots__ = (
        "buffers",
        "end",
        "frames",
        "last_seq",
        "mark_end",
        "offset",
        "roll",
        "sync",
        "tail",
        "written",
        "zeroed",
    )

    def __init__(
        self, tail: Tail, buffers: Sequence[Buffer], offset: int, *, sync: bool, roll: Roll | None = None
    ) -> None:
        super().__init__()
        self.tail = tail
        self.buffers = buffers
        self.offset = offset
        self.sync = sync
        self.roll = roll
        self.frames: Sequence[Frame] = ()
        self.end = offset
        self.last_seq = 0
        self.zeroed = 0
        self.mark_end = 0
        self.written = 0

    def run(self, disk: Disk) -> None:
        """One ``pwrite``; with a roll, the new segment's first one."""
        if self.roll is not None:
            self.tail.fd, self.written = self.roll.run(disk, self.buffers)
            return
        try:
            self.written = disk.pwrite(self.tail.fd, self.buffers, self.offset, sync=self.sync)
        except OSError:
            # Groups may be there whole, as when only the zeros behind them found no space: the next process
            # would take for stored what was refused.
            with suppress(OSError):
                disk.truncate(self.tail.fd, self.offset)
            raise


class SyncJob(Job):
    """``fdatasync``; covers everything that was written before it was planned: ``end`` and ``last_seq``."""

    __slots__ = ("end", "fd", "last_seq")

    def __init__(self, fd: int, end: int, last_seq: int) -> None:
        super().__init__()
        self.fd = fd
        self.end = end
        self.last_seq = last_seq

    def run(self, disk: Disk) -> None:
        """One call."""
        disk.sync(self.fd)


class TrimJob(Job):
    """Remove files that retention gave up, oldest first; ``left`` are those still there after an error.

    It ends at the first error: a segment missing between two others would look like damage.
    """

    __slots__ = ("directory", "left")

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        super().__init__()
        self.directory = directory
        self.left = list(names)

    def run(self, disk: Disk) -> None:
        """Unlink each, then make the removal itself durable."""
        while self.left:
            with suppress(FileNotFoundError):
                disk.unlink(self.directory / self.left[0])
            del self.left[0]
        disk.sync_dir(self.directory)


class CloseJob(Job):
    """Cut the zeros behind the last group and write the clean mark, synced."""

    __slots__ = ("cut", "fd", "mark", "mark_offset", "offset", "written")

    def __init__(self, fd: int, offset: int, mark: Sequence[Buffer], mark_offset: int, *, cut: bool) -> None:
        super().__init__()
        self.fd = fd
        self.offset = offset
        self.mark = mark
        self.mark_offset = mark_offset
        self.cut = cut
        self.written = 0

    def run(self, disk: Disk) -> None:
        """Truncate if needed, one synced write, close."""
        try:
            if self.cut:
                disk.truncate(self.fd, self.offset)
            self.written = disk.pwrite(self.fd, self.mark, self.mark_offset, sync=True)
        finally:
            disk.close(self.fd)
