"""Numbers and names of supervision: delays, deadlines, exit codes, which plane is which.

Defaults suit a small box that nobody watches; the reasons stand in
``docs/decisions/0002-keeper-forks-planes.md``. No logic beyond checking that they fit together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

__all__ = [
    "EX_CLEAN",
    "EX_CONFIG",
    "EX_SOFTWARE",
    "EX_UNCLEAN",
    "ROUTING_PLANE",
    "TOGETHER_PLANE",
    "UNREAD_S",
    "KeeperSettings",
    "RequestId",
    "routing_plane",
]

UNREAD_S = 1.0
"""A keeper that was held up reads what waits for it within this time before it judges a plane."""

RequestId = Annotated[int, msgspec.Meta(ge=0)]
"""Number of a request on a plane's channel; 0 asks for no reply."""

ROUTING_PLANE = "data"
"""The plane that routes: it starts first and stops last."""
TOGETHER_PLANE = "all"
"""The one plane of the mode ``planes: together``; it answers to the name of every plane."""

# sysexits.h, so that a service manager and its operator can tell the ends apart.
EX_CLEAN = 0
EX_SOFTWARE = 70
EX_UNCLEAN = 75
EX_CONFIG = 78


class KeeperSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of supervision; seconds unless the name says otherwise.

    ``backoff_jitter`` is the largest part by which a delay is lengthened (never shortened). A plane is
    parked after ``park_after`` failures in a row, tried once more every ``parked_retry_s`` (``None``:
    never), and forgiven after ``healthy_after_s`` of being ready. ``start_timeout_s`` is the time to the
    first sign of life (ready or health).

    Raises:
        ValueError: a number that supervision cannot work with.
    """

    backoff_initial_s: float = 0.25
    backoff_cap_s: float = 30.0
    backoff_jitter: float = 0.25
    healthy_after_s: float = 60.0
    park_after: int = 10
    parked_retry_s: float | None = 300.0
    start_timeout_s: float = 120.0
    restart_grace_s: float = 5.0
    stop_soft_s: float = 2.0
    stop_hard_s: float = 4.0
    stop_give_up_s: float = 4.8
    stop_hurried_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.backoff_initial_s <= self.backoff_cap_s or self.backoff_jitter < 0:
            raise ValueError("back-off needs 0 < backoff_initial_s <= backoff_cap_s and no negative jitter")
        if not 0 < self.stop_soft_s <= self.stop_hard_s <= self.stop_give_up_s:
            raise ValueError("stopping needs 0 < stop_soft_s <= stop_hard_s <= stop_give_up_s")
        if self.park_after < 1:
            raise ValueError("park_after counts failures: at least 1")
        if min(self.healthy_after_s, self.start_timeout_s, self.restart_grace_s) <= 0:
            raise ValueError("healthy_after_s, start_timeout_s and restart_grace_s are above 0")


def routing_plane(planes: Iterable[str]) -> str:
    """Which of these planes routes: ``data``, else the only one.

    Raises:
        ValueError: several planes, none of them ``data``.
    """
    names = tuple(planes)
    if ROUTING_PLANE in names:
        return ROUTING_PLANE
    if len(names) == 1:
        return names[0]
    raise ValueError(f"none of the planes {names} routes")
