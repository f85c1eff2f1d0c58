"""When a source is asked next, and what is said of it meanwhile. Sans-IO.

A source is asked once per interval, counted from the beginning of a poll, with a little jitter so that many
boxes do not ask one server in step. Failures wait exponentially longer; a success clears the error
(``spec/flux-state.md`` CN-44, DF-39). Times are seconds of any one monotonic clock.
"""

from __future__ import annotations

import random
from typing import Final

__all__ = ["LONGEST_WAIT_S", "MIN_INTERVAL_S", "Schedule"]

MIN_INTERVAL_S: Final = 1.0
LONGEST_WAIT_S: Final = 900.0
"""Back-off ends here, or at the source's own interval when that is longer."""

_JITTER: Final = 0.05
_DOUBLINGS: Final = 16


class Schedule:
    """One source's clock; the first poll is due at once.

    Args:
        interval_s: between two polls; at least a second.
        now: when it begins.
        noise: a number in [0, 1) per call.

    Attributes:
        due_at: when to ask next.
        error: why the last poll failed; ``None`` after a success.
        failures: polls that failed in a row.
        polls: polls so far.
    """

    __slots__ = ("_begun_at", "_interval_s", "_noise", "due_at", "error", "failures", "polls")

    def __init__(self, interval_s: float, now: float, noise: random.Random | None = None) -> None:
        self._interval_s = max(interval_s, MIN_INTERVAL_S)
        self._noise = noise or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._begun_at = now
        self.due_at = now
        self.error: str | None = None
        self.failures = 0
        self.polls = 0

    def begin(self, now: float) -> None:
        """A poll starts."""
        self._begun_at = now
        self.polls += 1

    def succeed(self, now: float) -> None:
        """It succeeded."""
        self.error, self.failures = None, 0
        spread = 1 + _JITTER * (2 * self._noise.random() - 1)
        # A poll that took longer than the interval is followed by a pause all the same.
        self.due_at = max(self._begun_at + self._interval_s * spread, now + MIN_INTERVAL_S)

    def fail(self, now: float, error: str, *, wait_s: float = 0.0) -> None:
        """It failed; ``wait_s``: the source asked not to be asked before."""
        self.error = error
        self.failures += 1
        longest = max(LONGEST_WAIT_S, self._interval_s)
        wait = min(self._interval_s * 2 ** min(self.failures - 1, _DOUBLINGS), longest)
        self.due_at = now + max(wait * (1 + _JITTER * self._noise.random()), wait_s)
