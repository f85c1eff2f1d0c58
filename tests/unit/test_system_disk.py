from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from appliance.system.disk import RealDisk


@pytest.fixture(params=[True, False], ids=["dsync", "fdatasync"])
def disk(request: pytest.FixtureRequest) -> RealDisk:
    return RealDisk(dsync=request.param)


def test_written_buffers_read_back_in_order(disk: RealDisk, tmp_path: Path) -> None:
    fd = disk.create(tmp_path / "f")
    assert disk.pwrite(fd, [b"ab", memoryview(b"cd"), bytearray(b"e")], 3, sync=True) == 5
    assert disk.pread(fd, 100, 0) == b"\0\0\0abcde"
    assert disk.pread(fd, 2, 4) == b"bc"
    assert disk.pread(fd, 10, 8) == b""
    assert disk.size(fd) == 8
    disk.truncate(fd, 4)
    disk.sync(fd)
    disk.forget(fd)
    assert disk.pread(fd, 100, 0) == b"\0\0\0a"
    disk.close(fd)


def test_more_buffers_than_one_call_takes(disk: RealDisk, tmp_path: Path) -> None:
    fd = disk.create(tmp_path / "f")
    assert disk.pwrite(fd, [b"%04d" % i for i in range(3000)], 0, sync=False) == 12000
    assert disk.pread(fd, 12000, 0) == b"".join(b"%04d" % i for i in range(3000))
    disk.close(fd)


def test_a_short_write_goes_on_until_all_is_written(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def short(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        return real(fd, [b"".join(buffers)[:3]], offset, flags)

    monkeypatch.setattr(os, "pwritev", short)
    fd = disk.create(tmp_path / "f")
    assert disk.pwrite(fd, [b"abc", b"defgh"], 0, sync=True) == 8
    assert disk.pread(fd, 8, 0) == b"abcdefgh"
    disk.close(fd)


def test_a_short_read_goes_on_until_the_end_of_the_file(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = disk.create(tmp_path / "f")
    disk.pwrite(fd, [b"abcdefgh"], 0, sync=False)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 3), offset))
    assert disk.pread(fd, 8, 0) == b"abcdefgh"
    assert disk.pread(fd, 20, 0) == b"abcdefgh"
    disk.close(fd)


def test_an_error_after_a_short_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    calls = []

    def full(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        calls.append(offset)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, [b"".join(buffers)[:3]], offset, flags)

    monkeypatch.setattr(os, "pwritev", full)
    disk = RealDisk()
    fd = disk.create(tmp_path / "f")
    with pytest.raises(OSError, match="full"):
        disk.pwrite(fd, [b"abcdef"], 0, sync=True)
    disk.close(fd)


def test_a_device_that_takes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    disk = RealDisk()
    fd = disk.create(tmp_path / "f")
    with pytest.raises(OSError, match="takes no bytes"):
        disk.pwrite(fd, [b"abcdef"], 0, sync=False)
    disk.close(fd)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_kernel_without_the_flag_gets_two_calls_from_then_on(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen, synced = os.pwritev, [], []

    def old_kernel(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        seen.append(flags)
        if flags:
            raise OSError(code, os.strerror(code))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", old_kernel)
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd))
    disk = RealDisk()
    fd = disk.create(tmp_path / "f")
    disk.pwrite(fd, [b"one"], 0, sync=True)
    disk.pwrite(fd, [b"two"], 3, sync=True)
    assert disk.pread(fd, 10, 0) == b"onetwo"
    assert [bool(flags) for flags in seen] == [True, False, False]
    assert synced == [fd, fd]
    disk.close(fd)


def test_a_real_error_is_not_taken_for_a_missing_flag(tmp_path: Path) -> None:
    disk = RealDisk()
    with pytest.raises(OSError, match="Bad file"):
        disk.pwrite(9999, [b"x"], 0, sync=True)
    assert disk.dsync


def test_create_refuses_what_is_there_and_open_what_is_not(disk: RealDisk, tmp_path: Path) -> None:
    disk.close(disk.create(tmp_path / "f"))
    with pytest.raises(FileExistsError):
        disk.create(tmp_path / "f")
    for opener in (disk.open_read, disk.open_write):
        disk.close(opener(tmp_path / "f"))
        with pytest.raises(FileNotFoundError):
            opener(tmp_path / "g")


def test_names_rename_and_unlink(disk: RealDisk, tmp_path: Path) -> None:
    home = tmp_path / "a" / "b"
    disk.makedirs(home)
    disk.makedirs(home)
    for name in ("z", "m"):
        disk.close(disk.create(home / name))
    assert disk.names(home) == ["m", "z"]
    disk.rename(home / "z", home / "m")
    disk.sync_dir(home)
    assert disk.names(home) == ["m"]
    disk.unlink(home / "m")
    assert disk.names(home) == []


def test_a_lock_has_one_holder_until_its_descriptor_goes(disk: RealDisk, tmp_path: Path) -> None:
    fd = disk.lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        disk.lock(tmp_path / "lock")
    disk.close(fd)
    disk.close(disk.lock(tmp_path / "lock"))


def test_a_read_only_mount_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk()
    disk.close(disk.lock(tmp_path / "lock"))
    real = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    fd = disk.lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        disk.lock(tmp_path / "lock")
    disk.close(fd)


def test_files_are_not_readable_by_others(disk: RealDisk, tmp_path: Path) -> None:
    disk.close(disk.create(tmp_path / "f"))
    assert (tmp_path / "f").stat().st_mode & 0o007 == 0


def test_a_lock_that_comes_free_in_a_moment_is_waited_for(tmp_path: Path) -> None:
    disk = RealDisk()
    held = disk.lock(tmp_path / "lock")
    freeing = threading.Timer(0.05, disk.close, [held])
    freeing.start()
    disk.close(disk.lock(tmp_path / "lock"))
    freeing.join()
