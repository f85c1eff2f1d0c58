"""Errors become faults, faults become the bodies that each outside expects."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException
from trio.testing import trio_test

from appliance.http.errors import (
    BodyTimeout,
    DeadlinePassed,
    Fault,
    PayloadTooLarge,
    envelope_shape,
    from_http_exception,
    not_found,
    plain_shape,
    world_shape,
)
from appliance.wire.errors import Busy, Invalid, NotFound, Refused, Unavailable


def test_a_fault_says_what_the_error_said() -> None:
    fault = Fault.from_error(Invalid("no such mode", field="nats.mode", remedy="Use embedded or client."))
    assert fault == Fault(
        status=400,
        code="INVALID_REQUEST",
        message="no such mode",
        remedy="Use embedded or client.",
        field="nats.mode",
    )
    assert fault.headers() == []


@pytest.mark.parametrize(("seconds", "text"), [(0.2, b"1"), (1.0, b"1"), (2.5, b"3")])
def test_busy_says_when_to_come_back_in_whole_seconds(seconds: float, text: bytes) -> None:
    assert Fault.from_error(Busy("full", retry_after_s=seconds)).headers() == [(b"retry-after", text)]


def test_an_unexpected_error_says_only_where_to_look() -> None:
    fault = Fault.internal("abc123")
    assert fault.status == 500
    assert fault.code == "INTERNAL"
    assert "abc123" in fault.message


def test_the_envelope_has_its_five_keys_and_no_more() -> None:
    body = envelope_shape(Fault.from_error(NotFound("no node X")))
    assert body == {
        "status": "error",
        "action": None,
        "payload": None,
        "error_code": "NOT_FOUND",
        "error_detail": "no node X (Check the name.)",
    }
    assert envelope_shape(Fault(status=500, code="X", message="m"))["error_detail"] == "m"


def test_the_world_shape_leads_with_error() -> None:
    body = world_shape(Fault.from_error(PayloadTooLarge("payload too large")))
    assert body["error"] == "payload too large"


def test_the_plain_shape_names_the_field_where_there_is_one() -> None:
    assert "field" not in plain_shape(Fault(status=400, code="X", message="m"))
    assert plain_shape(Fault(status=400, code="X", message="m", field="a.b"))["field"] == "a.b"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Refused), (403, Refused), (404, NotFound), (405, Invalid), (418, Invalid), (503, Unavailable)],
)
def test_starlettes_exceptions_keep_their_status(status: int, kind: type[Exception]) -> None:
    mapped = from_http_exception(HTTPException(status))
    assert type(mapped) is kind
    assert mapped.status == status
    assert mapped.message


def test_the_doors_own_errors_have_their_statuses() -> None:
    assert (PayloadTooLarge("x").status, DeadlinePassed("x").status, BodyTimeout("x").status) == (
        413,
        504,
        408,
    )


@pytest.mark.parametrize(("kind", "prefix"), [("http", "http"), ("websocket", "websocket.http")])
@trio_test
async def test_nobodys_path_is_exactly_not_found(kind: str, prefix: str) -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        raise AssertionError

    await not_found({"type": kind}, receive, send)
    assert [m["type"] for m in sent] == [f"{prefix}.response.start", f"{prefix}.response.body"]
    assert sent[0]["status"] == 404
    assert sent[1]["body"] == b'{"error":"not_found"}'
