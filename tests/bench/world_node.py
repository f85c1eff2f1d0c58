"""Publishing to the world by node message: one node, a hundred events to a message, answers awaited.

The program has one CPU, the node another one. Some messages are under way at once, as a node that is not
slowed down by each answer would have it.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import trio

from appliance.sdk import Node
from appliance.testing.hive import HiveHarness
from appliance.wire import verbs
from appliance.wire.envelope import system_message

from .harness import Figure, at_least, options
from .world_door import door, elsewhere, one_event

__all__ = ["run"]

_PER_MESSAGE = 100
_AT_ONCE = 16
_WAIT_S = 60.0


def run() -> list[Figure]:
    """Events a second from the first message to the last answer."""
    count = options().scaled(600, multiple=_AT_ONCE)
    with door() as hive, elsewhere(_publish, hive, count) as pipe:
        seconds = pipe.recv()
    rate = count * _PER_MESSAGE / seconds
    return [at_least("by node message, 100 events each", rate, "events/s", 50_000)]


def _publish(pipe: Connection, hive: HiveHarness, count: int) -> None:
    events = [one_event(f"plant/{n}", pressure=n / 8, state="running") for n in range(_PER_MESSAGE)]

    async def some(node: Node, messages: int) -> None:
        for _ in range(messages):
            message = system_message(
                src=node.uuid, dst="SY.world@motherbee", verb=verbs.WORLD_PUBLISH, payload={"events": events}
            )
            answer = (await node.request(message, timeout_s=_WAIT_S)).json()
            assert isinstance(answer, dict)
            assert answer["successful"] == _PER_MESSAGE, answer

    async def main() -> None:
        async with hive.connect("AI.bench") as node:
            began = time.monotonic()
            async with trio.open_nursery() as nursery:
                for _ in range(_AT_ONCE):
                    nursery.start_soon(some, node, count // _AT_ONCE)
            pipe.send(time.monotonic() - began)

    trio.run(main)
