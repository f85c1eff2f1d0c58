"""The system's clocks, and the one that tests move."""

from __future__ import annotations

import time

import pytest

from appliance.system.clock import Clock, SystemClock
from appliance.testing.clock import EPOCH_2026_MS, FakeClock


def read(clock: Clock) -> tuple[float, int]:
    return clock.monotonic(), clock.wall_ms()


def test_the_systems_clocks() -> None:
    before = time.monotonic(), time.time() * 1000
    now, wall_ms = read(SystemClock())
    after = time.monotonic(), time.time() * 1000
    assert before[0] <= now <= after[0]
    assert before[1] - 1 <= wall_ms <= after[1]
    assert isinstance(wall_ms, int)


def test_both_hands_move_together() -> None:
    clock = FakeClock()
    assert read(clock) == (1000.0, EPOCH_2026_MS)
    assert clock.advance(1.5) == 1001.5
    assert read(clock) == (1001.5, EPOCH_2026_MS + 1500)


def test_small_steps_add_up() -> None:
    clock = FakeClock(monotonic_s=0, wall_ms=0)
    for _ in range(1000):
        clock.advance(0.0005)
    assert clock.wall_ms() == 500


def test_the_wall_hand_jumps_alone() -> None:
    clock = FakeClock()
    clock.lose_battery()
    assert read(clock) == (1000.0, 0)
    clock.set_wall(EPOCH_2026_MS)
    clock.jump_wall(-3600)
    assert read(clock) == (1000.0, EPOCH_2026_MS - 3_600_000)


def test_the_monotonic_hand_never_goes_back() -> None:
    with pytest.raises(ValueError, match="never goes back"):
        FakeClock().advance(-0.1)
