from __future__ import annotations

import errno
from pathlib import Path

import pytest

from appliance.store.journal_base import write_base
from appliance.store.journal_recover import recover
from appliance.store.journal_types import GapReason, JournalSpec
from appliance.testing.clock import FakeClock
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import Conflict, Misconfigured
from tests.fault.journal_kit import HOME, Hand

SPEC = JournalSpec(name="r", segment_bytes=4096, zero_ahead_bytes=0)


def filled(count: int = 10, spec: JournalSpec = SPEC) -> Hand:
    hand = Hand(CrashDisk(), spec)
    for i in range(count):
        hand.store(b"%d" % i * 300)
    return hand


def after_kill(hand: Hand) -> CrashDisk:
    assert isinstance(hand.disk, CrashDisk)
    return hand.disk.after_kill()


def last_file(disk: CrashDisk) -> Path:
    return max(path for path in disk.files() if path.suffix == ".seg")


def changed(disk: CrashDisk, path: Path, data: bytes) -> CrashDisk:
    return CrashDisk(disk.files() | {path: data})


def test_a_new_journal_begins_at_one() -> None:
    hand = Hand(CrashDisk(), SPEC)
    assert (hand.committer.last_seq, hand.recovered.clean) == (0, False)
    assert hand.store(b"first") == 1


def test_an_orderly_stop_leaves_nothing_to_repair() -> None:
    hand = filled()
    journal_id = hand.recovered.start.journal_id
    hand.close()
    again = Hand(after_kill(hand), SPEC)
    assert again.recovered.clean
    assert (again.recovered.repairs, again.recovered.damages) == ((), ())
    assert again.recovered.start.journal_id == journal_id
    assert again.store(b"next") == 11
    assert len(again.read()[0]) == 11


def test_a_killed_process_loses_nothing_written() -> None:
    again = Hand(after_kill(filled()), SPEC)
    assert not again.recovered.clean
    assert len(again.read()[0]) == 10


def test_a_torn_tail_is_cut_kept_aside_and_overwritten() -> None:
    disk = after_kill(filled(5))
    path = last_file(disk)
    torn = changed(disk, path, disk.files()[path][:-30])
    again = Hand(torn, SPEC)
    (repair,) = again.recovered.repairs
    assert repair.file == str(path)
    assert repair.kept_as is not None
    assert torn.files()[Path(repair.kept_as)] == disk.files()[path][repair.offset : -30]
    assert again.recovered.damages == ()
    assert again.store(b"again") == 5
    assert Hand(torn.after_kill(), SPEC).read()[0][5] == b"again"


def test_kept_tails_are_few() -> None:
    disk = CrashDisk()
    for _ in range(20):
        hand = Hand(disk, SPEC)
        hand.store(b"x" * 100)
        disk = hand.disk.after_kill()  # type: ignore[union-attr]
        path = last_file(disk)
        disk = changed(disk, path, disk.files()[path] + b"torn")
    assert len([n for n in disk.names(HOME) if n.endswith(".aside")]) <= 8


def test_a_flipped_last_group_is_damage_and_its_number_is_not_given_again() -> None:
    disk = after_kill(filled(5))
    path = last_file(disk)
    disk.flip(path, len(disk.files()[path]) - 100, 0)
    again = Hand(disk, SPEC)
    assert [d.file for d in again.recovered.damages] == [str(path)]
    assert again.recovered.repairs == ()
    assert again.store(b"next") == 6
    records, gaps, _ = again.read()
    assert (sorted(records), [(g.first, g.last, g.reason) for g in gaps]) == (
        [1, 2, 3, 4, 6],
        [(5, 5, GapReason.DAMAGED)],
    )
    twice = Hand(disk.after_kill(), SPEC)
    assert twice.store(b"more") == 7


def test_a_crash_while_a_segment_is_made_leaves_no_trace() -> None:
    disk = after_kill(filled(5))
    for leftover in (b"", b"half a head", bytes(72)):
        path = HOME / "00000002-00000000000000000006.seg"
        again = Hand(changed(disk, path, leftover), SPEC)
        assert again.recovered.damages == ()
        assert again.store(b"next") == 6
        assert len(again.read()[0]) == 6


def test_a_lone_segment_without_header_does_not_reset_the_numbers() -> None:
    disk = CrashDisk({HOME / "00000007-00000000000000001000.seg": b"rubbish"})
    again = Hand(disk, SPEC)
    assert again.store(b"x") == 1000
    assert "00000007-00000000000000001000.seg.aside" in disk.names(HOME)


def test_a_damaged_header_of_the_last_segment_is_reported_and_survived() -> None:
    disk = after_kill(filled(5))
    disk.flip(last_file(disk), 20, 1)
    again = Hand(disk, SPEC)
    assert [d.what for d in again.recovered.damages] == ["segment header"]
    assert len(again.read()[0]) == 5
    assert again.store(b"x") == 6


def test_a_deleted_segment_is_a_gap() -> None:
    hand = filled(40)
    segments = hand.committer.shelf.snapshot("synced").segments
    disk = after_kill(hand)
    disk.unlink(HOME / segments[1].name)
    again = Hand(disk, SPEC)
    assert [d.what for d in again.recovered.damages] == ["segment missing"]
    records, gaps, _ = again.read()
    assert [(g.first, g.last) for g in gaps] == [(segments[1].first_seq, segments[1].last_seq)]
    assert len(records) + gaps[0].count == 40


def test_leftovers_of_failed_attempts_are_removed() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"pwrite", "unlink"}))
    hand = Hand(disk, SPEC)
    hand.store(b"a")
    hand.add(b"b")
    disk.fail_at, disk.sticky = len(disk.calls), True
    hand.settle()
    hand.committer.want_resume()
    hand.step()  # creates a segment, cannot write it, cannot remove it
    disk.heal()
    hand.committer.want_resume()
    hand.settle()
    hand.store(b"c")
    assert len([n for n in disk.names(HOME) if n.endswith(".seg")]) == 3
    again = Hand(disk._inner.after_kill(), SPEC)  # type: ignore[attr-defined]
    assert len([n for n in again.disk.names(HOME) if n.endswith(".seg")]) == 2
    assert again.read() == ({1: b"a", 2: b"c"}, [], [])


def test_only_one_process_writes() -> None:
    disk = CrashDisk()
    hand = Hand(disk, SPEC)
    with pytest.raises(Conflict):
        Hand(disk, SPEC)
    hand.close()
    Hand(disk, SPEC).close()
    assert disk.open_files() == 0


def test_the_other_kind_is_refused() -> None:
    disk = CrashDisk()
    Hand(disk, SPEC).close()
    with pytest.raises(Misconfigured):
        Hand(disk, JournalSpec(name="r", kind="state"))
    assert disk.open_files() == 0


@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO, errno.ENOSPC])
def test_a_disk_that_refuses_the_repair_opens_for_reading_and_resumes(error: int) -> None:
    disk = after_kill(filled(5))
    path = last_file(disk)
    torn = changed(disk, path, disk.files()[path][:-30])
    calls = FaultDisk(torn.after_kill())
    Hand(calls, SPEC)
    refused = 0
    for index in range(2, len(calls.calls)):
        faulty = FaultDisk(torn.after_kill(), fail_at=index, error=error, sticky=True)
        hand = Hand(faulty, SPEC)
        assert len(hand.read()[0]) == 4
        refused += hand.committer.failure is not None
        faulty.heal()
        hand.committer.want_resume()
        hand.settle()
        assert hand.store(b"next") == 5
        assert hand.read()[0][5] == b"next"
        again = Hand(faulty._inner.after_kill(), SPEC)  # type: ignore[attr-defined]
        assert again.read()[0][5] == b"next"
    assert refused >= 3


def test_a_new_journal_on_a_full_disk_opens_failed_and_resumes() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"create"}), fail_at=0)
    hand = Hand(disk, SPEC)
    assert hand.committer.failure is not None
    hand.clock.advance(1.0)
    hand.settle()
    assert hand.store(b"a") == 1


def test_segments_missing_behind_a_base_do_not_bring_numbers_back() -> None:
    spec = JournalSpec(name="s", kind="state")
    disk = CrashDisk()
    hand = Hand(disk, spec)
    hand.store(*[b"x"] * 9)
    write_base(disk, HOME, hand.recovered.start.journal_id, 9, [b"all"], 0)
    hand.close()
    disk.unlink(last_file(disk))
    again = Hand(disk, spec)
    assert again.store(b"y") == 10


def test_groups_missing_behind_a_base_are_told() -> None:
    spec = JournalSpec(name="s", kind="state", zero_ahead_bytes=0)
    disk = CrashDisk()
    hand = Hand(disk, spec)
    for _ in range(9):
        hand.store(b"x")
    write_base(disk, HOME, hand.recovered.start.journal_id, 9, [b"all"], 0)
    path = last_file(disk)
    cut = changed(disk.after_kill(), path, disk.files()[path][:-100])
    again = Hand(cut, spec)
    assert [d.what for d in again.recovered.damages] == ["newest groups missing"]
    assert again.store(b"y") == 10
    assert Hand(cut.after_kill(), spec).store(b"z") == 11


@pytest.mark.parametrize("call", ["pread", "open_read"])
def test_a_disk_that_cannot_be_read_leaves_nothing_open(call: str) -> None:
    disk = after_kill(filled(3))
    for index in range(8):
        disk = disk.after_kill()
        faulty = FaultDisk(disk, fail_at=index, error=errno.EIO, only=frozenset({call}), sticky=True)
        try:
            hand = Hand(faulty, SPEC)
        except OSError:
            assert disk.open_files() == 0
        else:
            faulty.heal()
            hand.close()


def test_what_an_earlier_process_could_not_sync_is_read_from_the_medium() -> None:
    calls = []

    class Watched(CrashDisk):
        def sync(self, fd: int) -> None:
            calls.append("sync")
            super().sync(fd)

        def forget(self, fd: int) -> None:
            calls.append("forget")

    disk = after_kill(filled(3))
    recover(HOME, SPEC, Watched(disk.files()), FakeClock())
    assert calls == ["sync", "forget"]
    hand = Hand(disk, SPEC)
    hand.close()
    calls.clear()
    recover(HOME, SPEC, Watched(disk.after_kill().files()), FakeClock())
    assert calls == []


@pytest.mark.parametrize("seed", range(10))
def test_an_orderly_stop_survives_a_power_cut_as_such(seed: int) -> None:
    hand = filled(5)
    hand.close()
    assert isinstance(hand.disk, CrashDisk)
    again = Hand(hand.disk.after_power_cut(seed), SPEC)
    assert (again.recovered.clean, again.committer.last_seq) == (True, 5)


def test_a_torn_write_after_a_flip_does_not_bring_the_flipped_numbers_back() -> None:
    disk = after_kill(filled(5))
    path = last_file(disk)
    disk.flip(path, len(disk.files()[path]) - 100, 0)
    for _ in range(2):
        faulty = FaultDisk(disk, part=0.7)
        hand = Hand(faulty, SPEC)
        assert hand.add(b"torn" * 100) == 6
        faulty.fail_at = len(faulty.calls)
        hand.step()
        disk = disk.after_kill()
    assert Hand(disk, SPEC).store(b"next") == 6
