"""From a file that may or may not be there to an open environment with all its tables.

The steps in order: take the writer lock, judge what lies there (:mod:`region_admit`), mark it as open, open
it, drop regions of another schema, make missing tables, write one row per region. Whatever fails gives the
lock back. A region that is new, of another schema or half rebuilt is empty afterwards and named in
``Opened.rebuild``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from appliance.system.boot import BootId
from appliance.wire.errors import Damaged, Misconfigured

from .files import storage_error
from .generations import GenerationPage, slot_of
from .region_admit import (
    MARK_FORMAT,
    Admission,
    EnvironmentFiles,
    EnvironmentSpec,
    Mark,
    WriterLock,
    admit,
    write_mark,
)
from .region_check import MAX_DBS
from .region_handle import Handle, attach, detach
from .region_table import REGION_TABLE, RegionRow, RegionSpec
from .region_txn import ReadTxn, TxnOwner, WriteTxn, region_error

__all__ = ["Opened", "Prepared", "prepare"]


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """How the environment was found.

    Args:
        kept: the file was there and could be used.
        reason: why, or why not, for the log.
        set_aside: where a damaged predecessor lies.
        rebuild: regions that are empty and that the owner must fill, then ``finish_rebuild``.
    """

    kept: bool
    reason: str
    set_aside: Path | None
    rebuild: frozenset[str]

    @property
    def rebuild_needed(self) -> bool:
        """At least one region is to be rebuilt."""
        return bool(self.rebuild)


class Prepared(NamedTuple):
    """What an environment starts with."""

    lock: WriterLock
    handle: Handle
    env: lmdb.Environment
    rows: dict[str, RegionRow]
    opened: Opened
    mark_written: bool


def check_specs(regions: Sequence[RegionSpec], page: GenerationPage | None) -> None:
    """Raise ``Misconfigured`` unless names are unique, few enough and known to the page."""
    names = [region.name for region in regions]
    tables = [table.name for region in regions for table in region.tables]
    for kind, given in (("region", names), ("table", [REGION_TABLE.name, *tables])):
        double = {name for name in given if given.count(name) > 1}
        if double:
            raise Misconfigured(f"{kind} declared twice: {', '.join(sorted(double))}")
    if len(tables) >= MAX_DBS:
        raise Misconfigured(f"{len(tables)} tables in one environment, at most {MAX_DBS - 1} fit")
    if page is not None:
        for name in names:
            slot_of(name)


def prepare(
    spec: EnvironmentSpec,
    files: EnvironmentFiles,
    regions: Sequence[RegionSpec],
    *,
    owner: TxnOwner,
    page: GenerationPage | None,
    boot: BootId,
    now_ms: int,
) -> Prepared:
    """Open the environment for writing; see ``Environment.open`` for arguments and errors."""
    check_specs(regions, page)
    with ExitStack() as undo:
        try:
            files.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, str(files.directory)) from error
        lock = WriterLock(files.writer)
        undo.callback(lock.release)
        handle = attach(files.data, lock=True)
        undo.callback(detach, handle)
        undo.callback(handle.close)
        handle.claim()
        admission = admit(files, spec, boot)
        try:
            env, mark_written = _start(files, handle, spec, boot, admission.opens + 1)
            rows, rebuild = _Declaration(env, handle.dbs, owner).declare(regions, page, now_ms)
        except Damaged as error:  # LMDB sees what our own look did not
            handle.claim()
            admission = Admission(kept=False, reason=f"damaged: {error}", set_aside=_aside(files, spec))
            env, mark_written = _start(files, handle, spec, boot, 1)
            rows, rebuild = _Declaration(env, handle.dbs, owner).declare(regions, page, now_ms)
        handle.admit_readers()
        undo.pop_all()
    opened = Opened(
        kept=admission.kept, reason=admission.reason, set_aside=admission.set_aside, rebuild=rebuild
    )
    return Prepared(lock, handle, env, rows, opened, mark_written)


def _aside(files: EnvironmentFiles, spec: EnvironmentSpec) -> Path:
    try:
        return files.set_aside(spec.keep_aside)
    except OSError as error:
        raise storage_error(error, str(files.data)) from error


def _start(
    files: EnvironmentFiles, handle: Handle, spec: EnvironmentSpec, boot: BootId, opens: int
) -> tuple[lmdb.Environment, bool]:
    """Mark the environment as open, then open it; returns it, and whether the mark could be written."""
    written = write_mark(files.mark, Mark(format=MARK_FORMAT, boot=boot, clean=False, opens=opens))
    try:
        files.allocate_lock()
    except OSError as error:
        raise storage_error(error, str(files.lmdb_lock)) from error
    return handle.open_writer(spec), written


class _Declaration:
    """Makes the tables of a freshly opened environment what they are declared to be."""

    def __init__(self, env: lmdb.Environment, dbs: dict[str, lmdb._Database], owner: TxnOwner) -> None:
        self._env = env
        self._dbs = dbs
        self._owner = owner

    @contextmanager
    def _transaction(self) -> Iterator[WriteTxn]:
        try:
            with self._env.begin(write=True) as raw:
                yield WriteTxn(raw, self._dbs, self._owner)
        except lmdb.Error as error:
            raise region_error(error, self._env.path()) from error

    def declare(
        self, regions: Sequence[RegionSpec], page: GenerationPage | None, now_ms: int
    ) -> tuple[dict[str, RegionRow], frozenset[str]]:
        """Rows of all regions, and the names of those to rebuild."""
        with self._transaction() as txn:
            self._open_table(txn, REGION_TABLE.name, dupsort=False)
            found = {region.name: REGION_TABLE.get(txn, region.name) for region in regions}
            fitting = {region.name for region in regions if self._fits(txn, region, found[region.name])}
            for region in regions:
                row = found[region.name]
                if row is not None and region.name not in fitting:
                    self._drop_tables(txn, {*row.tables, *(table.name for table in region.tables)})
        rows = {}
        with self._transaction() as txn:
            for region in regions:
                for table in region.tables:
                    self._open_table(txn, table.name, dupsort=table.dupsort)
                    if region.name not in fitting:
                        table.clear(txn)
                kept = found[region.name] if region.name in fitting else None
                generation = _generation(found[region.name], kept is not None, region.name, page)
                rows[region.name] = _row(region, kept, generation, now_ms)
                REGION_TABLE.put(txn, region.name, rows[region.name])
        return rows, frozenset(rows.keys() - fitting)

    def _open_table(self, txn: ReadTxn, name: str, *, dupsort: bool) -> None:
        self._dbs[name] = self._env.open_db(name.encode(), txn=txn.raw, dupsort=dupsort)

    def _existing(self, txn: ReadTxn, name: str) -> lmdb._Database | None:
        try:
            return self._env.open_db(name.encode(), txn=txn.raw, create=False)
        except lmdb.NotFoundError:
            return None

    def _fits(self, txn: ReadTxn, region: RegionSpec, row: RegionRow | None) -> bool:
        """The region is there, complete, and of the declared shape."""
        if row is None or not row.complete or row.schema != region.schema:
            return False
        for table in region.tables:
            db = self._existing(txn, table.name)
            if db is not None and db.flags()["dupsort"] != table.dupsort:
                return False
        return True

    def _drop_tables(self, txn: WriteTxn, names: set[str]) -> None:
        for name in sorted(names):
            db = self._existing(txn, name)
            if db is not None:
                txn.raw.drop(db, delete=True)


def _generation(row: RegionRow | None, kept: bool, region: str, page: GenerationPage | None) -> int:
    """Never behind what readers may have seen: of this file, or of a lost one, on the page."""
    stored = row.generation if row else 0
    announced = page.get(slot_of(region)) if page else 0
    return stored if kept and stored >= announced else max(stored, announced) + 1


def _row(region: RegionSpec, kept: RegionRow | None, generation: int, now_ms: int) -> RegionRow:
    return RegionRow(
        generation=generation,
        schema=region.schema,
        applied_seq=kept.applied_seq if kept else 0,
        complete=kept is not None,
        writer_pid=os.getpid(),
        started_at_ms=now_ms,
        updated_at_ms=kept.updated_at_ms if kept else now_ms,
        tables=tuple(table.name for table in region.tables),
    )
