"""What a connection says below the application, and what it leaves to others.

How it serves, stalls and closes: ``test_http_door`` and ``fault/test_http_stall``, on real sockets.
"""

from __future__ import annotations

import h11
import pytest
import trio
from hypercorn.config import Config as ProtocolConfig
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import Receive, Scope, Send
from trio.testing import trio_test

from appliance.http import connection as connection_module
from appliance.http.config import DoorConfig
from appliance.http.connection import Connection, plain_response
from appliance.http.counters import Counters
from appliance.http.door import Door
from appliance.http.errors import Fault, not_found
from appliance.system.log import Repeated, capture


@pytest.mark.parametrize("status", [408, 503, 500])
def test_a_plain_response_is_whole_http(status: int) -> None:
    body = b'{"error":"x"}'
    data = plain_response(status, [(b"content-length", b"13"), (b"content-type", b"application/json")], body)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "localhost")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response, content, end = (client.next_event() for _ in range(3))
    assert isinstance(response, h11.Response)
    assert response.status_code == status
    assert (b"connection", b"close") in list(response.headers)
    assert isinstance(content, h11.Data)
    assert bytes(content.data) == body
    assert isinstance(end, h11.EndOfMessage)


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return await listener.accept(), client


def connection(stream: trio.SocketStream, app: object, counters: Counters) -> Connection:
    config = DoorConfig(name="t")
    return Connection(
        stream,
        app,  # type: ignore[arg-type]
        config=config,
        protocol_config=Door(not_found, config)._protocol_config,
        context=WorkerContext(None),
        counters=counters,
        fault_response=lambda fault: ([(b"content-length", b"0")], b""),
    )


@trio_test
async def test_a_defect_above_is_contained_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_failures", Repeated())  # others have failed before

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a gate that leaks")

    counters = Counters()
    server, client = await tcp_pair()
    with capture() as records, trio.fail_after(5):
        async with client:
            await client.send_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await connection(server, broken, counters).run()
    assert counters.protocol_errors == 1
    assert [record.event for record in records] == ["http_connection_failed"]


@trio_test
async def test_an_aborted_connection_ends_and_may_be_aborted_again() -> None:
    server, client = await tcp_pair()
    one = connection(server, not_found, Counters())
    with trio.fail_after(5):
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            await trio.testing.wait_all_tasks_blocked()
            one.abort()
            one.abort()
            one.stop()
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()


def test_the_protocol_keeps_no_handlers_and_speaks_through_our_log() -> None:
    config: ProtocolConfig = Door(not_found, DoorConfig(name="t"))._protocol_config
    assert config.log.access_logger is None
    assert config.log.error_logger is None

    async def speak() -> None:
        await config.log.info("nothing %s", "to see")
        await config.log.warning("odd %s", "thing")
        await config.log.error("bad 100 % thing")
        try:
            raise ValueError("worse")
        except ValueError:
            await config.log.exception("worst")

    with capture() as records:
        trio.run(speak)
    assert [(record.event, record.code) for record in records] == [
        ("http_protocol_warning", "HTTP_PROTOCOL_WARNING"),
        ("http_protocol_failed", "HTTP_PROTOCOL_FAILED"),
        ("http_protocol_failed", "HTTP_PROTOCOL_FAILED"),
    ]
    assert records[0].fields["detail"] == "odd thing"
    assert records[2].trace is not None


def test_faults_are_shaped_by_the_door() -> None:
    headers, body = Door(not_found, DoorConfig(name="t"))._gate.fault_response(
        Fault(status=408, code="X", message="m")
    )
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
