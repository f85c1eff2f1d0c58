from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from appliance.sdk.config import NodeConfig, UuidMode
from appliance.sdk.control import NodeControl
from appliance.sdk.node import Node, connect
from appliance.system.log import capture
from appliance.testing.link import FakeRouter
from appliance.wire import verbs
from appliance.wire.envelope import Message, build_message, encode_message, system_message
from appliance.wire.errors import Busy, Conflict, Invalid, Refused, Unavailable, Unreachable
from appliance.wire.frames import MAX_FRAME_BYTES, FrameTooLarge, pack_frame
from appliance.wire.nodeconfig import ConfigGet, ConfigSet, build_config_get, build_config_set
from appliance.wire.nodestatus import HealthState, build_status_request, parse_status_response

pytestmark = pytest.mark.anyio

OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def settings(router: FakeRouter, name: str = "AI.echo", **more: object) -> NodeConfig:
    return NodeConfig(name=name, dial=router.dial, uuid_mode=UuidMode.EPHEMERAL, **more)  # type: ignore[arg-type]


def to(node: Node, payload: object = None, **more: object) -> Message:
    return build_message(src=OTHER, dst=node.full_name, payload=payload, **more)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():
            await checkpoint()


# -- connecting -------------------------------------------------------------------------------------------


async def test_the_handshake_has_the_documented_frames_and_the_announced_name_counts() -> None:
    router = FakeRouter(hive="hive1")
    config = settings(router, version="2.3", launch_token=None)
    async with connect(config) as node:
        hello = router.peers[0].hello
        assert hello is not None
        assert json.loads(encode_message(hello)) == {
            "routing": {"src": node.uuid, "dst": None, "ttl": 1, "trace_id": hello.routing.trace_id},
            "meta": {"type": "system", "msg": "HELLO"},
            "payload": {"uuid": node.uuid, "name": "AI.echo", "version": "2.3"},
        }
        assert (node.full_name, node.router_name, node.vpn_id) == ("AI.echo@hive1", "RT.fake@hive1", 0)
        assert (node.sender.full_name, node.sender.uuid) == (node.full_name, node.uuid)
        assert node.is_connected
        await node.wait_connected(timeout_s=0)
    assert not node.is_connected


async def test_leaving_sends_what_is_queued_and_then_withdraw() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        for number in range(100):
            await node.send(build_message(src="", dst="AI.x@h", payload=number))
    received = router.peers[0].received
    assert [message.json() for message in received[:-1]] == list(range(100))
    withdraw = received[-1]
    assert (withdraw.meta.msg, withdraw.json(), withdraw.routing.ttl) == ("WITHDRAW", {"uuid": node.uuid}, 1)
    assert not router.peers[0].is_open


async def test_a_launch_token_travels_in_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBEE_LAUNCH_TOKEN", "secret")
    router = FakeRouter()
    async with connect(settings(router)):
        assert router.peers[0].hello is not None
        assert router.peers[0].hello.payload_as(dict)["launch_token"] == "secret"


async def test_no_router_is_said_at_once() -> None:
    router = FakeRouter()
    router.is_up = False
    with pytest.raises(Unreachable) as caught:
        async with connect(settings(router)):
            pass
    assert caught.value.code == "NO_ROUTER"


async def test_a_router_that_closes_has_refused() -> None:
    router = FakeRouter(announces=False)

    async def refuse() -> None:
        (await router.wait_peers(1)).close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refuse)
        with pytest.raises(Refused) as caught:
            async with connect(settings(router)):
                pass
    assert caught.value.code == "HANDSHAKE_REFUSED"


async def test_a_router_that_says_nothing_runs_into_the_deadline() -> None:
    router = FakeRouter(announces=False)
    with pytest.raises(Unreachable) as caught:
        async with connect(settings(router, handshake_timeout_s=0.01)):
            pass
    assert caught.value.code == "HANDSHAKE_TIMEOUT"
    assert not router.peers[0].is_open


FIRST_FRAMES = [
    pack_frame(encode_message(system_message(src=OTHER, dst=None, verb="CONFIG_CHANGED"))),
    pack_frame(encode_message(build_message(src=OTHER, dst=None))),
    pack_frame(encode_message(system_message(src=OTHER, dst=None, verb="ANNOUNCE", payload={"uuid": "x"}))),
    pack_frame(b"no json"),
    pack_frame(b""),
    struct.pack(">I", MAX_FRAME_BYTES + 1),
]


@pytest.mark.parametrize("first", FIRST_FRAMES)
async def test_anything_but_announce_fails_the_handshake(first: bytes) -> None:
    router = FakeRouter(announces=False)

    async def speak() -> None:
        (await router.wait_peers(1)).send_bytes(first)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(speak)
        with pytest.raises(Unreachable, match="expected ANNOUNCE") as caught:
            async with connect(settings(router)):
                pass
    assert caught.value.code == "HANDSHAKE_FAILED"
    assert not router.peers[0].is_open


async def test_what_comes_with_the_announce_is_not_lost() -> None:
    router = FakeRouter(announces=False)

    async def announce_and_speak() -> None:
        peer = await router.wait_peers(1)
        peer.announce()
        peer.send(build_message(src=OTHER, dst=peer.uuid, payload="first"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(announce_and_speak)
        async with connect(settings(router)) as node:
            assert (await node.receive(timeout_s=5)).json() == "first"


async def test_the_body_error_comes_out_unwrapped() -> None:
    with pytest.raises(KeyError):
        async with connect(settings(FakeRouter())):
            raise KeyError("mine")


async def test_a_name_alone_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    with pytest.raises(Unreachable, match="no router listens"):
        async with connect("AI.echo"):
            pass
    assert len((tmp_path / "lib/state/nodes/AI.echo.uuid").read_text()) == 36


# -- messages ---------------------------------------------------------------------------------------------


async def test_two_nodes_exchange_messages_by_name() -> None:
    router = FakeRouter(hive="h")
    async with connect(settings(router, "AI.a")) as a, connect(settings(router, "AI.b")) as b:
        sent = build_message(src="somebody else", dst="AI.b@h", payload={"n": 1})
        await a.sender.clone().send(sent)
        got = await b.receiver.receive(timeout_s=5)
        assert got.json() == {"n": 1}
        assert (got.routing.src, got.source_l2_name) == (a.uuid, "AI.a@h")
        assert sent.routing.src == "somebody else"  # the caller's message is not changed
        await b.reply(got, {"n": 2})
        assert (await a.receive(timeout_s=5)).json() == {"n": 2}


async def test_ten_thousand_messages_arrive_in_order() -> None:
    router = FakeRouter()
    count = 10_000
    async with connect(settings(router, "AI.a")) as a, connect(settings(router, "AI.b")) as b:

        async def send() -> None:
            for number in range(count):
                await a.send(build_message(src=a.uuid, dst=b.full_name, payload=number))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            for number in range(count):
                assert (await b.receive(timeout_s=5)).payload_as(int) == number
        assert router.dropped == 0
        assert (a.statistics().frames_out, b.statistics().frames_in) == (count, count)


async def test_every_fragmentation_is_understood() -> None:
    router = FakeRouter(announces=False)

    async def byte_by_byte() -> None:
        peer = await router.wait_peers(1)
        peer.link._peer.chunk_bytes = 1
        peer.announce()
        for number in range(3):
            peer.send(build_message(src=OTHER, dst=peer.uuid, payload=number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(byte_by_byte)
        async with connect(settings(router)) as node:
            for number in range(3):
                assert (await node.receive(timeout_s=5)).json() == number


async def test_garbage_is_counted_and_costs_nothing_else() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        peer = router.peers[0]
        for garbage in (b"", b"{", b"\xff\xfe", b"null", b"[" * 2000, b'{"routing":{}}'):
            peer.send_bytes(pack_frame(garbage))
        peer.send(to(node, "good"))
        assert (await node.receive(timeout_s=5)).json() == "good"
        numbers = node.statistics()
        assert (numbers.undecodable, numbers.losses) == (6, 0)
        assert numbers.last_undecodable is not None


async def test_an_over_size_length_costs_the_connection_only() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        router.peers[0].send_bytes(struct.pack(">I", MAX_FRAME_BYTES + 1))
        second = await router.wait_peers(2)
        second.send(to(node, "again"))
        assert (await node.receive(timeout_s=5)).json() == "again"
        numbers = node.statistics()
        assert (numbers.losses, numbers.reconnects) == (1, 1)
        assert "over the limit" in (numbers.last_loss or "")


async def test_too_large_is_refused_with_size_and_limit() -> None:
    async with connect(settings(FakeRouter())) as node:
        message = build_message(src=node.uuid, dst="AI.x@h", payload={"x": "y" * MAX_FRAME_BYTES})
        with pytest.raises(FrameTooLarge) as caught:
            await node.send(message)
        assert isinstance(caught.value, Invalid)
        assert caught.value.size_bytes > MAX_FRAME_BYTES
        assert str(MAX_FRAME_BYTES) in caught.value.message
        assert node.is_connected


async def test_receive_times_out() -> None:
    async with connect(settings(FakeRouter())) as node:
        with pytest.raises(TimeoutError):
            await node.receive(timeout_s=0.001)


async def test_iteration_ends_when_the_receiver_is_closed() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        for number in range(3):
            router.peers[0].send(to(node, number))
        await until(lambda: node.statistics().inbound_held == 3)
        node.receiver.close()
        assert [message.json() async for message in node.receiver] == [0, 1, 2]
        router.peers[0].send(to(node, 4))
        await until(lambda: node.statistics().inbound_dropped == 1)


async def test_after_close_everything_says_closed() -> None:
    async with connect(settings(FakeRouter())) as node:
        await node.close()
        await node.close()
        for attempt in (node.send(to(node)), node.receive(), node.wait_connected(), node.request(to(node))):
            with pytest.raises(Unavailable) as caught:
                await attempt
            assert caught.value.code == "CLOSED"


# -- bounds -----------------------------------------------------------------------------------------------


async def test_a_node_that_does_not_receive_stops_the_reader() -> None:
    router = FakeRouter()
    async with connect(settings(router, inbound_limit=8)) as node:
        for number in range(1000):
            router.peers[0].send(to(node, number))
        await until(lambda: node.statistics().inbound_held == 8)
        for _ in range(50):
            await checkpoint()
        assert node.statistics().inbound_held == 8
        for number in range(1000):
            assert (await node.receive(timeout_s=5)).json() == number


async def test_a_reply_is_found_behind_a_burst_that_nobody_receives() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router, inbound_limit=4)) as node:
        peer = router.peers[0]

        async def answer() -> None:
            request = await peer.next_message()
            for number in range(100):
                peer.send(to(node, number))
            peer.send(build_message(src=OTHER, dst=node.uuid, trace_id=request.routing.trace_id))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            await node.request(build_message(src="", dst="AI.x@h"))
        assert [(await node.receive(timeout_s=5)).json() for _ in range(100)] == list(range(100))


async def test_a_full_queue_makes_senders_wait_and_then_busy() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router, outbound_limit=4)) as node:
        router.peers[0].link.capacity_bytes = 0
        message = to(node)
        with pytest.raises(Busy) as caught:
            for _ in range(10):
                await node.send(message, timeout_s=0.01)
        assert caught.value.code == "QUEUE_FULL"
        assert node.statistics().outbound_held == 4
        router.peers[0].link.capacity_bytes = 1 << 20
        router.peers[0].link._peer._touch()
        for _ in range(10):
            await node.send(message, timeout_s=5)


async def test_waiting_senders_are_served_in_order() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router, outbound_limit=2)) as node:
        link = router.peers[0].link
        link.capacity_bytes = 0
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(node.send, build_message(src="", dst="AI.x@h", payload=number))
                for _ in range(5):
                    await checkpoint()
            link.capacity_bytes = 1 << 20
            link._peer._touch()
        await router.peers[0].wait(lambda peer: len(peer.received) == 8)
        assert [message.json() for message in router.peers[0].received] == list(range(8))


# -- losing the connection --------------------------------------------------------------------------------


async def test_reconnect_with_the_same_uuid_and_what_was_queued() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        router.stop()
        await until(lambda: not node.is_connected)
        for number in range(20):
            await node.send(build_message(src="", dst="AI.x@h", payload=number))
        router.is_up = True
        await node.wait_connected(timeout_s=5)
        second = await router.wait_peers(2)
        assert second.uuid == node.uuid
        await second.wait(lambda peer: len(peer.received) == 20)
        assert [message.json() for message in second.received] == list(range(20))
        numbers = node.statistics()
        assert (numbers.losses, numbers.reconnects, numbers.outbound_held) == (1, 1, 0)


async def test_a_frame_that_was_cut_by_the_loss_goes_out_again_whole() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        first = router.peers[0]
        size = len(pack_frame(encode_message(build_message(src=node.uuid, dst="AI.x@h", payload=0))))
        first.link.capacity_bytes = 0
        for number in range(3):
            await node.send(build_message(src=node.uuid, dst="AI.x@h", payload=number))
        first.link.on_bytes = None
        first.link.capacity_bytes = size + size // 2
        first.link._peer._touch()
        await until(lambda: first.link.waiting_bytes == size + size // 2)
        router.stop()
        router.is_up = True
        second = await router.wait_peers(2)
        await second.wait(lambda peer: len(peer.received) == 2)
        assert [message.json() for message in second.received] == [1, 2]
        assert node.statistics().frames_out == 3


async def test_messages_that_wait_too_long_are_dropped_and_counted() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router, outbound_limit=2)) as node:
        router.stop()
        await until(lambda: not node.is_connected)
        for _ in range(5):
            await node.send(to(node), deadline_s=0.001, timeout_s=5)
        assert node.statistics().outbound_expired >= 3
        assert node.statistics().outbound_held <= 2


async def test_the_node_survives_several_refused_attempts() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        router.announces = False
        router.peers[0].close()
        (await router.wait_peers(2)).close()
        router.announces = True
        await node.wait_connected(timeout_s=5)
        router.peers[-1].send(to(node, "back"))
        assert (await node.receive(timeout_s=5)).json() == "back"


async def test_a_router_that_stays_away_is_logged_once() -> None:
    router = FakeRouter()
    with capture() as records:
        async with connect(settings(router)) as node:
            router.stop()
            await until(lambda: len(records) >= 2)  # the loss, and why it is not over
            for _ in range(200):
                await checkpoint()
            assert not node.is_connected
    assert [(record.event, record.code) for record in records] == [
        ("router_connection_lost", "ROUTER_CONNECTION_LOST")
    ] * 2
    assert len({str(record.fields["reason"]) for record in records}) == 2


async def test_leaving_is_no_loss() -> None:
    with capture() as records:
        async with connect(settings(FakeRouter())):
            pass
    assert records == []


async def test_what_was_read_before_the_loss_is_still_delivered() -> None:
    router = FakeRouter()
    async with connect(settings(router, inbound_limit=2)) as node:
        for number in range(50):
            router.peers[0].send(to(node, number))
        router.stop()
        assert [(await node.receive(timeout_s=5)).json() for _ in range(50)] == list(range(50))


async def test_leaving_while_disconnected_does_not_hang() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        router.stop()
        await until(lambda: not node.is_connected)
        await node.send(to(node))
        with pytest.raises(TimeoutError):
            await node.wait_connected(timeout_s=0.001)


# -- requests ---------------------------------------------------------------------------------------------


async def test_request_and_reply_among_other_messages() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        peer = router.peers[0]

        async def answer_backwards() -> None:
            requests = [await peer.next_message() for _ in range(5)]
            for request in reversed(requests):
                peer.send(to(node, "noise"))
                peer.send(
                    build_message(
                        src=OTHER, dst=node.uuid, payload=request.json(), trace_id=request.routing.trace_id
                    )
                )

        replies: dict[int, object] = {}

        async def ask(number: int) -> None:
            reply = await node.request(build_message(src="", dst="AI.x@h", payload=number))
            replies[number] = reply.json()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer_backwards)
            for number in range(5):
                tasks.start_soon(ask, number)
        assert replies == {number: number for number in range(5)}
        assert [(await node.receive(timeout_s=5)).json() for _ in range(5)] == ["noise"] * 5
        assert node.statistics().requests_answered == 5


async def test_a_router_error_ends_the_request() -> None:
    async with connect(settings(FakeRouter())) as node:
        with pytest.raises(Unreachable) as caught:
            await node.request(build_message(src="", dst="AI.nobody@test"))
        assert caught.value.code == "NODE_NOT_FOUND"
        assert node.statistics().requests_refused == 1


async def test_no_reply_in_time_and_the_late_one_is_counted() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        request = build_message(src="", dst="AI.x@h")
        with pytest.raises(Unreachable) as caught:
            await node.request(request, timeout_s=0.01)
        assert caught.value.code == "TIMEOUT"
        router.peers[0].send(build_message(src=OTHER, dst=node.uuid, trace_id=request.routing.trace_id))
        await until(lambda: node.statistics().late_replies == 1)
        assert node.statistics().inbound_held == 0


async def test_a_request_without_a_connection_says_so() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        router.stop()
        await until(lambda: not node.is_connected)
        with pytest.raises(Unreachable, match="not connected"):
            await node.request(build_message(src="", dst="AI.x@h"), timeout_s=0.01)


async def test_replies_are_matched_to_the_wanted_verb() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        peer = router.peers[0]

        async def answer() -> None:
            trace_id = (await peer.next_message()).routing.trace_id
            for verb in ("PROGRESS", "PONG"):
                peer.send(system_message(src=OTHER, dst=node.uuid, verb=verb, trace_id=trace_id))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            reply = await node.request(
                system_message(src="", dst="SY.identity@h", verb="PING"), reply_verbs="PONG"
            )
        assert reply.meta.msg == "PONG"
        assert (await node.receive(timeout_s=5)).meta.msg == "PROGRESS"


async def test_the_same_trace_cannot_wait_twice() -> None:
    async with connect(settings(FakeRouter(carries=False))) as node, anyio.create_task_group() as tasks:
        message = build_message(src="", dst="AI.x@h")

        async def first() -> None:
            with pytest.raises(Unavailable):
                await node.request(message)

        tasks.start_soon(first)
        await until(lambda: node.statistics().requests_waiting == 1)
        with pytest.raises(Conflict):
            await node.request(message)
        await node.close()


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async with connect(settings(FakeRouter(carries=False))) as node:
        with anyio.move_on_after(0.01):
            await node.request(build_message(src="", dst="AI.x@h"))
        assert node.statistics().requests_waiting == 0
        assert not node._inbox.wide


async def test_cancelled_receives_lose_no_message() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        got: list[object] = []

        async def take() -> None:
            got.append((await node.receive()).json())

        for number in range(40):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                tasks.start_soon(take)
                for _ in range(number % 4):
                    await checkpoint()
                router.peers[0].send(to(node, number))
                for _ in range(number % 5):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        while len(got) < 40:
            got.append((await node.receive(timeout_s=5)).json())
        assert got == list(range(40))


# -- built-in answers -------------------------------------------------------------------------------------


async def test_status_is_answered_without_the_author() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        peer = router.peers[0]
        peer.send(build_status_request(OTHER, node.full_name))
        assert (await peer.next_message()).json() == {"status": "ok", "health_state": "HEALTHY"}
        node.health.state = HealthState.DEGRADED
        node.health.last_error = {"code": "DISK"}
        node.health.extensions = {"queue": 3}
        peer.send(build_status_request(OTHER, node.full_name))
        status = parse_status_response(await peer.next_message())
        assert (status.health_state, status.last_error) == (HealthState.DEGRADED, {"code": "DISK"})
        assert node.statistics().answered == 2


@pytest.mark.parametrize(("switch", "answered"), [("false", False), ("0", False), ("true", True), ("", True)])
async def test_the_environment_switches_the_status_answer(
    monkeypatch: pytest.MonkeyPatch, switch: str, answered: bool
) -> None:
    monkeypatch.setenv("NODE_STATUS_DEFAULT_HANDLER_ENABLED", switch)
    monkeypatch.setenv("NODE_STATUS_DEFAULT_HEALTH_STATE", "degraded")
    router = FakeRouter(carries=False)
    async with connect(settings(router)) as node:
        router.peers[0].send(build_status_request(OTHER, node.full_name))
        if answered:
            reply = parse_status_response(await router.peers[0].next_message())
            assert reply.health_state is HealthState.DEGRADED
        else:
            assert (await node.receive(timeout_s=5)).meta.msg == verbs.NODE_STATUS_GET


async def test_echo_is_answered_when_wanted() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router, answer_echo=True)) as node:
        peer = router.peers[0]
        echo = system_message(src=OTHER, dst=node.full_name, verb="ECHO", payload={}, ttl=1)
        peer.send(echo)
        reply = await peer.next_message()
        assert (reply.meta.msg, reply.routing.ttl, reply.routing.dst) == ("ECHO_REPLY", 1, OTHER)
        assert (reply.json(), reply.routing.trace_id) == ({}, echo.routing.trace_id)
    async with connect(settings(router)) as node:
        router.peers[1].send(echo)
        assert (await node.receive(timeout_s=5)).meta.msg == "ECHO"


async def test_answers_that_do_not_fit_are_counted_and_not_awaited() -> None:
    router = FakeRouter(carries=False)
    async with connect(settings(router, outbound_limit=1, close_timeout_s=0.01)) as node:
        node.health.extensions = "x" * MAX_FRAME_BYTES
        router.peers[0].send(build_status_request(OTHER, node.full_name))
        await until(lambda: node.statistics().unanswered == 1)
        node.health.extensions = None
        router.peers[0].link.capacity_bytes = 0
        for _ in range(3):
            router.peers[0].send(build_status_request(OTHER, node.full_name))
        await until(lambda: node.statistics().unanswered == 3)


async def test_configuration_by_message() -> None:
    applied: list[object] = []

    async def on_set(request: ConfigSet) -> None:
        applied.append(request.config)

    router = FakeRouter(carries=False)
    async with connect(settings(router, "AI.chat"), control=NodeControl(on_set)) as node:
        peer = router.peers[0]
        body = ConfigSet(
            node_name=node.full_name,
            schema_version=1,
            config_version=7,
            apply_mode="replace",
            config={"a": 1},
        )
        peer.send(build_config_set(OTHER, body))
        assert (await peer.next_message()).json()["ok"] is True  # type: ignore[index,call-overload]
        peer.send(build_config_get(OTHER, ConfigGet(node_name=node.full_name)))
        reply = await peer.next_message()
        assert reply.routing.dst == OTHER
        assert reply.json()["effective_config"] == {"a": 1}  # type: ignore[index,call-overload]
        assert applied == [{"a": 1}]


async def test_without_control_configuration_is_an_ordinary_message() -> None:
    router = FakeRouter()
    async with connect(settings(router)) as node:
        router.peers[0].send(build_config_get(OTHER, ConfigGet(node_name=node.full_name)))
        assert (await node.receive(timeout_s=5)).meta.msg == "CONFIG_GET"


async def test_a_broken_config_callback_is_answered_and_the_node_lives() -> None:
    async def on_set(request: ConfigSet) -> None:
        raise ZeroDivisionError

    router = FakeRouter(carries=False)
    async with connect(settings(router), control=NodeControl(on_set)) as node:
        peer = router.peers[0]
        body = ConfigSet(node_name=node.full_name, schema_version=1, config_version=1, apply_mode="replace")
        peer.send(build_config_set(OTHER, body))
        reply = (await peer.next_message()).payload_as(dict)
        assert (reply["ok"], reply["error"]["code"]) == (False, "INTERNAL")
        peer.send(to(node, "alive"))
        assert (await node.receive(timeout_s=5)).json() == "alive"


async def test_a_flood_of_configuration_is_bounded() -> None:
    release = anyio.Event()

    async def on_set(request: ConfigSet) -> None:
        await release.wait()

    router = FakeRouter(carries=False)
    async with connect(settings(router), control=NodeControl(on_set)) as node:
        peer = router.peers[0]
        for version in range(1, 31):
            body = ConfigSet(
                node_name=node.full_name, schema_version=1, config_version=version, apply_mode="replace"
            )
            peer.send(build_config_set(OTHER, body))
        await until(lambda: node.statistics().frames_in == 30)
        assert node.statistics().unanswered >= 30 - 17
        release.set()
        await peer.next_message()


# -- cancellation -----------------------------------------------------------------------------------------


async def test_cancelling_the_body_still_withdraws() -> None:
    router = FakeRouter(carries=False)
    with anyio.CancelScope() as scope:
        async with connect(settings(router)) as node:
            scope.cancel()
            await node.receive()
    assert scope.cancelled_caught
    assert router.peers[0].received[-1].meta.msg == "WITHDRAW"


async def test_a_router_that_takes_nothing_cannot_hold_up_the_end() -> None:
    router = FakeRouter()
    async with connect(settings(router, close_timeout_s=0.01)) as node:
        router.peers[0].link.capacity_bytes = 0
        await node.send(to(node))


async def test_cancelling_during_the_handshake_closes_the_connection() -> None:
    router = FakeRouter(announces=False)
    with anyio.move_on_after(0.01) as scope:
        async with connect(settings(router)):
            pass
    assert scope.cancelled_caught
    assert not router.peers[0].is_open


def test_native_asyncio_cancellation_passes_through() -> None:
    router = FakeRouter(carries=False)

    async def main() -> None:
        connected = asyncio.Event()

        async def body() -> None:
            async with connect(settings(router)) as node:
                connected.set()
                await node.receive()

        task = asyncio.create_task(body())
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert router.peers[0].received[-1].meta.msg == "WITHDRAW"
