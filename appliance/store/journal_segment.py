"""Segment files of a journal directory: their names, headers and order.

A name holds index and first sequence number, ``00000003-00000000000000004711.seg``, so that both survive a
damaged header. Segments form a chain: each header names its predecessor and where that one's valid bytes
end; a file outside the chain is left over from a failed attempt and never was part of the journal. This
module reads and orders; it never writes or repairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.store.journal_format import HEADER_SIZE, VERSION, SegmentHeader, unpack_header
from appliance.store.journal_types import Damage
from appliance.system.disk import Disk
from appliance.wire.errors import Unavailable

__all__ = ["SEGMENT_SUFFIX", "Chain", "Segment", "Snapshot", "StoredSegment", "load_chain", "segment_name"]

SEGMENT_SUFFIX = ".seg"


class Segment(msgspec.Struct, frozen=True):
    """One segment as readers see it: records ``first_seq`` to ``last_seq`` lie before offset ``end``."""

    index: int
    first_seq: int
    last_seq: int
    end: int
    run_s: int = 0

    @property
    def name(self) -> str:
        """File name."""
        return segment_name(self.index, self.first_seq)

    @property
    def stem(self) -> bytes:
        """What every checksum in this file includes."""
        return self.name[: -len(SEGMENT_SUFFIX)].encode()


class Snapshot(msgspec.Struct, frozen=True):
    """The readable part of a journal at one moment: immutable, so threads may share it."""

    segments: tuple[Segment, ...]

    @property
    def first_seq(self) -> int:
        """Lowest sequence number that is still there (or the next one, when there is none)."""
        return self.segments[0].first_seq if self.segments else 1

    @property
    def last_seq(self) -> int:
        """Highest readable sequence number."""
        return self.segments[-1].last_seq if self.segments else 0

    def holding(self, seq: int) -> Segment | None:
        """The segment with record ``seq``, or None."""
        low, high = 0, len(self.segments)
        while low < high:
            middle = (low + high) >> 1
            if self.segments[middle].last_seq < seq:
                low = middle + 1
            else:
                high = middle
        return self.segments[low] if low < len(self.segments) else None


class StoredSegment(msgspec.Struct, frozen=True):
    """A segment file as found: what its name says, its length, and its header unless that is damaged."""

    index: int
    first_seq: int
    size: int
    header: SegmentHeader | None

    @property
    def name(self) -> str:
        """File name."""
        return segment_name(self.index, self.first_seq)


class Chain(msgspec.Struct, frozen=True):
    """The segments of a journal in order, the files that never belonged to it, and what was damaged."""

    segments: tuple[StoredSegment, ...]
    strays: tuple[str, ...]
    damages: tuple[Damage, ...]

    @property
    def journal_id(self) -> bytes | None:
        """Identity of the journal, from any readable header."""
        return next((s.header.journal_id for s in reversed(self.segments) if s.header), None)

    def sealed(self) -> tuple[Segment, ...]:
        """All but the last segment, with the ends that their successors recorded."""
        found = []
        for segment, successor in zip(self.segments, self.segments[1:], strict=False):
            known = successor.header is not None and successor.header.prev_index == segment.index
            end = successor.header.prev_end if known and successor.header else segment.size
            run_s = segment.header.run_s if segment.header else 0
            found.append(Segment(segment.index, segment.first_seq, successor.first_seq - 1, end, run_s))
        return tuple(found)


def segment_name(index: int, first_seq: int) -> str:
    """File name of a segment."""
    return f"{index:08d}-{first_seq:020d}{SEGMENT_SUFFIX}"


def _parse_name(name: str) -> tuple[int, int] | None:
    index, _, rest = name.partition("-")
    first, dot, suffix = rest.partition(".")
    if dot + suffix != SEGMENT_SUFFIX or len(index) != 8 or len(first) != 20:
        return None
    if not (index.isascii() and index.isdigit() and first.isascii() and first.isdigit()):
        return None
    return int(index), int(first)


def _load(disk: Disk, directory: Path, name: str, parsed: tuple[int, int]) -> StoredSegment:
    fd = disk.open_read(directory / name)
    try:
        size = disk.size(fd)
        header = unpack_header(disk.pread(fd, HEADER_SIZE, 0))
    finally:
        disk.close(fd)
    if header is not None and header.version > VERSION:
        raise Unavailable(
            f"{directory / name} was written by a newer version (format {header.version})",
            code="JOURNAL_TOO_NEW",
            remedy="Start the newer version of the program, or move the journal aside.",
        )
    if header is not None and (header.index, header.first_seq) != parsed:
        header = None
    return StoredSegment(parsed[0], parsed[1], size, header)


def load_chain(disk: Disk, directory: Path, skip: Sequence[str] = ()) -> Chain:
    """Find the segments of ``directory`` and order them, newest header first.

    Args:
        disk: where to read.
        directory: of the journal.
        skip: names to leave out (already found to be unusable).

    Raises:
        Unavailable: a header has a newer format.
        OSError: from the disk.
    """
    found = {}
    for name in disk.names(directory):
        parsed = _parse_name(name)
        if parsed is None or name in skip:
            continue
        try:
            found[parsed[0]] = _load(disk, directory, name, parsed)
        except FileNotFoundError:  # trimmed between listing and opening, by a writer in another process
            continue
    return _order(found, directory)


def _order(found: dict[int, StoredSegment], directory: Path) -> Chain:
    chain: list[StoredSegment] = []
    damages: list[Damage] = []
    strays: list[str] = []
    rest = sorted(found)
    while rest:
        segment = found[rest.pop()]
        chain.append(segment)
        if segment.header is None:
            damages.append(Damage(str(directory / segment.name), 0, HEADER_SIZE, "segment header"))
            continue
        while rest and rest[-1] > segment.header.prev_index:
            strays.append(found[rest.pop()].name)
        if rest and rest[-1] < segment.header.prev_index:
            missing = segment_name(segment.header.prev_index, 0)
            damages.append(Damage(str(directory / missing), 0, segment.header.prev_end, "segment missing"))
    chain.reverse()
    return Chain(tuple(chain), tuple(strays), tuple(damages))
