"""Every counter reaches the statistics."""

from __future__ import annotations

import msgspec

from appliance.http.counters import Counters, DoorStatistics


def test_every_counter_has_its_own_field() -> None:
    counters = Counters()
    expected: dict[str, object] = {"name": "d", "addresses": ("a",), "open_connections": 1000}
    plain = [name for name in Counters.__slots__ if name not in {"refused", "responses"}]
    for number, slot in enumerate(plain):
        setattr(counters, slot, number + 1)
        expected[slot] = number + 1
    for number, code in enumerate(counters.refused):
        counters.refused[code] = 100 + number
        expected["refused_" + code.split("_")[0].lower()] = 100 + number
    for status in range(1, 6):
        counters.responses[status] = 200 + status
        expected[f"responses_{status}xx"] = 200 + status
    frozen = counters.freeze(name="d", addresses=("a",), open_connections=1000)
    assert msgspec.structs.asdict(frozen) == expected
    assert isinstance(frozen, DoorStatistics)
