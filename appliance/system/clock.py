"""Two clocks: one that only moves forward, and one that people read.

Every timeout, age and schedule uses :meth:`Clock.monotonic`; the wall clock is for display and stored
timestamps only, because a box without a battery boots in 1970 and jumps when the network comes
(``design.md §5``, Time). Decisions take ``now`` as an argument; only the shells around them hold a clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "iso_seconds"]


class Clock(Protocol):
    """What a shell asks for the time; ``appliance.testing.clock.FakeClock`` stands in for it in tests."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back and is not set by anybody."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC as the box believes; may jump either way."""


class SystemClock:
    """The clocks of the operating system."""

    __slots__ = ()

    def monotonic(self) -> float:
        """``CLOCK_MONOTONIC`` in seconds: stands still while the box is suspended."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """``CLOCK_REALTIME`` in milliseconds."""
        return time.time_ns() // 1_000_000


def iso_seconds(at_ms: int) -> str:
    """A wall-clock moment as ISO 8601 in UTC, whole seconds: ``2026-04-02T10:00:00Z``."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
