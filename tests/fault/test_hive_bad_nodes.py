"""Managed nodes that misbehave in a whole hive: they are seen, they are ended, and nobody else suffers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from appliance.testing.hive import HiveHarness
from tests.compat.operator_box import SETTINGS, TENANT, Box
from tests.fault.hive_load import Traffic
from tests.fault.hive_nodes_kit import Operator, clear, living, main_processes
from tests.orchestrator_kit import CRASH, ECHO, SLEEP, publish

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = 20.0
RING_BYTES = 1 << 20

STUBBORN = "#!/bin/sh\ntrap '' TERM\nwhile true; do sleep 3600; done\n"
AWAY = """#!/bin/sh
setsid sh -c 'setsid sleep 3600 & setsid sh -c "sleep 3600 & sleep 3600" &'
exec sleep 3600
"""
FLOOD = "#!/bin/sh\nexec yes 'a line of some length that says nothing at all'\n"
FORKS = 60
STORM = f"""#!/bin/sh
exec {sys.executable} -c '
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for number in range({FORKS}):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(3600)
    time.sleep(0.005)
time.sleep(3600)
'
"""
"""Forks so many times and no more: the machine has others to serve."""
HUNGRY = f"""#!/bin/sh
exec {sys.executable} -c '
held = []
while True:
    held.append(bytearray(8 << 20))
    assert len(held) < 64, "half a gigabyte, and nobody minds"
'
"""
SCRIPTS = {
    "ai.crash": CRASH,
    "ai.echo": ECHO,
    "wf.stubborn": STUBBORN,
    "wf.away": AWAY,
    "wf.flood": FLOOD,
    "wf.storm": STORM,
    "wf.sleep": SLEEP,
}


def until(what: str, holds: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)
    return found


def prepared(folder: Path, **orchestrator: Any) -> HiveHarness:
    numbers = {"restart_first_ms": 20, "kill_grace_s": 1, "park_after": 3, "default_tenant_id": TENANT}
    settings = {**SETTINGS, "orchestrator": numbers | orchestrator}
    hive = HiveHarness(folder, planes="apart", settings=settings)
    for runtime, script in SCRIPTS.items():
        publish(hive.paths, runtime, script)
    limits = {"package.json": json.dumps({"name": "wf.hungry", "limits": {"memory_bytes": 96 << 20}})}
    publish(hive.paths, "wf.hungry", HUNGRY, files=limits)
    return hive


@pytest.fixture(scope="module")
def hive(module_hive_folder: Path) -> Iterator[HiveHarness]:
    made = prepared(module_hive_folder)
    try:
        with made:
            yield made
    finally:
        clear(made)


@pytest.fixture
def box(hive: HiveHarness) -> Iterator[Box]:
    with Box.of(hive) as box:
        yield box


def parked(box: Box, name: str, times: int = 3) -> dict[str, Any] | None:
    status = box.status(name)
    rests = status["process"].get("phase") == "parked" and status["process"]["failures"] >= times
    return status if rests else None


# --- nodes that end, stay, go away, talk and eat -----------------------------------------------------------


def test_who_exits_at_once_is_parked_where_everybody_looks_and_may_be_tried_again(
    hive: HiveHarness, box: Box
) -> None:
    box.spawn("AI.crash")
    status = until("it is parked", lambda: parked(box, "AI.crash"))
    assert (status["lifecycle_state"], status["process"]["exit_code"]) == ("FAILED", 3)
    assert status["last_error"]["code"] == "NODE_PARKED"
    nodes = box.get("/hives/motherbee/nodes")["payload"]["nodes"]
    (listed,) = (one for one in nodes if one["name"] == "AI.crash@motherbee")
    assert listed["lifecycle_state"] == "FAILED"
    notice = "AI.crash@motherbee is parked: it ended 3 times in a row"
    assert notice in box.client.get("/health").json()["notices"]
    overview = box.get("/hive/overview")["payload"]
    assert notice in overview["notices"]
    assert overview["nodes"]["parked"] == 1
    command = [sys.executable, "-m", "appliance", "status", "--root", str(hive.paths.root)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (notice in told.stdout, told.returncode) == (True, 0), told
    before = box.status("AI.crash")["process"]["restart_count"]
    assert box.call("POST", box.node("AI.crash", "/start"), {})["payload"]["state"] == "started"
    until("it was tried again", lambda: box.status("AI.crash")["process"]["restart_count"] >= before + 2)
    until("it is parked again", lambda: parked(box, "AI.crash"))
    lines = box.get(box.node("AI.crash", "/logs"))["payload"]["lines"]
    assert sum("failing" in line for line in lines) == 6
    box.kill("AI.crash", purge_instance=True)
    assert "notices" not in box.client.get("/health").json()
    assert not (hive.paths.node_logs / "AI.crash@motherbee").exists()


@pytest.mark.parametrize("name", ["WF.stubborn", "WF.away"])
def test_who_does_not_want_to_end_ends_with_everybody_it_started(
    hive: HiveHarness, box: Box, name: str
) -> None:
    box.spawn(name, runtime=name.lower())
    wanted = 5 if name == "WF.away" else 2
    until("it has started all", lambda: len(living(hive).get(name, [])) >= wanted - 1)
    box.kill(name, force=False, purge_instance=True)
    assert name not in living(hive)


@pytest.mark.parametrize("after", [5, FORKS])
def test_a_storm_of_forks_is_over_when_the_node_is_killed(hive: HiveHarness, box: Box, after: int) -> None:
    box.spawn("WF.storm", runtime="wf.storm")
    until("it storms", lambda: len(living(hive).get("WF.storm", [])) >= after)
    box.kill("WF.storm", force=after == 5, purge_instance=True)
    assert "WF.storm" not in living(hive)


def test_operators_who_want_different_things_of_one_node_leave_one_or_none(
    hive: HiveHarness, box: Box
) -> None:
    operators = [Operator(hive, ["WF.shared"], seed=seed) for seed in range(5)]

    async def main() -> None:
        with trio.move_on_after(4):
            async with trio.open_nursery() as nursery:
                for operator in operators:
                    nursery.start_soon(operator.run)
                while True:
                    assert main_processes(hive).get("WF.shared", 0) <= 1
                    await trio.sleep(0.05)

    trio.run(main)
    answers = sum((operator.answers for operator in operators), start=Counter[str]())
    assert not [code for code in answers if "ORCHESTRATOR_ERROR" in code or "FAILED" in code], answers
    exists = box.config_path("WF.shared").exists()
    status = box.call("GET", box.node("WF.shared", "/status"), code=200 if exists else 404)
    pid = status["payload"]["node_status"]["process"]["pid"] if exists else None
    assert living(hive).get("WF.shared", []) == ([pid] if pid else [])
    box.kill("WF.shared", force=True, purge_instance=True)
    assert "WF.shared" not in living(hive)
    assert not box.config_path("WF.shared").parent.exists()


def test_a_flood_of_output_is_bounded_and_messages_go_on(hive: HiveHarness, box: Box) -> None:
    box.spawn("WF.flood", runtime="wf.flood")
    logs = hive.paths.node_logs / "WF.flood@motherbee"
    until("output is dropped", lambda: dropped(box) > RING_BYTES)
    refused = drops(box)
    traffic = Traffic(hive, pairs=2)

    async def talk() -> None:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(traffic.run)
                while traffic.seen < 2000:  # noqa: ASYNC110 - counted by its sinks
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()

    trio.run(talk)
    assert traffic.repeated == []
    assert drops(box) == refused
    assert sum(path.stat().st_size for path in logs.iterdir()) <= RING_BYTES
    box.kill("WF.flood", purge_instance=True)


def figures(box: Box, pattern: str) -> dict[str, float]:
    text = box.client.get("/metrics").text
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if re.match(pattern, line)}


def dropped(box: Box) -> float:
    return sum(figures(box, r"fluxbee_keeper_nodes_log_bytes_dropped").values())


def drops(box: Box) -> dict[str, float]:
    """What the router did not deliver to somebody who was there."""
    found = figures(box, r"(?i)fluxbee_router_.*congest")
    return {key: value for key, value in found.items() if value}


def test_who_eats_memory_meets_the_limit_of_its_package(hive: HiveHarness, box: Box) -> None:
    box.spawn("WF.hungry", runtime="wf.hungry")
    until("it is parked", lambda: parked(box, "WF.hungry"), 30.0)
    lines = box.get(box.node("WF.hungry", "/logs"))["payload"]["lines"]
    assert any("MemoryError" in line or "out of memory" in line for line in lines), lines
    assert not any("nobody minds" in line for line in lines)
    box.kill("WF.hungry", purge_instance=True)


@pytest.mark.parametrize("file", ["state.json", "config.json"])
def test_who_puts_a_pipe_in_the_place_of_its_files_holds_nobody(
    hive: HiveHarness, box: Box, file: str
) -> None:
    box.spawn("WF.pipes", runtime="wf.sleep")
    place = box.config_path("WF.pipes").with_name(file)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    assert box.status("WF.pipes")["process"]["pid"]
    assert box.get("/hives/motherbee/nodes")["status"] == "ok"
    box.get(box.node("WF.pipes", "/state"), code=500 if file == "state.json" else 200)
    box.get(box.node("WF.pipes", "/config"), code=500 if file == "config.json" else 200)
    box.kill("WF.pipes", force=True, purge_instance=True)
    assert "WF.pipes" not in living(hive)


def test_a_unit_ends_its_own_node_only(hive: HiveHarness, box: Box) -> None:
    box.spawn("WF.one", runtime="wf.sleep")
    box.spawn("WF.two", runtime="wf.sleep")
    unit = box.status("WF.two")["process"]["unit"]
    answer = box.kill("WF.one", code=400, unit=unit, purge_instance=True)
    assert answer["error_code"] == "INVALID_REQUEST"
    answer = box.kill("WF.one", code=500, unit="nobody", purge_instance=True)
    assert answer["error_code"] == "NODE_INSTANCE_PURGE_FAILED"
    assert main_processes(hive) == {"WF.one": 1, "WF.two": 1}
    for name in ("WF.one", "WF.two"):
        box.kill(name, force=True, purge_instance=True)


# --- who speaks for a name ---------------------------------------------------------------------------------


def test_a_stranger_loses_the_name_to_the_node_and_does_not_get_it_back(hive: HiveHarness, box: Box) -> None:
    def visible_pid() -> int | None:
        from_router = box.get("/hives/motherbee/nodes")["payload"]["nodes"]
        found = [one for one in from_router if one["name"] == "AI.echo@motherbee"]
        return box.status("AI.echo")["process"]["pid"] if found and found[0]["visible_in_router"] else None

    async def stranger(body: Callable[[Any], Any]) -> None:
        from tests.fault.hive_load import PlainNode

        node = PlainNode(hive, "AI.echo")
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.run)
                await body(node)
                nursery.cancel_scope.cancel()
        node.drop()

    async def before(node: Any) -> None:
        while not node.connected:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await trio.to_thread.run_sync(lambda: box.spawn("AI.echo", runtime="ai.echo"))
        while node.losses == 0:  # noqa: ASYNC110 - the claim is told before the process starts
            await trio.sleep(0.01)

    async def after(node: Any) -> None:
        old = hive.plane_pid("data")
        await trio.to_thread.run_sync(hive.kill_plane, "data")
        while hive.plane_pid("data") in (None, old):  # noqa: ASYNC110
            await trio.sleep(0.02)
        await trio.to_thread.run_sync(lambda: until("it is back", back))
        assert node.announces == 0

    trio.run(stranger, before)
    pid = until("the node speaks", visible_pid)

    def back() -> bool:
        try:
            return visible_pid() == pid
        except (httpx.TransportError, AssertionError, KeyError):
            return False

    trio.run(stranger, after)
    assert main_processes(hive)["AI.echo"] == 1
    box.kill("AI.echo", purge_instance=True)
