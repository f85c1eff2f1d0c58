from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.journal_positions import CursorJob, Positions, load_positions
from appliance.testing.faultdisk import CrashDisk, FaultDisk

HOME = Path("/j")
ID = b"i" * 16


def positions(disk: CrashDisk, journal_id: bytes = ID) -> Positions:
    return Positions(HOME, journal_id, load_positions(disk, HOME, journal_id), 1.0)


def save(it: Positions, disk: CrashDisk | FaultDisk, now: float, durable: int = 10**9) -> CursorJob | None:
    job = it.plan(now, durable)
    if job is not None:
        job.perform(disk)
        it.done(job, now)
    return job


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, (1 << 64) - 1), max_size=5))
def test_positions_come_back_under_any_name(wanted: dict[str, int]) -> None:
    disk = CrashDisk()
    it = positions(disk)
    for name, seq in wanted.items():
        it.want(name, seq, 0.0)
    save(it, disk, 0.0, durable=1 << 64)
    again = positions(disk)
    assert {name: again.stored(name) for name in wanted} == wanted


def test_one_job_for_all_and_at_most_one_a_second() -> None:
    disk = CrashDisk()
    it = positions(disk)
    it.want("a", 1, 10.0)
    it.want("b", 2, 10.0)
    job = save(it, disk, 10.0)
    assert job is not None
    assert len(job.items) == 2
    assert it.due == math.inf
    it.want("a", 5, 10.2)
    assert it.due == pytest.approx(11.0)
    assert save(it, disk, 10.9) is None
    assert save(it, disk, 11.0) is not None
    assert positions(disk).stored("a") == 5


def test_no_position_runs_ahead_of_what_is_durable() -> None:
    disk = CrashDisk()
    it = positions(disk)
    it.want("a", 50, 0.0)
    save(it, disk, 0.0, durable=20)
    assert positions(disk).stored("a") == 20
    assert it.due == 1.0  # the rest follows
    assert save(it, disk, 1.0, durable=20) is None  # not before the journal came further
    assert it.due == 2.0
    save(it, disk, 2.0, durable=60)
    assert positions(disk).stored("a") == 50
    assert it.due == math.inf


@pytest.mark.parametrize("seed", range(50))
def test_a_torn_write_leaves_the_position_before(seed: int) -> None:
    disk = CrashDisk()
    it = positions(disk)
    for seq in (1, 2, 3):
        it.want("a", seq, float(seq))
        save(it, disk, float(seq))
    it.want("a", 4, 9.0)
    save(it, FaultDisk(disk, fail_at=0, only=frozenset({"pwrite"}), part=0.5 + seed % 5 / 10), 9.0)
    assert positions(disk.after_power_cut(seed, torn_bytes=True)).stored("a") in (3, 4)


@pytest.mark.parametrize("seed", range(20))
def test_a_synced_position_survives_a_power_cut(seed: int) -> None:
    disk = CrashDisk()
    it = positions(disk)
    for seq in range(1, 6):
        it.want("a", seq, float(seq))
        save(it, disk, float(seq))
    assert positions(disk.after_power_cut(seed)).stored("a") == 5


def test_after_an_error_everything_is_tried_again() -> None:
    disk = CrashDisk()
    it = positions(disk)
    it.want("a", 7, 0.0)
    save(it, FaultDisk(disk, fail_at=0, error=errno.ENOSPC), 0.0)
    assert (it.errors, it.stored("a")) == (1, None)
    assert 0 < it.due < 60
    save(it, disk, it.due)
    assert positions(disk).stored("a") == 7


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 5000])
def test_a_damaged_file_is_as_good_as_none(damage: bytes) -> None:
    assert positions(CrashDisk({HOME / "cursor-a.pos": damage})).stored("a") is None


def test_every_flipped_bit_falls_back_to_the_other_slot() -> None:
    disk = CrashDisk()
    it = positions(disk)
    for seq in (1, 2):
        it.want("a", seq, float(seq))
        save(it, disk, float(seq))
    path = HOME / "cursor-a.pos"
    for bit in range(40 * 8):
        disk.flip(path, bit // 8, bit % 8)
        assert positions(disk).stored("a") in (1, 2)
        disk.flip(path, bit // 8, bit % 8)


def test_positions_of_another_journal_or_another_name_are_not_used() -> None:
    disk = CrashDisk()
    it = positions(disk)
    it.want("a", 7, 0.0)
    save(it, disk, 0.0)
    assert positions(disk, b"o" * 16).stored("a") is None
    renamed = CrashDisk({HOME / "cursor-b.pos": disk.files()[HOME / "cursor-a.pos"]})
    assert positions(renamed).stored("b") is None


def test_a_forgotten_consumer_leaves_no_file() -> None:
    disk = CrashDisk()
    it = positions(disk)
    it.want("a", 7, 0.0)
    save(it, disk, 0.0)
    it.want("a", 8, 5.0)
    it.forget("a", 5.0)
    save(it, disk, 5.0)
    assert disk.names(HOME) == []
    assert (it.stored("a"), positions(disk).stored("a")) == (None, None)
    it.forget("never there", 6.0)
    job = save(it, disk, 6.0)
    assert job is not None
    assert job.error is None


def test_forgetting_while_it_is_written_wins() -> None:
    disk = CrashDisk()
    it = positions(disk)
    it.want("a", 7, 0.0)
    job = it.plan(0.0, 100)
    assert job is not None
    it.forget("a", 0.0)
    job.perform(disk)
    it.done(job, 0.0)
    assert it.stored("a") is None
    save(it, disk, 1.0)
    assert disk.names(HOME) == []


def test_a_position_costs_one_small_write_and_no_metadata() -> None:
    inner = CrashDisk()
    disk = FaultDisk(inner)
    it = positions(inner)
    for seq in range(1, 4):
        it.want("a", seq, float(seq))
        save(it, disk, float(seq))
    assert disk.calls[-2:] == ["open_write", "pwrite"]
    assert it.bytes_written == 3 * 40
