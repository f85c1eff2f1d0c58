"""Rules of events: ``spec/flux-state.md §1``."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.errors import Invalid
from appliance.world.events import (
    MAX_EVENTS,
    Event,
    IdSource,
    decode_batch,
    decode_event,
    encode_event,
    entity_id_fault,
    fault_of,
)

GOOD = {
    "eventId": "e-1",
    "stream": "sensors",
    "source": "plc",
    "timestamp": 1,
    "key": "k",
    "schema": "s",
    "payload": {"entity_id": "a/b", "properties": {"p": 1}},
}


def text(**changes: object) -> bytes:
    return json.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not ...}).encode()


def fault(**changes: object) -> str:
    return fault_of(decode_event(text(**changes)))


@pytest.mark.parametrize(
    "stream", ["sensors", "sensors.temperature", "sensors.zone1.temp", "data123", "a.b.c.d"]
)
def test_streams_that_are_valid(stream):
    """AT-IN-9, EV-02."""
    assert fault(stream=stream) == ""
    assert fault(stream=stream, eventId=..., key=..., schema=...) == ""


@pytest.mark.parametrize(
    "stream",
    [".sensors", "sensors.", "sensors..temp", "Sensors", "sensors-temp", "sensors_temp", "a/b", "é", "a\n"],
)
def test_streams_that_are_not(stream):
    """AT-IN-9, AT-EV-4: step 4."""
    assert fault(stream=stream) == f"invalid stream format '{stream}': must be lowercase with optional dots"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stream": ""}, "stream is required"),
        ({"source": ""}, "source is required"),
        ({"payload": None}, "payload is required"),
        ({"timestamp": 0}, "timestamp must be positive, got 0"),
        ({"timestamp": -1}, "timestamp must be positive, got -1"),
        ({"payload": "text"}, "payload must be a JSON object"),
        ({"payload": [1]}, "payload must be a JSON object"),
        ({"stream": "", "source": "", "payload": None}, "stream is required"),
        ({"stream": "A", "payload": 1, "timestamp": 0}, "invalid stream format 'A'"),
        ({"timestamp": 0, "payload": 1}, "timestamp must be positive"),
        ({"stream": "a" * 256}, "stream is longer than 255 bytes"),
        ({"source": "é" * 257}, "source is longer than 512 bytes"),
        ({"key": "k" * 513}, "key is longer"),
        ({"schema": "k" * 513}, "schema is longer"),
        ({"eventId": "k" * 513}, "eventId is longer"),
        ({"payload": {"entity_id": ""}}, "entity_id must have 1 to 1024 bytes"),
        ({"payload": {"entity_id": "a\tb"}}, "entity_id must not contain control"),
    ],
)
def test_the_first_rule_that_fails_speaks(changes, words):
    """§1.2, EV-21, AT-EV-2 to AT-EV-9."""
    assert fault(**changes).startswith(words)
    assert fault(**{"eventId": ..., "key": ..., "schema": ..., **changes}).startswith(words)


def test_what_is_optional():
    """EV-01, EV-04, EV-05, EV-06; AT-NEW-3."""
    for missing in ("eventId", "timestamp", "key", "schema"):
        assert fault(**{missing: ...}) == ""
        assert fault(**{missing: None}) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": ...},
        {"source": ...},
        {"payload": ...},
        {"timestamp": "1"},
        {"timestamp": 1.0},
        {"timestamp": 1 << 63},
        {"source": 1},
        {"eventId": 7},
    ],
)
def test_wrong_types_and_missing_fields_do_not_parse(changes):
    """§1.2 step 0, EV-20."""
    with pytest.raises(Invalid):
        decode_event(text(**changes))


@pytest.mark.parametrize(
    "value",
    [b"1e400", b"NaN", b"Infinity", b'"\\ud800"', b'"\xff"', b"01", b"[" * 129 + b"]" * 129, b"[" * 9999],
)
def test_values_that_no_reader_should_meet(value):
    """EV-13, EV-14."""
    with pytest.raises(Invalid):
        encode_event(decode_event(b'{"stream":"a","source":"b","payload":{"properties":{"p":%b}}}' % value))


@pytest.mark.parametrize("inner", [b"1" * 25, b'"\\u0041"'])
def test_deep_nesting_is_told_whatever_is_inside(inner):
    deep = b"[" * 970 + inner + b"]" * 970
    with pytest.raises(Invalid):
        encode_event(decode_event(b'{"stream":"a","source":"b","payload":{"p":%b}}' % deep))


def test_numbers_are_exact_within_64_bits_and_doubles_beyond():
    """EV-13."""
    values = b"[9223372036854775807,18446744073709551615,-9223372036854775808,123456789012345678901,1.50]"
    made = encode_event(decode_event(b'{"stream":"a","source":"b","payload":{"n":%b}}' % values))
    kept = json.loads(made)["payload"]["n"]
    assert kept == [2**63 - 1, 2**64 - 1, -(2**63), 1.2345678901234568e20, 1.5]
    assert [type(one) for one in kept] == [int, int, int, float, float]


def test_an_integer_beyond_any_double_is_refused():
    text_ = b'{"stream":"a","source":"b","payload":{"n":%b}}' % (b"9" * 400)
    with pytest.raises(Invalid):
        encode_event(decode_event(text_))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_an_envelope_key_that_comes_twice(name):
    """EV-11: also hidden by an escape, and in a batch only that event is lost."""
    value = json.dumps(GOOD[name])
    head, escaped = name[0], f"\\u{ord(name[0]):04x}"
    for spelling in (name, escaped + name[1:]):
        twice = text()[:-1] + f',"{spelling}":{value}}}'.encode()
        with pytest.raises(Invalid, match=f"duplicate field `{name}`"):
            decode_event(twice)
        found = decode_batch(b'{"events":[%b,%b]}' % (twice, text()))
        assert found[0] == f"duplicate field `{name}`"
        assert isinstance(found[1], Event)
    assert head


def test_a_property_named_like_an_envelope_key_is_no_duplicate():
    properties = dict.fromkeys(GOOD, 1)
    one = text(payload={"entity_id": "a", "key": "k", "properties": properties})
    assert isinstance(decode_event(one), Event)
    assert all(isinstance(found, Event) for found in decode_batch(b'{"events":[%b,%b]}' % (one, one)))


def test_unknown_keys_go_those_of_the_payload_stay():
    """EV-11, EV-12, AT-EV-13, AT-EV-14."""
    one = decode_event(text(namespace="x", key=None, schema=..., payload={"entity_id": "a", "more": [1]}))
    stored = json.loads(encode_event(one))
    assert stored == {
        "eventId": "e-1",
        "stream": "sensors",
        "source": "plc",
        "timestamp": 1,
        "payload": {"entity_id": "a", "more": [1]},
    }


def test_the_stored_form_is_compact_and_in_order():
    """HT-02."""
    assert encode_event(decode_event(text())).startswith(b'{"eventId":"e-1","stream":"sensors","source":')


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"events":{}}', b'{"events":[}', b'{"events":[\xff]}'])
def test_a_body_that_is_no_batch(body):
    """EP-05."""
    with pytest.raises(Invalid):
        decode_batch(body)


def test_how_many_events_a_batch_may_have():
    """EP-05, EV-21."""
    with pytest.raises(Invalid, match="Batch request must contain at least one event"):
        decode_batch(b'{"events":[]}')
    with pytest.raises(Invalid, match="at most 100000"):
        decode_batch(b'{"events":[' + b"1," * MAX_EVENTS + b"1]}")


def test_one_bad_event_does_not_sink_the_others():
    """EP-05 [ours], DF-16."""
    found = decode_batch(b'{"events":[%b,{"stream":"a"},7,%b],"x":1}' % (text(), text(timestamp=None)))
    assert [type(one) for one in found] == [Event, str, str, Event]
    assert "source" in found[1]


def test_generated_ids_are_version_7_and_ascend():
    """EV-01, AT-EV-10."""
    prefix, first = IdSource().take(3, 0x0123456789AB)
    ids = [f"{prefix}{first + number:012x}" for number in range(3)]
    assert ids == sorted(ids)
    assert len({*ids, *[f"{p}{f:012x}" for p, f in [IdSource().take(1, 5) for _ in range(50)]]}) == 53
    for one in ids:
        assert re.fullmatch(r"01234567-89ab-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one)


@given(st.text(max_size=400))
def test_ids_are_bounded_in_bytes_and_without_control_characters(one):
    fine = 0 < len(one.encode("utf-8", "replace")) <= 1024
    fine = fine and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in one)
    assert (entity_id_fault(one) == "") == fine


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(), st.lists))
def test_any_json_comes_back(value):
    one = {"stream": "a", "source": "b", "payload": {"v": value}}
    assert json.loads(encode_event(decode_event(json.dumps(one).encode())))["payload"] == {"v": value}
