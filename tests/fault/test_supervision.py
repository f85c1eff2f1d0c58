"""Nodes survive what happens to their supervisor: killed planes, races, a restart of the whole hive."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
import trio

from appliance.testing.hive import HiveHarness
from appliance.wire import verbs
from appliance.wire.errors import FluxbeeError
from tests.orchestrator_kit import (
    CRASH,
    ECHO,
    SLEEP,
    TENANT,
    ask,
    publish,
    status,
    until,
    until_lifecycle,
)

pytestmark = [pytest.mark.process, pytest.mark.slow]


def spawn_payload(name, runtime):
    return {"node_name": name, "runtime": runtime, "tenant_id": TENANT}


def prepared(folder, **orchestrator):
    numbers = {"restart_first_ms": 50, "kill_grace_s": 2, **orchestrator}
    hive = HiveHarness(folder, planes="apart", settings={"orchestrator": numbers})
    for runtime, script in (("ai.echo", ECHO), ("wf.sleep", SLEEP), ("ai.crash", CRASH)):
        publish(hive.paths, runtime, script)
    return hive


def processes_of(name):
    """Pids of processes that were given ``name``, their children included."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"FLUXBEE_NODE_NAME={name}@motherbee".encode() in environment:
            found.append(int(entry.name))
    return found


async def patiently(node, verb, payload):
    """Ask until the orchestrator answers: it may be on its way back."""

    async def answered():
        try:
            return await ask(node, verb, payload, timeout_s=3)
        except FluxbeeError:
            return None

    return await until(answered, timeout_s=20)


def in_hive(hive, body):
    async def limited():
        with trio.fail_after(60):
            async with hive, hive.connect("SY.admin") as node:
                await body(node)

    trio.run(limited)


LOST_S = 2.0
"""A question that was read by a plane which died is never answered: ask again soon."""


async def running_again(node, name):
    async def reached():
        try:
            found = await status(node, name, timeout_s=LOST_S)
        except (FluxbeeError, AssertionError):
            return None
        return found if found["lifecycle_state"] == "RUNNING" else None

    return await until(reached, timeout_s=20)


def test_a_node_lives_on_when_the_control_plane_is_killed(hive_folder):
    hive = prepared(hive_folder)

    async def body(node):
        await ask(node, verbs.SPAWN_NODE, spawn_payload("AI.echo.a", "ai.echo"))
        before = await until_lifecycle(node, "AI.echo.a", "RUNNING")
        hive.kill_plane("control")
        after = await running_again(node, "AI.echo.a")
        assert after["process"]["pid"] == before["process"]["pid"]
        assert after["process"]["started_at"] == before["process"]["started_at"]
        assert after["status_version"] >= before["status_version"]
        assert len(processes_of("AI.echo.a")) == 1
        killed = await patiently(node, verbs.KILL_NODE, {"node_name": "AI.echo.a"})
        assert killed["status"] == "ok"
        assert processes_of("AI.echo.a") == []

    in_hive(hive, body)


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.015, 0.03, 0.06])
def test_a_spawn_that_meets_the_death_of_the_control_plane_is_neither_lost_nor_doubled(hive_folder, delay_s):
    hive = prepared(hive_folder)

    async def body(node):
        async def spawn():
            try:
                await ask(node, verbs.SPAWN_NODE, spawn_payload("WF.sleep.a", "wf.sleep"), timeout_s=2)
            except FluxbeeError:
                return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spawn)
            await trio.sleep(delay_s)
            hive.kill_plane("control")
        again = await patiently(node, verbs.SPAWN_NODE, spawn_payload("WF.sleep.a", "wf.sleep"))
        assert again["status"] == "ok" or again["error_code"] == "NODE_ALREADY_EXISTS", again

        async def lives():
            return len(processes_of("WF.sleep.a")) == 1

        await until(lives)
        found = await status(node, "WF.sleep.a")
        assert found["process"]["pid"] == processes_of("WF.sleep.a")[0]

    in_hive(hive, body)


def test_a_node_that_ends_while_nobody_decides_is_brought_back(hive_folder):
    hive = prepared(hive_folder)

    async def body(node):
        await ask(node, verbs.SPAWN_NODE, spawn_payload("AI.echo.a", "ai.echo"))
        before = await until_lifecycle(node, "AI.echo.a", "RUNNING")
        hive.kill_plane("control")
        os.kill(before["process"]["pid"], 9)
        after = await running_again(node, "AI.echo.a")
        assert after["process"]["pid"] != before["process"]["pid"]

    in_hive(hive, body)


def test_restart_counts_outlive_the_control_plane(hive_folder):
    hive = prepared(hive_folder, healthy_after_s=1)

    async def body(node):
        await ask(node, verbs.SPAWN_NODE, spawn_payload("WF.sleep.a", "wf.sleep"))

        async def restarted():
            found = await status(node, "WF.sleep.a", timeout_s=LOST_S)
            return found["process"]["restart_count"] == 1 and found["process"]["pid"]

        os.kill((await status(node, "WF.sleep.a"))["process"]["pid"], 9)
        await until(restarted)

        async def noted():
            return hive.paths.node_restarts.exists()

        await until(noted)
        hive.kill_plane("control")

        async def still():
            try:
                return await restarted()
            except (FluxbeeError, AssertionError):
                return False

        await until(still)

    in_hive(hive, body)


def test_a_crash_looping_node_harms_nobody_and_can_be_killed(hive_folder):
    hive = prepared(hive_folder, park_after=1000)

    async def body(node):
        await ask(node, verbs.SPAWN_NODE, spawn_payload("AI.crash.a", "ai.crash"))
        await ask(node, verbs.SPAWN_NODE, spawn_payload("AI.echo.a", "ai.echo"))
        await until_lifecycle(node, "AI.echo.a", "RUNNING")

        async def waits():
            found = await status(node, "AI.crash.a")
            return found["process"]["phase"] == "waiting" and found["process"]["failures"] >= 4 and found

        found = await until(waits)
        assert found["lifecycle_state"] == "STARTING"
        assert found["process"]["retry_in_s"] > 0
        killed = await ask(node, verbs.KILL_NODE, {"node_name": "AI.crash.a"})
        assert killed["status"] == "ok"
        count = (await status(node, "AI.crash.a"))["process"]["restart_count"]
        await trio.sleep(1.0)  # longer than the wait that was cancelled
        after = await status(node, "AI.crash.a")
        assert (after["lifecycle_state"], after["process"]["restart_count"]) == ("STOPPED", count)

    in_hive(hive, body)


def test_a_restart_of_the_hive_brings_every_node_back_with_its_own_version(hive_folder):
    hive = prepared(hive_folder)
    names = {"AI.echo.a": "ai.echo", "WF.sleep.a": "wf.sleep", "IO.door": "ai.echo"}

    async def first(node):
        for name, runtime in names.items():
            answer = await ask(node, verbs.SPAWN_NODE, spawn_payload(name, runtime))
            assert answer["status"] == "ok", answer
        await ask(node, verbs.KILL_NODE, {"node_name": "WF.sleep.a"})

    async def second(node):
        for name in ("AI.echo.a", "IO.door"):
            found = await running_again(node, name)
            assert found["runtime"]["resolved_version"] == "1.0.0"
        # Killed is not removed: it comes back with the orchestrator.
        assert (await until_lifecycle(node, "WF.sleep.a", "STARTING"))["process"]["pid"]

    in_hive(hive, first)
    assert processes_of("AI.echo.a") == []
    publish(hive.paths, "ai.echo", ECHO, version="2.0.0")
    in_hive(hive, second)


def test_the_router_is_restarted_as_a_node_and_nodes_live_on(hive_folder):
    hive = prepared(hive_folder)

    async def body(node):
        await ask(node, verbs.SPAWN_NODE, spawn_payload("AI.echo.a", "ai.echo"))
        before = await until_lifecycle(node, "AI.echo.a", "RUNNING")
        old = hive.plane_pid("data")
        answer = await ask(node, verbs.RESTART_NODE, {"node_name": "RT.gateway"})
        assert (answer["status"], answer["state"]) == ("ok", "restarted")

        async def another():
            return hive.plane_pid("data") not in (None, old)

        await until(another)
        after = await running_again(node, "AI.echo.a")
        assert after["process"]["pid"] == before["process"]["pid"]

    in_hive(hive, body)


@pytest.mark.privileged
def test_nodes_run_as_their_own_account_and_can_read_their_configuration(hive_folder):
    reads = "#!/bin/sh\ncat config.json > /dev/null && echo ok > state.json && exec sleep 3600\n"
    hive = prepared(hive_folder, node_user="nobody")
    publish(hive.paths, "wf.reads", reads)
    hive_folder.chmod(0o755)

    async def body(node):
        answer = await ask(node, verbs.SPAWN_NODE, spawn_payload("WF.reads", "wf.reads"))
        assert answer["status"] == "ok", answer
        directory = hive.paths.nodes / "WF" / "WF.reads@motherbee"

        async def wrote():
            return (directory / "state.json").exists()

        await until(wrote)
        account = pwd.getpwnam("nobody").pw_uid
        assert {path.stat().st_uid for path in (directory, directory / "config.json")} == {account}
        changed = await ask(node, verbs.NODE_CONFIG_SET, {"node_name": "WF.reads", "config": {"a": 1}})
        assert changed["status"] == "ok"
        assert (directory / "config.json").stat().st_uid == account
        pid = (await status(node, "WF.reads"))["process"]["pid"]
        assert os.stat(f"/proc/{pid}").st_uid == account

    in_hive(hive, body)
