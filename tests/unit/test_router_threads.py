from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.router.threads import STEP, ThreadCounters, thread_key
from tests.router_kit import Bounds


def test_a_new_thread_counts_from_one() -> None:
    counters = ThreadCounters(Bounds())
    assert [counters.next("a"), counters.next("a"), counters.next("b"), counters.next("a")] == [1, 2, 1, 3]


def test_a_block_is_reserved_with_its_first_number_and_written_once() -> None:
    bounds = Bounds()
    counters = ThreadCounters(bounds)
    for _ in range(STEP):
        counters.next("a")
    counters.flush()
    counters.flush()
    assert bounds.writes == [[(thread_key("a"), STEP)]]
    assert counters.next("a") == STEP + 1
    counters.flush()
    assert bounds.writes[1:] == [[(thread_key("a"), 2 * STEP)]]
    assert counters.statistics().reservations == 2


def test_after_a_crash_a_thread_goes_on_above_its_bound() -> None:
    bounds = Bounds()
    before = ThreadCounters(bounds)
    given_out = [before.next("a") for _ in range(5)]
    before.flush()
    after = ThreadCounters(bounds)
    assert after.next("a") == STEP + 1 > max(given_out)


def test_the_key_has_sixteen_bytes_whatever_the_id() -> None:
    for thread_id in ("", "a", "a" * 100_000, "\ud800", "\0"):
        assert len(thread_key(thread_id)) == 16
    assert thread_key("a") != thread_key("b")


def test_long_ids_do_not_fill_the_memory() -> None:
    counters = ThreadCounters(Bounds())
    long = "thread:" + "x" * 100_000
    assert [counters.next(long), counters.next(long)] == [1, 2]
    assert counters.next(long + "y") == 1
    assert all(len(kept) <= 256 for kept in counters.young)


def test_a_forgotten_thread_never_repeats_a_number() -> None:
    bounds = Bounds()
    counters = ThreadCounters(bounds, capacity=4)
    seen = [counters.next("a")]
    for name in "bcdefgh":
        counters.next(name)
    counters.flush()
    seen.append(counters.next("a"))
    assert seen == [1, STEP + 1]


def test_a_thread_forgotten_before_its_reservation_is_written_is_remembered() -> None:
    counters = ThreadCounters(Bounds(), capacity=2)
    first = counters.next("a")
    for name in "bcd":
        counters.next(name)
    assert counters.next("a") > first


def test_a_thread_in_use_stays_in_memory() -> None:
    counters = ThreadCounters(Bounds(), capacity=8)
    for turn in range(1, 100):
        assert counters.next("busy") == turn
        counters.next(f"other {turn}")
    assert counters.statistics().cached <= 8


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_the_smallest_memory_still_counts_upwards(capacity: int) -> None:
    counters = ThreadCounters(Bounds(), capacity=capacity)
    seen = [counters.next(name) for name in "abab" * 3]
    assert len({(name, number) for name, number in zip("abab" * 3, seen, strict=True)}) == 12


@given(
    st.lists(
        st.sampled_from(["a", "b", "c", "d", "x" * 300]) | st.sampled_from([None, "crash", "clean"]),
        max_size=60,
    ),
    st.integers(1, 4),
)
def test_never_a_number_twice_over_flushes_crashes_and_forgetting(
    acts: list[str | None], capacity: int
) -> None:
    """What leaves does so after a flush; a crash forgets what was not flushed, and that never left."""
    bounds = Bounds()
    counters = ThreadCounters(bounds, capacity=capacity)
    left: list[tuple[str, int]] = []
    turn: list[tuple[str, int]] = []
    for act in acts:
        if act is None or act == "clean":
            counters.flush()
            left += turn
            turn = []
        elif act == "crash":
            turn = []
            counters = ThreadCounters(bounds, capacity=capacity)
        else:
            turn.append((act, counters.next(act)))
    assert len(set(left + turn)) == len(left + turn)
    for name in {name for name, _ in left}:
        numbers = [number for one, number in left if one == name]
        assert numbers == sorted(numbers)
