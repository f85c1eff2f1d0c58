from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.journal_format import (
    FLAG_GAP,
    HEAD_SIZE,
    HEADER_SIZE,
    TAIL_SIZE,
    Group,
    GroupHead,
    SegmentHeader,
    clamp_ms,
    frame_group,
    join_records,
    pack_header,
    parse_head,
    parse_tail,
    split_records,
    tail_distance,
    unpack_header,
    verify_group,
)

STEM = b"00000001-00000000000000000001"
U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)


def framed(body: bytes, count: int, first_seq: int = 1, position: int = HEADER_SIZE, **kw: int) -> bytes:
    fields = {"flags": 0, "synced": 0, "wall_ms": 5, "run_s": 6, **kw}
    head = GroupHead(
        fields["flags"],
        first_seq,
        count,
        len(body),
        position,
        fields["synced"],
        fields["wall_ms"],
        fields["run_s"],
    )
    front, chunks, tail = frame_group([body], crc32(body), head, STEM)
    return front + b"".join(chunks) + tail


def parsed(data: bytes, position: int = HEADER_SIZE, stem: bytes = STEM) -> Group | None:
    head = parse_head(data[:HEAD_SIZE], position)
    return None if head is None else verify_group(data, head, stem)


@given(st.lists(st.binary(max_size=50)))
def test_records_come_back_as_they_went_in(records: list[bytes]) -> None:
    body, count = join_records(records)
    assert count == len(records)
    assert split_records(body, count) == records


def test_a_record_is_framed_as_on_the_node_socket() -> None:
    assert join_records([b"ab", b""]) == (b"\0\0\0\2ab\0\0\0\0", 2)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"\0\0\0\1a", 2),
        (b"\0\0\0\1a", 0),
        (b"\0\0\0\2a", 1),
        (b"\0\0\0", 0),
        (b"\0\0\0\1a\0", 1),
        (b"\xff\xff\xff\xff", 1),
    ],
)
def test_a_body_that_does_not_hold_its_records_is_refused(body: bytes, count: int) -> None:
    with pytest.raises(ValueError, match="does not hold"):
        split_records(body, count)


@given(U64, U64, U32, st.binary(min_size=16, max_size=16), U32, U64, U32, st.integers(0, 2))
def test_a_header_comes_back(
    first: int, wall: int, run_s: int, journal_id: bytes, index: int, end: int, prev: int, kind: int
) -> None:
    header = SegmentHeader(
        index=index,
        first_seq=first,
        journal_id=journal_id,
        prev_index=prev,
        prev_end=end,
        wall_ms=wall,
        run_s=run_s,
        kind=kind,
    )
    data = pack_header(header)
    assert len(data) == HEADER_SIZE
    assert unpack_header(data + b"more") == header


def test_every_flipped_bit_of_a_header_is_noticed() -> None:
    data = pack_header(
        SegmentHeader(
            index=1, first_seq=2, journal_id=b"j" * 16, prev_index=0, prev_end=0, wall_ms=3, run_s=4, kind=0
        )
    )
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unpack_header(bytes(flipped)) is None, bit
    assert unpack_header(data[:-1]) is None
    assert unpack_header(b"") is None


@given(st.lists(st.binary(max_size=30), min_size=1), st.integers(1, 1 << 62), U64, U32)
def test_a_group_comes_back(records: list[bytes], first: int, wall_ms: int, run_s: int) -> None:
    body, count = join_records(records)
    group = parsed(framed(body, count, first, wall_ms=wall_ms, run_s=run_s))
    assert group is not None
    assert (group.first_seq, group.count, group.last_seq) == (first, count, first + count - 1)
    assert (group.at_ms, group.run_s, group.records()) == (wall_ms, run_s, records)
    assert group.end == HEADER_SIZE + len(body) + HEAD_SIZE + TAIL_SIZE


def test_every_flipped_bit_of_a_group_is_noticed() -> None:
    body, count = join_records([b"hello", b"\0" * 20, b"world"])
    data = framed(body, count)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert parsed(bytes(flipped)) is None, bit


def test_a_group_holds_only_in_its_place() -> None:
    body, count = join_records([b"hello"])
    data = framed(body, count)
    assert parsed(data) is not None
    assert parsed(data, HEADER_SIZE + 1) is None
    assert parsed(data, stem=b"00000002-00000000000000000001") is None
    assert parsed(data[:-1]) is None
    assert parsed(data + b"x") is None


def test_a_gap_group_counts_numbers_without_records() -> None:
    group = parsed(framed(b"\1", 1000, 5, flags=FLAG_GAP))
    assert group is not None
    assert (group.first_seq, group.last_seq, group.body) == (5, 1004, b"\1")


def test_a_broken_clock_does_not_stop_a_write() -> None:
    assert clamp_ms(-5) == 0
    assert clamp_ms(1 << 70) == (1 << 64) - 1
    assert parsed(framed(b"\0\0\0\0", 1, wall_ms=-1_000_000, run_s=1 << 40)) is not None


def test_the_tail_tells_the_last_number() -> None:
    data = framed(*join_records([b"a", b"b", b"c"]), 10)
    assert parse_tail(data[-TAIL_SIZE:]) == (12, int.from_bytes(data[-8:-4], "big"))
    assert parse_tail(data[-TAIL_SIZE:-1] + b"x") is None
    assert parse_tail(b"") is None


def test_distance_counts_differing_bits() -> None:
    tail = framed(*join_records([b"a"]), 7)[-TAIL_SIZE:]
    assert tail_distance(tail, 7) == 0
    assert tail_distance(tail, 6) == 1
    assert tail_distance(tail[:-1] + bytes([tail[-1] ^ 3]), 7) == 2
