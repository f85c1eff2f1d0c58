"""Open LMDB environments of this process, one per file.

LMDB must not open a file twice in one process: closing either would drop the locks of both. Yet with
``planes: together`` the owner of a region and its readers live in one process. So whoever opens a path gets
the same :class:`Handle`; a writer that comes after readers takes the place over, and when it goes, the
readers open the file again by themselves.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import lmdb

from appliance.wire.errors import Damaged, NotFound, Unavailable

from .files import storage_error
from .region_admit import EnvironmentSpec
from .region_check import MAX_DBS, read_meta_pages
from .region_txn import REGION_CLOSED, REGION_DAMAGED, region_error

__all__ = ["REGION_MISSING", "Handle", "attach", "detach"]

REGION_MISSING = "REGION_MISSING"

_SPARE_TXNS = 8  # finished read transactions kept for reuse

_guard = threading.RLock()
_handles: dict[str, Handle] = {}


class Handle:
    """One environment file, open or not, shared by everybody in this process.

    ``env`` and ``dbs`` (table handles by name) are replaced together when the file is; callers take both from
    one :meth:`current`.
    """

    __slots__ = ("claimed", "dbs", "env", "identity", "lock", "path", "users", "writable")

    def __init__(self, path: Path, *, lock: bool) -> None:
        self.path = path
        self.lock = lock
        self.users = 0
        self.claimed = False
        self.writable = False
        self.env: lmdb.Environment | None = None
        self.dbs: dict[str, lmdb._Database] = {}
        self.identity: tuple[int, int] | None = None

    def claim(self) -> None:
        """Close the file and keep readers of this process away until :meth:`admit_readers` or a close."""
        with _guard:
            self.close()
            self.claimed = True

    def admit_readers(self) -> None:
        """The owner has opened the file and all its tables: readers of this process may use them."""
        self.claimed = False

    def open_writer(self, spec: EnvironmentSpec) -> lmdb.Environment:
        """Open for writing, in place of a reading environment if there is one; a claim stays.

        Raises:
            Damaged, Unavailable: LMDB refuses the file, or the medium fails.
        """
        with _guard:
            claimed = self.claimed
            self.close()
            self.claimed = claimed
            try:
                self.env = lmdb.open(
                    str(self.path),
                    subdir=False,
                    map_size=spec.map_bytes,
                    max_dbs=MAX_DBS,
                    mode=0o600,
                    sync=spec.sync,
                    metasync=spec.sync,
                    max_spare_txns=_SPARE_TXNS,
                )
            except lmdb.Error as error:
                raise region_error(error, str(self.path)) from error
            self.writable = True
            return self.env

    def close(self) -> None:
        """Close the file here; transactions that are still open end with an error."""
        with _guard:
            if self.env is not None:
                self.env.close()
            self.claimed = False
            self._forget()

    def expire(self) -> None:
        """Have the next :meth:`current` open the file anew; a writing environment stays.

        It is the same file, so the old environment must be closed first: readers in other threads end with an
        error and try again.
        """
        with _guard:
            if not self.writable:
                self.close()

    def _forget(self) -> None:
        self.env, self.dbs, self.identity, self.writable = None, {}, None, False

    def current(self) -> tuple[lmdb.Environment, dict[str, lmdb._Database]]:
        """The environment that is at the path now, and its tables; reopens when the file was replaced.

        Raises:
            NotFound: ``REGION_MISSING``; there is no file.
            Damaged: what is there is not an environment.
            Unavailable: it cannot be opened.
        """
        env = self.env
        if env is not None and not self.claimed and (self.writable or self.identity == self._identity_now()):
            return env, self.dbs
        with _guard:
            return self._reopen()

    def _identity_now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _reopen(self) -> tuple[lmdb.Environment, dict[str, lmdb._Database]]:
        if self.claimed:
            raise Unavailable(f"{self.path}: its owner is just opening it", code=REGION_CLOSED)
        identity = self._identity_now()
        if self.env is not None and (self.writable or identity == self.identity):
            return self.env, self.dbs  # another thread was faster
        # The old environment is not closed but dropped: a transaction of another thread may still use it, and
        # the last one that lets go closes it.
        self._forget()
        if identity is None:
            raise NotFound(f"{self.path}: no such region", code=REGION_MISSING)
        try:
            meta = read_meta_pages(self.path)
            self.env = lmdb.open(
                str(self.path),
                subdir=False,
                map_size=meta.map_bytes if self.lock else (meta.last_page + 1) * meta.page_bytes,
                max_dbs=MAX_DBS,
                readonly=True,
                create=False,
                lock=self.lock,
                max_spare_txns=_SPARE_TXNS,
            )
            self.scan_tables()
        except ValueError as error:
            raise Damaged(f"{self.path}: {error}", code=REGION_DAMAGED) from error
        except OSError as error:
            raise storage_error(error, str(self.path)) from error
        except lmdb.Error as error:
            self._forget()
            raise region_error(error, str(self.path)) from error
        if identity != self._identity_now():
            self._forget()
            raise Unavailable(f"{self.path}: replaced while it was opened", code=REGION_CLOSED)
        self.identity = identity
        return self.env, self.dbs

    def scan_tables(self) -> None:
        """Open the handles of all tables that exist by now; a writing environment's are its owner's."""
        with _guard:
            # In a writing environment LMDB would begin a write transaction for this, and wait for the owner's
            # change while it holds the interpreter's lock: the owner could never finish.
            if self.env is None or self.writable:
                return
            with self.env.begin() as txn:
                names = [key for key, _value in txn.cursor()]
            dbs = {name.decode(): self.env.open_db(name, create=False) for name in names}
            self.dbs = {**self.dbs, **dbs}


def attach(path: Path, *, lock: bool) -> Handle:
    """The handle of ``path``; give it back with :func:`detach`.

    Args:
        path: environment file.
        lock: True for live environments (readers register), False for immutable copies.
    """
    key = os.path.realpath(path)
    with _guard:
        handle = _handles.get(key)
        if handle is None:
            handle = _handles[key] = Handle(path, lock=lock)
        handle.users += 1
        return handle


def detach(handle: Handle) -> None:
    """Give a handle back; the last one closes the file."""
    with _guard:
        handle.users -= 1
        if handle.users == 0:
            handle.close()
            for key in [key for key, value in _handles.items() if value is handle]:
                del _handles[key]
