from __future__ import annotations

from pathlib import Path

from appliance.store.journal_format import (
    FLAG_CLEAN,
    FLAG_MARK,
    HEAD_SIZE,
    HEADER_SIZE,
    SECTOR,
    parse_head,
    unpack_header,
)
from appliance.store.journal_pending import Frame, Tail
from appliance.store.journal_place import Placer
from appliance.store.journal_types import JournalSpec

ID = b"i" * 16


def placer(**kw: object) -> Placer:
    spec = JournalSpec(name="p", **kw)  # type: ignore[arg-type]
    return Placer(Path("/j"), spec, ID, 4, lambda: -7)


def frame(seq: int, size: int = 10) -> Frame:
    it = Frame(seq)
    it.add(b"\0\0\0" + bytes([size]) + b"x" * size, 1)
    return it


def joined(buffers: object) -> bytes:
    return b"".join(buffers)  # type: ignore[call-overload, no-any-return]


def test_groups_follow_each_other_and_tell_what_was_synced() -> None:
    tail = Tail(3, 1, run_s=0)
    tail.offset, tail.synced = 500, 300
    job = placer(zero_ahead_bytes=0).groups(tail, [frame(1), frame(2)], 9, sync=True)
    data = joined(job.buffers)
    first = parse_head(data[:HEAD_SIZE], 500)
    assert first is not None
    second = parse_head(data[first.size : first.size + HEAD_SIZE], 500 + first.size)
    assert second is not None
    assert (first.synced, second.synced, second.first_seq, second.run_s) == (300, 300, 2, 9)
    assert first.wall_ms == 0  # a clock before 1970
    assert (job.end, job.last_seq, job.zeroed) == (500 + len(data), 2, 500 + len(data))


def test_zeros_are_written_ahead_only_when_a_small_synced_write_makes_the_file_longer() -> None:
    tail = Tail(1, 1, run_s=0)
    it = placer(zero_ahead_bytes=4096)
    job = it.groups(tail, [frame(1)], 0, sync=True)
    assert job.zeroed == job.end + 4096
    assert len(joined(job.buffers)) == job.zeroed - tail.offset
    tail.zeroed = 100_000
    assert len(joined(it.groups(tail, [frame(1)], 0, sync=True).buffers)) < 200
    tail.zeroed = tail.offset
    assert it.groups(tail, [frame(1)], 0, sync=False).zeroed < 300
    assert it.groups(tail, [frame(1, 200), frame(2, 200)], 0, sync=True).zeroed < 700
    tail.offset = placer().groups(tail, [frame(1)], 0, sync=True).end
    small = placer(zero_ahead_bytes=65536, segment_bytes=4096)
    assert small.groups(tail, [frame(2)], 0, sync=True).zeroed == 4096


def test_a_new_segment_names_its_predecessor_and_its_kind() -> None:
    old = Tail(4, 1, run_s=0)
    old.fd, old.offset, old.zeroed = 77, 900, 2000
    job = placer(kind="state").segment([frame(5)], 5, 12, old=old, prev=(4, 900), finish=True, probe=100)
    header = unpack_header(joined(job.buffers))
    assert header is not None
    assert (header.index, header.first_seq, header.prev_index, header.prev_end) == (5, 5, 4, 900)
    assert (header.kind, header.run_s, header.journal_id) == (1, 12, ID)
    assert job.roll is not None
    assert (job.roll.old_fd, job.roll.old_end, job.roll.cut, job.roll.finish) == (77, 900, True, True)
    assert (job.zeroed - job.end, job.last_seq, job.sync) == (100, 5, True)
    assert parse_head(joined(job.buffers)[HEADER_SIZE:][:HEAD_SIZE], HEADER_SIZE) is not None


def test_every_attempt_has_an_index_of_its_own() -> None:
    it = placer()
    jobs = [it.segment([], 1, 0, old=None, prev=(0, 0), finish=False) for _ in range(3)]
    assert [job.tail.index for job in jobs] == [5, 6, 7]
    assert jobs[0].last_seq == 0


def test_a_mark_shares_no_sector_with_a_group() -> None:
    it = placer()
    for offset in (HEADER_SIZE, 511, 512, 513, 1000):
        tail = Tail(1, 1, run_s=0)
        tail.offset = tail.synced = offset
        job = it.mark(tail, 0)
        assert job.offset % SECTOR == 0
        assert 0 <= job.offset - offset < SECTOR
        head = parse_head(joined(job.buffers)[:HEAD_SIZE], job.offset)
        assert head is not None
        assert (head.flags, head.count, head.first_seq, head.synced) == (FLAG_MARK, 0, 1, offset)
        assert (job.end, job.mark_end, job.sync, job.frames) == (offset, job.offset + head.size, False, ())
        close = it.close(tail, 0)
        head = parse_head(joined(close.mark)[:HEAD_SIZE], close.mark_offset)
        assert head is not None
        assert head.flags == FLAG_MARK | FLAG_CLEAN


def test_a_group_that_ends_before_an_old_mark_wipes_it() -> None:
    tail = Tail(1, 1, run_s=0)
    tail.offset, tail.mark_end, tail.zeroed = 100, 576, 576
    job = placer(zero_ahead_bytes=0).groups(tail, [frame(1)], 0, sync=False)
    assert (len(joined(job.buffers)), job.zeroed) == (476, 576)
    assert joined(job.buffers)[job.end - 100 :].strip(b"\0") == b""
