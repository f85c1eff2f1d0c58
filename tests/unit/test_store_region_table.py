from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.store.region import Environment
from appliance.store.region_codec import RAW, U64, UTF8, pair
from appliance.store.region_table import RegionSpec, Table
from appliance.wire.errors import Damaged, Invalid, Unavailable
from tests.unit.store_regions import ALIAS, CONFIG, MEMBER, REGIONS, ROUTE, SMALL, Route


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Environment]:
    with Environment(SMALL, tmp_path, REGIONS) as environment:
        yield environment


def test_put_get_delete(env: Environment) -> None:
    with env.change("config") as txn:
        ROUTE.put(txn, 1, Route(prefix="AI."))
        ROUTE.put(txn, 1, Route(prefix="IO.", metric=2))
        assert ROUTE.get(txn, 1) == Route(prefix="IO.", metric=2)
        assert ROUTE.get(txn, 2) is None
    assert env.get(ROUTE, 1) == Route(prefix="IO.", metric=2)
    with env.change("config") as txn:
        assert ROUTE.delete(txn, 1)
        assert not ROUTE.delete(txn, 1)
    assert env.get(ROUTE, 1) is None


def test_rows_come_in_key_order_from_a_start_and_by_prefix(env: Environment) -> None:
    with env.change("config") as txn:
        for number in (5, 1, 300, 2):
            ROUTE.put(txn, number, Route(prefix=str(number)))
        for text in ("b\0two", "a\0one", "b\0one", "c"):
            ALIAS.put(txn, text, text.encode())
    assert [key for key, _ in env.items(ROUTE)] == [1, 2, 5, 300]
    assert [key for key, _ in env.items(ROUTE, start=2)] == [2, 5, 300]
    assert [key for key, _ in env.items(ROUTE, start=301)] == []
    assert list(env.items(ALIAS, prefix=b"b\0")) == [("b\0one", b"b\0one"), ("b\0two", b"b\0two")]
    assert [key for key, _ in env.items(ALIAS, start="b\0p", prefix=b"b\0")] == ["b\0two"]
    assert env.count(ROUTE) == 4


def test_an_empty_table_has_no_rows(env: Environment) -> None:
    assert list(env.items(ROUTE)) == []
    assert env.values(MEMBER, "x") == []
    assert env.count(ROUTE) == 0


def test_a_key_with_several_values(env: Environment) -> None:
    with env.change("config") as txn:
        for value in ((9, b"z"), (1, b"b"), (1, b"a"), (1, b"a")):
            MEMBER.put(txn, "hive", value)
        MEMBER.put(txn, "other", (0, b""))
    assert env.values(MEMBER, "hive") == [(1, b"a"), (1, b"b"), (9, b"z")]
    assert env.get(MEMBER, "hive") == (1, b"a")
    assert env.values(MEMBER, "nobody") == []
    assert env.values(ALIAS, "nobody") == []
    assert env.count(MEMBER) == 4
    assert [key for key, _ in env.items(MEMBER)] == ["hive"] * 3 + ["other"]
    with env.change("config") as txn:
        assert MEMBER.delete(txn, "hive", (1, b"b"))
        assert not MEMBER.delete(txn, "hive", (1, b"b"))
    assert env.values(MEMBER, "hive") == [(1, b"a"), (9, b"z")]
    with env.change("config") as txn:
        assert MEMBER.delete(txn, "hive")
    assert env.values(MEMBER, "hive") == []


def test_deleting_by_prefix_and_clearing(env: Environment) -> None:
    with env.change("config") as txn:
        for hive in ("alpha", "beta"):
            for number in range(3):
                ALIAS.put(txn, f"{hive}\0{number}", b"")
                MEMBER.put(txn, hive, (number, b""))
        assert ALIAS.delete_prefix(txn, b"alpha\0") == 3
        assert ALIAS.delete_prefix(txn, b"alpha\0") == 0
        assert MEMBER.delete_prefix(txn, b"al") == 1
    assert [key for key, _ in env.items(ALIAS)] == ["beta\x000", "beta\x001", "beta\x002"]
    assert env.count(MEMBER) == 3
    with env.change("config") as txn:
        ALIAS.clear(txn)
    assert env.count(ALIAS) == 0


@pytest.mark.parametrize("key", ["", "x" * 512, "\ud800"])
def test_keys_that_do_not_fit(env: Environment, key: str) -> None:
    with env.change("config") as txn, pytest.raises(Invalid) as caught:
        ALIAS.put(txn, key, b"")
    assert caught.value.field == "alias"


def test_a_key_of_the_wrong_shape_is_refused_everywhere(env: Environment) -> None:
    with env.change("config") as txn:
        for call in (
            lambda: ROUTE.get(txn, -1),
            lambda: ROUTE.delete(txn, 1 << 64),
            lambda: list(ROUTE.items(txn, start=-1)),
            lambda: ROUTE.put(txn, -1, Route(prefix="")),
            lambda: MEMBER.values(txn, "\ud800"),
        ):
            with pytest.raises(Invalid):
                call()


def test_a_row_that_does_not_decode_is_damage_and_is_noted(env: Environment) -> None:
    raw = Table("route", U64, RAW)
    loose = Table("member", UTF8, RAW, dupsort=True)
    with env.change("config") as txn:
        raw.put(txn, 7, b"\xff not cbor")
        raw.put(txn, 8, cbor2.dumps([1, 2]))
        loose.put(txn, "m", b"short")
    for call in (
        lambda: env.get(ROUTE, 7),
        lambda: env.get(ROUTE, 8),
        lambda: list(env.items(ROUTE)),
        lambda: env.values(MEMBER, "m"),
    ):
        with pytest.raises(Damaged) as caught:
            call()
        assert caught.value.code == "REGION_DAMAGED"
    assert env.statistics().damages == 4


def test_a_table_that_nobody_declared(env: Environment) -> None:
    stranger = Table("stranger", UTF8, RAW)
    assert env.get(stranger, "x") is None
    assert env.values(stranger, "x") == []
    assert list(env.items(stranger)) == []
    assert env.count(stranger) == 0
    for call in (
        lambda txn: stranger.put(txn, "x", b""),
        lambda txn: stranger.delete(txn, "x"),
        stranger.clear,
    ):
        with pytest.raises(Unavailable), env.change("config") as txn:
            call(txn)


def test_what_is_touched_is_counted(env: Environment) -> None:
    with env.change("config") as txn:
        ALIAS.put(txn, "ab", b"cde")
        assert (txn.touched, txn.payload_bytes) == (1, 5)
        ALIAS.delete(txn, "nobody")
        assert txn.touched == 1
        ALIAS.delete(txn, "ab")
        assert txn.touched == 2


def test_a_spec_tells_its_layout() -> None:
    assert CONFIG.layout() == [
        "route: u64, 8 bytes big-endian -> CBOR array [prefix, metric]",
        "alias: UTF-8 text -> bytes",
        "member (dupsort): UTF-8 text -> u64, 8 bytes big-endian, bytes",
    ]
    assert repr(ROUTE) == "Table('route')"
    assert RegionSpec(name="x", schema=1, tables=()).layout() == []


actions = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "clear", "abort"]),
        st.text(st.sampled_from("abc"), min_size=1, max_size=3),
        st.binary(max_size=4),
    ),
    max_size=40,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(actions)
def test_a_table_behaves_like_a_sorted_dictionary(
    env: Environment, steps: list[tuple[str, str, bytes]]
) -> None:
    model: dict[str, bytes] = {}
    with env.change("config") as txn:
        ALIAS.clear(txn)
    for action, key, value in steps:
        if action == "abort":
            with pytest.raises(ZeroDivisionError), env.change("config") as txn:
                ALIAS.put(txn, key, b"never")
                raise ZeroDivisionError
            continue
        with env.change("config") as txn:
            if action == "put":
                ALIAS.put(txn, key, value)
                model[key] = value
            elif action == "delete":
                assert ALIAS.delete(txn, key) == (model.pop(key, None) is not None)
            else:
                ALIAS.clear(txn)
                model.clear()
        assert list(env.items(ALIAS)) == sorted(model.items())
        assert env.get(ALIAS, key) == model.get(key)


def test_pairs_as_keys(env: Environment) -> None:
    by_hive = Table("alias", pair(UTF8, U64), RAW)
    with env.change("config") as txn:
        for hive, number in (("b", 1), ("a", 300), ("a", 2)):
            by_hive.put(txn, (hive, number), b"")
    assert [key for key, _ in env.items(by_hive)] == [("a", 2), ("a", 300), ("b", 1)]
    assert [key for key, _ in env.items(by_hive, prefix=b"a\0")] == [("a", 2), ("a", 300)]
