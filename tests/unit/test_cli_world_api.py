"""The command line's client of the world: errors by status, and the feed over a real WebSocket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, Request, TextMessage

from appliance.cli import main
from appliance.cli.output import ExitCode
from appliance.cli.world_api import WorldApi, entity_path
from appliance.wire.errors import (
    Busy,
    Conflict,
    FluxbeeError,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    Unreachable,
)
from tests.fake_web import serving


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLUX_URL", "FLUX_TOKEN", "FLUX_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (409, Conflict),
        (413, Invalid),
        (422, Invalid),
        (429, Busy),
        (500, FluxbeeError),
        (503, Unavailable),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(status, kind):
    with serving() as web:
        web.on("/x", {"error": "the reason"}, status)
        with pytest.raises(kind, match="the reason") as caught:
            WorldApi(web.base).call("GET", "/x")
        assert type(caught.value) is kind


def test_answers_that_are_none():
    with serving() as web:
        web.on("/x", b"<html>")
        with pytest.raises(Unreachable):
            WorldApi(web.base).call("GET", "/x")
        web.on("/x", [1], 500)
        with pytest.raises(FluxbeeError, match="the world answered 500"):
            WorldApi(web.base).call("GET", "/x")


def test_tokens_and_addresses_of_the_environment(monkeypatch):
    with serving() as web:
        web.on("/x", {})
        monkeypatch.setenv("FLUX_URL", web.base)
        monkeypatch.setenv("FLUX_TOKEN", "ours")
        monkeypatch.setenv("FLUX_ADMIN_TOKEN", "the box's")
        api = WorldApi()
        api.call("GET", "/x")
        api.administer("GET", "/x")
        assert [one.headers["authorization"] for one in web.asked] == ["Bearer ours", "Bearer the box's"]


def test_ids_are_quoted_whole():
    assert entity_path("a/b c?#%é") == "/api/state/entities/a%2Fb%20c%3F%23%25%C3%A9"


Script = Callable[[WSConnection, socket.socket], None]


@pytest.fixture
def feed() -> Iterator[Callable[[Script], tuple[WorldApi, list[str]]]]:
    """A WebSocket server that greets, reads the subscriptions and then does what it is told."""
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def start(script: Script, *, subscriptions: int = 1, accept: bool = True) -> tuple[WorldApi, list[str]]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        got: list[str] = []

        def serve() -> None:
            line, _ = listener.accept()
            with line:
                websocket = WSConnection(ConnectionType.SERVER)
                while len(got) < subscriptions:
                    websocket.receive_data(line.recv(65536))
                    for event in websocket.events():
                        if isinstance(event, Request):
                            answer = AcceptConnection() if accept else RejectConnection(status_code=429)
                            line.sendall(websocket.send(answer))
                            if not accept:
                                return
                        elif isinstance(event, TextMessage):
                            got.append(event.data)
                script(websocket, line)
                while line.recv(65536):
                    pass  # what the client still says; closing before would be a reset

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        threads.append(thread)
        return WorldApi(f"http://127.0.0.1:{listener.getsockname()[1]}"), got

    yield start
    for thread in threads:
        thread.join(5)
    for listener in listeners:
        listener.close()


UPDATE = {
    "type": "state_update",
    "entity_id": "lab/x\x1b",
    "property": "on",
    "value": {"a": 1},
    "timestamp": "2026-02-02T02:40:00.123Z",
}
GONE = {"type": "entity_deleted", "entity_id": "lab/x", "timestamp": "2026-02-02T02:40:01.000Z"}
METRICS = {"type": "metrics_update"}


def frames(websocket: WSConnection, line: socket.socket) -> None:
    line.sendall(websocket.send(Ping(b"still there?")))
    for frame in (METRICS, UPDATE, GONE):
        text = json.dumps(frame)
        line.sendall(websocket.send(TextMessage(text[:5], message_finished=False)))
        line.sendall(websocket.send(TextMessage(text[5:])))
    line.sendall(websocket.send(CloseConnection(1001)))


def test_the_feed_gives_frames_until_the_door_ends_it(feed):
    api, got = feed(frames, subscriptions=2)
    assert list(api.feed(("a", "b"))) == [METRICS, UPDATE, GONE]
    assert [json.loads(text) for text in got] == [
        {"type": "subscribe", "entity_id": "a"},
        {"type": "subscribe", "entity_id": "b"},
    ]


def test_a_feed_that_is_refused(feed):
    api, _ = feed(frames, accept=False)
    with pytest.raises(Unreachable, match="429"):
        list(api.feed())


def test_watching_prints_changes_and_ends_after_so_many(feed, capsys):
    api, got = feed(frames)
    assert main(["world", "watch", "--count", "2", "--url", api.base]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        '02:40:00.123  lab/x\\x1b on = {"a": 1}',
        "02:40:01.000  lab/x deleted",
    ]
    assert json.loads(got[0])["entity_id"] == "*"


def test_watching_for_programs(feed, capsys):
    api, _ = feed(frames)
    assert main(["world", "watch", "lab/x", "--json", "--url", api.base]) == ExitCode.OK
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [METRICS, UPDATE, GONE]


def test_what_is_no_feed():
    with serving() as web, pytest.raises(Unreachable):
        list(WorldApi(web.base).feed())
