"""The supervisor over a keeper without processes, on a clock that trio moves."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from appliance.keeper.nodes_protocol import NodeLaunch
from appliance.supervise.backoff import RestartPolicy
from appliance.supervise.lifecycle import Phase
from appliance.supervise.restarts import RestartLedger
from appliance.supervise.supervisor import Supervisor
from appliance.testing.clock import EPOCH_2026_MS
from appliance.testing.keeper import FakeKeeper
from appliance.wire.errors import Busy, Invalid, Unavailable

NAME = "AI.a@h"


class TrioClock:
    def monotonic(self):
        return trio.current_time()

    def wall_ms(self):
        return EPOCH_2026_MS + 60_000


def launch(name=NAME, **more):
    return NodeLaunch(
        name=name,
        unit="u-" + name.replace("@", "-"),
        argv=("/bin/true",),
        env={},
        cwd="/",
        log_dir="/tmp/x",
        stop_grace_s=2.0,
        **more,
    )


def supervised(body, tmp_path, keeper=None, policy=None):
    keeper = keeper or FakeKeeper()
    policy = policy or RestartPolicy(first_s=1, cap_s=8, healthy_after_s=60, park_after=3)

    async def main():
        ledger = RestartLedger(tmp_path / "restarts.json")
        supervisor = Supervisor(keeper, policy, TrioClock(), ledger)
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await body(supervisor, keeper)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))


def test_a_node_is_started_once_and_left_alone_then(tmp_path):
    async def body(supervisor, keeper):
        assert await supervisor.start(launch()) is True
        assert await supervisor.start(launch()) is False
        assert keeper.count("start", NAME) == 1
        process = supervisor.process(NAME)
        assert (process.phase, process.pid) == (Phase.STARTING, keeper.records[NAME].pid)
        supervisor.observe({NAME: 1})
        assert supervisor.process(NAME).phase is Phase.RUNNING
        supervisor.observe([])
        assert supervisor.process(NAME).phase is Phase.STARTING
        assert supervisor.by_unit("u-AI.a-h") == NAME
        assert supervisor.by_unit("u") is None

    supervised(body, tmp_path)


def test_an_ended_node_comes_back_after_its_wait_and_is_parked_in_the_end(tmp_path):
    async def body(supervisor, keeper):
        await supervisor.start(launch())
        for expected in (1, 2):
            keeper.end(NAME, code=3)
            await trio.testing.wait_all_tasks_blocked()
            process = supervisor.process(NAME)
            assert (process.phase, process.active, process.exit_code) == (Phase.WAITING, True, 3)
            assert process.retry_in_s <= expected
            await trio.sleep(process.retry_in_s + 0.01)
            await trio.testing.wait_all_tasks_blocked()
            assert supervisor.process(NAME).restarts == expected
        keeper.end(NAME, code=3)
        await trio.testing.wait_all_tasks_blocked()
        assert supervisor.process(NAME).phase is Phase.PARKED
        await trio.sleep(1000)
        assert keeper.live() == []
        assert supervisor.statistics().parked == 1
        assert await supervisor.start(launch()) is True
        assert keeper.live() == [NAME]

    supervised(body, tmp_path)


def test_a_stop_waits_for_the_end_and_cancels_a_restart(tmp_path):
    async def body(supervisor, keeper):
        assert await supervisor.stop(NAME, grace_s=1) is False
        await supervisor.start(launch())
        assert await supervisor.stop(NAME, grace_s=1) is True
        assert (keeper.live(), keeper.records) == ([], {})
        assert supervisor.process(NAME).phase is Phase.STOPPED
        assert await supervisor.stop(NAME, grace_s=1) is False
        await supervisor.start(launch())
        keeper.end(NAME, code=0)
        await trio.testing.wait_all_tasks_blocked()
        assert await supervisor.stop(NAME, grace_s=1) is True
        await trio.sleep(100)
        assert keeper.live() == []
        supervisor.drop(NAME)
        assert supervisor.process(NAME) is None

    supervised(body, tmp_path)


def test_a_stop_that_is_not_obeyed_is_an_error_and_may_be_repeated(tmp_path):
    async def body(supervisor, keeper):
        await supervisor.start(launch())
        keeper.stubborn.add(NAME)
        with pytest.raises(Unavailable) as caught:
            await supervisor.stop(NAME, grace_s=1)
        assert caught.value.code == "KILL_FAILED"
        keeper.stubborn.clear()
        assert await supervisor.stop(NAME, signal="SIGKILL", grace_s=1) is True
        assert keeper.count("SIGKILL", NAME) == 1

    supervised(body, tmp_path)


def test_an_end_that_nobody_told_is_found_by_the_stop(tmp_path):
    async def body(supervisor, keeper):
        for lose in (lambda: keeper.records.pop(NAME), lambda: keeper.end(NAME, code=1)):
            await supervisor.start(launch())
            keeper.followed = False
            lose()
            assert supervisor.process(NAME).active
            assert await supervisor.stop(NAME, grace_s=1) is True
            assert supervisor.process(NAME).phase is Phase.STOPPED
            keeper.followed = True

    supervised(body, tmp_path)


def test_a_restart_gives_a_new_process(tmp_path):
    async def body(supervisor, keeper):
        await supervisor.start(launch())
        old = keeper.records[NAME].pid
        await supervisor.restart(launch(memory_bytes=5))
        assert keeper.records[NAME].pid != old
        assert keeper.records[NAME].launch.memory_bytes == 5
        await supervisor.stop(NAME, grace_s=1)
        await supervisor.restart(launch())
        assert keeper.live() == [NAME]

    supervised(body, tmp_path)


def test_a_launch_that_the_keeper_refuses_fails_and_is_told(tmp_path):
    async def body(supervisor, keeper):
        keeper.refuse_start = Invalid("no such program", code="LAUNCH_FAILED")
        with pytest.raises(Unavailable, match="no such program"):
            await supervisor.start(launch())
        process = supervisor.process(NAME)
        assert (process.phase, process.trouble) == (Phase.FAILED, "no such program")
        assert supervisor.statistics().launch_failures == 1
        keeper.refuse_start = None
        assert await supervisor.start(launch()) is True
        assert supervisor.process(NAME).trouble is None

    supervised(body, tmp_path)


def test_a_restart_that_is_refused_is_tried_on(tmp_path):
    async def body(supervisor, keeper):
        await supervisor.start(launch())
        keeper.refuse_start = Invalid("file in use", code="LAUNCH_FAILED")
        keeper.end(NAME, code=1)
        await trio.sleep(1.5)
        assert supervisor.process(NAME).phase is Phase.WAITING
        keeper.refuse_start = None
        await trio.sleep(10)
        assert keeper.live() == [NAME]

    supervised(body, tmp_path)


def test_a_process_that_lives_already_is_taken_over_by_a_launch(tmp_path):
    async def body(supervisor, keeper):
        lost = keeper.place(launch())  # the answer to its launch never came
        assert await supervisor.start(launch()) is True
        assert supervisor.process(NAME).pid == lost.pid

    supervised(body, tmp_path)


def test_what_the_keeper_kept_is_adopted_and_what_ended_is_forgotten(tmp_path):
    (tmp_path / "restarts.json").write_text('{"AI.a@h": 7}')
    keeper = FakeKeeper()
    kept = keeper.place(launch())
    keeper.place(launch("AI.b@h"))
    keeper.end("AI.b@h", code=1)

    async def body(supervisor, keeper):
        process = supervisor.process(NAME)
        assert (process.phase, process.pid, process.restarts) == (Phase.STARTING, kept.pid, 7)
        assert supervisor.process("AI.b@h").phase is Phase.STOPPED
        assert sorted(keeper.records) == [NAME]
        assert supervisor.statistics().adopted == 1
        keeper.end(NAME, signal=9, oom=True)
        await trio.testing.wait_all_tasks_blocked()
        process = supervisor.process(NAME)
        assert (process.exit_signal, process.oom_killed, process.failures) == (9, True, 1)

    supervised(body, tmp_path, keeper)


def test_restart_counts_are_written_for_the_next_plane(tmp_path):
    async def body(supervisor, keeper):
        await supervisor.start(launch())
        keeper.end(NAME, code=1)
        await trio.sleep(5)

    supervised(body, tmp_path)
    assert (tmp_path / "restarts.json").read_bytes() == b'{"AI.a@h":1}'


def test_fifty_idle_nodes_wake_nobody(tmp_path):
    async def body(supervisor, keeper):
        for number in range(50):
            await supervisor.start(launch(f"AI.n{number}@h"))
        await trio.testing.wait_all_tasks_blocked()
        calls = len(keeper.calls)
        async with idle_loop_turns() as turns:
            await trio.sleep(10_000)
        assert len(keeper.calls) == calls
        assert turns[0] < 20

    supervised(body, tmp_path)


@asynccontextmanager
async def idle_loop_turns():
    """Counts how often the loop has work inside the block."""
    turns = [0]

    class Count(trio.abc.Instrument):
        def before_task_step(self, task):
            turns[0] += 1

    instrument = Count()
    trio.lowlevel.add_instrument(instrument)
    yield turns
    trio.lowlevel.remove_instrument(instrument)


def test_a_stop_that_the_keeper_does_not_take_is_tried_again(tmp_path):
    async def body(supervisor, keeper):
        await supervisor.start(launch())
        take, refused = keeper.stop_node, []

        async def busy(name, **how):
            if len(refused) < 3:
                refused.append(name)
                raise Busy("64 requests wait already")
            return await take(name, **how)

        keeper.stop_node = busy
        assert await supervisor.stop(NAME, grace_s=2)
        assert (refused, keeper.live()) == ([NAME] * 3, [])

    supervised(body, tmp_path)


def test_a_launch_that_counts_as_failed_and_lives_all_the_same_is_ended(tmp_path):
    async def body(supervisor, keeper):
        start, nodes = keeper.start_node, keeper.nodes

        async def late(given):
            await start(given)
            raise Unavailable("the keeper did not answer within 10 s")

        async def silent():
            raise Unavailable("the keeper did not answer within 5 s")

        keeper.start_node, keeper.nodes = late, silent
        with pytest.raises(Unavailable):
            await supervisor.start(launch())
        await trio.testing.wait_all_tasks_blocked()
        assert (keeper.live(), keeper.records) == ([], {})
        keeper.start_node, keeper.nodes = start, nodes
        assert await supervisor.start(launch())
        assert keeper.live() == [NAME]

    supervised(body, tmp_path)


def test_a_wall_clock_that_goes_back_hides_no_end(tmp_path):
    async def body(supervisor, keeper):
        await supervisor.start(launch())
        keeper._started = itertools.count(1000)  # 1970: the box has lost its time
        keeper.end(NAME, code=1)
        await trio.sleep(1.5)
        start = keeper.start_node

        async def short(given):
            process = await start(given)
            keeper.end(NAME, code=2)  # its end is told before the answer is dealt with
            await trio.testing.wait_all_tasks_blocked()
            return process

        keeper.start_node = short
        keeper.end(NAME, code=1)
        await trio.sleep(3)
        assert supervisor.process(NAME).phase is Phase.PARKED

    supervised(body, tmp_path)


def test_a_hundred_nodes_that_end_at_once_keep_the_keepers_bound(tmp_path):
    async def body(supervisor, keeper):
        names = [f"AI.n{number}@h" for number in range(100)]
        for name in names:
            await supervisor.start(launch(name))
        forget, now, most = keeper.forget_node, 0, 0

        async def counted(name):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await trio.sleep(0.01)
            now -= 1
            await forget(name)

        keeper.forget_node = counted
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(partial(supervisor.stop, name, grace_s=2))
        assert keeper.records == {}
        assert most <= 32

    supervised(body, tmp_path)
