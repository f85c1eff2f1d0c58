"""Broadcast: trace ids seen lately, and who gets a copy (``routing-and-regions §3.7``). Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ..wire.names import glob_matcher
from .connection import Connection
from .fib import Fib, allowed

__all__ = ["DEDUP_WINDOW_S", "Dedup", "recipients"]

DEDUP_WINDOW_S = 30.0
"""A trace id seen this recently is a duplicate (``routing-and-regions §8``)."""


class Dedup:
    """Trace ids of recent broadcasts; at most ``capacity``, the oldest forgotten first."""

    __slots__ = ("_seen", "capacity", "forgotten", "window_s")

    def __init__(self, window_s: float = DEDUP_WINDOW_S, capacity: int = 65_536) -> None:
        self.window_s = window_s
        self.capacity = capacity
        self.forgotten = 0
        self._seen: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def fresh(self, trace_uuid: str, now: float) -> bool:
        """Whether this is the first broadcast with ``trace_uuid`` within the window; remembers it."""
        seen = self._seen
        while seen:
            oldest = next(iter(seen))
            if now - seen[oldest] < self.window_s:
                break
            del seen[oldest]
        if trace_uuid in seen:
            return False
        if len(seen) >= self.capacity:
            seen.popitem(last=False)
            self.forgotten += 1
        seen[trace_uuid] = now
        return True


def recipients(fib: Fib, source: Connection, target: str | None) -> Iterator[Connection]:
    """Every other node that VPN allows and, when given, whose full name ``target`` matches (``*`` globs)."""
    fits = glob_matcher(target) if target is not None else None
    for node in fib.by_uuid.values():
        if node is not source and allowed(source, node.name, node.vpn) and (fits is None or fits(node.name)):
            yield node
