from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.objects import ObjectSyntaxError, scan_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
white = st.text(" \t\n\r", max_size=2)


@given(st.dictionaries(st.text(), values, max_size=5), st.booleans(), white)
def test_pairs_are_what_a_parser_reads(value: dict[str, Any], ascii_only: bool, around: str) -> None:
    text = around + json.dumps(value, ensure_ascii=ascii_only) + around
    pairs = scan_object(text)
    assert {key: json.loads(raw) for key, raw in pairs} == value
    assert all(raw == raw.strip(" \t\n\r") for _, raw in pairs)


def test_order_and_duplicates_are_kept() -> None:
    assert scan_object('{"b":1,"a":2,"b":3}') == [("b", "1"), ("a", "2"), ("b", "3")]


def test_keys_are_unescaped_and_values_are_not() -> None:
    assert scan_object('{"t\\u0079pe" :\t"\\u0079" }') == [("type", '"\\u0079"')]


def test_values_keep_their_inner_white_space_and_number_spelling() -> None:
    assert scan_object('{"a": { "x" : 1.0 } , "b":1E2, "c": -0}') == [
        ("a", '{ "x" : 1.0 }'),
        ("b", "1E2"),
        ("c", "-0"),
    ]


def test_numbers_of_any_length_are_text() -> None:
    huge = "1" * 50_000
    assert scan_object(f'{{"n":{huge},"f":{huge}.5e{huge}}}') == [("n", huge), ("f", f"{huge}.5e{huge}")]


@pytest.mark.parametrize("text", ["{}", " {} ", "{\n}"])
def test_an_empty_object_has_no_pairs(text: str) -> None:
    assert scan_object(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "[]",
        "1",
        '"{}"',
        "null",
        "{",
        "}",
        "{,}",
        '{"a"}',
        '{"a":}',
        '{"a":1',
        '{"a":1,}',
        '{"a":1,,"b":2}',
        '{"a" 1}',
        '{"a":1 "b":2}',
        "{a:1}",
        "{'a':1}",
        '{"a":1}{}',
        '{"a":1} x',
        '{"a":01}',
        '{"a":+1}',
        '{"a":.5}',
        '{"a":NaN}',
        '{"a":[Infinity]}',
        '{"a":-Infinity}',
        '{"a":tru}',
        '{"a":"\\q"}',
        '{"a":"\n"}',
        '{"a\x01":1}',
        '{"a":"\\u12"}',
        '{"a":"x}',
        '{"a":[1,]}',
        '{"a":{"b":1,}}',
        "\ufeff{}",
        "{}\x00",
        '{\x0b"a":1}',
        '{\xa0"a":1}',
        '{"a":' + "[" * 5_000,
    ],
)
def test_anything_else_is_an_error_of_its_own(text: str) -> None:
    with pytest.raises(ObjectSyntaxError):
        scan_object(text)


@given(st.text('{}[]":,\\ \nau01.eE-+tfn', max_size=40))
def test_accepts_nothing_that_the_standard_library_refuses(text: str) -> None:
    try:
        pairs = scan_object(text)
    except ObjectSyntaxError:
        return
    assert isinstance(json.loads(text), dict)
    assert dict(pairs).keys() == json.loads(text).keys()
