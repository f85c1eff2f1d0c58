"""The world as it is known: live and replayed events take the same steps."""

from __future__ import annotations

import msgspec
import pytest

from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.world import AdminConfig, Namespace, WorldOptions
from appliance.world.flight import Flight
from appliance.world.overlay import DELETE, NOTE, SET
from appliance.world.records import CONFIG, EVENT, EVENT_OF_CLIENT, NAMESPACE, NAMESPACE_GONE, RESTORED, pack
from appliance.world.state import WorldState, act_of
from appliance.world.view import WorldView


@pytest.fixture
def view(tmp_path):
    with Environment(WORLD, tmp_path, (WORLD_REGION,)) as env:
        view = WorldView(env, 1 << 20)
        view.reset("x")
        view.finish(0)
        yield view


@pytest.fixture
def state():
    return WorldState(WorldOptions())


def record(kind: int, payload: object, *, event_id: str = "i", previous: int = 0) -> bytes:
    text = msgspec.json.encode({"eventId": event_id, "stream": "s", "source": "x", "payload": payload})
    return pack(kind, 1000, previous, text)


@pytest.mark.parametrize(
    ("properties", "act"),
    [
        ({"a": 1}, SET),
        ({}, NOTE),
        (None, NOTE),
        ([1], NOTE),
        ({"__deleted__": True, "a": 1}, DELETE),
        ({"__deleted__": False}, SET),
        ({"__deleted__": "true"}, SET),
        ({"__deleted__": 1}, SET),
    ],
)
def test_what_properties_do(properties, act):
    """ST-11, EV-09."""
    assert act_of(properties) == act


def test_replay_applies_each_event_once(state, view):
    with view.rows() as rows:
        state.replay(1, record(EVENT, {"entity_id": "a", "properties": {"p": 1}}), rows)
        state.replay(2, record(EVENT_OF_CLIENT, {"entity_id": "a", "properties": {"q": 1}}), rows)
        before = state.overlay.text("a", b"")
        state.replay(1, record(EVENT, {"entity_id": "a", "properties": {"p": 9}}), rows)
        assert state.overlay.text("a", b"") == before
    assert state.entities == 1
    assert state.known.find("i", 3) == (2, "s")


def test_replay_steps_over_what_it_does_not_understand(state, view):
    with view.rows() as rows:
        for seq, odd in enumerate((b"", b"short", pack(EVENT, 1, 0, b"{"), pack(CONFIG, 1, 0, b"[")), 1):
            state.replay(seq, odd, rows)
        state.replay(5, record(EVENT, {"entity_id": 7}), rows)
        state.replay(6, pack(RESTORED, 1, 0, b"{}"), rows)
    assert state.undecodable == 4
    assert state.overlay.front_seq == 6


def test_controls(state):
    namespace = Namespace(namespace_id="ns_1", name="plant", created_at_ms=1, token_sha256=b"x" * 32)
    text = msgspec.json.encode(namespace)
    state.control(NAMESPACE, text)
    state.control(CONFIG, msgspec.json.encode(AdminConfig(rate_limit_enabled=False)))
    assert state.registry.get("plant") == namespace
    assert not state.config.rate_limit_enabled
    state.control(NAMESPACE_GONE, b"plant")
    assert state.registry.get("plant") is None
    assert state.changed_control["/plant"] is None
    state.load_control(None, [text])
    assert state.registry.get("plant") == namespace
    state.clear()
    assert (state.registry.get("plant"), state.config, state.changed_control) == (None, AdminConfig(), {})


def test_only_client_ids_are_remembered(state):
    state.remember(1, record(EVENT, {}, event_id="generated"))
    state.remember(2, record(EVENT_OF_CLIENT, {}, event_id="mine"))
    state.remember(3, pack(EVENT_OF_CLIENT, 0, 0, b"{"))
    assert state.known.find("generated", 4) is None
    assert state.known.find("mine", 4) == (2, "s")
    assert state.undecodable == 1


def test_counts_of_watched_namespaces(state):
    state.tracked["plant"] = 5
    flight = Flight(1, 0)
    flight.count = 4
    flight.born, flight.died = 2, 1
    flight.changes = [
        (1, "plant/a", {"p": 1}, SET, False, 1),
        (2, "plant/b", None, DELETE, True, 1),
        (3, "other/a", {"p": 1}, SET, False, 1),
        (4, "plant/c", None, NOTE, False, 1),
    ]
    state.apply(flight)
    assert state.tracked == {"plant": 5}
    assert state.entities == 1
    assert [update.seq for update in state.updates(flight)] == [1, 2, 3]
