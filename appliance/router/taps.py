"""Taps: who watches traffic, and for how long. Sans-IO; a tap is a lease that its owner renews."""

from __future__ import annotations

from collections.abc import Callable

from ..wire.names import glob_matcher
from .connection import Connection

__all__ = ["TAP_LEASE_S", "Taps"]

TAP_LEASE_S = 30.0
"""A tap that is not renewed ends: a watcher that hangs must not cost the router for ever."""

MAX_TAPS = 8


class Taps:
    """The taps in force. Falsy when there are none, so that the hot path asks one cheap question."""

    __slots__ = ("_taps", "dropped")

    def __init__(self) -> None:
        self._taps: dict[Connection, tuple[str, Callable[[str], bool], float]] = {}
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._taps)

    def __len__(self) -> int:
        return len(self._taps)

    def set(self, connection: Connection, pattern: str, now: float) -> bool:
        """Start or renew; false when there are too many."""
        if connection not in self._taps and len(self._taps) >= MAX_TAPS:
            return False
        self._taps[connection] = (pattern, glob_matcher(pattern), now + TAP_LEASE_S)
        return True

    def remove(self, connection: Connection) -> None:
        """End the tap of ``connection``, if it has one."""
        self._taps.pop(connection, None)

    def expire(self, now: float) -> None:
        """Drop leases that ran out."""
        for connection in [one for one, (_, _, until) in self._taps.items() if until <= now]:
            del self._taps[connection]

    def watchers(self, *names: str) -> list[Connection]:
        """Connections whose pattern matches one of ``names``."""
        return [
            connection for connection, (_, fits, _) in self._taps.items() if any(fits(name) for name in names)
        ]
