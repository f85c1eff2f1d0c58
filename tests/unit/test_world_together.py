"""Requests that are committed together and answered each."""

from __future__ import annotations

import json

import pytest
from trio.testing import trio_test

from appliance.wire.errors import Busy, Invalid
from appliance.world import BatchReport, Caller, Result
from appliance.world.together import Wanted, publish_together

ONE, TWO = Caller(token="one"), Caller(token="two")


class Engine:
    """Takes batches as the engine does; the event ``"bad"`` fails, ``busy`` refuses all."""

    def __init__(self, *, busy: bool = False) -> None:
        self.calls: list[tuple[Caller, list[object]]] = []
        self.busy = busy

    async def publish_batch(self, body: bytes, caller: Caller) -> BatchReport:
        if self.busy:
            raise Busy("full")
        events = json.loads(body)["events"]
        if not events or "spoiled" in events:
            raise Invalid("no")
        self.calls.append((caller, events))
        results = [Result(str(event), "s", "wrong" if event == "bad" else None) for event in events]
        failed = events.count("bad")
        return BatchReport(successful=len(events) - failed, failed=failed, results=results)


def wanted(caller: Caller, *events: object) -> Wanted:
    return Wanted(caller, [json.dumps(event).encode() for event in events])


@trio_test
async def test_neighbours_of_one_caller_share_a_commit() -> None:
    engine = Engine()
    requests = [wanted(ONE, 1, "bad"), wanted(ONE, 3), wanted(TWO, 4), wanted(ONE, 5)]
    outcomes = await publish_together(engine, requests)  # type: ignore[arg-type]
    assert [caller for caller, _ in engine.calls] == [ONE, TWO, ONE]
    assert engine.calls[0][1] == [1, "bad", 3]
    reports = [one for one in outcomes if isinstance(one, BatchReport)]
    assert [(one.successful, one.failed) for one in reports] == [(1, 1), (1, 0), (1, 0), (1, 0)]
    assert [result.event_id for result in reports[1].results] == ["3"]


@trio_test
async def test_what_one_request_spoils_is_its_own() -> None:
    engine = Engine()
    requests = [wanted(ONE, 1), wanted(ONE), wanted(ONE, "spoiled"), wanted(ONE, 4)]
    outcomes = await publish_together(engine, requests)  # type: ignore[arg-type]
    assert [type(outcome) for outcome in outcomes] == [BatchReport, Invalid, Invalid, BatchReport]
    assert [events for _, events in engine.calls] == [[1], [4]]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_full_world_refuses_all(count: int) -> None:
    @trio_test
    async def body() -> None:
        requests = [wanted(ONE, n) for n in range(count)]
        outcomes = await publish_together(Engine(busy=True), requests)  # type: ignore[arg-type]
        assert [type(outcome) for outcome in outcomes] == [Busy] * count

    body()
