"""Changing the route document: every result is valid and newer, or there is none (§4.2, §4.4 FIX)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.services.config_routes.book import (
    MAX_VERSION,
    RouteBook,
    RouteLimits,
    add_route,
    add_vpn,
    delete_route,
    delete_vpn,
    replace,
)
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound
from appliance.wire.names import MatchKind
from appliance.wire.routes import Route, RouteAction, RouteEntry, VpnEntry, VpnRule

LIMITS = RouteLimits()
NOW = 1_760_000_000_000
ROUTE = {"prefix": "AI.a", "action": "DROP"}
RULE = {"pattern": "AI.a", "vpn_id": 7}


def full_book():
    book = RouteBook()
    for number in range(256):
        book, _ = add_route(book, {"prefix": f"AI.n{number}", "action": "DROP"}, LIMITS, NOW)
        book, _ = add_vpn(book, {"pattern": f"AI.n{number}", "vpn_id": number}, LIMITS, NOW)
    return book


def test_a_hive_begins_with_version_1_and_empty_lists():
    assert RouteBook() == RouteBook(version=1, updated_at_ms=0, routes=(), vpns=())


def test_a_route_is_appended_as_written_and_in_force_with_the_reference_s_defaults():
    book, route = add_route(RouteBook(), ROUTE, LIMITS, NOW)
    assert route == RouteEntry(prefix="AI.a", action=RouteAction.DROP)
    assert route.in_force() == Route(
        prefix="AI.a",
        match_kind=MatchKind.PREFIX,
        action=RouteAction.DROP,
        next_hop_hive=None,
        metric=0,
        priority=100,
    )
    assert book == RouteBook(version=2, updated_at_ms=NOW, routes=(route,))
    book, second = add_route(book, {**ROUTE, "prefix": "AI"}, LIMITS, NOW + 1)
    assert book.routes == (route, second)
    assert (book.version, book.updated_at_ms) == (3, NOW + 1)


def test_a_rule_is_appended_likewise():
    book, rule = add_vpn(RouteBook(), RULE, LIMITS, NOW)
    assert rule == VpnEntry(pattern="AI.a", vpn_id=7)
    assert rule.in_force() == VpnRule(pattern="AI.a", match_kind=MatchKind.PREFIX, vpn_id=7, priority=100)
    assert book == RouteBook(version=2, updated_at_ms=NOW, vpns=(rule,))


def test_the_text_decides_what_a_duplicate_is():
    book, _ = add_route(RouteBook(), ROUTE, LIMITS, NOW)
    with pytest.raises(Conflict) as caught:
        add_route(book, {**ROUTE, "action": "FORWARD", "match_kind": "EXACT"}, LIMITS, NOW)
    assert caught.value.code == "DUPLICATE_PREFIX"
    add_route(book, {**ROUTE, "prefix": "AI.a*"}, LIMITS, NOW)
    add_vpn(book, RULE, LIMITS, NOW)  # the other list is another matter
    book, _ = add_vpn(book, RULE, LIMITS, NOW)
    with pytest.raises(Conflict) as caught:
        add_vpn(book, {**RULE, "vpn_id": 8}, LIMITS, NOW)
    assert caught.value.code == "DUPLICATE_PATTERN"


WRONG_ROUTES = [
    {},
    {"prefix": "AI.a"},
    {"action": "DROP"},
    {"prefix": "", "action": "DROP"},
    {"prefix": "x" * 257, "action": "DROP"},
    {"prefix": "é" * 129, "action": "DROP"},
    {"prefix": 5, "action": "DROP"},
    {"prefix": None, "action": "DROP"},
    {**ROUTE, "action": "drop"},
    {**ROUTE, "action": "ALLOW"},
    {**ROUTE, "match_kind": "prefix"},
    {**ROUTE, "match_kind": "REGEX"},
    {**ROUTE, "metric": -1},
    {**ROUTE, "metric": 2**32},
    {**ROUTE, "metric": "1"},
    {**ROUTE, "metric": 1.5},
    {**ROUTE, "priority": 65536},
    {**ROUTE, "priority": True},
    {**ROUTE, "next_hop_hive": "no hive!"},
    {**ROUTE, "unknown": 1},
    [],
    None,
    "AI.a",
]
WRONG_RULES = [
    {},
    {"pattern": "AI.a"},
    {"vpn_id": 1},
    {**RULE, "pattern": ""},
    {**RULE, "pattern": "x" * 257},
    {**RULE, "vpn_id": -1},
    {**RULE, "vpn_id": 2**32},
    {**RULE, "vpn_id": "7"},
    {**RULE, "match_kind": "glob"},
    {**RULE, "priority": -1},
    {**RULE, "action": "DROP"},
    None,
]


@pytest.mark.parametrize("value", WRONG_ROUTES)
def test_a_wrong_route_changes_nothing_and_the_error_names_it(value):
    with pytest.raises(Invalid) as caught:
        add_route(RouteBook(), value, LIMITS, NOW)
    assert "route" in str(caught.value)
    with pytest.raises(Invalid) as caught:
        replace(RouteBook(), routes=[ROUTE, value], limits=LIMITS, now_ms=NOW)
    assert "routes[1]" in str(caught.value)


@pytest.mark.parametrize("value", WRONG_RULES)
def test_a_wrong_rule_changes_nothing_and_the_error_names_it(value):
    with pytest.raises(Invalid):
        add_vpn(RouteBook(), value, LIMITS, NOW)
    with pytest.raises(Invalid) as caught:
        replace(RouteBook(), vpns=[RULE, value], limits=LIMITS, now_ms=NOW)
    assert "vpns[1]" in str(caught.value)


def test_the_257th_entry_is_refused_and_the_document_works_on():
    """In the reference it is appended first, and every later change fails (§4.2)."""
    book = full_book()
    assert (len(book.routes), len(book.vpns)) == (256, 256)
    with pytest.raises(Invalid) as caught:
        add_route(book, ROUTE, LIMITS, NOW)
    assert "256" in str(caught.value)
    with pytest.raises(Invalid):
        add_vpn(book, RULE, LIMITS, NOW)
    with pytest.raises(Invalid):
        replace(
            book,
            routes=[{"prefix": f"AI.x{n}", "action": "DROP"} for n in range(257)],
            limits=LIMITS,
            now_ms=NOW,
        )
    book = delete_route(book, "AI.n7", LIMITS, NOW)
    book, _ = add_route(book, ROUTE, LIMITS, NOW)
    assert len(book.routes) == 256


def test_the_limits_are_settings():
    limits = RouteLimits(routes=1, vpns=2)
    book, _ = add_route(RouteBook(), ROUTE, limits, NOW)
    with pytest.raises(Invalid):
        add_route(book, {**ROUTE, "prefix": "AI.b"}, limits, NOW)
    with pytest.raises(Invalid):
        replace(RouteBook(), vpns=[RULE] * 3, limits=limits, now_ms=NOW)
    assert replace(RouteBook(), vpns=[RULE] * 2, limits=limits, now_ms=NOW).version == 2


def test_deleting_takes_what_has_that_text_and_says_when_there_is_nothing():
    book = full_book()
    smaller = delete_route(book, "AI.n3", LIMITS, NOW)
    assert len(smaller.routes) == 255
    assert smaller.vpns == book.vpns
    assert smaller.version == book.version + 1
    assert len(delete_vpn(book, "AI.n3", LIMITS, NOW).vpns) == 255
    for name in ("AI.n3", "AI.n", "", None, 3, [], {}):
        with pytest.raises(NotFound):
            delete_route(smaller, name, LIMITS, NOW)
        with pytest.raises(NotFound):
            delete_vpn(RouteBook(), name, LIMITS, NOW)


def test_duplicates_that_came_in_a_list_go_together():
    book = replace(RouteBook(), routes=[ROUTE, {**ROUTE, "action": "FORWARD"}], limits=LIMITS, now_ms=NOW)
    assert len(book.routes) == 2
    assert delete_route(book, "AI.a", LIMITS, NOW).routes == ()


def test_replacing_one_list_leaves_the_other():
    book = full_book()
    fresh = replace(book, routes=[ROUTE], limits=LIMITS, now_ms=NOW)
    assert len(fresh.routes) == 1
    assert fresh.vpns == book.vpns
    fresh = replace(book, vpns=[], limits=LIMITS, now_ms=NOW)
    assert fresh.vpns == ()
    assert fresh.routes == book.routes


def test_replacing_by_the_same_changes_nothing_whatever_the_version():
    book = replace(RouteBook(), routes=[ROUTE], version=9, limits=LIMITS, now_ms=NOW)
    for version in (0, 1, 9, 10, 99):
        assert replace(book, routes=[ROUTE], version=version, limits=LIMITS, now_ms=NOW + 1) is book
    assert replace(book, limits=LIMITS, now_ms=NOW) is book


@pytest.mark.parametrize(("offered", "result"), [(0, 6), (6, 6), (7, 7), (MAX_VERSION, MAX_VERSION)])
def test_a_version_above_the_one_in_force_is_taken_and_0_means_the_next(offered, result):
    book = RouteBook(version=5)
    assert replace(book, routes=[ROUTE], version=offered, limits=LIMITS, now_ms=NOW).version == result


@pytest.mark.parametrize("offered", [1, 4, 5])
def test_a_version_not_above_the_one_in_force_is_a_conflict(offered):
    with pytest.raises(Conflict) as caught:
        replace(RouteBook(version=5), routes=[ROUTE], version=offered, limits=LIMITS, now_ms=NOW)
    assert caught.value.code == "VERSION_MISMATCH"
    assert "5" in str(caught.value)


@pytest.mark.parametrize("offered", [MAX_VERSION + 1, 2**64, 10**30])
def test_a_version_that_not_every_library_can_read_is_refused(offered):
    with pytest.raises(Invalid):
        replace(RouteBook(), routes=[ROUTE], version=offered, limits=LIMITS, now_ms=NOW)


def test_the_last_version_has_no_successor_and_can_still_be_stored():
    book = RouteBook(version=MAX_VERSION)
    for change in (
        lambda: add_route(book, ROUTE, LIMITS, NOW),
        lambda: add_vpn(book, RULE, LIMITS, NOW),
        lambda: replace(book, routes=[ROUTE], limits=LIMITS, now_ms=NOW),
    ):
        with pytest.raises(Conflict) as caught:
            change()
        assert caught.value.code == "VERSION_MISMATCH"
    assert msgspec.json.decode(msgspec.json.encode(book), type=RouteBook) == book


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add_route"), st.sampled_from(["a", "b", "c", "", "x" * 300])),
            st.tuples(st.just("add_vpn"), st.sampled_from(["a", "b", "c", ""])),
            st.tuples(st.just("delete_route"), st.sampled_from(["a", "b", "z"])),
            st.tuples(st.just("delete_vpn"), st.sampled_from(["a", "b", "z"])),
            st.tuples(st.just("replace"), st.integers(0, 40)),
        ),
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_versions_only_grow_lists_stay_bounded_and_every_document_survives_its_journal(steps):
    limits = RouteLimits(routes=3, vpns=3)
    book = RouteBook()
    for action, value in steps:
        try:
            fresh = act(book, action, value, limits)
        except FluxbeeError:
            continue
        assert fresh is book or fresh.version > book.version
        assert len(fresh.routes) <= 3
        assert len(fresh.vpns) <= 3
        assert msgspec.json.decode(msgspec.json.encode(fresh), type=RouteBook) == fresh
        book = fresh


def act(book, action, value, limits):
    if action == "add_route":
        return add_route(book, {"prefix": value, "action": "DROP"}, limits, NOW)[0]
    if action == "add_vpn":
        return add_vpn(book, {"pattern": value, "vpn_id": 1}, limits, NOW)[0]
    if action == "delete_route":
        return delete_route(book, value, limits, NOW)
    if action == "delete_vpn":
        return delete_vpn(book, value, limits, NOW)
    return replace(book, routes=[], vpns=[RULE] * (value % 5), version=value, limits=limits, now_ms=NOW)
