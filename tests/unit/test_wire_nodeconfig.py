from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire import verbs
from appliance.wire.envelope import Meta, build_message, decode_message, encode_message, system_message
from appliance.wire.errors import Invalid
from appliance.wire.nodeconfig import (
    ConfigChanged,
    ConfigEnvelope,
    ConfigFault,
    ConfigGet,
    ConfigResponse,
    ConfigSet,
    VersionDecision,
    build_config_get,
    build_config_response,
    build_config_set,
    decide_change_version,
    decide_config_version,
    is_config_get,
    is_config_response,
    is_config_set,
    parse_config_changed,
    parse_config_request,
    parse_config_response,
)

ASKER = "2f1c9a54-7f0e-4b7c-8a53-3f0d7b1f6a10"
NODE = "9d3a0000-0000-4000-8000-000000000001"

SET = ConfigSet(
    node_name="AI.chat@hive1",
    schema_version=1,
    config_version=7,
    apply_mode="replace",
    config={"behavior": {"kind": "openai_chat"}},
)


def test_config_set_has_the_documented_shape() -> None:
    message = json.loads(encode_message(build_config_set(ASKER, SET)))
    assert message["routing"]["dst"] == "AI.chat@hive1"
    assert message["routing"]["ttl"] == 16
    assert message["meta"] == {
        "type": "system",
        "msg": "CONFIG_SET",
        "target": "node_config_control",
        "action": "CONFIG_SET",
    }
    assert message["payload"] == {
        "node_name": "AI.chat@hive1",
        "schema_version": 1,
        "config_version": 7,
        "apply_mode": "replace",
        "config": {"behavior": {"kind": "openai_chat"}},
    }


def test_options_reach_the_envelope() -> None:
    options = ConfigEnvelope(ttl=1, src_ilk="ilk:1", scope="global", context={"a": 1})
    message = json.loads(encode_message(build_config_get(ASKER, ConfigGet(node_name="AI.x@h"), options)))
    assert message["routing"]["ttl"] == 1
    assert message["meta"]["src_ilk"] == "ilk:1"
    assert message["meta"]["scope"] == "global"
    assert message["meta"]["context"] == {"a": 1}
    assert message["payload"] == {"node_name": "AI.x@h"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KNOWN = {"node_name", "schema_version", "config_version", "apply_mode", "config", "request_id"}
KNOWN |= {"contract_version", "requested_by", "extra"}


@given(
    config=st.dictionaries(st.text(max_size=4), json_values, max_size=3),
    extra=st.dictionaries(st.text(max_size=6).filter(lambda key: key not in KNOWN), json_values, max_size=3),
    version=st.integers(0, 2**64 - 1),
    request_id=st.none() | st.text(max_size=5),
)
def test_requests_round_trip_with_their_unknown_keys(config, extra, version, request_id) -> None:
    wanted = ConfigSet(
        node_name="AI.x@h",
        schema_version=3,
        config_version=version,
        apply_mode="replace",
        config=config,
        request_id=request_id,
        extra=extra,
    )
    message = decode_message(encode_message(build_config_set(ASKER, wanted)))
    assert is_config_set(message)
    assert parse_config_request(message) == wanted
    get = ConfigGet(node_name="AI.x@h", request_id=request_id, extra=extra)
    message = decode_message(encode_message(build_config_get(ASKER, get)))
    assert is_config_get(message)
    assert parse_config_request(message) == get


@pytest.mark.parametrize(
    "broken",
    [
        {"schema_version": 0},
        {"schema_version": None},
        {"config_version": -1},
        {"config_version": 1.5},
        {"apply_mode": None},
        {"config": []},
        {"node_name": 3},
    ],
)
def test_a_wrong_field_is_named(broken: dict[str, object]) -> None:
    payload = {"node_name": "a", "schema_version": 1, "config_version": 1, "apply_mode": "replace", **broken}
    message = system_message(src=ASKER, dst="a", verb=verbs.CONFIG_SET, payload=payload)
    with pytest.raises(Invalid, match=next(iter(broken))) as caught:
        parse_config_request(message)
    assert caught.value.code == "invalid_config"


def test_what_is_no_config_request_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        parse_config_request(system_message(src=ASKER, dst=None, verb="PING"))
    assert caught.value.code == "invalid_envelope"
    with pytest.raises(Invalid):
        parse_config_request(system_message(src=ASKER, dst=None, verb=verbs.CONFIG_GET, payload="x"))


def test_response_copies_what_the_reference_copies() -> None:
    request = build_message(
        src=ASKER,
        dst="AI.x@h",
        ttl=0,
        meta=Meta(
            type="system",
            msg="CONFIG_GET",
            src_ilk="ilk:1",
            scope="global",
            priority="high",
            thread_id="t",
            context=build_message(src="", dst=None, payload={"k": 1}).payload,
        ),
    )
    answer = json.loads(encode_message(build_config_response(request, ConfigResponse(ok=True), src=NODE)))
    assert answer["routing"] == {
        "src": NODE,
        "dst": ASKER,
        "ttl": 1,
        "trace_id": request.routing.trace_id,
    }
    assert answer["meta"] == {
        "type": "system",
        "msg": "CONFIG_RESPONSE",
        "src_ilk": "ilk:1",
        "scope": "global",
        "target": "node_config_control",
        "action": "CONFIG_RESPONSE",
        "priority": "high",
        "context": {"k": 1},
    }
    assert answer["payload"] == {"ok": True, "node_name": ""}


def test_response_to_a_blank_source_is_broadcast() -> None:
    request = system_message(src=" ", dst="AI.x@h", verb=verbs.CONFIG_GET, ttl=16)
    answer = build_config_response(request, ConfigResponse(ok=False))
    assert (answer.routing.dst, answer.routing.ttl, answer.routing.src) == ("broadcast", 16, "")


def test_response_round_trip() -> None:
    request = build_config_get(ASKER, ConfigGet(node_name="AI.x@h"))
    wanted = ConfigResponse(
        ok=False,
        node_name="AI.x@h",
        state="FAILED_CONFIG",
        schema_version=1,
        config_version=6,
        error=ConfigFault(code="stale_config_version", message="old"),
        extra={"subsystem": "chat"},
    )
    message = decode_message(encode_message(build_config_response(request, wanted, src=NODE)))
    assert is_config_response(message)
    assert parse_config_response(message) == wanted


@pytest.mark.parametrize(("key", "text"), [("message", "m"), ("detail", "d")])
def test_error_text_under_either_key(key: str, text: str) -> None:
    payload = {"ok": False, "error": {"code": "C", key: text}}
    response = parse_config_response(
        system_message(src=NODE, dst=ASKER, verb=verbs.CONFIG_RESPONSE, payload=payload)
    )
    assert response.error is not None
    assert response.error.text == text


def test_an_empty_response_is_readable() -> None:
    message = system_message(src=NODE, dst=ASKER, verb=verbs.CONFIG_RESPONSE, payload={})
    assert parse_config_response(message) == ConfigResponse()


def test_the_other_config_response_is_told_apart() -> None:
    payload = {"subsystem": "routes", "version": 43, "status": "ok", "hive": "hive1"}
    with pytest.raises(Invalid, match="CONFIG_CHANGED"):
        parse_config_response(
            system_message(src=NODE, dst=ASKER, verb=verbs.CONFIG_RESPONSE, payload=payload)
        )
    with pytest.raises(Invalid):
        parse_config_response(system_message(src=NODE, dst=ASKER, verb="PONG"))


@pytest.mark.parametrize(
    ("offered", "current", "zero_is_next", "expected"),
    [
        (1, None, False, VersionDecision.APPLY),
        (0, None, False, VersionDecision.APPLY),
        (8, 7, False, VersionDecision.APPLY),
        (7, 7, False, VersionDecision.UNCHANGED),
        (6, 7, False, VersionDecision.STALE),
        (0, 7, False, VersionDecision.STALE),
        (0, 7, True, VersionDecision.APPLY),
    ],
)
def test_config_versions(offered, current, zero_is_next, expected) -> None:
    assert decide_config_version(offered, current, zero_is_next=zero_is_next) is expected


@pytest.mark.parametrize(
    ("offered", "seen", "expected"),
    [(5, None, "apply"), (5, 4, "apply"), (4, 4, "stale"), (3, 4, "stale"), (0, 4, "apply")],
)
def test_change_versions(offered, seen, expected) -> None:
    assert decide_change_version(offered, seen) == expected


def test_config_changed_for_this_node() -> None:
    payload = {
        "subsystem": "node_config",
        "action": "set",
        "auto_apply": True,
        "version": 3,
        "config": {"node_name": "AI.x@h", "patch": {"a": 1}},
    }
    change = parse_config_changed(
        system_message(src=ASKER, dst="AI.x@h", verb=verbs.CONFIG_CHANGED, payload=payload)
    )
    assert change.node_patch("AI.x@h") == {"a": 1}
    assert change.node_patch("AI.y@h") is None
    assert (
        ConfigChanged(subsystem="routes", version=1, config={"node_name": "AI.x@h"}).node_patch("AI.x@h")
        is None
    )


def test_config_changed_allows_explicit_nulls_and_nothing_else() -> None:
    payload = {"subsystem": "routes", "action": None, "auto_apply": None, "version": 43, "config": None}
    message = system_message(src=ASKER, dst="broadcast", verb=verbs.CONFIG_CHANGED, payload=payload)
    assert parse_config_changed(message) == ConfigChanged(subsystem="routes", version=43)
    with pytest.raises(Invalid):
        parse_config_changed(system_message(src=ASKER, dst=None, verb=verbs.CONFIG_CHANGED, payload={}))
    with pytest.raises(Invalid):
        parse_config_changed(system_message(src=ASKER, dst=None, verb=verbs.OPA_RELOAD, payload=payload))
