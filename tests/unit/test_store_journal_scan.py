from __future__ import annotations

from pathlib import Path

from appliance.store.journal_format import FLAG_MARK, HEADER_SIZE, SECTOR, TAIL_SIZE, Group, join_records
from appliance.store.journal_pending import Frame, Tail
from appliance.store.journal_scan import Hole, Scan, Window, looks_complete
from appliance.testing.faultdisk import CrashDisk

PATH = Path("/s")


class Segment:
    """Bytes of a segment under construction."""

    def __init__(self) -> None:
        self.data = bytearray(b"h" * HEADER_SIZE)
        self.tail = Tail(1, 1, run_s=0)
        self.groups: list[tuple[int, int]] = []

    def group(self, *records: bytes, flags: int = 0, at: int | None = None) -> None:
        body, count = join_records(records)
        frame = Frame(self.tail.last_seq + 1)
        if records:
            frame.add(body, count)
        frame.flags = flags
        start = len(self.data) if at is None else at
        self.data += bytes(start - len(self.data))
        self.data += b"".join(frame.buffers(start, self.tail.synced, 1, 2, self.tail.stem))
        if not flags:
            self.tail.last_seq += count
            self.tail.synced = len(self.data)
            self.groups.append((start, len(self.data)))

    def mark(self) -> None:
        self.group(flags=FLAG_MARK, at=-(-len(self.data) // SECTOR) * SECTOR)

    def window(self) -> Window:
        disk = CrashDisk({PATH: bytes(self.data)})
        return Window(disk, disk.open_read(PATH))

    def scan(self) -> Scan:
        return Scan(self.window(), self.tail.stem, HEADER_SIZE, len(self.data))

    def complete(self, start: int, end: int, expected: int) -> int | None:
        return looks_complete(self.window(), self.tail.stem, start, end, expected)


def three() -> Segment:
    segment = Segment()
    for word in (b"one", b"two", b"three"):
        segment.group(word * 100, word)
    return segment


def test_groups_come_in_order_then_the_end() -> None:
    segment = three()
    scan = segment.scan()
    found = [scan.next() for _ in range(3)]
    assert [g.first_seq for g in found if isinstance(g, Group)] == [1, 3, 5]
    assert scan.next() is None
    assert scan.next() is None


def test_zeros_behind_the_last_group_are_the_end() -> None:
    segment = three()
    segment.data += bytes(1000)
    scan = segment.scan()
    for _ in range(3):
        assert isinstance(scan.next(), Group)
    assert scan.next() is None
    assert scan.zeros_from(scan.offset)


def test_a_hole_ends_where_the_next_group_verifies() -> None:
    segment = three()
    start, end = segment.groups[1]
    segment.data[start + 60] ^= 1
    scan = segment.scan()
    scan.next()
    assert scan.next() == Hole(start, end, followed=True)
    group = scan.next()
    assert isinstance(group, Group)
    assert group.first_seq == 5


def test_a_trailing_hole_stays_until_more_comes() -> None:
    segment = three()
    start, end = segment.groups[2]
    del segment.data[end - 1 :]
    scan = segment.scan()
    scan.next()
    scan.next()
    assert scan.next() == Hole(start, end - 1, followed=False)
    assert scan.next() == Hole(start, end - 1, followed=False)


def test_a_group_from_elsewhere_in_a_record_is_not_taken() -> None:
    segment = Segment()
    segment.group(b"first")
    start, end = segment.groups[0]
    copied = bytes(segment.data[start:end])
    segment.group(b"x" * 50 + copied + b"y" * 50)
    hole_start, hole_end = segment.groups[1]
    segment.group(b"last")
    segment.data[hole_start] ^= 1
    scan = segment.scan()
    scan.next()
    assert scan.next() == Hole(hole_start, hole_end, followed=True)


def test_older_numbers_behind_newer_ones_are_not_taken() -> None:
    segment = three()
    scan = Scan(segment.window(), segment.tail.stem, HEADER_SIZE, len(segment.data), first_seq=3)
    item = scan.next()
    assert isinstance(item, Hole)
    assert item.end == segment.groups[1][0]


def test_a_mark_stands_at_the_next_sector_and_ends_the_scan() -> None:
    segment = three()
    end = len(segment.data)
    segment.mark()
    scan = segment.scan()
    for _ in range(3):
        scan.next()
    assert scan.next() is None
    assert scan.mark is not None
    assert (scan.mark.synced, scan.mark.first_seq, scan.mark.offset % SECTOR) == (end, 7, 0)


def test_a_mark_behind_a_hole_is_found() -> None:
    segment = three()
    start, _ = segment.groups[2]
    segment.mark()
    segment.data[start + 3] ^= 4
    scan = segment.scan()
    scan.next()
    scan.next()
    hole = scan.next()
    assert isinstance(hole, Hole)
    assert hole.followed
    assert scan.next() is None
    assert scan.mark is not None


def test_a_growing_segment_is_read_on() -> None:
    segment = three()
    disk = CrashDisk({PATH: bytes(segment.data[: segment.groups[1][1]])})
    window = Window(disk, disk.open_write(PATH))
    scan = Scan(window, segment.tail.stem, HEADER_SIZE, segment.groups[1][1])
    assert [isinstance(scan.next(), Group), isinstance(scan.next(), Group), scan.next()] == [True, True, None]
    disk.pwrite(disk.open_write(PATH), [segment.data], 0, sync=False)
    window.drop()
    scan.end = len(segment.data)
    assert isinstance(scan.next(), Group)


def test_a_group_larger_than_a_block() -> None:
    segment = Segment()
    segment.group(b"x" * 700_000, b"y")
    segment.group(b"z")
    scan = segment.scan()
    big = scan.next()
    assert isinstance(big, Group)
    assert len(big.records()[0]) == 700_000
    assert isinstance(scan.next(), Group)


def test_damage_larger_than_a_block_is_stepped_over() -> None:
    segment = Segment()
    segment.group(b"x" * 700_000)
    segment.group(b"z")
    segment.data[HEADER_SIZE + 400_000] ^= 1
    scan = segment.scan()
    assert scan.next() == Hole(*segment.groups[0], followed=True)


# -- flipped or torn -------------------------------------------------------------------------------------


def test_any_flipped_bit_of_a_whole_group_looks_complete() -> None:
    segment = three()
    start, end = segment.groups[2]
    for bit in range((end - start) * 8):
        segment.data[start + bit // 8] ^= 1 << bit % 8
        assert segment.complete(start, len(segment.data), 5) == 6, bit
        segment.data[start + bit // 8] ^= 1 << bit % 8


def test_any_cut_looks_torn() -> None:
    segment = three()
    start, end = segment.groups[2]
    for cut in range(start, end):
        whole, segment.data = segment.data, segment.data[:cut]
        assert segment.complete(start, cut, 5) is None, cut
        segment.data += bytes(end + 500 - cut)
        assert segment.complete(start, end + 500, 5) is None, cut
        segment.data = whole


def test_any_missing_sector_looks_torn() -> None:
    segment = Segment()
    segment.group(b"a" * 300)
    segment.group(b"b" * 3000)
    start, end = segment.groups[1]
    for sector in range(start // SECTOR, end // SECTOR + 1):
        whole = bytes(segment.data)
        first, last = max(sector * SECTOR, start), min((sector + 1) * SECTOR, end)
        segment.data[first:last] = bytes(last - first)
        assert segment.complete(start, end, 2) is None, sector
        segment.data[:] = whole


def test_a_sector_that_still_holds_the_old_mark_looks_torn() -> None:
    segment = Segment()
    segment.group(b"a" * 100)
    marked = Segment()
    marked.group(b"a" * 100)
    marked.mark()
    segment.group(b"b" * 2000)
    start, end = segment.groups[1]
    segment.data[SECTOR : 2 * SECTOR] = marked.data[SECTOR:].ljust(SECTOR, b"\0")
    assert segment.complete(start, end, 2) is None


def test_stray_bytes_are_not_a_group() -> None:
    segment = three()
    end = len(segment.data)
    segment.data += bytes(40) + b"x" + bytes(100)
    assert segment.complete(end, len(segment.data), 7) is None
    segment.data += b"y" * 600
    assert segment.complete(end, len(segment.data), 7) is None


def test_head_and_tail_that_disagree_with_what_came_before_are_not_believed() -> None:
    segment = three()
    start, end = segment.groups[2]
    segment.data[start + 50] ^= 1
    assert segment.complete(start, end, 7) is None
    assert segment.complete(start, end, 5) == 6
    segment.data[end - TAIL_SIZE] ^= 0x80  # the tail tells an impossible number: the head decides
    assert segment.complete(start, end, 5) == 6
    segment.data[start] ^= 1  # now nothing is left to go by
    assert segment.complete(start, end, 5) is None
