"""Who is told about updates."""

from __future__ import annotations

from appliance.world import Update
from appliance.world.listeners import Listeners


def test_everybody_hears_everything_until_the_end():
    listeners, heard, other = Listeners(), [], []
    end = listeners.add(heard.extend)
    listeners.add(other.extend)
    first, second = Update(1, "a", 0, None), Update(2, "a", 0, None)
    listeners.tell([first])
    end()
    listeners.tell([second])
    assert (heard, other, len(listeners)) == ([first], [first, second], 1)


def test_one_that_fails_is_counted_and_stops_nobody():
    listeners, heard = Listeners(), []

    def fail(_: object) -> None:
        raise ValueError("x")

    listeners.add(fail)
    listeners.add(heard.extend)
    for _ in range(2):
        listeners.tell([Update(1, "a", 0, None)])
    assert listeners.failures == 2
    assert len(heard) == 2
