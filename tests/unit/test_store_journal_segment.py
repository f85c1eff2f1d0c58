from __future__ import annotations

from pathlib import Path

import pytest

from appliance.store.journal_format import HEADER_SIZE, SegmentHeader, pack_header
from appliance.store.journal_segment import Segment, Snapshot, load_chain, segment_name
from appliance.testing.faultdisk import CrashDisk
from appliance.wire.errors import Unavailable

HOME = Path("/j")


def header(index: int, first_seq: int, prev: tuple[int, int] = (0, 0), **kw: int) -> bytes:
    return pack_header(
        SegmentHeader(
            index=index,
            first_seq=first_seq,
            journal_id=b"i" * 16,
            prev_index=prev[0],
            prev_end=prev[1],
            wall_ms=1,
            run_s=index * 10,
            kind=0,
            **kw,
        )
    )


def disk_with(*segments: tuple[int, int, bytes], others: tuple[str, ...] = ()) -> CrashDisk:
    files = {HOME / segment_name(index, first): data for index, first, data in segments}
    return CrashDisk(files | {HOME / name: b"x" for name in others})


def test_a_name_sorts_and_tells_both_numbers() -> None:
    assert segment_name(3, 4711) == "00000003-00000000000000004711.seg"
    assert Segment(3, 4711, 4800, 99).stem == b"00000003-00000000000000004711"


def test_the_chain_orders_segments_and_knows_their_ends() -> None:
    disk = disk_with(
        (1, 1, header(1, 1) + b"a" * 500),
        (2, 11, header(2, 11, (1, 400)) + b"b" * 50),
        (3, 21, header(3, 21, (2, 100))),
    )
    chain = load_chain(disk, HOME)
    assert [s.index for s in chain.segments] == [1, 2, 3]
    assert chain.sealed() == (Segment(1, 1, 10, 400, 10), Segment(2, 11, 20, 100, 20))
    assert (chain.strays, chain.damages, chain.journal_id) == ((), (), b"i" * 16)


def test_a_segment_that_nobody_names_is_a_stray() -> None:
    disk = disk_with((1, 1, header(1, 1)), (2, 11, header(2, 11, (1, 90))), (3, 11, header(3, 11, (1, 80))))
    chain = load_chain(disk, HOME)
    assert [s.index for s in chain.segments] == [1, 3]
    assert chain.strays == (segment_name(2, 11),)
    assert chain.sealed()[0].end == 80


def test_a_missing_segment_is_damage_and_its_neighbours_stay() -> None:
    disk = disk_with((1, 1, header(1, 1) + b"a" * 10), (3, 21, header(3, 21, (2, 100))))
    chain = load_chain(disk, HOME)
    assert [s.index for s in chain.segments] == [1, 3]
    assert [d.what for d in chain.damages] == ["segment missing"]
    assert chain.sealed()[0].end == HEADER_SIZE + 10  # nobody knows better than the file itself


def test_trimmed_segments_are_not_missing() -> None:
    chain = load_chain(disk_with((7, 100, header(7, 100, (6, 500)))), HOME)
    assert (len(chain.segments), chain.damages) == (1, ())


def test_a_damaged_header_leaves_the_name_to_go_by() -> None:
    damaged = bytearray(header(2, 11, (1, 90)))
    damaged[5] ^= 1
    disk = disk_with(
        (1, 1, header(1, 1) + b"a" * 33), (2, 11, bytes(damaged)), (3, 21, header(3, 21, (2, 70)))
    )
    chain = load_chain(disk, HOME)
    assert [(s.index, s.first_seq) for s in chain.segments] == [(1, 1), (2, 11), (3, 21)]
    assert [d.what for d in chain.damages] == ["segment header"]
    assert [s.end for s in chain.sealed()] == [HEADER_SIZE + 33, 70]


def test_a_header_under_a_foreign_name_is_not_believed() -> None:
    chain = load_chain(disk_with((2, 11, header(1, 1))), HOME)
    assert chain.segments[0].header is None


def test_a_newer_format_is_left_alone() -> None:
    disk = disk_with((1, 1, header(1, 1, version=2)))
    with pytest.raises(Unavailable) as caught:
        load_chain(disk, HOME)
    assert caught.value.code == "JOURNAL_TOO_NEW"


def test_other_files_are_not_segments() -> None:
    disk = disk_with(
        (1, 1, header(1, 1)),
        others=("journal.lock", "1-1.seg", "0000000x-00000000000000000001.seg", "base-1.img"),
    )
    assert len(load_chain(disk, HOME).segments) == 1
    assert load_chain(disk, HOME, [segment_name(1, 1)]).segments == ()


def test_a_snapshot_finds_the_segment_of_a_record() -> None:
    snapshot = Snapshot((Segment(1, 5, 9, 1), Segment(2, 10, 9, 1), Segment(3, 10, 30, 1)))
    assert (snapshot.first_seq, snapshot.last_seq) == (5, 30)
    assert [s.index if (s := snapshot.holding(seq)) else None for seq in (5, 9, 10, 30, 31)] == [
        1,
        1,
        3,
        3,
        None,
    ]
    assert (Snapshot(()).first_seq, Snapshot(()).last_seq, Snapshot(()).holding(1)) == (1, 0, None)
