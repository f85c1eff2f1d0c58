"""Base images of state journals: the whole state after record ``upto_seq``, as records in one file.

An image counts only when it was written to a temporary file, synced, read back whole and renamed; the
journal trims behind it after that and not before. The format is that of a segment (groups of records numbered
from 1, each with its checksum) closed by a clean mark, so a cut or flipped image is noticed at any byte.
Blocking: run it in a worker thread or another process, never on the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from appliance.store.journal_format import (
    FLAG_CLEAN,
    FLAG_MARK,
    GROUP_OVERHEAD,
    HEADER_SIZE,
    Group,
    SegmentHeader,
    join_records,
    pack_header,
    parse_head,
    unpack_header,
    verify_group,
)
from appliance.store.journal_pending import Frame
from appliance.store.journal_scan import Hole, Scan, Window
from appliance.store.journal_types import BaseInfo, Damage
from appliance.system.disk import Disk
from appliance.wire.errors import Damaged

__all__ = ["base_name", "find_bases", "read_base", "verify_base", "write_base"]

_PREFIX, _SUFFIX, _TEMP = "base-", ".img", ".img-tmp"
_GROUP_BYTES = 256 << 10
_KIND = 2


def base_name(upto_seq: int) -> str:
    """File name of the image of the state after record ``upto_seq``."""
    return f"{_PREFIX}{upto_seq:020d}{_SUFFIX}"


def _stem(name: str) -> bytes:
    return name[: -len(_SUFFIX)].encode()


def _batches(records: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record)
        if size >= _GROUP_BYTES:
            yield join_records(batch)
            batch, size = [], 0
    if batch:
        yield join_records(batch)


def write_base(
    disk: Disk, directory: Path, journal_id: bytes, upto_seq: int, records: Iterable[bytes], wall_ms: int
) -> BaseInfo:
    """Write, sync, verify and publish an image.

    Args:
        disk: where to write.
        directory: of the journal.
        journal_id: identity of the journal.
        upto_seq: the last record whose effect the image contains.
        records: the state, in whatever encoding the owner replays; any number, consumed once.
        wall_ms: stamp for display.

    Raises:
        Damaged: the image does not read back as it was written.
        OSError: from the disk; no image was published then, and the older ones stay.
    """
    name = base_name(upto_seq)
    temp = directory / (name[: -len(_SUFFIX)] + _TEMP)
    with suppress(FileNotFoundError):
        disk.unlink(temp)
    fd = disk.create(temp)
    try:
        info = _fill(disk, fd, name, journal_id, upto_seq, records, wall_ms)
        disk.sync(fd)
        disk.forget(fd)
        if _check(disk, fd, info) != info.count:
            raise Damaged(f"base image {directory / name} does not read back as it was written")
        disk.rename(temp, directory / name)
        disk.sync_dir(directory)
    except BaseException:
        with suppress(OSError):
            disk.unlink(temp)
        raise
    finally:
        disk.close(fd)
    return info


def _fill(
    disk: Disk, fd: int, name: str, journal_id: bytes, upto: int, records: Iterable[bytes], wall_ms: int
) -> BaseInfo:
    header = SegmentHeader(
        index=0,
        first_seq=upto,
        journal_id=journal_id,
        prev_index=0,
        prev_end=0,
        wall_ms=wall_ms,
        run_s=0,
        kind=_KIND,
    )
    offset = disk.pwrite(fd, [pack_header(header)], 0, sync=False)
    count = 0
    stem = _stem(name)
    for body, number in _batches(records):
        frame = Frame(count + 1)
        frame.add(body, number)
        offset += disk.pwrite(fd, frame.buffers(offset, 0, wall_ms, 0, stem), offset, sync=False)
        count += number
    end = Frame(count + 1)
    end.flags = FLAG_MARK | FLAG_CLEAN
    offset += disk.pwrite(fd, end.buffers(offset, 0, wall_ms, 0, stem), offset, sync=False)
    return BaseInfo(name, upto, count, offset)


def _groups(disk: Disk, fd: int, info: BaseInfo) -> Iterator[Group]:
    """Verified groups in order; ends early (without its mark) when anything is not as written."""
    header = unpack_header(disk.pread(fd, HEADER_SIZE, 0))
    if header is None or header.first_seq != info.upto_seq or disk.size(fd) != info.size:
        return
    scan = Scan(Window(disk, fd), _stem(info.file), HEADER_SIZE, info.size)
    expected = 1
    while (item := scan.next()) is not None:
        if isinstance(item, Hole) or item.first_seq != expected:
            return
        expected = item.last_seq + 1
        yield item
    mark = scan.mark
    if mark is not None and mark.flags & FLAG_CLEAN and mark.first_seq == expected and mark.end == info.size:
        yield mark


def _check(disk: Disk, fd: int, info: BaseInfo) -> int:
    """Number of records when the image is whole, else -1."""
    count = 0
    for group in _groups(disk, fd, info):
        if group.flags & FLAG_MARK:
            return count
        count += len(group.records())
    return -1


def verify_base(disk: Disk, directory: Path, info: BaseInfo) -> bool:
    """Whether every byte of the image is as written."""
    fd = disk.open_read(directory / info.file)
    try:
        return _check(disk, fd, info) == info.count
    finally:
        disk.close(fd)


def read_base(disk: Disk, directory: Path, info: BaseInfo) -> Iterator[list[bytes]]:
    """The records of an image, in lists of some thousand.

    Raises:
        Damaged: some byte is not as written; what was yielded before must not be used.
        OSError: from the disk.
    """
    fd = disk.open_read(directory / info.file)
    try:
        for group in _groups(disk, fd, info):
            if group.flags & FLAG_MARK:
                return
            yield group.records()
    finally:
        disk.close(fd)
    raise Damaged(f"base image {directory / info.file} fails its check")


def find_bases(disk: Disk, directory: Path) -> tuple[list[BaseInfo], list[Damage], list[str]]:
    """Images in ``directory``, oldest first, checked at both ends; damaged ones; leftover temporary files."""
    found, damages, temps = [], [], []
    for name in disk.names(directory):
        number = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if name.endswith(_TEMP):
            temps.append(name)
        elif name == f"{_PREFIX}{number}{_SUFFIX}" and number.isascii() and number.isdigit():
            info = _probe(disk, directory, name, int(number))
            if info is None:
                damages.append(Damage(str(directory / name), 0, 0, "base image"))
            else:
                found.append(info)
    return found, damages, temps


def _probe(disk: Disk, directory: Path, name: str, upto_seq: int) -> BaseInfo | None:
    fd = disk.open_read(directory / name)
    try:
        size = disk.size(fd)
        header = unpack_header(disk.pread(fd, HEADER_SIZE, 0))
        at = size - GROUP_OVERHEAD
        end = disk.pread(fd, GROUP_OVERHEAD, at) if at >= HEADER_SIZE else b""
    finally:
        disk.close(fd)
    head = parse_head(end, at)
    mark = verify_group(end, head, _stem(name)) if head is not None else None
    if header is None or header.first_seq != upto_seq or mark is None or not mark.flags & FLAG_CLEAN:
        return None
    return BaseInfo(name, upto_seq, mark.first_seq - 1, size)
