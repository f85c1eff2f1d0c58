"""Outcomes as bodies: five keys, three keys, or the payload alone."""

from __future__ import annotations

import msgspec

from appliance.wire.admin.outcome import AdminOutcome, failure, from_error
from appliance.wire.errors import Conflict


def test_an_envelope_has_five_keys_whatever_happened():
    good = AdminOutcome(http_status=200, status="ok", action="x", payload=msgspec.Raw(b'{"a": 1}'))
    assert msgspec.json.decode(good.body()) == {
        "status": "ok",
        "action": "x",
        "payload": {"a": 1},
        "error_code": None,
        "error_detail": None,
    }
    assert b'{"a": 1}' in good.body()  # verbatim
    bad = msgspec.json.decode(failure("x", "NOT_FOUND", "no").body())
    assert list(bad) == ["status", "action", "payload", "error_code", "error_detail"]
    assert bad["payload"] is None


def test_the_short_form_has_one_key_or_three():
    good = AdminOutcome(http_status=200, status="ok", action="x", form="short")
    assert good.body() == b'{"status":"ok"}'
    bad = failure("x", "VERSION_MISMATCH", "old", form="short")
    assert msgspec.json.decode(bad.body()) == {
        "status": "error",
        "error_code": "VERSION_MISMATCH",
        "error_detail": "old",
    }
    assert bad.http_status == 409


def test_the_bare_form_is_the_payload():
    assert AdminOutcome(http_status=200, status="ok", action="x", payload=[1], form="bare").body() == b"[1]"


def test_an_error_keeps_code_and_details():
    outcome = from_error("x", Conflict("it is there", code="HIVE_EXISTS", details={"hive_id": "a"}))
    assert (outcome.http_status, outcome.error_code) == (409, "HIVE_EXISTS")
    assert outcome.payload == {"hive_id": "a"}
