"""Turning frames into finished bytes at a place: the jobs that write groups, segments and marks.

``Placer`` knows the directory and the journal's identity; it gives each group its position, its stamps and
its checksum, and each new segment a header that names the valid end of the one before. It decides nothing
about when, and changes no state but the index of the newest segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.store.journal_format import (
    FLAG_CLEAN,
    FLAG_MARK,
    HEADER_SIZE,
    SECTOR,
    SegmentHeader,
    pack_header,
)
from appliance.store.journal_jobs import CloseJob, Roll, WriteJob
from appliance.store.journal_pending import Frame, Tail
from appliance.store.journal_types import JournalSpec

__all__ = ["Placer"]

_ZEROS = memoryview(bytes(1 << 20))
_SMALL = 16


class Placer:
    """See the module.

    Args:
        directory: of the journal.
        spec: of the journal.
        journal_id: 16 bytes, the same in every header.
        last_index: highest segment index ever used here.
        wall_ms: wall clock for stamps.
    """

    def __init__(
        self,
        directory: Path,
        spec: JournalSpec,
        journal_id: bytes,
        last_index: int,
        wall_ms: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._journal_id = journal_id
        self._last_index = last_index
        self._wall_ms = wall_ms

    def groups(self, tail: Tail, frames: Sequence[Frame], run_s: int, *, sync: bool) -> WriteJob:
        """Append ``frames`` to the active segment.

        A small synced write that would make the file longer writes zeros behind itself: the next ones then
        change no metadata (see ``JournalSpec.zero_ahead_bytes``).
        """
        buffers, end = self._frame(frames, tail, tail.offset, tail.synced, run_s)
        zeros = max(tail.mark_end - end, 0)  # a mark must not outlive what it stands behind
        ahead = self._spec.zero_ahead_bytes
        if sync and end > tail.zeroed and end - tail.offset <= ahead // _SMALL:
            zeros = max(min(ahead, self._spec.segment_bytes - end), zeros)
        if zeros:
            buffers.append(_ZEROS[:zeros])
        job = WriteJob(tail, buffers, tail.offset, sync=sync)
        return _carry(job, frames, end, max(tail.zeroed, end + zeros))

    def segment(
        self,
        frames: Sequence[Frame],
        first_seq: int,
        run_s: int,
        *,
        old: Tail | None,
        prev: tuple[int, int],
        finish: bool,
        probe: int = 0,
    ) -> WriteJob:
        """Start a new segment with ``frames``, possibly none.

        Args:
            first_seq: its first sequence number.
            run_s: running time of the journal.
            old: the segment to close, if one is open.
            prev: index and valid end of the segment before, for the header.
            finish: the old segment is in order: cut and sync it first.
            probe: bytes of zeros that must fit on the device as well.
        """
        self._last_index += 1
        tail = Tail(self._last_index, first_seq, run_s=run_s)
        header = SegmentHeader(
            index=tail.index,
            first_seq=first_seq,
            journal_id=self._journal_id,
            prev_index=prev[0],
            prev_end=prev[1],
            wall_ms=self._wall_ms(),
            run_s=run_s,
            kind=1 if self._spec.kind == "state" else 0,
        )
        groups, end = self._frame(frames, tail, HEADER_SIZE, 0, run_s)
        roll = Roll(
            self._directory,
            tail.name,
            old_fd=None if old is None else old.fd,
            old_end=0 if old is None else old.offset,
            cut=old is not None and old.zeroed > old.offset,
            finish=finish,
        )
        buffers = [pack_header(header), *groups, _ZEROS[:probe]]
        return _carry(WriteJob(tail, buffers, 0, sync=True, roll=roll), frames, end, end + probe)

    def mark(self, tail: Tail, run_s: int) -> WriteJob:
        """A mark behind the last group, not synced: it costs no flush of its own."""
        buffers, start, end = self._mark(tail, run_s, FLAG_MARK)
        job = _carry(WriteJob(tail, buffers, start, sync=False), (), tail.offset, max(tail.zeroed, end))
        job.mark_end = end
        return job

    def close(self, tail: Tail, run_s: int) -> CloseJob:
        """The end of an orderly run: a clean mark, synced."""
        buffers, start, _ = self._mark(tail, run_s, FLAG_MARK | FLAG_CLEAN)
        return CloseJob(tail.fd, tail.offset, buffers, start, cut=tail.zeroed > tail.offset)

    def _mark(self, tail: Tail, run_s: int, flags: int) -> tuple[list[bytes | memoryview], int, int]:
        frame = Frame(tail.last_seq + 1)
        frame.flags = flags
        start = -(-tail.offset // SECTOR) * SECTOR
        buffers, end = self._frame([frame], tail, start, tail.synced, run_s)
        return buffers, start, end

    def _frame(
        self, frames: Sequence[Frame], tail: Tail, position: int, synced: int, run_s: int
    ) -> tuple[list[bytes | memoryview], int]:
        buffers: list[bytes | memoryview] = []
        wall_ms = self._wall_ms()
        for frame in frames:
            buffers += frame.buffers(position, synced, wall_ms, run_s, tail.stem)
            position += frame.full_size
        return buffers, position


def _carry(job: WriteJob, frames: Sequence[Frame], end: int, zeroed: int) -> WriteJob:
    job.frames = frames
    job.end = end
    job.zeroed = zeroed
    job.last_seq = frames[-1].first_seq + frames[-1].count - 1 if frames else job.tail.last_seq
    return job
