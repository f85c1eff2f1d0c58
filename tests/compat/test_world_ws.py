"""The world's WebSocket against a real hive (``spec/flux-state.md §4``, AT-NEW-11, AT-NEW-16, AT-NEW-17)."""

from __future__ import annotations

import re
import time

import httpx
import pytest

from appliance.testing.hive import HiveHarness

from .world_kit import ADMIN, WAIT_S, Feed, event, http, world_hive

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def hive():
    with world_hive(metrics_interval_s=1) as running:
        yield running


@pytest.fixture
def client(hive):
    with http(hive) as opened:
        yield opened


def publish(client: httpx.Client, entity_id: str, **properties: object) -> dict:
    answer = client.post("/api/events", json=event(entity_id, **properties))
    assert answer.status_code == 200, answer.text
    return answer.json()


def updates(frames: list[dict]) -> list[tuple]:
    return [
        (frame["entity_id"], frame["property"], frame["value"])
        if frame["type"] == "state_update"
        else ("-", frame["entity_id"])
        for frame in frames
        if frame["type"] in ("state_update", "entity_deleted")
    ]


# --- AT-NEW-16: what is subscribed ------------------------------------------------------------------------


def test_nothing_comes_before_something_happens(hive, client):
    """WS-04, WS-24: no hello, no state."""
    publish(client, "before/x", a=1)
    with Feed(hive) as feed:
        publish(client, "ws/first", a=1)
        assert updates(feed.until_property("a")) == [("ws/first", "a", 1)]


@pytest.mark.parametrize("path", ["/api/ws", "/", "/api/ws?token=x"])
def test_a_new_connection_gets_everything(hive, client, path):
    """WS-01, WS-02, WS-11."""
    with Feed(hive, path) as feed:
        receipt = publish(client, "ws/a", temp=22.5, ok=None)
        frames = feed.until_property("temp")
        assert updates(frames) == [("ws/a", "ok", None), ("ws/a", "temp", 22.5)]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", frames[0]["timestamp"])
        assert [frame["seq"] for frame in frames] == [receipt["seq"]] * 2


def test_one_id_a_star_and_an_emptied_set(hive, client):
    """WS-10, WS-11, WS-14."""
    with Feed(hive) as one, Feed(hive) as star, Feed(hive) as nothing, Feed(hive) as all_of_it:
        one.send({"type": "subscribe", "entity_id": "ws/one", "token": "ignored"})
        star.send({"type": "subscribe", "entity_id": "*"})
        nothing.send({"type": "subscribe", "entity_id": "ws/one"})
        nothing.send({"type": "unsubscribe", "entity_id": "ws/one"})
        # A read frame is answered in order: after it the subscriptions before it are in force.
        for feed in (one, star, nothing):
            feed.send({"type": "get", "id": 7, "entity_id": "ws/none"})
            feed.until(lambda frames: any(frame["type"] == "entity" for frame in frames))
        publish(client, "ws/other", x=1)
        publish(client, "ws/one", x=2)
        publish(client, "ws/end", x=3)
        client.delete("/api/state/entities/ws/end")
        ends = ("-", "ws/end")
        last = lambda frames: ends in updates(frames)  # noqa: E731
        everything = [("ws/other", "x", 1), ("ws/one", "x", 2), ("ws/end", "x", 3), ends]
        assert updates(all_of_it.until(last)) == everything
        assert updates(star.until(last)) == everything
        assert updates(one.until(last)) == [("ws/one", "x", 2), ends]
        assert updates(nothing.until(last)) == [ends]


@pytest.mark.parametrize(
    "frame",
    [{"type": "subscribe"}, {"type": "subscribe", "entityId": "*"}],
)
def test_the_python_examples_way_to_subscribe(hive, client, frame):
    """WS-13."""
    with Feed(hive) as feed:
        feed.send(frame)
        publish(client, "ws/py", x=1)
        assert updates(feed.until_property("x")) == [("ws/py", "x", 1)]


@pytest.mark.parametrize(
    "garbage",
    [
        "no json",
        "[]",
        '{"type":"subscribe","entity_id":5}',
        '{"type":"dance"}',
        '{"type":"unsubscribe"}',
        "[" * 50_000,
        '{"type":"subscribe","entity_id":"\\ud800"}',
        b"\x00\x01",
    ],
    ids=["text", "array", "number", "unknown", "no id", "depth bomb", "surrogate", "binary"],
)
def test_what_is_not_understood_is_ignored(hive, client, garbage):
    """WS-12."""
    with Feed(hive) as feed:
        feed.send(garbage)
        publish(client, "ws/still", here=1)
        assert updates(feed.until_property("here")) == [("ws/still", "here", 1)]


def test_values_of_every_kind_arrive(hive, client):
    value = {"n": [1, 2.5, None, True], "ü": '\u2028 \\ " \x7f', "deep": {"a": {"b": {}}}}
    with Feed(hive) as feed:
        publish(client, "ws/жизнь/é", v=value)
        assert updates(feed.until_property("v")) == [("ws/жизнь/é", "v", value)]


# --- deletions and order ----------------------------------------------------------------------------------


def test_delete_and_recreate(hive, client):
    """AT-NEW-11, ST-12, WS-21, WS-23."""
    with Feed(hive) as feed:
        assert client.delete("/api/state/entities/ws/unknown").status_code == 200
        publish(client, "ws/d", a=1, b=1)
        publish(client, "ws/d", __deleted__=True, c=1)
        publish(client, "ws/d", __deleted__=True)
        publish(client, "ws/d", z=2)
        wanted = [("ws/d", "a", 1), ("ws/d", "b", 1), ("-", "ws/d"), ("ws/d", "z", 2)]
        assert updates(feed.until_property("z")) == wanted
    assert client.get("/api/state/entities/ws/d").json()["properties"] == {"z": 2}


def test_updates_keep_the_order_of_the_log(hive, client):
    with Feed(hive) as feed:
        for batch in range(5):
            events = [event(f"order/{n % 7}", n=batch * 200 + n) for n in range(200)]
            client.post("/api/events/batch", json={"events": events})
        frames = feed.until(lambda frames: len(frames) == 1000)
        assert [frame["value"] for frame in frames] == list(range(1000))
        assert [frame["seq"] for frame in frames] == sorted(frame["seq"] for frame in frames)


# --- metrics, liveness, close -----------------------------------------------------------------------------


def test_metrics_come_at_the_interval(hive, client):
    """WS-22, MX-01 to MX-05, UI-11."""
    with Feed(hive) as feed:
        publish(client, "ws/m", a=1)
        deadline = time.monotonic() + WAIT_S
        while sum(frame["type"] == "metrics_update" for frame in feed.frames) < 2:
            assert time.monotonic() < deadline
            feed._pump(WAIT_S)
        frame = [frame for frame in feed.frames if frame["type"] == "metrics_update"][-1]
        assert frame["entities"]["total"] >= 1
        assert frame["events"]["total"] >= 1
        assert isinstance(frame["events"]["rate_per_second"], float | int)
        assert frame["websocket"]["connections"] == 1
        assert frame["publishers"]["active"] >= 1
        assert frame["timestamp"].endswith("Z")


def test_a_stop_closes_with_1001():
    with world_hive() as hive:
        feed = Feed(hive)
        hive.stop()
        while feed.closed is None and feed._pump(WAIT_S):
            pass
        assert feed.closed == 1001
        feed.sock.close()
        hive.start()


def test_no_upgrade_is_a_400(client):
    """WS-01, HT-08."""
    answer = client.get("/api/ws")
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_other_paths_take_no_socket(hive):
    feed = Feed(hive, "/api/other")
    assert feed.rejected == 404
    feed.sock.close()


def test_a_page_of_another_origin_may_listen_and_not_write(hive, client):
    """DF-35."""
    with Feed(hive, headers=(("Origin", "http://evil.example"),)) as feed:
        feed.send({"type": "publish", "id": "p", "events": [event("ws/evil", a=1)]})
        (answer,) = feed.until(bool)
        assert (answer["type"], answer["id"], answer["status"]) == ("error", "p", 403)
        publish(client, "ws/seen", a=1)
        assert updates(feed.until_property("a")) == [("ws/seen", "a", 1)]
    assert client.get("/api/state/entities/ws/evil").status_code == 404


# --- additive frames --------------------------------------------------------------------------------------


def test_publish_and_read_by_frame(hive, client):
    with Feed(hive) as feed:
        feed.send({"type": "subscribe", "entity_id": "ws/none"})
        for number in range(20):
            events = [event(f"frame/{number}", n=number), {"stream": "BAD"}]
            feed.send({"type": "publish", "id": number, "events": events})
        answers = feed.until(lambda frames: len(frames) == 20)
        assert [answer["id"] for answer in answers] == list(range(20))
        assert {(a["type"], a["successful"], a["failed"]) for a in answers} == {("published", 1, 1)}
        assert answers[0]["results"][0]["error"] is None
        feed.send({"type": "get", "id": "g", "entity_id": "frame/3"})
        feed.send({"type": "list", "id": "l", "prefix": "frame/1", "limit": 2})
        got, listed = feed.until(lambda frames: len(frames) == 2)
        assert (got["id"], got["entity"]["properties"]) == ("g", {"n": 3})
        assert [found["id"] for found in listed["entities"]] == ["frame/1", "frame/10"]


def test_a_publish_frame_without_events_is_answered(hive):
    with Feed(hive) as feed:
        feed.send({"type": "publish", "id": 1, "events": []})
        (answer,) = feed.until(bool)
        assert (answer["type"], answer["status"]) == ("error", 400)


def test_a_snapshot_comes_first_and_updates_follow(hive, client):
    """WS-04."""
    for number in range(1200):
        if number % 400 == 0:
            events = [event(f"snap/{n:04}", n=n) for n in range(number, number + 400)]
            client.post("/api/events/batch", json={"events": events})
    with Feed(hive) as feed:
        feed.send({"type": "subscribe", "entity_id": "*", "snapshot": True})
        frames = feed.until(lambda frames: any(frame.get("last") for frame in frames))
        assert {frame["type"] for frame in frames} == {"snapshot"}
        ids = [found["id"] for frame in frames for found in frame["entities"]]
        assert len([found for found in ids if found.startswith("snap/")]) == 1200
        assert len(ids) == len(set(ids))
        publish(client, "snap/0001", n="new")
        assert updates(feed.until_property("n")) == [("snap/0001", "n", "new")]
        feed.send({"type": "subscribe", "entity_id": "snap/0007", "snapshot": True})
        (one,) = feed.until(lambda frames: any(frame.get("last") for frame in frames))
        assert [found["id"] for found in one["entities"]] == ["snap/0007"]


def test_snapshots_that_nobody_reads_are_bounded_and_told(hive, client):
    asked = 40
    with Feed(hive) as feed:
        for number in range(asked):
            feed.send({"type": "subscribe", "entity_id": "*", "snapshot": True, "id": number})

        def all_answered(frames):
            ended = [one for one in frames if one.get("last") or one["type"] == "error"]
            return len(ended) == asked

        frames = feed.until(all_answered)
        refused = [one for one in frames if one["type"] == "error"]
        assert refused
        assert {one["status"] for one in refused} == {429}
        assert any(one.get("last") for one in frames)
    assert re.search(r"\nfluxbee_world_sockets_snapshots_refused\S* [1-9]", client.get("/metrics").text)


# --- slow consumers ---------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_misses_no_last_state_and_no_deletion(hive, client):
    """AT-NEW-17, WS-33: it reads again after 10 000 updates and 500 deletions, and converges."""
    entities = [f"slow/{n:04}" for n in range(1500)]
    with Feed(hive) as slow:
        pad = "x" * 300
        for first in range(0, 10_500, 500):
            batch = [event(entities[n % 1500], n=n, pad=pad) for n in range(first, first + 500)]
            assert client.post("/api/events/batch", json={"events": batch}).json()["failed"] == 0
        gone = entities[:500]
        assert client.post("/api/state/entities/delete", json={"entity_ids": gone}).json()["deleted"] == 500
        publish(client, "slow/end", done=1)
        figures = client.get("/metrics").text
        assert "\nfluxbee_world_feed_lagging 1\n" in figures
        mirror: dict[str, dict[str, object]] = {}
        lagged = False
        for frame in slow.until_property("done"):
            if frame["type"] == "state_update":
                mirror.setdefault(frame["entity_id"], {})[frame["property"]] = frame["value"]
            elif frame["type"] == "entity_deleted":
                mirror.pop(frame["entity_id"], None)
            lagged |= frame["type"] == "lagged"
        assert lagged
        world = {
            found["id"]: found["properties"]
            for found in client.get("/api/state/entities?prefix=slow/").json()
        }
        assert mirror == world
        assert len(world) == 1001


@pytest.mark.slow
def test_a_client_that_reads_nothing_for_a_minute(hive, client):
    """AT-NEW-17 to the letter: 10 000 updates, 500 deletions; it converges, or is closed with 1013."""
    entities = [f"minute/{n:04}" for n in range(1500)]
    with Feed(hive) as slow:
        started = time.monotonic()
        pad = "x" * 300
        for first in range(0, 10_500, 500):
            batch = [event(entities[n % 1500], n=n, pad=pad) for n in range(first, first + 500)]
            assert client.post("/api/events/batch", json={"events": batch}).json()["failed"] == 0
        gone = entities[:500]
        assert client.post("/api/state/entities/delete", json={"entity_ids": gone}).json()["deleted"] == 500
        time.sleep(max(started + 62 - time.monotonic(), 0))  # the row says a minute of the wall
        publish(client, "minute/end", done=1)
        mirror: dict[str, dict[str, object]] = {}
        for frame in slow.until_property("done"):
            if frame["type"] == "state_update":
                mirror.setdefault(frame["entity_id"], {})[frame["property"]] = frame["value"]
            elif frame["type"] == "entity_deleted":
                mirror.pop(frame["entity_id"], None)
        if slow.closed is None:
            listed = client.get("/api/state/entities?prefix=minute/").json()
            assert mirror == {found["id"]: found["properties"] for found in listed}
        else:
            assert slow.closed == 1013


@pytest.mark.slow
def test_a_client_that_never_reads_is_given_up_with_1013(hive, client):
    """WS-33: more than the feed can make up for; the others do not notice."""
    with Feed(hive) as never, Feed(hive) as other:
        other.send({"type": "subscribe", "entity_id": "never/last"})
        pad = "y" * 2000
        for first in range(0, 20_000, 1000):
            batch = [event(f"never/{n}", pad=pad) for n in range(first, first + 1000)]
            assert client.post("/api/events/batch", json={"events": batch}).json()["failed"] == 0
        publish(client, "never/last", done=1)
        assert updates(other.until_property("done"))[-1] == ("never/last", "done", 1)
        while never.closed is None and never._pump(WAIT_S):
            pass
        assert never.closed == 1013


def test_writes_by_frame_need_the_namespaces_token():
    with world_hive(auth_enabled=True) as hive, http(hive, ADMIN) as admin:
        token = admin.post("/api/namespaces", json={"name": "plant"}).json()["token"]
        with Feed(hive) as feed:
            feed.send({"type": "subscribe", "entity_id": "none"})
            feed.send({"type": "publish", "id": 1, "events": [event("plant/a", x=1)]})
            feed.send({"type": "publish", "id": 2, "token": token, "events": [event("plant/a", x=1)]})
            feed.send({"type": "publish", "id": 3, "token": token, "events": [event("other/a", x=1)]})
            answers = feed.until(lambda frames: len(frames) == 3)
            assert [(a["id"], a["successful"]) for a in answers] == [(1, 0), (2, 1), (3, 0)]
        with Feed(hive, headers=(("Authorization", f"Bearer {token}"),)) as feed:
            feed.send({"type": "publish", "events": [event("plant/b", x=1)]})
            frames = feed.until(lambda frames: {"published", "state_update"} <= {f["type"] for f in frames})
            assert [f["successful"] for f in frames if f["type"] == "published"] == [1]


def test_a_feed_outlives_a_kill_of_the_world(hive_folder):
    """AT-NEW-6, DF-02: after a restart a client that connects again gets updates while events go on."""
    with HiveHarness(hive_folder, planes="apart", settings={"world": {"admin_token": ADMIN}}) as hive:
        with http(hive) as client, Feed(hive):
            publish(client, "kill/a", n=1)
            hive.kill_plane("world")
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                with http(hive) as client, Feed(hive) as feed:
                    publish(client, "kill/a", n=2)
                    assert updates(feed.until_property("n")) == [("kill/a", "n", 2)]
                    assert client.get("/api/state/entities/kill/a").json()["seq"] == 2
                break
            except (httpx.TransportError, OSError):
                assert time.monotonic() < deadline
                time.sleep(0.05)
