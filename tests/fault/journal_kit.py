"""A journal driven by hand for fault tests: no loop, no thread, every job performed when the test says so."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from appliance.store.journal_commit import Committer
from appliance.store.journal_format import join_records
from appliance.store.journal_jobs import Job
from appliance.store.journal_reader import Reader
from appliance.store.journal_recover import recover
from appliance.store.journal_types import Damage, Gap, JournalSpec, Level
from appliance.system.disk import Disk
from appliance.testing.clock import FakeClock
from tests.trio_kit import on_trio

__all__ = ["HOME", "Hand", "any_records", "on_trio", "read_all"]


HOME = Path("/journal")


class Hand:
    """Opens the journal and performs what the committer plans, one job at a time."""

    def __init__(
        self, disk: Disk, spec: JournalSpec, clock: FakeClock | None = None, home: Path = HOME
    ) -> None:
        self.disk = disk
        self.spec = spec
        self.home = home
        self.clock = clock or FakeClock()
        self.recovered = recover(home, spec, disk, self.clock)
        self.committer = Committer(home, spec, self.recovered.start, self.now, self.clock.wall_ms)

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def add(self, *records: bytes) -> int:
        body, count = join_records(records)
        self.committer.add(body, count, self.now)
        return self.committer.last_seq

    def step(self) -> Job | None:
        """Plan and perform one job."""
        job = self.committer.plan(self.now)
        if job is not None:
            job.perform(self.disk)
            self.committer.done(job, self.now)
        return job

    def settle(self) -> None:
        """Perform jobs until there is nothing to do."""
        while self.step() is not None:
            pass

    def through(self) -> None:
        job = self.committer.through(self.now)
        if job is not None:
            job.perform(self.disk)
            self.committer.done(job, self.now)

    def store(self, *records: bytes) -> int:
        last = self.add(*records)
        self.committer.want_sync()
        self.settle()
        return last

    def close(self) -> None:
        """An orderly end."""
        self.committer.want_sync()
        self.settle()
        job = self.committer.close_job(self.now)
        if job is not None:
            job.perform(self.disk)
        self.disk.close(self.recovered.lock_fd)

    def read(
        self, from_seq: int = 1, level: Level = "synced"
    ) -> tuple[dict[int, bytes], list[Gap], list[Damage]]:
        return read_all(self.disk, self, from_seq, level)


def read_all(
    disk: Disk, hand: Hand, from_seq: int = 1, level: Level = "synced"
) -> tuple[dict[int, bytes], list[Gap], list[Damage]]:
    """Everything readable: records by number, gaps, damage; checks that numbers come out complete."""
    reader = Reader(disk, hand.home, from_seq)
    records: dict[int, bytes] = {}
    gaps: list[Gap] = []
    expected = from_seq
    while batch := reader.read(hand.committer.shelf.snapshot(level), limit_records=7):
        if batch.gap is not None:
            assert batch.gap.first == expected
            gaps.append(batch.gap)
            expected = batch.gap.last + 1
        assert batch.first_seq == expected
        for record in batch.records:
            records[expected] = record
            expected += 1
    reader.close()
    return records, gaps, reader.damages


def any_records(
    rng: random.Random, most: int = 5, sizes: Sequence[int] = (0, 1, 40, 400, 1500, 3000)
) -> list[bytes]:
    """Some records without runs of zeros (see ``looks_complete``)."""
    return [
        bytes(rng.randrange(1, 256) for _ in range(8)) * (rng.choice(sizes) // 8)
        + b"%d" % rng.randrange(10**9)
        for _ in range(rng.randint(1, most))
    ]
