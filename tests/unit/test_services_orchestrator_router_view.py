"""The router's view: pages, sharing, and failures of the one who asked."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from appliance.services.orchestrator.router_view import RouterView
from appliance.wire import verbs
from appliance.wire.envelope import system_message
from appliance.wire.errors import Unavailable, Unreachable


class Router:
    """Answers as a router with pages of two nodes."""

    uuid = "me"
    router_name = "RT.r@h"

    def __init__(self, names):
        self.names = names
        self.asked = 0
        self.gate = trio.Event()
        self.gate.set()
        self.failing = False

    async def request(self, message, *, timeout_s):
        self.asked += 1
        await self.gate.wait()
        if self.failing:
            raise Unreachable("gone")
        asked = message.json()
        if message.meta.msg == verbs.ROUTER_EXPLAIN:
            payload = {"node": asked["dst"] if asked["dst"] in self.names else None}
        else:
            rest = [name for name in sorted(self.names) if name > asked["after"]]
            nodes = [
                {
                    "name": name,
                    "uuid": f"{name}-{serving}",
                    "vpn_id": 1,
                    "connected_at_ms": 5,
                    "serving": serving,
                }
                for name in rest[:2]
                for serving in (True, False)
            ]
            payload = {"nodes": nodes, "next": rest[1] if len(rest) > 2 else None}
        return system_message(src="r", dst="me", verb="X", payload=payload)


def test_all_pages_make_one_view_of_those_that_serve():
    async def main():
        told = []
        router = Router(["AI.a@h", "AI.b@h", "AI.c@h"])
        view = RouterView(lambda: router, told.append)
        found = await view.nodes()
        assert sorted(found) == router.names
        assert found["AI.a@h"].uuid == "AI.a@h-True"
        assert router.asked == 2
        assert told == [found]

    trio.run(main)


def test_callers_at_once_share_one_question():
    async def main():
        router = Router(["AI.a@h"])
        router.gate = trio.Event()
        view = RouterView(lambda: router)
        found = []

        async def ask():
            found.append(await view.nodes())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            router.gate.set()
        assert (router.asked, len(found)) == (1, 5)
        await view.nodes()
        assert router.asked == 2

    trio.run(main)


def test_a_failed_or_cancelled_question_is_asked_again_by_who_waited():
    async def main():
        router = Router(["AI.a@h"])
        router.gate = trio.Event()
        view = RouterView(lambda: router)
        found = []

        async def ask():
            found.append(await view.nodes())

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def leave():
                with first:
                    await view.nodes()

            nursery.start_soon(leave)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            router.gate.set()
        assert len(found) == 1
        router.failing = True
        with pytest.raises(Unreachable):
            await view.nodes()

    trio.run(main)


def test_one_name_is_one_small_question():
    async def main():
        router = Router(["AI.a@h"])
        view = RouterView(lambda: router)
        assert await view.sees("AI.a@h") is True
        assert await view.sees("AI.b@h") is False
        router.router_name = ""
        with pytest.raises(Unavailable):
            await view.sees("AI.a@h")

    trio.run(main)
