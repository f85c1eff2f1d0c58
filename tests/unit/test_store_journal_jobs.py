from __future__ import annotations

import errno
from pathlib import Path

import pytest

from appliance.store.journal_format import HEADER_SIZE
from appliance.store.journal_jobs import CloseJob, Job, Roll, SyncJob, TrimJob, WriteJob
from appliance.store.journal_pending import Tail
from appliance.testing.faultdisk import CrashDisk, FaultDisk

HOME = Path("/j")


def roll(old_fd: int | None = None, *, cut: bool = False, finish: bool = True) -> Roll:
    return Roll(HOME, "new.seg", old_fd=old_fd, old_end=10, cut=cut, finish=finish)


def test_a_plain_job_does_nothing_by_itself() -> None:
    with pytest.raises(NotImplementedError):
        Job().run(CrashDisk())


def test_a_roll_finishes_the_old_segment_before_the_new_one_exists() -> None:
    disk = FaultDisk(CrashDisk({HOME / "old.seg": b"x" * 50}))
    old = disk.open_write(HOME / "old.seg")
    fd, written = roll(old, cut=True).run(disk, [b"head", b"body"])
    assert disk.calls[1:] == ["truncate", "sync", "create", "pwrite", "sync_dir"]
    assert (written, disk.pread(fd, 100, 0)) == (8, b"headbody")
    with pytest.raises(OSError, match="Bad file"):
        disk.close(old)


def test_a_roll_after_a_failure_does_not_touch_the_old_segment() -> None:
    disk = FaultDisk(CrashDisk({HOME / "old.seg": b"x" * 50}))
    old = disk.open_write(HOME / "old.seg")
    roll(old, cut=True, finish=False).run(disk, [b"head"])
    assert disk.calls[1:] == ["create", "pwrite", "sync_dir"]


@pytest.mark.parametrize("call", ["pwrite", "sync_dir"])
def test_a_roll_that_fails_removes_what_it_made_and_keeps_the_old_segment_open(call: str) -> None:
    inner = CrashDisk({HOME / "old.seg": b"x" * 50})
    old = inner.open_write(HOME / "old.seg")
    disk = FaultDisk(inner, fail_at=0, only=frozenset({call}))
    with pytest.raises(OSError):
        roll(old).run(disk, [b"head"])
    assert inner.names(HOME) == ["old.seg"]
    assert inner.open_files() == 1


def test_a_roll_that_cannot_even_clean_up_fails_with_the_first_error() -> None:
    disk = FaultDisk(
        CrashDisk(), fail_at=0, sticky=True, error=errno.EIO, only=frozenset({"pwrite", "unlink"})
    )
    job = WriteJob(Tail(1, 1, run_s=0), [b"x"], 0, sync=True, roll=roll())
    job.perform(disk)
    assert job.error is not None
    assert disk.failed == ["pwrite", "unlink"]


def test_a_write_and_a_sync_are_one_call_each() -> None:
    disk = FaultDisk(CrashDisk())
    tail = Tail(1, 1, run_s=0)
    tail.fd = disk.create(HOME / "s")
    WriteJob(tail, [b"a", b"b"], HEADER_SIZE, sync=True).perform(disk)
    SyncJob(tail.fd, 0, 0).perform(disk)
    assert disk.calls == ["create", "pwrite", "sync"]


def test_trimming_ends_at_the_first_error_and_tells_what_is_left() -> None:
    names = ["a", "b", "c", "d"]
    inner = CrashDisk({HOME / name: b"" for name in names if name != "b"})
    disk = FaultDisk(inner, fail_at=2, only=frozenset({"unlink"}))
    job = TrimJob(HOME, names)
    job.perform(disk)
    assert job.error is not None
    assert (job.left, inner.names(HOME)) == (["c", "d"], ["c", "d"])
    again = TrimJob(HOME, job.left)
    again.perform(disk)
    assert (again.error, again.left, inner.names(HOME)) == (None, [], [])


@pytest.mark.parametrize("cut", [False, True])
def test_closing_leaves_the_mark_behind_the_groups_and_nothing_open(cut: bool) -> None:
    disk = CrashDisk({HOME / "s": b"x" * 100 + bytes(2000)})
    job = CloseJob(disk.open_write(HOME / "s"), 100, [b"mark"], 512, cut=cut)
    job.perform(disk)
    assert job.error is None
    assert disk.files()[HOME / "s"].rstrip(b"\0") == b"x" * 100 + bytes(412) + b"mark"
    assert len(disk.files()[HOME / "s"]) == (516 if cut else 2100)
    assert disk.open_files() == 0


def test_closing_closes_even_when_it_fails() -> None:
    inner = CrashDisk({HOME / "s": b""})
    disk = FaultDisk(inner, fail_at=0, only=frozenset({"pwrite"}))
    CloseJob(disk.open_write(HOME / "s"), 0, [b"m"], 0, cut=False).perform(disk)
    assert inner.open_files() == 0
