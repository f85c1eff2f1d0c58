"""Idempotency by the client's event id (ST-32)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.world.dedup import KnownIds


def test_an_id_counts_within_the_window():
    known = KnownIds(3)
    known.add("a", 1, "s")
    assert known.find("a", 2) == (1, "s")
    assert known.find("a", 4) == (1, "s")
    assert known.find("a", 5) is None


def test_no_window_knows_nothing():
    known = KnownIds(0)
    known.add("a", 1, "s")
    assert known.find("a", 2) is None
    assert len(known) == 0


def test_what_never_came_to_be_is_forgotten():
    known = KnownIds(10)
    known.add("a", 1, "s")
    known.forget("a", 2)
    assert known.find("a", 2) is not None
    known.forget("a", 1)
    assert known.find("a", 2) is None
    known.add("a", 1, "s")
    known.clear()
    assert len(known) == 0


@given(st.integers(1, 20), st.lists(st.integers(0, 30), max_size=200))
def test_exactly_the_window_in_bounded_memory(window, ids):
    known, last = KnownIds(window), {}
    for seq, number in enumerate(ids, 1):
        one = str(number)
        expected = last.get(one) if one in last and last[one] >= seq - window else None
        found = known.find(one, seq)
        assert (found[0] if found else None) == expected
        known.add(one, seq, "s")
        last[one] = seq
        assert len(known) <= 2 * window + 2
