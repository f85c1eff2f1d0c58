from __future__ import annotations

import errno
import itertools
import math

import pytest

from appliance.store.journal_format import FLAG_GAP, HEADER_SIZE
from appliance.store.journal_jobs import SyncJob, TrimJob, WriteJob
from appliance.store.journal_pending import Ticket
from appliance.store.journal_types import GapReason, JournalSpec
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import Busy, Unavailable
from tests.fault.journal_kit import Hand

KB = b"k" * 1000


def hand(disk: CrashDisk | FaultDisk | None = None, **kw: object) -> Hand:
    return Hand(disk or CrashDisk(), JournalSpec(name="t", **kw))  # type: ignore[arg-type]


def relaxed(disk: CrashDisk | FaultDisk | None = None, **kw: object) -> Hand:
    return hand(disk, durability="relaxed", **kw)


def fail_next(disk: FaultDisk, error: int = errno.EIO) -> None:
    disk.error = error
    disk.fail_at = len(disk.calls)


def test_a_durable_append_is_written_at_once_and_synced() -> None:
    it = hand()
    assert it.add(b"a", b"b") == 2
    assert (it.committer.last_seq, it.committer.durable_seq) == (2, 0)
    job = it.step()
    assert isinstance(job, WriteJob)
    assert job.sync
    assert it.committer.durable_seq == it.committer.written_seq == 2
    assert it.committer.counters.syncs == 1


def test_what_comes_while_a_job_runs_shares_the_next_one() -> None:
    it = hand()
    it.add(b"a")
    first = it.committer.plan(it.now)
    assert isinstance(first, WriteJob)
    for word in (b"b", b"c", b"d"):
        it.add(word)
    first.perform(it.disk)
    it.committer.done(first, it.now)
    second = it.step()
    assert isinstance(second, WriteJob)
    assert [f.count for f in second.frames] == [3]
    assert it.committer.counters.groups == 2


def test_relaxed_records_wait_for_their_time() -> None:
    it = relaxed()
    it.add(b"a")
    assert it.step() is None
    assert it.committer.due == pytest.approx(it.now + 0.25)
    it.clock.advance(0.25)
    job = it.step()
    assert isinstance(job, WriteJob)
    assert not job.sync
    assert (it.committer.written_seq, it.committer.durable_seq) == (1, 0)
    assert it.step() is None
    it.clock.advance(1.0)
    assert isinstance(it.step(), SyncJob)
    assert it.committer.durable_seq == 1


def test_relaxed_records_are_flushed_early_when_they_are_many() -> None:
    it = relaxed(flush_bytes=3000)
    it.add(KB, KB)
    assert it.step() is None
    it.add(KB)
    assert isinstance(it.step(), WriteJob)


def test_syncs_are_at_least_a_second_apart_and_never_starve() -> None:
    it = relaxed(flush_bytes=1)
    syncs = []
    for _ in range(400):
        it.add(KB)
        it.clock.advance(0.01)
        if isinstance(it.step(), SyncJob):
            syncs.append(it.now)
    assert len(syncs) == 3
    assert all(b - a >= 1.0 for a, b in itertools.pairwise(syncs))


def test_an_asked_sync_covers_what_was_accepted_before_it_even_under_load() -> None:
    it = relaxed(flush_bytes=1)
    it.add(KB)
    it.committer.want_sync()
    kinds = []
    for _ in range(3):
        kinds.append(type(it.step()))
        it.add(KB)
    assert kinds == [WriteJob, SyncJob, WriteJob]
    assert it.committer.durable_seq == 1


def test_small_synced_writes_go_into_zeros_written_ahead() -> None:
    disk = CrashDisk()
    it = hand(disk, zero_ahead_bytes=4096)
    it.store(b"a")
    size = len(disk.files()[it.home / "00000001-00000000000000000001.seg"])
    it.store(b"b")
    assert len(disk.files()[it.home / "00000001-00000000000000000001.seg"]) == size > 4096
    big = hand(zero_ahead_bytes=4096)
    big.store(KB)
    assert len(big.disk.files()[big.home / "00000001-00000000000000000001.seg"]) < 1300  # type: ignore[union-attr]


def test_a_full_segment_is_sealed_and_the_next_one_begins() -> None:
    it = hand(segment_bytes=4096)
    for _ in range(10):
        it.store(KB)
    segments = it.committer.shelf.snapshot("synced").segments
    assert [s.first_seq for s in segments] == [1, 4, 7, 10]
    assert [s.last_seq for s in segments] == [3, 6, 9, 10]
    assert all(s.end <= 4096 for s in segments)
    assert list(it.read()[0]) == list(range(1, 11))


def test_a_group_larger_than_a_segment_has_one_of_its_own() -> None:
    it = hand(segment_bytes=4096)
    it.store(b"a")
    it.store(b"x" * 20_000)
    it.store(b"b")
    assert [s.first_seq for s in it.committer.shelf.snapshot("synced").segments] == [1, 2, 3]
    assert it.read()[0][2] == b"x" * 20_000


def test_a_mark_follows_after_silence_once_and_costs_no_sync() -> None:
    it = hand()
    it.store(b"a")
    syncs = it.committer.counters.syncs
    assert it.step() is None
    it.clock.advance(1.0)
    job = it.step()
    assert isinstance(job, WriteJob)
    assert (job.frames, job.sync) == ((), False)
    it.clock.advance(10.0)
    assert it.step() is None
    assert it.committer.counters.syncs == syncs
    assert it.committer.due == math.inf


def test_a_mark_does_not_outlive_what_it_stands_behind() -> None:
    disk = CrashDisk()
    it = hand(disk, zero_ahead_bytes=0)
    it.store(b"a")
    it.clock.advance(1.0)
    it.settle()
    it.store(b"b")
    (data,) = (d for p, d in disk.files().items() if p.suffix == ".seg")
    tail = it.committer.shelf.tail
    assert tail is not None
    assert data[tail.offset :].strip(b"\0") == b""


def test_over_the_bound_an_append_is_refused_and_changes_nothing() -> None:
    it = hand(max_append_bytes=2000, max_pending_bytes=4000)
    it.add(KB)
    it.add(KB)
    it.add(KB)
    with pytest.raises(Busy) as caught:
        it.add(KB)
    assert caught.value.retry_after_s > 0
    assert (it.committer.last_seq, it.committer.counters.refused_busy) == (3, 1)
    it.settle()
    assert it.add(KB) == 4


def test_bytes_under_way_count_against_the_bound() -> None:
    it = hand(max_append_bytes=2000, max_pending_bytes=4000)
    for _ in range(3):
        it.add(KB)
    job = it.committer.plan(it.now)
    assert it.committer.pending_bytes > 3000
    assert not it.committer.fits(1000)
    assert job is not None
    job.perform(it.disk)
    it.committer.done(job, it.now)
    assert it.committer.pending_bytes == 0


def test_dropped_records_keep_their_numbers_as_a_gap() -> None:
    it = relaxed(overflow="drop")
    it.add(b"a")
    it.committer.drop(5, it.now)
    it.committer.drop(2, it.now)
    it.add(b"b")
    it.store(b"c")
    records, gaps, _ = it.read()
    assert records == {1: b"a", 9: b"b", 10: b"c"}
    assert [(g.first, g.last, g.reason) for g in gaps] == [(2, 8, GapReason.DROPPED)]
    assert it.committer.counters.dropped == 7


def test_a_lone_gap_is_flushed_too() -> None:
    it = relaxed(overflow="drop")
    it.committer.drop(5, it.now)
    assert it.committer.due <= it.now + 0.25
    it.clock.advance(0.25)
    it.settle()
    assert it.committer.written_seq == 5


def test_through_writes_at_once_without_sync() -> None:
    it = relaxed()
    it.add(b"a")
    it.through()
    assert (it.committer.written_seq, it.committer.durable_seq) == (1, 0)
    assert it.committer.through(it.now) is None
    assert it.committer.due == pytest.approx(it.now + 1.0)


def test_through_may_overfill_a_segment_and_the_next_plan_rolls() -> None:
    it = relaxed(segment_bytes=4096)
    for _ in range(6):
        it.add(KB)
        it.through()
    assert len(it.committer.shelf.snapshot("written").segments) == 1
    it.clock.advance(1.0)
    it.settle()
    assert len(it.committer.shelf.snapshot("written").segments) == 2
    assert list(it.read()[0]) == [1, 2, 3, 4, 5, 6]


# -- failure ---------------------------------------------------------------------------------------------


def test_a_failed_write_fails_its_appends_and_those_behind_it() -> None:
    disk = FaultDisk(CrashDisk())
    it = hand(disk)
    it.store(b"kept")
    it.add(b"lost")
    tickets = [Ticket(), Ticket()]
    it.committer.add(b"\0\0\0\1x", 1, it.now).ticket = tickets[0]
    job = it.committer.plan(it.now)
    assert job is not None
    it.committer.add(b"\0\0\0\1y", 1, it.now).ticket = tickets[1]
    fail_next(disk, errno.ENOSPC)
    job.perform(it.disk)
    assert set(it.committer.done(job, it.now)) == set(tickets)
    assert all(t.error is not None and t.error.errno == errno.ENOSPC for t in tickets)
    with pytest.raises(Unavailable) as caught:
        it.add(b"more")
    assert caught.value.code == "STORAGE_FULL"
    assert it.committer.durable_seq == it.committer.last_seq == 1


def test_writing_resumes_in_a_new_segment_by_itself() -> None:
    disk = FaultDisk(CrashDisk(), error=errno.ENOSPC)
    it = hand(disk)
    it.store(b"kept")
    it.add(b"lost")
    disk.fail_at, disk.sticky = len(disk.calls), True
    it.settle()
    pauses = []
    for _ in range(6):
        pauses.append(it.committer.due - it.now)
        it.clock.advance(pauses[-1])
        it.step()
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30])
    disk.heal()
    it.clock.advance(30)
    it.step()
    assert it.committer.failure is None
    assert it.committer.counters.resumes == 1
    assert it.store(b"next") == 2
    assert it.read() == ({1: b"kept", 2: b"next"}, [], [])
    assert [d for d in it.disk.names(it.home) if d.endswith(".seg")] == [
        "00000001-00000000000000000001.seg",
        "00000008-00000000000000000002.seg",
    ]


def test_what_was_written_behind_the_failure_never_happened() -> None:
    inner = CrashDisk()
    disk = FaultDisk(inner, part=1.0)
    it = hand(disk)
    it.store(b"kept")
    it.add(b"written in full, but its sync failed")
    fail_next(disk)
    it.settle()
    it.committer.want_resume()
    it.settle()
    it.store(b"next")
    assert it.read()[0] == {1: b"kept", 2: b"next"}
    again = Hand(inner.after_kill(), it.spec)
    assert again.read() == ({1: b"kept", 2: b"next"}, [], [])


def test_a_failed_sync_is_not_repeated_and_its_records_become_a_gap() -> None:
    disk = FaultDisk(CrashDisk())
    it = relaxed(disk)
    it.store(b"synced")
    it.add(b"a", b"b")
    it.through()
    fail_next(disk)
    it.clock.advance(1.0)
    it.step()
    calls = len(disk.calls)
    assert it.committer.failure is not None
    assert (it.committer.written_seq, it.committer.durable_seq, it.committer.last_seq) == (1, 1, 3)
    it.clock.advance(1.0)
    it.step()
    assert "sync" not in disk.calls[calls:]
    assert it.store(b"next") == 4
    records, gaps, damages = it.read()
    assert (records, damages) == ({1: b"synced", 4: b"next"}, [])
    assert [(g.first, g.last, g.reason) for g in gaps] == [(2, 3, GapReason.LOST)]
    assert it.committer.counters.lost == 2


def test_drops_while_failed_get_a_gap_of_their_own() -> None:
    disk = FaultDisk(CrashDisk())
    it = relaxed(disk, overflow="drop")
    it.add(b"a")
    it.through()
    fail_next(disk)
    it.clock.advance(1.0)
    it.step()
    it.committer.drop(4, it.now)
    it.clock.advance(1.0)
    job = it.committer.plan(it.now)
    assert isinstance(job, WriteJob)
    assert [f.flags for f in job.frames] == [FLAG_GAP, FLAG_GAP]
    it.committer.drop(3, it.now)  # while the new segment is being made
    job.perform(disk)
    it.committer.done(job, it.now)
    assert it.store(b"next") == 9
    records, gaps, _ = it.read()
    assert records == {9: b"next"}
    assert [(g.first, g.last, g.reason) for g in gaps] == [
        (1, 1, GapReason.LOST),
        (2, 8, GapReason.DROPPED),
    ]


def test_a_roll_that_fails_leaves_no_trace() -> None:
    inner = CrashDisk()
    disk = FaultDisk(inner, only=frozenset({"sync_dir"}))
    it = hand(disk, segment_bytes=4096)
    for _ in range(3):
        it.store(KB)
    it.add(KB)
    fail_next(disk)
    it.step()
    assert it.committer.failure is not None
    assert len([n for n in inner.names(it.home) if n.endswith(".seg")]) == 1
    it.committer.want_resume()
    it.settle()
    assert it.store(b"next") == 4


def test_a_result_planned_before_a_failure_is_not_taken() -> None:
    disk = FaultDisk(CrashDisk())
    it = relaxed(disk)
    it.add(b"a")
    it.through()
    it.clock.advance(1.0)
    sync = it.committer.plan(it.now)
    assert isinstance(sync, SyncJob)
    it.add(b"b")
    fail_next(disk)
    it.through()
    assert it.committer.failure is not None
    sync.perform(disk)
    it.committer.done(sync, it.now)
    assert it.committer.durable_seq == 0
    assert it.committer.shelf.trusted_end == (1, HEADER_SIZE)


def test_an_error_is_told_even_when_writing_goes_on_already() -> None:
    assert hand().committer.unavailable().code == "STORAGE_FAILED"
    gone = hand().committer.unavailable(OSError(errno.ENOENT, "gone"))
    assert isinstance(gone, Unavailable)


# -- trimming --------------------------------------------------------------------------------------------


def test_a_log_trims_whole_segments_beyond_its_bytes() -> None:
    it = hand(segment_bytes=4096, keep_bytes=9000)
    for _ in range(20):
        it.store(KB)
    snapshot = it.committer.shelf.snapshot("synced")
    assert sum(s.end for s in snapshot.segments) < 9000 + 4096
    assert snapshot.first_seq > 1
    files = [n for n in it.disk.names(it.home) if n.endswith(".seg")]
    assert files == [s.name for s in snapshot.segments]
    records, gaps, _ = it.read()
    assert [(g.first, g.last, g.reason) for g in gaps] == [(1, snapshot.first_seq - 1, GapReason.TRIMMED)]
    assert max(records) == 20


def test_a_quiet_log_trims_by_age() -> None:
    it = hand(keep_age_s=400.0)
    it.store(b"old")
    for _ in range(60):
        it.clock.advance(10.0)
        it.settle()
    it.store(b"new")
    assert it.read()[0] == {2: b"new"}


def test_a_wall_clock_that_jumps_trims_nothing() -> None:
    it = hand(segment_bytes=4096, keep_age_s=3600.0)
    it.clock.lose_battery()
    for i in range(20):
        it.store(KB)
        it.clock.advance(60.0)
        if i == 7:
            it.clock.set_wall(4_000_000_000_000)
        if i == 12:
            it.clock.set_wall(-5)
        it.settle()
    assert len(it.read()[0]) == 20


def test_running_time_goes_on_after_a_restart() -> None:
    disk = CrashDisk()
    for _ in range(3):
        it = hand(disk, keep_age_s=10_000.0)
        it.clock.advance(1000.0)
        it.store(b"x")
        it.close()
    assert hand(disk, keep_age_s=10_000.0).recovered.start.run_s == 3000


def test_a_file_that_cannot_be_removed_is_counted_and_does_not_stop_writing() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"unlink"}), sticky=True, fail_at=0)
    it = hand(disk, segment_bytes=4096)
    for _ in range(7):
        it.store(KB)
    assert it.committer.shelf.trim_behind(3) == 1
    job = it.step()
    assert isinstance(job, TrimJob)
    assert it.committer.counters.trim_errors == 1
    assert it.store(b"on") == 8


def test_an_owners_clock_may_change_its_origin() -> None:
    it = relaxed(keep_age_s=400.0)
    it.add(b"a")
    due = it.committer.due
    it.committer.shift(5000.0)
    assert it.committer.due == pytest.approx(due + 5000.0)
