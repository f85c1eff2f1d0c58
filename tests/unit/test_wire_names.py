from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.errors import Invalid
from appliance.wire.names import (
    MAX_NAME_BYTES,
    MatchKind,
    base_name,
    check_hive_id,
    check_local_name,
    fnv1a64,
    full_name,
    glob_matcher,
    hive_of,
    is_system_name,
    matcher,
    specificity,
)

few = st.text("ab.@*", max_size=12)
plain = st.text("ab.@", max_size=14)


@pytest.mark.parametrize(
    ("name", "full", "base", "hive"),
    [
        ("AI.echo", "AI.echo@north", "AI.echo", "north"),
        ("AI.echo@south", "AI.echo@south", "AI.echo", "south"),
        ("AI.echo@", "AI.echo@", "AI.echo", ""),
        ("IO.mail.a@b.c@north", "IO.mail.a@b.c@north", "IO.mail.a", "b.c@north"),
        ("", "@north", "", "north"),
    ],
)
def test_a_name_is_cut_at_its_first_at_sign(name: str, full: str, base: str, hive: str) -> None:
    assert full_name(name, "north") == full
    assert (base_name(full), hive_of(full)) == (base, hive)


@pytest.mark.parametrize(("name", "system"), [("SY.timer@h", True), ("RT.gateway", True), ("SY", False)])
def test_system_names_start_with_their_type_and_a_dot(name: str, system: bool) -> None:
    assert is_system_name(name) is system


@pytest.mark.parametrize("name", ["sy.timer", "AI.SY.x", " SY.x", "SYX.a", "ЅY.admin"])
def test_nothing_else_is_a_system_name(name: str) -> None:
    assert not is_system_name(name)


@pytest.mark.parametrize("hive", ["h", "north-1", "A_b", "x" * 64])
def test_hive_ids(hive: str) -> None:
    assert check_hive_id(hive) == hive


@pytest.mark.parametrize("hive", ["", "x" * 65, "a b", "a.b", "a@b", "ü", "a\n"])
def test_what_is_not_a_hive_id_names_its_field(hive: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_hive_id(hive, "next_hop_hive")
    assert caught.value.field == "next_hop_hive"


@pytest.mark.parametrize("name", ["AI.echo", "AI.support.l1@hive1", "SY.a-b_c", "RT.gateway@h", "WF.1"])
def test_names_that_may_be_made(name: str) -> None:
    assert check_local_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "AI", "AI.", "AI..x", "XX.a", "ai.a", "AI.a b", "AI.ä", "AI.a@", "AI.a@b@c", "AI.a\n", "AI.a@h\n"],
)
def test_names_that_may_not_be_made(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_local_name(name)
    assert caught.value.field == "name"


def test_a_made_name_has_a_longest_length() -> None:
    longest = "AI." + "x" * (MAX_NAME_BYTES - 5) + "@h"
    assert check_local_name(longest) == longest
    with pytest.raises(Invalid, match="256"):
        check_local_name("AI.x" + longest[3:])


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0xCBF29CE484222325), ("AI.chat", 0x358FE103C09B4E5D), ("SY.timer", 0x464727F93B842C6A)],
)
def test_fnv1a_vectors(text: str, value: int) -> None:
    assert fnv1a64(text) == value


@pytest.mark.parametrize(
    ("pattern", "kind", "length"),
    [
        ("AI.a@north", MatchKind.EXACT, 10),
        ("AI.a*@north", MatchKind.GLOB, 10),
        ("AI.*", MatchKind.PREFIX, 2),
        ("AI.a.*.*", MatchKind.PREFIX, 4),
        ("AI.sup*", MatchKind.PREFIX, 7),
        (".*", MatchKind.PREFIX, 0),
        ("***", MatchKind.GLOB, 0),
        ("é", MatchKind.EXACT, 2),
    ],
)
def test_specificity_is_counted_in_bytes(pattern: str, kind: MatchKind, length: int) -> None:
    assert specificity(pattern, kind) == length


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("AI.sup.*", "AI.support@h", True),
        ("AI.sup.*", "AI.sup@h", True),
        ("AI.sup.*.*", "AI.sup@h", True),
        ("AI.sup.*", "AI.su@h", False),
        ("AI.sup*", "AI.support@h", False),
        ("AI.sup*", "AI.sup*x@h", True),
        (".*", "anything", True),
    ],
)
def test_prefix_is_starts_with_without_token_borders(pattern: str, name: str, fits: bool) -> None:
    assert matcher(pattern, MatchKind.PREFIX)(name) is fits


def test_exact_has_no_wildcards_and_minds_case() -> None:
    fits = matcher("AI.*", MatchKind.EXACT)
    assert fits("AI.*")
    assert not fits("AI.a")
    assert not matcher("AI.a@h", MatchKind.EXACT)("ai.a@h")


@given(few, plain)
def test_glob_agrees_with_a_regular_expression(pattern: str, name: str) -> None:
    slow = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
    assert glob_matcher(pattern)(name) == bool(slow.fullmatch(name))
    assert matcher(pattern, MatchKind.GLOB)(name) == bool(slow.fullmatch(name))


@given(plain, st.lists(st.integers(0, 14), max_size=4))
def test_a_glob_made_of_a_name_matches_it(name: str, cuts: list[int]) -> None:
    pattern = name
    for cut in cuts:
        pattern = pattern[:cut] + "*" + pattern[cut:]
    assert glob_matcher(pattern)(name)


def test_a_hostile_glob_ends() -> None:
    # A backtracking matcher would not come back from this.
    assert not glob_matcher("a*" * 60_000 + "b")("a" * 256)
    assert glob_matcher("*" * 120_000)("a" * 256)


def test_ranks_order_the_kinds() -> None:
    assert MatchKind.EXACT.rank > MatchKind.PREFIX.rank > MatchKind.GLOB.rank
