from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.store import files
from appliance.store.files import clean_temps, durable_replace, file_statistics, storage_error
from appliance.system.disk import RealDisk
from appliance.wire.errors import NotFound, Unavailable

GONE_PID = 4_194_305  # one above the kernel's largest pid


class FailingDisk(RealDisk):
    """Fails the named call once with the given errno, and remembers the order of all calls."""

    def __init__(self, call: str = "", error: int = errno.ENOSPC) -> None:
        super().__init__()
        self.call, self.error = call, error
        self.order: list[str] = []

    def _pass(self, call: str) -> None:
        self.order.append(call)
        if call == self.call:
            self.call = ""
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: Path) -> int:
        self._pass("create")
        return super().create(path)

    def pwrite(self, fd: int, buffers, offset: int, *, sync: bool) -> int:
        self._pass("pwrite")
        return super().pwrite(fd, buffers, offset, sync=sync)

    def sync(self, fd: int) -> None:
        self._pass("sync")
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._pass("rename")
        super().rename(source, target)

    def sync_dir(self, directory: Path) -> None:
        self._pass("sync_dir")
        super().sync_dir(directory)

    def unlink(self, path: Path) -> None:
        self._pass("unlink")
        super().unlink(path)


def test_content_and_mode_are_those_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "state"
    old_umask = os.umask(0o077)
    try:
        assert durable_replace(target, b"one", 0o644) == 3
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    durable_replace(target, b"")
    assert target.read_bytes() == b""
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state"]


def test_the_order_is_write_sync_rename_sync(tmp_path: Path) -> None:
    disk = FailingDisk()
    durable_replace(tmp_path / "state", b"x", disk=disk)
    assert disk.order == ["create", "pwrite", "sync", "rename", "sync_dir"]


@pytest.mark.parametrize("call", ["create", "pwrite", "sync", "rename"])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path, call: str) -> None:
    target = tmp_path / "state"
    durable_replace(target, b"old")
    before = file_statistics()
    with pytest.raises(Unavailable) as caught:
        durable_replace(target, b"new", disk=FailingDisk(call))
    assert caught.value.code == files.STORAGE_FULL
    assert str(target) in str(caught.value)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]
    after = file_statistics()
    assert (after.failures, after.bytes_written) == (before.failures + 1, before.bytes_written)


def test_an_unsynced_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        durable_replace(tmp_path / "state", b"new", disk=FailingDisk("sync_dir", errno.EIO))
    assert caught.value.code == files.STORAGE_FAILED


def test_bytes_are_counted(tmp_path: Path) -> None:
    before = file_statistics()
    durable_replace(tmp_path / "a", b"12345")
    durable_replace(tmp_path / "a", b"123")
    after = file_statistics()
    assert (after.replaced - before.replaced, after.bytes_written - before.bytes_written) == (2, 8)


def test_leftovers_of_ended_processes_are_removed_by_the_next_replacement(tmp_path: Path) -> None:
    mine, other, strange = f".a.{GONE_PID}-7.tmp", f".b.{GONE_PID}-7.tmp", ".a.tmp"
    alive = f".a.{os.getppid()}-1.tmp"
    own = f".a.{os.getpid()}-999999.tmp"
    for name in (mine, other, strange, alive, own):
        (tmp_path / name).write_bytes(b"half")
    before = file_statistics()
    durable_replace(tmp_path / "a", b"x")
    assert sorted(os.listdir(tmp_path)) == sorted([other, strange, alive, "a"])
    assert file_statistics().temps_removed - before.temps_removed == 2
    assert clean_temps(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted([strange, alive, "a"])


def test_a_pid_that_cannot_exist_is_not_alive(tmp_path: Path) -> None:
    (tmp_path / f".a.{10**30}-0.tmp").write_bytes(b"")
    assert clean_temps(tmp_path) == 1


def test_a_leftover_that_cannot_be_removed_is_counted(tmp_path: Path) -> None:
    (tmp_path / f".a.{GONE_PID}-0.tmp").write_bytes(b"")
    before = file_statistics()
    assert clean_temps(tmp_path, disk=FailingDisk("unlink")) == 0
    assert file_statistics().temps_kept - before.temps_kept == 1


def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        durable_replace(tmp_path / "none" / "a", b"x")
    with pytest.raises(NotFound):
        clean_temps(tmp_path / "none")


def test_readers_see_one_version_or_the_other(tmp_path: Path) -> None:
    target = tmp_path / "state"
    versions = [bytes([65 + n]) * 10_000 for n in range(8)]
    durable_replace(target, versions[0])
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            seen.add(target.read_bytes())

    thread = threading.Thread(target=read)
    thread.start()
    for version in versions * 3:
        durable_replace(target, version)
    stop.set()
    thread.join()
    assert seen <= set(versions)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, files.STORAGE_FULL),
        (errno.EDQUOT, files.STORAGE_FULL),
        (errno.EROFS, files.STORAGE_READ_ONLY),
        (errno.EACCES, files.STORAGE_READ_ONLY),
        (errno.EIO, files.STORAGE_FAILED),
    ],
)
def test_errors_of_the_medium_have_codes(number: int, code: str) -> None:
    error = storage_error(OSError(number, "x"), "thing")
    assert isinstance(error, Unavailable)
    assert error.code == code
    assert str(error).startswith("thing: ")


def test_an_error_without_a_number_keeps_its_text() -> None:
    assert str(storage_error(OSError("odd"), "thing")) == "thing: odd"


def test_a_place_that_does_not_say_is_not_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not files.is_full(tmp_path / "none")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=10, f_frsize=4096))
    assert files.is_full(tmp_path)
