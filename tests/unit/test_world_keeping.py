"""Life of a world: what a stop leaves behind, what the projection owes."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from appliance.store.generations import SLOTS, GenerationPage
from appliance.wire.errors import Unavailable
from appliance.world import INTERNAL
from tests.world_kit import batch, engine_in, event


def one(**properties):
    return json.dumps(event(**properties)).encode()


def test_the_region_follows_by_itself(tmp_path):
    """design.md §5: within a second; readers are told by the generation page."""
    page = GenerationPage.create(tmp_path / "page")

    async def main():
        async with engine_in(tmp_path, page=page) as engine:
            before = page.get(SLOTS["world"])
            await engine.publish(one(p=1), INTERNAL)
            with trio.fail_after(10):
                while engine.statistics().applied_seq < 1:
                    await engine._keeping._settled.park()
            assert page.get(SLOTS["world"]) > before
            assert engine.statistics().projections == 1

    trio.run(main)


def test_a_projection_that_fails_is_tried_again(tmp_path, monkeypatch):
    async def main():
        async with engine_in(tmp_path, inline=True) as engine:
            view = engine._keeping.view
            project = view.project

            def fail(_):
                monkeypatch.setattr(view, "project", project)
                raise Unavailable("the medium is full")

            monkeypatch.setattr(view, "project", fail)
            await engine.publish(one(p=1), INTERNAL)
            await engine.settle()
            assert engine.statistics().projection_failures == 1
            assert engine.statistics().overlay_entities == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_waiting_for_the_region_has_an_end(tmp_path, monkeypatch):
    async def main():
        async with engine_in(tmp_path, inline=True) as engine:

            def fail(_):
                raise Unavailable("the medium is full")

            monkeypatch.setattr(engine._keeping.view, "project", fail)
            await engine.publish(one(p=1), INTERNAL)
            with pytest.raises(Unavailable, match="does not follow"):
                await engine.settle()
            assert engine.entity("plant/pump") is not None
            monkeypatch.undo()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_stop_projects_what_was_still_under_way(tmp_path):
    async def main():
        async with trio.open_nursery() as nursery:
            engine = engine_in(tmp_path)
            await nursery.start(engine.run)
            for number in range(5):
                body = batch(*[event(str(number), p=part) for part in range(50)])
                nursery.start_soon(engine.publish_batch, body, INTERNAL)
            await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()
        assert not engine.ready

    async def look():
        async with engine_in(tmp_path) as engine:
            assert engine.last_seq == 250
            assert engine.statistics().recovered_events == 0

    trio.run(main)
    trio.run(look)
