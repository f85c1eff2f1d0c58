"""Typed tables of a region, and what a region consists of.

A :class:`Table` is a declaration: name, key codec, value codec. It holds no state, so the owner, the planes
that read the live environment and the readers of published copies share one object. Every call takes the
transaction. A table that was never written reads as empty. Rows that do not decode raise ``Damaged`` and
are noted; keys that do not fit raise ``Invalid``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import lmdb
import msgspec

from appliance.wire.errors import Invalid, Unavailable

from .region_codec import UTF8, Codec, cbor_record
from .region_txn import REGION_FAILED, ReadTxn, WriteTxn

__all__ = ["REGION_TABLE", "RegionRow", "RegionSpec", "Table"]

K = TypeVar("K")
V = TypeVar("V")


class Table(Generic[K, V]):
    """One named table.

    Args:
        name: unique within the environment.
        key: codec of keys; encodings have 1 to 511 bytes and sort bytewise.
        value: codec of values.
        dupsort: a key may have several values, kept sorted bytewise (each at most 511 bytes).
    """

    __slots__ = ("_decode", "_decode_key", "_encode", "_encode_key", "dupsort", "key", "name", "value")

    def __init__(self, name: str, key: Codec[K], value: Codec[V], *, dupsort: bool = False) -> None:
        self.name = name
        self.key = key
        self.value = value
        self.dupsort = dupsort
        self._encode_key, self._decode_key = key.encode, key.decode
        self._encode, self._decode = value.encode, value.decode

    def __repr__(self) -> str:
        return f"Table({self.name!r})"

    # --- reading --------------------------------------------------------------------------------------

    def get(self, txn: ReadTxn, key: K) -> V | None:
        """Value of ``key`` (the first one of a dupsort table), or ``None``."""
        db = txn.dbs.get(self.name)
        if db is None:
            return None
        try:
            raw = txn.raw.get(self._encode_key(key), None, db)
        except (ValueError, OverflowError) as error:
            raise self._invalid(error) from error
        except lmdb.Error as error:
            raise txn.error(error, self.name) from error
        if raw is None:
            return None
        try:
            return self._decode(raw)
        except ValueError as error:
            raise txn.damaged(f"table {self.name}: the row of {key!r} does not decode: {error}") from error

    def values(self, txn: ReadTxn, key: K) -> list[V]:
        """All values of ``key``, sorted; of a table without duplicates at most one."""
        db = txn.dbs.get(self.name)
        if db is None:
            return []
        try:
            cursor = txn.raw.cursor(db)
            if not cursor.set_key(self._key(key)):
                return []
            rows = list(cursor.iternext_dup()) if self.dupsort else [cursor.value()]
        except lmdb.Error as error:
            raise txn.error(error, self.name) from error
        try:
            return [self._decode(row) for row in rows]
        except ValueError as error:
            raise txn.damaged(f"table {self.name}: a row of {key!r} does not decode: {error}") from error

    def items(self, txn: ReadTxn, *, start: K | None = None, prefix: bytes = b"") -> Iterator[tuple[K, V]]:
        """Rows in key order, while ``txn`` is open and unchanged.

        Args:
            txn: the view.
            start: first key wanted; rows before it are left out.
            prefix: encoded head that all wanted keys share.
        """
        for raw_key, raw in self.raw_items(txn, start=start, prefix=prefix):
            try:
                yield self._decode_key(raw_key), self._decode(raw)
            except ValueError as error:
                raise txn.damaged(f"table {self.name}: row {raw_key!r} does not decode: {error}") from error

    def raw_items(
        self, txn: ReadTxn, *, start: K | None = None, prefix: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        """As :meth:`items`, undecoded: for copies and for rows that are forwarded verbatim."""
        db = txn.dbs.get(self.name)
        if db is None:
            return
        first = max(prefix, self._key(start)) if start is not None else prefix
        try:
            cursor = txn.raw.cursor(db)
            if not (cursor.set_range(first) if first else cursor.first()):
                return
            for raw_key, raw in cursor:
                if not raw_key.startswith(prefix):
                    return
                yield raw_key, raw
        except lmdb.Error as error:
            raise txn.error(error, self.name) from error

    def count(self, txn: ReadTxn) -> int:
        """Number of rows; every value of a dupsort table is one."""
        db = txn.dbs.get(self.name)
        return 0 if db is None else txn.raw.stat(db)["entries"]

    # --- writing --------------------------------------------------------------------------------------

    def put(self, txn: WriteTxn, key: K, value: V) -> None:
        """Set ``key`` to ``value``; in a dupsort table add ``value``.

        Raises:
            Invalid: key or value do not fit.
            Busy: ``REGION_FULL``; the map is full.
        """
        try:
            raw_key, raw = self._encode_key(key), self._encode(value)
            txn.raw.put(raw_key, raw, db=txn.dbs[self.name])
        except (ValueError, OverflowError) as error:
            raise self._invalid(error) from error
        except KeyError as error:
            raise self._undeclared() from error
        except lmdb.Error as error:
            raise txn.error(error, self.name) from error
        txn.touched += 1
        txn.payload_bytes += len(raw_key) + len(raw)

    def delete(self, txn: WriteTxn, key: K, value: V | None = None) -> bool:
        """Remove ``key`` with all its values, or only one of them; returns whether there was something."""
        raw_key = self._key(key)
        raw = b"" if value is None else self._encode(value)
        try:
            found = txn.raw.delete(raw_key, raw, db=txn.dbs[self.name])
        except KeyError as error:
            raise self._undeclared() from error
        except lmdb.Error as error:
            raise txn.error(error, self.name) from error
        txn.touched += found
        return found

    def delete_prefix(self, txn: WriteTxn, prefix: bytes) -> int:
        """Remove all rows whose encoded key starts with ``prefix``; returns how many keys."""
        keys = list(dict.fromkeys(raw_key for raw_key, _ in self.raw_items(txn, prefix=prefix)))
        try:
            for raw_key in keys:
                txn.raw.delete(raw_key, db=txn.dbs[self.name])
        except lmdb.Error as error:
            raise txn.error(error, self.name) from error
        txn.touched += len(keys)
        return len(keys)

    def clear(self, txn: WriteTxn) -> None:
        """Remove all rows."""
        try:
            txn.raw.drop(txn.dbs[self.name], delete=False)
        except KeyError as error:
            raise self._undeclared() from error
        except lmdb.Error as error:
            raise txn.error(error, self.name) from error
        txn.touched += 1

    # --- private --------------------------------------------------------------------------------------

    def _key(self, key: K) -> bytes:
        try:
            return self._encode_key(key)
        except (ValueError, OverflowError) as error:
            raise self._invalid(error) from error

    def _invalid(self, error: Exception) -> Invalid:
        return Invalid(f"table {self.name}: {error}", field=self.name)

    def _undeclared(self) -> Unavailable:
        return Unavailable(f"table {self.name} was not declared at opening", code=REGION_FAILED)


class RegionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a region is: a name of the generation registry, a schema number and its tables.

    A new schema number makes the environment drop the region's old rows and ask for a rebuild.
    """

    name: str
    schema: int
    tables: tuple[Table[Any, Any], ...]

    def layout(self) -> list[str]:
        """One line per table for documentation and for readers in other languages."""
        return [
            f"{table.name}{' (dupsort)' if table.dupsort else ''}: {table.key.layout} -> {table.value.layout}"
            for table in self.tables
        ]


class RegionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says about one of its regions; stored as a CBOR array in this order.

    Args:
        generation: grows with every change; readers keep compiled forms by it.
        schema: number of the row layouts.
        applied_seq: record of the region's journal up to which it is a view; 0 before the first.
        complete: False from a reset until the owner has rebuilt the region.
        writer_pid: the owning process.
        started_at_ms: wall clock when the owner opened the environment.
        updated_at_ms: wall clock of the last change.
        tables: names of the region's tables.
    """

    generation: int
    schema: int
    applied_seq: int
    complete: bool
    writer_pid: int
    started_at_ms: int
    updated_at_ms: int
    tables: tuple[str, ...]


REGION_TABLE: Table[str, RegionRow] = Table("region", UTF8, cbor_record(RegionRow))
"""One row per region, in every environment."""
