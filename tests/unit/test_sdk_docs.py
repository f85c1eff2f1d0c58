"""What ``docs/sdk.md`` shows works: every snippet runs against a fake router."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import anyio
import pytest

from appliance.sdk import Meta, NodeConfig, UuidMode, build_message, connect, run_node, text_payload
from appliance.testing.link import FakeRouter
from appliance.wire.nodeconfig import ConfigSet, build_config_set

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"
OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRouter:
    """What every node of a snippet connects to; its hive lies in a directory of the test."""
    fake = FakeRouter(hive="motherbee")
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    async def dial(config: NodeConfig) -> object:
        return await fake.dial()

    monkeypatch.setattr("appliance.sdk.handshake._open_transport", dial)
    return fake


def snippet(heading: str) -> dict:
    section = PAGE.read_text().split(f"## {heading}\n", 1)[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict = {"__name__": "snippet"}
    exec(compile(code[1], f"{PAGE.name}: {heading}", "exec"), names)
    return names


async def echoing(main) -> None:
    """Run ``main`` while the first snippet's node is in the hive."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def echo(*, task_status) -> None:
            handler = snippet("A whole node")["handler"]
            await run_node(
                NodeConfig(name="AI.echo", uuid_mode=UuidMode.EPHEMERAL),
                handler,
                handle_signals=False,
                stop=stop,
                task_status=task_status,
            )

        await tasks.start(echo)
        await main()
        stop.set()


def test_the_page_keeps_its_length() -> None:
    assert len(PAGE.read_text().splitlines()) <= 230


async def test_a_connection_of_your_own(router: FakeRouter, capsys: pytest.CaptureFixture[str]) -> None:
    await echoing(snippet("A connection of your own")["main"])
    assert "you said: hello" in capsys.readouterr().out


async def test_nobody_there(router: FakeRouter, capsys: pytest.CaptureFixture[str]) -> None:
    await snippet("A connection of your own")["main"]()
    assert capsys.readouterr().out.startswith("NODE_NOT_FOUND the router could not reach AI.echo@motherbee")


async def test_long_texts_and_attachments(router: FakeRouter, capsys: pytest.CaptureFixture[str]) -> None:
    await echoing(snippet("Long texts and attachments")["main"])
    assert capsys.readouterr().out.startswith(f"{1_000_000 + len('you said: ')} ()")


async def test_commands_to_the_hive(router: FakeRouter, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        {"status": "ok", "action": "run_node", "payload": {"state": "started"}},
        {"status": "error", "action": "get_node_status", "payload": {}, "error_code": "NODE_NOT_FOUND"},
    ]

    async def answer() -> None:
        async with connect(NodeConfig(name="SY.admin", uuid_mode=UuidMode.EPHEMERAL)) as admin:
            ready.set()
            for payload in answers:
                asked = await admin.receive(timeout_s=5)
                meta = Meta(type="admin", msg="ADMIN_COMMAND_RESPONSE")
                await admin.send(
                    build_message(
                        src=admin.uuid,
                        dst=asked.routing.src,
                        payload=payload,
                        meta=meta,
                        trace_id=asked.routing.trace_id,
                    )
                )

    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        await ready.wait()
        await snippet("Commands to the hive")["main"]()
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "ok None {'state': 'started'}"
    assert shown[1].startswith("NotFound NODE_NOT_FOUND get_node_status was answered NODE_NOT_FOUND")


async def test_configuration_by_message(router: FakeRouter) -> None:
    router.carries = False
    names = snippet("Configuration by message")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(names["main"])
        peer = await router.wait_peers(1)

        async def ask() -> object:
            peer.send(build_message(src=OTHER, dst=peer.name))
            return (await peer.next_message()).payload_as(dict)["content"]

        async def configure(version: int, config: dict) -> dict:
            body = ConfigSet(
                node_name=peer.name,
                schema_version=1,
                config_version=version,
                apply_mode="replace",
                config=config,
            )
            peer.send(build_config_set(OTHER, body))
            return (await peer.next_message()).payload_as(dict)

        assert await ask() == "not configured"
        assert (await configure(1, {}))["error"]["code"] == "invalid_config"
        answer = await configure(2, {"openai": {"api_key": "sk-1"}})
        assert answer["effective_config"] == {"openai": {"api_key": "***REDACTED***"}}
        assert await ask() == "version 2"
        tasks.cancel_scope.cancel()
    assert names["control"]().in_force.config["openai"] == {"api_key": "sk-1"}


async def test_testing_a_node() -> None:
    names = snippet("Testing a node")
    assert await names["check"](snippet("A whole node")["handler"]) == "you said: hello"


async def test_a_whole_node_stops_on_a_signal(router: FakeRouter) -> None:
    router.carries = False
    names = snippet("A whole node")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_node, "AI.echo", names["handler"])
        peer = await router.wait_peers(1)
        peer.send(build_message(src=OTHER, dst=peer.name, payload=text_payload("x")))
        assert (await peer.next_message()).payload_as(dict)["content"] == "you said: x"
        os.kill(os.getpid(), signal.SIGTERM)
