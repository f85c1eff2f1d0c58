"""Rotten media: every flipped bit is noticed and told, what is cut off or gone is a gap, nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.store.journal_format import HEADER_SIZE
from appliance.store.journal_types import Gap, GapReason, JournalSpec
from appliance.testing.faultdisk import CrashDisk
from tests.fault.journal_kit import HOME, Hand

SPEC = JournalSpec(name="f", segment_bytes=4096, zero_ahead_bytes=1024)
RECORDS = [b"first" * 12, b"second", b"third" * 30, b"fourth" * 5]


def written(*, mark: bool, close: bool = False, spec: JournalSpec = SPEC) -> CrashDisk:
    hand = Hand(CrashDisk(), spec)
    for record in RECORDS:
        hand.store(record)
    if mark:
        hand.clock.advance(2.0)
        hand.settle()
    if close:
        hand.close()
    assert isinstance(hand.disk, CrashDisk)
    return hand.disk.after_kill()


def segment_of(disk: CrashDisk) -> Path:
    return max(p for p in disk.files() if p.suffix == ".seg")


def groups_end(disk: CrashDisk) -> int:
    tail = Hand(disk.after_kill(), SPEC).committer.shelf.tail
    assert tail is not None
    return tail.offset


def after_flip(disk: CrashDisk, bit: int) -> Hand:
    """The journal as it opens with one bit flipped; checks that nothing comes out wrong."""
    path = segment_of(disk)
    rotten = disk.after_kill()
    rotten.flip(path, bit // 8, bit % 8)
    hand = Hand(rotten, SPEC)
    records, gaps, damages = hand.read()
    for seq, record in records.items():
        assert record == RECORDS[seq - 1], bit
    assert all(gap.reason == GapReason.DAMAGED for gap in gaps)
    assert hand.recovered.damages or damages or hand.recovered.repairs or not hand.recovered.clean, bit
    return hand


@pytest.mark.parametrize("close", [False, True], ids=["marked", "closed"])
def test_every_bit_of_an_acknowledged_group_is_damage_once_a_mark_follows(close: bool) -> None:
    disk = written(mark=True, close=close)
    for bit in range(HEADER_SIZE * 8, groups_end(disk) * 8):
        hand = after_flip(disk, bit)
        assert len(hand.recovered.damages) == 1, bit
        assert hand.recovered.repairs == (), bit
        assert hand.recovered.damages[0].offset <= bit // 8
        lost = sum(gap.count for gap in hand.read()[1])
        assert lost == 1, bit
        assert hand.store(b"next") == len(RECORDS) + 1


def test_every_bit_of_the_last_group_is_damage_even_without_a_mark() -> None:
    disk = written(mark=False)
    for bit in range(HEADER_SIZE * 8, groups_end(disk) * 8):
        hand = after_flip(disk, bit)
        assert len(hand.recovered.damages) == 1, bit
        assert hand.recovered.repairs == (), bit
        assert hand.committer.last_seq >= len(RECORDS), bit  # no number is given out twice
        again = Hand(_stored(hand, b"next"), SPEC)
        assert b"next" in again.read()[0].values(), bit


def _stored(hand: Hand, record: bytes) -> CrashDisk:
    hand.store(record)
    assert isinstance(hand.disk, CrashDisk)
    return hand.disk.after_kill()


def test_every_bit_of_the_header_is_damage_and_costs_no_record() -> None:
    disk = written(mark=True)
    for bit in range(HEADER_SIZE * 8):
        hand = after_flip(disk, bit)
        assert [d.what for d in hand.recovered.damages] == ["segment header"], bit
        assert len(hand.read()[0]) == len(RECORDS)
        assert hand.store(b"next") == len(RECORDS) + 1


@pytest.mark.parametrize("close", [False, True], ids=["marked", "closed"])
def test_every_bit_behind_the_groups_is_noticed_and_costs_no_record(close: bool) -> None:
    disk = written(mark=True, close=close)
    size = len(disk.files()[segment_of(disk)])
    for bit in range(groups_end(disk) * 8, size * 8):
        hand = after_flip(disk, bit)
        assert hand.recovered.repairs, bit
        assert hand.recovered.damages == (), bit
        assert len(hand.read()[0]) == len(RECORDS), bit
        assert hand.store(b"next") == len(RECORDS) + 1


def test_every_bit_of_a_sealed_segment_is_damage_where_it_lies() -> None:
    hand = Hand(CrashDisk(), SPEC)
    for record in RECORDS:
        hand.store(record)
    hand.store(b"x" * 3900)
    sealed, active = hand.committer.shelf.snapshot("synced").segments
    assert isinstance(hand.disk, CrashDisk)
    for bit in range(HEADER_SIZE * 8, sealed.end * 8):
        hand.disk.flip(HOME / sealed.name, bit // 8, bit % 8)
        records, gaps, damages = hand.read()
        assert [(gap.count, gap.reason) for gap in gaps] == [(1, GapReason.DAMAGED)], bit
        assert len(damages) == 1, bit
        assert damages[0].file == str(HOME / sealed.name)
        assert damages[0].offset <= bit // 8 < damages[0].offset + damages[0].size
        assert len(records) == len(RECORDS), bit
        hand.disk.flip(HOME / sealed.name, bit // 8, bit % 8)
    assert active.first_seq == 5


def test_every_cut_of_the_last_segment_keeps_what_is_before_it() -> None:
    disk = written(mark=False)
    path = segment_of(disk)
    whole = disk.files()[path].rstrip(b"\0")
    for size in range(HEADER_SIZE, len(whole)):
        cut = CrashDisk(disk.files() | {path: whole[:size]})
        hand = Hand(cut, SPEC)
        records, gaps, damages = hand.read()
        assert (gaps, damages, hand.recovered.damages) == ([], [], ())
        assert list(records.values()) == RECORDS[: len(records)]
        assert hand.store(b"next") == len(records) + 1


def test_an_empty_or_missing_last_segment() -> None:
    disk = written(mark=False)
    path = segment_of(disk)
    for size in range(HEADER_SIZE):
        hand = Hand(CrashDisk({path: disk.files()[path][:size]}), SPEC)
        assert hand.store(b"x") == 1


@pytest.mark.parametrize("which", [0, 1, 2])
def test_overwritten_pages_are_gaps(which: int) -> None:
    """A page of rubbish, of zeros, or of an older part of the same file, somewhere in the middle."""
    hand = Hand(CrashDisk(), JournalSpec(name="p", segment_bytes=1 << 20, zero_ahead_bytes=0))
    for i in range(60):
        hand.store(b"%03d" % i * 200)
    assert isinstance(hand.disk, CrashDisk)
    disk = hand.disk.after_kill()
    path = segment_of(disk)
    data = disk.files()[path]
    page = [b"\x5a" * 4096, bytes(4096), data[4096:8192]][which]
    broken = data[:16384] + page + data[20480:]
    again = Hand(CrashDisk({path: broken}), hand.spec)
    records, gaps, damages = again.read()
    assert sum(gap.count for gap in gaps) + len(records) == 60
    assert [type(gap) for gap in gaps] == [Gap]
    assert len(damages) == 1
    assert 0 < gaps[0].count < 12
    assert all(record == b"%03d" % (seq - 1) * 200 for seq, record in records.items())


def test_a_flip_in_unsynced_relaxed_groups_is_told_as_well() -> None:
    hand = Hand(CrashDisk(), JournalSpec(name="r", durability="relaxed"))
    for record in RECORDS:
        hand.add(record)
        hand.through()
    assert isinstance(hand.disk, CrashDisk)
    disk = hand.disk.after_kill()
    path = segment_of(disk)
    for bit in range(HEADER_SIZE * 8, len(disk.files()[path]) * 8, 5):
        rotten = disk.after_kill()
        rotten.flip(path, bit // 8, bit % 8)
        again = Hand(rotten, hand.spec)
        records, gaps, _ = again.read()
        assert len(again.recovered.damages) == 1, bit
        assert len(records) + sum(gap.count for gap in gaps) >= len(RECORDS)
        assert len(records) == len(RECORDS) - 1
