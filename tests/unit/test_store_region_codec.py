from __future__ import annotations

import enum
import uuid
from typing import Literal

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.region_codec import (
    JSON_BYTES,
    RAW,
    U64,
    UTF8,
    UUID16,
    UUID_TEXT,
    Codec,
    cbor_record,
    pair,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    raw: bytes = b""


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    key: bytes
    number: int
    share: float
    flag: bool
    kind: Literal["a", "b"] = "a"
    note: str | None = None
    tags: tuple[str, ...] = ()
    table: dict[str, int] = {}


class Nested(msgspec.Struct, frozen=True, kw_only=True):
    colour: Colour
    inner: Inner
    more: list[Inner] = []


class Positional(msgspec.Struct, frozen=True):
    name: str
    number: int
    notes: list[str] = []
    share: float = 0.5


PLAIN, NESTED, POSITIONAL = cbor_record(Plain), cbor_record(Nested), cbor_record(Positional)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plains = st.builds(
    Plain,
    name=texts,
    key=st.binary(max_size=20),
    number=st.integers(-(2**63), 2**64 - 1),
    share=st.floats(allow_nan=False),
    flag=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    note=st.none() | texts,
    tags=st.lists(texts, max_size=3).map(tuple),
    table=st.dictionaries(texts, st.integers(-5, 5), max_size=3),
)
inners = st.builds(Inner, address=texts, raw=st.binary(max_size=5))
nesteds = st.builds(Nested, colour=st.sampled_from(Colour), inner=inners, more=st.lists(inners, max_size=3))


@given(plains)
def test_a_record_comes_back_as_it_was(record: Plain) -> None:
    assert PLAIN.decode(PLAIN.encode(record)) == record


@given(nesteds)
def test_a_record_with_records_inside(record: Nested) -> None:
    assert NESTED.decode(NESTED.encode(record)) == record


@given(st.builds(Positional, name=texts, number=st.integers(-5, 5), notes=st.lists(texts, max_size=3)))
def test_a_record_with_positional_fields(record: Positional) -> None:
    assert POSITIONAL.decode(POSITIONAL.encode(record)) == record


def test_defaults_are_made_anew_for_every_record() -> None:
    one, two = (POSITIONAL.decode(cbor2.dumps(["n", 1])) for _ in range(2))
    assert one == Positional("n", 1)
    assert one.notes is not two.notes
    with pytest.raises(ValueError):
        POSITIONAL.decode(cbor2.dumps(["n"]))


def test_the_layout_is_an_array_in_field_order() -> None:
    raw = PLAIN.encode(Plain(name="n", key=b"k", number=7, share=0.5, flag=True))
    assert cbor2.loads(raw) == ["n", b"k", 7, 0.5, True, "a", None, [], {}]
    assert PLAIN.layout == "CBOR array [name, key, number, share, flag, kind, note, tags, table]"
    raw = NESTED.encode(Nested(colour=Colour.RED, inner=Inner(address="x", raw=b"y")))
    assert cbor2.loads(raw) == ["red", {"address": "x", "raw": b"y"}, []]


def test_a_shorter_array_takes_defaults_and_a_longer_one_is_read_by_its_head() -> None:
    old = cbor2.dumps(["n", b"k", 7, 0.5, True])
    assert PLAIN.decode(old) == Plain(name="n", key=b"k", number=7, share=0.5, flag=True)
    newer = cbor2.dumps(["n", b"k", 7, 0.5, True, "b", None, [], {}, "of the future"])
    assert PLAIN.decode(newer).kind == "b"


@pytest.mark.parametrize(
    "items",
    [
        ["n", b"k", 7, 0.5],
        ["n", b"k", "7", 0.5, True],
        [1, b"k", 7, 0.5, True],
        ["n", b"k", 7, 0.5, True, "c"],
        {"name": "n"},
        "text",
    ],
)
def test_records_of_another_shape_do_not_decode(items: object) -> None:
    with pytest.raises(ValueError):
        PLAIN.decode(cbor2.dumps(items))


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_raise_value_error(raw: bytes) -> None:
    for codec in (PLAIN, NESTED, U64, UTF8, UUID16, UUID_TEXT, RAW, JSON_BYTES, pair(UTF8, U64)):
        try:
            codec.decode(raw)
        except ValueError:
            continue


def test_a_record_that_cbor_cannot_hold_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        PLAIN.encode(Plain(name="\ud800", key=b"", number=0, share=0, flag=False))


class Tagged(msgspec.Struct, tag="t"):
    x: int


class Renamed(msgspec.Struct, rename="camel"):
    some_field: int


@pytest.mark.parametrize("record", [Tagged, Renamed, int])
def test_what_cannot_be_an_array_is_refused_when_declared(record: type) -> None:
    with pytest.raises(TypeError):
        cbor_record(record)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2))
def test_numbers_sort_as_bytes(numbers: list[int]) -> None:
    first, second = map(U64.encode, numbers)
    assert (first < second) == (numbers[0] < numbers[1])
    assert U64.decode(first) == numbers[0]


@pytest.mark.parametrize("number", [-1, 2**64])
def test_numbers_outside_u64(number: int) -> None:
    with pytest.raises(OverflowError):
        U64.encode(number)


@given(st.uuids())
def test_uuids(value: uuid.UUID) -> None:
    assert UUID16.decode(UUID16.encode(value)) == value
    assert UUID_TEXT.encode(str(value)) == value.bytes
    assert UUID_TEXT.decode(value.bytes) == str(value)


@pytest.mark.parametrize("text", ["", "abc", "zz" * 16, "0" * 31, "0" * 34])
def test_what_is_no_uuid(text: str) -> None:
    with pytest.raises(ValueError):
        UUID_TEXT.encode(text)


@given(texts, st.integers(0, 2**64 - 1))
def test_pairs_with_a_separator(text: str, number: int) -> None:
    codec = pair(UTF8, U64)
    if "\0" in text:
        with pytest.raises(ValueError):
            codec.encode((text, number))
    else:
        assert codec.decode(codec.encode((text, number))) == (text, number)
        assert codec.encode((text, number)).startswith(text.encode() + b"\0")
    assert codec.size_bytes is None


@given(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=5)), st.tuples(st.integers(0, 3), st.binary()))
def test_pairs_of_fixed_size_sort_by_first_then_second(
    one: tuple[int, bytes], two: tuple[int, bytes]
) -> None:
    codec = pair(U64, RAW)
    assert codec.decode(codec.encode(one)) == one
    assert (codec.encode(one) < codec.encode(two)) == (one < two)


def test_sizes_add_up() -> None:
    assert pair(U64, UUID_TEXT).size_bytes == 24
    assert pair(U64, RAW).size_bytes is None
    three = pair(UUID_TEXT, pair(UTF8, U64))
    value = ("00112233-4455-6677-8899-aabbccddeeff", ("whatsapp", 9))
    assert three.decode(three.encode(value)) == value
    assert three.layout == "uuid, 16 bytes, UTF-8 text, 0x00, u64, 8 bytes big-endian"


def test_a_codec_shows_its_layout() -> None:
    assert repr(RAW) == "Codec('bytes')"
    assert isinstance(JSON_BYTES, Codec)
    assert JSON_BYTES.decode(JSON_BYTES.encode(b'{"a" : 1}')) == b'{"a" : 1}'
