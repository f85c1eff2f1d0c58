"""Reading regions: what owner, other planes and nodes have in common.

:class:`RegionView` is the reading face; the owner's environment has it too. :class:`RegionReader` follows an
environment that somebody else writes: it opens the file when it is first needed, and again whenever the
owner put another one in its place. Only planes may read a live environment (``design.md §5``): a reader that
is stopped inside a transaction keeps pages from being reused. Nodes and tools use
:class:`appliance.store.published.PublishedRegion`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

import lmdb
import msgspec

from appliance.wire.errors import FluxbeeError, Unavailable

from .region_handle import Handle, attach, detach
from .region_table import REGION_TABLE, RegionRow, RegionSpec, Table
from .region_txn import REGION_CLOSED, ReadTxn, region_error

__all__ = ["REGION_SCHEMA", "ReaderStatistics", "RegionReader", "RegionView"]

REGION_SCHEMA = "REGION_SCHEMA"

K = TypeVar("K")
V = TypeVar("V")


class RegionView:
    """Reads without a transaction in hand; each call sees the newest commit.

    Use :meth:`read` for several rows of one state. All calls raise ``Damaged`` for rows that do not decode.
    """

    __slots__ = ()

    def read(self) -> ReadTxn:
        """A consistent view of all tables, for a ``with`` block without ``await``."""
        raise NotImplementedError

    def get(self, table: Table[K, V], key: K) -> V | None:
        """Value of ``key``, or ``None``."""
        with self.read() as txn:
            return table.get(txn, key)

    def values(self, table: Table[K, V], key: K) -> list[V]:
        """All values of ``key`` in a dupsort table."""
        with self.read() as txn:
            return table.values(txn, key)

    def items(
        self, table: Table[K, V], *, start: K | None = None, prefix: bytes = b""
    ) -> Iterator[tuple[K, V]]:
        """Rows in key order, all of one state; the view stays open until the iterator ends or is closed."""
        with self.read() as txn:
            yield from table.items(txn, start=start, prefix=prefix)

    def count(self, table: Table[K, V]) -> int:
        """Number of rows."""
        with self.read() as txn:
            return table.count(txn)

    def row(self, region: str) -> RegionRow | None:
        """What is known about a region; ``None`` when the environment has never held it."""
        return self.get(REGION_TABLE, region)

    def generation(self, region: str) -> int:
        """Generation of a region, 0 when there is none. The generation page tells it much faster."""
        row = self.row(region)
        return row.generation if row else 0

    def ready(self, region: str) -> bool:
        """The region is there and not being rebuilt."""
        row = self.row(region)
        return row is not None and row.complete


class ReaderStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one reader since it was made."""

    opens: int = 0
    failures: int = 0
    damages: int = 0


class RegionReader(RegionView):
    """Reads a live environment that another plane, or this process, writes.

    Args:
        path: the environment file; it need not exist yet.
        regions: what is going to be read; their schema numbers are checked at every opening.
        lock: register as a reader. False only for files that never change.
    """

    __slots__ = ("_checked", "_damages", "_failures", "_handle", "_opens", "_regions")

    def __init__(self, path: Path, regions: Sequence[RegionSpec] = (), *, lock: bool = True) -> None:
        self._handle: Handle | None = attach(path, lock=lock)
        self._regions = tuple(regions)
        self._checked: dict[str, lmdb._Database] | None = None
        self._opens = 0
        self._failures = 0
        self._damages = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go; reading afterwards raises ``Unavailable``."""
        handle, self._handle = self._handle, None
        if handle is not None:
            detach(handle)

    def read(self) -> ReadTxn:
        """A consistent view of all tables.

        Raises:
            NotFound: ``REGION_MISSING``; the owner has not made it yet.
            Unavailable: ``REGION_SCHEMA`` (another software version wrote it), ``REGION_CLOSED``, a medium.
            Damaged: what is there is not an environment.
        """
        try:
            if self._handle is None:
                raise Unavailable("this reader was closed", code=REGION_CLOSED)
            return self._begin(self._handle)
        except FluxbeeError:
            self._failures += 1
            raise

    def _begin(self, handle: Handle) -> ReadTxn:
        try:
            return self._try_begin(handle)
        except lmdb.MapResizedError:  # the owner opened it with a larger map
            handle.expire()
        except lmdb.Error as error:
            raise region_error(error, str(handle.path)) from error
        try:
            return self._try_begin(handle)
        except lmdb.Error as error:
            raise region_error(error, str(handle.path)) from error

    def _try_begin(self, handle: Handle) -> ReadTxn:
        env, dbs = handle.current()
        if dbs is not self._checked:
            env, dbs = self._check(handle)
        return ReadTxn(env.begin(), dbs, self)

    def _check(self, handle: Handle) -> tuple[lmdb.Environment, dict[str, lmdb._Database]]:
        env, dbs = handle.current()
        wanted = {table.name for region in self._regions for table in region.tables} | {REGION_TABLE.name}
        if not wanted <= dbs.keys():
            handle.scan_tables()
            env, dbs = handle.current()
        with ReadTxn(env.begin(), dbs, self) as txn:
            rows = [(region, REGION_TABLE.get(txn, region.name)) for region in self._regions]
        for region, row in rows:
            if row is not None and row.schema != region.schema:
                raise Unavailable(
                    f"region {region.name} has schema {row.schema}, this program reads {region.schema}",
                    code=REGION_SCHEMA,
                    remedy="Run the same software version everywhere on the box.",
                )
        self._opens += 1
        # Until the owner has made everything, look again at every read.
        self._checked = dbs if wanted <= dbs.keys() else None
        return env, dbs

    def note_damage(self, reason: str) -> None:
        """Count a row that failed its check; only the owner can set the file aside."""
        self._damages += 1

    def statistics(self) -> ReaderStatistics:
        """Counters since this reader was made."""
        return ReaderStatistics(opens=self._opens, failures=self._failures, damages=self._damages)
