from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.journal_base import base_name, find_bases, read_base, verify_base, write_base
from appliance.store.journal_types import BaseInfo
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import Damaged

HOME = Path("/j")
ID = b"i" * 16


def write(disk: CrashDisk | FaultDisk, records: list[bytes], upto: int = 9) -> BaseInfo:
    return write_base(disk, HOME, ID, upto, iter(records), 5)


def everything(disk: CrashDisk, info: BaseInfo) -> list[bytes]:
    return [record for part in read_base(disk, HOME, info) for record in part]


@given(st.lists(st.binary(max_size=100), max_size=30))
def test_an_image_reads_back(records: list[bytes]) -> None:
    disk = CrashDisk()
    info = write(disk, records)
    assert (info.file, info.upto_seq, info.count) == (base_name(9), 9, len(records))
    assert everything(disk, info) == records
    assert verify_base(disk, HOME, info)
    assert find_bases(disk, HOME) == ([info], [], [])
    assert disk.open_files() == 0


def test_a_large_image_comes_in_parts() -> None:
    disk = CrashDisk()
    records = [b"%d" % i * 50 for i in range(5000)]
    info = write(disk, records)
    assert len(list(read_base(disk, HOME, info))) > 2
    assert everything(disk, info) == records


def test_every_flipped_bit_is_noticed() -> None:
    disk = CrashDisk()
    info = write(disk, [b"hello", b"", b"world"])
    path = HOME / info.file
    for bit in range(info.size * 8):
        disk.flip(path, bit // 8, bit % 8)
        assert not verify_base(disk, HOME, info), bit
        with pytest.raises(Damaged):
            everything(disk, info)
        disk.flip(path, bit // 8, bit % 8)


def test_every_cut_is_noticed_already_when_it_is_found() -> None:
    whole = CrashDisk()
    info = write(whole, [b"hello", b"", b"world"])
    data = whole.files()[HOME / info.file]
    for size in range(len(data)):
        disk = CrashDisk({HOME / info.file: data[:size]})
        found, damages, _ = find_bases(disk, HOME)
        assert found == []
        assert [d.file for d in damages] == [str(HOME / info.file)]


def test_a_renamed_image_is_not_believed() -> None:
    disk = CrashDisk()
    info = write(disk, [b"a"])
    moved = CrashDisk({HOME / base_name(10): disk.files()[HOME / info.file]})
    assert find_bases(moved, HOME)[0] == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_any_failing_call_leaves_no_image_and_keeps_the_old_one(error: int) -> None:
    calls = FaultDisk(CrashDisk())
    write(calls, [b"x" * 300_000, b"y"])
    for index in range(len(calls.calls)):
        inner = CrashDisk()
        old = write(inner, [b"old"], upto=5)
        disk = FaultDisk(inner, fail_at=index, error=error, part=0.5)
        with contextlib.suppress(OSError):
            write(disk, [b"x" * 300_000, b"y"])
        found, damages, temps = find_bases(inner.after_kill(), HOME)
        assert old in found
        assert damages == []
        assert temps == [] or disk.failed == ["unlink"]
        assert inner.open_files() == 0


@pytest.mark.parametrize("seed", range(100))
def test_a_power_cut_leaves_the_old_image_or_the_new_one(seed: int) -> None:
    disk = CrashDisk()
    write(disk, [b"old"], upto=5)
    faulty = FaultDisk(disk, fail_at=seed % 7, error=errno.EIO, part=0.7, sticky=True)
    with contextlib.suppress(OSError):
        write(faulty, [b"new" * 1000], upto=9)
    after = disk.after_power_cut(seed)
    found, damages, _ = find_bases(after, HOME)
    assert damages == []
    assert [i.upto_seq for i in found] in ([5], [5, 9])
    assert all(verify_base(after, HOME, info) for info in found)


def test_an_image_that_does_not_read_back_is_not_published() -> None:
    class Rotten(CrashDisk):
        def forget(self, fd: int) -> None:
            self._open[fd].data[100] ^= 1

    disk = Rotten()
    with pytest.raises(Damaged):
        write(disk, [b"a" * 500])
    assert disk.names(HOME) == []


def test_a_failing_source_leaves_nothing() -> None:
    def records() -> object:
        yield b"a"
        raise RuntimeError("owner")

    disk = CrashDisk()
    with pytest.raises(RuntimeError, match="owner"):
        write_base(disk, HOME, ID, 1, records(), 0)  # type: ignore[arg-type]
    assert disk.names(HOME) == []


def test_a_leftover_of_an_earlier_attempt_is_overwritten() -> None:
    disk = CrashDisk({HOME / "base-00000000000000000009.img-tmp": b"rubbish"})
    assert find_bases(disk, HOME) == ([], [], ["base-00000000000000000009.img-tmp"])
    info = write(disk, [b"a"])
    assert disk.names(HOME) == [info.file]
