"""One append on its way to the disk: what it writes, and what it will change once it is durable."""

from __future__ import annotations

from .overlay import Change
from .types import Problem, Result

__all__ = ["Flight"]


class Flight:
    """See the module; filled by the intake, applied by the state.

    ``body`` are ``count`` joined records from number ``first``; ``results`` and ``problems`` are for the
    answer; ``awaits`` is the number of an event on its way that a duplicate of this request stands for.
    """

    __slots__ = (
        "at_ms",
        "awaits",
        "body",
        "born",
        "changes",
        "controls",
        "count",
        "died",
        "duplicates",
        "first",
        "ids",
        "problems",
        "results",
        "sources",
    )

    def __init__(self, first: int, at_ms: int) -> None:
        self.first = first
        self.at_ms = at_ms
        self.body = b""
        self.count = 0
        self.awaits = 0
        self.born = self.died = 0
        self.duplicates: list[tuple[str, int, str]] = []
        self.changes: list[Change] = []
        self.controls: list[tuple[int, bytes]] = []
        self.ids: list[tuple[str, int]] = []
        self.sources: set[str] = set()
        self.results: list[Result] = []
        self.problems: list[Problem] = []

    @property
    def last(self) -> int:
        """Number of the last record."""
        return self.first + self.count - 1
