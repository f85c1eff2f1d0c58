"""Newest events that are remembered."""

from __future__ import annotations

from appliance.world.heads import Heads


def test_what_is_not_durable_is_never_forgotten():
    heads = Heads(generation=2)
    heads.new |= {"a": 1 << 1, "b": 2 << 1, "c": 3 << 1}
    heads.age(3, 0)
    assert heads.new == {}
    heads.new |= {"d": 4 << 1, "e": 5 << 1, "f": 6 << 1}
    heads.age(6, 2)
    assert heads.get("c") == 3 << 1, "record 3 is on its way"
    heads.age(6, 3)
    assert heads.get("c") is None
    assert heads.get("f") == 6 << 1


def test_a_newer_value_covers_the_older_one():
    heads = Heads(generation=0)
    heads.new["a"] = 1 << 1
    heads.age(1, 1)
    heads.new["a"] = 0
    assert heads.get("a") == 0
    heads.clear()
    assert heads.get("a") is None


def test_few_entries_stay():
    heads = Heads(generation=5)
    heads.new["a"] = 2
    heads.age(9, 9)
    assert heads.new == {"a": 2}
