from __future__ import annotations

import errno

import pytest

from appliance.store.journal import Journal
from appliance.store.journal_images import Bases
from appliance.store.journal_types import BaseInfo, GapReason, JournalSpec
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import Conflict, Damaged, Invalid, Unavailable
from tests.fault.journal_kit import HOME, on_trio

STATE = JournalSpec(name="s", kind="state", segment_bytes=4096)


def opened(disk: CrashDisk | FaultDisk, spec: JournalSpec = STATE, *, inline: bool = True) -> Journal:
    return Journal.open(HOME, spec, disk=disk, inline=inline)


async def fill(journal: Journal, count: int = 20) -> None:
    for _ in range(count):
        await journal.append(b"x" * 1000)


def base_of(journal: Journal) -> list[bytes]:
    return [record for part in journal.read_base() for record in part]


def test_too_few_images_trim_nothing() -> None:
    one, two, three = (BaseInfo(f"f{i}", i * 10, 1, 100) for i in (1, 2, 3))
    bases = Bases([], 2)
    assert (bases.upto_seq, bases.trim_seq, bases.known) == (0, 0, ())
    assert bases.add(one) == []
    assert (bases.upto_seq, bases.trim_seq) == (10, 0)
    assert bases.add(two) == []
    assert (bases.upto_seq, bases.trim_seq) == (20, 10)
    assert bases.add(three) == ["f1"]
    assert (bases.trim_seq, bases.bytes_written) == (20, 300)
    bases.drop(three)
    assert (bases.upto_seq, bases.trim_seq) == (20, 0)


@on_trio
@pytest.mark.parametrize("inline", [True, False])
async def test_an_image_lets_the_segments_behind_it_go(inline: bool) -> None:
    disk = CrashDisk()
    async with opened(disk, inline=inline) as journal:
        await fill(journal)
        before = journal.statistics()
        info = await journal.write_base(14, [b"a", b"b"])
        assert journal.base == info
        after = journal.statistics()
        assert (after.first_seq, after.base_bytes_written) == (13, info.size)
        assert after.segments < before.segments
        assert after.bytes_since_base < before.bytes_since_base
        await journal.append(b"next")
    async with opened(disk.after_power_cut(1)) as again:
        assert base_of(again) == [b"a", b"b"]
        batch = await again.read(15)
        assert (batch.gap, batch.next_seq) == (None, 22)


@on_trio
async def test_a_state_journal_never_trims_otherwise() -> None:
    async with opened(CrashDisk()) as journal:
        await fill(journal)
        with pytest.raises(Invalid):
            journal.trim_to(10)
        assert journal.statistics().first_seq == 1
    async with Journal.open(HOME, JournalSpec(name="l"), disk=CrashDisk(), inline=True) as log:
        await log.append(b"x")
        with pytest.raises(Invalid):
            await log.write_base(1, [])


@on_trio
async def test_an_image_of_what_is_not_durable_is_refused() -> None:
    async with opened(CrashDisk()) as journal:
        await fill(journal, 3)
        for upto in (0, 4):
            with pytest.raises(Invalid):
                await journal.write_base(upto, [])


@on_trio
async def test_one_image_at_a_time() -> None:
    async with opened(CrashDisk(), inline=True) as journal:
        await fill(journal, 3)
        journal._images._writing = True
        with pytest.raises(Conflict):
            await journal.write_base(3, [])


@on_trio
async def test_a_failed_image_trims_nothing_and_the_journal_goes_on() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"create", "rename"}))
    async with opened(disk) as journal:
        await fill(journal)
        for error in (errno.ENOSPC, errno.EROFS):
            disk.fail_at, disk.error = len(disk.calls), error
            with pytest.raises(Unavailable):
                await journal.write_base(20, [b"a"])
        assert (journal.base, journal.statistics().first_seq) == (None, 1)
        assert await journal.append(b"on") == 21
        assert await journal.write_base(20, [b"a"])


@on_trio
async def test_with_two_images_kept_the_older_one_serves_when_the_newer_rots() -> None:
    disk = CrashDisk()
    spec = JournalSpec(name="s", kind="state", segment_bytes=4096, keep_bases=2)
    async with opened(disk, spec) as journal:
        await fill(journal)
        await journal.write_base(10, [b"ten"])
        assert journal.statistics().first_seq == 1
        await journal.write_base(20, [b"twenty"])
        assert journal.statistics().first_seq == 10
        disk.flip(HOME / journal.base.file, 120, 0)  # type: ignore[union-attr]
        with pytest.raises(Damaged):
            base_of(journal)
        assert base_of(journal) == [b"ten"]
        batch = await journal.read(11)
        assert (batch.gap, batch.next_seq) == (None, 21)
        assert "base.damaged" in disk.names(HOME)


@on_trio
async def test_an_image_that_cannot_be_read_now_stays() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"pread"}))
    async with opened(disk) as journal:
        await fill(journal, 3)
        await journal.write_base(3, [b"a"])
        disk.fail_at, disk.error = len(disk.calls), errno.EIO
        with pytest.raises(Unavailable):
            base_of(journal)
        assert base_of(journal) == [b"a"]


@on_trio
async def test_without_any_image_left_the_missing_past_is_a_gap() -> None:
    disk = CrashDisk()
    async with opened(disk) as journal:
        await fill(journal)
        await journal.write_base(20, [b"twenty"])
        disk.flip(HOME / journal.base.file, 120, 0)  # type: ignore[union-attr]
    async with opened(disk) as journal:
        with pytest.raises(Damaged):
            base_of(journal)
        assert base_of(journal) == []
        batch = await journal.read(1)
        assert batch.gap is not None
        assert batch.gap.reason == GapReason.TRIMMED


@on_trio
async def test_a_crash_between_image_and_trimming_is_made_up_for_at_the_next_open() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"unlink"}))
    async with opened(disk) as journal:
        await fill(journal)
        disk.fail_at, disk.sticky = len(disk.calls) + 1, True  # the first is of a temporary file
        await journal.write_base(20, [b"a"])
        assert journal.statistics().trim_errors > 0
    disk.heal()
    async with opened(disk) as journal:
        assert journal.statistics().first_seq == 19
    assert len([n for n in disk.names(HOME) if n.endswith(".seg")]) == 1
