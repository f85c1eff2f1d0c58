"""The command line's client of the admin API against a real socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.cli.api import AdminApi, quoted
from appliance.wire.errors import Busy, Conflict, FluxbeeError, Invalid, NotFound, Refused, Unreachable

Serve = Callable[[bytes], "AdminApi"]


@pytest.fixture
def seen() -> list[bytes]:
    return []


@pytest.fixture
def answering(seen: list[bytes]) -> Iterator[Callable[..., AdminApi]]:
    """A server that reads one whole request and sends given bytes."""
    closing: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: bytes, *, hold: bool = False, token: str | None = None, prefix: str = "") -> AdminApi:
        listener = socket.create_server(("127.0.0.1", 0))
        closing.append(listener)

        def serve() -> None:
            line, _ = listener.accept()
            closing.append(line)
            request = b""
            while b"\r\n\r\n" not in request:
                request += line.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            lengths = [row for row in head.lower().split(b"\r\n") if row.startswith(b"content-length:")]
            expected = int(lengths[0].split(b":")[1]) if lengths else 0
            while len(body) < expected:
                body += line.recv(65536)
            seen.append(head + b"\r\n\r\n" + body)
            line.sendall(answer)
            if not hold:
                line.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        threads.append(thread)
        return AdminApi(f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}", token)

    yield start
    for each in closing:
        each.close()
    for thread in threads:
        thread.join(5)


def http_answer(status: int, body: object, content_type: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


OK = {
    "status": "ok",
    "action": "list_hives",
    "payload": {"status": "ok", "hives": []},
    "error_code": None,
    "error_detail": None,
}


def test_a_call_sends_token_and_body_and_reads_the_envelope(answering, seen):
    api = answering(http_answer(200, OK), token="s3cret", prefix="/api")
    envelope = api.call("POST", f"/hives/{quoted('a/b')}?x=1", {"k": "v"})
    assert (envelope.status, envelope.action, envelope.http_status) == ("ok", "list_hives", 200)
    assert envelope.fields() == {"status": "ok", "hives": []}
    assert envelope.checked() is envelope
    assert seen[0].startswith(b"POST /api/hives/a%2Fb?x=1 HTTP/1.1\r\n")
    assert b"Authorization: Bearer s3cret" in seen[0]
    assert seen[0].endswith(b'{"k": "v"}')


def test_no_body_and_no_token_are_not_sent(answering, seen):
    answering(http_answer(200, OK)).call("GET", "/hives")
    assert b"content-type" not in seen[0].lower()
    assert b"authorization" not in seen[0].lower()


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"status": "error", "payload": None, "error_code": "INVALID_ZIP"}, Invalid, "INVALID_ZIP"),
        (401, {"status": "error", "error_code": "UNAUTHORIZED"}, Refused, "UNAUTHORIZED"),
        (404, {"error": "not_found"}, NotFound, "not_found"),
        (409, {"status": "error", "error_code": "RUNTIME_IN_USE"}, Conflict, "RUNTIME_IN_USE"),
        (504, {"status": "error", "error_code": "TIMEOUT", "error_detail": "timed out"}, Busy, "TIMEOUT"),
        (500, {"status": "error", "error_code": "RUNTIME_NOT_PRESENT"}, FluxbeeError, "RUNTIME_NOT_PRESENT"),
    ],
)
def test_an_error_answer_becomes_the_error_it_tells(answering, status, body, kind, code):
    envelope = answering(http_answer(status, body)).call("GET", "/x")
    assert envelope.is_error
    with pytest.raises(kind) as caught:
        envelope.checked()
    assert caught.value.code == code


def test_a_body_that_is_no_envelope_is_the_payload(answering):
    assert answering(http_answer(200, {"status": "ok"})).call("GET", "/health").payload == {"status": "ok"}


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(200, b"<html>hello</html>", "text/html"),
        http_answer(200, b"[1]"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        http_answer(200, OK)[:-10],
        http_answer(200, b"[" * 100_000),
    ],
)
def test_who_is_no_admin_api_is_told(answering, answer):
    with pytest.raises(Unreachable) as caught:
        answering(answer).call("GET", "/hives")
    assert caught.value.code == "TRANSPORT_ERROR"


def test_nobody_there_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match="does not answer"):
        AdminApi(f"http://127.0.0.1:{port}").call("GET", "/hives")


def test_no_answer_in_time_is_a_deadline(answering):
    with pytest.raises(Busy) as caught:
        answering(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nhalf", hold=True).call(
            "GET", "/hives", timeout_s=0.1
        )
    assert caught.value.code == "TIMEOUT"


def test_an_upload_tells_its_progress(answering, seen, tmp_path: Path):
    file = tmp_path / "bundle.zip"
    file.write_bytes(b"z" * 150_000)
    steps: list[tuple[int, int]] = []
    envelope = answering(http_answer(200, OK)).upload(
        "POST", "/blobs", file, progress=lambda sent, total: steps.append((sent, total))
    )
    assert envelope.status == "ok"
    assert seen[0].partition(b"\r\n\r\n")[2] == file.read_bytes()
    assert steps[-1] == (150_000, 150_000)
    assert len(steps) == 3


def test_a_stream_gives_the_data_of_its_events(answering):
    body = b": hello\n\ndata: one\n\nevent: x\ndata:two\ndata: lines\nid: 4\n\ndata: unfinished"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    assert list(answering(head + body).stream("/tap")) == ["one", "two\nlines"]


def test_a_stream_that_is_refused_is_an_error(answering):
    with pytest.raises(NotFound):
        list(answering(http_answer(404, {"status": "error", "error_code": "NODE_NOT_FOUND"})).stream("/tap"))
    with pytest.raises(Unreachable, match="no stream"):
        list(answering(http_answer(200, OK)).stream("/tap"))


def test_a_silent_stream_ends_at_its_deadline(answering):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: one\n\n"
    events = answering(head, hold=True).stream("/tap", idle_timeout_s=0.1)
    assert next(events) == "one"
    with pytest.raises(Busy, match="silent"):
        next(events)


@pytest.mark.parametrize("base", ["127.0.0.1:8080", "ftp://x", "http://", "http://h:99999", "http://h?x=1"])
def test_an_address_that_is_none_is_refused(base):
    with pytest.raises(Invalid):
        AdminApi(base)


def test_what_would_split_the_request_is_refused():
    with pytest.raises(Invalid):
        AdminApi(token="a\r\nb: c")
    with pytest.raises(Invalid):
        AdminApi("http://127.0.0.1:9").call("GET", "/a b\r\nx: y")


def test_address_and_token_come_from_the_environment(monkeypatch, answering, seen):
    monkeypatch.setenv("FLUXBEE_HTTP_TOKEN", "t0ken")
    monkeypatch.setenv("BASE", answering(http_answer(200, OK)).base)
    AdminApi.from_environment().call("GET", "/hives")
    assert b"Bearer t0ken" in seen[0]
    assert AdminApi.from_environment("http://h:1").base == "http://h:1"
