"""Figures of live traffic (MX-01 to MX-11, AT-IN-14)."""

from __future__ import annotations

from appliance.world.meter import MAX_SOURCES, Meter


def test_the_rate_is_of_five_seconds_and_ends():
    meter = Meter(10.0)
    for _ in range(10):
        meter.add(1, ["a"], 100.0)
    assert meter.rate(100.0) == 2.0
    assert meter.rate(104.0) == 2.0
    assert meter.rate(106.0) == 0.0, "MX-03: the reference reports the last rate for ever"
    assert meter.total == 10


def test_sources_count_while_they_speak():
    meter = Meter(10.0)
    meter.add(2, ["a", "b"], 0.0)
    meter.add(1, ["a"], 8.0)
    assert meter.publishers(9.0) == 2
    assert meter.publishers(11.0) == 1
    assert meter.publishers(30.0) == 0


def test_old_counts_are_trimmed_as_new_ones_come():
    meter = Meter(1.0)
    for second in range(20):
        meter.add(5, [], float(second))
    assert meter.rate(19.0) == 6.0
    assert len(meter._counts) < 10


def test_sources_are_bounded():
    """DF-29."""
    meter = Meter(10.0)
    meter.add(1, map(str, range(MAX_SOURCES + 50)), 0.0)
    assert meter.publishers(0.0) == MAX_SOURCES
