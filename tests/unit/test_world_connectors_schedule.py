"""When sources are asked: intervals, jitter, back-off, honest errors."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.world.connectors.schedule import LONGEST_WAIT_S, Schedule


def test_the_first_poll_is_due_at_once_and_the_next_an_interval_after_its_beginning():
    schedule = Schedule(60, 100.0)
    assert schedule.due_at == 100.0
    schedule.begin(100.0)
    schedule.succeed(110.0)
    assert 157 <= schedule.due_at <= 163


def test_a_poll_that_takes_longer_than_its_interval_leaves_a_pause():
    schedule = Schedule(1, 0)
    schedule.begin(0)
    schedule.succeed(25)
    assert schedule.due_at == 26


def test_errors_wait_longer_each_time_and_a_success_clears_them():
    schedule = Schedule(10, 0, random.Random(1))
    waits = []
    for number in range(12):
        schedule.begin(0)
        schedule.fail(0, f"failure {number}")
        waits.append(schedule.due_at)
    assert schedule.error == "failure 11"
    assert 10 <= waits[0] <= 10.5
    assert 20 <= waits[1] <= 21
    assert LONGEST_WAIT_S <= waits[-1] <= LONGEST_WAIT_S * 1.05
    schedule.begin(0)
    schedule.succeed(0)
    assert (schedule.error, schedule.failures, schedule.polls) == (None, 0, 13)
    assert schedule.due_at <= 10.5


def test_a_source_may_ask_for_a_longer_pause():
    schedule = Schedule(10, 0)
    schedule.begin(0)
    schedule.fail(0, "rate limit", wait_s=1234)
    assert schedule.due_at == 1234


@pytest.mark.parametrize("interval", [0, 0.001, -5])
def test_never_more_often_than_once_a_second(interval):
    schedule = Schedule(interval, 0)
    schedule.begin(0)
    schedule.succeed(0)
    assert schedule.due_at >= 1


@given(st.floats(1, 1e6), st.lists(st.booleans(), max_size=40), st.integers())
def test_it_always_comes_back_and_never_at_once(interval, outcomes, seed):
    schedule = Schedule(interval, 0, random.Random(seed))
    now = 0.0
    for good in outcomes:
        schedule.begin(now)
        schedule.succeed(now) if good else schedule.fail(now, "no")
        assert now + 1 <= schedule.due_at + 0.05 * interval
        assert schedule.due_at <= now + max(interval, LONGEST_WAIT_S) * 1.06
        now = schedule.due_at
