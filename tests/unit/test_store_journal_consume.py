from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.store.journal import Journal
from appliance.store.journal_types import Damage, Gap, GapReason, JournalSpec, Record
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import Conflict, Invalid, Unavailable
from tests.fault.journal_kit import HOME, on_trio

SPEC = JournalSpec(name="c", segment_bytes=4096)
RELAXED = JournalSpec(name="r", durability="relaxed", overflow="drop")


def opened(
    disk: CrashDisk | FaultDisk | None = None, spec: JournalSpec = SPEC, *, inline: bool = True
) -> Journal:
    return Journal.open(HOME, spec, disk=disk or CrashDisk(), inline=inline)


# -- followers -------------------------------------------------------------------------------------------


@on_trio
async def test_a_follower_gets_what_is_there_and_then_what_comes() -> None:
    async with opened(inline=False) as journal, trio.open_nursery() as nursery:
        for i in range(30):
            await journal.append(b"%d" % i * 300)
        seen: list[int] = []

        async def follow() -> None:
            async for item in journal.follow(5):
                assert isinstance(item, Record)
                assert item.data == b"%d" % (item.seq - 1) * 300
                assert item.at_ms > 1_600_000_000_000
                seen.append(item.seq)
                if item.seq == 60:
                    return

        nursery.start_soon(follow)
        for i in range(30, 60):
            await journal.append(b"%d" % i * 300)
    assert seen == list(range(5, 61))


@on_trio
async def test_a_follower_waits_for_the_sync_unless_it_asks_for_more() -> None:
    async with opened(spec=RELAXED) as journal:
        journal.write_through([b"a"])
        assert (await journal.follow(1, level="written").batch()).records == [b"a"]
        with trio.move_on_after(0.01) as scope:
            await journal.follow(1).batch()
        assert scope.cancelled_caught
        await journal.sync()
        assert (await journal.follow(1).batch()).records == [b"a"]


@on_trio
async def test_gaps_come_in_place() -> None:
    async with opened(spec=RELAXED) as journal:
        journal.append_nowait([b"a"])
        journal.drop(3)
        journal.append_nowait([b"b"])
        await journal.sync()
        follower = journal.follow(1)
        items = [await anext(follower) for _ in range(3)]
        assert [i.seq if isinstance(i, Record) else i for i in items] == [1, Gap(2, 4, GapReason.DROPPED), 5]
        assert follower.next_seq == 6


@on_trio
async def test_trimming_under_a_follower_becomes_a_gap() -> None:
    async with opened(inline=False) as journal:
        for _ in range(30):
            await journal.append(b"x" * 1000)
        follower = journal.follow(1)
        await follower.batch(limit_records=1)
        journal.trim_to(20)
        batch = await follower.batch(limit_bytes=1 << 20)
        seen = list(range(batch.first_seq, batch.next_seq))
        while follower.next_seq <= 30:
            more = await follower.batch()
            seen += range(more.first_seq, more.next_seq)
            batch = more if more.gap else batch
        assert seen[-1] == 30
        assert batch.gap is None or batch.gap.reason == GapReason.TRIMMED


@on_trio
async def test_a_lost_file_is_a_gap_and_reported_once() -> None:
    disk = CrashDisk()
    async with opened(disk) as journal:
        for _ in range(10):
            await journal.append(b"x" * 1000)
        lost = disk.names(HOME)[1]
        disk.unlink(HOME / lost)
        for _ in range(2):
            follower = journal.follow(1)
            gaps = []
            while follower.next_seq <= 10:
                batch = await follower.batch()
                gaps += [batch.gap] if batch.gap else []
            assert [(g.first, g.last, g.reason) for g in gaps] == [(4, 6, GapReason.DAMAGED)]
        assert [d.what for d in journal.damages] == ["segment missing"]
        assert journal.statistics().damages == 1


@on_trio
async def test_damage_is_remembered_once_and_not_without_end() -> None:
    async with opened() as journal:
        for _ in range(2):
            journal._consumers.note(Damage("f", i, 1, "group") for i in range(150))
        assert [d.offset for d in journal.damages][-1] == 149
        assert len(journal.damages) == 100


@on_trio
async def test_a_disk_that_cannot_be_read_is_unavailable_and_the_place_stays() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"pread"}))
    async with opened(disk) as journal:
        await journal.append(b"a")
        follower = journal.follow(1)
        disk.fail_at, disk.error = len(disk.calls), errno.EIO
        with pytest.raises(Unavailable) as caught:
            await follower.batch()
        assert caught.value.code == "STORAGE_FAILED"
        assert (await follower.batch()).records == [b"a"]


@on_trio
async def test_followers_of_a_closed_journal_are_told() -> None:
    journal = opened()
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        caught = []

        async def follow() -> None:
            with trio.CancelScope(shield=True):
                try:
                    await journal.follow(1).batch()
                except Unavailable as exc:
                    caught.append(exc.code)

        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert caught == ["JOURNAL_CLOSED"]


@on_trio
async def test_followers_release_their_files() -> None:
    disk = CrashDisk()
    async with opened(disk) as journal:
        await journal.append(b"a")
        before = disk.open_files()
        follower = journal.follow(1)
        await follower.batch()
        await journal.read(1)
        assert disk.open_files() == before + 1
        follower.close()
        forgotten = journal.follow(1)
        await forgotten.batch()
        del forgotten
        assert disk.open_files() == before


# -- cursors ---------------------------------------------------------------------------------------------


def test_a_cursor_goes_on_where_it_was() -> None:
    disk = CrashDisk()

    async def first() -> None:
        async with opened(disk) as journal:
            for i in range(10):
                await journal.append(b"%d" % i)
            cursor = journal.cursor("me")
            assert len((await cursor.batch()).records) == 10
            cursor.ack(4)
            cursor.ack(2)  # older: nothing
            assert cursor.acked_seq == 4

    async def second() -> None:
        async with opened(disk) as journal:
            cursor = journal.cursor("me")
            assert (cursor.acked_seq, cursor.next_seq) == (4, 5)
            batch = await cursor.poll(limit_records=2)
            assert batch.records == [b"4", b"5"]
            cursor.rewind()
            assert (await cursor.poll()).records == [b"%d" % i for i in range(4, 10)]
            assert not await cursor.poll()

    trio.run(first)
    trio.run(second)


def test_positions_reach_the_disk_at_most_once_a_second() -> None:
    async def main() -> None:
        disk = FaultDisk(CrashDisk(), only=frozenset({"open_write"}))
        async with opened(disk) as journal:
            for i in range(100):
                await journal.append(b"%d" % i)
            await trio.sleep(5)
            cursor = journal.cursor("me")
            before = len(disk.calls)
            for i in range(1, 101):
                cursor.ack(i)
                await trio.sleep(0.05)
            assert 4 <= len(disk.calls) - before <= 6
            await trio.sleep(1.1)
            figures = cursor.statistics()
            assert (figures.acked_seq, figures.persisted_seq) == (100, 100)
            assert journal.statistics().cursor_bytes_written > 0
            idle = len(disk.calls)
            await trio.sleep(3600)
            assert len(disk.calls) == idle

    trio.run(main, clock=MockClock(autojump_threshold=0))


@on_trio
async def test_a_deleted_position_means_at_least_once_from_the_start() -> None:
    disk = CrashDisk()
    async with opened(disk) as journal:
        for i in range(5):
            await journal.append(b"%d" % i)
        journal.cursor("me").ack(5)
    disk.unlink(HOME / "cursor-me.pos")
    async with opened(disk) as journal:
        assert len((await journal.cursor("me").poll()).records) == 5


@on_trio
async def test_a_new_cursor_begins_where_it_is_told() -> None:
    async with opened() as journal:
        for _ in range(20):
            await journal.append(b"x" * 1000)
        journal.trim_to(10)
        assert journal.cursor("first").next_seq == 10  # what was trimmed before it came is no gap to it
        assert journal.cursor("new", start="new").next_seq == 21
        assert journal.cursor("seven", start=7).next_seq == 7
        assert journal.cursor("far", start=10**9).next_seq == 21
        assert journal.cursor("low", start=-5).next_seq == 1


@on_trio
async def test_names_are_checked_and_taken_once() -> None:
    async with opened() as journal:
        for name in ("", "x" * 101, "ü" * 51):
            with pytest.raises(Invalid):
                journal.cursor(name)
        cursor = journal.cursor("../a/b ü")
        with pytest.raises(Conflict):
            journal.cursor("../a/b ü")
        with pytest.raises(Conflict):
            journal.forget_cursor("../a/b ü")
        await journal.append(b"x")
        cursor.ack(1)
        cursor.close()
        assert journal.cursor("../a/b ü").acked_seq == 1


@on_trio
async def test_a_forgotten_cursor_begins_anew() -> None:
    disk = CrashDisk()
    async with opened(disk) as journal:
        await journal.append(b"x")
        cursor = journal.cursor("me")
        cursor.ack(1)
        cursor.close()
        await journal.sync()
        journal.forget_cursor("me")
        assert journal.cursor("me").acked_seq == 0
    assert "cursor-me.pos" not in disk.names(HOME)


@on_trio
async def test_lag_is_told_and_gaps_are_counted() -> None:
    async with opened(spec=RELAXED) as journal:
        cursor = journal.cursor("me")
        journal.append_nowait([b"x" * 100] * 10)
        journal.drop(5)
        await journal.sync()
        figures = cursor.statistics()
        assert (figures.lag_records, figures.lag_bytes > 1000) == (15, True)
        while batch := await cursor.poll():
            cursor.ack(batch.last_seq)
        figures = cursor.statistics()
        assert (figures.lag_records, figures.lag_bytes, figures.gaps, figures.gap_records) == (0, 0, 1, 5)
        assert journal.statistics().cursors == (figures,)
        cursor.close()
        assert journal.statistics().cursors == ()


@on_trio
async def test_no_acknowledgement_runs_ahead_of_the_journal() -> None:
    async with opened() as journal:
        await journal.append(b"x")
        cursor = journal.cursor("me")
        cursor.ack(1000)
        assert cursor.acked_seq == 1


@on_trio
async def test_a_position_that_cannot_be_written_is_counted_and_harms_nobody() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"create"}))
    async with opened(disk) as journal:
        await journal.append(b"x")
        disk.fail_at, disk.sticky = len(disk.calls), True
        journal.cursor("me").ack(1)
        await journal.append(b"y")
        assert journal.statistics().cursor_errors == 1
        assert journal.statistics().failure is None
