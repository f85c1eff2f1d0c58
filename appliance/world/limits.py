"""Token buckets (HT-40): so many events per minute for each key, a full minute's worth at once. Sans-IO.

Bounded: of more keys than fit, those that were used longest ago are forgotten, which gives them a full bucket
again; that is one burst, not a way around a limit, as keys of known namespaces are far fewer.
"""

from __future__ import annotations

__all__ = ["Buckets"]

MAX_KEYS = 20_000


class Buckets:
    """One bucket for each key, all of the same size.

    Args:
        max_keys: how many are remembered.
    """

    __slots__ = ("_max_keys", "_states")

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._states: dict[str, tuple[float, float]] = {}
        self._max_keys = max_keys

    def __len__(self) -> int:
        return len(self._states)

    def take(self, key: str, per_minute: int, now: float) -> bool:
        """Take one token; False when there is none.

        Args:
            key: whose bucket.
            per_minute: capacity, and refill within 60 s; a lower one clips what is left; 0 blocks.
            now: monotonic seconds.
        """
        states = self._states
        state = states.pop(key, None)
        if state is None:
            tokens = float(per_minute)
            if len(states) >= self._max_keys:
                del states[next(iter(states))]
        else:
            tokens = min(float(per_minute), state[0] + max(now - state[1], 0.0) * per_minute / 60.0)
        allowed = tokens >= 1.0
        states[key] = (tokens - 1.0 if allowed else tokens, now)
        return allowed
