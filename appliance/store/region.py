"""The writing side of regions: one LMDB environment, its owner, its changes.

A region is a view: it can always be rebuilt from its journal, so safety here means never to show a wrong or
half-made one. Invariants: exactly one process writes an environment; rows, the applied sequence and the
region's generation change in one transaction; a generation never goes back, not even when the file is lost;
it is announced after the commit. Commits run on the caller's thread (``design.md §4``): keep them to
:data:`region_change.SLICE_PUTS` puts. Nothing here knows journals: the owner reads
``opened.rebuild`` and refills those regions.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import lmdb

from appliance.system.boot import BootId, boot_id
from appliance.system.clock import Clock, SystemClock
from appliance.wire.errors import Busy, Conflict, Damaged, FluxbeeError, Invalid, Unavailable

from .files import STORAGE_FAILED, is_full, storage_error
from .generations import GenerationPage, slot_of
from .region_admit import MARK_FORMAT, EnvironmentFiles, EnvironmentSpec, Mark, write_mark
from .region_change import SLICE_PUTS, Change, write_in_slices
from .region_handle import detach
from .region_meter import ThreadWriteMeter
from .region_open import Opened, prepare
from .region_reader import RegionView
from .region_statistics import EnvironmentCounters, EnvironmentStatistics, reader_table, used_pages
from .region_table import REGION_TABLE, RegionRow, RegionSpec
from .region_txn import (
    FULL_RETRY_S,
    REGION_CLOSED,
    REGION_FAILED,
    REGION_FULL,
    ReadTxn,
    region_error,
)

__all__ = ["REGION_CHANGING", "REGION_SEQ", "SLICE_PUTS", "Change", "Environment", "write_in_slices"]

REGION_CHANGING = "REGION_CHANGING"
REGION_SEQ = "REGION_SEQ"

_RESERVE_SHARE = 16
"""One part in so many of the map is kept for urgent changes: deletes, retention, administration."""

_COPY_WAIT_S = 30.0


class Environment(RegionView):
    """One environment that this process writes.

    Changes come from one thread at a time and are not nested; reading is allowed from any thread. Making an
    environment opens it and blocks: what cannot be used is set aside or discarded, all tables are made.

    Args:
        spec: how it is kept: ``LIVE``, ``CONTROL``, ``MEMORY`` or ``WORLD`` of :mod:`region_admit`.
        directory: where; it is made if needed.
        regions: all regions of the environment; undeclared tables are left alone.
        page: where generations are announced.
        boot: id of this boot; the kernel's by default.
        clock: for the stored wall-clock stamps.

    Raises:
        Conflict: ``REGION_IN_USE``; another process, or another object in this one, writes it.
        Misconfigured: the declarations contradict each other.
        Unavailable: the medium is full, read-only or failing.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        directory: Path,
        regions: Sequence[RegionSpec],
        *,
        page: GenerationPage | None = None,
        boot: BootId | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.spec = spec
        self._files = EnvironmentFiles(directory, spec.name)
        self.path = self._files.data
        self._clock = clock or SystemClock()
        self._boot = boot or boot_id()
        self._page = page
        self._specs = {region.name: region for region in regions}
        self._count = EnvironmentCounters()
        self._suspect: str | None = None
        self._failure: FluxbeeError | None = None
        self._listeners: list[Callable[[frozenset[str]], None]] = []
        self._owed: set[str] = set()
        self._changing = self._maintained = False
        self._kept_txnid = -1
        self._copying = threading.Lock()
        self._meter = ThreadWriteMeter() if spec.on_disk else None
        self._quota_bytes = spec.map_bytes - spec.map_bytes // _RESERVE_SHARE
        started = prepare(
            spec, self._files, regions, owner=self, page=page, boot=self._boot, now_ms=self._clock.wall_ms()
        )
        self._lock, self._handle, self._rows = started.lock, started.handle, started.rows
        self._suspect = None  # damage found while opening has been dealt with
        self._env: lmdb.Environment | None = started.env
        self.opened: Opened = started.opened
        self._page_bytes = started.env.stat()["psize"]
        self._count.mark_errors += not started.mark_written
        self._count.readers_cleared += started.env.reader_check()
        self._announce(frozenset(self._rows))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading --------------------------------------------------------------------------------------

    def read(self) -> ReadTxn:
        """A consistent view of all tables, as of the last commit."""
        try:
            return ReadTxn(self._open_env().begin(), self._handle.dbs, self)
        except lmdb.Error as error:
            raise region_error(error, self.spec.name) from error

    def row(self, region: str) -> RegionRow | None:
        """What is known about a region; from memory, without touching the file."""
        return self._rows.get(region)

    def applied_seq(self, region: str) -> int:
        """Record of the journal up to which the region is a view."""
        return self._rows[region].applied_seq

    def _open_env(self) -> lmdb.Environment:
        if self._env is None:
            raise Unavailable(f"{self.spec.name}: the environment was closed", code=REGION_CLOSED)
        return self._env

    # --- changing -------------------------------------------------------------------------------------

    def change(
        self, *regions: str, applied_seq: int | None = None, quiet: bool = False, urgent: bool = False
    ) -> Change:
        """One change of one or more regions: ``with env.change("config", applied_seq=7) as txn:``.

        All or nothing: an exception in the block undoes it. A commit that touched rows raises the generation
        of every named region and announces it; without touched rows only ``applied_seq`` moves.

        Args:
            regions: names of the regions whose tables are touched.
            applied_seq: journal record that the regions are a view of afterwards; never smaller than before.
            quiet: leave the generation to a later change (slices of one logical change).
            urgent: may use the reserve of the map: deletes, retention, administration.

        Raises:
            Busy: ``REGION_FULL``; the map is full.
            Conflict: ``REGION_CHANGING``: another change is open; ``REGION_SEQ``: ``applied_seq`` goes back.
            Unavailable: closed, or the medium is full, read-only or failing.
        """
        return Change(self, regions, applied_seq=applied_seq, quiet=quiet, urgent=urgent)

    def reset(self, region: str) -> None:
        """Empty a region before its rebuild; it is incomplete until :meth:`finish_rebuild`."""
        with self.change(region, urgent=True) as txn:
            for table in self._specs[region].tables:
                table.clear(txn)
            txn.resets = True

    def finish_rebuild(self, region: str, *, applied_seq: int | None = None) -> None:
        """The region is complete again, a view of its journal up to ``applied_seq``."""
        with self.change(region, applied_seq=applied_seq, urgent=True) as txn:
            txn.completes = True

    def on_change(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Call ``listener`` with the names of the changed regions after every announced commit.

        It runs in the committing thread and must neither raise nor wait.
        """
        self._listeners.append(listener)

    def begin(self, change: Change) -> None:
        """Start the transaction of ``change``; :class:`Change` calls it."""
        env = self._open_env()
        self._check_allowed(change)
        change.written = self._meter.read() if self._meter else None
        try:
            change.raw = env.begin(write=True)
        except lmdb.Error as error:
            raise self._broken(error) from error
        change.dbs = self._handle.dbs
        self._changing = True

    def _check_allowed(self, change: Change) -> None:
        if self._failure is not None:
            raise self._failure
        if self._changing:
            raise Conflict(f"{self.spec.name}: a change is open already", code=REGION_CHANGING)
        for region in change.regions:
            row = self._rows.get(region)
            if row is None:
                raise Invalid(f"{self.spec.name} has no region {region!r}", field="region")
            if change.applied_seq is not None and change.applied_seq < row.applied_seq:
                text = f"{region}: record {change.applied_seq} is behind {row.applied_seq}"
                raise Conflict(text, code=REGION_SEQ, remedy="Reset the region and rebuild it.")

    def end(self, change: Change, value: BaseException | None) -> None:
        """Commit ``change``, or undo it because of ``value``; :class:`Change` calls it."""
        self._changing = False
        if value is not None:
            self._undo(change)
            self._count.refused_full += isinstance(value, Busy) and value.code == REGION_FULL
            if isinstance(value, lmdb.Error):  # from a direct use of ``raw``
                raise change.error(value, self.spec.name) from value
            return
        touched, payload_bytes = change.touched, change.payload_bytes
        if not change.urgent and self._over_quota(change):
            self._undo(change)
            self._count.refused_full += 1
            raise Busy(f"{self.spec.name}: the map is full", code=REGION_FULL, retry_after_s=FULL_RETRY_S)
        now_ms = self._clock.wall_ms()
        rows = {
            name: change.next_row(self._rows[name], owed=name in self._owed, now_ms=now_ms)
            for name in change.regions
        }
        try:
            for name, row in rows.items():
                if row is not self._rows[name]:
                    REGION_TABLE.put(change, name, row)
            change.raw.commit()
        except FluxbeeError:
            self._undo(change)
            raise
        except lmdb.Error as error:
            self._undo(change)
            raise self._broken(error) from error
        after = self._meter.read() if self._meter else None
        written = None if after is None or change.written is None else after - change.written
        self._count.committed(touched, payload_bytes, written)
        self._committed(change, rows, touched > 0)

    def _undo(self, change: Change) -> None:
        self._count.aborts += 1
        with suppress(lmdb.Error):  # a commit that failed has ended the transaction already
            change.raw.abort()

    def _committed(self, change: Change, rows: dict[str, RegionRow], touched: bool) -> None:
        raised = frozenset(
            name for name, row in rows.items() if row.generation != self._rows[name].generation
        )
        self._rows.update(rows)
        if not change.quiet:
            self._owed.difference_update(rows)
        elif touched:
            self._owed.update(rows)
        if raised:
            self._announce(raised)
            for listener in self._listeners:
                listener(raised)

    def _announce(self, regions: frozenset[str]) -> None:
        if self._page is not None:
            for name in regions:
                self._page.announce(slot_of(name), self._rows[name].generation)

    # --- trouble --------------------------------------------------------------------------------------

    def _broken(self, error: lmdb.Error) -> FluxbeeError:
        """A commit did not happen. What failed to reach the medium is never trusted again."""
        self._count.commit_errors += 1
        mapped = region_error(error, self.spec.name)
        if mapped.code == STORAGE_FAILED and is_full(self._files.directory):
            # LMDB calls a write that the medium took only half of an I/O error.
            mapped = storage_error(OSError(errno.ENOSPC, "No space left on device"), self.spec.name)
        if isinstance(mapped, Damaged):
            self.note_damage(str(mapped))
        elif mapped.code in (STORAGE_FAILED, REGION_FAILED):
            self._failure = mapped
            self._doubt(str(mapped))
        return mapped

    def note_damage(self, reason: str) -> None:
        """Stored bytes failed a check: have the next opening set the file aside."""
        self._count.damages += 1
        self._doubt(reason)

    def _doubt(self, reason: str) -> None:
        if self._suspect is None:
            self._suspect = reason
            self._mark(clean=False)

    def _mark(self, *, clean: bool) -> None:
        mark = Mark(format=MARK_FORMAT, boot=self._boot, clean=clean, suspect=self._suspect)
        self._count.mark_errors += not write_mark(self._files.mark, mark)

    # --- upkeep ---------------------------------------------------------------------------------------

    def _used_bytes(self) -> int:
        with self.read() as txn:
            pages = used_pages(txn.raw, txn.dbs.values())
        return pages * self._page_bytes

    def _over_quota(self, change: Change) -> bool:
        """Whether ordinary changes must end here, so that urgent ones find the reserve of the map."""
        if change.touched == 0:
            return False
        # The highest page is cheap to know, and enough until the file has once grown to the limit.
        reached = (self._open_env().info()["last_pgno"] + 1) * self._page_bytes
        margin = 2 * change.payload_bytes + 3 * self._page_bytes * change.touched
        if reached + margin <= self._quota_bytes:
            return False
        return used_pages(change.raw, change.dbs.values()) * self._page_bytes > self._quota_bytes

    def upkeep(self) -> None:
        """:meth:`maintain` if anything was committed since: looking dirties a page of the lock file."""
        newest = self._open_env().info()["last_txnid"]
        if newest != self._kept_txnid:
            self.maintain()
            self._kept_txnid = newest

    def maintain(self) -> EnvironmentStatistics:
        """Free what ended readers left behind. Returns the new figures."""
        self._count.readers_cleared += self._open_env().reader_check()
        if not self._maintained and self._suspect is None:
            self._mark(clean=False)  # with the count of failed openings back at zero
        self._maintained = True
        return self.statistics()

    def statistics(self) -> EnvironmentStatistics:
        """Figures since the opening."""
        env, count = self._open_env(), self._count
        readers = reader_table(env.readers())
        newest = env.info()["last_txnid"]
        return EnvironmentStatistics(
            name=self.spec.name,
            map_bytes=self.spec.map_bytes,
            used_bytes=self._used_bytes(),
            commits=count.commits,
            aborts=count.aborts,
            rows_changed=count.rows_changed,
            bytes_written=count.bytes_written,
            bytes_exact=count.bytes_exact,
            refused_full=count.refused_full,
            commit_errors=count.commit_errors,
            damages=count.damages,
            mark_errors=count.mark_errors,
            readers=readers.count,
            readers_cleared=count.readers_cleared,
            reader_lag_txns=0 if readers.oldest_txnid is None else max(0, newest - readers.oldest_txnid),
        )

    def copy_to(self, fd: int) -> None:
        """Write a compacted copy of the last commit to ``fd``; blocks, and may run in another thread.

        Raises:
            Unavailable: closed, or no space where the copy goes.
            Damaged: the pages do not add up.
        """
        with self._copying:
            try:
                self._open_env().copyfd(fd, compact=True)
            except lmdb.Error as error:
                raise region_error(error, f"copy of {self.spec.name}") from error

    def close(self) -> None:
        """Bring everything onto the medium, mark the environment as cleanly stopped, give the lock back.

        Raises:
            Busy: a copy did not end within 30 s; nothing was closed.
            Conflict: ``REGION_CHANGING``; a change is open.
        """
        env = self._env
        if env is None:
            return
        if self._changing:
            raise Conflict(f"{self.spec.name}: a change is open", code=REGION_CHANGING)
        if not self._copying.acquire(timeout=_COPY_WAIT_S):
            raise Busy(f"{self.spec.name}: it is being copied")
        try:
            synced = self._sync(env)
            self._env = None
            self._handle.close()
            detach(self._handle)
            if synced and self._suspect is None:
                self._mark(clean=True)
            self._lock.release()
        finally:
            self._copying.release()

    def _sync(self, env: lmdb.Environment) -> bool:
        try:
            env.sync(True)
        except lmdb.Error as error:
            self._doubt(str(self._broken(error)))  # what became of the cached pages is unknown
            return False
        return True
