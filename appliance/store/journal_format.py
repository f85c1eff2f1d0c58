"""The bytes of a journal: segment headers, groups, records. Pure functions, no I/O.

A segment file is one header, then groups. A group is the unit of writing: head, body (length-prefixed
records), tail, and ONE checksum over all of them, so a group is there whole or not at all. All integers
are big-endian; a record is ``u32 length + bytes``, the framing of the node socket, so that the router can
hand over delivered frames as they are.

Invariants: the checksum also covers the name of the segment and the position in it, so bytes copied from
elsewhere (a journal stored inside a journal) never pass as a group; a head starts and a tail ends with
bytes that are not zero, so a group that was written completely can be told from a torn one by its ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from zlib import crc32

import msgspec

__all__ = [
    "FLAG_CLEAN",
    "FLAG_GAP",
    "FLAG_MARK",
    "GROUP_MAGIC",
    "GROUP_OVERHEAD",
    "HEADER_SIZE",
    "HEAD_SIZE",
    "MAX_BODY_BYTES",
    "SECTOR",
    "TAIL_SIZE",
    "Group",
    "GroupHead",
    "SegmentHeader",
    "clamp_ms",
    "frame_group",
    "join_records",
    "pack_header",
    "parse_head",
    "parse_tail",
    "split_records",
    "tail_distance",
    "unpack_header",
    "verify_group",
]

VERSION = 1
SEGMENT_MAGIC = b"FBXJRNL\x01"
GROUP_MAGIC = b"\xf1GRP"
END_MAGIC = b"PRG\xf2"
SECTOR = 512
"""Smallest unit that a medium writes whole; the grain of the torn-or-flipped decision."""
MAX_BODY_BYTES = 1 << 30

FLAG_MARK = 1
"""No records: says that everything before ``synced`` is on the medium. It stands at the next sector boundary
behind the last group, so that no sector holds parts of both it and what overwrites it."""
FLAG_CLEAN = 2
"""With FLAG_MARK: the journal was closed in order."""
FLAG_GAP = 4
"""``count`` sequence numbers without records; the body is one reason byte."""

_U32 = struct.Struct(">I")
_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1
_HEADER = struct.Struct(">8sHBBIIQ16sQQI")
_HEAD = struct.Struct(">4sBBHQIIIIQII")
_TAIL = struct.Struct(">QI4s")
HEADER_SIZE = _HEADER.size + 4
HEAD_SIZE = _HEAD.size
TAIL_SIZE = _TAIL.size
GROUP_OVERHEAD = HEAD_SIZE + TAIL_SIZE


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment says about itself and the one before it.

    ``prev_index``/``prev_end``: the segment that precedes this one, and where its valid bytes end (0/0 for
    the first). They are what makes a failed write harmless: whatever lies behind ``prev_end`` never
    happened. ``run_s``: seconds this journal had been running when the segment was made (see trimming).
    """

    index: int
    first_seq: int
    journal_id: bytes
    prev_index: int
    prev_end: int
    wall_ms: int
    run_s: int
    kind: int
    version: int = VERSION


class GroupHead(msgspec.Struct, frozen=True):
    """The fixed head of a group, as parsed; trustworthy only after ``verify_group``."""

    flags: int
    first_seq: int
    count: int
    body_bytes: int
    position: int
    synced: int
    wall_ms: int
    run_s: int

    @property
    def size(self) -> int:
        """Bytes of the whole group in the file."""
        return HEAD_SIZE + self.body_bytes + TAIL_SIZE

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record (``first_seq - 1`` for a mark)."""
        return self.first_seq + self.count - 1


class Group(msgspec.Struct, frozen=True):
    """A verified group: ``count`` records from ``first_seq`` on, and where it lies.

    ``synced`` is the offset up to which the segment was known to be on the medium when this was written.
    """

    first_seq: int
    count: int
    at_ms: int
    body: bytes
    offset: int
    end: int
    synced: int
    run_s: int
    flags: int = 0

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record."""
        return self.first_seq + self.count - 1

    def records(self) -> list[bytes]:
        """The records; ``ValueError`` if the body does not hold exactly ``count`` of them."""
        return split_records(self.body, self.count)


def clamp_ms(wall_ms: int) -> int:
    """A wall clock reading as u64: a broken clock must never make a write fail."""
    return min(max(wall_ms, 0), _U64_MAX)


def join_records(records: Iterable[bytes]) -> tuple[bytes, int]:
    """Records as one body; returns it and the number of records."""
    parts: list[bytes] = []
    pack = _U32.pack
    for record in records:
        parts.append(pack(len(record)))
        parts.append(record)
    return b"".join(parts), len(parts) >> 1


def split_records(body: bytes, count: int) -> list[bytes]:
    """Cut a body into its ``count`` records; ``ValueError`` when it does not hold exactly that."""
    records = []
    at, end = 0, len(body)
    unpack = _U32.unpack_from
    while at + 4 <= end:
        start = at + 4
        at = start + unpack(body, at)[0]
        records.append(body[start:at])
    if at != end or len(records) != count:
        raise ValueError(f"body of {end} bytes does not hold {count} records")
    return records


def pack_header(header: SegmentHeader) -> bytes:
    """Header bytes (``HEADER_SIZE``) with their checksum."""
    data = _HEADER.pack(
        SEGMENT_MAGIC,
        header.version,
        header.kind,
        0,
        header.index,
        header.prev_index,
        header.first_seq,
        header.journal_id,
        header.prev_end,
        clamp_ms(header.wall_ms),
        header.run_s,
    )
    return data + _U32.pack(crc32(data))


def unpack_header(data: bytes) -> SegmentHeader | None:
    """Header from its bytes, or None when it is not one or fails its checksum."""
    if len(data) < HEADER_SIZE or _U32.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size]):
        return None
    magic, version, kind, spare, index, prev, first, journal_id, end, wall, run = _HEADER.unpack_from(data)
    if magic != SEGMENT_MAGIC or spare != 0:
        return None
    return SegmentHeader(
        index=index,
        first_seq=first,
        journal_id=journal_id,
        prev_index=prev,
        prev_end=end,
        wall_ms=wall,
        run_s=run,
        kind=kind,
        version=version,
    )


def frame_group(
    chunks: Sequence[bytes], body_crc: int, head: GroupHead, stem: bytes
) -> tuple[bytes, Sequence[bytes], bytes]:
    """Head and tail for a body whose ``crc32`` is known already; returns (head, chunks, tail).

    The body's checksum is taken while it is collected; only head, last sequence and the segment's name are
    added here. ``stem`` is the segment's file name without its ending.
    """
    front = _HEAD.pack(
        GROUP_MAGIC,
        VERSION,
        head.flags,
        0,
        head.first_seq,
        head.count,
        head.body_bytes,
        head.position,
        head.synced,
        clamp_ms(head.wall_ms),
        min(head.run_s, _U32_MAX),
        0,
    )
    last_seq = head.first_seq + head.count - 1
    return front, chunks, _TAIL.pack(last_seq, _seal(body_crc, front, last_seq, stem), END_MAGIC)


def _seal(body_crc: int, front: bytes, last_seq: int, stem: bytes) -> int:
    return crc32(front + last_seq.to_bytes(8, "big") + stem, body_crc)


def parse_head(data: bytes, position: int) -> GroupHead | None:
    """The head at file offset ``position``, or None when the bytes cannot be one."""
    if len(data) < HEAD_SIZE:
        return None
    magic, version, flags, spare, first, count, body, at, synced, wall, run, spare2 = _HEAD.unpack_from(data)
    if magic != GROUP_MAGIC or version != VERSION or at != position or body > MAX_BODY_BYTES:
        return None
    if spare or spare2 or synced > at:
        return None
    return GroupHead(flags, first, count, body, at, synced, wall, run)


def parse_tail(data: bytes) -> tuple[int, int] | None:
    """(last_seq, checksum) of a group's last ``TAIL_SIZE`` bytes, or None without the end mark."""
    if len(data) != TAIL_SIZE or data[-4:] != END_MAGIC:
        return None
    last_seq, crc, _ = _TAIL.unpack(data)
    return last_seq, crc


def tail_distance(data: bytes, last_seq: int) -> int:
    """How many bits of a group's tail, its checksum aside, differ from what they should be."""
    found = int.from_bytes(data[:8] + data[-4:], "big")
    wanted = int.from_bytes(last_seq.to_bytes(8, "big") + END_MAGIC, "big")
    return (found ^ wanted).bit_count()


def verify_group(data: bytes, head: GroupHead, stem: bytes) -> Group | None:
    """The group in ``data`` (exactly its bytes), or None when any bit of it is not as written."""
    tail = parse_tail(data[-TAIL_SIZE:])
    if len(data) != head.size or tail is None or tail[0] != head.last_seq:
        return None
    body = data[HEAD_SIZE:-TAIL_SIZE]
    if _seal(crc32(body), data[:HEAD_SIZE], tail[0], stem) != tail[1]:
        return None
    return Group(
        first_seq=head.first_seq,
        count=head.count,
        at_ms=head.wall_ms,
        body=body,
        offset=head.position,
        end=head.position + head.size,
        synced=head.synced,
        run_s=head.run_s,
        flags=head.flags,
    )
