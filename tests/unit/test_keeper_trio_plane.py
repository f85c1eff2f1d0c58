from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
import trio.testing

from appliance.keeper.nodes_protocol import (
    Claim,
    Claims,
    FollowNodes,
    ForgetNode,
    ListNodes,
    NodeEnded,
    NodePage,
    StartNode,
    StopNode,
    Unclaim,
)
from appliance.keeper.plane import PlaneContext, link_pair
from appliance.keeper.protocol import (
    Health,
    KeeperStatistics,
    KeeperStatus,
    Link,
    Ready,
    Reply,
    Request,
    Restart,
    Status,
    Stop,
    decode_request,
    encode,
)
from appliance.keeper.trio_plane import MAX_PENDING_REQUESTS, TrioPlane, stream_of
from appliance.system.channel import Channel
from appliance.wire.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from tests.unit.test_keeper_nodes_protocol import launch, process

STATUS = KeeperStatus(pid=5, uptime_s=1.0, stopping=False, planes=(), statistics=KeeperStatistics())


class OtherSide:
    """The keeper's end of the channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def asked(self) -> tuple[Request | Reply, tuple[int, ...]]:
        while (packet := self.channel.receive()) is None:
            await trio.lowlevel.wait_readable(self.channel.fileno())
        return decode_request(packet.data), packet.fds

    async def answer(self, **fields) -> Request | Reply:
        request, fds = await self.asked()
        for fd in fds:
            os.close(fd)
        self.channel.send(encode(Reply(id=request.id, **fields)))
        return request


Scenario = Callable[[TrioPlane, OtherSide], Awaitable[None]]


def play(scenario: Scenario, *, links_waiting: int = 4, clock: trio.abc.Clock | None = None) -> TrioPlane:
    ours, theirs = Channel.pair()
    plane = TrioPlane(PlaneContext(name="data", channel=theirs, eventfds={}), links_waiting=links_waiting)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(plane.run)
            await scenario(plane, OtherSide(ours))
            nursery.cancel_scope.cancel()

    with ours, theirs:
        trio.run(main, clock=clock)
    return plane


def test_requests_get_their_own_answers_in_any_order() -> None:
    got: dict[str, object] = {}

    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async def status() -> None:
            got["status"] = await plane.status()

        async def ready() -> None:
            await plane.ready()
            got["ready"] = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(status)
            nursery.start_soon(ready)
            requests = [(await keeper.asked())[0] for _ in range(2)]
            for request in reversed(requests):
                raw = encode(STATUS) if isinstance(request, Status) else b"null"
                keeper.channel.send(encode(Reply(id=request.id, result=msgspec.Raw(raw))))

    plane = play(scenario)
    assert got == {"status": STATUS, "ready": True}
    assert plane.statistics().replies == 2


def test_a_refusal_is_raised_as_what_it_is() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: keeper.answer(code="NOT_FOUND", message="no moon"))
            with pytest.raises(NotFound, match="no moon"):
                await plane.restart("moon")

    play(scenario)


def test_what_is_asked_arrives() -> None:
    seen: list[object] = []

    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async def answer() -> None:
            seen.append(msgspec.structs.replace(await keeper.answer(), id=0))

        for ask in (plane.ready, lambda: plane.restart("world"), lambda: plane.health(30.0)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                nursery.start_soon(ask)

    play(scenario)
    assert seen == [Ready(), Restart(plane="world"), Health(timeout_s=30.0)]


def test_signs_of_life_come_at_their_pace() -> None:
    times: list[float] = []

    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: plane.beat(every_s=5.0, valid_s=20.0))
            for _ in range(3):
                await keeper.answer()
                times.append(trio.current_time())
            nursery.cancel_scope.cancel()

    play(scenario, clock=trio.testing.MockClock(autojump_threshold=0.01))
    assert [round(later - times[0]) for later in times] == [0, 5, 10]


def test_an_opened_link_carries_bytes() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async def hand_over() -> None:
            request, fds = await keeper.asked()
            assert isinstance(request, Link)
            assert request.name == "SY.admin"
            keeper.channel.send(encode(Reply(id=request.id)))
            async with stream_of(socket.socket(fileno=fds[0])) as stream:
                await stream.send_all(b"hello")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_over)
            async with stream_of(await plane.open_link("SY.admin")) as stream:
                assert b"".join([chunk async for chunk in stream]) == b"hello"

    assert play(scenario).statistics().links_opened == 1


def test_a_refused_link_leaves_nothing_open() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: keeper.answer(code="UNAVAILABLE", message="data is down"))
            with pytest.raises(Unavailable, match="data is down"):
                await plane.open_link("SY.admin")
        assert len(os.listdir("/proc/self/fd")) == before

    play(scenario)


def test_incoming_links_wait_in_a_bounded_queue() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        kept = []
        for number in range(3):
            mine, theirs = link_pair()
            with theirs:
                keeper.channel.send(encode(Link(name=f"SY.{number}", plane="control")), [theirs.fileno()])
            kept.append(mine)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(2):
            link = await plane.links.receive()
            assert (link.plane, link.name) == ("control", f"SY.{number}")
            link.sock.close()
        assert kept[2].recv(1) == b""  # the third found no place and was closed
        for mine in kept:
            mine.close()

    statistics = play(scenario, links_waiting=2).statistics()
    assert (statistics.links_received, statistics.links_dropped) == (3, 1)


def test_links_that_nobody_takes_any_more_are_closed() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        plane.links.close()
        mine, theirs = link_pair()
        with theirs:
            keeper.channel.send(encode(Link(name="SY.x", plane="control")), [theirs.fileno()])
        await trio.testing.wait_all_tasks_blocked()
        assert mine.recv(1) == b""
        mine.close()

    assert play(scenario).statistics().links_dropped == 1


def test_stop_reaches_everybody_who_waits() -> None:
    heard: list[Stop] = []

    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async def wait() -> None:
            heard.append(await plane.wait_stop())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            keeper.channel.send(encode(Stop(reason="stop", grace_s=3.0)))
        keeper.channel.send(encode(Stop(reason="again", grace_s=1.0)))
        # Requests are still answered while stopping.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.answer)
            await plane.health(5.0)
        assert (await plane.wait_stop()).reason == "stop"

    play(scenario)
    assert [stop.grace_s for stop in heard] == [3.0, 3.0]


def test_sigterm_to_the_plane_alone_is_a_stop() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await plane.wait_stop()).reason == "SIGTERM"

    play(scenario)


def test_the_keepers_end_is_a_stop_and_wakes_who_asks() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async def leave() -> None:
            await keeper.asked()
            keeper.channel.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            with pytest.raises(Unavailable, match="gone"):
                await plane.status(timeout_s=60)
        assert (await plane.wait_stop()).reason == "the keeper is gone"
        with pytest.raises(Unavailable, match="gone"):
            await plane.status()
        with pytest.raises(trio.EndOfChannel):
            await plane.links.receive()

    play(scenario)


def test_no_answer_in_time_is_said_and_the_late_one_counted() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        with pytest.raises(Unavailable, match="did not answer within 3 s"):
            await plane.status(timeout_s=3.0)
        await keeper.answer()
        await trio.testing.wait_all_tasks_blocked()

    plane = play(scenario, clock=trio.testing.MockClock(autojump_threshold=0.01))
    assert plane.statistics().replies_late == 1


def test_a_full_channel_is_waited_for() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        extra = 0
        while plane.context.channel.send(encode(Ready())):
            extra += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane.ready)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(extra):
                await keeper.asked()
            request = await keeper.answer()
            assert request == Ready(id=1)

    play(scenario)


def test_requests_that_wait_are_bounded() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_PENDING_REQUESTS):
                nursery.start_soon(plane.status)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Busy):
                await plane.status()
            nursery.cancel_scope.cancel()

    play(scenario)


def test_the_keeper_does_not_load_trio() -> None:
    code = "import sys, appliance.keeper; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


# --- node processes -----------------------------------------------------------------------------------------


def test_nodes_are_started_stopped_and_forgotten() -> None:
    running = process("AI.a@north")
    raw = msgspec.Raw(encode(running))

    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async def ask() -> None:
            assert await plane.start_node(launch()) == running
            assert await plane.stop_node("AI.a@north", grace_s=2.0) == running
            assert await plane.stop_node("AI.a@north", signal="SIGKILL") == running
            await plane.follow_nodes()
            await plane.forget_node("AI.a@north")
            with pytest.raises(Conflict) as refused:
                await plane.start_node(launch())
            assert refused.value.code == "NODE_RUNNING"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            assert await keeper.answer(result=raw) == StartNode(id=1, launch=launch())
            assert await keeper.answer(result=raw) == StopNode(id=2, name="AI.a@north", grace_s=2.0)
            assert await keeper.answer(result=raw) == StopNode(id=3, name="AI.a@north", signal="SIGKILL")
            assert await keeper.answer() == FollowNodes(id=4)
            assert await keeper.answer() == ForgetNode(id=5, name="AI.a@north")
            await keeper.answer(code="NODE_RUNNING", message="it runs")

    play(scenario)


def test_a_launch_that_cannot_be_is_not_even_sent() -> None:
    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        with pytest.raises(Invalid):
            await plane.start_node(launch(cwd="here"))

    assert play(scenario).statistics().requests == 0


def test_all_pages_of_nodes_are_asked_for() -> None:
    everybody = [process(f"AI.n{i}@north") for i in range(3)]
    found: list[object] = []

    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                found.extend(await plane.nodes())

            nursery.start_soon(ask)
            pages = [
                NodePage(nodes=tuple(everybody[:2]), more=True),
                NodePage(nodes=(everybody[2],), more=False),
            ]
            afters = ["", "AI.n1@north"]
            for page, after in zip(pages, afters, strict=True):
                asked = await keeper.answer(result=msgspec.Raw(encode(page)))
                assert isinstance(asked, ListNodes)
                assert asked.after == after

    play(scenario)
    assert found == everybody


def test_ends_come_as_events_and_the_channel_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.keeper.trio_plane.MAX_NODE_RECORDS", 2)

    async def scenario(plane: TrioPlane, keeper: OtherSide) -> None:
        for number in range(3):
            keeper.channel.send(encode(NodeEnded(process=process(f"AI.n{number}@north"))))
        await trio.testing.wait_all_tasks_blocked()
        got = [(await plane.node_events.receive()).process.name for _ in range(2)]
        assert got == ["AI.n0@north", "AI.n1@north"]
        assert plane.statistics().node_events_dropped == 1

    play(scenario)


def test_claims_said_before_are_known_when_the_plane_has_started() -> None:
    first = Claim(name="AI.a@north", pid=1, token_sha256="a")
    second = Claim(name="AI.b@north", pid=2, token_sha256="b")
    ours, theirs = Channel.pair()
    seen: list[tuple[str, Claim | None]] = []

    async def main() -> None:
        plane = TrioPlane(PlaneContext(name="data", channel=theirs, eventfds={}))
        async with trio.open_nursery() as nursery:
            await nursery.start(plane.run)
            assert plane.claims == {first.name: first}
            plane.watch_claims(lambda name, claim: seen.append((name, claim)))
            ours.send(encode(Claims(claims=(second,))))
            ours.send(encode(Unclaim(name=first.name)))
            await trio.testing.wait_all_tasks_blocked()
            assert plane.claims == {second.name: second}
            nursery.cancel_scope.cancel()

    with ours, theirs:
        ours.send(encode(Claims(claims=(first,))))
        trio.run(main)
    assert seen == [(first.name, first), (second.name, second), (first.name, None)]
