from __future__ import annotations

import random

from appliance.sdk.backoff import CAP_S, PROVEN_S, Backoff


class Top(random.Random):
    def random(self) -> float:
        return 1.0


def row(backoff: Backoff, count: int) -> list[float]:
    return [round(backoff.next_wait_s(), 3) for _ in range(count)]


def test_immediate_then_doubling_to_the_cap() -> None:
    assert row(Backoff(Top()), 11) == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, CAP_S]


def test_jitter_spreads_over_the_upper_half() -> None:
    backoff = Backoff(random.Random(1))
    backoff.next_wait_s()
    for full in (0.1, 0.2, 0.4, 0.8):
        assert full / 2 <= backoff.next_wait_s() <= full


def test_a_connection_that_lived_starts_the_row_again() -> None:
    backoff = Backoff(Top())
    row(backoff, 5)
    backoff.lost(PROVEN_S)
    assert row(backoff, 2) == [0, 0.1]


def test_a_connection_that_is_closed_at_once_does_not() -> None:
    backoff = Backoff(Top())
    assert row(backoff, 3) == [0, 0.1, 0.2]
    backoff.lost(PROVEN_S / 2)
    assert row(backoff, 2) == [0.4, 0.8]


def test_the_cap_may_be_lower() -> None:
    assert row(Backoff(Top(), cap_s=0.5), 6) == [0, 0.1, 0.2, 0.4, 0.5, 0.5]
