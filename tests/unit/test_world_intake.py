"""From events to one append."""

from __future__ import annotations

import json

import pytest

from appliance.store.journal_format import split_records
from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.wire.errors import Invalid, Refused
from appliance.world import INTERNAL, Caller, OverQuota, RateLimited, Unauthorized, WorldOptions
from appliance.world.events import decode_batch
from appliance.world.intake import Intake, error_of
from appliance.world.records import CONFIG, EVENT, EVENT_OF_CLIENT, unpack
from appliance.world.state import WorldState
from appliance.world.types import Problem
from appliance.world.view import WorldView
from tests.world_kit import batch, event


@pytest.fixture
def view(tmp_path):
    with Environment(WORLD, tmp_path, (WORLD_REGION,)) as env:
        view = WorldView(env, 1 << 20)
        view.reset("x")
        view.finish(0)
        yield view


@pytest.fixture
def intake(view):
    return Intake(WorldState(WorldOptions()), view)


def take(intake, *events, first=1, now_ms=1000, caller=INTERNAL):
    return intake.events(decode_batch(batch(*events)), caller, first, now_ms, 0.0)


def test_each_record_names_the_previous_event_of_its_entity(intake):
    flight = take(intake, event("a", p=1), event("b", p=1), event("a", p=2), event(7), event("b"))
    heads = [unpack(record)[0] for record in split_records(flight.body, flight.count)]
    assert [head.previous for head in heads] == [0, 0, 1, 0, 2]
    assert {(head.kind, head.at_ms) for head in heads} == {(EVENT, 1000)}
    following = take(intake, event("a", p=3), first=flight.last + 1)
    assert unpack(split_records(following.body, 1)[0])[0].previous == 3


def test_what_is_refused_takes_no_number(intake):
    flight = take(
        intake, event("a", p=1), {"stream": "X"}, {**event("a", p=2), "timestamp": 0}, event("a", p=3)
    )
    assert (flight.count, flight.last, len(flight.results)) == (2, 2, 4)
    assert [bool(result.error) for result in flight.results] == [False, True, True, False]
    assert [seq for seq, *_ in flight.changes] == [1, 2]


def test_too_deep_is_refused_and_chains_nothing(intake):
    deep = event("a", p=json.loads("[" * 200 + "]" * 200))
    flight = take(intake, deep, event("a", p=1))
    assert [bool(result.error) for result in flight.results] == [True, False]
    assert unpack(split_records(flight.body, 1)[0])[0].previous == 0


def test_the_client_s_id_marks_the_record(intake):
    flight = take(intake, {**event("a", p=1), "eventId": "mine"}, {**event("a", p=1), "eventId": "mine"})
    assert flight.count == 1
    assert unpack(split_records(flight.body, 1)[0])[0].kind == EVENT_OF_CLIENT
    assert flight.duplicates == [("mine", 1, "plant.line2")]
    assert flight.awaits == 0, "it is on its way in this very append"
    later = take(intake, {**event("a", p=1), "eventId": "mine"}, first=2)
    assert (later.count, later.awaits) == (0, 1)


@pytest.mark.parametrize(("now_ms", "stamp"), [(-5, 1), (0, 1), (1 << 70, (1 << 63) - 1)])
def test_a_broken_clock_stamps_what_fits(intake, now_ms, stamp):
    flight = take(intake, event("a", p=1), now_ms=now_ms)
    head, text = unpack(split_records(flight.body, 1)[0])
    assert head.at_ms == stamp
    assert json.loads(text)["timestamp"] == stamp


def test_a_control_is_one_record(intake):
    flight = intake.control(CONFIG, b"{}", 7, 5)
    (record,) = split_records(flight.body, 1)
    assert unpack(record) == ((CONFIG, 5, 0), b"{}")
    assert (flight.first, flight.last, flight.controls) == (7, 7, [(CONFIG, b"{}")])


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("validation", Invalid),
        ("rate", RateLimited),
        ("quota", OverQuota),
        ("forbidden", Refused),
        ("authorization", Unauthorized),
        ("entity", Unauthorized),
        ("namespace", Unauthorized),
    ],
)
def test_problems_of_a_single_event_are_errors(kind, error):
    """EP-01: statuses."""
    made = error_of(Problem(kind, "text", "batch text"))
    assert type(made) is error
    assert made.message == "text"


def test_an_event_without_an_id_is_refused_with_authentication_on(view):
    """EV-08: 401 in auth mode."""
    intake = Intake(WorldState(WorldOptions(auth_enabled=True)), view)
    flight = take(intake, event(None, p=1), caller=Caller(token="x"))
    assert flight.results[0].error == (
        "authorization failed: Invalid entity ID: Missing 'entity_id' field in payload"
    )
