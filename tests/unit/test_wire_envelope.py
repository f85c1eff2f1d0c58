from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire import verbs
from appliance.wire.envelope import (
    Message,
    Meta,
    announce,
    build_message,
    decode_message,
    encode_message,
    hello,
    raw_json,
    system_message,
    withdraw,
)
from appliance.wire.errors import Invalid
from appliance.wire.ids import canonical_uuid

UUID = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
BARE = {
    "routing": {"src": UUID, "dst": None, "ttl": 1, "trace_id": "t"},
    "meta": {"type": "user"},
    "payload": None,
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
optional_text = st.none() | st.text(max_size=5)


def with_key(path: str, value: object) -> dict[str, object]:
    changed = json.loads(json.dumps(BARE))
    *inner, last = path.split(".")
    place = changed
    for key in inner:
        place = place[key]
    place[last] = value
    return changed


def without(path: str) -> dict[str, object]:
    changed = with_key(path, None)
    place = changed
    *inner, last = path.split(".")
    for key in inner:
        place = place[key]  # type: ignore[assignment]
    del place[last]
    return changed


@given(
    json_values,
    st.builds(
        Meta, type=st.text(max_size=5), msg=optional_text, thread_id=optional_text, action=optional_text
    ),
    st.none() | st.text(max_size=9),
    st.integers(0, 255),
)
def test_what_is_encoded_is_decoded(payload: object, meta: Meta, dst: str | None, ttl: int) -> None:
    sent = build_message(src=UUID, dst=dst, payload=payload, meta=meta, ttl=ttl, trace_id="t")
    got = decode_message(encode_message(sent))
    assert (got.routing, got.meta) == (sent.routing, sent.meta)
    assert got.json() == payload


def test_optional_keys_are_left_out_and_dst_never_is() -> None:
    assert json.loads(encode_message(build_message(src=UUID, dst=None, ttl=1, trace_id="t"))) == BARE


def test_keys_come_in_the_reference_order() -> None:
    sent = build_message(src=UUID, dst="AI.x@h", meta=Meta(type="user", context=raw_json({}), msg="m"))
    sent.routing.src_l2_name = "AI.y@h"
    parsed = json.loads(encode_message(sent))
    assert list(parsed) == ["routing", "meta", "payload"]
    assert list(parsed["routing"]) == ["src", "src_l2_name", "dst", "ttl", "trace_id"]
    assert list(parsed["meta"]) == ["type", "msg", "context"]


def test_payload_bytes_are_kept() -> None:
    body = json.dumps(BARE).replace('"payload": null', '"payload": {"a" : 1.00, "b":"\\u0041"}').encode()
    assert bytes(decode_message(body).payload) == b'{"a" : 1.00, "b":"\\u0041"}'


@pytest.mark.parametrize("path", ["extra", "routing.extra", "meta.extra"])
def test_unknown_keys_are_dropped(path: str) -> None:
    body = json.dumps(with_key(path, {"a": [1]})).encode()
    assert json.loads(encode_message(decode_message(body))) == BARE


@pytest.mark.parametrize("key", [key for key in Meta.__struct_fields__ if key != "type"])
def test_an_explicit_null_is_as_good_as_absent(key: str) -> None:
    message = decode_message(json.dumps(with_key(f"meta.{key}", None)).encode())
    assert getattr(message.meta, key) is None
    assert json.loads(encode_message(message)) == BARE


def test_a_missing_payload_is_null() -> None:
    assert decode_message(json.dumps(without("payload")).encode()).json() is None


@pytest.mark.parametrize(
    "path",
    ["routing", "meta", "routing.src", "routing.dst", "routing.ttl", "routing.trace_id", "meta.type"],
)
def test_what_the_reference_requires_is_required(path: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode_message(json.dumps(without(path)).encode())
    assert caught.value.code == "INVALID_FRAME"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("routing", []),
        ("routing.src", 1),
        ("routing.dst", 1),
        ("routing.ttl", "16"),
        ("routing.ttl", 16.0),
        ("routing.ttl", True),
        ("meta.type", None),
        ("meta.thread_seq", "1"),
        ("meta.ctx_window", [{"seq": 1}]),
    ],
)
def test_wrong_types_are_refused(path: str, value: object) -> None:
    with pytest.raises(Invalid):
        decode_message(json.dumps(with_key(path, value)).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"\xff"', b"null", b"[" * 100_000])
def test_garbage_is_invalid_and_nothing_worse(body: bytes) -> None:
    with pytest.raises(Invalid):
        decode_message(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_invalid(body: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert isinstance(decode_message(body), Message)


def test_ctx_window_is_read_with_its_reserved_word() -> None:
    turn = {"seq": 1, "ts": "2026-01-01T00:00:00Z", "from": "ilk:a", "type": "text", "text": "hi"}
    message = decode_message(json.dumps(with_key("meta.ctx_window", [turn])).encode())
    assert message.meta.ctx_window is not None
    assert message.meta.ctx_window[0].sender == "ilk:a"
    assert json.loads(encode_message(message))["meta"]["ctx_window"] == [turn]


def test_a_payload_of_another_shape_names_the_place() -> None:
    class Wanted(msgspec.Struct):
        count: int

    with pytest.raises(Invalid) as caught:
        build_message(src=UUID, dst=None, payload={"count": "x"}).payload_as(Wanted)
    assert caught.value.code == "INVALID_PAYLOAD"
    assert caught.value.field == "payload"
    assert "count" in caught.value.message


def test_hello_is_what_the_reference_sends() -> None:
    assert json.loads(encode_message(hello(UUID, "AI.support.l1@hive1", "1.0", "t"))) == {
        "routing": {"src": UUID, "dst": None, "ttl": 1, "trace_id": "t"},
        "meta": {"type": "system", "msg": "HELLO"},
        "payload": {"uuid": UUID, "name": "AI.support.l1@hive1", "version": "1.0"},
    }


def test_withdraw_is_what_the_reference_sends() -> None:
    said = json.loads(encode_message(withdraw(UUID)))
    assert canonical_uuid(said["routing"].pop("trace_id")) is not None
    assert said == {
        "routing": {"src": UUID, "dst": None, "ttl": 1},
        "meta": {"type": "system", "msg": "WITHDRAW"},
        "payload": {"uuid": UUID},
    }


def test_announce_has_the_five_fields_and_echoes_the_hello() -> None:
    router = "00000000-0000-4000-8000-0000000000ff"
    braced = f"{{{UUID.upper()}}}"
    answer = announce(
        router=router,
        router_name="RT.gateway@h",
        hello_src=braced,
        trace_id="e1",
        uuid=UUID.upper(),
        name="AI.a@h",
        vpn_id=7,
    )
    assert json.loads(encode_message(answer)) == {
        "routing": {"src": router, "dst": braced, "ttl": 1, "trace_id": "e1"},
        "meta": {"type": "system", "msg": "ANNOUNCE"},
        "payload": {
            "uuid": UUID.upper(),
            "name": "AI.a@h",
            "status": "registered",
            "vpn_id": 7,
            "router_name": "RT.gateway@h",
        },
    }


def test_a_system_message_carries_its_verb_and_a_fresh_trace() -> None:
    first = system_message(
        src=UUID, dst="SY.x@h", verb=verbs.CONFIG_GET, scope="global", target="a", action="b"
    )
    second = system_message(src=UUID, dst="SY.x@h", verb=verbs.CONFIG_GET)
    assert first.routing.trace_id != second.routing.trace_id
    assert (first.routing.ttl, first.meta.type, first.meta.msg) == (16, "system", "CONFIG_GET")
    assert (first.meta.scope, first.meta.target, first.meta.action) == ("global", "a", "b")
    assert first.source_l2_name is None


def test_an_empty_trace_is_a_trace() -> None:
    # An answer carries the trace of its question, whatever that was.
    assert system_message(src=UUID, dst=None, verb=verbs.UNREACHABLE, trace_id="").routing.trace_id == ""


@pytest.mark.parametrize("value", [{"io": {"channel": "x"}}, {}, [1], "text", 7, False])
def test_context_and_memory_arrive_as_they_were_sent(value: object) -> None:
    meta = Meta(type="user", context=raw_json(value), memory_package=raw_json(value))
    read = decode_message(encode_message(build_message(src=UUID, dst="AI.x@h", meta=meta)))
    assert read.meta.context is not None
    assert json.loads(bytes(read.meta.context)) == value
    assert read.meta.memory_package is not None
    assert json.loads(bytes(read.meta.memory_package)) == value
