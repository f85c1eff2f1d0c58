"""The world's HTTP door against a real hive, row by row (``spec/flux-state.md §2, §12``).

Which row is checked where: ``docs/reference/world-checklist.md``.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import pytest

from .world_kit import ADMIN, WAIT_S, event, http, world_hive

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def hive():
    with world_hive() as running:
        yield running


@pytest.fixture(scope="module")
def guarded():
    """A hive with auth on."""
    with world_hive(auth_enabled=True) as running:
        yield running


@pytest.fixture
def client(hive):
    with http(hive) as opened:
        yield opened


@pytest.fixture
def admin(hive):
    with http(hive, ADMIN) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(guarded):
    """Namespaces of the hive with auth on, by name."""
    with http(guarded, ADMIN) as opened:
        return {
            name: opened.post("/api/namespaces", json={"name": name}).json()["token"]
            for name in ("matt", "alice", "plant")
        }


def says(answer: httpx.Response, status: int, text: str | None = None) -> None:
    """The one shape of errors (HT-01), compact (HT-02)."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"], answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == json.dumps(answer.json(), separators=(",", ":"), ensure_ascii=False)
    if text is not None:
        assert text in answer.json()["error"]


def entity(client: httpx.Client, entity_id: str) -> dict:
    answer = client.get(f"/api/state/entities/{entity_id.replace('/', '%2F')}")
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- publishing -------------------------------------------------------------------------------------------


def test_publish_and_read_what_was_written(client):
    """EP-01, SD-06, SD-07, ST-40, HT-02."""
    answer = client.post("/api/events", json=event("scada/pump-07", pressure_bar=4.2, state="running"))
    assert answer.status_code == 200
    assert re.match(r'\{"eventId":"[0-9a-f-]{36}","stream":"test"', answer.text)
    assert uuid.UUID(answer.json()["eventId"]).version == 7
    found = entity(client, "scada/pump-07")
    assert found["properties"] == {"pressure_bar": 4.2, "state": "running"}
    assert datetime.fromisoformat(found["lastUpdated"]).utcoffset().total_seconds() == 0
    assert found["lastUpdated"].endswith("+00:00")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_event_routes_ignore_the_content_type(client, content_type):
    """HT-05."""
    headers = {"content-type": content_type} if content_type else {}
    body = json.dumps(event("ct/a", x=1)).encode()
    assert client.post("/api/events", content=body, headers=headers).status_code == 200
    says(client.post("/api/events", content=b"{nonsense", headers=headers), 400)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"stream": ""}, "stream is required"),
        ({"source": ""}, "source is required"),
        ({"payload": None}, "payload is required"),
        ({"stream": "Sensors.Temp"}, "invalid stream format 'Sensors.Temp'"),
        ({"stream": "sensors-temp"}, "must be lowercase with optional dots"),
        ({"stream": ".a"}, "invalid stream format"),
        ({"stream": "a..b"}, "invalid stream format"),
        ({"timestamp": -1}, "timestamp must be positive, got -1"),
        ({"timestamp": 0}, "timestamp must be positive, got 0"),
        ({"timestamp": "now"}, ""),
        ({"timestamp": 1.0}, ""),
        ({"payload": "text"}, "payload must be a JSON object"),
        ({"payload": []}, "payload must be a JSON object"),
        ({"stream": "a" * 256}, ""),
        ({"source": "s" * 513}, ""),
    ],
    ids=lambda value: next(iter(value.items()))[0] if isinstance(value, dict) else None,
)
def test_validation(client, change, text):
    """§1.2, EV-21, AT-EV-2 to AT-EV-9, AT-IN-9, AT-NEW-3."""
    says(client.post("/api/events", json={**event("v/a", x=1), **change}), 400, text)
    batch = client.post("/api/events/batch", json={"events": [{**event("v/a", x=1), **change}]})
    assert batch.status_code == 200
    assert batch.json()["failed"] == 1
    assert list(batch.json()["results"][0]) == ["eventId", "stream", "error"]


@pytest.mark.parametrize("stamp", [{}, {"timestamp": None}])
def test_a_timestamp_is_the_time_of_receipt_unless_given(client, stamp):
    """EV-04, SD-22, AT-NEW-3."""
    name = f"time/{uuid.uuid4()}"
    before = time.time() * 1000 - 1000
    client.post("/api/events", json={**event(name, x=1), **stamp})
    (stored,) = client.get("/api/events", params={"entity": name}).json()
    assert before < stored["timestamp"] < time.time() * 1000 + 1000


def test_event_ids_are_kept_and_stored_once(client):
    """EV-01, AT-EV-11, ST-32, AT-NEW-23."""
    mine = {**event("dedup/a", x=1), "eventId": f"my own id {uuid.uuid4()}"}
    first, second = client.post("/api/events", json=mine), client.post("/api/events", json=mine)
    assert first.json()["eventId"] == mine["eventId"]
    assert (first.status_code, first.text) == (second.status_code, second.text)
    assert len(client.get("/api/events", params={"entity": "dedup/a"}).json()) == 1
    for empty in (None, ""):
        answer = client.post("/api/events", json={**mine, "eventId": empty})
        assert len(answer.json()["eventId"]) == 36


@pytest.mark.parametrize("path", ["/api/events", "/api/events/batch"])
def test_an_idempotency_key_stores_once(client, path):
    name = f"key/{uuid.uuid4()}"
    one = event(name, x=1)
    body = (
        one
        if path == "/api/events"
        else {"events": [one, {"stream": "X"}, {**one, "eventId": str(uuid.uuid4())}]}
    )
    headers = {"idempotency-key": name}
    first = client.post(path, json=body, headers=headers)
    again = client.post(path, json=body, headers=headers)
    assert (first.status_code, first.text) == (200, again.text)
    stored = client.get("/api/events", params={"entity": name}).json()
    assert len(stored) == (1 if path == "/api/events" else 2)
    other = client.post(path, json=body, headers={"idempotency-key": name + "'"})
    assert other.text != first.text


def test_unknown_keys_are_dropped_and_null_ones_left_out(client):
    """EV-05, EV-06, EV-11, EV-12, AT-EV-12 to AT-EV-14."""
    client.post("/api/events", json={**event("form/a", x=1), "namespace": "n", "key": None, "schema": "s"})
    (stored,) = client.get("/api/events?entity=form/a").json()
    assert list(stored) == ["eventId", "stream", "source", "timestamp", "schema", "payload"]


@pytest.mark.parametrize(
    "text",
    [
        '{"stream":"a","stream":"b","source":"s","payload":{}}',
        '{"stream":"a","source":"s","payload":{"n":NaN}}',
        '{"stream":"a","source":"s","payload":{"n":1e400}}',
        '{"stream":"a","source":"s","payload":{"n":"\\ud800"}}',
        '{"stream":"a","source":"s","payload":' + '{"a":' * 200 + "1" + "}" * 200 + "}",
        "[" * 100_000,
        '{"stream":"a","source":"s"}',
        "",
        "null",
        "[]",
    ],
    ids=["duplicate", "nan", "1e400", "surrogate", "depth", "bomb", "no payload", "empty", "null", "array"],
)
def test_text_that_is_no_event(client, text):
    """EV-11, EV-13, EV-14, EV-20."""
    says(client.post("/api/events", content=text), 400)
    assert client.post("/api/events", json=event("still/here", x=1)).status_code == 200


def test_numbers_and_order_of_keys(client):
    """EV-13."""
    body = (
        '{"stream":"a","source":"s","payload":{"entity_id":"num/a","properties":'
        '{"z":9223372036854775807,"a":18446744073709551615,"f":0.1,"m":-9223372036854775808}}}'
    )
    assert client.post("/api/events", content=body).status_code == 200
    found = entity(client, "num/a")["properties"]
    assert found == {"z": 2**63 - 1, "a": 2**64 - 1, "f": 0.1, "m": -(2**63)}


# --- batches ----------------------------------------------------------------------------------------------


def test_the_seeds_batch_without_timestamps(client):
    """SD-10, AT-NEW-2."""
    events = [event("seed/a", temperature=22.5), event("seed/b", temperature=21.0)]
    answer = client.post("/api/events/batch", json={"events": events})
    assert (answer.json()["successful"], answer.json()["failed"]) == (2, 0)
    assert answer.text.startswith('{"successful":2,"failed":0,"results":[{"eventId":"')
    assert entity(client, "seed/a")["properties"] == {"temperature": 22.5}
    assert entity(client, "seed/b")["properties"] == {"temperature": 21.0}


def test_one_bad_event_does_not_sink_the_batch(client):
    """EP-05, DF-16."""
    events = [event("mix/a", x=1), {"stream": "Bad Stream", "source": "s", "payload": {}}, {"x": 1}, 5]
    answer = client.post("/api/events/batch", json={"events": events, "more": "ignored"}).json()
    assert (answer["successful"], answer["failed"]) == (1, 3)
    good, bad, missing, number = answer["results"]
    assert (good["stream"], good["error"]) == ("test", None)
    assert bad["eventId"] is None
    assert bad["error"].startswith("validation failed: invalid stream format 'Bad Stream'")
    assert (missing["eventId"], missing["stream"]) == (None, None)
    assert number["error"]


@pytest.mark.parametrize("body", ["[]", '{"events":{}}', "{", '{"events":[}', "{}"])
def test_what_is_no_batch(client, body):
    """EP-05."""
    says(client.post("/api/events/batch", content=body), 400)


def test_an_empty_batch(client):
    answer = client.post("/api/events/batch", json={"events": []})
    says(answer, 400, "Batch request must contain at least one event")


def sized(size: int, *, batch: bool) -> bytes:
    """A body of exactly so many bytes."""
    one = json.dumps(event("big/a", x=1)).encode()
    body = b'{"events":[' + one + b"]}" if batch else one
    return body + b" " * (size - len(body))


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/api/events", 1 << 20, 200),
        ("/api/events", (1 << 20) + 1, 413),
        ("/api/events", 3 << 20, 413),
        ("/api/events/batch", int(9.9 * (1 << 20)), 200),
        ("/api/events/batch", 10 << 20, 200),
        ("/api/events/batch", (10 << 20) + 1, 413),
    ],
)
def test_body_limits(client, path, size, status):
    """HT-20, SD-13, SD-14, DF-15, AT-BSZ-1 to AT-BSZ-5, AT-NEW-4."""
    answer = client.post(path, content=sized(size, batch=path.endswith("batch")))
    if status == 413:
        says(answer, 413, "payload too large")
    else:
        assert answer.status_code == 200, answer.text


def test_body_limits_hold_without_a_length(client):
    """HT-20: enforced while streaming."""

    def parts():
        for _ in range(40):
            yield b" " * 32768

    says(client.post("/api/events", content=parts()), 413, "payload too large")


def test_a_batch_of_ten_megabytes_of_events(client):
    pad = "p" * 900
    events = [event(f"ten/{n % 100}", n=n, pad=pad) for n in range(9800)]
    answer = client.post("/api/events/batch", json={"events": events})
    assert (answer.status_code, answer.json()["successful"]) == (200, 9800)
    assert entity(client, "ten/99")["properties"]["n"] == 9799


def test_a_property_of_nearly_a_megabyte(client):
    value = "я" * 500_000
    body = json.dumps(event("wide/a", v=value), ensure_ascii=False).encode()
    assert client.post("/api/events", content=body).status_code == 200
    assert entity(client, "wide/a")["properties"]["v"] == value


def test_lines_without_end(client):
    """Streaming ingest: one answer line per flush; a bad line is named and spoils nothing."""

    def lines():
        for n in range(2500):
            yield json.dumps(event(f"line/{n}", n=n)).encode() + b"\n"
            if n == 1200:
                yield b"not json\n\n"
            if n == 1300:
                yield b'{"stream":"a"},{"stream":"b"}\n'
        yield json.dumps(event("line/last", n=1)).encode()

    headers = {"content-type": "application/x-ndjson"}
    with client.stream("POST", "/api/events/batch", content=lines(), headers=headers) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        acks = [json.loads(line) for line in answer.iter_lines()]
    assert sum(ack["successful"] for ack in acks) == 2501
    wrong = [found["line"] for ack in acks for found in ack["errors"]]
    assert wrong == [1202, 1304]
    assert acks[-1]["lines"] == 2504
    assert entity(client, "line/last")["properties"] == {"n": 1}


def test_lines_are_acknowledged_while_more_are_to_come(hive, client):
    """A sender may wait for an answer before it goes on."""
    place = urlsplit(hive.world_url)
    with socket.create_connection((place.hostname, place.port), WAIT_S) as sock:
        head = "POST /api/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
        sock.sendall((head + "transfer-encoding: chunked\r\n\r\n").encode())
        received = b""
        for number in range(3):
            line = json.dumps(event(f"slowline/{number}", n=number)).encode() + b"\n"
            sock.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            while received.count(b'"successful":1') <= number:
                part = sock.recv(65536)
                assert part, received
                received += part
            assert entity(client, f"slowline/{number}")["properties"] == {"n": number}


# --- state ------------------------------------------------------------------------------------------------


def test_merge_nesting_null_and_nothing(client):
    """ST-03, ST-04, EV-08, EV-09, ST-02, AT-NEW-8, AT-NEW-10."""
    send = lambda **more: client.post("/api/events", json=more)  # noqa: E731
    base = {"stream": "a", "source": "s"}
    client.post("/api/events", json=event("merge/a", a={"x": 1, "y": 2}, b=[1, 2], c=1))
    client.post("/api/events", json=event("merge/a", a={"x": 9}, c=None))
    assert entity(client, "merge/a")["properties"] == {"a": {"x": 9}, "b": [1, 2], "c": None}
    assert send(**base, payload={"entity_id": "merge/none", "properties": {}}).status_code == 200
    assert send(**base, payload={"entity_id": "merge/none"}).status_code == 200
    assert send(**base, payload={"properties": {"a": 1}}).status_code == 200
    assert send(**base, payload={"entity_id": 5, "properties": {"a": 1}}).status_code == 200
    assert client.get("/api/state/entities/merge/none").status_code == 404
    send(**base, timestamp=1000, payload={"entity_id": "merge/a", "properties": {"c": "late"}})
    assert entity(client, "merge/a")["properties"]["c"] == "late"


@pytest.mark.parametrize(
    "name", ["a/b/c/d/e", "plain", "x/é я 日本", "q?#%", "MATT/x", "delete/x", "with space"]
)
def test_ids_in_both_spellings(client, name):
    """SD-24, EP-35, HT-07, DF-33, ST-21."""
    from urllib.parse import quote

    assert client.post("/api/events", json=event(name, x=1)).status_code == 200
    for path in (quote(name, safe=""), quote(name, safe="/")):
        answer = client.get(f"/api/state/entities/{path}")
        assert (answer.status_code, answer.json()["id"]) == (200, name)
    answer = client.delete(f"/api/state/entities/{quote(name, safe='')}")
    assert (answer.status_code, answer.json()["entity_id"]) == (200, name)
    says(client.get(f"/api/state/entities/{quote(name, safe='/')}"), 404, "Entity not found")


def test_the_id_delete_is_an_entity_too(client):
    """EP-35: only POST is the batch route."""
    client.post("/api/events", json=event("delete", x=1))
    assert client.get("/api/state/entities/delete").json()["id"] == "delete"
    assert client.delete("/api/state/entities/delete").status_code == 200
    says(client.get("/api/state/entities/delete"), 404)


@pytest.mark.parametrize("name", ["", "a\x00b", "x" * 1025, "tab\there"])
def test_ids_that_are_none(client, name):
    """EV-21."""
    says(client.post("/api/events", json=event(name, x=1)), 400)


def test_list_filters(client):
    """EP-30, SD-08, SD-15, AT-IN-5, ST-23."""
    for name in ("fil/a1", "fil/a2", "fil/b1", "filter", "other/fil"):
        client.post("/api/events", json=event(name, x=1))
    ids = lambda **params: [one["id"] for one in client.get("/api/state/entities", params=params).json()]  # noqa: E731
    assert ids(namespace="fil") == ["fil/a1", "fil/a2", "fil/b1"]
    assert ids(prefix="fil") == ["fil/a1", "fil/a2", "fil/b1", "filter"]
    assert ids(prefix="fil/a", namespace="fil") == ["fil/a1", "fil/a2"]
    assert ids(prefix="other", namespace="fil") == []
    assert ids(prefix="fil", limit=2, unknown="x") == ["fil/a1", "fil/a2"]
    assert ids(prefix="fil", limit=2, after="fil/a2") == ["fil/b1", "filter"]
    assert ids(prefix="fil", limit=0) == []
    assert "filter" not in ids(namespace="")
    everything = client.get("/api/state/entities").json()
    assert [one["id"] for one in everything] == sorted((one["id"] for one in everything), key=str.encode)
    says(client.get("/api/state/entities?prefix=a&prefix=b"), 400, "Failed to deserialize query string")
    says(client.get("/api/state/entities?limit=-1"), 400, "Failed to deserialize query string")


def test_an_empty_world_is_an_empty_list(guarded):
    """CL-21."""
    with http(guarded) as client:
        assert client.get("/api/state/entities?prefix=nothing-here").text == "[]"


def test_a_long_list_comes_in_parts_and_whole(client):
    events = [event(f"long/{n:05}", n=n, pad="x" * 100) for n in range(5000)]
    client.post("/api/events/batch", json={"events": events})
    with client.stream("GET", "/api/state/entities?namespace=long") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        found = json.loads(b"".join(answer.iter_bytes()))
    assert [one["properties"]["n"] for one in found] == list(range(5000))
    limited = client.get("/api/state/entities?namespace=long&limit=1234").json()
    assert len(limited) == 1234
    assert client.head("/api/state/entities?namespace=long").status_code == 200


def test_unchanged_state_is_not_sent_again(client):
    client.post("/api/events", json=event("tag/a", x=1))
    for path in ("/api/state/entities/tag/a", "/api/state/entities?prefix=tag/"):
        first = client.get(path)
        tag = {"if-none-match": first.headers["etag"]}
        assert client.get(path, headers=tag).status_code == 304
        client.post("/api/events", json=event("tag/a", x=1))
        assert client.get(path, headers=tag).status_code == 200


def test_an_entity_as_it_was(client):
    """Additive: ``at`` and ``seq``."""
    first = client.post("/api/events", json=event("past/a", x=1, y=1)).json()["seq"]
    between = datetime.now(UTC)
    time.sleep(0.005)
    second = client.post("/api/events", json=event("past/a", x=2)).json()["seq"]
    client.delete("/api/state/entities/past/a")
    path = "/api/state/entities/past/a"
    assert client.get(path).status_code == 404
    assert client.get(path, params={"seq": first}).json()["properties"] == {"x": 1, "y": 1}
    assert client.get(path, params={"seq": second}).json()["properties"] == {"x": 2, "y": 1}
    stamps = (between.isoformat(), int(between.timestamp() * 1000) + 1)
    for stamp in stamps:
        answer = client.get(path, params={"at": stamp})
        assert answer.json()["properties"]["x"] == 1
        assert answer.headers["x-flux-complete"] == "true"
    assert client.get(path, params={"seq": 0}).status_code in (400, 404)
    says(client.get(path, params={"at": "yesterday"}), 400)
    says(client.get("/api/state/entities", params={"at": stamps[1]}), 400)


def test_two_properties_are_never_half_there(hive):
    """ST-07, AT-NEW-9."""
    stop = threading.Event()
    torn: list[dict] = []

    def read() -> None:
        with http(hive) as mine:
            while not stop.is_set():
                answer = mine.get("/api/state/entities/torn/a")
                if answer.status_code == 200:
                    found = answer.json()["properties"]
                    if found["a"] != found["b"]:
                        torn.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with http(hive) as writer:
        for n in range(150):
            writer.post("/api/events", json=event("torn/a", a=n, b=n))
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []


def test_many_writers_of_one_entity(hive, client):
    """AT-ST-7, AT-ST-8, ST-17."""

    def write(n: int) -> None:
        with http(hive) as mine:
            for m in range(10):
                mine.post("/api/events", json=event("crowd/a", **{f"p{n}": m}))

    writers = [threading.Thread(target=write, args=(n,)) for n in range(10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert entity(client, "crowd/a")["properties"] == {f"p{n}": 9 for n in range(10)}


# --- deleting ---------------------------------------------------------------------------------------------


def test_delete(client):
    """EP-40, SD-09, ST-10, ST-12, AT-ST-14 to AT-ST-16, AT-NEW-11."""
    client.post("/api/events", json=event("del/a", x=1))
    answer = client.delete("/api/state/entities/del%2Fa")
    assert list(answer.json())[:2] == ["entity_id", "eventId"]
    says(client.get("/api/state/entities/del/a"), 404, "Entity not found")
    assert client.delete("/api/state/entities/del/never").status_code == 200
    stored = client.get("/api/events?entity=del/a").json()
    assert stored[0]["payload"]["properties"]["__deleted__"] is True
    assert stored[0]["source"] == "api"
    client.post("/api/events", json=event("del/a", y=2))
    assert entity(client, "del/a")["properties"] == {"y": 2}
    for value in (False, "true", 1):
        client.post("/api/events", json=event("del/a", __deleted__=value))
        assert entity(client, "del/a")["properties"]["__deleted__"] == value


@pytest.mark.parametrize(
    ("wanted", "deleted", "left"),
    [
        ({"namespace": "bulk"}, 3, {"bulky/x"}),
        ({"prefix": "bulk"}, 4, set()),
        ({"entity_ids": ["bulk/a", "bulk/none", "bulk/a"]}, 1, {"bulk/b", "bulk/c/d", "bulky/x"}),
        ({"entity_ids": []}, 0, {"bulk/a", "bulk/b", "bulk/c/d", "bulky/x"}),
    ],
    ids=["namespace", "prefix", "ids", "none"],
)
def test_delete_many(client, wanted, deleted, left):
    """EP-45, SD-16, AT-IN-1."""
    for name in ("bulk/a", "bulk/b", "bulk/c/d", "bulky/x"):
        client.post("/api/events", json=event(name, x=1))
    answer = client.post("/api/state/entities/delete", json=wanted)
    assert answer.json() == {"deleted": deleted, "failed": 0, "errors": []}
    assert {one["id"] for one in client.get("/api/state/entities?prefix=bulk").json()} == left


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"namespace": "x", "prefix": "x/a"}, 400),
        ({"prefix": ""}, 400),
        ({"namespace": ""}, 400),
        ({}, 422),
        ({"ids": ["a"]}, 422),
        ({"prefix": 5}, 422),
        ({"entity_ids": "a"}, 422),
    ],
)
def test_delete_many_refuses(client, wanted, status):
    """EP-45, DF-17."""
    client.post("/api/events", json=event("keep/a", x=1))
    says(client.post("/api/state/entities/delete", json=wanted), status)
    assert entity(client, "keep/a")


def test_more_than_may_go_at_once():
    """EP-45: ``max_batch_delete``; and everything, when that is said."""
    with world_hive(max_batch_delete=5) as hive, http(hive) as client:
        client.post("/api/events/batch", json={"events": [event(f"m/{n}", x=1) for n in range(6)]})
        answer = client.post("/api/state/entities/delete", json={"prefix": "m/"})
        says(answer, 400, "Batch too large: 6 entities requested, max is 5")
        client.delete("/api/state/entities/m/0")
        answer = client.post("/api/state/entities/delete", json={"prefix": "", "confirm": "all"})
        assert answer.json()["deleted"] == 5


# --- history ----------------------------------------------------------------------------------------------


def test_history(client):
    """EP-20, AT-IN-2, AT-NEW-12, DF-12."""
    name = f"hist/{uuid.uuid4()}"
    client.post("/api/events/batch", json={"events": [event(name, n=n) for n in range(600)]})
    get = lambda **params: client.get("/api/events", params={"entity": name, **params})  # noqa: E731
    order = lambda answer: [one["payload"]["properties"]["n"] for one in answer.json()]  # noqa: E731
    assert order(get()) == list(range(599, 499, -1))
    assert order(get(limit=1000)) == list(range(599, 99, -1))
    assert order(get(limit=0)) == [599]
    older = get(limit=3)
    assert order(get(limit=3, before_seq=older.headers["x-flux-before-seq"])) == [596, 595, 594]
    assert (
        get(since=datetime.now(UTC).isoformat().replace("+00:00", "Z"), until="2100-01-01T00:00:00Z").json()
        == []
    )
    assert len(get(since=int(time.time() * 1000) - 60_000).json()) == 100
    damaged = client.get(f"/api/events?entity={name}&since=2020-01-01T00:00:00+00:00&limit=2")
    assert order(damaged) == [599, 598]
    assert client.get("/api/events?entity=nobody").text == "[]"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "entity parameter is required"),
        ("entity=a&since=not-a-date", "invalid `since` timestamp (expected ISO 8601)"),
        ("entity=a&since=2026-02-22T00:00:00", "invalid `since` timestamp (expected ISO 8601)"),
        ("entity=a&limit=-1", "Failed to deserialize query string"),
        ("entity=a&limit=", "Failed to deserialize query string"),
        ("entity=a&limit=x", "Failed to deserialize query string"),
        ("entity=a&entity=b", "Failed to deserialize query string"),
    ],
)
def test_history_refuses(client, query, text):
    """EP-20, HT-06."""
    says(client.get(f"/api/events?{query}"), 400, text)


def test_history_of_a_rare_entity_under_load(hive, client):
    """AT-NEW-13, DF-13."""
    client.post("/api/events", json=event("rare/a", x=1))
    stop = threading.Event()

    def load() -> None:
        with http(hive) as mine:
            while not stop.is_set():
                mine.post(
                    "/api/events/batch", json={"events": [event(f"noise/{n}", n=n) for n in range(200)]}
                )

    thread = threading.Thread(target=load)
    thread.start()
    try:
        answer = client.get("/api/events?entity=rare/a", timeout=10)
        assert len(answer.json()) == 1
    finally:
        stop.set()
        thread.join()


# --- errors and HTTP --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nope", 404, None),
        ("GET", "/api/events/", 404, None),
        ("GET", "/api/state/entities/", 404, None),
        ("GET", "/api/namespaces/", 404, None),
        ("PUT", "/api/events", 405, "GET,HEAD,POST"),
        ("GET", "/api/events/batch", 405, "POST"),
        ("GET", "/api/namespaces", 405, "POST"),
        ("DELETE", "/api/admin/config", 405, "GET,HEAD,PUT"),
        ("PATCH", "/api/state/entities/x/y", 405, "GET,HEAD,DELETE"),
        ("PUT", "/api/state/entities/delete", 405, "GET,HEAD,DELETE"),
    ],
)
def test_unknown_paths_and_methods(client, method, path, status, allow):
    """HT-03, HT-08, EP-53, DF-34, AT-NEW-18."""
    answer = client.request(method, path)
    says(answer, status)
    assert answer.headers.get("allow") == allow


@pytest.mark.parametrize("path", ["/api/state/entities", "/api/admin/config", "/health", "/api/connectors"])
def test_head_answers_where_get_does(client, path):
    """HT-03."""
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/state/entities/delete"), ("PUT", "/api/admin/config")],
)
@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        ({"content-type": "text/plain"}, "{}", 415, "Expected request with `Content-Type: application/json`"),
        ({"content-type": ""}, "{}", 415, "Expected request with"),
        ({"content-type": "application/json"}, "{", 400, "Failed to parse the request body as JSON: "),
        ({"content-type": "application/json"}, '{"x":' * 5000, 400, ""),
        ({"content-type": "application/x+json"}, "[]", 422, "Failed to deserialize the JSON body into"),
        ({"content-type": "application/json"}, " " * (2 << 20) + "{}", 413, ""),
    ],
    ids=["media", "no media", "syntax", "bomb", "shape", "size"],
)
def test_bodies_of_json_endpoints(admin, method, path, headers, body, status, text):
    """HT-04, HT-08, HT-20."""
    says(admin.request(method, path, headers=headers, content=body), status, text)


def test_invalid_utf8_in_a_path(hive):
    """HT-07."""
    place = urlsplit(hive.world_url)
    with socket.create_connection((place.hostname, place.port), WAIT_S) as sock:
        sock.sendall(b"GET /api/state/entities/%ff HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = b""
        while part := sock.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"error":"' in answer


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
def test_cross_origin_headers(client, origin):
    """HT-10, HT-11, AT-NEW-24."""
    headers = {} if origin is None else {"origin": origin}
    for method, path in (("GET", "/api/state/entities"), ("GET", "/nope"), ("OPTIONS", "/anything")):
        answer = client.request(method, path, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "origin" in answer.headers["vary"]
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["access-control-allow-methods"] == "GET,POST,PUT,DELETE,OPTIONS"
    assert {"authorization", "content-type"} <= set(answer.headers["access-control-allow-headers"].split(","))
    assert "retry-after" in client.get("/health").headers["access-control-expose-headers"]


def test_a_page_of_another_origin_may_not_write(hive, client, admin):
    """DF-35, AT-NEW-24."""
    foreign = {"origin": "http://evil.example"}
    own = {"origin": hive.world_url}
    body = event("origin/a", x=1)
    assert client.post("/api/events", json=body, headers=foreign).status_code == 403
    says(client.post("/api/state/entities/delete", json={"prefix": "o"}, headers=foreign), 403)
    assert client.delete("/api/state/entities/x", headers=foreign).status_code == 403
    assert client.post("/api/events", json=body, headers=own).status_code == 200
    assert admin.post("/api/events", json=body, headers=foreign).status_code == 200
    assert client.get("/api/state/entities/origin/a", headers=foreign).status_code == 200


def test_a_foreign_host_is_refused(client):
    says(client.get("/api/state/entities", headers={"host": "evil.example"}), 403)


def test_health_readiness_figures_and_documents(hive, client):
    """EP-90 [ours], MX-11, UI-20."""
    health = client.get("/health").json()
    assert (health["status"], health["durability"]) == ("ok", "sync")
    assert client.get("/ready").json() == {"ready": True}
    figures = client.get("/metrics")
    assert figures.headers["content-type"].startswith("text/plain")
    assert "\nfluxbee_world_feed_listeners 0\n" in figures.text
    page = client.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    for name in re.findall(r'(?:src|href)="(/page/[^"]+)"', page.text):
        assert client.get(name).status_code == 200
    assert client.get("/").json()["openapi"] == "/openapi.json"


def test_the_document_and_the_door_agree(client):
    """Every documented operation is served; what is not documented as a method is refused."""
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    for path, operations in document["paths"].items():
        real = path.replace("{id}", "open/api").replace("{name}", "github")
        answer = client.request("PATCH", real)
        if answer.status_code == 405 and not path.endswith("/delete"):  # which is an entity's id as well
            allowed = set(answer.headers["allow"].lower().split(",")) - {"head"}
            assert allowed == set(operations), path
        for method in operations:
            assert client.request(method, real, content=b"").status_code != 405, (method, path)


def test_a_hive_that_reads_no_further_than_its_door(hive, client):
    """Half a request, then nothing: others are served."""
    place = urlsplit(hive.world_url)
    with socket.create_connection((place.hostname, place.port), WAIT_S) as sock:
        sock.sendall(b"POST /api/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        assert client.get("/health").status_code == 200


# --- administration ---------------------------------------------------------------------------------------

_DEFAULTS = {
    "rate_limit_enabled": True,
    "rate_limit_per_namespace_per_minute": 10000,
    "body_size_limit_single_bytes": 1048576,
    "body_size_limit_batch_bytes": 10485760,
}


def test_configuration_is_kept():
    """EP-80, EP-81, SD-12, SD-19, AT-ADM-1 to AT-ADM-5, AT-RL-5, AT-NEW-21, AT-BSZ-1, AT-BSZ-4."""
    with world_hive() as hive:
        with http(hive) as client, http(hive, ADMIN) as admin, http(hive, "wrong") as wrong:
            assert client.get("/api/admin/config").json() == _DEFAULTS
            says(client.put("/api/admin/config", json={}), 401, "Unauthorized")
            says(wrong.put("/api/admin/config", json={}), 401, "Unauthorized")
            changed = {
                "rate_limit_enabled": False,
                "rate_limit_per_namespace_per_minute": 5000,
                "body_size_limit_single_bytes": 512000,
                "body_size_limit_batch_bytes": 5120000,
            }
            assert admin.put("/api/admin/config", json=changed).json() == changed
            answer = admin.put(
                "/api/admin/config",
                json={"body_size_limit_single_bytes": 200, "unknown": 1, "rate_limit_enabled": None},
            )
            assert answer.json() == {**changed, "body_size_limit_single_bytes": 200}
            for bad in (
                {"body_size_limit_single_bytes": 0},
                {"body_size_limit_batch_bytes": 1 << 40},
                {"body_size_limit_batch_bytes": -1},
                {"rate_limit_enabled": "yes"},
            ):
                answer = admin.put("/api/admin/config", json=bad)
                assert answer.status_code in (400, 422)
                says(answer, answer.status_code, next(iter(bad)))
            says(client.post("/api/events", content=sized(201, batch=False)), 413, "payload too large")
            assert client.post("/api/events", content=sized(200, batch=False)).status_code == 200
        hive.stop()
        hive.start()
        with http(hive) as client:
            assert client.get("/api/admin/config").json()["body_size_limit_single_bytes"] == 200


def test_nobody_administers_with_the_token_that_is_not_there(hive_folder):
    """EP-81 [ours], DF-22: without a configured token one is made, in a file for its owner alone."""
    from appliance.testing.hive import HiveHarness

    with HiveHarness(hive_folder) as hive:
        path = hive.paths.world_admin_token
        assert path.stat().st_mode & 0o777 == 0o600
        token = path.read_text().strip()
        assert len(token) >= 32
        assert token not in hive.log.read_text()
        assert str(path) in hive.log.read_text()
        with http(hive) as client, http(hive, token) as admin:
            says(client.put("/api/admin/config", json={}), 401)
            assert admin.put("/api/admin/config", json={}).status_code == 200
        hive.stop()
        hive.start()
        assert path.read_text().strip() == token


def test_namespaces(guarded):
    """EP-50 to EP-53, SD-20, AT-IN-3, AT-NS-1 to AT-NS-7, AT-NS-15 to AT-NS-18, DF-45."""
    with http(guarded) as client, http(guarded, ADMIN) as admin:
        answer = admin.post("/api/namespaces", json={"name": "sensor-team_1"})
        assert answer.status_code == 200
        assert list(answer.json()) == ["namespaceId", "name", "token"]
        assert re.fullmatch(r"ns_[0-9a-z]{8}", answer.json()["namespaceId"])
        token = answer.json()["token"]
        assert uuid.UUID(token).version == 4
        says(
            admin.post("/api/namespaces", json={"name": "sensor-team_1"}),
            409,
            "Namespace name already exists",
        )
        says(client.post("/api/namespaces", json={"name": "abc"}), 401, "Admin token required")
        for name, text in (
            ("ab", "too short (minimum 3 characters)"),
            ("a" * 33, "too long (maximum 32 characters)"),
            ("Abc", "Invalid character 'A' (must be [a-z0-9-_])"),
            ("a.c", "Invalid character '.'"),
        ):
            says(admin.post("/api/namespaces", json={"name": name}), 400, text)
        says(admin.post("/api/namespaces", json={"nom": "abc"}), 422)
        with http(guarded, token) as owner:
            assert owner.post("/api/events", json=event("sensor-team_1/a/b", x=1)).status_code == 200
        shown = client.get("/api/namespaces/sensor-team_1").json()
        assert list(shown) == ["namespaceId", "name", "createdAt", "entityCount"]
        assert (shown["entityCount"], shown["createdAt"][-6:]) == (1, "+00:00")
        says(client.get("/api/namespaces/unknown"), 404, "Namespace not found")
        says(client.delete("/api/namespaces/sensor-team_1"), 401, "Admin token required")
        says(admin.delete("/api/namespaces/unknown"), 404, "Namespace not found")
        fresh = admin.post("/api/namespaces/sensor-team_1/rotate").json()["token"]
        with http(guarded, token) as old, http(guarded, fresh) as new:
            assert old.post("/api/events", json=event("sensor-team_1/a", x=1)).status_code in (401, 403)
            assert new.post("/api/events", json=event("sensor-team_1/a", x=1)).status_code == 200
        answer = admin.delete("/api/namespaces/sensor-team_1?entities=delete")
        assert (answer.status_code, answer.content) == (204, b"")
        assert client.get("/api/state/entities?namespace=sensor-team_1").json() == []
        says(client.get("/api/namespaces/sensor-team_1"), 404)


def test_namespaces_without_auth(client, admin):
    """EP-50, EP-51, AT-IN-3."""
    text = "Namespace registration not available (auth disabled)"
    says(admin.post("/api/namespaces", json={"name": "abc"}), 404, text)
    says(client.get("/api/namespaces/abc"), 404, text)
    says(client.delete("/api/namespaces/abc"), 401, "Admin token required")


def test_open_registration():
    """``design.md §5``: ``world.open_registration``."""
    with world_hive(auth_enabled=True, open_registration=True) as hive, http(hive) as client:
        assert client.post("/api/namespaces", json={"name": "abc"}).status_code == 200
        says(client.delete("/api/namespaces/abc"), 401)


# --- authorisation (HT-30, AT-NEW-19) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status", "text"),
    [
        (None, 401, "Authorization token not provided"),
        ("", 401, "Invalid authorization token format"),
        ("{matt}", 401, "Invalid authorization token format"),
        ("Basic {matt}", 401, "Invalid authorization token format"),
        ("Bearer", 401, "Invalid authorization token format"),
        ("Bearer {alice}", 403, "Token does not have permission to write to namespace 'matt'"),
        ("Bearer {matt}", 200, None),
        ("bearer   {matt}", 200, None),
        ("BEARER {matt}", 200, None),
    ],
)
def test_the_header(guarded, tokens, header, status, text):
    """AT-TK-1 to AT-TK-8, AT-TE-1, AT-TE-2, AT-AZ-3, AT-AZ-7 to AT-AZ-9, HT-31."""
    headers = {} if header is None else {"authorization": header.format(**tokens)}
    with http(guarded) as client:
        for method, path, body in (
            ("POST", "/api/events", event("matt/sensor-01", x=1)),
            ("DELETE", "/api/state/entities/matt/sensor-01", None),
        ):
            answer = client.request(method, path, json=body, headers=headers)
            if status == 200:
                assert answer.status_code == 200, answer.text
            else:
                says(answer, status, text if method == "POST" else None)
        answer = client.post("/api/state/entities/delete", json={"namespace": "matt"}, headers=headers)
        assert answer.status_code in {200, status}


@pytest.mark.parametrize(
    ("entity_id", "status", "text"),
    [
        (None, 401, "Missing 'entity_id' field in payload"),
        ("sensor-01", 401, "missing namespace prefix (expected 'namespace/entity' format)"),
        ("/sensor-01", 401, "Failed to parse entity_id '/sensor-01'"),
        ("matt/", 401, "Failed to parse entity_id"),
        ("MATT/x", 401, "Failed to parse entity_id"),
        ("ab/x", 401, "Failed to parse entity_id"),
        ("nobody/x", 401, "Namespace 'nobody' not found"),
        ("matt/sensor@01.example.com", 200, None),
        ("matt/a/b/c", 200, None),
    ],
)
def test_the_id(guarded, tokens, entity_id, status, text):
    """ST-20, ST-22, AT-AZ-4 to AT-AZ-6, AT-AZ-10, AT-AZ-11, AT-ID-1 to AT-ID-15."""
    body = event("x", x=1)
    if entity_id is None:
        del body["payload"]["entity_id"]
    else:
        body["payload"]["entity_id"] = entity_id
    with http(guarded, tokens["matt"]) as client:
        answer = client.post("/api/events", json=body)
        if status == 200:
            assert answer.status_code == 200, answer.text
        else:
            says(answer, status, text)
        result = client.post("/api/events/batch", json={"events": [body]}).json()["results"][0]
        assert (result["error"] is None) == (status == 200)
        if status != 200:
            assert result["error"].startswith("authorization failed: ")


def test_reads_need_no_token(guarded):
    """HT-30."""
    with http(guarded) as client:
        for path in (
            "/api/events?entity=a",
            "/api/state/entities",
            "/api/admin/config",
            "/health",
            "/openapi.json",
        ):
            assert client.get(path).status_code == 200
        says(client.get("/api/connectors"), 401, "Invalid token: Authorization token not provided")
        headers = {"authorization": "Bearer not-a-token"}
        says(client.get("/api/connectors", headers=headers), 401, "Invalid token")


def test_rate_limits():
    """HT-40, HT-41, AT-RL-1 to AT-RL-4, AT-NEW-20."""
    with world_hive(auth_enabled=True) as hive, http(hive, ADMIN) as admin:
        made = {n: admin.post("/api/namespaces", json={"name": n}).json()["token"] for n in ("one", "two")}
        admin.put("/api/admin/config", json={"rate_limit_per_namespace_per_minute": 1})
        with http(hive, made["one"]) as one, http(hive, made["two"]) as two:
            assert one.post("/api/events", json=event("one/a", x=1)).status_code == 200
            limited = one.post("/api/events", json=event("one/a", x=1))
            says(limited, 429, "rate limit exceeded")
            assert limited.headers["retry-after"] == "60"
            batch = one.post("/api/events/batch", json={"events": [event("one/a", x=1)]})
            assert (batch.status_code, batch.json()["results"][0]["error"]) == (200, "rate limit exceeded")
            assert two.post("/api/events", json=event("two/a", x=1)).status_code == 200
            admin.put("/api/admin/config", json={"rate_limit_enabled": False})
            for _ in range(3):
                assert one.post("/api/events", json=event("one/a", x=1)).status_code == 200


def test_no_rate_limit_without_auth():
    """AT-RL-1."""
    with world_hive() as hive, http(hive, ADMIN) as admin:
        admin.put("/api/admin/config", json={"rate_limit_per_namespace_per_minute": 1})
        for _ in range(3):
            assert admin.post("/api/events", json=event("one/a", x=1)).status_code == 200


def test_guessing_is_slowed_down(guarded, tokens):
    """HT-41: many wrong tokens of one address; a proven token goes on working."""
    with http(guarded) as client:
        good = {"authorization": f"Bearer {tokens['plant']}"}
        assert client.post("/api/events", json=event("plant/a", x=1), headers=good).status_code == 200
        statuses = []
        for n in range(40):
            wrong = {"authorization": f"Bearer guess-{n}"}
            statuses.append(client.post("/api/events", json=event("plant/a", x=1), headers=wrong).status_code)
        assert statuses[0] == 403
        assert statuses[-1] == 429
        answer = client.put("/api/admin/config", json={}, headers={"authorization": "Bearer again"})
        says(answer, 429)
        assert "retry-after" in answer.headers
        assert client.post("/api/events", json=event("plant/a", x=1), headers=good).status_code == 200


# --- restarts ----------------------------------------------------------------------------------------


def test_restart_keeps_everything():
    """SD-23, AT-NEW-7, DF-01 to DF-03."""
    with world_hive() as hive:
        for round_number in range(3):
            with http(hive) as client:
                for n in range(round_number):
                    assert entity(client, f"life/{n}")["properties"] == {"n": n}
                client.post("/api/events", json=event(f"life/{round_number}", n=round_number))
                before = entity(client, "life/0")["lastUpdated"]
            hive.stop()
            hive.start()
            with http(hive) as client:
                assert entity(client, "life/0")["lastUpdated"] == before  # ST-06


def test_the_process_dies_and_nothing_acknowledged_is_lost(hive_folder):
    """SD-23, DF-01: one kill here; hundreds in ``tests/fault``."""
    from appliance.testing.hive import HiveHarness

    with HiveHarness(hive_folder, check_exit=False) as hive:
        with http(hive) as client:
            for n in range(50):
                assert client.post("/api/events", json=event(f"kill/{n}", n=n)).status_code == 200
        hive.kill()
        hive.start()
        with http(hive) as client:
            found = client.get("/api/state/entities?namespace=kill").json()
            assert sorted(one["properties"]["n"] for one in found) == list(range(50))


def test_a_request_under_way_at_the_stop_is_answered():
    """DF-08: what is being published when the box stops is stored and acknowledged."""
    with world_hive() as hive:
        place = urlsplit(hive.world_url)
        body = json.dumps({"events": [event("stop/a", x=1)]}).encode()
        with socket.create_connection((place.hostname, place.port), WAIT_S) as sock:
            head = (
                f"POST /api/events/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            sock.sendall(head.encode() + body[:-5])
            with http(hive) as client:
                assert client.get("/health").status_code == 200
            stopping = threading.Thread(target=hive.stop)
            stopping.start()
            with pytest.raises(OSError):  # until the door takes nobody any more
                while True:
                    socket.create_connection((place.hostname, place.port), 1).close()
            sock.sendall(body[-5:])
            answer = b""
            while part := sock.recv(65536):
                answer += part
            stopping.join()
        assert b'"successful":1' in answer
        hive.start()
        with http(hive) as client:
            assert entity(client, "stop/a")["properties"] == {"x": 1}
