"""Clients that exist, replayed in the forms that were recorded of them (``spec/flux-state.md §6, §7``).

AT-NEW-1 (the command line), AT-NEW-14 (Python and shell examples), AT-NEW-15 (dashboard). Each request is
what the client sends, byte for byte where that matters; each check is what the client does with the answer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import httpx
import pytest

from .world_kit import ADMIN, Feed, event, http, world_hive

pytestmark = pytest.mark.process

CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def hive():
    with world_hive(metrics_interval_s=1) as running:
        yield running


def curl(hive, *words: str, token: str | None = None) -> str:
    """As the command line's helper calls it: silent, always with a content type, status never looked at."""
    if CURL is None:
        pytest.fail("these tests need curl")
    command = [CURL, "-s", "-H", "Content-Type: application/json"]
    if token is not None:
        command += ["-H", f"Authorization: Bearer {token}"]
    method, path, *body = words
    command += ["-X", method, hive.world_url + path]
    if body:
        command += ["-d", body[0]]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


# --- AT-NEW-1: the command line --------------------------------------------------------------------


def test_publish_get_list_delete(hive):
    """CL-01, CL-03 to CL-05."""
    body = f"""{{
        "stream": "sensors",
        "source": "cli",
        "timestamp": {int(time.time())}000,
        "payload": {{
            "entity_id": "cli/pump 1",
            "properties": {{"temp": 22.5}}
        }}
    }}"""
    assert len(json.loads(curl(hive, "POST", "/api/events", body))["eventId"]) == 36
    curl(hive, "POST", "/api/events", body.replace("pump 1", "pump/2"))
    got = json.loads(curl(hive, "GET", "/api/state/entities/cli%2Fpump%2F2"))
    assert (got["id"], got["properties"]) == ("cli/pump/2", {"temp": 22.5})
    for query in ("?prefix=cli/", "?namespace=cli"):
        assert len(json.loads(curl(hive, "GET", f"/api/state/entities{query}"))) == 2
    gone = json.loads(curl(hive, "DELETE", "/api/state/entities/cli%2Fpump%2F2"))
    assert gone["entity_id"] == "cli/pump/2"
    assert json.loads(curl(hive, "GET", "/api/state/entities/cli%2Fpump%2F2")) == {
        "error": "Entity not found"
    }


def test_batch_and_batch_delete(hive):
    """CL-02, CL-06: events without timestamps, the argument pasted in."""
    events = json.dumps([event("clib/a", x=1), event("clib/b", x=2)])
    assert json.loads(curl(hive, "POST", "/api/events/batch", f'{{"events": {events}}}'))["successful"] == 2
    answer = curl(hive, "POST", "/api/state/entities/delete", '{"prefix":"clib/"}')
    assert json.loads(answer)["deleted"] == 2


def test_connectors_admin_config_and_health(hive):
    """CL-07 to CL-10, CL-21."""
    assert len(json.loads(curl(hive, "GET", "/api/connectors"))["connectors"]) == 4
    assert json.loads(curl(hive, "GET", "/api/admin/config", token="any"))["rate_limit_enabled"] is True
    update = '{"rate_limit_per_namespace_per_minute": 9000}'
    answer = curl(hive, "PUT", "/api/admin/config", update, token=ADMIN)
    assert json.loads(answer)["rate_limit_per_namespace_per_minute"] == 9000
    assert isinstance(json.loads(curl(hive, "GET", "/api/state/entities")), list)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/events", '{"stream": "a", "payload": {"entity_id": "a"b"}}'),
        ("GET", "/api/state/entities/unknown", None),
        ("GET", "/api/unknown", None),
        ("PUT", "/api/admin/config", "{}"),
        ("POST", "/api/state/entities/delete", "{}"),
    ],
)
def test_every_failure_is_json(hive, method, path, body):
    """CL-20, CL-22, HT-08: the script pipes every body through a JSON formatter."""
    words = (method, path) if body is None else (method, path, body)
    assert isinstance(json.loads(curl(hive, *words))["error"], str)


# --- AT-NEW-14: the examples --------------------------------------------------------------------


def test_the_python_examples(hive):
    """CL-30 to CL-32."""
    with http(hive) as client:
        stamp = int(time.time() * 1000)
        body = {
            "stream": "sensors",
            "source": "example",
            "timestamp": stamp,
            "key": "k",
            "schema": "s",
            "payload": {"entity_id": "temp-1", "properties": {"temp": 22.5, "unit": "C"}},
        }
        assert client.post("/api/events", json=body).json()["eventId"]
        one = client.get("/api/state/entities/temp-1").json()
        assert (one["id"], one["properties"], len(one["lastUpdated"][:19])) == (
            "temp-1",
            {"temp": 22.5, "unit": "C"},
            19,
        )
        assert client.get("/api/state/entities/nobody").status_code == 404
        for subscribe in ({"type": "subscribe"}, {"type": "subscribe", "entityId": "temp-1"}):
            with Feed(hive) as feed:
                feed.send(subscribe)
                client.post("/api/events", json=event("temp-1", temp=1))
                assert feed.until_property("temp")[-1]["entity_id"] == "temp-1"


@pytest.mark.parametrize(
    ("stream", "entity"),
    [("sensors", "sensor-1"), ("infrastructure", "host-01"), ("application", "app-events")],
)
def test_the_shell_publishers(hive, stream, entity):
    """CL-40, HT-02: the id is cut out of the raw text."""
    body = json.dumps(
        {
            "stream": stream,
            "source": "shell",
            "timestamp": int(time.time() * 1000),
            "payload": {"entity_id": entity, "properties": {"n": 1}},
        }
    )
    text = curl(hive, "POST", "/api/events", body)
    assert len(text.partition('"eventId":"')[2].partition('"')[0]) == 36


# --- AT-NEW-15: the dashboard --------------------------------------------------------------------


def test_what_the_dashboard_asks(hive):
    """UI-01 to UI-03, UI-10 to UI-17, UI-20, UI-21; ``/`` is page and socket at once."""
    with http(hive) as client, Feed(hive, "/") as feed:
        feed.send({"type": "subscribe", "entity_id": "*"})
        client.post("/api/events", json=event("dash/a", status="healthy", humidity=40))
        assert {frame["property"] for frame in feed.until_property("status")} == {"humidity", "status"}
        listed = client.get("/api/state/entities?prefix=dash").json()
        assert [(sorted(one)[:3], type(one["properties"])) for one in listed] == [
            (["id", "lastUpdated", "properties"], dict)
        ]
        (stored,) = client.get("/api/events?entity=dash%2Fa&limit=100").json()
        assert {"stream", "source", "timestamp", "payload"} <= set(stored)
        client.delete("/api/state/entities/dash%2Fa")
        feed.until(lambda frames: any(frame["type"] == "entity_deleted" for frame in frames))
        feed.frames.clear()
        while not any(frame["type"] == "metrics_update" for frame in feed.frames):
            feed._pump(5)
        metrics = next(frame for frame in feed.frames if frame["type"] == "metrics_update")
        assert isinstance(metrics["events"]["rate_per_second"], float | int)
        for path in ("/api/connector-manager/connectors", "/connector-manager/api/connectors"):
            assert isinstance(client.get(path).json(), list)
        page = client.get("/", headers={"accept": "text/html"})
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert set(client.get("/api/admin/config").json()) >= {"rate_limit_enabled"}


def test_an_unmodified_proxy_reaches_everything(hive):
    """UI-02: the proxy drops the origin's meaning: no Origin header, JSON in and out."""
    with httpx.Client(base_url=hive.world_url, trust_env=False) as proxy:
        answer = proxy.post("/api/events", content=json.dumps(event("proxy/a", x=1)))
        assert answer.headers["access-control-allow-origin"] == "*"
        assert proxy.get("/api/state/entities/proxy%2Fa").json()["properties"] == {"x": 1}
