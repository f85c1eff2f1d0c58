"""Paths and queries as the specification splits them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.http.admin.endpoints import ENDPOINTS, find
from appliance.http.admin.paths import decoded, query_of, segments
from appliance.wire.errors import Invalid

SEGMENTS = [
    (b"/", ()),
    (b"/hives", ("hives",)),
    (b"/hives/", ("hives",)),
    (b"//hives//", ("hives",)),
    (b"/modules/", ("modules",)),
    (b"/versions", ("versions",)),
    (b"/versions/", None),
    (b"//versions", None),
    (b"/inventory/", None),
    (b"/hives/m/routes/a%2Fb", ("hives", "m", "routes", "a%2Fb")),
    (b"/hives/m?x=1", ("hives", "m")),
    (b"/\xff", None),
]


@pytest.mark.parametrize(("raw", "parts"), SEGMENTS)
def test_segments(raw, parts):
    assert segments(raw) == parts


def test_decoding():
    assert decoded("AI.a+b%2Fc%2Bd") == "AI.a b/c+d"
    with pytest.raises(Invalid):
        decoded("%ff")


def test_queries():
    assert query_of(b"") == {}
    assert query_of(b"a=1&a=2&flag&b=%20x+y") == {"a": "2", "flag": "", "b": " x y"}
    for bad in (b"a=%ff", b"\xff", b"&".join([b"a=1"] * 100)):
        with pytest.raises(Invalid):
            query_of(bad)


@given(st.binary(max_size=40))
def test_nothing_breaks_it(raw):
    parts = segments(raw)
    assert parts is None or all(isinstance(part, str) for part in parts)
    if parts:
        find("GET", parts)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: f"{one.method} {one.path}")
def test_every_endpoint_is_found_by_its_path(endpoint):
    path = endpoint.path.replace("{", "").replace("}", "x")
    found = find(endpoint.method, segments(path.encode()))
    assert found is not None
    assert found.endpoint.path == endpoint.path


def test_methods_and_empty_segments_are_told_apart():
    assert find("PATCH", ("routes",)) is None
    assert find("GET", ("hives", "", "nodes")) is None
    assert find("GET", ()) is None
    found = find("GET", ("inventory", "summary"))
    assert found is not None
    assert found.endpoint.fixed == {"scope": "summary"}
