"""Turns: first come, first served, by resource; whoever loses patience changes nothing."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from appliance.services.admin.locks import Turns
from appliance.wire.errors import Unavailable


def run(body):
    trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0))


def test_turns_come_in_the_order_of_joining():
    async def body():
        turns, order = Turns(), []

        async def work(place, number):
            async with turns.hold(place, patience_s=100):
                order.append(number)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(work, turns.join("node:a"), number)
        assert order == list(range(20))
        assert len(turns) == 0

    run(body)


def test_resources_do_not_wait_for_each_other():
    async def body():
        turns = Turns()
        async with (
            turns.hold(turns.join("a"), patience_s=1),
            turns.hold(turns.join("b"), patience_s=1),
        ):
            assert len(turns) == 2

    run(body)


def test_impatience_leaves_the_line_to_those_behind():
    async def body():
        turns, done = Turns(), []
        first, second, third = (turns.join("a") for _ in range(3))

        async def last():
            async with turns.hold(third, patience_s=100):
                done.append("third")

        async with trio.open_nursery() as nursery, turns.hold(first, patience_s=1):
            nursery.start_soon(last)
            with pytest.raises(Unavailable) as caught:
                async with turns.hold(second, patience_s=5):
                    done.append("second")
            assert caught.value.code == "TIMEOUT"
        assert done == ["third"]
        assert turns.timeouts == 1
        assert len(turns) == 0

    run(body)


def test_a_cancelled_holder_gives_its_turn_on():
    async def body():
        turns = Turns()
        with trio.move_on_after(1):
            async with turns.hold(turns.join("a"), patience_s=1):
                await trio.sleep_forever()
        async with turns.hold(turns.join("a"), patience_s=1):
            pass

    run(body)
