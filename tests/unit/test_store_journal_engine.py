from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.system.disk import Buffer
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import Unavailable
from tests.fault.journal_kit import HOME, on_trio


class Hanging(CrashDisk):
    """Writes hang while ``stuck`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = False
        self.go_on = threading.Event()

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int, *, sync: bool) -> int:
        if self.stuck:
            self.go_on.wait(10)
        return super().pwrite(fd, buffers, offset, sync=sync)


@on_trio
async def test_every_wait_for_the_disk_has_an_end() -> None:
    disk = Hanging()
    spec = JournalSpec(name="h", durability="relaxed", wait_s=0.05)
    async with Journal.open(HOME, spec, disk=disk) as journal:
        disk.stuck = True
        journal.append_nowait([b"a"])
        with pytest.raises(Unavailable) as caught:
            await journal.sync()
        assert caught.value.code == "STORAGE_STALLED"
        with pytest.raises(Unavailable) as caught:
            journal.write_through([b"b"])  # would have to wait for the write under way
        assert caught.value.code == "STORAGE_STALLED"
        disk.stuck = False
        disk.go_on.set()
        await journal.sync()
        assert (await journal.read(1)).records == [b"a", b"b"]


@on_trio
async def test_a_resume_that_hangs_is_given_up() -> None:
    inner = Hanging()
    disk = FaultDisk(inner)
    async with Journal.open(HOME, JournalSpec(name="h", wait_s=0.05), disk=disk) as journal:
        disk.fail_at = len(disk.calls)
        with pytest.raises(Unavailable):
            await journal.append(b"lost")
        inner.stuck = True
        with pytest.raises(Unavailable) as caught:
            await journal.resume()
        assert caught.value.code == "STORAGE_STALLED"
        inner.stuck = False
        inner.go_on.set()
        await journal.resume()
        assert await journal.append(b"on") == 1


@on_trio
async def test_a_disk_that_hangs_at_the_end_does_not_hold_up_the_process_and_keeps_the_lock() -> None:
    disk = Hanging()
    async with Journal.open(
        HOME, JournalSpec(name="h", durability="relaxed", wait_s=0.05), disk=disk
    ) as journal:
        journal.append_nowait([b"a"])
        disk.stuck = True
    with pytest.raises(BlockingIOError):  # a stuck write may still land: nobody else may write here
        disk.lock(HOME / "journal.lock")
    disk.go_on.set()


@on_trio
async def test_relaxed_appends_give_the_loop_a_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    spec = JournalSpec(name="r", durability="relaxed")
    async with (
        Journal.open(HOME, spec, disk=CrashDisk(), inline=True) as journal,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(other)
        for _ in range(50):
            await journal.append(b"x")
        assert turns >= 40
        nursery.cancel_scope.cancel()
