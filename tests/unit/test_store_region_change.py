from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.region_change import Change
from appliance.store.region_table import RegionRow

ROW = RegionRow(
    generation=7,
    schema=1,
    applied_seq=100,
    complete=True,
    writer_pid=1,
    started_at_ms=1,
    updated_at_ms=2,
    tables=(),
)


class Nowhere:
    def note_damage(self, reason: str) -> None: ...
    def begin(self, change: Change) -> None: ...
    def end(self, change: Change, value: BaseException | None) -> None: ...
    def change(
        self, *regions: str, applied_seq: int | None = None, quiet: bool = False, urgent: bool = False
    ):
        return Change(self, regions, applied_seq=applied_seq, quiet=quiet, urgent=urgent)


def after(
    *, touched: int = 0, seq: int | None = None, quiet: bool = False, owed: bool = False, kind: str = ""
) -> RegionRow:
    change = Nowhere().change("config", applied_seq=seq, quiet=quiet)
    change.touched = touched
    change.resets, change.completes = kind == "reset", kind == "complete"
    return change.next_row(ROW, owed=owed, now_ms=50)


def test_nothing_touched_is_the_same_row() -> None:
    assert after() is ROW
    assert after(seq=100) is ROW
    assert after(touched=3, quiet=True) is ROW
    assert after(owed=True, quiet=True) is ROW


@pytest.mark.parametrize(
    ("row", "generation", "seq", "complete"),
    [
        (after(touched=1), 8, 100, True),
        (after(touched=1, seq=101), 8, 101, True),
        (after(seq=101), 7, 101, True),
        (after(touched=1, seq=101, quiet=True), 7, 101, True),
        (after(owed=True), 8, 100, True),
        (after(kind="reset"), 8, 0, False),
        (after(kind="complete", seq=120), 8, 120, True),
    ],
)
def test_what_a_change_does_to_the_row(row: RegionRow, generation: int, seq: int, complete: bool) -> None:
    assert (row.generation, row.applied_seq, row.complete) == (generation, seq, complete)
    assert row.updated_at_ms == 50
    assert (row.schema, row.writer_pid, row.started_at_ms) == (1, 1, 1)


@given(
    st.integers(0, 3),
    st.none() | st.integers(100, 200),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "reset", "complete"]),
)
def test_a_generation_never_falls_and_rises_by_one(
    touched: int, seq: int | None, quiet: bool, owed: bool, kind: str
) -> None:
    row = after(touched=touched, seq=seq, quiet=quiet, owed=owed, kind=kind)
    assert row.generation - ROW.generation in (0, 1)
    if touched and not quiet:
        assert row.generation == 8
