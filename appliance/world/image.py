"""The whole state as a sequence of records: base images of the journal, and copies for backup.

Record one is ``H`` and a JSON head (configuration, namespaces); every other one is ``R``, the key's length
(u16), the key and the row as the region stores it, in order of keys. A backup puts these records into
checksummed chunks behind a magic number and ends with their count and SHA-256, so a cut or changed copy is
noticed before anything is replaced. Blocking; for worker threads.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol
from zlib import crc32

import msgspec

from appliance.store.files import storage_error
from appliance.store.journal_format import join_records, split_records
from appliance.store.layouts import WORLD_ENTITY
from appliance.store.region_txn import ReadTxn
from appliance.wire.errors import Damaged, Invalid

from .types import AdminConfig, Namespace

__all__ = ["BACKUP_MAGIC", "BACKUP_VERSION", "ImageHead", "Row", "image", "parse", "read_copy", "write_copy"]

BACKUP_MAGIC = b"FXBWORLD"
BACKUP_VERSION = 1
_CHUNK_BYTES = 256 << 10
_MAX_CHUNK_BYTES = 64 << 20
_START = struct.Struct(">8sH")
_CHUNK = struct.Struct(">III")  # bytes, records, checksum
_END = struct.Struct(">Q32s")
_U16 = struct.Struct(">H")
_SEQ = b',"seq":'

Row = tuple[bytes, bytes]
"""Key, and number of the newest event (u64) with the JSON text."""


class ImageHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is not an entity.

    ``format`` 1 is the one there is; ``seq`` the event that the state reaches to.
    """

    seq: int
    config: AdminConfig
    namespaces: list[Namespace]
    format: int = 1


class _Ghosts(Protocol):
    def append(self, key: bytes, /) -> None: ...


def image(
    txn: ReadTxn, head: ImageHead, *, drop_upto: int = 0, ghosts: _Ghosts | None = None
) -> Iterator[bytes]:
    """Records of the state that ``txn`` sees.

    Args:
        txn: a view whose rows are those of event ``head.seq``; the caller ends it.
        head: goes first.
        drop_upto: entities that do not exist and whose newest event is this or older are left out.
        ghosts: takes the keys of those.
    """
    yield b"H" + msgspec.json.encode(head)
    pack = _U16.pack
    for key, row in WORLD_ENTITY.raw_items(txn):
        if len(row) == 8 and int.from_bytes(row, "big") <= drop_upto:
            if ghosts is not None:
                ghosts.append(key)
            continue
        yield b"R" + pack(len(key)) + key + row


def parse(records: Iterable[bytes]) -> tuple[ImageHead | None, list[Row]]:
    """Head, if it is among ``records``, and rows.

    Raises:
        ValueError: a record is none of an image.
    """
    head: ImageHead | None = None
    rows: list[Row] = []
    for record in records:
        if record[:1] == b"R" and len(record) > 3:
            end = 3 + (record[1] << 8 | record[2])
            rows.append((record[3:end], record[end:]))
        elif record[:1] == b"H":
            head = _head(record)
        else:
            raise ValueError("neither head nor row of an image")
    return head, rows


def _head(record: bytes) -> ImageHead:
    try:
        head = msgspec.json.decode(record[1:], type=ImageHead)
    except msgspec.MsgspecError as error:
        raise ValueError(f"head of an image: {error}") from error
    if head.format != 1:
        raise ValueError(f"image of format {head.format}")
    return head


def write_copy(stream: BinaryIO, records: Iterable[bytes]) -> int:
    """Write a backup; returns how many records it has besides the head.

    Raises:
        Unavailable: the stream cannot be written.
    """
    digest, total = hashlib.sha256(), 0
    try:
        stream.write(_START.pack(BACKUP_MAGIC, BACKUP_VERSION))
        for body, count in _chunks(records):
            digest.update(body)
            total += count
            stream.write(_CHUNK.pack(len(body), count, crc32(body)))
            stream.write(body)
        stream.write(_CHUNK.pack(0, 0, 0))
        stream.write(_END.pack(total, digest.digest()))
        stream.flush()
    except OSError as error:
        raise storage_error(error, "backup of the world") from error
    return total - 1


def _chunks(records: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record)
        if size >= _CHUNK_BYTES:
            yield join_records(batch)
            batch, size = [], 0
    if batch:
        yield join_records(batch)


def read_copy(stream: BinaryIO, seq: int) -> Iterator[bytes]:
    """Records of a backup for an image that reaches to event ``seq``: history starts anew behind it.

    Raises:
        Invalid: not a backup, or of a newer version.
        Damaged: it fails its checks; what came before must not be used.
        Unavailable: the stream cannot be read.
    """
    try:
        _check_start(stream.read(_START.size))
        digest, total, first = hashlib.sha256(), 0, True
        while True:
            size, count, crc = _CHUNK.unpack(_exactly(stream, _CHUNK.size))
            if not size and not count and not crc:
                break
            body = _exactly(stream, size)
            if crc32(body) != crc:
                raise Damaged("backup of the world: a chunk fails its check")
            digest.update(body)
            total += count
            yield from _renumbered(split_records(body, count), seq, first)
            first = False
        if _END.unpack(_exactly(stream, _END.size)) != (total, digest.digest()):
            raise Damaged("backup of the world: its end does not match")
    except OSError as error:
        raise storage_error(error, "backup of the world") from error
    except ValueError as error:
        raise Damaged(f"backup of the world: {error}") from error


def _check_start(data: bytes) -> None:
    if len(data) != _START.size or data[:8] != BACKUP_MAGIC:
        raise Invalid("this is not a backup of a world", field="stream")
    version = _START.unpack(data)[1]
    if version != BACKUP_VERSION:
        raise Invalid(f"backup of version {version}, this program reads {BACKUP_VERSION}", field="stream")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    if size > _MAX_CHUNK_BYTES:
        raise Damaged(f"backup of the world: a chunk of {size} bytes")
    parts: list[bytes] = []
    while size:
        part = stream.read(size)
        if not part:
            raise Damaged("backup of the world: it ends too early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _renumbered(records: list[bytes], seq: int, first: bool) -> Iterator[bytes]:
    head, rows = parse(records)
    if first:
        if head is None:
            raise ValueError("it does not begin with a head")
        yield b"H" + msgspec.json.encode(msgspec.structs.replace(head, seq=seq))
    for key, row in rows:
        text = row[8:]
        if text:  # without a history of its own, an entity that does not exist is nothing
            body = text[: text.rindex(_SEQ)]
            yield b"R" + _U16.pack(len(key)) + key + bytes(8) + body + b"%b%d}" % (_SEQ, seq)
