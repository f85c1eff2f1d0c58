"""Errands to a keeper that refuses."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from appliance.keeper.nodes_protocol import NodeLaunch
from appliance.supervise.errands import forget_record
from appliance.testing.keeper import FakeKeeper
from appliance.wire.errors import Busy, Unavailable

NAME = "AI.a@h"
LAUNCH = NodeLaunch(name=NAME, unit="u", argv=("/bin/true",), env={}, cwd="/", log_dir="/tmp/x")


def errand(keeper):
    return trio.run(forget_record, keeper, NAME, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("error", [Busy("full"), Unavailable("late")])
@pytest.mark.parametrize(("refusals", "gone"), [(0, True), (4, True), (5, False)])
def test_a_record_is_forgotten_also_when_the_keeper_refuses_at_first(error, refusals, gone):
    keeper = FakeKeeper()
    keeper.place(LAUNCH)
    keeper.end(NAME, code=0)
    forget, left = keeper.forget_node, [error] * refusals

    async def refusing(name):
        if left:
            raise left.pop()
        await forget(name)

    keeper.forget_node = refusing
    assert errand(keeper) == refusals
    assert (NAME not in keeper.records) is gone


def test_no_record_is_no_trouble():
    assert errand(FakeKeeper()) == 0


def test_a_living_process_is_killed():
    keeper = FakeKeeper()
    keeper.place(LAUNCH)
    assert errand(keeper) == 1
    assert keeper.live() == []
