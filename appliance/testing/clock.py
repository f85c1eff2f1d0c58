"""A clock that moves when the test says so.

Satisfies :class:`appliance.system.clock.Clock`. Both hands move together with :meth:`FakeClock.advance`; the
wall clock can be set apart, as a box without a battery or a careless operator does.
"""

from __future__ import annotations

__all__ = ["EPOCH_2026_MS", "FakeClock"]

EPOCH_2026_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z in milliseconds."""


class FakeClock:
    """Time as an argument.

    Args:
        monotonic_s: where the monotonic hand starts; not 0, so that a forgotten default shows.
        wall_ms: where the wall hand starts, milliseconds since 1970 UTC.
    """

    def __init__(self, *, monotonic_s: float = 1000.0, wall_ms: int = EPOCH_2026_MS) -> None:
        self._monotonic_s = monotonic_s
        self._wall_ms = float(wall_ms)

    def monotonic(self) -> float:
        """Seconds; see :meth:`advance`."""
        return self._monotonic_s

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC; see :meth:`advance`, :meth:`set_wall` and :meth:`jump_wall`."""
        return int(self._wall_ms)

    def advance(self, seconds: float) -> float:
        """Move both hands forward and return the new monotonic time.

        Raises:
            ValueError: ``seconds`` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back; use jump_wall for the other one")
        self._monotonic_s += seconds
        self._wall_ms += seconds * 1000
        return self._monotonic_s

    def set_wall(self, wall_ms: int) -> None:
        """Set the wall hand, forward or back; the monotonic hand stays."""
        self._wall_ms = float(wall_ms)

    def jump_wall(self, seconds: float) -> None:
        """Move the wall hand alone, as a time server does."""
        self._wall_ms += seconds * 1000

    def lose_battery(self) -> None:
        """Set the wall hand to 1970-01-01, as a box without a battery boots."""
        self._wall_ms = 0.0
