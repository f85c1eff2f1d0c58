"""Lines of a Singer tap: what becomes an event, which state may be kept, what is counted (CN-51, CN-52)."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.world.connectors.publishing import SourceEvent
from appliance.world.connectors.singer import LONGEST_LINE, Batch, Singer, catalog_of, key_text, stream_of
from appliance.world.events import _stream_fault


def line(**message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def record(number: object, stream: str = "order_lines", **more: object) -> bytes:
    return line(type="RECORD", stream=stream, record={"id": number, **more})


def tap() -> Singer:
    return Singer("tap-csv", "plant", "id")


def events(batches: list[Batch]) -> list[SourceEvent]:
    return [event for batch in batches for event in batch.events]


def test_a_record_becomes_an_event():
    reader = tap()
    assert reader.feed(line(type="SCHEMA", stream="order_lines", schema={}) + record(7, unit="V")) == []
    (event,) = reader.end().events
    assert (event.stream, event.source) == ("taps.tap.csv.order.lines", "tap.tap-csv")
    assert event.entity_id == "plant/7"
    assert {name: json.loads(bytes(value)) for name, value in event.properties.items()} == {
        "id": 7,
        "unit": "V",
    }
    assert (reader.records, reader.refused, reader.noise) == (1, 0, 0)


@pytest.mark.parametrize(
    ("value", "text"), [("text", "text"), (42, "42"), (3.14, "3.14"), (True, "true"), (None, "null")]
)
def test_keys_are_text(value, text):
    """AT-IN-22."""
    assert key_text(value) == text


def test_without_its_field_the_first_one_is_the_key():
    reader = Singer("t", "n", "missing")
    reader.feed(line(type="RECORD", stream="s", record={"first": "a", "second": "b"}))
    assert reader.end().events[0].entity_id == "n/a"


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("Order_Lines-2", "taps.tap.csv.order.lines.2"),
        ("__", "taps.tap.csv.stream"),
        ("ä/b c", "taps.tap.csv.b.c"),
        ("x" * 300, "taps.tap.csv." + "x" * 100),
    ],
)
def test_streams_get_names_that_the_world_takes(name, stream):
    assert stream_of("tap-csv", name) == stream


@given(st.text(max_size=300))
def test_every_stream_gets_a_name_that_the_world_takes(name):
    assert _stream_fault(stream_of("tap-csv", name)) == ""


def test_a_source_deletes_nothing():
    reader = tap()
    reader.feed(record(1, __deleted__=True))
    assert "__deleted__" not in reader.end().events[0].properties


def test_a_state_holds_when_the_events_before_it_were_taken():
    reader = tap()
    reader.feed(record(1) + line(type="STATE", value={"at": 1}) + record(2))
    batch = reader.take()
    assert len(batch.events) == 2
    assert json.loads(batch.state) == {"at": 1}
    reader.feed(record(3))
    assert json.loads(reader.take().state) == {"at": 1}, "the newest that was said"
    reader.feed(line(type="STATE", value={"at": 3}))
    assert json.loads(reader.end().state) == {"at": 3}


def test_no_state_is_kept_after_something_was_lost():
    reader = tap()
    reader.feed(b'{"type":"RECORD","stream":"s","record":{"id":NaN}}\n' + line(type="STATE", value=1))
    assert reader.end().state is None
    assert reader.refused == 1
    assert "cannot be read" in reader.refusal
    reader = tap()
    reader.feed(line(type="STATE", value=1))
    reader.refuse("the world did not take it")
    assert reader.end().state is None


def test_batches_are_bounded_in_number_and_bytes():
    reader = tap()
    full = reader.feed(b"".join(record(number) for number in range(1200)))
    assert [len(batch.events) for batch in full] == [500, 500]
    assert len(reader.end().events) == 200
    reader = tap()
    full = reader.feed(b"".join(record(number, text="x" * 300_000) for number in range(8)))
    assert [len(batch.events) for batch in full] == [4, 4]


def test_a_long_line_is_refused_and_not_kept():
    reader = tap()
    for _ in range(40):
        assert reader.feed(b"x" * 65536) == []
        assert len(reader._rest) <= LONGEST_LINE
    reader.feed(b"\n" + record(1))
    assert len(reader.end().events) == 1
    assert reader.refused == 1
    assert "longer than" in reader.refusal


def test_words_between_messages_are_noise():
    reader = tap()
    reader.feed(b"INFO starting\n\n\x00\xff\n[1]\n" + record(1))
    assert len(reader.end().events) == 1
    assert (reader.noise, reader.refused) == (3, 0)


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"{",
        b'{"type":1}',
        b'{"type":"RECORD"}',
        b'{"type":"RECORD","stream":"s"}',
        b'{"type":"RECORD","stream":"s","record":{}}',
        b'{"type":"RECORD","stream":"","record":{"id":1}}',
        b'{"type":"RECORD","stream":"s","record":{"id":""}}',
        b'{"type":"RECORD","stream":"s","record":{"id":"a\\nb"}}',
        b'{"type":"RECORD","stream":"s","record":{"id":"' + b"x" * 3000 + b'"}}',
        b'{"type":"RECORD","stream":"s","record":{"id":"\xff"}}',
        b'{"type":"RECORD","stream":"s","record":{"id":"1","text":"\\ud800"}}',
        b'{"type":"RECORD","stream":"s","record":' + b'{"id":' * 200 + b"1" + b"}" * 201,
        b'{"type":"STATE","value":"' + b"x" * (LONGEST_LINE - 100) + b'"' + b"[" * 99,
    ],
)
def test_broken_messages_are_refused(text):
    reader = tap()
    assert events([*reader.feed(text + b"\n"), reader.end()]) == []
    assert reader.refused == 1
    assert reader.refusal.isprintable()


def test_other_messages_mean_nothing():
    reader = tap()
    reader.feed(line(type="ACTIVATE_VERSION", stream="s", version=1) + line(type="BATCH", stream="s"))
    assert reader.end() == Batch([], None)
    assert reader.refused == 0


def test_keys_that_two_streams_have_are_counted():
    reader = tap()
    reader.feed(record(1, "a") + record(1, "a") + record(1, "b") + record(2, "b"))
    assert len(reader.end().events) == 4
    assert reader.collisions == 1


_pieces = st.one_of(
    st.binary(max_size=60),
    st.builds(record, st.one_of(st.integers(), st.text(max_size=5), st.none(), st.floats(allow_nan=False))),
    st.builds(lambda value: line(type="STATE", value=value), st.integers()),
    st.just(b"\n"),
    st.text(max_size=20).map(str.encode),
)


@given(st.lists(_pieces, max_size=30), st.integers(1, 50))
@example([b"{", b"\n"], 1)
def test_arbitrary_lines_are_read_the_same_however_they_are_cut(pieces, step):
    text = b"".join(pieces)
    whole, cut = tap(), tap()
    one = [*whole.feed(text), whole.end()]
    many = [batch for at in range(0, len(text), step) for batch in cut.feed(text[at : at + step])]
    many.append(cut.end())
    assert events(one) == events(many)
    assert one[-1].state == many[-1].state
    assert (whole.records, whole.refused, whole.noise) == (cut.records, cut.refused, cut.noise)
    assert whole.records == len(events(one))


def test_everything_is_selected_in_each_way_that_taps_know():
    catalog = {
        "streams": [
            {"stream": "a", "schema": {"properties": {}}},
            {
                "stream": "b",
                "schema": {},
                "metadata": [
                    {"breadcrumb": [], "metadata": {"inclusion": "available"}},
                    {"breadcrumb": ["properties", "x"], "metadata": {"inclusion": "unsupported"}},
                ],
            },
        ]
    }
    one, two = json.loads(catalog_of(json.dumps(catalog).encode()))["streams"]
    assert one["selected"] is True
    assert one["schema"]["selected"] is True
    assert one["metadata"] == [{"breadcrumb": [], "metadata": {"selected": True}}]
    assert two["metadata"][0]["metadata"] == {"inclusion": "available", "selected": True}
    assert "selected" not in two["metadata"][1]["metadata"]


@pytest.mark.parametrize(
    "text", [b"", b"usage: tap", b"[]", b"{}", b'{"streams":1}', b'{"streams":[1]}', b"\xff", b"[" * 5000]
)
def test_what_is_no_catalogue(text):
    assert catalog_of(text) is None
