from __future__ import annotations

import pytest

from appliance.wire import verbs
from appliance.wire.envelope import build_message, decode_message, encode_message, system_message
from appliance.wire.errors import Invalid
from appliance.wire.nodestatus import (
    HealthState,
    NodeStatus,
    build_status_request,
    build_status_response,
    is_status_request,
    is_status_response,
    parse_health_state,
    parse_status_response,
)

ASKER = "2f1c9a54-7f0e-4b7c-8a53-3f0d7b1f6a10"
NODE = "9d3a0000-0000-4000-8000-000000000001"


def test_request_has_the_documented_shape() -> None:
    request = decode_message(encode_message(build_status_request(ASKER, "AI.x@hive1")))
    assert is_status_request(request)
    assert not is_status_response(request)
    assert (request.routing.dst, request.routing.ttl) == ("AI.x@hive1", 16)
    assert request.json() == {"node_name": "AI.x@hive1"}


def test_default_response_has_only_the_first_two_keys() -> None:
    request = build_status_request(ASKER, "AI.x@hive1")
    response = decode_message(encode_message(build_status_response(request, src=NODE)))
    assert is_status_response(response)
    assert response.json() == {"status": "ok", "health_state": "HEALTHY"}
    assert response.routing.dst == ASKER
    assert response.routing.ttl == 16
    assert response.routing.trace_id == request.routing.trace_id


def test_response_round_trip_with_details() -> None:
    request = build_status_request(ASKER, "AI.x@hive1")
    response = build_status_response(
        request, src=NODE, health=HealthState.ERROR, last_error={"code": 1}, extensions=["a"]
    )
    assert parse_status_response(decode_message(encode_message(response))) == NodeStatus(
        status="ok", health_state=HealthState.ERROR, last_error={"code": 1}, extensions=["a"]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("degraded", HealthState.DEGRADED),
        (" Error ", HealthState.ERROR),
        ("UNKNOWN", HealthState.UNKNOWN),
        ("fine, thanks", HealthState.HEALTHY),
        ("", HealthState.HEALTHY),
    ],
)
def test_health_words(text: str, expected: HealthState) -> None:
    assert parse_health_state(text) is expected


def test_details_are_found_one_level_down() -> None:
    message = system_message(
        src=NODE,
        dst=ASKER,
        verb=verbs.NODE_STATUS_GET_RESPONSE,
        payload={
            "status": "ok",
            "payload": {"health_state": "DEGRADED", "last_error": "disk", "extensions": 1},
        },
    )
    assert parse_status_response(message) == NodeStatus(
        status="ok", health_state=HealthState.DEGRADED, last_error="disk", extensions=1
    )


def test_a_payload_that_is_not_an_object_is_invalid() -> None:
    with pytest.raises(Invalid) as caught:
        parse_status_response(build_message(src=NODE, dst=ASKER, payload=[1]))
    assert caught.value.field == "payload"


def test_a_user_message_is_no_status_request() -> None:
    message = build_status_request(ASKER, "AI.x@hive1")
    message.meta.type = "user"
    assert not is_status_request(message)
