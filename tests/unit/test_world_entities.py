"""Keys and texts of entities."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.world.entities import (
    KEY_HEAD_BYTES,
    entity_id,
    entity_json,
    entity_key,
    entity_properties,
    rfc3339,
    rfc3339_z,
)


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00"),
        (1770000000123, "2026-02-02T02:40:00.123"),
        (1770000000100, "2026-02-02T02:40:00.100"),
        (-5, "1970-01-01T00:00:00"),
        (1 << 62, "9999-12-31T23:59:59.999"),
    ],
)
def test_times_have_no_or_three_digits(at_ms, text):
    """EP-31."""
    assert rfc3339(at_ms).decode() == text + "+00:00"
    assert rfc3339_z(at_ms).decode() == text + "Z"


def test_the_text_of_an_entity_is_that_of_ep_30():
    """EP-30, HT-02, ST-19."""
    text = entity_json('sc"ada', {"p": 4.2, "q": None}, 1000, 7)
    expected = (
        b'{"id":"sc\\"ada","properties":{"p":4.2,"q":null},"lastUpdated":"1970-01-01T00:00:01+00:00","seq":7}'
    )
    assert text == expected
    assert entity_properties(text) == {"p": 4.2, "q": None}
    assert entity_id(text) == 'sc"ada'


def test_a_text_that_is_no_entity():
    for call in (entity_properties, entity_id):
        with pytest.raises(ValueError):
            call(b'{"id":1}')


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=300), unique=True)
)
def test_keys_fit_are_distinct_and_keep_the_order(ids):
    keys = {one: entity_key(one.encode()) for one in ids}
    assert all(1 <= len(key) <= 511 for key in keys.values())
    assert len(set(keys.values())) == len(ids)
    short = sorted((one for one in ids if len(one.encode()) <= KEY_HEAD_BYTES), key=str.encode)
    assert sorted(short, key=keys.__getitem__) == short


def test_long_ids_share_a_head_and_differ():
    one, two = b"x" * 500, b"x" * 499 + b"y"
    assert entity_key(one)[:KEY_HEAD_BYTES] == entity_key(two)[:KEY_HEAD_BYTES]
    assert entity_key(one) != entity_key(two)
    assert json.loads(entity_json("x" * 500, {}, 0, 1))["id"] == "x" * 500
