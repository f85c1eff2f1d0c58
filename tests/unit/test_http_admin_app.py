"""The application by itself: resolution order, bodies over several messages, streams, the page."""

from __future__ import annotations

from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from appliance.http import Health, Page
from appliance.http.admin import AdminApp, AdminParts
from appliance.http.admin.sse import event_bytes
from appliance.wire.admin.outcome import AdminOutcome, failure
from appliance.wire.errors import Busy


class Gateway:
    def __init__(self):
        self.calls = []

    async def execute(self, call):
        self.calls.append(call)
        if call.action == "list_hives":
            return failure("list_hives", "TIMEOUT", "no")
        return AdminOutcome(http_status=200, status="ok", action=call.action, payload={})

    def patience_s(self, action):
        return 1.0


class Source:
    def __init__(self, events):
        self.events = list(events)

    async def next_event(self, timeout_s):
        if not self.events:
            raise EOFError
        await trio.lowlevel.checkpoint()
        return self.events.pop(0)


class Streams:
    def __init__(self):
        self.asked = []

    @asynccontextmanager
    async def tap(self, pattern):
        self.asked.append(("tap", pattern))
        if pattern == "full@*":
            raise Busy("too many")
        yield Source([b'{"n":1}', None, b"two\nlines"])

    @asynccontextmanager
    async def log(self, node_name, tail):
        self.asked.append((node_name, tail))
        yield Source([b"line"])


async def healthy():
    return Health()


def make(**more):
    gateway = Gateway()
    return AdminApp(gateway, AdminParts(health=healthy, **more)), gateway


def ask(app, method, target, *, chunks=(b"",), headers=()):
    """Status, headers and body of one request."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": list(headers),
    }
    incoming = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]
    sent = []

    async def receive():
        if not incoming:
            await trio.sleep_forever()
        return incoming.pop(0)

    async def send(message):
        sent.append(message)

    async def body():
        with trio.fail_after(5):
            await app(scope, receive, send)

    trio.run(body)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), content


def test_an_action_is_executed_with_the_whole_body():
    app, gateway = make()
    status, headers, body = ask(app, "POST", "/routes", chunks=(b'{"prefix":', b'"AI."}'))
    assert status == 200
    assert headers[b"content-type"] == b"application/json"
    assert set(msgspec.json.decode(body)) == {"status", "action", "payload", "error_code", "error_detail"}
    assert gateway.calls[0].params == {"prefix": "AI."}


def test_failures_keep_their_status():
    app, _ = make()
    status, _, body = ask(app, "GET", "/hives")
    assert (status, msgspec.json.decode(body)["error_code"]) == (504, "TIMEOUT")


@pytest.mark.parametrize(
    "target", ["/nope", "/", "/versions/", "/page/x.js", "/metrics", "/tap", "/modules", "/modules/a/b/c"]
)
def test_what_nobody_serves(target):
    app, gateway = make()
    assert ask(app, "GET", target)[::2] == (404, b'{"error":"not_found"}')
    assert gateway.calls == []


def test_own_paths_are_not_actions():
    async def metrics():
        return b"# TYPE x untyped\n"

    app, gateway = make(metrics=metrics)
    assert ask(app, "GET", "/health")[::2] == (200, b'{"status":"ok"}')
    assert ask(app, "GET", "/metrics")[2].startswith(b"# TYPE")
    assert ask(app, "GET", "/openapi.json")[0] == 200
    assert ask(app, "GET", "/docs")[1][b"content-type"].startswith(b"text/html")
    assert ask(app, "POST", "/health")[0] == 404
    assert gateway.calls == []


def test_the_page_is_for_browsers(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "own.js").write_text("1")
    app, _ = make(page=Page(tmp_path))
    assert ask(app, "GET", "/", headers=[(b"accept", b"text/html")])[0] == 200
    assert ask(app, "GET", "/", headers=[(b"accept", b"*/*")])[0] == 404
    assert ask(app, "GET", "/page/own.js")[2] == b"1"
    assert ask(app, "GET", "/page/..%2findex.html")[0] == 404


def test_streams():
    streams = Streams()
    app, gateway = make(streams=streams)
    status, headers, body = ask(app, "GET", "/tap?name=AI.x")
    assert (status, headers[b"content-type"]) == (200, b"text/event-stream")
    assert body == b': open\n\ndata: {"n":1}\n\n: alive\n\ndata: two\ndata: lines\n\n'
    assert ask(app, "GET", "/hives/m/nodes/AI.x/logs?follow=1&tail=9")[2].endswith(b"data: line\n\n")
    assert streams.asked == [("tap", "AI.x@*"), ("AI.x@m", 9)]
    assert ask(app, "GET", "/hives/m/nodes/AI.x/logs?follow=0")[0] == 200
    assert [call.action for call in gateway.calls] == ["get_node_logs"]
    status, _, body = ask(app, "GET", "/tap?name=full")
    assert (status, msgspec.json.decode(body)["error_code"]) == (409, "BUSY")
    assert ask(app, "GET", "/tap?name=%ff")[0] == 400
    assert ask(app, "HEAD", "/tap?name=AI.x")[0] == 404  # nothing would ever end it
    assert len(streams.asked) == 3


def test_event_lines():
    assert event_bytes(b"a\r\nb\rc") == b"data: a\ndata: b\ndata: c\n\n"
