"""Figures of a region environment: what the owner counts, and what LMDB tells about pages and readers."""

from __future__ import annotations

from collections.abc import Iterable

import lmdb
import msgspec

__all__ = ["EnvironmentCounters", "EnvironmentStatistics", "ReaderTable", "reader_table", "used_pages"]


class EnvironmentStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one environment since it was opened; sizes in bytes.

    ``bytes_written`` is what went to the file where ``bytes_exact``, else the size of keys and values.
    ``reader_lag_txns`` is how many commits ago the oldest open read transaction began.
    """

    name: str
    map_bytes: int
    used_bytes: int
    commits: int
    aborts: int
    rows_changed: int
    bytes_written: int
    bytes_exact: bool
    refused_full: int
    commit_errors: int
    damages: int
    mark_errors: int
    readers: int
    readers_cleared: int
    reader_lag_txns: int


class EnvironmentCounters:
    """The counting half of :class:`EnvironmentStatistics`."""

    __slots__ = (
        "aborts",
        "bytes_exact",
        "bytes_written",
        "commit_errors",
        "commits",
        "damages",
        "mark_errors",
        "readers_cleared",
        "refused_full",
        "rows_changed",
    )

    def __init__(self) -> None:
        self.commits = self.aborts = self.rows_changed = self.bytes_written = 0
        self.refused_full = self.commit_errors = self.damages = self.mark_errors = self.readers_cleared = 0
        self.bytes_exact = True

    def committed(self, rows: int, payload_bytes: int, file_bytes: int | None) -> None:
        """Count a commit; ``file_bytes`` is ``None`` when the kernel does not tell."""
        self.commits += 1
        self.rows_changed += rows
        self.bytes_written += payload_bytes if file_bytes is None else file_bytes
        self.bytes_exact &= file_bytes is not None


class ReaderTable(msgspec.Struct, frozen=True):
    """Open read transactions of all processes: how many, and the oldest snapshot among them."""

    count: int
    oldest_txnid: int | None


def reader_table(text: str) -> ReaderTable:
    """Parse what ``lmdb.Environment.readers`` prints: a heading, then pid, thread and snapshot per line."""
    snapshots = [
        int(fields[2])
        for fields in map(str.split, text.splitlines())
        if len(fields) == 3 and fields[0].isdigit() and fields[2].isdigit()
    ]
    return ReaderTable(len(snapshots), min(snapshots, default=None))


def used_pages(txn: lmdb.Transaction[bytes], tables: Iterable[lmdb._Database]) -> int:
    """Pages that hold rows: without free ones, and without the inner trees of keys with many values."""
    stats = [txn.stat(db) for db in tables]
    return sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
