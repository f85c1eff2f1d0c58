import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.supervise.backoff import RestartBackoff, RestartPolicy


class Chance(random.Random):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def random(self):
        return self.value


def row(policy, lives, chance=0.999_999):
    backoff = RestartBackoff(policy, Chance(chance))
    return [backoff.ended(lived_s) for lived_s in lives]


def test_waits_double_from_the_first_to_the_cap_and_then_the_node_is_parked():
    waits = row(RestartPolicy(), [0.1] * 10)
    assert [round(wait, 1) for wait in waits[:-1]] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert waits[-1] is None


def test_jitter_spreads_a_wait_over_the_upper_half_of_its_step():
    assert row(RestartPolicy(), [0], chance=0.0) == [0.5]


def test_only_a_healthy_life_starts_the_row_again():
    backoff = RestartBackoff(RestartPolicy(), Chance(0.999_999))
    for _ in range(5):
        backoff.ended(59.9)
    assert backoff.failures == 5
    assert backoff.ended(60.0) == pytest.approx(1.0, abs=0.01)
    assert backoff.failures == 1


def test_a_start_by_hand_starts_the_row_again():
    backoff = RestartBackoff(RestartPolicy(park_after=2), Chance(0.5))
    backoff.ended(0)
    backoff.reset()
    assert backoff.ended(0) is not None
    assert backoff.ended(0) is None


@given(
    first=st.floats(0.01, 600),
    cap=st.floats(1, 86_400),
    park=st.integers(1, 1000),
    lives=st.lists(st.floats(0, 1e6), max_size=60),
)
def test_no_wait_is_longer_than_the_cap_and_parking_comes_exactly_when_it_is_due(first, cap, park, lives):
    policy = RestartPolicy(first_s=first, cap_s=cap, park_after=park)
    backoff, failures = RestartBackoff(policy), 0
    for lived_s in lives:
        failures = 1 if lived_s >= policy.healthy_after_s else failures + 1
        wait = backoff.ended(lived_s)
        assert (wait is None) == (failures >= park)
        assert wait is None or min(first, cap) / 2 <= wait <= cap
