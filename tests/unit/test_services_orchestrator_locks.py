import pytest
import trio
import trio.testing

from appliance.services.orchestrator.locks import ResourceLocks
from appliance.wire.errors import Busy


def test_places_are_taken_when_tickets_are_made_not_when_tasks_run():
    async def main():
        locks, order = ResourceLocks(), []

        async def work(ticket, number):
            async with ticket:
                order.append(number)
                await trio.lowlevel.checkpoint()

        tickets = [locks.ticket("node:a") for _ in range(20)]
        async with trio.open_nursery() as nursery:
            for number in reversed(range(20)):
                nursery.start_soon(work, tickets[number], number)
        assert order == list(range(20))
        assert len(locks) == 0

    trio.run(main)


def test_other_resources_do_not_wait():
    async def main():
        locks = ResourceLocks()
        async with locks.ticket("node:a"):
            with trio.fail_after(1):
                async with locks.ticket("node:b"):
                    assert len(locks) == 2

    trio.run(main)


def test_who_is_cancelled_in_the_queue_leaves_it():
    async def main():
        locks = ResourceLocks()
        first, second, third = (locks.ticket("x") for _ in range(3))
        async with first:
            with trio.move_on_after(0):
                async with second:
                    pytest.fail("it was not its turn")
        with trio.fail_after(1):
            async with third:
                third.release()
                third.release()
        assert len(locks) == 0

    trio.run(main)


def test_a_turn_that_does_not_come_is_told_and_given_up():
    async def main():
        locks = ResourceLocks(patience_s=5)
        async with locks.ticket("node:AI.a@h"):
            second, third = locks.ticket("node:AI.a@h"), locks.ticket("node:AI.a@h")
            with pytest.raises(Busy):
                async with second:
                    raise AssertionError("it is another's turn")
        async with third:
            assert len(locks) == 1
        assert len(locks) == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
