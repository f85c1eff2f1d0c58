"""The queue between reader and application: bounded, and never a trap."""

from __future__ import annotations

import trio
from trio.testing import trio_test, wait_all_tasks_blocked

from appliance.http.inbox import Inbox

GONE = {"type": "http.disconnect"}


def part(n: int) -> dict[str, object]:
    return {"type": "http.request", "body": bytes([n]), "more_body": True}


@trio_test
async def test_messages_come_in_order_and_then_the_disconnect_for_ever() -> None:
    inbox = Inbox(10)
    await inbox.put(part(1))
    await inbox.put(part(2))
    await inbox.put(GONE)
    assert [await inbox.get() for _ in range(4)] == [part(1), part(2), GONE, GONE]


@trio_test
async def test_a_full_queue_holds_the_reader_until_there_is_room() -> None:
    inbox = Inbox(2)
    arrived = []

    async def reader() -> None:
        for n in range(4):
            await inbox.put(part(n))
            arrived.append(n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        assert arrived == [0, 1]
        await inbox.get()
        await wait_all_tasks_blocked()
        assert arrived == [0, 1, 2]
        await inbox.get()


@trio_test
async def test_a_disconnect_frees_a_waiting_reader_and_later_parts_are_dropped() -> None:
    inbox = Inbox(1)
    await inbox.put(part(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.put, part(1))
        await wait_all_tasks_blocked()
        await inbox.put(GONE)
    with trio.fail_after(5):
        for n in range(100):
            await inbox.put(part(n))
    assert [await inbox.get(), await inbox.get()] == [part(0), GONE]


@trio_test
async def test_a_waiting_application_learns_of_the_disconnect() -> None:
    inbox = Inbox(1)
    got = []

    async def application() -> None:
        got.append(await inbox.get())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(application)
        await wait_all_tasks_blocked()
        inbox.finish(GONE)
    assert got == [GONE]


@trio_test
async def test_what_is_ready_is_seen_in_a_cancelled_scope() -> None:
    """The way Starlette's ``is_disconnected`` asks."""
    inbox = Inbox(1)
    seen = None
    with trio.CancelScope() as scope:
        scope.cancel()
        seen = await inbox.get()
    assert seen is None
    inbox.finish(GONE)
    with trio.CancelScope() as scope:
        scope.cancel()
        seen = await inbox.get()
    assert seen == GONE
