from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from appliance.sdk.inbox import Inbox
from appliance.wire.envelope import Message, build_message
from appliance.wire.errors import Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def numbered(number: int) -> Message:
    return build_message(src="", dst=None, payload=number)


async def test_order_is_kept() -> None:
    inbox = Inbox(limit=1000, wide_limit=1000)
    for number in range(500):
        inbox.put(numbered(number))
    assert [(await inbox.get()).json() for _ in range(500)] == list(range(500))


async def test_the_reader_waits_and_goes_on_at_half() -> None:
    inbox = Inbox(limit=4, wide_limit=4)
    for number in range(4):
        inbox.put(numbered(number))
    assert inbox.is_full
    async with anyio.create_task_group() as tasks:
        passed = False

        async def reader() -> None:
            nonlocal passed
            await inbox.wait_space()
            passed = True

        tasks.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        await inbox.get()
        await anyio.wait_all_tasks_blocked()
        assert not passed
        await inbox.get()
        await anyio.wait_all_tasks_blocked()
        assert passed


async def test_widening_lets_the_reader_on() -> None:
    inbox = Inbox(limit=2, wide_limit=10)
    for number in range(3):
        inbox.put(numbered(number))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inbox.wait_space)
        await anyio.wait_all_tasks_blocked()
        inbox.widen(True)
    assert not inbox.is_full
    inbox.widen(False)
    assert inbox.is_full


async def test_the_wide_bound_is_never_the_smaller_one() -> None:
    inbox = Inbox(limit=8, wide_limit=2)
    inbox.widen(True)
    assert inbox.bound == 8


async def test_each_message_wakes_one_consumer() -> None:
    inbox = Inbox(limit=8, wide_limit=8)
    got: list[object] = []

    async def consume() -> None:
        got.append((await inbox.get()).json())

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        for number in range(4):
            inbox.put(numbered(number))
    assert sorted(got) == [0, 1, 2, 3]  # type: ignore[type-var]


async def test_a_consumer_that_is_woken_and_cancelled_passes_the_wake_on() -> None:
    inbox = Inbox(limit=8, wide_limit=8)
    async with anyio.create_task_group() as tasks:
        first = anyio.CancelScope()
        got: list[object] = []

        async def cancelled() -> None:
            with first:
                await inbox.get()

        async def patient() -> None:
            got.append((await inbox.get()).json())

        tasks.start_soon(cancelled)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(patient)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        inbox.put(numbered(7))
        with anyio.fail_after(5):
            while not got and len(inbox):
                await checkpoint()
    assert len(inbox) == 0
    # Either the first took it before its cancellation arrived, or the second got it; it never stays behind.


async def test_a_consumer_cancelled_while_it_waits_leaves_no_trace() -> None:
    inbox = Inbox(limit=8, wide_limit=8)
    with anyio.move_on_after(0.001):
        await inbox.get()
    inbox.put(numbered(1))
    assert (await inbox.get(timeout_s=1)).json() == 1


async def test_a_cancelled_get_takes_nothing() -> None:
    inbox = Inbox(limit=100, wide_limit=100)
    for number in range(80):
        inbox.put(numbered(number))
    for _ in range(70):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await inbox.get()
        assert scope.cancelled_caught
    assert len(inbox) == 80


async def test_timeout_and_close() -> None:
    inbox = Inbox(limit=8, wide_limit=8)
    with pytest.raises(TimeoutError):
        await inbox.get(timeout_s=0)
    inbox.put(numbered(1))
    inbox.close()
    inbox.put(numbered(2))
    assert inbox.dropped == 1
    assert (await inbox.get()).json() == 1
    with pytest.raises(Unavailable):
        await inbox.get()


async def test_close_wakes_everybody() -> None:
    inbox = Inbox(limit=8, wide_limit=8)

    async def consume() -> None:
        with pytest.raises(Unavailable):
            await inbox.get()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        inbox.close()


async def test_close_lets_the_reader_go_on() -> None:
    inbox = Inbox(limit=1, wide_limit=1)
    inbox.put(numbered(1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inbox.wait_space)
        await anyio.wait_all_tasks_blocked()
        inbox.close()
    assert (await inbox.get()).json() == 1
