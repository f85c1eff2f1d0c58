"""Figures of live traffic (MX-01 to MX-04, MX-11): trimmed when read, bounded, replay left out. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["RATE_WINDOW_S", "Meter"]

RATE_WINDOW_S = 5.0
MAX_SOURCES = 10_000
_STEP_S = 0.1


class Meter:
    """Counts committed events.

    Args:
        publisher_window_s: how long a source counts as active.
    """

    __slots__ = ("_counts", "_sources", "_window_s", "total")

    def __init__(self, publisher_window_s: float) -> None:
        self._window_s = publisher_window_s
        self._counts: deque[tuple[float, int]] = deque()
        self._sources: dict[str, float] = {}
        self.total = 0

    def add(self, count: int, sources: Iterable[str], now: float) -> None:
        """``count`` events of ``sources`` were committed at ``now`` (monotonic seconds)."""
        self.total += count
        counts = self._counts
        if counts and now - counts[-1][0] < _STEP_S:
            counts[-1] = (counts[-1][0], counts[-1][1] + count)
        else:
            counts.append((now, count))
            self._trim(now)
        for source in sources:
            self._sources.pop(source, None)
            self._sources[source] = now
        while len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]

    def _trim(self, now: float) -> None:
        while self._counts and now - self._counts[0][0] > RATE_WINDOW_S:
            self._counts.popleft()

    def rate(self, now: float) -> float:
        """Events per second over the last five seconds."""
        self._trim(now)
        return sum(count for _, count in self._counts) / RATE_WINDOW_S

    def publishers(self, now: float) -> int:
        """Sources seen within the window."""
        while self._sources:
            source = next(iter(self._sources))
            if now - self._sources[source] <= self._window_s:
                break
            del self._sources[source]
        return len(self._sources)
