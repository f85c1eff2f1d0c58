"""Retention: which segments a journal may give up. Pure decisions over immutable segments.

Only whole sealed segments go, oldest first; the active one stays, so sequence numbers never start over.
Bytes are counted as they lie on the disk. Age is *running time of the journal*, a counter of seconds that
every group carries and that goes on from the last stored value at the next start: a wall clock at 1970, set
back or set forward changes nothing. The price: time while the box is off does not count, so records are
kept longer there, never shorter.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.store.journal_segment import Segment
from appliance.store.journal_types import JournalSpec

__all__ = ["behind", "expired", "is_stale"]

_AGE_GRAIN = 4


def expired(
    segments: Sequence[Segment], spec: JournalSpec, *, tail_bytes: int, tail_run_s: int, run_s: int
) -> int:
    """How many of the oldest sealed ``segments`` a log gives up now.

    Args:
        segments: sealed ones, oldest first.
        spec: of the journal.
        tail_bytes: size of the active segment.
        tail_run_s: running time at which the active segment was made.
        run_s: running time now.
    """
    drop = 0
    if spec.keep_bytes is not None:
        total = tail_bytes + sum(s.end for s in segments)
        while drop < len(segments) and total > spec.keep_bytes:
            total -= segments[drop].end
            drop += 1
    if spec.keep_age_s is not None:
        # the youngest record of a segment is as old as the segment behind it
        made = [s.run_s for s in segments[1:]] + [tail_run_s]
        while drop < len(segments) and run_s - made[drop] > spec.keep_age_s:
            drop += 1
    return drop


def is_stale(spec: JournalSpec, *, tail_run_s: int, run_s: int) -> bool:
    """Whether the active segment should be closed early, so that age can trim a journal that hardly grows."""
    return spec.keep_age_s is not None and run_s - tail_run_s > spec.keep_age_s / _AGE_GRAIN


def behind(segments: Sequence[Segment], seq: int) -> int:
    """How many of the oldest sealed ``segments`` hold only records up to ``seq``."""
    drop = 0
    while drop < len(segments) and segments[drop].last_seq <= seq:
        drop += 1
    return drop
