"""What a transaction on a region environment is, and what LMDB's errors mean in our words.

Transactions are plain context managers: short, never kept across an ``await``, never shared by threads.
An open read transaction keeps every page it can see from being reused, so a slow reader fills the map.
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Protocol, Self

import lmdb

from appliance.wire.errors import Busy, Conflict, Damaged, FluxbeeError, Invalid, Unavailable

from .files import storage_error

__all__ = [
    "REGION_CLOSED",
    "REGION_DAMAGED",
    "REGION_FAILED",
    "REGION_FULL",
    "REGION_READERS_FULL",
    "REGION_TXN_BROKEN",
    "REGION_TXN_FULL",
    "ReadTxn",
    "TxnOwner",
    "WriteTxn",
    "region_error",
]

REGION_FULL = "REGION_FULL"
REGION_READERS_FULL = "REGION_READERS_FULL"
REGION_TXN_FULL = "REGION_TXN_FULL"
REGION_TXN_BROKEN = "REGION_TXN_BROKEN"
REGION_DAMAGED = "REGION_DAMAGED"
REGION_FAILED = "REGION_FAILED"
REGION_CLOSED = "REGION_CLOSED"

FULL_RETRY_S = 30.0
"""A full region needs retention or an operator; sooner repeats would only cost."""

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
)


class TxnOwner(Protocol):
    """Who gave the transaction; is told about damage so that the next opening sets the file aside."""

    def note_damage(self, reason: str) -> None:
        """Remember that stored bytes failed a check."""
        ...


class ReadTxn:
    """A consistent view of all tables; use as ``with … as txn``.

    ``raw`` is LMDB's transaction, ``dbs`` the open table handles by name; :class:`Table` uses them.
    """

    __slots__ = ("dbs", "owner", "raw")

    def __init__(self, raw: lmdb.Transaction[bytes], dbs: dict[str, lmdb._Database], owner: TxnOwner) -> None:
        self.raw = raw
        self.dbs = dbs
        self.owner = owner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raw.abort()  # of a read transaction: the slot goes back, nothing is undone

    def error(self, error: lmdb.Error, what: str) -> FluxbeeError:
        """Our error for LMDB's; damage is noted with the owner."""
        mapped = region_error(error, what)
        if isinstance(mapped, Damaged):
            self.owner.note_damage(str(mapped))
        return mapped

    def damaged(self, what: str) -> Damaged:
        """Error for a row that does not decode; noted with the owner."""
        self.owner.note_damage(what)
        return Damaged(what, code=REGION_DAMAGED)


class WriteTxn(ReadTxn):
    """A transaction that may change tables; counts what it changed."""

    __slots__ = ("payload_bytes", "touched")

    def __init__(self, raw: lmdb.Transaction[bytes], dbs: dict[str, lmdb._Database], owner: TxnOwner) -> None:
        super().__init__(raw, dbs, owner)
        self.touched = 0
        self.payload_bytes = 0


def region_error(error: lmdb.Error, what: str) -> FluxbeeError:
    """Error of our tree for LMDB's ``error`` on ``what`` (an environment or table).

    A full map is ``Busy`` (a quota, ``design.md §5``), a full or failing medium ``Unavailable``, bytes that
    LMDB does not understand are ``Damaged``, a key or value of impossible size is ``Invalid``.
    """
    text = f"{what}: {error}"
    if isinstance(error, lmdb.MapFullError):
        return Busy(text, code=REGION_FULL, retry_after_s=FULL_RETRY_S)
    if isinstance(error, lmdb.ReadersFullError):
        return Busy(text, code=REGION_READERS_FULL)
    if isinstance(error, lmdb.TxnFullError):
        return Invalid(text, code=REGION_TXN_FULL, remedy="Commit in smaller slices.")
    if isinstance(error, lmdb.BadTxnError):
        return Conflict(text, code=REGION_TXN_BROKEN, remedy="Let the first error end the change.")
    if isinstance(error, lmdb.BadValsizeError):
        return Invalid(text, field=what, remedy="Keys, and values of a dupsort table, have 1 to 511 bytes.")
    if isinstance(error, _DAMAGE):
        return Damaged(text, code=REGION_DAMAGED)
    number = errno.ENOSPC if isinstance(error, lmdb.DiskError) else getattr(error, "code", 0)
    if number > 0:  # LMDB's own codes are negative, the system's positive
        return storage_error(OSError(number, str(error)), what)
    return Unavailable(text, code=REGION_FAILED, remedy="The environment is opened anew at the next start.")
