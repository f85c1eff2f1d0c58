from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from appliance.sdk.config import NodeConfig, UuidMode
from appliance.sdk.node import Node
from appliance.sdk.runner import RunStatistics, run_node
from appliance.testing.link import FakeRouter, Peer
from appliance.wire.envelope import Message, Meta, build_message, system_message
from appliance.wire.errors import Busy, NotFound, Unreachable
from appliance.wire.frames import MAX_FRAME_BYTES

pytestmark = pytest.mark.anyio

OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Run:
    peer: Peer
    node: Node
    statistics: RunStatistics


@asynccontextmanager
async def running(handler, router: FakeRouter | None = None, **options) -> AsyncIterator[Run]:
    """A node around ``handler``; stopped, with its statistics, at the end of the block."""
    router = router or FakeRouter(carries=False)
    config = NodeConfig(name="AI.echo", dial=router.dial, uuid_mode=UuidMode.EPHEMERAL)
    stop, run = anyio.Event(), Run()

    async def main(*, task_status) -> None:
        run.statistics = await run_node(
            config, handler, stop=stop, handle_signals=False, task_status=task_status, **options
        )

    async with anyio.create_task_group() as tasks:
        run.node = await tasks.start(main)
        run.peer = router.peers[-1]
        yield run
        stop.set()


def user(payload: object, **meta) -> Message:
    return build_message(
        src=OTHER, dst="AI.echo@test", payload=payload, meta=Meta(**{"type": "user", **meta})
    )


async def echo(message: Message, node: Node) -> object:
    return message.payload


async def test_a_payload_goes_back_to_the_sender() -> None:
    async with running(echo) as run:
        request = user({"n": 1}, thread_id="t")
        run.peer.send(request)
        reply = await run.peer.next_message()
        assert (reply.json(), reply.routing.dst, reply.meta.thread_id) == ({"n": 1}, OTHER, "t")
        assert reply.routing.trace_id == request.routing.trace_id
        assert reply.routing.src == run.node.uuid
    assert run.statistics == RunStatistics(handled=1)


async def test_text_message_and_nothing() -> None:
    async def handler(message: Message, node: Node) -> object:
        match message.json():
            case "text":
                return "hello"
            case "message":
                return build_message(src="", dst="AI.third@test", payload="direct")
            case _:
                return None

    async with running(handler, concurrency=1) as run:
        for word in ("nothing", "text", "message"):
            run.peer.send(user(word))
        first, second = await run.peer.next_message(), await run.peer.next_message()
        assert first.json() == {"type": "text", "content": "hello", "attachments": []}
        assert (second.json(), second.routing.dst) == ("direct", "AI.third@test")
    assert run.statistics.handled == 3


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (ValueError("secret detail"), "INTERNAL", False),
        (NotFound("no such invoice", code="INVOICE_NOT_FOUND"), "INVOICE_NOT_FOUND", False),
        (Busy("later"), "BUSY", True),
    ],
)
async def test_a_failing_handler_is_answered(error: Exception, code: str, retryable: bool) -> None:
    async def handler(message: Message, node: Node) -> object:
        raise error

    async with running(handler) as run:
        run.peer.send(user("x"))
        body = (await run.peer.next_message()).payload_as(dict)
        assert (body["type"], body["code"], body["retryable"]) == ("error", code, retryable)
        assert "secret detail" not in body["message"]
    assert run.statistics == RunStatistics(failed=1)


async def test_a_slow_handler_is_stopped_and_answered() -> None:
    async def handler(message: Message, node: Node) -> object:
        await anyio.sleep_forever()

    async with running(handler, handler_timeout_s=0.01) as run:
        run.peer.send(user("x"))
        body = (await run.peer.next_message()).payload_as(dict)
        assert (body["code"], body["retryable"]) == ("HANDLER_TIMEOUT", True)
    assert run.statistics == RunStatistics(timed_out=1)


async def test_a_timeout_of_the_handlers_own_is_a_failure() -> None:
    async def handler(message: Message, node: Node) -> object:
        raise TimeoutError

    async with running(handler) as run:
        run.peer.send(user("x"))
        assert (await run.peer.next_message()).payload_as(dict)["code"] == "INTERNAL"
    assert run.statistics == RunStatistics(failed=1)


UNANSWERED = [
    user({"type": "error", "code": "X", "message": "y", "retryable": False}),
    build_message(src=OTHER, dst="broadcast", payload="x"),
    build_message(src=OTHER, dst="AI.echo@test", type="command_response"),
    build_message(src=OTHER, dst="AI.echo@test", type="query_response"),
]


@pytest.mark.parametrize("message", UNANSWERED)
async def test_failures_never_start_a_storm(message: Message) -> None:
    async def handler(message: Message, node: Node) -> object:
        raise ValueError

    async with running(handler, concurrency=1) as run:
        run.peer.send(message)
        run.peer.send(user("last"))
        reply = await run.peer.next_message()
        assert reply.payload_as(dict)["code"] == "INTERNAL"
        assert not [one for one in run.peer.received if one.meta.msg != "WITHDRAW"]
    assert run.statistics.failed == 2


async def test_system_messages_do_not_reach_a_plain_handler() -> None:
    async with running(echo, concurrency=1) as run:
        run.peer.send(system_message(src=OTHER, dst="broadcast", verb="CONFIG_CHANGED"))
        run.peer.send(system_message(src=OTHER, dst="AI.echo@test", verb="UNREACHABLE"))
        run.peer.send(user("x"))
        assert (await run.peer.next_message()).json() == "x"
    assert run.statistics == RunStatistics(handled=1, ignored=1, router_errors=1)


async def test_system_messages_reach_their_own_handler() -> None:
    async def on_system(message: Message, node: Node) -> object:
        return {"status": "ok"}

    async with running(echo, on_system=on_system) as run:
        run.peer.send(system_message(src=OTHER, dst="AI.echo@test", verb="WF_HELP"))
        reply = await run.peer.next_message()
        assert (reply.meta.msg, reply.meta.action) == ("WF_HELP_RESPONSE", "WF_HELP")


async def test_at_most_so_many_handlers_at_once() -> None:
    now = most = 0
    release = anyio.Event()

    async def handler(message: Message, node: Node) -> object:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1
        return "done"

    async with running(handler, concurrency=3) as run:
        for number in range(10):
            run.peer.send(user(number))
        await anyio.wait_all_tasks_blocked()
        assert most == 3
        release.set()
        for _ in range(10):
            await run.peer.next_message()
    assert (run.statistics.handled, most) == (10, 3)


async def test_a_reply_that_is_too_large_becomes_an_error() -> None:
    async def handler(message: Message, node: Node) -> object:
        return {"blob": "x" * MAX_FRAME_BYTES}

    async with running(handler) as run:
        run.peer.send(user("x"))
        assert (await run.peer.next_message()).payload_as(dict)["code"] == "FRAME_TOO_LARGE"
    assert (run.statistics.handled, run.statistics.unsent) == (1, 1)


async def test_a_reply_that_cannot_be_encoded_becomes_an_error() -> None:
    async def handler(message: Message, node: Node) -> object:
        return {"value": object()}

    async with running(handler) as run:
        run.peer.send(user("x"))
        assert (await run.peer.next_message()).payload_as(dict)["code"] == "INVALID_REPLY"
        run.peer.send(user("y"))
        assert (await run.peer.next_message()).payload_as(dict)["code"] == "INVALID_REPLY"
    assert run.statistics.unsent == 2


async def test_what_was_received_before_the_stop_is_still_answered() -> None:
    release = anyio.Event()

    async def handler(message: Message, node: Node) -> object:
        await release.wait()
        return "done"

    async with running(handler, concurrency=1) as run:
        for number in range(5):
            run.peer.send(user(number))
        await anyio.wait_all_tasks_blocked()
        peer = run.peer
        release.set()
    assert run.statistics.handled == 5
    assert [message.meta.msg for message in peer.received] == [None] * 5 + ["WITHDRAW"]


async def test_a_handler_that_does_not_end_cannot_hold_up_the_stop() -> None:
    async def handler(message: Message, node: Node) -> object:
        await anyio.sleep_forever()

    async with running(handler, drain_s=0.01) as run:
        run.peer.send(user("x"))
        await anyio.wait_all_tasks_blocked()
    assert run.statistics == RunStatistics()


async def test_the_environment_gives_a_managed_node_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBEE_NODE_NAME", "AI.support@hive7")
    async with running(echo) as run:
        assert run.node.full_name == "AI.support@hive7"


async def test_connect_errors_come_out_unwrapped() -> None:
    router = FakeRouter()
    router.is_up = False
    with pytest.raises(Unreachable):
        await run_node(
            NodeConfig(name="AI.echo", dial=router.dial, uuid_mode=UuidMode.EPHEMERAL),
            echo,
            handle_signals=False,
        )


async def test_sigterm_is_a_clean_stop() -> None:
    router = FakeRouter(carries=False)
    config = NodeConfig(name="AI.echo", dial=router.dial, uuid_mode=UuidMode.EPHEMERAL)
    results: list[RunStatistics] = []

    async def main(*, task_status) -> None:
        results.append(await run_node(config, echo, task_status=task_status))

    async with anyio.create_task_group() as tasks:
        await tasks.start(main)
        os.kill(os.getpid(), signal.SIGTERM)
    assert results == [RunStatistics()]
    assert router.peers[0].received[-1].meta.msg == "WITHDRAW"
