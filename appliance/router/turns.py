"""The turn journal's budget: what is recorded, what is left out, and that every gap is written down.

A turn is an ordinary message as delivered, before ``memory_package``. Budget: a token bucket for bytes per
second with a burst, and bytes per day (``design.md §5`` *Turns*). As it runs low, turns that belong to no
thread go first. What was left out becomes a record ``{"gap":{"first":…,"last":…,"count":…}}``: ``count`` of
the turns numbered ``first`` to ``last`` are missing, for the ``reasons`` it names: ``budget``, ``refused`` by
the journal, ``disk_full``. Turns are numbered from 1 in each run of the router.

The class is sans-IO but for the journal it is given; ``now`` comes with :meth:`TurnLog.appetite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from ..wire.errors import Busy, Unavailable
from ..wire.frames import pack_frame

__all__ = ["TurnBudget", "TurnJournal", "TurnLog", "TurnStatistics"]

_DAY_S: Final = 86_400.0
_LOOSE_SHARE: Final = 0.25
"""Below this share of the burst (or of the day) only turns of a thread are still recorded."""
_GAP_EVERY_S: Final = 1.0
_LOOK_S: Final = 1.0


class TurnBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in bytes; defaults of ``design.md §5``."""

    rate_bytes_per_s: int = 4_000_000
    burst_bytes: int = 64 * 1024 * 1024
    daily_bytes: int = 2_000_000_000


class TurnStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """``refused`` turns were within budget but the journal did not take them (disk failed, queue full).

    ``disk_full`` turns were not offered to it, because the disk has no room beyond its reserve.
    """

    recorded: int
    recorded_bytes: int
    over_budget: int
    refused: int
    gaps: int
    disk_full: int = 0


class TurnJournal(Protocol):
    """The part of a journal that is needed here."""

    def append_joined_nowait(self, body: bytes, count: int) -> int:
        """Take ``count`` length-prefixed records without waiting; raises ``Busy`` or ``Unavailable``."""
        ...


class TurnLog:
    """A :class:`~appliance.wire.seams.TurnSink` over a journal.

    Args:
        journal: takes the records.
        budget: limits.
        now: the time.
        is_full: whether the disk has no room for turns; asked once a second while there are any.
    """

    def __init__(
        self,
        journal: TurnJournal,
        budget: TurnBudget,
        now: float,
        *,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._journal = journal
        self._budget = budget
        self._now = now
        self._tokens = float(budget.burst_bytes)
        self._filled_at = now
        self._day_began = now
        self._day_bytes = 0
        self._number = 0
        self._gap_first = 0
        self._gap_last = 0
        self._gap_count = 0
        self._gap_written_at = now
        self._recorded = self._recorded_bytes = 0
        self._over_budget = self._refused = self._gaps = self._disk_full = 0
        self._gap_reasons: set[str] = set()
        self._is_full = is_full
        self._look_at = now
        self._full = False

    def appetite(self, now: float) -> tuple[bool, bool]:
        """Whether there is budget for turns of a thread, and for turns without one."""
        budget = self._budget
        if now > self._filled_at:
            earned = (now - self._filled_at) * budget.rate_bytes_per_s
            self._tokens = min(self._tokens + earned, float(budget.burst_bytes))
            self._filled_at = now
        if now - self._day_began >= _DAY_S:
            self._day_began, self._day_bytes = now, 0
        self._now = now
        if now >= self._look_at:
            self._look(now)
        if self._full:
            return False, False
        left = min(self._tokens / budget.burst_bytes, 1 - self._day_bytes / budget.daily_bytes)
        return left > 0, left > _LOOSE_SHARE

    def record(self, framed: bytes, count: int, skipped: int) -> None:
        """One turn of the router: length-prefixed bodies to keep, and how many were left out."""
        first = self._number + 1
        self._number += count + skipped
        if count and not self._append(framed, count):
            self._refused += count
            self._miss(first, count, "refused")
            count = 0
        if skipped:
            if self._full:
                self._disk_full += skipped
            else:
                self._over_budget += skipped
            self._miss(first, skipped, "disk_full" if self._full else "budget")
        is_due = bool(count) or self._now - self._gap_written_at >= _GAP_EVERY_S
        if self._gap_count and is_due and not self._full:
            self.write_gap()

    def tend(self, now: float) -> None:
        """Now and then, also without turns: write a gap down, unless the disk has no room for it."""
        if self._full:
            self._look(now)
        if not self._full:
            self.write_gap()

    def write_gap(self) -> None:
        """Write down what was left out since the last record; kept for later when the journal refuses."""
        if not self._gap_count:
            return
        self._gap_written_at = self._now
        gap = {"first": self._gap_first, "last": self._gap_last, "count": self._gap_count}
        told = {"gap": {**gap, "reasons": sorted(self._gap_reasons)}}
        try:
            self._journal.append_joined_nowait(pack_frame(msgspec.json.encode(told)), 1)
        except (Busy, Unavailable):
            return
        self._gaps += 1
        self._gap_count = 0
        self._gap_reasons.clear()

    def _look(self, now: float) -> None:
        self._look_at = now + _LOOK_S
        self._full = self._is_full()

    def _append(self, framed: bytes, count: int) -> bool:
        try:
            self._journal.append_joined_nowait(framed, count)
        except (Busy, Unavailable):
            return False
        self._tokens -= len(framed)
        self._day_bytes += len(framed)
        self._recorded += count
        self._recorded_bytes += len(framed)
        return True

    def _miss(self, first: int, count: int, reason: str) -> None:
        if not self._gap_count:
            self._gap_first = first
        self._gap_last = self._number
        self._gap_count += count
        self._gap_reasons.add(reason)

    def statistics(self) -> TurnStatistics:
        """A snapshot."""
        return TurnStatistics(
            recorded=self._recorded,
            recorded_bytes=self._recorded_bytes,
            over_budget=self._over_budget,
            refused=self._refused,
            gaps=self._gaps,
            disk_full=self._disk_full,
        )
