"""Folding, row by row of the specification's table."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.services.admin.fold import fold, transport_failure
from appliance.wire.errors import Unavailable, Unreachable

GOOD = [b'{"status":"ok"}', b'{"status":"OK"}', b'{"status":"not_found"}', b'{"ok":true,"verb":"TIMER_NOW"}']

BAD = [
    ({"status": "error", "error_code": "NODE_NOT_FOUND", "message": "m"}, 404, "NODE_NOT_FOUND", "m"),
    ({"status": "error", "error_code": "X", "error_detail": "d", "message": "m"}, 500, "X", "d"),
    ({"status": "error"}, 502, "SERVICE_FAILED", None),
    ({"status": "rollback"}, 502, "SERVICE_FAILED", None),
    ({"ok": False, "error": {"code": "COMPILE_ERROR", "detail": "line 1"}}, 422, "COMPILE_ERROR", "line 1"),
    ({"ok": False, "error": {"code": "TIMER_X", "message": "no"}}, 500, "TIMER_X", "no"),
    ({}, 502, "SERVICE_FAILED", None),
    ({"status": 7, "error_code": ""}, 502, "SERVICE_FAILED", None),
]


@pytest.mark.parametrize("payload", GOOD)
def test_what_counts_as_ok(payload):
    outcome = fold("act", payload)
    assert (outcome.http_status, outcome.status, outcome.error_code) == (200, "ok", None)
    assert bytes(outcome.payload) == payload


def test_sync_pending_is_202_and_no_error():
    outcome = fold("update", b'{"status":"sync_pending","local_manifest_hash":"x"}')
    assert (outcome.http_status, outcome.status, outcome.error_code) == (202, "sync_pending", None)


@pytest.mark.parametrize(("payload", "http_status", "code", "detail"), BAD)
def test_everything_else_is_an_error(payload, http_status, code, detail):
    outcome = fold("act", msgspec.json.encode(payload))
    assert (outcome.status, outcome.http_status, outcome.error_code) == ("error", http_status, code)
    assert outcome.error_detail == detail
    assert msgspec.json.decode(outcome.body())["payload"] == payload


def test_an_action_may_bypass_the_table():
    payload = b'{"status":"error","error_code":"RUNTIME_MANIFEST_MISSING"}'
    assert fold("run_node", payload).http_status == 503
    assert fold("remove_runtime_version", payload, {"RUNTIME_MANIFEST_MISSING": 409}).http_status == 409


@given(st.binary(max_size=64))
def test_no_answer_breaks_it(payload):
    outcome = fold("act", payload)
    assert outcome.status in ("ok", "error", "sync_pending")


def test_a_router_that_refuses_is_a_transport_error_with_the_token():
    error = Unreachable("no", code="NODE_NOT_FOUND")
    outcome = transport_failure("update", "SY.orchestrator@w", error, last_hop="RT.gateway@m")
    assert (outcome.http_status, outcome.error_code) == (502, "TRANSPORT_ERROR")
    assert outcome.error_detail == (
        "router returned UNREACHABLE for target=SY.orchestrator@w reason=NODE_NOT_FOUND"
        " original_dst=SY.orchestrator@w last_hop=RT.gateway@m"
    )
    expired = transport_failure("update", "X@w", Unreachable("no", code="TTL_EXCEEDED"))
    assert "TTL_EXCEEDED" in str(expired.error_detail)


def test_silence_is_a_timeout():
    outcome = transport_failure("update", "X@w", Unreachable("no reply", code="TIMEOUT"))
    assert (outcome.http_status, outcome.error_code) == (504, "TIMEOUT")
    assert "timed out" in str(outcome.error_detail)
    assert transport_failure("x", "y", Unavailable("down")).error_code == "TRANSPORT_ERROR"
