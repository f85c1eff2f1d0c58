"""How long a node that ended waits before it is started again, and when it is given up.

Sans-IO. The reference restarts after five seconds, for ever; here a first end costs a second, each further
one doubles that up to a cap, and only a life of some length starts the row again. A node that never lives
so long is *parked*: it rests, visibly, until somebody starts it (``spec/admin-api.md §D.3``, launch).
"""

from __future__ import annotations

import random

import msgspec

__all__ = ["RestartBackoff", "RestartPolicy"]


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of the row; the defaults are those of ``orchestrator.*`` in ``hive.yaml``.

    Attributes:
        first_s: wait after the first end.
        cap_s: longest wait.
        healthy_after_s: a life of at least so long starts the row again.
        park_after: ends in a row after which the node is parked.
    """

    first_s: float = 1.0
    cap_s: float = 60.0
    healthy_after_s: float = 60.0
    park_after: int = 10


class RestartBackoff:
    """The row of one node.

    Args:
        policy: the numbers.
        chance: source of jitter; a value in ``[0, 1)`` per wait.
    """

    __slots__ = ("_chance", "failures", "policy")

    def __init__(self, policy: RestartPolicy, chance: random.Random | None = None) -> None:
        self.policy = policy
        self.failures = 0
        """Ends in a row, without a healthy life between them."""
        self._chance = chance or random.Random()  # noqa: S311 - spreads restarts, guards nothing

    def ended(self, lived_s: float) -> float | None:
        """The node ended after ``lived_s`` seconds: how long to wait, or ``None`` to park it.

        A wait is spread over the upper half of its step, so that nodes which fell together do not rise
        together.
        """
        policy = self.policy
        if lived_s >= policy.healthy_after_s:
            self.failures = 0
        self.failures += 1
        if self.failures >= policy.park_after:
            return None
        # The exponent is bounded: 2.0 ** 1024 would overflow, and the cap is reached long before.
        step_s = min(policy.first_s * 2.0 ** min(self.failures - 1, 64), policy.cap_s)
        return step_s * (0.5 + self._chance.random() / 2)

    def reset(self) -> None:
        """Somebody started the node by hand: the row begins anew."""
        self.failures = 0
