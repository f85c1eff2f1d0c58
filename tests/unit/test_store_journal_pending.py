from __future__ import annotations

from zlib import crc32

from appliance.store.journal_format import FLAG_GAP, GROUP_OVERHEAD, HEADER_SIZE, parse_head, verify_group
from appliance.store.journal_pending import Frame, Pending, Tail
from appliance.store.journal_types import GapReason


def body(word: bytes) -> bytes:
    return len(word).to_bytes(4, "big") + word


def test_appends_share_a_group_up_to_its_size_and_are_never_split() -> None:
    pending = Pending(100)
    first = pending.add(body(b"a" * 50), 1, 1)
    assert pending.add(body(b"b" * 40), 1, 2) is first
    second = pending.add(body(b"c" * 500), 1, 3)
    assert second is not first
    third = pending.add(body(b"d"), 1, 4)
    assert [f.first_seq for f in pending.take(10**9, 10**9)] == [1, 3, 4]
    assert (first.count, second.count, third.count) == (2, 1, 1)
    assert not pending


def test_bookkeeping_returns_to_nothing() -> None:
    pending = Pending(100)
    for seq in range(1, 30):
        pending.add(body(b"x" * seq), 1, seq)
    pending.gap(30, 5, GapReason.DROPPED)
    assert (pending.records, pending.size) == (29, sum(range(1, 30)) + 29 * 4 + 1)
    assert pending.weight > pending.size
    while pending:
        pending.take(0, 0)
    assert (pending.records, pending.size, pending.weight, pending.next_size()) == (0, 0, 0, 0)


def test_take_gives_at_least_one_and_no_more_than_fits() -> None:
    pending = Pending(10)
    for seq in (1, 2, 3):
        pending.add(body(b"x" * 96), 1, seq)
    size = pending.next_size()
    assert size == 100 + GROUP_OVERHEAD
    assert [f.first_seq for f in pending.take(2 * size, 10**9)] == [1, 2]
    assert [f.first_seq for f in pending.take(1, 1)] == [3]


def test_gaps_with_one_reason_merge_and_records_end_them() -> None:
    pending = Pending(1000)
    pending.gap(1, 5, GapReason.DROPPED)
    pending.gap(6, 5, GapReason.DROPPED)
    pending.gap(11, 1, GapReason.LOST)
    pending.add(body(b"x"), 1, 12)
    pending.gap(13, 2, GapReason.DROPPED)
    frames = pending.take(10**9, 10**9)
    assert [(f.first_seq, f.count, f.flags) for f in frames] == [
        (1, 10, FLAG_GAP),
        (11, 1, FLAG_GAP),
        (12, 1, 0),
        (13, 2, FLAG_GAP),
    ]


def test_clear_gives_everything_up() -> None:
    pending = Pending(10)
    pending.add(body(b"x" * 20), 1, 1)
    pending.add(body(b"y"), 1, 2)
    assert len(pending.clear()) == 2
    assert (bool(pending), pending.size, pending.records, pending.weight) == (False, 0, 0, 0)


def test_many_chunks_are_joined_and_the_bytes_stay_the_same() -> None:
    few, many = Frame(1), Frame(1)
    whole = b"".join(body(b"%d" % i) for i in range(1000))
    few.add(whole, 1000)
    for i in range(1000):
        many.add(body(b"%d" % i), 1)
    tail = Tail(1, 1, run_s=0)
    one, other = (b"".join(f.buffers(HEADER_SIZE, 0, 1, 2, tail.stem)) for f in (few, many))
    assert one == other
    assert len(many.buffers(HEADER_SIZE, 0, 1, 2, tail.stem)) == 3
    assert many.crc == crc32(whole)
    head = parse_head(one, HEADER_SIZE)
    assert head is not None
    assert verify_group(one, head, tail.stem) is not None


def test_a_tail_that_failed_ends_where_it_was_durable() -> None:
    tail = Tail(1, 10, run_s=0)
    assert not tail.dirty
    tail.offset, tail.last_seq = 500, 20
    assert tail.dirty
    tail.distrust()
    assert (tail.offset, tail.last_seq, tail.dirty) == (HEADER_SIZE, 9, False)
