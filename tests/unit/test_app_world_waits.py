"""A world that its medium does not let open waits; any other failure ends its plane as before."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import appliance.app.world as world
from appliance.store.files import STORAGE_FULL, STORAGE_READ_ONLY
from appliance.wire.errors import Conflict, Unavailable

READ_ONLY = Unavailable("read-only", code=STORAGE_READ_ONLY)


def test_the_others_are_served_meanwhile_and_it_is_tried_again(monkeypatch, capfd):
    attempts = []

    async def attempt(hive, seams, *, task_status):
        attempts.append(trio.current_time())
        if len(attempts) < 4:
            raise BaseExceptionGroup("", [READ_ONLY, BaseExceptionGroup("", [READ_ONLY])])
        task_status.started()
        await trio.sleep_forever()

    monkeypatch.setattr(world, "_world", attempt)

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(world.world_plane, None, None)
            assert len(attempts) == 1
            await trio.sleep(60)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [round(at - attempts[0]) for at in attempts] == [0, 5, 10, 15]
    assert capfd.readouterr().err.count("WORLD_WAITS") == 1


@pytest.mark.parametrize(
    "error",
    [
        Conflict("another one has it"),
        Unavailable("no port"),
        BaseExceptionGroup("", [Unavailable("full", code=STORAGE_FULL), ValueError("a defect")]),
    ],
)
def test_other_failures_are_failures(monkeypatch, error):
    async def attempt(hive, seams, *, task_status):
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(world, "_world", attempt)
    with pytest.raises(type(error)):
        trio.run(world.world_plane, None, None)
