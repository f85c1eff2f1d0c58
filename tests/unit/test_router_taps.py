from __future__ import annotations

from appliance.router.connection import Connection, Peer
from appliance.router.outbox import Limits
from appliance.router.taps import MAX_TAPS, TAP_LEASE_S, Taps


def connections(count: int) -> list[Connection]:
    return [Connection(number, Peer(), Limits(), 0.0) for number in range(count)]


def test_no_taps_are_false() -> None:
    (one,) = connections(1)
    taps = Taps()
    assert not taps
    taps.set(one, "*", 0.0)
    assert taps
    taps.remove(one)
    taps.remove(one)
    assert not taps


def test_a_tap_is_a_lease_that_is_renewed() -> None:
    (one,) = connections(1)
    taps = Taps()
    taps.set(one, "*", 0.0)
    taps.set(one, "AI.*", 20.0)
    taps.expire(TAP_LEASE_S)
    assert (len(taps), taps.watchers("AI.x"), taps.watchers("SY.x")) == (1, [one], [])
    taps.expire(20.0 + TAP_LEASE_S)
    assert not taps


def test_there_are_only_so_many() -> None:
    *first, last = connections(MAX_TAPS + 1)
    taps = Taps()
    assert all(taps.set(one, "*", 0.0) for one in first)
    assert not taps.set(last, "*", 0.0)
    assert taps.set(first[0], "AI.*", 1.0)
    taps.remove(first[1])
    assert taps.set(last, "*", 0.0)


def test_one_name_of_several_is_enough() -> None:
    one, other = connections(2)
    taps = Taps()
    taps.set(one, "AI.a@*", 0.0)
    taps.set(other, "AI.b@north", 0.0)
    assert taps.watchers("AI.a@north", "AI.b@north") == [one, other]
    assert taps.watchers("IO.x@north", "AI.b@north") == [other]
    assert taps.watchers() == []
