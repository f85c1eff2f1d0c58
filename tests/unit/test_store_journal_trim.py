from __future__ import annotations

from appliance.store.journal_segment import Segment
from appliance.store.journal_trim import behind, expired, is_stale
from appliance.store.journal_types import JournalSpec

SEGMENTS = [
    Segment(i, i * 10 + 1, i * 10 + 10, 1000, run_s=i * 100) for i in range(5)
]  # records 1..50, made at 0, 100, 200, 300, 400 seconds of running time


def spec(**kw: float) -> JournalSpec:
    return JournalSpec(name="t", **kw)  # type: ignore[arg-type]


def dropped(journal: JournalSpec, *, tail_bytes: int = 500, run_s: int = 600) -> int:
    return expired(SEGMENTS, journal, tail_bytes=tail_bytes, tail_run_s=500, run_s=run_s)


def test_without_limits_nothing_goes() -> None:
    assert dropped(spec()) == 0


def test_bytes_count_the_active_segment_and_go_oldest_first() -> None:
    assert dropped(spec(keep_bytes=5500)) == 0
    assert dropped(spec(keep_bytes=5499)) == 1
    assert dropped(spec(keep_bytes=2500)) == 3
    assert dropped(spec(keep_bytes=1)) == 5


def test_a_segment_is_as_old_as_its_youngest_record_can_be() -> None:
    # segment 0 ended when segment 1 was made, at 100 s
    assert dropped(spec(keep_age_s=500), run_s=600) == 0
    assert dropped(spec(keep_age_s=499), run_s=600) == 1
    assert dropped(spec(keep_age_s=150), run_s=600) == 4
    assert dropped(spec(keep_age_s=50), run_s=600) == 5


def test_both_limits_together() -> None:
    assert dropped(spec(keep_bytes=3500, keep_age_s=499), run_s=600) == 2
    assert dropped(spec(keep_bytes=5000, keep_age_s=150), run_s=600) == 4


def test_an_active_segment_gets_stale_after_a_quarter_of_the_age() -> None:
    assert not is_stale(spec(), tail_run_s=0, run_s=10**9)
    assert not is_stale(spec(keep_age_s=400), tail_run_s=500, run_s=600)
    assert is_stale(spec(keep_age_s=400), tail_run_s=500, run_s=601)


def test_segments_behind_a_number() -> None:
    assert behind(SEGMENTS, 0) == 0
    assert behind(SEGMENTS, 9) == 0
    assert behind(SEGMENTS, 10) == 1
    assert behind(SEGMENTS, 35) == 3
    assert behind(SEGMENTS, 1000) == 5
    assert behind([], 10) == 0
