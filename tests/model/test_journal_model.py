"""A journal against a list: whatever is appended, dropped, synced, trimmed, killed or cut, the list knows."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.store.journal_base import read_base, write_base
from appliance.store.journal_images import Bases
from appliance.store.journal_positions import Positions
from appliance.store.journal_types import GapReason, JournalSpec
from appliance.testing.clock import FakeClock
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from tests.fault.journal_kit import Hand

RECORD = st.integers(0, 900).map(lambda size: bytes((size * 7 + i) % 255 + 1 for i in range(size)))
RECORDS = st.lists(RECORD, min_size=1, max_size=4)
HOME = Path("/model")


class JournalMachine(RuleBasedStateMachine):
    """The list ``said`` has one entry per sequence number: the record, or None where a gap is right."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashDisk()
        self.clock = FakeClock()
        self.said: list[bytes | None] = []
        self.first = 1
        self.acked = 0
        self.persisted = 0
        self.base: tuple[int, bytes] | None = None

    @initialize(
        durable=st.booleans(),
        state=st.booleans(),
        ahead=st.sampled_from([0, 4096]),
        group=st.sampled_from([100, 5000]),
    )
    def begin(self, durable: bool, state: bool, ahead: int, group: int) -> None:
        self.spec = JournalSpec(
            name="model",
            kind="state" if state else "log",
            durability="durable" if durable else "relaxed",
            segment_bytes=4096,
            group_bytes=group,
            zero_ahead_bytes=ahead,
            flush_bytes=1500,
        )
        self.open()

    def open(self) -> None:
        self.faults = FaultDisk(self.disk, error=errno.EIO, part=0.5)
        self.hand = Hand(self.faults, self.spec, self.clock, HOME)
        self.bases = Bases(self.hand.recovered.bases, 1)
        self.positions = Positions(
            HOME, self.hand.recovered.start.journal_id, self.hand.recovered.positions, 1.0
        )
        self.trim(self.bases.trim_seq)

    # -- use ---------------------------------------------------------------------------------------------

    @rule(records=RECORDS)
    def append(self, records: list[bytes]) -> None:
        self.hand.add(*records)
        self.said += records

    @rule()
    def one_job(self) -> None:
        self.hand.step()

    @rule()
    def all_jobs(self) -> None:
        self.hand.settle()

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.1]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.hand.settle()

    @rule()
    def sync(self) -> None:
        self.hand.committer.want_sync()
        self.hand.settle()
        assert self.hand.committer.durable_seq == len(self.said)

    @precondition(lambda self: self.spec.durability == "relaxed")
    @rule(records=RECORDS)
    def write_through(self, records: list[bytes]) -> None:
        self.append(records)
        self.hand.through()
        assert self.hand.committer.written_seq == len(self.said)

    @precondition(lambda self: self.spec.kind == "log")
    @rule(count=st.integers(1, 50))
    def drop(self, count: int) -> None:
        self.hand.committer.drop(count, self.hand.now)
        self.said += [None] * count

    # -- trimming and images -----------------------------------------------------------------------------

    @precondition(lambda self: self.spec.kind == "log")
    @rule(share=st.floats(0, 1))
    def trim_log(self, share: float) -> None:
        self.trim(int(self.hand.committer.durable_seq * share))

    def trim(self, seq: int) -> None:
        self.hand.committer.shelf.trim_behind(seq)
        self.hand.settle()
        first = self.hand.committer.shelf.snapshot("synced").first_seq
        assert self.first <= first <= max(seq + 1, self.first)
        self.first = first

    @precondition(lambda self: self.spec.kind == "state" and self.hand.committer.durable_seq > 0)
    @rule(content=RECORD)
    def image(self, content: bytes) -> None:
        upto = self.hand.committer.durable_seq
        info = write_base(self.faults, HOME, self.hand.recovered.start.journal_id, upto, [content], 0)
        self.hand.committer.shelf.discard(self.bases.add(info))
        self.base = (upto, content)
        self.trim(self.bases.trim_seq)

    # -- a consumer --------------------------------------------------------------------------------------

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share: float) -> None:
        acked = int(self.hand.committer.written_seq * share)
        if acked > self.acked:
            self.acked = acked
            self.positions.want("consumer", acked, self.hand.now)

    @rule()
    def persist(self) -> None:
        job = self.positions.plan(self.hand.now, self.hand.committer.durable_seq, all_now=True)
        if job is not None:
            job.perform(self.disk)
            self.positions.done(job, self.hand.now)
            self.persisted = min(self.acked, self.hand.committer.durable_seq)

    # -- trouble -----------------------------------------------------------------------------------------

    @rule(after=st.integers(0, 3))
    def disk_error(self, after: int) -> None:
        """Some call fails; writing resumes in a new segment."""
        committer = self.hand.committer
        self.faults.fail_at = len(self.faults.calls) + after
        self.hand.add(b"may be lost")
        self.said.append(b"may be lost")
        committer.want_sync()
        self.hand.settle()
        self.faults.heal()
        if committer.failure is None:
            return
        if self.spec.durability == "durable":
            del self.said[committer.durable_seq :]
        else:
            self.said[committer.durable_seq :] = [None] * (len(self.said) - committer.durable_seq)
        committer.want_resume()
        self.hand.settle()
        assert committer.failure is None
        self.first = committer.shelf.snapshot("synced").first_seq
        assert committer.last_seq == len(self.said)

    @rule()
    def close(self) -> None:
        self.persist()
        self.hand.close()
        assert self.disk.open_files() == 0
        self.reopen(self.disk, len(self.said), torn=False)

    @rule()
    def kill(self) -> None:
        self.reopen(self.disk.after_kill(), self.hand.committer.written_seq, torn=False)

    @rule(seed=st.integers(0, 1 << 30))
    def power_cut(self, seed: int) -> None:
        self.reopen(self.disk.after_power_cut(seed), self.hand.committer.durable_seq, torn=True)

    def reopen(self, disk: CrashDisk, kept: int, *, torn: bool) -> None:
        """The next process: at least ``kept`` records are there, and no more than were said."""
        self.disk = disk
        self.open()
        last = self.hand.committer.last_seq
        assert kept <= last <= len(self.said)
        assert torn or last == kept
        assert self.hand.recovered.damages == ()
        del self.said[last:]
        stored = self.positions.stored("consumer") or 0
        assert self.persisted <= stored <= last
        self.acked = self.persisted = stored

    # -- what always holds -------------------------------------------------------------------------------

    @invariant()
    def numbers_are_in_order(self) -> None:
        if hasattr(self, "hand"):
            committer = self.hand.committer
            assert committer.durable_seq <= committer.written_seq <= committer.last_seq == len(self.said)

    @rule(start=st.floats(0, 1), written=st.booleans())
    def read(self, start: float, written: bool) -> None:
        committer = self.hand.committer
        level = "written" if written else "synced"
        last = committer.written_seq if written else committer.durable_seq
        from_seq = int(last * start) + 1
        records, gaps, damages = self.hand.read(from_seq, level)
        assert damages == []
        missing = {seq: gap.reason for gap in gaps for seq in range(gap.first, gap.last + 1)}
        for seq in range(from_seq, last + 1):
            if seq < self.first:
                assert missing[seq] == GapReason.TRIMMED
            elif self.said[seq - 1] is None:
                assert missing[seq] in (GapReason.DROPPED, GapReason.LOST)
            else:
                assert records[seq] == self.said[seq - 1]
        assert len(records) + len(missing) == max(last - from_seq + 1, 0)

    @precondition(lambda self: self.base is not None)
    @rule()
    def rebuild(self) -> None:
        """Image and journal together are the whole history."""
        assert self.base is not None
        info = self.bases.known[-1]
        assert (info.upto_seq, [r for part in read_base(self.disk, HOME, info) for r in part]) == (
            self.base[0],
            [self.base[1]],
        )
        assert self.first <= info.upto_seq + 1


few = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
many = settings(
    max_examples=600, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestJournalModel(JournalMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = few


@pytest.mark.slow
class TestJournalModelAtLength(JournalMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = many
