from __future__ import annotations

from appliance.store.journal_format import HEADER_SIZE
from appliance.store.journal_pending import Tail
from appliance.store.journal_segment import Segment
from appliance.store.journal_shelf import Shelf, Start
from appliance.store.journal_types import JournalSpec

SEALED = tuple(Segment(i, i * 10, i * 10 + 9, 1000, 0) for i in (1, 2, 3))


def shelf(tail: Tail | None, **kw: object) -> Shelf:
    start = Start(
        journal_id=b"i" * 16,
        next_seq=40,
        sealed=SEALED,
        last_index=4,
        prev=(3, 999),
        run_s=0,
        tail=tail,
    )
    return Shelf(JournalSpec(name="s", **kw), start)  # type: ignore[arg-type]


def active() -> Tail:
    tail = Tail(4, 40, run_s=0)
    tail.offset, tail.last_seq, tail.synced, tail.synced_seq = 800, 60, 500, 50
    return tail


def test_readers_see_what_is_written_or_only_what_is_synced() -> None:
    it = shelf(active())
    assert it.snapshot("written").segments[-1] == Segment(4, 40, 60, 800, 0)
    assert it.snapshot("synced").segments[-1] == Segment(4, 40, 50, 500, 0)
    assert it.snapshot("synced") is it.snapshot("synced")
    assert it.tail is not None
    it.tail.synced, it.tail.synced_seq = 800, 60
    it.changed()
    assert it.snapshot("synced").last_seq == 60
    assert it.trusted_end == (4, 800)


def test_without_an_active_segment_the_sealed_ones_are_all() -> None:
    it = shelf(None)
    assert it.snapshot("synced").segments == SEALED
    assert it.trusted_end == (3, 999)


def test_a_new_segment_seals_the_one_before() -> None:
    it = shelf(active())
    it.install(Tail(5, 61, run_s=0))
    assert it.snapshot("written").segments[-2:] == (
        Segment(4, 40, 60, 800, 0),
        Segment(5, 61, 60, HEADER_SIZE, 0),
    )


def test_trimmed_files_are_handed_out_once_in_order() -> None:
    it = shelf(active())
    it.discard(["old.img"])
    assert it.trim_behind(29) == 2
    assert it.has_trimmed
    assert it.take_trimmed() == ["old.img", SEALED[0].name, SEALED[1].name]
    assert (it.take_trimmed(), it.has_trimmed, it.trims, it.trimmed) == ([], False, 1, 2)
    it.trim_behind(39)
    it.put_back([SEALED[1].name])
    assert it.take_trimmed() == [SEALED[1].name, SEALED[2].name]
    assert it.snapshot("written").first_seq == 40


def test_only_logs_expire() -> None:
    log, state = shelf(active(), keep_bytes=1900), shelf(active(), kind="state")
    log.expire(0)
    state.expire(0)
    assert (log.trimmed, state.trimmed) == (2, 0)
    bare = shelf(None, keep_bytes=1)
    bare.expire(0)
    assert bare.trimmed == 0
