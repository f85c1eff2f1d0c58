"""io.webchat in a real hive: a WebSocket client that keeps to the rules or does not, and a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, Request, TextMessage

from appliance.sdk import Meta, build_message, text_payload
from appliance.testing.hive import HiveHarness, free_port
from appliance.wire.nodeconfig import ConfigSet, build_config_set
from tests.chromium import SMALL, needs_chromium, no_sideways_scrolling, opened, picture
from tests.compat.example_kit import DEADLINE_S, Asker, asking, running

pytestmark = [pytest.mark.process, pytest.mark.slow]

NAME = "IO.webchat@motherbee"


@pytest.fixture(scope="module")
def hive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HiveHarness]:
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("h")))
    with HiveHarness(folder) as hive, running(hive, "ai-echo", "AI.echo@motherbee"):
        asking(hive, until_echo_answers)
        yield hive


async def until_echo_answers(asker: Asker) -> None:
    await asker.text("AI.echo@motherbee", "up?")


@contextlib.contextmanager
def chat(hive: HiveHarness, **more: object) -> Iterator[int]:
    """The page on a free port, ready."""
    port = free_port()
    with running(hive, "io-webchat", NAME, {"listen": f"127.0.0.1:{port}", **more}):
        ready(port)
        yield port


def ready(port: int) -> None:
    transport = httpx.HTTPTransport()
    with httpx.Client(transport=transport, timeout=DEADLINE_S) as client:
        for _ in range(int(DEADLINE_S / 0.05)):
            try:
                client.get(f"http://127.0.0.1:{port}/").raise_for_status()
                return
            except httpx.ConnectError:
                trio.run(trio.sleep, 0.05)
    raise AssertionError("the page did not open")


class Socket:
    """A WebSocket client; the test closes what it has opened."""

    opened: ClassVar[list[trio.SocketStream]] = []

    def __init__(self, stream: trio.SocketStream, protocol: WSConnection) -> None:
        self.stream = stream
        self.protocol = protocol

    @classmethod
    async def open(cls, port: int, origin: str | None = None) -> Socket:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        cls.opened.append(stream)
        protocol = WSConnection(ConnectionType.CLIENT)
        headers = [(b"Origin", origin.encode())] if origin else []
        await stream.send_all(
            protocol.send(Request(host=f"127.0.0.1:{port}", target="/chat", extra_headers=headers))
        )
        socket = cls(stream, protocol)
        socket.events = socket._events()
        answer = await anext(socket.events)
        if isinstance(answer, RejectConnection):
            raise PermissionError(answer.status_code)
        assert isinstance(answer, AcceptConnection)
        return socket

    async def _events(self) -> Any:
        while True:
            self.protocol.receive_data(bytes(await self.stream.receive_some()) or None)
            for event in self.protocol.events():
                yield event

    async def send(self, value: object) -> None:
        data = value if isinstance(value, str) else json.dumps(value)
        await self.stream.send_all(self.protocol.send(TextMessage(data=data)))

    async def next(self, kind: str) -> dict[str, Any]:
        """The next event of this kind; ``closed`` is the end."""
        async for event in self.events:
            if isinstance(event, CloseConnection):
                found = {"type": "closed", "code": event.code}
            elif isinstance(event, TextMessage):
                found = json.loads(event.data)
            else:
                continue
            if found["type"] == kind:
                return found
        raise AssertionError("the connection ended")

    async def hello(self, session: str | None = None, after: int = 0) -> dict[str, Any]:
        await self.send({"type": "hello", "session": session, "after": after})
        return await self.next("welcome")

    async def say(self, text: str, message_id: str = "m1") -> None:
        await self.send({"type": "say", "id": message_id, "text": text})

    async def line(self, by: str) -> dict[str, Any]:
        while True:
            found = await self.next("message")
            if found["by"] == by:
                return found


def within(steps: Any, *args: object) -> None:
    async def main() -> None:
        with trio.fail_after(DEADLINE_S):
            await steps(*args)

    trio.run(main)


@pytest.fixture(autouse=True)
def _close_sockets() -> Iterator[None]:
    yield

    async def close() -> None:
        while Socket.opened:
            Socket.opened.pop().socket.close()

    trio.run(close)


def test_a_session_survives_the_page_and_the_node(hive):
    seen: dict[str, str] = {}

    async def first(port: int) -> None:
        one = await Socket.open(port)
        welcome = await one.hello()
        assert (welcome["partner"], welcome["messages"]) == ("AI.echo", [])
        seen["session"] = welcome["session"]
        await one.say("hola <b>")
        answer = await one.line("node")
        assert (answer["text"], answer["name"], answer["seq"]) == ("hola <b>", "AI.echo", 2)
        await one.say("hola <b>")
        await one.say("second", "m2")
        assert (await one.line("node"))["text"] == "second"
        await one.stream.aclose()

        again = await Socket.open(port)
        missed = await again.hello(seen["session"], after=2)
        assert [entry["text"] for entry in missed["messages"]] == ["second", "second"]
        other = await Socket.open(port)
        assert (await other.hello())["session"] != seen["session"]

    async def after_restart(port: int) -> None:
        socket = await Socket.open(port)
        welcome = await socket.hello(seen["session"], after=4)
        assert (welcome["session"], welcome["last"], welcome["messages"]) == (seen["session"], 0, [])
        await socket.say("back")
        assert (await socket.line("node"))["seq"] == 2
        forged = await Socket.open(port)
        assert (await forged.hello("short"))["session"] != "short"

    with chat(hive) as port:
        within(first, port)
    with chat(hive) as port:
        within(after_restart, port)


def test_answers_reach_their_own_browser_and_so_does_what_comes_later(hive):
    async def steps(asker: Asker) -> None:
        async with trio.open_nursery() as nursery:
            with chat_of(asker) as port:
                for name in ("ada", "bea"):
                    nursery.start_soon(converse, port, name)
                await served(asker)

    threads: dict[str, Meta] = {}

    async def converse(port: int, name: str) -> None:
        socket = await Socket.open(port)
        await socket.hello()
        await socket.say(f"I am {name}")
        heard = {(await socket.line("node"))["text"] for _ in range(2)}
        assert heard == {f"hello {name}", f"later, {name}"}

    async def served(asker: Asker) -> None:
        node = asker.node
        for _ in range(2):
            question = await node.receive(timeout_s=DEADLINE_S)
            text = (await node.read_text(question)).removeprefix("I am ")
            threads[text] = question.meta
            assert question.meta.ich.startswith("webchat://")
            await node.reply(question, text_payload(f"hello {text}"))
        for name, meta in threads.items():
            late = build_message(
                src=node.uuid,
                dst=NAME,
                payload=text_payload(f"later, {name}"),
                meta=Meta(type="user", thread_id=meta.thread_id),
            )
            await node.send(late)
        stray = build_message(
            src=node.uuid, dst=NAME, payload=text_payload("who?"), meta=Meta(type="user", thread_id="none")
        )
        await node.send(stray)

    @contextlib.contextmanager
    def chat_of(asker: Asker) -> Iterator[int]:
        yield port

    with chat(hive, target="IO.tester@motherbee") as port:
        asking(hive, steps)
    assert threads["ada"].thread_id != threads["bea"].thread_id


def test_what_goes_wrong_is_said(hive):
    async def steps(port: int) -> None:
        socket = await Socket.open(port)
        await socket.hello()
        await socket.say("anybody?")
        assert "NODE_NOT_FOUND" in (await socket.line("notice"))["text"]
        for wrong in ("{", '{"type":"say"}', '{"type":"hello"}'):
            other = await Socket.open(port)
            if wrong != "{":
                await other.hello()
            await other.send(wrong)
            assert (await other.next("closed"))["code"] == 1008
        with pytest.raises(PermissionError):
            await Socket.open(port, origin="http://evil.example")

    with chat(hive, target="AI.nobody") as port:
        within(steps, port)


def test_the_target_and_the_door_move_while_it_runs(hive):
    moved = free_port()

    async def set_config(asker: Asker) -> None:
        change = ConfigSet(
            node_name=NAME,
            schema_version=1,
            config_version=1,
            apply_mode="replace",
            config={"listen": f"127.0.0.1:{moved}", "target": "AI.nobody", "title": "<Moved>"},
        )
        assert (await asker.node.request(build_config_set(asker.node.uuid, change))).json()["ok"]

    with chat(hive) as port:
        asking(hive, set_config)
        ready(moved)
        page = httpx.get(f"http://127.0.0.1:{moved}/")
        assert "<title>&lt;Moved&gt;</title>" in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/")
    shutil.rmtree(hive.paths.nodes / "IO" / NAME)


# --- in a browser ----------------------------------------------------------------------------------------


LINE_BREAKS = ("WebSocket connection to",)
"""The page tells the browser's console when the node that it talks to is started again."""


EVIL = "<img src=x onerror=alert(1)> & <script>document.title='owned'</script>"


@needs_chromium
def test_in_a_browser(hive):
    with (
        chat(hive, title="Bee desk") as port,
        opened(f"http://127.0.0.1:{port}/", expected=LINE_BREAKS) as page,
    ):
        page.wait_for_selector("#state[data-state=connected]")
        assert page.title() == "Bee desk"
        picture(page, "webchat-empty")
        page.keyboard.type("hola")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("second line")
        page.keyboard.press("Enter")
        page.wait_for_selector("li[data-by=node]")
        assert page.locator("li[data-by=node] .said").inner_text() == "hola\nsecond line"
        page.fill("#text", EVIL)
        page.click("#send")
        page.locator("li[data-by=node]").nth(1).wait_for()
        assert page.locator("li[data-by=node] .said").nth(1).inner_text() == EVIL
        assert page.locator("li img, li script").count() == 0
        assert page.title() == "Bee desk"
        picture(page, "webchat")
        page.reload()
        page.locator("li").nth(3).wait_for()
        page.click("#fresh")
        page.wait_for_selector("#state[data-state=connected]")
        assert page.locator("li").count() == 0
        assert page.locator("#empty").is_visible()


@needs_chromium
def test_a_browser_comes_back_by_itself(hive):
    port = free_port()
    config = {"listen": f"127.0.0.1:{port}"}
    address = f"http://127.0.0.1:{port}/"
    with contextlib.ExitStack() as stack:
        with running(hive, "io-webchat", NAME, config):
            ready(port)
            page = stack.enter_context(
                opened(address, SMALL["width"], SMALL["height"], scheme="dark", expected=LINE_BREAKS)
            )
            page.wait_for_selector("#state[data-state=connected]")
            page.keyboard.type("before the break, with a line that is longer than a phone is wide")
            page.keyboard.press("Enter")
            page.wait_for_selector("li[data-by=node]")
        page.wait_for_selector("#state[data-state=away], #state[data-state=connecting]")
        page.keyboard.type("while nobody is there")
        page.keyboard.press("Enter")
        assert page.locator("li.unsent").count() == 1
        picture(page, "webchat-narrow-away")
        with running(hive, "io-webchat", NAME, config):
            page.locator("li[data-by=node]").nth(1).wait_for()
            assert page.locator("li.unsent").count() == 0
            assert page.locator("li").count() == 4
            assert no_sideways_scrolling(page)
            picture(page, "webchat-narrow")
