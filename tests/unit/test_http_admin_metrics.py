"""Prometheus text: names, labels, escaping, and one type line for each name."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.http.admin.metric_words import HELP, SOURCES
from appliance.http.admin.metrics import render

LINE = re.compile(
    r"(# TYPE [a-zA-Z_][a-zA-Z0-9_]* (gauge|counter)"
    r"|# HELP [a-zA-Z_][a-zA-Z0-9_]* .+"
    r"|[a-zA-Z_][a-zA-Z0-9_]*"
    r'({[a-z_0-9]+="(\\.|[^"\\\n])*"(,[a-z_0-9]+="(\\.|[^"\\\n])*")*})? '
    r"(-?[0-9.e+-]+|NaN|[+-]Inf))\Z",
    re.DOTALL,
)


class Inner(msgspec.Struct, frozen=True):
    name: str
    held: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    reads: int
    sent_total: int
    load: float
    is_up: bool
    why: str | None
    inner: Inner
    queues: tuple[Inner, ...]
    counts: dict[str, int]


FIGURES = Figures(
    reads=3,
    sent_total=4,
    load=0.5,
    is_up=True,
    why=None,
    inner=Inner("x", 1),
    queues=(Inner("a", 2), Inner('b"\\\n', 3)),
    counts={"to.router": 9},
)


def test_what_becomes_of_a_struct():
    text = render([("my-service", FIGURES)]).decode()
    assert (
        "# HELP fluxbee_my_service_reads My-service: reads, counted since its start.\n"
        "# TYPE fluxbee_my_service_reads counter\n"
        "fluxbee_my_service_reads 3\n"
    ) in text
    assert "# TYPE fluxbee_my_service_load gauge\nfluxbee_my_service_load 0.5\n" in text
    assert "# TYPE fluxbee_my_service_is_up gauge\nfluxbee_my_service_is_up 1\n" in text
    assert "fluxbee_my_service_inner_held 1\n" in text
    assert 'fluxbee_my_service_queues_held{name="a"} 2\n' in text
    assert 'fluxbee_my_service_queues_held{name="b\\"\\\\\\n"} 3\n' in text
    assert 'fluxbee_my_service_counts{name="to.router"} 9\n' in text
    assert "why" not in text
    assert 'fluxbee_source_up{source="my-service"} 1\n' in text


def test_the_build_is_told_in_labels():
    text = render([], build={"version": "1.0", "hive": "m"}).decode()
    assert "# TYPE fluxbee_build_info gauge\n" in text
    assert text.endswith('fluxbee_build_info{version="1.0",hive="m"} 1\n')


def test_a_service_that_does_not_tell_is_down_and_hides_nobody():
    text = render([("router", None), ("admin", {"reads": 1})]).decode()
    assert 'fluxbee_source_up{source="router"} 0\n' in text
    assert "\nfluxbee_admin_reads 1\n" in text


def test_figures_that_came_as_json_are_named_like_structs():
    told = {"status": "ok", "reads": 3, "load": 0.5, "counts": {"to.router": 9}}
    lines = set(render([("my-service", FIGURES)]).split(b"\n"))
    assert set(render([("my-service", told)]).split(b"\n")) <= lines


@pytest.mark.parametrize("name", sorted(HELP))
def test_help_is_one_sentence_about_a_known_source(name):
    source = name.removeprefix("fluxbee_").partition("_")[0]
    assert source in {*SOURCES, "build", "source"}
    assert HELP[name].endswith(".")
    assert "\n" not in HELP[name]


VALUES = st.recursive(
    st.integers() | st.floats() | st.booleans() | st.text(max_size=6) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.tuples(st.text(max_size=6), VALUES), max_size=3))
def test_every_line_is_well_formed_and_every_name_is_typed_once(sources):
    lines = render(sources).decode().split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert LINE.match(line), line
    types = [line for line in lines if line.startswith("#")]
    assert len(types) == len(set(types))
