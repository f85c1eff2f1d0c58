"""Shared questions: few are asked, none is older than its caller, nobody waits long for another's."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from appliance.services.sharing import PACE_S, STAGGER_S, Shared


def run(body):
    trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0))


class World:
    """A value that changes, and a question for it that takes a while."""

    def __init__(self, takes_s: float = 0.01) -> None:
        self.value = 0
        self.asked = 0
        self.takes_s = takes_s
        self.shared: Shared[int] = Shared()
        self.fail = False

    async def look(self) -> int:
        self.asked += 1
        seen = self.value
        await trio.sleep(self.takes_s)
        if self.fail:
            raise ValueError("no")
        return seen

    async def ask(self, key: bytes = b"k") -> int:
        return await self.shared.ask(key, self.look)


def test_many_callers_at_once_make_two_questions():
    async def body():
        world, answers = World(), []

        async def caller():
            answers.append(await world.ask())

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(caller)
        assert answers == [0] * 50
        assert world.asked == 2
        figures = world.shared.statistics()
        assert (figures.asked, figures.shared, figures.keys) == (2, 48, 0)

    run(body)


def test_an_answer_is_never_older_than_its_caller():
    async def body():
        world = World()

        async def writer():
            for number in range(1, 40):
                await trio.sleep(0.003)
                world.value = number
                nursery.start_soon(reader, number)

        async def reader(written):
            assert await world.ask() >= written

        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer)
        assert world.asked < 39

    run(body)


def test_readers_without_end_cost_the_same_however_many_they_are():
    async def body():
        world = World(takes_s=0.001)

        async def reader():
            for _ in range(50):
                await world.ask()

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(reader)
        assert world.asked <= 2 * (trio.current_time() - began) / PACE_S + 2

    run(body)


def test_who_comes_alone_does_not_wait():
    async def body():
        world = World(takes_s=0.001)
        began = trio.current_time()
        for _ in range(10):
            await world.ask()
        assert trio.current_time() - began < 2 * PACE_S
        assert world.asked == 10

    run(body)


def test_other_keys_are_other_questions():
    async def body():
        world = World()
        async with trio.open_nursery() as nursery:
            for key in (b"a", b"b", b"c"):
                nursery.start_soon(world.ask, key)
        assert world.asked == 3

    run(body)


def test_a_question_that_takes_long_keeps_others_for_a_moment_only():
    async def body():
        world = World(takes_s=30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask)
            await trio.sleep(1)
            world.takes_s = 0
            began = trio.current_time()
            await world.ask()
            # By the test's own clock, which stands still while anything can run.
            assert trio.current_time() - began == pytest.approx(STAGGER_S)
            nursery.cancel_scope.cancel()
        assert world.shared.statistics().keys == 0

    run(body)


@pytest.mark.parametrize("leaves_after_s", [0.0, 0.005, 0.012])
def test_who_leaves_takes_his_question_with_him_and_the_others_ask_anew(leaves_after_s):
    async def body():
        world, answers = World(), []

        async def leaver():
            with trio.move_on_after(leaves_after_s):
                await world.ask()

        async def caller():
            answers.append(await world.ask())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leaver)
            nursery.start_soon(leaver)
            await trio.sleep(0.001)
            for _ in range(5):
                nursery.start_soon(caller)
        assert answers == [0] * 5
        assert world.shared.statistics().keys == 0
        assert await world.ask() == 0  # nothing is left behind that one would wait for

    run(body)


def test_a_failure_is_that_of_the_one_who_asked():
    async def body():
        world, failures = World(), []
        world.fail = True

        async def caller():
            try:
                await world.ask()
            except ValueError:
                failures.append(world.asked)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(caller)
        assert failures == [1, 2, 3, 4]

    run(body)
