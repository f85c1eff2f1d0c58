"""Paths into documents."""

from __future__ import annotations

import pytest

from appliance.wire.errors import Invalid
from appliance.world.connectors.mapping import MAX_PROPERTIES, compiled

DOCUMENT = {"a": {"b": [{"c": 4.2}, {"c": None}]}, "list": [1, [2, 3]], "x y": {"p.q": True}, "$id": 7}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b[0].c", 4.2),
        ("$.a.b[0].c", 4.2),
        ("a.b[1].c", None),
        ("list[1][0]", 2),
        ('["x y"]["p.q"]', True),
        ("x y", {"p.q": True}),
        ("$", DOCUMENT),
        ('["$id"]', 7),
    ],
)
def test_what_is_there(path, expected):
    assert compiled({"p": path}).properties(DOCUMENT) == {"p": expected}


@pytest.mark.parametrize("path", ["b", "a.c", "a.b[2]", "a.b.c", "list.a", "a[0]", "list[1][0].c"])
def test_what_is_not_there_is_left_out(path):
    assert compiled({"p": path, "q": "list[0]"}).properties(DOCUMENT) == {"q": 1}


def test_a_document_that_is_no_object():
    assert compiled({"first": "[0]", "all": "$"}).properties([5, 6]) == {"first": 5, "all": [5, 6]}
    assert compiled({"value": "$"}).properties(21.5) == {"value": 21.5}


@pytest.mark.parametrize("path", ["", ".a", "a..b", "a.", "a[", "a[x]", "a[-1]", "a]b", "a['b']", "a" * 600])
def test_paths_that_are_none(path):
    with pytest.raises(Invalid) as caught:
        compiled({"p": path})
    assert caught.value.field == "mapping"


def test_how_many():
    with pytest.raises(Invalid):
        compiled({})
    with pytest.raises(Invalid):
        compiled({str(number): "a" for number in range(MAX_PROPERTIES + 1)})
