"""What a door changes of hypercorn's protocol: how an answer is cut into writes."""

from __future__ import annotations

import pytest
import trio
from hypercorn.events import RawData
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import Message
from trio.testing import trio_test

from appliance.http.config import DoorConfig
from appliance.http.connection import Connection
from appliance.http.counters import Counters
from appliance.http.door import Door
from appliance.http.errors import not_found

LENGTH = (b"content-length", b"5")


def start(*headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


def body(text: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": text, "more_body": more}


async def writes(*messages: Message, method: bytes = b"GET") -> list[bytes]:
    """What a connection writes, write by write, for an application that sends ``messages`` and returns."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        stream = await listener.accept()

    async def app(scope: object, receive: object, send: object) -> None:
        for message in messages:
            await send(message)  # type: ignore[operator]

    config = DoorConfig(name="t")
    one = Connection(
        stream,
        app,  # type: ignore[arg-type]
        config=config,
        protocol_config=Door(not_found, config)._protocol_config,
        context=WorkerContext(None),
        counters=Counters(),
        fault_response=lambda fault: ([(b"content-length", b"0")], b""),
    )
    written: list[bytes] = []
    real = one._protocol.send

    async def watch(event: object) -> None:
        if isinstance(event, RawData):
            written.append(event.data)
        await real(event)  # type: ignore[arg-type]

    one._protocol.send = watch  # type: ignore[method-assign,assignment]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            await client.send_all(method + b" / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            async for _ in client:
                pass
            await client.aclose()
    return written


@trio_test
async def test_a_small_answer_is_one_write() -> None:
    (whole,) = await writes(start(LENGTH), body(b"12345"))
    assert whole.startswith(b"HTTP/1.1 200")
    assert whole.endswith(b"\r\n\r\n12345")


@trio_test
async def test_a_body_of_unknown_length_does_not_hold_its_head_up() -> None:
    """A stream's first event may come much later than its head."""
    written = await writes(start(), body(b"1", more=True), body(b"2"))
    assert written[0].endswith(b"\r\n\r\n")
    assert b"".join(written).endswith(b"1\r\n2\r\n0\r\n\r\n") or b"".join(written).endswith(b"12")


@pytest.mark.parametrize("messages", [(start(LENGTH), body(b"12345"))])
@trio_test
async def test_a_head_alone_is_sent(messages: tuple[Message, ...]) -> None:
    (head,) = await writes(*messages, method=b"HEAD")
    assert head.endswith(b"\r\n\r\n")


@trio_test
async def test_a_head_whose_body_never_came_is_sent_before_the_end() -> None:
    (head,) = await writes(start(LENGTH))
    assert head.startswith(b"HTTP/1.1 200")
