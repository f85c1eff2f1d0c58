from __future__ import annotations

import errno

import lmdb
import pytest

from appliance.store.region_txn import region_error
from appliance.wire.errors import Busy, Conflict, Damaged, FluxbeeError, Invalid, Unavailable


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (lmdb.MapFullError, Busy, "REGION_FULL"),
        (lmdb.ReadersFullError, Busy, "REGION_READERS_FULL"),
        (lmdb.TxnFullError, Invalid, "REGION_TXN_FULL"),
        (lmdb.BadTxnError, Conflict, "REGION_TXN_BROKEN"),
        (lmdb.BadValsizeError, Invalid, "INVALID_REQUEST"),
        (lmdb.CorruptedError, Damaged, "REGION_DAMAGED"),
        (lmdb.PageNotFoundError, Damaged, "REGION_DAMAGED"),
        (lmdb.InvalidError, Damaged, "REGION_DAMAGED"),
        (lmdb.VersionMismatchError, Damaged, "REGION_DAMAGED"),
        (lmdb.DiskError, Unavailable, "STORAGE_FULL"),
        (lmdb.PanicError, Unavailable, "REGION_FAILED"),
        (lmdb.Error, Unavailable, "REGION_FAILED"),
    ],
)
def test_what_lmdb_says_in_our_words(raised: type[lmdb.Error], kind: type[FluxbeeError], code: str) -> None:
    error = region_error(raised("mdb_put", 0), "table x")
    assert type(error) is kind
    assert error.code == code
    assert str(error).startswith("table x: ")


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EIO, "STORAGE_FAILED"), (errno.EROFS, "STORAGE_READ_ONLY")]
)
def test_numbers_of_the_system_are_the_medium_s(number: int, code: str) -> None:
    class SystemsError(lmdb.Error):
        code = number

    error = region_error(SystemsError("mdb_txn_commit", 0), "live")
    assert isinstance(error, Unavailable)
    assert error.code == code
