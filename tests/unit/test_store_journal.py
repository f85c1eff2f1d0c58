from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.store.journal import Journal
from appliance.store.journal_format import join_records
from appliance.store.journal_types import GapReason, JournalSpec, JournalState
from appliance.system.disk import RealDisk
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import Busy, Conflict, Invalid, Unavailable
from tests.fault.journal_kit import HOME, on_trio

DURABLE = JournalSpec(name="d")
RELAXED = JournalSpec(name="r", durability="relaxed")


def faulty() -> FaultDisk:
    return FaultDisk(CrashDisk())


def opened(disk: CrashDisk | FaultDisk, spec: JournalSpec = DURABLE) -> Journal:
    return Journal.open(HOME, spec, disk=disk, inline=True)


# -- on a real disk, with a real thread ------------------------------------------------------------------


@on_trio
async def test_append_read_and_open_again(tmp_path: Path) -> None:
    async with await Journal.opened(tmp_path / "j", DURABLE) as journal:
        assert await journal.append(b"one") == 1
        assert await journal.append_many([b"two", b"three"]) == (2, 3)
        batch = await journal.read(1)
        assert (batch.first_seq, batch.records, batch.gap) == (1, [b"one", b"two", b"three"], None)
        assert (batch.next_seq, batch.last_seq) == (4, 3)
        assert not await journal.read(4)
    async with Journal.open(tmp_path / "j", DURABLE) as journal:
        assert (journal.repairs, journal.damages) == ((), ())
        assert await journal.append(b"four") == 4
        assert (await journal.read(2, limit_records=2)).records == [b"two", b"three"]


@on_trio
async def test_many_appenders_share_writes_and_each_gets_its_own_numbers(tmp_path: Path) -> None:
    seen: dict[int, bytes] = {}

    async def appender(name: int) -> None:
        for i in range(20):
            records = [b"%d-%d-%d" % (name, i, k) for k in range(3)]
            first, last = await journal.append_many(records)
            assert last - first == 2
            seen.update(zip(range(first, last + 1), records, strict=True))

    async with Journal.open(tmp_path, DURABLE) as journal:
        async with trio.open_nursery() as nursery:
            for name in range(20):
                nursery.start_soon(appender, name)
        assert sorted(seen) == list(range(1, 1201))
        batch = await journal.read(1)
        assert dict(enumerate(batch.records, 1)) == seen
        figures = journal.statistics()
        assert (figures.records, figures.last_seq, figures.durable_seq) == (1200, 1200, 1200)
        assert figures.writes < 200
        assert figures.syncs == figures.writes


@on_trio
async def test_relaxed_records_reach_the_disk_by_themselves(tmp_path: Path) -> None:
    spec = JournalSpec(name="r", durability="relaxed", flush_interval_s=0.02, sync_interval_s=0.05)
    async with Journal.open(tmp_path, spec) as journal:
        assert journal.append_nowait([b"a", b"b"]) == 1
        follower = journal.follow(1)
        assert (await follower.batch()).records == [b"a", b"b"]
        assert journal.durable_seq == 2
        figures = journal.statistics()
        assert (figures.writes, figures.syncs) == (1, 1)


@on_trio
async def test_written_through_is_there_before_the_call_returns(tmp_path: Path) -> None:
    async with Journal.open(tmp_path, RELAXED) as journal:
        journal.append_nowait([b"before"])
        assert journal.write_through([b"now"]) == 2
        file = tmp_path / "00000001-00000000000000000001.seg"
        assert b"before" in file.read_bytes()
        assert b"now" in file.read_bytes()
        assert journal.durable_seq == 0
        assert (await journal.read(1, level="written")).records == [b"before", b"now"]
        await journal.sync()
        assert journal.durable_seq == 2


@on_trio
async def test_write_through_waits_for_a_write_under_way_so_that_a_kill_keeps_order() -> None:
    class Slow(CrashDisk):
        def pwrite(self, fd, buffers, offset, *, sync):  # type: ignore[no-untyped-def]
            if b"first" in b"".join(buffers):
                begun.set()
                go_on.wait(5)
            return super().pwrite(fd, buffers, offset, sync=sync)

    begun, go_on = threading.Event(), threading.Event()
    disk = Slow()
    spec = JournalSpec(name="r", durability="relaxed", flush_bytes=1)
    async with Journal.open(HOME, spec, disk=disk) as journal:
        journal.append_nowait([b"first"])
        await trio.to_thread.run_sync(begun.wait, 5)
        threading.Timer(0.05, go_on.set).start()
        assert journal.write_through([b"second"]) == 2
        (data,) = (d for p, d in disk.files().items() if p.suffix == ".seg")
        assert 0 < data.index(b"first") < data.index(b"second")
        assert journal.statistics().written_seq == 2


@on_trio
async def test_joined_records_are_taken_as_they_are(tmp_path: Path) -> None:
    body, count = join_records([b"x" * 350] * 16)
    async with Journal.open(tmp_path, RELAXED) as journal:
        assert journal.append_joined_nowait(body, count) == 1
        assert journal.append_joined_nowait(body, count) == 17
        await journal.sync()
        assert len((await journal.read(1)).records) == 32
    async with Journal.open(tmp_path / "d", DURABLE) as journal:
        assert await journal.append_joined(body, count) == (1, 16)


@on_trio
async def test_one_writer_at_a_time(tmp_path: Path) -> None:
    async with Journal.open(tmp_path, DURABLE):
        with pytest.raises(Conflict):
            Journal.open(tmp_path, DURABLE)
    Journal.open(tmp_path, DURABLE).close()


def test_a_journal_that_never_ran_is_written_when_it_is_closed(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, RELAXED)
    journal.append_nowait([b"a", b"b"])
    journal.write_through([b"c"])
    journal.append_nowait([b"d"])
    journal.close()
    journal.close()
    again = Journal.open(tmp_path, RELAXED)
    assert (again.last_seq, again.repairs) == (4, ())
    assert again._engine.committer.shelf.tail is not None
    again.close()


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        Journal.open(tmp_path / "file" / "j", DURABLE)


# -- running and stopping --------------------------------------------------------------------------------


@on_trio
async def test_leaving_flushes_syncs_and_marks_the_end() -> None:
    disk = CrashDisk()
    async with opened(disk, RELAXED) as journal:
        journal.append_nowait([b"a"] * 3)
    assert disk.open_files() == 0
    again = opened(disk.after_power_cut(1), RELAXED)
    assert again.last_seq == 3
    assert again._engine.committer.shelf.tail is not None


@on_trio
async def test_a_closed_journal_accepts_nothing() -> None:
    async with opened(CrashDisk()) as journal:
        pass
    assert journal.statistics().state == JournalState.CLOSED
    with pytest.raises(Unavailable) as caught:
        await journal.append(b"late")
    assert caught.value.code == "JOURNAL_CLOSED"
    with pytest.raises(Conflict):
        await journal.run()


@on_trio
async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with opened(CrashDisk()):
            raise KeyError("owner")


@on_trio
async def test_a_cancelled_start_leaves_nothing_open() -> None:
    disk = CrashDisk()
    for inline in (True, False):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with await Journal.opened(HOME, DURABLE, disk=disk, inline=inline):
                await trio.lowlevel.checkpoint()
        with trio.CancelScope() as scope:
            journal = Journal.open(HOME, DURABLE, disk=disk, inline=inline)
            scope.cancel()
            async with journal:
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert disk.open_files() == 0


@on_trio
async def test_it_runs_once() -> None:
    async with opened(CrashDisk()) as journal:
        with pytest.raises(Conflict):
            async with journal:
                pass
        assert await journal.append(b"on") == 1


@on_trio
async def test_it_serves_in_a_nursery_of_its_owner() -> None:
    disk = CrashDisk()
    journal = opened(disk)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await journal.append(b"a")
        with pytest.raises(Conflict):
            await journal.run()
        with pytest.raises(Conflict):
            journal.close()
        nursery.cancel_scope.cancel()
    assert disk.open_files() == 0


def test_under_a_mock_clock_flush_and_sync_take_their_time() -> None:
    async def main() -> None:
        async with opened(CrashDisk(), RELAXED) as journal:
            journal.append_nowait([b"a"])
            await trio.sleep(0.24)
            assert journal.statistics().written_seq == 0
            await trio.sleep(0.02)
            assert (journal.statistics().written_seq, journal.durable_seq) == (1, 0)
            await trio.sleep(1.01)
            assert journal.durable_seq == 1
            writes = journal.statistics().writes
            await trio.sleep(1.01)
            assert journal.statistics().writes == writes + 1  # the mark
            await trio.sleep(86_400)
            assert journal.statistics().writes == writes + 1
            assert journal.statistics().bytes_written < 1000

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_mark_that_is_due_before_the_sync_does_not_keep_the_loop_busy() -> None:
    async def main() -> None:
        async with opened(CrashDisk(), RELAXED) as journal:
            journal.write_through([b"a"])
            await journal.sync()
            await trio.sleep(0.9)
            journal.write_through([b"b"])
            await trio.sleep(0.5)
            assert journal.durable_seq == 1
            await trio.sleep(5)
            assert journal.durable_seq == 2
            cursor = journal.cursor("me", level="written")
            journal.write_through([b"c"])
            cursor.ack(3)
            await trio.sleep(5)
            assert cursor.statistics().persisted_seq == 3

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- limits ----------------------------------------------------------------------------------------------


@on_trio
async def test_what_cannot_be_appended_is_refused_by_name() -> None:
    spec = JournalSpec(name="small", max_append_bytes=1000, max_pending_bytes=2000)
    async with opened(CrashDisk(), spec) as journal:
        for records in ([], [b"x" * 1000]):
            with pytest.raises(Invalid) as caught:
                await journal.append_many(records)
            assert caught.value.field == "records"
        with pytest.raises(Invalid):
            journal.write_through([b"a"])
        assert await journal.append(b"x" * 996) == 1


@on_trio
async def test_over_the_bound_a_durable_append_is_busy_and_a_log_may_drop() -> None:
    slow = faulty()
    spec = JournalSpec(
        name="busy", durability="relaxed", max_append_bytes=1000, max_pending_bytes=2000, flush_bytes=1 << 20
    )
    async with opened(slow, spec) as journal:
        journal.append_nowait([b"x" * 900])
        with pytest.raises(Busy):
            for _ in range(3):
                journal.append_nowait([b"x" * 900])
        assert journal.statistics().refused_busy == 1
    dropping = JournalSpec(
        name="drop",
        durability="relaxed",
        overflow="drop",
        max_append_bytes=1000,
        max_pending_bytes=2000,
        flush_bytes=1 << 20,
    )
    async with Journal.open(Path("/k"), dropping, disk=slow, inline=True) as journal:
        assert [journal.append_nowait([b"x" * 900]) for _ in range(4)] == [1, 2, 3, 4]
        await journal.sync()
        batch = await journal.read(1)
        rest = await journal.read(batch.next_seq)
        assert rest.gap is not None
        assert (rest.gap.last, rest.gap.reason) == (4, GapReason.DROPPED)
        assert journal.statistics().dropped == rest.gap.count


@on_trio
async def test_an_owner_may_leave_out_records_on_purpose() -> None:
    async with opened(CrashDisk(), RELAXED) as journal:
        journal.append_nowait([b"a"])
        journal.drop(3)
        await journal.sync()
        assert (await journal.read(2)).gap is not None
        for count in (0, -1):
            with pytest.raises(Invalid):
                journal.drop(count)
    async with Journal.open(
        Path("/s"), JournalSpec(name="s", kind="state"), disk=CrashDisk(), inline=True
    ) as j:
        with pytest.raises(Invalid):
            j.drop(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"segment_bytes": 1},
        {"group_bytes": 0},
        {"max_append_bytes": 0},
        {"max_pending_bytes": 5},
        {"kind": "state", "overflow": "drop"},
        {"kind": "state", "keep_bytes": 10},
        {"keep_age_s": 0.0},
        {"keep_bases": 0},
        {"zero_ahead_bytes": -1},
        {"retry_s": (2.0, 1.0)},
        {"wait_s": 0.0},
        {"flush_interval_s": 0.0},
        {"sync_interval_s": 0.0},
    ],
)
def test_a_specification_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        JournalSpec(**({"name": "x"} | wrong))  # type: ignore[arg-type]
    assert caught.value.field in wrong


# -- failing disks ---------------------------------------------------------------------------------------


@on_trio
async def test_a_failed_disk_is_visible_and_writing_resumes_on_request() -> None:
    disk = faulty()
    async with opened(disk) as journal:
        await journal.append(b"kept")
        disk.fail_at, disk.sticky, disk.error = len(disk.calls), True, errno.ENOSPC
        with pytest.raises(Unavailable) as caught:
            await journal.append(b"lost")
        assert caught.value.code == "STORAGE_FULL"
        figures = journal.statistics()
        assert figures.state == JournalState.FAILED
        assert "No space left" in (figures.failure or "")
        for call in (journal.append(b"x"), journal.sync(), journal.resume()):
            with pytest.raises(Unavailable):
                await call
        with pytest.raises(Unavailable):
            journal.append_nowait([b"x"])
        assert (await journal.read(1)).records == [b"kept"]
        disk.heal()
        await journal.resume()
        assert await journal.append(b"again") == 2
        assert journal.statistics().state == JournalState.OPEN
        assert (await journal.read(1)).records == [b"kept", b"again"]


@on_trio
async def test_a_relaxed_sync_that_fails_says_so() -> None:
    disk = faulty()
    async with opened(disk, RELAXED) as journal:
        journal.append_nowait([b"a"])
        disk.fail_at = len(disk.calls)
        with pytest.raises(Unavailable):
            await journal.sync()
        await journal.resume()
        await journal.sync()
        batch = await journal.read(1)
        assert batch.gap is not None
        assert batch.gap.reason == GapReason.LOST


@on_trio
async def test_a_write_through_that_fails_says_so() -> None:
    disk = faulty()
    async with opened(disk, RELAXED) as journal:
        disk.fail_at = len(disk.calls)
        with pytest.raises(Unavailable):
            journal.write_through([b"a"])
        with pytest.raises(Unavailable):
            journal.write_through([b"b"])


def test_writing_resumes_by_itself_when_space_is_back() -> None:
    async def main() -> None:
        disk = faulty()
        async with opened(disk) as journal:
            disk.fail_at, disk.sticky = len(disk.calls), True
            with pytest.raises(Unavailable):
                await journal.append(b"lost")
            await trio.sleep(100)
            assert 3 < journal.statistics().write_errors < 10
            disk.heal()
            await trio.sleep(31)
            assert await journal.append(b"again") == 1

    trio.run(main, clock=MockClock(autojump_threshold=0))


@on_trio
async def test_a_disk_that_hangs_ends_the_wait_and_not_the_journal() -> None:
    go_on = threading.Event()

    class Hanging(CrashDisk):
        def pwrite(self, fd, buffers, offset, *, sync):  # type: ignore[no-untyped-def]
            if b"hang" in b"".join(buffers):
                go_on.wait(10)
            return super().pwrite(fd, buffers, offset, sync=sync)

    async with Journal.open(HOME, JournalSpec(name="h", wait_s=0.1), disk=Hanging()) as journal:
        with pytest.raises(Unavailable) as caught:
            await journal.append(b"hang")
        assert caught.value.code == "STORAGE_STALLED"
        go_on.set()
        assert await journal.append(b"on") == 2


@on_trio
async def test_a_cancelled_append_leaves_the_journal_in_order() -> None:
    async with Journal.open(HOME, DURABLE, disk=CrashDisk()) as journal:
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.append(b"perhaps")
        assert await journal.append(b"surely") == 2
        assert (await journal.read(1)).records == [b"perhaps", b"surely"]


# -- trimming and figures --------------------------------------------------------------------------------


@on_trio
async def test_a_log_gives_up_what_its_consumer_is_done_with() -> None:
    async with opened(CrashDisk(), JournalSpec(name="o", segment_bytes=4096)) as journal:
        for _ in range(20):
            await journal.append(b"x" * 1000)
        assert journal.trim_to(0) == 0
        assert journal.trim_to(10) == 3
        assert journal.statistics().first_seq == 10
        assert journal.statistics().trimmed_segments == 3
        batch = await journal.read(1)
        assert batch.gap is not None
        assert (batch.gap.last, batch.gap.reason) == (9, GapReason.TRIMMED)
        assert journal.trim_to(10**9) > 0
        assert await journal.append(b"next") == 21


def test_a_view_is_rebuilt_without_a_loop() -> None:
    disk = CrashDisk()
    journal = opened(disk, JournalSpec(name="v", segment_bytes=4096, group_bytes=1000))
    for i in range(20):
        journal.append_nowait([b"%02d" % i * 400])
    journal.close()
    journal = opened(disk, JournalSpec(name="v", segment_bytes=4096, group_bytes=1000))
    assert [r for b in journal.batches() for r in b.records] == [b"%02d" % i * 400 for i in range(20)]
    assert [b.first_seq for b in journal.batches(18)] == [18]
    disk.unlink(HOME / disk.names(HOME)[1])
    gaps = [b.gap for b in journal.batches() if b.gap]
    assert [g.reason for g in gaps] == [GapReason.DAMAGED]
    assert len(journal.damages) == 1
    journal.close()
    assert disk.open_files() == 0


def test_a_rebuild_from_a_disk_that_cannot_be_read_says_so() -> None:
    disk = FaultDisk(CrashDisk(), only=frozenset({"pread"}))
    journal = opened(disk)
    journal.append_nowait([b"a"])
    journal._engine.committer.want_sync()
    journal.close()
    journal = opened(disk)
    disk.fail_at, disk.error = len(disk.calls), errno.EIO
    with pytest.raises(Unavailable):
        list(journal.batches())


@on_trio
async def test_every_byte_is_counted(tmp_path: Path) -> None:
    disk = RealDisk()
    written = 0

    class Counting(RealDisk):
        def pwrite(self, *args: object, **kw: object) -> int:
            nonlocal written
            size = disk.pwrite(*args, **kw)  # type: ignore[arg-type]
            written += size
            return size

    spec = JournalSpec(name="c", segment_bytes=65536, zero_ahead_bytes=4096)
    async with Journal.open(tmp_path, spec, disk=Counting()) as journal:
        cursor = journal.cursor("me")
        for _ in range(30):
            await journal.append(b"x" * 5000)
        cursor.ack(30)
        await trio.sleep(0.02)
    assert journal.statistics().bytes_written == written


@on_trio
async def test_waiting_tasks_do_not_spin() -> None:
    async with opened(CrashDisk(), RELAXED) as journal, trio.open_nursery() as nursery:
        nursery.start_soon(journal.follow(1).batch)
        await wait_all_tasks_blocked()
        journal.append_nowait([b"a"])
        await journal.sync()
