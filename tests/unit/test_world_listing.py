"""Listing region and overlay as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.world.listing import Listing, common_prefix
from appliance.world.overlay import DELETE, NOTE, SET, Overlay
from appliance.world.view import WorldView


@pytest.mark.parametrize(
    ("prefix", "namespace", "found"),
    [
        (None, None, ""),
        ("a", None, "a"),
        (None, "ns", "ns/"),
        (None, "", "/"),
        ("n", "ns", "ns/"),
        ("ns/x", "ns", "ns/x"),
        ("other", "ns", None),
        ("", "ns", "ns/"),
    ],
)
def test_two_filters_are_one_prefix(prefix, namespace, found):
    """EP-30, AT-IN-5."""
    assert common_prefix(prefix, namespace) == found


@pytest.fixture
def view(tmp_path):
    with Environment(WORLD, tmp_path, (WORLD_REGION,)) as env:
        view = WorldView(env, 1 << 20)
        view.reset("x")
        view.finish(0)
        yield view


def all_ids(listing, limit):
    found = []
    while page := listing.rows(limit):
        assert len(page) <= limit
        found += [one for one, _ in page]
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_region_and_overlay_are_merged_in_order(view, limit):
    overlay = Overlay()
    names = [f"{number:03d}" for number in range(60)]
    changes = [(seq, one, {"p": 1}, SET, False, 9) for seq, one in enumerate(names[::2], 1)]
    overlay.take(changes, 0)
    overlay.front_seq = len(changes)
    overlay.swap()
    list(view.project(overlay))
    overlay.take([(100 + n, one, {"p": 2}, SET, n % 2 == 0, 9) for n, one in enumerate(names[:40])], 0)
    overlay.swap()
    overlay.take([(200, "000", None, DELETE, True, 9), (201, "nothing", None, NOTE, False, 9)], 0)
    expected = sorted({*names[::2], *names[:40]} - {"000"})
    assert all_ids(Listing(view, overlay, ""), limit) == expected
    assert all_ids(Listing(view, overlay, "", "009"), limit) == [one for one in expected if one > "009"]
    assert all_ids(Listing(view, overlay, "01"), limit) == [one for one in expected if one.startswith("01")]
    assert all_ids(Listing(view, overlay, None), limit) == []


def test_many_rows_of_the_dead_do_not_end_a_listing(view):
    overlay = Overlay()
    changes = [(n + 1, f"{n:04d}", None, NOTE, False, 9) for n in range(500)]
    overlay.take([*changes, (501, "x", {"p": 1}, SET, False, 9)], 0)
    overlay.front_seq = 501
    overlay.swap()
    list(view.project(overlay))
    assert all_ids(Listing(view, overlay, ""), 2) == ["x"]


@given(st.text(max_size=3), st.one_of(st.none(), st.text(max_size=3)), st.text(max_size=6))
def test_the_prefix_says_the_same_as_the_filters(prefix, namespace, one):
    both = one.startswith(prefix) and (namespace is None or one.startswith(f"{namespace}/"))
    joint = common_prefix(prefix, namespace)
    assert (joint is not None and one.startswith(joint)) == both


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused(view, limit):
    with pytest.raises(ValueError, match="at least one"):
        Listing(view, Overlay(), "").page(limit)
