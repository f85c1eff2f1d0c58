"""``/health`` says how the hive is, and never hangs."""

from __future__ import annotations

import json

import trio
from trio.testing import MockClock, trio_test

from appliance.http.health import Health, health_response, health_routes


async def well() -> Health:
    return Health(facts={"role": "worker"})


async def ill() -> Health:
    return Health(reasons=("the journal is read-only",))


async def mute() -> Health:
    await trio.sleep_forever()
    raise AssertionError


@trio_test
async def test_well_is_200() -> None:
    response = await health_response(well)
    assert response.status_code == 200
    assert json.loads(response.body) == {"status": "ok", "role": "worker"}
    assert response.headers["cache-control"] == "no-store"


@trio_test
async def test_ill_is_503_with_reasons() -> None:
    response = await health_response(ill)
    assert response.status_code == 503
    assert json.loads(response.body) == {"status": "error", "reasons": ["the journal is read-only"]}


@trio_test
async def test_notices_are_seen_and_leave_it_well() -> None:
    async def noticed() -> Health:
        return Health(notices=("AI.a@h is parked",))

    response = await health_response(noticed)
    assert response.status_code == 200
    assert json.loads(response.body) == {"status": "ok", "notices": ["AI.a@h is parked"]}


def test_a_source_that_does_not_answer_is_the_reason() -> None:
    response = trio.run(health_response, mute, clock=MockClock(autojump_threshold=0))
    assert response.status_code == 503
    assert json.loads(response.body)["reasons"]


def test_the_route_answers_get_and_head() -> None:
    (route,) = health_routes(well)
    assert route.path == "/health"
    assert route.methods == {"GET", "HEAD"}
