"""The rules that hold for each request, on a fake server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from trio.testing import MockClock

from appliance.http.config import DoorConfig
from appliance.http.counters import Counters
from appliance.http.errors import PayloadTooLarge, envelope_shape
from appliance.http.gate import Gate, extend_deadline
from appliance.system.log import capture
from appliance.wire.errors import Busy, Invalid, Refused

App = Callable[[Scope, Receive, Send], Awaitable[None]]
WHOLE: Message = {"type": "http.request", "body": b"", "more_body": False}
PLAIN_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


class Exchange:
    """What came back from one request."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.counters = Counters()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent[1:])

    @property
    def json(self) -> dict[str, object]:
        return dict(json.loads(self.body))


def run(
    app: App,
    config: DoorConfig | None = None,
    incoming: tuple[Message, ...] = (WHOLE,),
    *,
    kind: str = "http",
    **headers: str,
) -> Exchange:
    exchange = Exchange()
    waiting = list(incoming)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        exchange.sent.append(message)

    scope: Scope = {
        "type": kind,
        "path": "/x",
        "client": ("127.0.0.1", 1),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }
    if kind == "http":
        scope["method"] = "POST"
    gate = Gate(app, config or DoorConfig(name="t"), exchange.counters)
    trio.run(gate, scope, receive, send, clock=MockClock(autojump_threshold=0))
    return exchange


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": PLAIN_HEADERS})
    await send({"type": "http.response.body", "body": b"ok"})


async def drink(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await ok(scope, receive, send)


def raising(error: Exception) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


def test_an_answer_passes_and_gets_the_security_headers() -> None:
    done = run(ok)
    assert (done.status, done.body) == (200, b"ok")
    assert done.headers[b"x-content-type-options"] == b"nosniff"
    assert done.headers[b"referrer-policy"] == b"no-referrer"
    assert b"default-src 'self'" in done.headers[b"content-security-policy"]
    assert done.counters.responses[2] == 1


def test_a_handlers_own_header_wins() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Content-Security-Policy", b"default-src 'none'")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    config = DoorConfig(name="t", headers=((b"access-control-allow-origin", b"*"),))
    given = run(app, config).sent[0]["headers"]
    policies = [value for name, value in given if name.lower() == b"content-security-policy"]
    assert policies == [b"default-src 'none'"]
    assert (b"access-control-allow-origin", b"*") in given


def test_an_error_of_the_tree_becomes_its_answer() -> None:
    done = run(raising(Invalid("no such mode", field="mode")))
    assert done.status == 400
    assert done.headers[b"content-type"] == b"application/json"
    assert done.headers[b"content-length"] == str(len(done.body)).encode()
    assert done.json["error"] == "no such mode"
    assert done.json["field"] == "mode"


def test_a_group_of_one_is_that_one() -> None:
    assert run(raising(ExceptionGroup("g", [ExceptionGroup("h", [Refused("no")])]))).status == 403


def test_busy_says_when_to_come_back() -> None:
    done = run(raising(Busy("full", retry_after_s=3)))
    assert (done.status, done.headers[b"retry-after"]) == (503, b"3")


def test_the_door_chooses_the_shape() -> None:
    done = run(raising(Invalid("bad")), DoorConfig(name="t", error_shape=envelope_shape))
    assert set(done.json) == {"status", "action", "payload", "error_code", "error_detail"}


def test_starlettes_exceptions_are_json_too() -> None:
    done = run(raising(HTTPException(405)))
    assert (done.status, done.json["error"]) == (405, "Method Not Allowed")


def test_the_unexpected_is_a_500_with_an_id_and_no_detail() -> None:
    done = run(raising(RuntimeError("secret detail")))
    assert done.status == 500
    assert b"secret" not in done.body
    assert str(done.json["error"]).startswith("internal error ")
    assert done.counters.internal_errors == 1


def test_the_id_of_a_500_is_in_the_log() -> None:
    with capture() as records:
        done = run(raising(RuntimeError("secret detail")))
    (record,) = records
    assert record.event == "http_handler_failed"
    assert str(record.fields["error_id"]) in str(done.json["error"])
    assert "secret detail" in str(record.trace)


def test_no_answer_at_all_is_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    assert run(app).status == 500


def test_an_error_after_the_start_ends_the_response_unfinished() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("late")

    done = run(app)
    assert [m["type"] for m in done.sent] == ["http.response.start", "http.response.body"]
    assert done.sent[-1]["more_body"] is True
    assert done.counters.internal_errors == 1


def test_an_answer_left_half_is_counted_as_a_defect() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert run(app).counters.internal_errors == 1


def test_an_announced_long_body_is_refused_unread() -> None:
    done = run(
        raising(AssertionError("the handler ran")),
        DoorConfig(name="t", max_body_bytes=10),
        content_length="11",
    )
    assert done.status == 413
    assert done.json["error"] == "payload too large"
    assert "10 bytes" in str(done.json["remedy"])
    assert done.counters.bodies_too_large == 1


def test_a_long_body_that_announced_nothing_is_refused_when_it_gets_long() -> None:
    parts: list[Message] = [{"type": "http.request", "body": b"x" * 6, "more_body": True} for _ in range(9)]
    done = run(drink, DoorConfig(name="t", max_body_bytes=10), tuple(parts))
    assert done.status == 413


def test_a_body_at_the_limit_passes() -> None:
    part: Message = {"type": "http.request", "body": b"x" * 10, "more_body": False}
    assert run(drink, DoorConfig(name="t", max_body_bytes=10), (part,), content_length="10").status == 200


def test_a_handler_that_takes_too_long_is_a_504() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep_forever()

    done = run(app)
    assert (done.status, done.json["code"]) == (504, "TIMEOUT")
    assert "timed out" in str(done.json["error"])
    assert done.counters.deadline_hits == 1


def test_a_client_that_does_not_finish_its_request_is_a_408() -> None:
    part: Message = {"type": "http.request", "body": b"x", "more_body": True}
    done = run(drink, incoming=(part,))
    assert done.status == 408
    assert (done.counters.body_timeouts, done.counters.deadline_hits) == (1, 0)


def test_waiting_for_the_client_to_leave_is_not_reading() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            await receive()

    assert run(app).status == 504


def test_a_handler_may_ask_for_more_time() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        extend_deadline(scope, 180)
        await trio.sleep(170)
        await ok(scope, receive, send)

    assert run(app).status == 200


def test_the_deadline_is_for_the_beginning_of_the_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep(1000)
        await send({"type": "http.response.body", "body": b"late"})

    assert run(app).body == b"late"


def test_extending_outside_a_gate_does_nothing() -> None:
    extend_deadline({}, 5)


def test_a_client_that_left_gets_nothing_and_is_no_defect() -> None:
    done = run(raising(ClientDisconnect()))
    assert done.sent == []
    assert (done.counters.clients_gone, done.counters.internal_errors) == (1, 0)


def test_a_refusal_is_counted_by_its_reason() -> None:
    done = run(ok, host="evil.example")
    assert (done.status, done.json["code"]) == (403, "HOST_REFUSED")
    done = run(ok, host="localhost", origin="http://evil.example")
    assert done.counters.refused["ORIGIN_REFUSED"] == 1
    done = run(ok, DoorConfig(name="t", token="s", ask_whom="all"))
    assert (done.status, done.headers[b"www-authenticate"]) == (401, b"Bearer")


def test_other_scopes_are_not_offered() -> None:
    assert run(raising(AssertionError("the handler ran")), kind="lifespan").sent == []


# WebSockets.

CONNECT: Message = {"type": "websocket.connect"}


def session(*messages: Message, then: Exception | None = None) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)
        if then is not None:
            raise then

    return app


ACCEPT: Message = {"type": "websocket.accept"}


def test_a_session_that_returns_is_closed_normally() -> None:
    done = run(session(ACCEPT), incoming=(CONNECT,), kind="websocket")
    assert done.sent == [ACCEPT, {"type": "websocket.close", "code": 1000}]
    assert (done.counters.responses[1], done.counters.open_websockets) == (1, 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [(Refused("no"), 1008), (Busy("full"), 1013), (PayloadTooLarge("big"), 1009), (RuntimeError("x"), 1011)],
)
def test_an_error_closes_the_session_with_its_code(error: Exception, code: int) -> None:
    done = run(session(ACCEPT, then=error), incoming=(CONNECT,), kind="websocket")
    assert done.sent[-1]["type"] == "websocket.close"
    assert done.sent[-1]["code"] == code
    assert len(str(done.sent[-1]["reason"]).encode()) <= 123


def test_a_long_reason_is_cut_to_whole_characters() -> None:
    done = run(session(ACCEPT, then=Refused("ü" * 200)), incoming=(CONNECT,), kind="websocket")
    assert len(str(done.sent[-1]["reason"]).encode()) in {122, 123}


@pytest.mark.parametrize(
    ("app", "status"),
    [
        (session(then=Refused("no")), 403),
        (session({"type": "websocket.close", "code": 1000}), 403),
        (session(), 403),
        (raising(RuntimeError("x")), 500),
    ],
)
def test_before_the_handshake_errors_are_http_answers(app: App, status: int) -> None:
    done = run(app, incoming=(CONNECT,), kind="websocket")
    assert [m["type"] for m in done.sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert done.status == status
    assert json.loads(done.body)["error"]


def test_a_foreign_page_opens_no_session() -> None:
    done = run(
        session(ACCEPT), incoming=(CONNECT,), kind="websocket", host="localhost", origin="http://evil.example"
    )
    assert done.status == 403


def test_a_handshake_that_takes_too_long_is_a_504() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    assert run(app, incoming=(CONNECT,), kind="websocket").status == 504


def test_an_accepted_session_has_no_deadline() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await trio.sleep(10_000)

    assert run(app, incoming=(CONNECT,), kind="websocket").sent[-1]["code"] == 1000


def test_a_client_that_left_is_not_written_to() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        raise WebSocketDisconnect

    gone: Message = {"type": "websocket.disconnect", "code": 1006}
    done = run(app, incoming=(CONNECT, gone), kind="websocket")
    assert done.sent == [ACCEPT]
    assert done.counters.internal_errors == 0


def test_error_bodies_are_valid_json_for_any_text() -> None:
    done = run(raising(Invalid('line\nbreak \u2028 \U0001f41d "quoted"')))
    assert msgspec.json.decode(done.body)["error"] == 'line\nbreak \u2028 \U0001f41d "quoted"'
