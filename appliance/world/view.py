"""The region ``world``: rows of entities, namespaces and configuration in LMDB (``design.md §5``).

A row is the newest event's number (u64) and the entity's JSON text; rows carry their own number, so applying
an event twice changes nothing. How many entities exist is stored with every slice, in the same transaction as
the rows it counts. The region belongs to one journal: with another one it is rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

import lmdb
import msgspec

from appliance.store.layouts import WORLD_ENTITY, WORLD_META, WORLD_NAMESPACE
from appliance.store.region import SLICE_PUTS, Environment
from appliance.store.region_change import Change
from appliance.store.region_txn import REGION_DAMAGED, ReadTxn
from appliance.wire.errors import Damaged

from .entities import entity_key
from .overlay import Overlay, Pending

__all__ = ["REGION", "Rows", "ViewMeta", "WorldView"]

REGION = "world"
_META, _CONFIG = "view", "config"
_TABLE = WORLD_ENTITY.name
_HEAD_BYTES = 8
_NO_ROW = bytes(_HEAD_BYTES)


class ViewMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What the region is a view of.

    Args:
        journal_id: hexadecimal.
        entities: how many exist in the rows.
        restoring: an image that reaches to this event is taking the rows' place; 0: none is.
    """

    journal_id: str = ""
    entities: int = 0
    restoring: int = 0


class Rows:
    """Rows as of one moment; begins its transaction with the first question, ``end`` it soon."""

    __slots__ = ("_env", "_get", "_txn")

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._txn: ReadTxn | None = None

    def raw(self, key: bytes) -> bytes | None:
        """A row as stored."""
        txn = self._txn
        if txn is None:
            txn = self._txn = self._env.read()
            # Half a wide load's questions are asked here: the way to the table is looked up once.
            self._get: Callable[[bytes], bytes | None] = partial(txn.raw.get, db=txn.dbs[_TABLE])
        try:
            return self._get(key)
        except lmdb.Error as error:
            raise txn.error(error, _TABLE) from error

    def value(self, entity_id: str) -> int:
        """Newest event and existence as ``Heads`` keeps them."""
        raw = self.raw(entity_key(entity_id.encode()))
        if raw is None:
            return 0
        return int.from_bytes(raw[:_HEAD_BYTES], "big") << 1 | (len(raw) > _HEAD_BYTES)

    def text(self, entity_id: str) -> bytes:
        """JSON text of an entity; empty when the region holds none."""
        raw = self.raw(entity_key(entity_id.encode()))
        return b"" if raw is None else raw[_HEAD_BYTES:]

    def size_bytes(self, entity_id: str) -> int:
        """Bytes of its JSON text."""
        return len(self.text(entity_id))

    def end(self) -> None:
        """Let the view go."""
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.raw.abort()


class WorldView:
    """See the module.

    Args:
        env: the open environment; this process writes it.
        entity_bytes: entities whose text is longer are named in ``heavy``.
    """

    def __init__(self, env: Environment, entity_bytes: int) -> None:
        self.env = env
        self.heavy: set[str] = set()
        self.rows_written = 0
        self._entity_bytes = entity_bytes
        self.meta = self._load_meta()

    def _load_meta(self) -> ViewMeta:
        raw = self.env.get(WORLD_META, _META)
        return msgspec.json.decode(raw, type=ViewMeta) if raw else ViewMeta()

    def damaged(self, what: str, error: ValueError) -> Damaged:
        """Error for a row that does not decode; the region is set aside at the next start."""
        self.env.note_damage(f"{what}: {error}")
        return Damaged(f"region {REGION}, {what}: its row does not decode: {error}", code=REGION_DAMAGED)

    @contextmanager
    def rows(self) -> Iterator[Rows]:
        """Rows as of now, for a block without ``await``."""
        rows = Rows(self.env)
        try:
            yield rows
        finally:
            rows.end()

    # -- projecting --------------------------------------------------------------------------------------

    def project(self, overlay: Overlay, *, slice_puts: int = SLICE_PUTS) -> Iterator[int]:
        """Bring what is in ``overlay.back`` into the region; each step is one commit of so many rows.

        Steps that are not taken stay to be done by another call.

        Raises:
            Busy, Unavailable: the map or the medium is full, or fails; the slice was undone.
            Damaged: a row does not decode; the region is set aside at the next start.
        """
        waiting = iter(sorted(overlay.back))
        ids = list(islice(waiting, slice_puts))
        while ids:
            following = list(islice(waiting, slice_puts))
            self._slice(overlay, ids, overlay.back_seq if not following else None)
            overlay.settled(ids)
            yield len(ids)
            ids = following

    def _slice(self, overlay: Overlay, ids: Sequence[str], applied_seq: int | None) -> None:
        with self.env.change(REGION, applied_seq=applied_seq, quiet=applied_seq is None) as txn:
            rows, heavy, delta = self._merged(txn, overlay.back, ids)
            # Ids come in order, so keys do: each page is found once, and what was just read is in the cache.
            txn.raw.cursor(txn.dbs[_TABLE]).putmulti(rows)
            meta = msgspec.structs.replace(self.meta, entities=self.meta.entities + delta)
            WORLD_META.put(txn, _META, msgspec.json.encode(meta))
            txn.touched += len(ids)
            txn.payload_bytes += sum([len(row) for _, row in rows])
        self.meta = meta
        self.rows_written += len(ids)
        self.heavy.difference_update(ids)
        self.heavy.update(heavy)

    def _merged(
        self, txn: Change, back: dict[str, Pending], ids: Sequence[str]
    ) -> tuple[list[tuple[bytes, bytes]], list[str], int]:
        """New rows of ``ids``, those that became too large, and how many entities there are more."""
        db, get = txn.dbs[_TABLE], txn.raw.get
        longest = self._entity_bytes + _HEAD_BYTES
        rows: list[tuple[bytes, bytes]] = []
        heavy: list[str] = []
        delta = 0
        for entity_id in ids:
            key = entity_key(entity_id.encode())
            row = get(key, None, db) or _NO_ROW
            entry, below = back[entity_id], row[_HEAD_BYTES:]
            head = entry.head.to_bytes(_HEAD_BYTES, "big")
            if head <= row[:_HEAD_BYTES]:
                continue
            try:
                text = entry.text(entity_id, below)
            except ValueError as error:
                raise self.damaged(f"entity {entity_id!r}", error) from error
            row = head + text
            rows.append((key, row))
            delta += bool(text) - bool(below)
            if len(row) > longest:
                heavy.append(entity_id)
        return rows, heavy, delta

    def mark_applied(self, seq: int) -> None:
        """Nothing between the region and event ``seq`` changes a row."""
        if seq > self.env.applied_seq(REGION):
            with self.env.change(REGION, applied_seq=seq):
                pass

    # -- filling -----------------------------------------------------------------------------------------

    def reset(self, journal_id: str) -> None:
        """Empty the region; it becomes the view of that journal."""
        self.env.reset(REGION)
        self.meta = ViewMeta(journal_id=journal_id)
        self.heavy.clear()

    def load(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Add rows in order of their keys, behind all that are there (a base image)."""
        with self.env.change(REGION, quiet=True, urgent=True) as txn:
            cursor = txn.raw.cursor(txn.dbs[_TABLE])
            cursor.putmulti(rows, append=True)
            born = sum(len(row) > _HEAD_BYTES for _, row in rows)
            self.meta = msgspec.structs.replace(self.meta, entities=self.meta.entities + born)
            WORLD_META.put(txn, _META, msgspec.json.encode(self.meta))
            txn.touched += len(rows)
        self.rows_written += len(rows)

    def finish(self, seq: int) -> None:
        """The region is complete: the view of its journal up to ``seq``."""
        with self.env.change(REGION, urgent=True) as txn:
            WORLD_META.put(txn, _META, msgspec.json.encode(self.meta))
        self.env.finish_rebuild(REGION, applied_seq=seq)

    def drop_ghosts(self, keys: Iterable[bytes], upto_seq: int) -> int:
        """Remove rows of entities that do not exist and whose history ends at ``upto_seq`` or before."""
        gone = 0
        with self.env.change(REGION, quiet=True, urgent=True) as txn:
            db = txn.dbs[_TABLE]
            for key in keys:
                raw = txn.raw.get(key, None, db)
                if raw is not None and len(raw) == _HEAD_BYTES and int.from_bytes(raw, "big") <= upto_seq:
                    gone += txn.raw.delete(key, db=db)
            txn.touched += gone
        return gone

    # -- configuration and namespaces --------------------------------------------------------------------

    def save_control(self, config: bytes | None, namespaces: Iterable[tuple[str, bytes | None]]) -> None:
        """Store the configuration and changed namespaces (None: gone)."""
        with self.env.change(REGION, quiet=True, urgent=True) as txn:
            if config is not None:
                WORLD_META.put(txn, _CONFIG, config)
            for name, text in namespaces:
                if text is None:
                    WORLD_NAMESPACE.delete(txn, name)
                else:
                    WORLD_NAMESPACE.put(txn, name, text)

    def save_changed(self, changed: dict[str, bytes | None]) -> None:
        """Store what changed (key empty: the configuration; else ``/`` and a name), and forget it."""
        if changed:
            self.save_control(changed.get(""), [(key[1:], text) for key, text in changed.items() if key])
            changed.clear()

    def note_restoring(self, seq: int) -> None:
        """From here on the rows are good only if no image that reaches to ``seq`` comes to be; 0: always."""
        meta = msgspec.structs.replace(self.meta, restoring=seq)
        with self.env.change(REGION, quiet=True, urgent=True) as txn:
            WORLD_META.put(txn, _META, msgspec.json.encode(meta))
        self.meta = meta

    def load_control(self) -> tuple[bytes | None, list[bytes]]:
        """The stored configuration, and all namespaces."""
        with self.env.read() as txn:
            return WORLD_META.get(txn, _CONFIG), [text for _, text in WORLD_NAMESPACE.items(txn)]
