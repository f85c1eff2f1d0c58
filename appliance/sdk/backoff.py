"""How long to wait before the next attempt to reach the router.

Sans-IO. The first attempt after a loss is immediate, then 100 ms doubling to 30 s (``spec/node-protocol.md
§1.6``), each spread over its upper half. Unlike the reference, only a connection that lived
:data:`PROVEN_S` starts the row again: two processes with one uuid evict each other, and would do so at full
speed for ever.
"""

from __future__ import annotations

import random

__all__ = ["CAP_S", "FIRST_S", "PROVEN_S", "Backoff"]

FIRST_S = 0.1
CAP_S = 30.0
PROVEN_S = 5.0


class Backoff:
    """One row of waits.

    Args:
        chance: source of jitter, for tests; a value in ``[0, 1)`` per call.
        cap_s: longest wait.
    """

    __slots__ = ("_cap_s", "_chance", "_next_s")

    def __init__(self, chance: random.Random | None = None, *, cap_s: float = CAP_S) -> None:
        self._cap_s = cap_s
        self._chance = chance or random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._next_s = 0.0

    def lost(self, lived_s: float) -> None:
        """A connection that had lived ``lived_s`` seconds is gone."""
        if lived_s >= PROVEN_S:
            self._next_s = 0.0

    def next_wait_s(self) -> float:
        """Seconds to wait before the attempt that follows; each call moves on in the row."""
        wait_s = self._next_s
        self._next_s = min(max(wait_s * 2, FIRST_S), self._cap_s)
        return wait_s * (0.5 + self._chance.random() / 2)
