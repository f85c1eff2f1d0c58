from __future__ import annotations

import pytest

from appliance.store.journal_examine import Verdict, examine
from appliance.store.journal_format import FLAG_CLEAN, FLAG_MARK, HEADER_SIZE, SECTOR
from tests.unit.test_store_journal_scan import Segment


def three() -> Segment:
    segment = Segment()
    for word in (b"one", b"two", b"three"):
        segment.group(word * 100, word)
    return segment


def verdict(segment: Segment) -> Verdict:
    return examine(segment.window(), segment.tail.stem, 1, len(segment.data))


def test_a_sound_segment_goes_on_at_its_end() -> None:
    segment = three()
    found = verdict(segment)
    assert (found.end, found.next_seq, found.file_end) == (len(segment.data), 7, len(segment.data))
    assert (found.cut, found.damaged, found.rotten_tail, found.clean, found.mark_end) == (
        None,
        (),
        False,
        False,
        0,
    )
    assert (found.groups, found.run_s) == (3, 2)


def test_only_what_a_later_write_proves_is_known_to_be_synced() -> None:
    segment = three()
    assert (verdict(segment).synced_seq, verdict(segment).synced) == (4, segment.groups[1][1])
    segment.mark()
    assert (verdict(segment).synced_seq, verdict(segment).synced) == (6, segment.groups[2][1])


def test_an_empty_segment() -> None:
    found = verdict(Segment())
    assert (found.end, found.next_seq, found.groups, found.cut) == (HEADER_SIZE, 1, 0, None)


def test_zeros_written_ahead_belong_to_the_file_and_not_to_the_groups() -> None:
    segment = three()
    end = len(segment.data)
    segment.data += bytes(5000)
    found = verdict(segment)
    assert (found.end, found.file_end, found.cut) == (end, end + 5000, None)


def test_a_mark_says_where_it_ends_and_whether_the_stop_was_clean() -> None:
    segment = three()
    end = len(segment.data)
    segment.mark()
    found = verdict(segment)
    assert (found.end, found.next_seq, found.mark_end, found.clean) == (end, 7, len(segment.data), False)
    clean = three()
    clean.group(flags=FLAG_MARK | FLAG_CLEAN, at=-(-end // SECTOR) * SECTOR)
    assert verdict(clean).clean


def test_a_torn_last_group_is_cut() -> None:
    segment = three()
    start, end = segment.groups[2]
    del segment.data[end - 7 :]
    found = verdict(segment)
    assert (found.cut, found.end, found.next_seq, found.damaged) == ((start, end - 7), start, 5, ())


def test_a_flipped_last_group_is_damage_and_its_numbers_are_not_reused() -> None:
    segment = three()
    start, end = segment.groups[2]
    segment.data[start + 70] ^= 1
    found = verdict(segment)
    assert (found.cut, found.next_seq, found.damaged, found.rotten_tail) == (None, 7, ((start, end),), True)
    assert found.end == end


def test_a_flip_before_a_mark_is_damage_and_writing_goes_on_behind_the_mark() -> None:
    segment = three()
    start, end = segment.groups[2]
    segment.mark()
    segment.data[start + 70] ^= 1
    found = verdict(segment)
    assert (found.next_seq, found.end, found.rotten_tail, found.cut) == (7, end, False, None)
    assert found.damaged[0][0] == start


@pytest.mark.parametrize("which", [0, 1])
def test_a_hole_before_synced_groups_is_damage_whatever_it_holds(which: int) -> None:
    segment = three()
    start, end = segment.groups[which]
    segment.data[start:end] = bytes(end - start)
    segment.data[start + 9] = 1  # even if it looks like nothing was ever written
    found = verdict(segment)
    assert (found.damaged, found.cut, found.next_seq) == (((start, end),), None, 7)


def test_groups_behind_a_torn_one_go_too_when_nothing_says_they_were_synced() -> None:
    segment = Segment()
    segment.group(b"a" * 600)
    synced = segment.tail.synced
    segment.group(b"b" * 2000)
    segment.tail.synced = synced
    segment.group(b"c" * 600)
    start, _ = segment.groups[1]
    segment.data[1024:1536] = bytes(512)
    found = verdict(segment)
    assert (found.cut, found.next_seq, found.end, found.groups) == ((start, len(segment.data)), 2, start, 1)


def test_bytes_behind_a_mark_are_cut() -> None:
    segment = three()
    segment.mark()
    end = len(segment.data)
    segment.data += bytes(30) + b"stray"
    found = verdict(segment)
    assert (found.cut, found.file_end, found.next_seq) == ((end, end + 35), end, 7)


def test_stray_bytes_in_the_zeros_are_noticed_and_cut() -> None:
    segment = three()
    end = len(segment.data)
    segment.data += bytes(3000)
    segment.data[end + 1500] = 4
    found = verdict(segment)
    assert (found.cut, found.next_seq) == ((end, end + 3000), 7)


def test_hints_lead_to_groups() -> None:
    segment = Segment()
    for _ in range(20):
        segment.group(b"x" * 30_000)
    hints = verdict(segment).hints
    assert len(hints) > 3
    assert all(
        (offset, True) in [(s, seq == i + 1) for i, (s, _) in enumerate(segment.groups)]
        for seq, offset in hints
    )
