"""The turn journal's budget: what is kept, what goes first, and that every gap is written down."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.router.turns import TurnBudget, TurnLog
from appliance.wire.errors import Busy, Unavailable

MIB = 1 << 20
DAY_S = 86_400.0


class Journal:
    """Keeps what it is given, or refuses."""

    def __init__(self):
        self.records = []
        self.refuses = None

    def append_joined_nowait(self, body, count):
        if self.refuses is not None:
            raise self.refuses
        found = []
        while body:
            (size,) = struct.unpack_from(">I", body)
            found.append(body[4 : 4 + size])
            body = body[4 + size :]
        assert len(found) == count
        self.records += found
        return 1

    @property
    def gaps(self):
        values = [msgspec.json.decode(record) for record in self.records if record.startswith(b'{"gap"')]
        return [(value["gap"]["first"], value["gap"]["last"], value["gap"]["count"]) for value in values]

    @property
    def turns(self):
        return [record for record in self.records if not record.startswith(b'{"gap"')]


@pytest.fixture
def journal():
    return Journal()


def framed(*bodies):
    return b"".join(struct.pack(">I", len(body)) + body for body in bodies)


def log_of(journal, **budget):
    return TurnLog(journal, TurnBudget(**budget), 100.0)


def test_the_defaults_are_those_of_the_design():
    assert TurnBudget() == TurnBudget(
        rate_bytes_per_s=4_000_000, burst_bytes=64 * MIB, daily_bytes=2_000_000_000
    )


def test_within_budget_everything_is_recorded(journal):
    log = log_of(journal)
    assert log.appetite(100.0) == (True, True)
    log.record(framed(b"one", b"two"), 2, 0)
    log.record(framed(b"three"), 1, 0)
    log.write_gap()
    assert journal.records == [b"one", b"two", b"three"]
    statistics = log.statistics()
    assert (statistics.recorded, statistics.recorded_bytes) == (3, len(framed(b"one", b"two", b"three")))
    assert (statistics.over_budget, statistics.refused, statistics.gaps) == (0, 0, 0)


def test_as_the_burst_runs_low_turns_without_thread_go_first(journal):
    log = log_of(journal, burst_bytes=1000, rate_bytes_per_s=100)
    log.record(framed(bytes(646)), 1, 0)
    assert log.appetite(100.0) == (True, True)
    log.record(framed(bytes(96)), 1, 0)
    assert log.appetite(100.0) == (True, False)  # a quarter is left, and that is for threads
    log.record(framed(bytes(246)), 1, 0)
    assert log.appetite(100.0) == (False, False)


def test_the_bucket_fills_with_time_and_not_over_its_rim(journal):
    log = log_of(journal, burst_bytes=1000, rate_bytes_per_s=100)
    log.record(framed(bytes(1496)), 1, 0)  # one turn may take it below zero: it was begun within budget
    assert log.appetite(104.0) == (False, False)
    assert log.appetite(106.0) == (True, False)
    assert log.appetite(109.0) == (True, True)
    assert log.appetite(10_000.0) == (True, True)
    log.record(framed(bytes(996)), 1, 0)
    assert log.appetite(10_000.0) == (False, False)


def test_a_clock_that_seems_to_stand_still_or_go_back_earns_nothing(journal):
    log = log_of(journal, burst_bytes=1000, rate_bytes_per_s=100)
    log.record(framed(bytes(996)), 1, 0)
    assert log.appetite(50.0) == (False, False)
    assert log.appetite(100.0) == (False, False)


def test_the_day_has_a_budget_of_its_own(journal):
    log = log_of(journal, burst_bytes=10**9, daily_bytes=1000)
    log.record(framed(bytes(796)), 1, 0)
    assert log.appetite(200.0) == (True, False)
    log.record(framed(bytes(196)), 1, 0)
    assert log.appetite(100.0 + DAY_S - 1) == (False, False)
    assert log.appetite(100.0 + DAY_S) == (True, True)


def test_what_is_left_out_becomes_one_record_before_the_next_turn_goes_on(journal):
    log = log_of(journal)
    log.appetite(100.0)
    log.record(framed(b"one"), 1, 0)
    for _ in range(3):
        log.record(b"", 0, 10)
    log.record(framed(b"two"), 1, 0)
    assert journal.gaps == [(2, 31, 30)]
    assert journal.turns == [b"one", b"two"]
    assert log.statistics().over_budget == 30
    assert log.statistics().gaps == 1


def test_a_long_gap_is_written_every_second(journal):
    log = log_of(journal)
    for second in range(5):
        for part in range(4):
            log.appetite(100.0 + second + part / 4)
            log.record(b"", 0, 1)
    log.write_gap()
    assert journal.gaps == [(1, 5, 5), (6, 9, 4), (10, 13, 4), (14, 17, 4), (18, 20, 3)]


def test_a_turn_of_both_kinds_is_counted_in_both(journal):
    log = log_of(journal)
    log.record(framed(b"kept"), 1, 2)
    assert journal.records[0] == b"kept"
    assert journal.gaps == [(1, 3, 2)]


@pytest.mark.parametrize("error", [Busy("full"), Unavailable("no space")])
def test_what_the_journal_refuses_is_a_gap_too_written_when_it_takes_again(journal, error):
    log = log_of(journal)
    log.appetite(100.0)
    journal.refuses = error
    log.record(framed(b"a", b"b"), 2, 1)
    log.appetite(105.0)
    log.record(framed(b"c"), 1, 0)
    log.write_gap()
    assert log.statistics().refused == 3
    assert log.statistics().gaps == 0
    journal.refuses = None
    log.record(framed(b"d"), 1, 0)
    assert journal.turns == [b"d"]
    assert journal.gaps == [(1, 4, 4)]
    assert log.statistics().recorded == 1


def test_refused_turns_use_no_budget(journal):
    log = log_of(journal, burst_bytes=1000)
    journal.refuses = Busy("full")
    log.record(framed(bytes(996)), 1, 0)
    assert log.appetite(100.0) == (True, True)


def test_the_last_gap_of_a_run_is_written_at_its_end(journal):
    log = log_of(journal)
    log.record(b"", 0, 1)
    log.write_gap()
    log.write_gap()
    assert journal.gaps == [(1, 1, 1)]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans(), st.floats(0, 2)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_turns_and_gaps_account_for_every_number(steps):
    journal = Journal()
    log = log_of(journal)
    now, total = 100.0, 0
    for count, skipped, refuses, passed_s in steps:
        now += passed_s
        log.appetite(now)
        journal.refuses = Busy("full") if refuses else None
        log.record(framed(*[b"turn"] * count), count, skipped)
        total += count + skipped
    journal.refuses = None
    log.write_gap()
    assert len(journal.turns) + sum(count for _, _, count in journal.gaps) == total
    ends = [bound for first, last, _ in journal.gaps for bound in (first, last)]
    assert ends == sorted(ends)
    assert all(count <= last - first + 1 for first, last, count in journal.gaps)
    statistics = log.statistics()
    assert statistics.recorded == len(journal.turns)
    assert statistics.over_budget + statistics.refused == total - statistics.recorded


class Disk:
    def __init__(self):
        self.full = False
        self.looks = 0

    def is_full(self):
        self.looks += 1
        return self.full


def reasons(journal):
    values = [msgspec.json.decode(record) for record in journal.records if record.startswith(b'{"gap"')]
    return [value["gap"]["reasons"] for value in values]


def test_a_full_disk_leaves_turns_out_and_the_gap_says_so(journal):
    disk = Disk()
    log = TurnLog(journal, TurnBudget(), 100.0, is_full=disk.is_full)
    assert log.appetite(100.0) == (True, True)
    log.record(framed(b"one"), 1, 0)
    disk.full = True
    assert log.appetite(100.9) == (True, True)  # it looks once a second
    assert log.appetite(101.0) == (False, False)
    for now in (101.0, 105.0, 300.0):
        log.appetite(now)
        log.record(b"", 0, 2)
        log.tend(now)
    assert journal.gaps == []  # it would be one more record every second
    disk.full = False
    log.tend(301.0)
    assert journal.gaps == [(2, 7, 6)]
    assert reasons(journal) == [["disk_full"]]
    log.appetite(302.0)
    log.record(framed(b"two"), 1, 0)
    assert journal.turns == [b"one", b"two"]
    figures = log.statistics()
    assert (figures.disk_full, figures.over_budget, figures.refused, figures.recorded) == (6, 0, 0, 2)


def test_a_gap_names_all_its_reasons_and_the_next_one_its_own(journal):
    disk = Disk()
    log = TurnLog(journal, TurnBudget(), 100.0, is_full=disk.is_full)
    log.appetite(100.0)
    journal.refuses = Unavailable("no")
    log.record(framed(b"one"), 1, 3)
    disk.full = True
    log.appetite(102.0)
    log.record(b"", 0, 1)
    journal.refuses, disk.full = None, False
    log.tend(104.0)
    log.appetite(106.0)
    log.record(b"", 0, 1)
    log.tend(107.0)
    assert journal.gaps == [(1, 5, 5), (6, 6, 1)]
    assert reasons(journal) == [["budget", "disk_full", "refused"], ["budget"]]


def test_the_disk_is_looked_at_once_a_second_and_not_at_all_without_turns(journal):
    disk = Disk()
    log = TurnLog(journal, TurnBudget(), 100.0, is_full=disk.is_full)
    for tick in range(100):
        log.appetite(100.0 + tick / 100)
    assert disk.looks == 1
    for now in (200.0, 300.0):
        log.tend(now)
    assert disk.looks == 1
