"""Node verbs of SY.orchestrator over messages, in a real hive (``spec/admin-api.md §B.6, §D.3-D.8``)."""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.testing.hive import HiveHarness
from appliance.wire import verbs
from appliance.wire.envelope import system_message
from tests.orchestrator_kit import (
    CRASH,
    ECHO,
    SLEEP,
    TENANT,
    act,
    ask,
    publish,
    status,
    until,
    until_lifecycle,
)

pytestmark = pytest.mark.process

NAME = "AI.echo.one"
FULL = "AI.echo.one@motherbee"


@pytest.fixture(scope="module", params=["together", "apart"])
def hive(request):
    folder = Path(tempfile.mkdtemp(prefix="fluxbee-"))
    settings = {"orchestrator": {"restart_first_ms": 20, "park_after": 3, "kill_grace_s": 2}}
    running = HiveHarness(folder, planes=request.param, settings=settings)
    publish(
        running.paths,
        "ai.echo",
        ECHO,
        files={"config/default-config.json": '{"model": "m0", "_system": {"x": 1}}'},
    )
    publish(running.paths, "wf.sleep", SLEEP)
    publish(running.paths, "ai.crash", CRASH)
    publish(running.paths, "ai.gone", None)
    publish(
        running.paths,
        "ai.echo.fr",
        None,
        type="config_only",
        runtime_base="ai.echo",
        files={"package.json": "{}"},
    )
    publish(running.paths, "ai.orphan", None, type="config_only", runtime_base="ai.nobody")
    with running:
        yield running
    shutil.rmtree(folder)


def in_trio(hive, body):
    """Run ``body(node)`` as the admin service, which the allow-list knows."""

    async def limited():
        with trio.fail_after(40):
            async with hive.connect("SY.admin") as node:
                await body(node)

    trio.run(limited)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def spawn_payload(name=NAME, runtime="ai.echo", **more):
    return {"node_name": name, "runtime": runtime, "tenant_id": TENANT, **more}


@asynccontextmanager
async def spawned(node, name=NAME, runtime="ai.echo", **more):
    """A node that lives inside the block and leaves nothing behind."""
    answer = await ask(node, verbs.SPAWN_NODE, spawn_payload(name, runtime, **more))
    assert answer["status"] == "ok", answer
    try:
        yield answer
    finally:
        await ask(node, verbs.KILL_NODE, {"node_name": name, "force": True, "purge_instance": True})


def test_a_node_is_spawned_runs_answers_and_is_killed(hive):
    async def body(node):
        async with spawned(node, config={"temperature": 0.2}) as answer:
            assert answer["node_name"] == FULL
            assert (answer["runtime"], answer["version"]) == ("ai.echo", "1.0.0")
            assert answer["requested_version"] == "current"
            assert answer["unit"] == "fluxbee-node-AI.echo.one-motherbee"
            register = answer["identity"]["register"]
            assert (register["status"], register["ilk_type"]) == ("ok", "agent")
            assert answer["identity"]["update"] == {"status": "skipped", "reason": "no_changes"}
            found = await until_lifecycle(node, NAME, "RUNNING")
            assert (found["health_state"], found["health_source"]) == ("HEALTHY", "NODE_REPORTED")
            assert found["process"]["pid"] > 1
            assert found["process"]["started_at"].endswith("Z")
            assert found["identity"] == {"ilk_id": register["ilk_id"], "tenant_id": TENANT}
            killed = await ask(node, verbs.KILL_NODE, {"node_name": NAME})
            assert (killed["status"], killed["signal"], killed["force"]) == ("ok", "SIGTERM", False)
            assert "timer_purge" not in killed
            after = await status(node, NAME)
            assert (after["lifecycle_state"], after["health_state"], after["health_source"]) == (
                "STOPPED",
                "UNKNOWN",
                "UNKNOWN",
            )
            assert after["status_version"] > found["status_version"]

    in_trio(hive, body)


def test_files_of_an_instance_are_private_and_layered(hive):
    async def body(node):
        async with spawned(node, config={"temperature": 1}) as answer:
            assert answer["config"]["path"] == str(hive.paths.nodes / "AI" / FULL / "config.json")
            path = hive.paths.nodes / "AI" / FULL / "config.json"
            assert mode_of(path) == 0o600
            assert mode_of(path.parent) == 0o700
            config = json.loads(path.read_text())
            assert (config["model"], config["temperature"], config["tenant_id"]) == ("m0", 1, TENANT)
            system = config["_system"]
            assert system["managed_by"] == "SY.orchestrator"
            assert (system["runtime"], system["runtime_version"]) == ("ai.echo", "1.0.0")
            assert system["relaunch_on_boot"] is True
            assert "x" not in system
            known = json.loads(hive.paths.identity_map.read_text())
            assert known["nodes"][FULL] == system["ilk_id"]

    in_trio(hive, body)


def test_a_package_with_a_base_runs_the_program_of_its_base(hive):
    async def body(node):
        async with spawned(node, "AI.echo.fr1", "ai.echo.fr"):
            await until_lifecycle(node, "AI.echo.fr1", "RUNNING")
            config = (await ask(node, verbs.NODE_CONFIG_GET, {"node_name": "AI.echo.fr1"}))["config"]
            assert config["_system"]["runtime_base"] == "ai.echo"
            assert config["_system"]["package_path"].endswith("runtimes/ai.echo.fr/1.0.0")

    in_trio(hive, body)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (spawn_payload() | {"name": "x"}, "INVALID_REQUEST"),
        (spawn_payload() | {"version": "1"}, "INVALID_REQUEST"),
        ({"runtime": "ai.echo"}, "INVALID_REQUEST"),
        (spawn_payload("SY.mine"), "INVALID_REQUEST"),
        (spawn_payload("RT.gateway"), "INVALID_REQUEST"),
        (spawn_payload("AI.../x"), "INVALID_REQUEST"),
        (spawn_payload(runtime="../x"), "INVALID_REQUEST"),
        (spawn_payload(config={"_system": {}}), "INVALID_REQUEST"),
        (spawn_payload(config=[1]), "INVALID_REQUEST"),
        (spawn_payload(runtime_version=""), "INVALID_REQUEST"),
        (spawn_payload(runtime="ai.unknown"), "RUNTIME_NOT_AVAILABLE"),
        (spawn_payload(runtime_version="9.9.9"), "RUNTIME_NOT_AVAILABLE"),
        (spawn_payload(runtime="ai.gone"), "RUNTIME_NOT_PRESENT"),
        (spawn_payload(runtime="ai.orphan"), "BASE_RUNTIME_NOT_AVAILABLE"),
        ({"node_name": NAME, "runtime": "ai.echo"}, "IDENTITY_REGISTER_FAILED"),
        (spawn_payload() | {"tenant_id": "tnt:what"}, "IDENTITY_REGISTER_FAILED"),
        (spawn_payload("AI.echo.x@elsewhere"), "SPAWN_FAILED"),
    ],
)
def test_a_spawn_that_cannot_be_is_refused_with_its_code_and_leaves_nothing(hive, payload, code):
    async def body(node):
        answer = await ask(node, verbs.SPAWN_NODE, payload)
        assert (answer["status"], answer["error_code"]) == ("error", code), answer
        assert answer["message"]
        if code == "SPAWN_FAILED":
            assert "UNREACHABLE" in answer["message"]
        if code == "IDENTITY_REGISTER_FAILED" and "tenant_id" not in payload:
            assert "tenant_id is missing" in answer["message"]
        if code == "RUNTIME_NOT_PRESENT":
            assert answer["expected_path"].endswith("ai.gone/1.0.0/bin/start.sh")
            assert answer["node_name"] == FULL
        assert not (hive.paths.nodes / "AI" / FULL).exists()

    in_trio(hive, body)


def test_a_name_is_given_once_and_again_after_its_removal(hive):
    async def body(node):
        async with spawned(node, "WF.sleep.a", "wf.sleep") as first:
            again = await ask(node, verbs.SPAWN_NODE, spawn_payload("WF.sleep.a", "wf.sleep"))
            assert again["error_code"] == "NODE_ALREADY_EXISTS"
            running = await ask(node, verbs.REMOVE_NODE_INSTANCE, {"node_name": "WF.sleep.a"})
            assert running["error_code"] == "NODE_INSTANCE_RUNNING"
            await ask(node, verbs.KILL_NODE, {"node_name": "WF.sleep.a"})
            again = await ask(node, verbs.SPAWN_NODE, spawn_payload("WF.sleep.a", "wf.sleep"))
            assert again["error_code"] == "NODE_ALREADY_EXISTS"
            removed = await ask(node, verbs.REMOVE_NODE_INSTANCE, {"node_name": "WF.sleep.a"})
            assert (removed["status"], removed["removed_kind_dir"]) == ("ok", True)
            gone = await ask(node, verbs.REMOVE_NODE_INSTANCE, {"node_name": "WF.sleep.a"})
            assert (gone["status"], gone["error_code"]) == ("not_found", None)
            third = await ask(node, verbs.SPAWN_NODE, spawn_payload("WF.sleep.a", "wf.sleep"))
            ids = [one["identity"]["register"]["ilk_id"] for one in (first, third)]
            assert ids[0] == ids[1]

    in_trio(hive, body)


def test_of_two_spawns_at_once_exactly_one_wins(hive):
    async def body(node):
        answers = []

        async def one():
            answers.append(await ask(node, verbs.SPAWN_NODE, spawn_payload("WF.sleep.b", "wf.sleep")))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
        codes = sorted(str(answer.get("error_code")) for answer in answers)
        assert codes == ["NODE_ALREADY_EXISTS"] * 3 + ["None"]
        await ask(node, verbs.KILL_NODE, {"node_name": "WF.sleep.b", "force": True, "purge_instance": True})

    in_trio(hive, body)


def test_a_node_is_started_and_restarted(hive):
    async def body(node):
        async with spawned(node):
            first = await until_lifecycle(node, NAME, "RUNNING")
            answer = await ask(node, verbs.START_NODE, {"node_name": NAME})
            assert (answer["state"], answer["visible_in_router"]) == ("already_running", True)
            answer = await ask(node, verbs.RESTART_NODE, {"node_name": NAME})
            assert (answer["status"], answer["state"], answer["version"]) == ("ok", "restarted", "1.0.0")
            second = await until_lifecycle(node, NAME, "RUNNING")
            assert second["process"]["pid"] != first["process"]["pid"]
            assert second["process"]["restart_count"] == 0
            await ask(node, verbs.KILL_NODE, {"node_name": NAME})
            answer = await ask(node, verbs.START_NODE, {"node_name": NAME})
            assert answer["state"] == "started"
            await until_lifecycle(node, NAME, "RUNNING")
        missing = await ask(node, verbs.START_NODE, {"node_name": NAME})
        assert missing["error_code"] == "NODE_CONFIG_NOT_FOUND"

    in_trio(hive, body)


def test_a_kill_says_what_it_found(hive):
    async def body(node):
        absent = await ask(node, verbs.KILL_NODE, {"node_name": "AI.nobody", "force": True})
        assert (absent["status"], absent["state"], absent["signal"]) == ("not_found", "not_found", "SIGKILL")
        nameless = await ask(node, verbs.KILL_NODE, {})
        assert nameless["error_code"] == "INVALID_REQUEST"
        for name in ("SY.identity", "RT.gateway"):
            guarded = await ask(node, verbs.KILL_NODE, {"node_name": name})
            assert guarded["error_code"] == "INVALID_REQUEST"
        async with spawned(node, "WF.sleep.c", "wf.sleep", unit="my unit"):
            killed = await ask(node, verbs.KILL_NODE, {"unit": "my-unit", "force": True})
            assert (killed["status"], killed["node_name"]) == ("ok", "WF.sleep.c@motherbee")
            purged = await ask(node, verbs.KILL_NODE, {"node_name": "WF.sleep.c", "purge_instance": True})
            assert purged["status"] == "not_found"
            assert purged["instance_purged"] is True
            assert purged["timer_purge"]["owner_l2_name"] == "WF.sleep.c@motherbee"
            again = await ask(node, verbs.KILL_NODE, {"node_name": "WF.sleep.c", "purge_instance": True})
            assert (again["instance_purged"], again["purge_status"]) == (False, "not_found")

    in_trio(hive, body)


def test_configuration_is_read_patched_and_told_to_the_node(hive):
    async def body(node):
        async with spawned(node, config={"a": 1}), hive.connect("AI.listener") as listener:
            read = await ask(node, verbs.NODE_CONFIG_GET, {"node_name": NAME})
            assert (read["config_version"], read["config"]["a"]) == (1, 1)
            changed = await ask(node, verbs.NODE_CONFIG_SET, {"node_name": NAME, "config": {"b": 2}})
            assert (changed["config_version"], changed["notify_status"]) == (2, "sent")
            told = await listener.receive(timeout_s=5)
            assert told.meta.msg == verbs.CONFIG_CHANGED
            assert told.json() == {
                "subsystem": "node_config",
                "action": "set",
                "auto_apply": True,
                "version": 2,
                "config": {"node_name": FULL, "patch": {"b": 2}},
            }
            quiet = await ask(
                node,
                verbs.NODE_CONFIG_SET,
                {"node_name": NAME, "config": {"c": 3}, "replace": True, "notify": False},
            )
            assert (quiet["config_version"], quiet["notify_status"]) == (3, "skipped")
            config = (await ask(node, verbs.NODE_CONFIG_GET, {"node_name": NAME}))["config"]
            assert sorted(config) == ["_system", "c"]
            bad = await ask(node, verbs.NODE_CONFIG_SET, {"node_name": NAME, "config": {"_system": {}}})
            assert bad["error_code"] == "INVALID_REQUEST"
        missing = await ask(node, verbs.NODE_CONFIG_GET, {"node_name": NAME})
        assert missing["error_code"] == "NODE_CONFIG_NOT_FOUND"
        assert missing["path"].endswith("config.json")

    in_trio(hive, body)


def test_state_of_a_node_is_what_it_wrote(hive):
    async def body(node):
        nothing = await ask(node, verbs.NODE_STATE_GET, {"node_name": "AI.nobody"})
        assert (nothing["status"], nothing["state"]) == ("ok", None)
        assert nothing["path"].endswith("/AI/AI.nobody@motherbee/state.json")
        async with spawned(node, "WF.sleep.d", "wf.sleep"):
            path = hive.paths.nodes / "WF" / "WF.sleep.d@motherbee" / "state.json"
            path.write_text('{"last_error": "cold"}')
            found = await ask(node, verbs.NODE_STATE_GET, {"node_name": "WF.sleep.d"})
            assert found["state"] == {"last_error": "cold"}
            path.write_text("{")
            broken = await ask(node, verbs.NODE_STATE_GET, {"node_name": "WF.sleep.d"})
            assert broken["error_code"] == "NODE_STATE_READ_FAILED"

    in_trio(hive, body)


def test_what_a_node_prints_can_be_read(hive):
    async def body(node):
        async with spawned(node, "AI.crash.log", "ai.crash"):

            async def printed():
                answer = await act(node, "get_node_logs", {"node_name": "AI.crash.log", "tail": 5})
                return any("failing" in line for line in answer["lines"])

            await until(printed)

    in_trio(hive, body)


def test_a_node_that_crashes_on_is_parked_visible_and_can_be_killed_and_started(hive):
    async def body(node):
        async with spawned(node, "AI.crash.a", "ai.crash"):
            found = await until_lifecycle(node, "AI.crash.a", "FAILED")
            assert (found["process"]["phase"], found["process"]["failures"]) == ("parked", 3)
            assert found["process"]["restart_count"] == 2
            assert found["process"]["exit_code"] == 3
            assert found["last_error"]["code"] == "NODE_PARKED"
            started = await ask(node, verbs.START_NODE, {"node_name": "AI.crash.a"})
            assert started["state"] == "started"
            await until_lifecycle(node, "AI.crash.a", "FAILED")
            killed = await ask(node, verbs.KILL_NODE, {"node_name": "AI.crash.a"})
            assert killed["status"] == "ok"
            assert (await status(node, "AI.crash.a"))["lifecycle_state"] == "STOPPED"

    in_trio(hive, body)


def test_lists_hold_what_the_router_sees_and_what_is_stopped(hive):
    async def body(node):
        async with spawned(node), spawned(node, "WF.sleep.e", "wf.sleep"):
            await until_lifecycle(node, NAME, "RUNNING")
            await ask(node, verbs.KILL_NODE, {"node_name": "WF.sleep.e"})
            listed = await ask(node, verbs.LIST_NODES, {})
            nodes = {one["name"]: one for one in listed["nodes"]}
            assert listed["node_count"] == len(nodes)
            assert (nodes[FULL]["lifecycle_state"], nodes[FULL]["visible_in_router"]) == ("RUNNING", True)
            stopped = nodes["WF.sleep.e@motherbee"]
            assert (stopped["lifecycle_state"], stopped["visible_in_router"]) == ("STOPPED", False)
            assert nodes["RT.gateway@motherbee"]["kind"] == "RT"
            assert all(name.endswith("@motherbee") for name in nodes)
            remote = await act(node, "list_nodes", {"target": "elsewhere"})
            assert remote["error_code"] == "NODE_LIST_FAILED"

            of_hive = await ask(node, verbs.INVENTORY_REQUEST, {"scope": "hive", "hive": "motherbee"})
            names = {one["node_name"] for one in of_hive["nodes"]}
            assert FULL in names
            assert "WF.sleep.e@motherbee" not in names
            summary = await ask(node, verbs.INVENTORY_REQUEST, {"scope": "summary"})
            assert summary["nodes_by_type"]["AI"] >= 1
            everything = await ask(node, verbs.INVENTORY_REQUEST, {"type": "ai"})
            assert {one["kind"] for one in everything["nodes"]} == {"AI"}
            unknown = await ask(node, verbs.INVENTORY_REQUEST, {"scope": "hive", "hive": "elsewhere"})
            assert unknown["error_code"] == "NOT_FOUND"

    in_trio(hive, body)


def test_the_appliance_itself_has_a_status_and_the_hive_too(hive):
    async def body(node):
        for name in ("SY.orchestrator", "SY.identity", "RT.gateway"):
            assert (await status(node, name))["lifecycle_state"] == "RUNNING"
        assert not (hive.paths.nodes / "SY" / "SY.orchestrator@motherbee").exists()
        unknown = await ask(node, verbs.NODE_STATUS_GET, {"node_name": "AI.nobody"})
        assert unknown["error_code"] == "NODE_NOT_FOUND"
        own = await act(node, "hive_status", {})
        assert own["hive_id"] == "motherbee"
        assert own["pid"] == int(hive.paths.orchestrator_pid.read_text())

    in_trio(hive, body)


def test_the_older_update_verb_is_refused_with_a_pointer(hive):
    async def body(node):
        answer = await ask(node, verbs.RUNTIME_UPDATE, {})
        assert answer["error_code"] == "INVALID_REQUEST"
        assert "SYSTEM_UPDATE" in answer["message"]
        unknown = await act(node, "dance", {})
        assert unknown["error_code"] == "UNKNOWN_ACTION"
        crooked = system_message(
            src=node.uuid, dst="SY.orchestrator@motherbee", verb=verbs.KILL_NODE, payload=[1]
        )
        assert (await node.request(crooked)).json()["error_code"] == "INVALID_REQUEST"

    in_trio(hive, body)
