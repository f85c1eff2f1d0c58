"""One change of regions, and a large change cut into slices.

A :class:`Change` is a write transaction that knows which regions it is for; the environment begins it with
its block and ends it with the block. What it means for a region's row is decided here, without I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from .region_table import RegionRow
from .region_txn import TxnOwner, WriteTxn

__all__ = ["SLICE_PUTS", "Change", "Changeable", "write_in_slices"]

SLICE_PUTS = 200
"""Puts per commit that a loop can afford (``design.md §4``)."""

T = TypeVar("T")


class Changeable(TxnOwner, Protocol):
    """What a change asks of its environment."""

    def begin(self, change: Change) -> None:
        """Start the transaction."""
        ...

    def end(self, change: Change, value: BaseException | None) -> None:
        """Commit, or undo because of ``value``."""
        ...

    def change(
        self, *regions: str, applied_seq: int | None = None, quiet: bool = False, urgent: bool = False
    ) -> Change:
        """Make a change."""
        ...


class Change(WriteTxn):
    """A write transaction from ``Environment.change``; commits when its block ends without an error."""

    __slots__ = ("applied_seq", "completes", "environment", "quiet", "regions", "resets", "urgent", "written")

    def __init__(
        self,
        environment: Changeable,
        regions: tuple[str, ...],
        *,
        applied_seq: int | None,
        quiet: bool,
        urgent: bool,
    ) -> None:
        # LMDB's transaction begins with the block, so that a change that is never entered holds nothing.
        self.environment = environment
        self.owner = environment
        self.regions = regions
        self.applied_seq = applied_seq
        self.quiet = quiet
        self.urgent = urgent
        self.resets = self.completes = False
        self.written: int | None = None
        self.touched = self.payload_bytes = 0

    def __enter__(self) -> Self:
        self.environment.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.environment.end(self, value)

    def next_row(self, row: RegionRow, *, owed: bool, now_ms: int) -> RegionRow:
        """What ``row`` becomes by this change; the same object when nothing of it changes.

        Args:
            row: of one of the named regions.
            owed: a quiet change left the generation to a later one.
            now_ms: wall clock.
        """
        bump = not self.quiet and (self.touched > 0 or owed or self.resets or self.completes)
        seq = row.applied_seq if self.applied_seq is None else self.applied_seq
        if not bump and seq == row.applied_seq:
            return row
        return msgspec.structs.replace(
            row,
            generation=row.generation + bump,
            applied_seq=0 if self.resets else seq,
            complete=(row.complete or self.completes) and not self.resets,
            updated_at_ms=now_ms,
        )


def write_in_slices(
    env: Changeable,
    regions: Sequence[str],
    items: Iterable[T],
    apply: Callable[[Change, T], None],
    *,
    applied_seq: int | None = None,
    limit: int = SLICE_PUTS,
    urgent: bool = False,
) -> Iterator[int]:
    """Commit a large change in slices; each step of the iterator is one commit, so the loop can breathe.

    ``for done in write_in_slices(…): await trio.lowlevel.checkpoint()``. Only the last slice carries
    ``applied_seq`` and raises the generation; an interrupted change is raised by the next one.

    Args:
        env: where.
        regions: names of the regions that are touched.
        items: whatever ``apply`` understands.
        apply: does the puts of one item.
        applied_seq: as in ``Environment.change``, for the whole.
        limit: items per commit.
        urgent: as in ``Environment.change``.

    Yields:
        How many items are committed so far.
    """
    remaining = iter(items)
    slice_, done = list(islice(remaining, limit)), 0
    while True:
        following = list(islice(remaining, limit))
        last = not following
        with env.change(
            *regions, applied_seq=applied_seq if last else None, quiet=not last, urgent=urgent
        ) as txn:
            for item in slice_:
                apply(txn, item)
        done += len(slice_)
        yield done
        if last:
            return
        slice_ = following
