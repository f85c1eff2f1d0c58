"""One append on its way."""

from __future__ import annotations

from appliance.world.flight import Flight


def test_the_last_number_follows_from_first_and_count():
    flight = Flight(5, 100)
    assert flight.last == 4
    flight.count = 3
    assert flight.last == 7
