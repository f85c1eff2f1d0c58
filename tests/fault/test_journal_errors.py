"""Every call to the disk fails once, or from then on: nothing acknowledged is lost, nothing comes twice."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.journal_reader import JournalFiles
from appliance.store.journal_types import GapReason, JournalSpec, JournalState
from appliance.testing.clock import FakeClock
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import FluxbeeError, Unavailable
from tests.fault.journal_kit import HOME

ERRORS = [errno.ENOSPC, errno.EROFS, errno.EIO]
CALLS = frozenset({"makedirs", "lock", "create", "open_write", "pwrite", "sync", "truncate"}) | {
    "rename",
    "unlink",
    "sync_dir",
}

DURABLE = JournalSpec(name="d", segment_bytes=4096, zero_ahead_bytes=2048)
STATE = JournalSpec(name="s", kind="state", segment_bytes=4096, zero_ahead_bytes=2048)
RELAXED = JournalSpec(name="r", durability="relaxed", segment_bytes=4096, flush_bytes=1500)
DROPPING = JournalSpec(
    name="x", durability="relaxed", overflow="drop", segment_bytes=4096, flush_bytes=1500, keep_bytes=50_000
)


class Story:
    """One use of a journal: what was acknowledged, what failed, what was read back."""

    def __init__(self, disk: FaultDisk, spec: JournalSpec) -> None:
        self.disk = disk
        self.spec = spec
        self.clock = FakeClock()
        self.acked: dict[int, bytes] = {}
        self.accepted: dict[int, bytes] = {}
        self.count = 0
        self.ill = 0

    def record(self) -> bytes:
        self.count += 1
        return b"record %d " % self.count + b"x" * (self.count * 37 % 700)

    async def run(self, heal_after: int | None) -> None:
        """Twenty appends, two stops and a base image; the disk heals ``heal_after`` steps after it failed."""
        for _ in range(2):
            try:
                journal = Journal.open(HOME, self.spec, disk=self.disk, clock=self.clock, inline=True)
            except Unavailable:
                assert self.disk.failed
                self.disk.heal()
                continue
            async with journal:
                for step in range(10):
                    self.ill += bool(self.disk.failed)
                    if self.ill == heal_after:
                        await self.heal(journal)
                    await self.step(journal, step)
                self.check_figures(journal)

    async def heal(self, journal: Journal) -> None:
        self.disk.heal()
        self.accepted.clear()
        if journal.statistics().state == JournalState.FAILED:
            await journal.resume()

    async def step(self, journal: Journal, step: int) -> None:
        self.clock.advance(0.4)
        records = [self.record() for _ in range(1 + step % 3)]
        await self.append(journal, records)
        if step == 6 and self.spec.kind == "state" and journal.durable_seq:
            try:
                await journal.write_base(journal.durable_seq, [b"base"])
            except FluxbeeError:
                assert self.disk.failed
        if step == 4:
            journal.cursor(f"at {self.count}").ack(journal.durable_seq)

    async def append(self, journal: Journal, records: list[bytes]) -> None:
        try:
            if self.spec.durability == "durable":
                first, _ = await journal.append_many(records)
                self.acked |= dict(enumerate(records, first))
                return
            before = journal.statistics()
            first = journal.append_nowait(records)
            if journal.statistics().dropped == before.dropped:
                self.accepted |= dict(enumerate(records, first))
            if self.count % 4 == 0:
                journal.write_through([b"through"])
            if self.count % 3 == 0:
                await journal.sync()
                self.acked |= {s: r for s, r in self.accepted.items() if s <= journal.durable_seq}
                self.accepted.clear()
        except Unavailable:
            assert self.disk.failed
            self.accepted.clear()  # lost with the failure, as a gap

    def check_figures(self, journal: Journal) -> None:
        figures = journal.statistics()
        assert (figures.failure is None) == (figures.state != JournalState.FAILED)
        assert figures.durable_seq <= figures.written_seq <= figures.last_seq


def stored(disk: CrashDisk) -> tuple[dict[int, bytes], list[tuple[int, int, GapReason]]]:
    """Everything in the journal after all is over, by number, each number once."""
    records: dict[int, bytes] = {}
    gaps = []
    expected = 1
    for batch in JournalFiles(HOME, disk).batches():
        if batch.gap is not None:
            assert batch.gap.first == expected
            gaps.append((batch.gap.first, batch.gap.last, batch.gap.reason))
            expected = batch.gap.last + 1
        assert batch.first_seq == expected
        records |= dict(enumerate(batch.records, expected))
        expected = batch.next_seq
    return records, gaps


def verdict(story: Story, disk: CrashDisk, *, power_cut: bool) -> None:
    journal = Journal.open(HOME, story.spec, disk=disk, inline=True)
    assert journal.damages == ()
    base = journal.base
    last = journal.last_seq
    journal.close()
    records, gaps = stored(disk)
    behind = base.upto_seq if base is not None else 0
    for seq, record in story.acked.items():
        assert records.get(seq) == record or seq <= behind, seq
    allowed = {GapReason.TRIMMED} if behind else set()
    if story.spec.durability == "relaxed":
        allowed = {GapReason.LOST, GapReason.DROPPED}
    assert {reason for _, _, reason in gaps} <= allowed
    named = [r for r in records.values() if r.startswith(b"record")]
    assert len(named) == len(set(named))
    assert last >= max(story.acked, default=0)
    assert power_cut or disk.open_files() == 0


def count_calls(spec: JournalSpec) -> int:
    disk = FaultDisk(CrashDisk(), only=CALLS)
    trio.run(Story(disk, spec).run, None)
    return len(disk.calls)


def every_call(
    spec: JournalSpec, check: Callable[[Story, CrashDisk], None], *, sticky: bool, part: float
) -> None:
    for error in ERRORS:
        for index in range(count_calls(spec)):
            inner = CrashDisk()
            disk = FaultDisk(inner, fail_at=index, error=error, sticky=sticky, only=CALLS, part=part)
            story = Story(disk, spec)
            trio.run(story.run, 1 + index % 5 if sticky else None)
            assert disk.failed
            disk.heal()
            check(story, inner)


@pytest.mark.parametrize("spec", [DURABLE, STATE, RELAXED, DROPPING], ids=lambda s: s.name)
@pytest.mark.parametrize("part", [0.6, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.0, 1.0))])
def test_one_failing_call(spec: JournalSpec, part: float) -> None:
    every_call(spec, lambda story, disk: verdict(story, disk, power_cut=False), sticky=False, part=part)


@pytest.mark.parametrize("spec", [DURABLE, STATE, RELAXED, DROPPING], ids=lambda s: s.name)
@pytest.mark.parametrize("part", [0.6, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_disk_that_fails_for_a_while(spec: JournalSpec, part: float) -> None:
    every_call(spec, lambda story, disk: verdict(story, disk, power_cut=False), sticky=True, part=part)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [DURABLE, STATE, RELAXED, DROPPING], ids=lambda s: s.name)
@pytest.mark.parametrize("sticky", [False, True])
def test_a_failing_disk_and_then_a_power_cut(spec: JournalSpec, sticky: bool) -> None:
    def cut(story: Story, disk: CrashDisk) -> None:
        for seed in range(3):
            verdict(story, disk.after_power_cut(seed), power_cut=True)

    every_call(spec, cut, sticky=sticky, part=0.6)
