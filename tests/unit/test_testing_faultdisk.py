from __future__ import annotations

import errno
from pathlib import Path

import pytest

from appliance.testing.faultdisk import CrashDisk, FaultDisk

A = Path("/d/a")
B = Path("/d/b")


def survivors(disk: CrashDisk, path: Path = A, cases: int = 300) -> set[bytes | None]:
    return {disk.after_power_cut(seed).files().get(path) for seed in range(cases)}


def test_it_behaves_like_files() -> None:
    disk = CrashDisk()
    fd = disk.create(A)
    assert disk.pwrite(fd, [b"ab", b"cd"], 2, sync=False) == 4
    assert (disk.pread(fd, 10, 0), disk.size(fd)) == (b"\0\0abcd", 6)
    disk.truncate(fd, 3)
    disk.truncate(fd, 5)
    assert disk.pread(fd, 10, 0) == b"\0\0a\0\0"
    disk.rename(A, B)
    assert disk.names(Path("/d")) == ["b"]
    disk.unlink(B)
    disk.close(fd)
    assert disk.open_files() == 0
    for call in (lambda: disk.close(fd), lambda: disk.open_read(A), lambda: disk.unlink(A)):
        with pytest.raises(OSError):
            call()
    lock = disk.lock(B)
    with pytest.raises(BlockingIOError):
        disk.lock(B)
    disk.close(lock)
    disk.close(disk.lock(B))


def test_synced_bytes_under_a_synced_name_always_survive() -> None:
    disk = CrashDisk()
    fd = disk.create(A)
    disk.pwrite(fd, [b"x" * 2000], 0, sync=False)
    disk.sync(fd)
    disk.sync_dir(A.parent)
    assert survivors(disk) == {b"x" * 2000}
    disk.pwrite(fd, [b"y" * 700], 100, sync=True)
    assert survivors(disk) == {b"x" * 100 + b"y" * 700 + b"x" * 1200}


def test_a_name_needs_its_directory_synced() -> None:
    disk = CrashDisk()
    disk.pwrite(disk.create(A), [b"x"], 0, sync=True)
    assert survivors(disk) == {None, b"x"}


def test_unsynced_sectors_are_old_or_new_each_by_itself() -> None:
    disk = CrashDisk({A: b"o" * 1024})
    disk.pwrite(disk.open_write(A), [b"n" * 1024], 0, sync=False)
    assert survivors(disk) == {a * 512 + b * 512 for a in (b"o", b"n") for b in (b"o", b"n")}


def test_a_growing_file_may_have_its_length_without_its_bytes() -> None:
    disk = CrashDisk({A: b""})
    disk.pwrite(disk.open_write(A), [b"n" * 512], 0, sync=False)
    assert survivors(disk) == {b"", bytes(512), b"n" * 512}


def test_any_version_of_a_sector_may_be_the_one_that_stays() -> None:
    disk = CrashDisk({A: b"0" * 10})
    fd = disk.open_write(A)
    disk.pwrite(fd, [b"1" * 10], 0, sync=False)
    disk.pwrite(fd, [b"2" * 10], 0, sync=False)
    assert survivors(disk) == {b"0" * 10, b"1" * 10, b"2" * 10}


def test_a_synced_write_does_not_sync_its_neighbours() -> None:
    disk = CrashDisk({A: b"o" * 1024})
    fd = disk.open_write(A)
    disk.pwrite(fd, [b"n" * 512], 0, sync=False)
    disk.pwrite(fd, [b"s" * 512], 512, sync=True)
    assert survivors(disk) == {b"o" * 512 + b"s" * 512, b"n" * 512 + b"s" * 512}


def test_a_rename_is_atomic_and_changes_of_names_keep_their_order() -> None:
    disk = CrashDisk({A: b"a", B: b"b"})
    disk.rename(A, B)
    assert {tuple(sorted(disk.after_power_cut(s).files().values())) for s in range(100)} == {
        (b"a", b"b"),
        (b"a",),
    }
    disk.unlink(B)
    disk.create(A)
    assert all(
        files.get(B) is None
        for s in range(200)
        if A in (files := disk.after_power_cut(s).files()) and files[A] == b""
    )


def test_torn_sectors_only_on_request() -> None:
    disk = CrashDisk({A: b"o" * 512})
    disk.pwrite(disk.open_write(A), [b"n" * 512], 0, sync=False)
    assert survivors(disk, cases=500) == {b"o" * 512, b"n" * 512}
    torn = {disk.after_power_cut(seed, torn_bytes=True).files()[A] for seed in range(500)}
    assert len(torn) > 5
    assert all(t.lstrip(b"n").strip(b"o") == b"" for t in torn)


def test_the_same_seed_gives_the_same_disk() -> None:
    disk = CrashDisk({A: b"o" * 5000})
    disk.pwrite(disk.open_write(A), [b"n" * 5000], 0, sync=False)
    assert disk.after_power_cut(7).files() == disk.after_power_cut(7).files()


def test_a_kill_loses_nothing_written() -> None:
    disk = CrashDisk()
    disk.pwrite(disk.create(A), [b"x"], 0, sync=False)
    assert disk.after_kill().files() == {A: b"x"}


def test_a_flipped_bit_is_on_the_medium() -> None:
    disk = CrashDisk({A: b"\0"})
    disk.flip(A, 0, 3)
    assert disk.files() == {A: b"\x08"}
    assert survivors(disk) == {b"\x08"}


def test_only_the_chosen_call_fails_unless_it_sticks() -> None:
    for sticky in (False, True):
        disk = FaultDisk(CrashDisk(), fail_at=1, error=errno.EROFS, sticky=sticky)
        fd = disk.create(A)
        with pytest.raises(OSError) as caught:
            disk.sync(fd)
        assert caught.value.errno == errno.EROFS
        if sticky:
            with pytest.raises(OSError):
                disk.sync(fd)
            disk.heal()
        disk.sync(fd)
        assert disk.calls[:2] == ["create", "sync"]
        assert set(disk.failed) == {"sync"}


def test_a_failing_write_may_leave_a_part() -> None:
    inner = CrashDisk()
    disk = FaultDisk(inner, fail_at=0, part=0.5, only=frozenset({"pwrite"}))
    fd = disk.create(A)
    with pytest.raises(OSError):
        disk.pwrite(fd, [b"abcd", b"efgh"], 0, sync=True)
    assert inner.files()[A] == b"abcd"


def test_calls_that_do_not_count_pass() -> None:
    disk = FaultDisk(CrashDisk({A: b"x"}), fail_at=0, only=frozenset({"truncate"}))
    fd = disk.open_write(A)
    assert (disk.size(fd), disk.pread(fd, 1, 0), disk.names(A.parent)) == (1, b"x", ["a"])
    disk.rename(A, B)
    disk.sync_dir(A.parent)
    disk.forget(fd)
    with pytest.raises(OSError):
        disk.truncate(fd, 0)
    disk.unlink(B)
    disk.makedirs(A)
    disk.close(disk.lock(A))
    disk.close(fd)
    assert disk.calls == ["truncate"]
