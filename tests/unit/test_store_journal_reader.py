from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.store.journal_format import join_records
from appliance.store.journal_reader import JournalFiles, Reader
from appliance.store.journal_segment import Snapshot
from appliance.store.journal_types import GapReason, JournalSpec
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import NotFound, Unavailable
from tests.fault.journal_kit import HOME, Hand

SPEC = JournalSpec(name="r", segment_bytes=4096, group_bytes=500, zero_ahead_bytes=1000)


def filled(count: int = 40, size: int = 300, disk: CrashDisk | None = None) -> Hand:
    hand = Hand(disk or CrashDisk(), SPEC)
    for i in range(count):
        hand.store(b"%d" % i * (size // len(b"%d" % i)))
    return hand


def snapshot(hand: Hand) -> Snapshot:
    return hand.committer.shelf.snapshot("synced")


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.binary(max_size=400), min_size=1, max_size=8), min_size=1, max_size=8),
    st.integers(1, 40),
    st.integers(1, 7),
    st.integers(1, 1000),
)
def test_batches_are_whole_and_contiguous_whatever_the_limits(
    appends: list[list[bytes]], start: int, limit_records: int, limit_bytes: int
) -> None:
    hand = Hand(CrashDisk(), SPEC)
    for records in appends:
        hand.store(*records)
    everything = [r for records in appends for r in records]
    reader = Reader(hand.disk, HOME, start)
    seen: list[bytes] = []
    while batch := reader.read(snapshot(hand), limit_records=limit_records, limit_bytes=limit_bytes):
        assert batch.gap is None
        assert batch.first_seq == start + len(seen)
        assert len(batch.records) <= limit_records
        assert sum(map(len, batch.records[:-1])) < limit_bytes
        seen += batch.records
        assert reader.next_seq == batch.next_seq
    assert seen == everything[start - 1 :]
    reader.close()


def test_an_empty_batch_says_nothing_more_for_now_and_reading_goes_on() -> None:
    hand = filled(3)
    reader = Reader(hand.disk, HOME, 1)
    assert len(reader.read(snapshot(hand)).records) == 3
    assert not reader.read(snapshot(hand))
    hand.store(b"more")
    assert reader.read(snapshot(hand)).records == [b"more"]
    hand.store(b"x" * 3900)  # a new segment
    assert reader.read(snapshot(hand)).records == [b"x" * 3900]


def test_a_read_does_not_go_beyond_its_snapshot() -> None:
    hand = filled(2)
    before = snapshot(hand)
    hand.store(b"later")
    reader = Reader(hand.disk, HOME, 1)
    assert len(reader.read(before).records) == 2
    assert not reader.read(before)
    assert reader.read(snapshot(hand)).records == [b"later"]


def test_hints_give_the_same_records_without_walking() -> None:
    hand = Hand(CrashDisk(), JournalSpec(name="r", zero_ahead_bytes=0))
    for i in range(300):
        hand.store(b"%03d" % i * 500)
    tail = hand.committer.shelf.tail
    assert tail is not None
    assert len(tail.hints) > 4

    class Counting(FaultDisk):
        pass

    for start in (1, 2, 137, 299, 300):
        disk = Counting(hand.disk, only=frozenset({"pread"}))
        reader = Reader(disk, HOME, start)
        batch = reader.read(snapshot(hand), hints=(tail.index, tail.hints), limit_records=1)
        assert batch.records == [b"%03d" % (start - 1) * 500]
        assert len(disk.calls) == 1


def test_what_was_trimmed_is_a_gap_first() -> None:
    hand = filled()
    hand.committer.shelf.trim_behind(20)
    hand.settle()
    first = snapshot(hand).first_seq
    assert first > 1
    reader = Reader(hand.disk, HOME, 3)
    batch = reader.read(snapshot(hand))
    assert batch.gap is not None
    assert (batch.gap.first, batch.gap.last, batch.gap.reason) == (3, first - 1, GapReason.TRIMMED)
    assert batch.first_seq == first
    assert batch.gap.count == first - 3


def test_trimming_under_a_reader_becomes_a_gap() -> None:
    hand = filled()
    reader = Reader(hand.disk, HOME, 1)
    old = snapshot(hand)
    reader.read(old, limit_records=1)
    hand.committer.shelf.trim_behind(30)
    hand.settle()
    reader.seek(2)
    with pytest.raises(FileNotFoundError):
        reader.read(old)
    batch = reader.read(snapshot(hand))
    assert batch.gap is not None
    assert batch.gap.first == 2


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_damage_in_a_sealed_segment_is_reported_and_stepped_over(victim: int) -> None:
    hand = filled()
    segment = snapshot(hand).segments[victim]
    assert isinstance(hand.disk, CrashDisk)
    hand.disk.flip(HOME / segment.name, segment.end // 2, 3)
    records, gaps, damages = hand.read()
    assert [g.reason for g in gaps] == [GapReason.DAMAGED]
    assert segment.first_seq <= gaps[0].first <= gaps[0].last <= segment.last_seq
    assert len(records) == 40 - gaps[0].count
    assert [(d.file, d.offset <= segment.end // 2 < d.offset + d.size) for d in damages] == [
        (str(HOME / segment.name), True)
    ]


def test_every_cut_of_a_sealed_segment_is_a_gap_and_reported() -> None:
    hand = filled()
    assert isinstance(hand.disk, CrashDisk)
    files = hand.disk.files()
    segment = snapshot(hand).segments[1]
    path = HOME / segment.name
    for size in range(0, segment.end, 7):
        disk = CrashDisk(files | {path: files[path][:size]})
        reader = Reader(disk, HOME, 1)
        seen: list[int] = []
        gaps = []
        while batch := reader.read(snapshot(hand)):
            if batch.gap:
                gaps.append(batch.gap)
            seen += range(batch.first_seq, batch.next_seq)
        assert [g.reason for g in gaps] == [GapReason.DAMAGED]
        assert sorted([*seen, *range(gaps[0].first, gaps[0].last + 1)]) == list(range(1, 41))
        assert gaps[0].last == segment.last_seq
        assert [d.file for d in reader.damages] == [str(path)]


def test_different_gaps_are_told_one_by_one() -> None:
    hand = Hand(CrashDisk(), JournalSpec(name="g", durability="relaxed", overflow="drop", segment_bytes=4096))
    for _ in range(5):
        hand.store(b"x" * 2500)
    hand.committer.drop(10, hand.now)
    hand.store(b"end")
    hand.committer.shelf.trim_behind(3)
    hand.settle()
    assert isinstance(hand.disk, CrashDisk)
    segment = snapshot(hand).segments[0]
    hand.disk.flip(HOME / segment.name, 200, 0)
    _, gaps, _ = hand.read()
    assert [(g.first, g.last, g.reason.value) for g in gaps] == [
        (1, segment.first_seq - 1, "trimmed"),
        (segment.first_seq, segment.last_seq, "damaged"),
        (6, 15, "dropped"),
    ]


def test_a_group_whose_records_do_not_add_up_is_damage() -> None:
    hand = Hand(CrashDisk(), SPEC)
    hand.store(b"good")
    body, _ = join_records([b"a", b"b"])
    hand.committer.add(body, 3, hand.now)
    hand.settle()
    hand.store(b"good")
    records, gaps, damages = hand.read()
    assert records == {1: b"good", 5: b"good"}
    assert [(g.first, g.last, g.reason) for g in gaps] == [(2, 4, GapReason.DAMAGED)]
    assert [d.what for d in damages] == ["records of a group"]


def test_a_failing_read_loses_nothing_that_was_read_before_it() -> None:
    hand = filled()
    hand.committer.shelf.trim_behind(3)
    hand.settle()
    for index in range(30):
        disk = FaultDisk(hand.disk, only=frozenset({"pread", "open_read"}), fail_at=index, error=errno.EIO)
        reader = Reader(disk, HOME, 1)
        told: list[int] = []
        errors = 0
        while True:
            try:
                batch = reader.read(snapshot(hand))
            except OSError:
                errors += 1
                continue
            if not batch:
                break
            told += range(batch.gap.first, batch.gap.last + 1) if batch.gap else []
            told += range(batch.first_seq, batch.next_seq)
        assert told == list(range(1, 41))
        assert errors <= 1
    failing = FaultDisk(filled(3).disk, only=frozenset({"open_read"}), fail_at=0, error=errno.EIO)
    with pytest.raises(OSError, match="Input"):
        Reader(failing, HOME, 1).read(snapshot(filled(3)))


# -- from outside ----------------------------------------------------------------------------------------


def test_another_process_reads_beside_the_writer() -> None:
    hand = filled(12)
    files = JournalFiles(HOME, hand.disk)
    batches = list(files.batches())
    assert sum(len(b.records) for b in batches) == 12
    hand.store(b"more")
    assert [r for b in files.batches(13) for r in b.records] == [b"more"]
    assert hand.disk.open_files() == 2  # type: ignore[union-attr]  # lock and active segment


def test_from_outside_synced_means_proven() -> None:
    hand = filled(3)
    files = JournalFiles(HOME, hand.disk)
    assert (files.snapshot("written").last_seq, files.snapshot("synced").last_seq) == (3, 2)
    hand.clock.advance(1.0)
    hand.settle()  # the mark
    assert files.snapshot("synced").last_seq == 3


def test_from_outside_a_write_under_way_is_not_damage() -> None:
    hand = filled(3)
    assert isinstance(hand.disk, CrashDisk)
    files = hand.disk.files()
    path = HOME / snapshot(hand).segments[-1].name
    torn = CrashDisk(files | {path: files[path].rstrip(b"\0")[:-20]})
    assert [len(b.records) for b in JournalFiles(HOME, torn).batches()] == [2]


def test_a_segment_that_is_gone_is_a_gap_from_outside() -> None:
    hand = filled()
    segments = snapshot(hand).segments
    files = JournalFiles(HOME, hand.disk)
    reader = files.batches()
    next(reader)
    for lost in segments[1:3]:
        hand.disk.unlink(HOME / lost.name)
    gaps = [b.gap for b in files.batches() if b.gap]
    assert [(g.first, g.last, g.reason) for g in gaps] == [
        (segments[1].first_seq, segments[2].last_seq, GapReason.DAMAGED)
    ]


def test_a_segment_that_goes_while_it_is_read_from_outside() -> None:
    for trimmed in (True, False):
        hand = filled()
        segments = snapshot(hand).segments
        batches = JournalFiles(HOME, hand.disk).batches(limit_records=1)
        assert next(batches).first_seq == 1
        for lost in segments[: 3 if trimmed else 0] or segments[1:3]:
            hand.disk.unlink(HOME / lost.name)
        told = [1]
        gaps = []
        for batch in batches:
            if batch.gap:
                gaps.append(batch.gap)
                told += range(batch.gap.first, batch.gap.last + 1)
            told += range(batch.first_seq, batch.next_seq)
        assert told == list(range(1, 41))
        reason = GapReason.TRIMMED if trimmed else GapReason.DAMAGED
        last = segments[2].last_seq
        assert [(g.last, g.reason) for g in gaps] == [(last, reason)]


def test_no_journal_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        JournalFiles(tmp_path / "none").snapshot()
    assert list(JournalFiles(tmp_path).batches()) == []


def test_an_unreadable_disk_is_unavailable() -> None:
    hand = filled(3)
    for index in (0, 2):
        disk = FaultDisk(hand.disk, fail_at=index, sticky=True, only=frozenset({"pread"}))
        with pytest.raises(Unavailable):
            list(JournalFiles(HOME, disk).batches())
