"""Token buckets (HT-40, AT-IN-11)."""

from __future__ import annotations

from appliance.world.limits import Buckets


def test_a_bucket_starts_full_and_refills():
    buckets = Buckets()
    assert [buckets.take("a", 2, 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 2, 0.0), "buckets are separate"
    assert not buckets.take("a", 2, 29.0)
    assert buckets.take("a", 2, 31.0)


def test_a_fast_refill():
    """AT-IN-11: 3600 a minute, 20 ms: one token."""
    buckets = Buckets()
    while buckets.take("a", 3600, 0.0):
        pass
    assert buckets.take("a", 3600, 0.02)
    assert not buckets.take("a", 3600, 0.02)


def test_a_changed_limit_counts_at_once():
    buckets = Buckets()
    assert buckets.take("a", 100, 0.0)
    assert [buckets.take("a", 1, 0.0) for _ in range(2)] == [True, False]
    assert not buckets.take("b", 0, 0.0)


def test_a_clock_that_goes_back_refills_nothing():
    buckets = Buckets()
    assert buckets.take("a", 1, 100.0)
    assert not buckets.take("a", 1, 0.0)


def test_keys_are_bounded():
    buckets = Buckets(max_keys=3)
    for number in range(10):
        buckets.take(str(number), 5, 0.0)
    assert len(buckets) == 3
