"""Managed nodes of a whole hive that is being broken: none lost, none doubled, none left behind."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from appliance.testing.hive import PROGRAM_ENV, HiveHarness
from tests.compat.operator_box import SETTINGS, TENANT, Box
from tests.fault.hive_nodes_kit import Operator, clear, living, main_processes
from tests.fault.test_hive_disk import mounted
from tests.orchestrator_kit import CRASH, SLEEP, publish

pytestmark = [pytest.mark.process, pytest.mark.slow]

CUTS = int(os.environ.get("FLUXBEE_NODE_CUTS", "14"))
SEED = int(os.environ.get("FLUXBEE_CRASH_SEED", "1"))
PATIENCE_S = 20.0


def until(what: str, holds: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)
    return found


@pytest.fixture
def make(hive_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HiveHarness]]:
    """Makes the hive, with a keeper that starts a fallen plane at once."""
    monkeypatch.setenv(PROGRAM_ENV, f"{sys.executable} -m tests.fault.hive_program")
    made: list[HiveHarness] = []

    def prepared(planes: Any = "apart", **orchestrator: Any) -> HiveHarness:
        numbers = {"restart_first_ms": 50, "kill_grace_s": 1, "default_tenant_id": TENANT, **orchestrator}
        # Without the reserve, which others may have filled as well: full means full.
        settings = {**SETTINGS, "orchestrator": numbers, "journals": {"reserve_bytes": 0}}
        hive = HiveHarness(hive_folder, planes=planes, settings=settings)
        publish(hive.paths, "wf.sleep", SLEEP)
        made.append(hive)
        return hive

    yield prepared
    for hive in made:
        hive.kill()
        clear(hive)


# --- operators against killed planes -----------------------------------------------------------------------


@pytest.mark.parametrize(("planes", "cuts"), [("apart", CUTS), ("together", CUTS // 3)])
def test_what_was_answered_is_so_whatever_plane_was_killed(
    make: Callable[..., HiveHarness], planes: str, cuts: int
) -> None:
    hive = make(planes)
    chance = random.Random(SEED)
    operators = [
        Operator(hive, [f"WF.o{one}.n{n}" for n in range(3)], seed=SEED * 10 + one) for one in range(3)
    ]

    async def kills() -> None:
        for _ in range(cuts):
            await trio.sleep(chance.uniform(0.2, 1.2))
            what = chance.choices(("control", "data", "world", "keeper"), (0.5, 0.25, 0.1, 0.15))[0]
            if what == "keeper":
                hive.kill()
                await trio.to_thread.run_sync(hive.start)
            else:
                with suppress(RuntimeError, ProcessLookupError):  # it is just between two lives
                    hive.kill_plane(what)
            doubled = {name: n for name, n in main_processes(hive).items() if n > 1}
            assert not doubled

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for operator in operators:
                nursery.start_soon(operator.run)
            await kills()
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()

    with hive, Box.of(hive) as box:
        trio.run(main)
        hive.kill_plane("control")  # the next one brings back who was killed and not removed
        wanted = {name for operator in operators for name in operator.wanted()}
        until(
            f"each of {sorted(wanted)} lives once",
            lambda: main_processes(hive) == dict.fromkeys(wanted, 1),
        )
        until("it answers", lambda: knows(box))
        for operator in operators:
            operator.check()
        seen = {
            one["name"].partition("@")[0]: one
            for one in box.get("/hives/motherbee/nodes")["payload"]["nodes"]
        }
        assert {name for name in seen if name.startswith("WF.")} == wanted
        for name in sorted(wanted):
            status = until(f"{name} is seen", lambda name=name: started(box, name))
            assert living(hive)[name] == [status["process"]["pid"]]
            box.kill(name, force=True, purge_instance=True)
        assert main_processes(hive) == {}
        assert not list((hive.paths.lib / "nodes").rglob("*"))
    print(sum((operator.answers for operator in operators), start=type(operators[0].answers)()))
    assert [operator.wrong for operator in operators] == [[], [], []]
    assert sum(n for operator in operators for what, n in operator.answers.items() if "ok" in what) > 2 * cuts


def knows(box: Box) -> bool:
    try:
        return box.call("GET", "/hives/motherbee/nodes", code=None)["status"] == "ok"
    except Exception:  # noqa: BLE001 - it is on its way back
        return False


def started(box: Box, name: str) -> dict[str, Any] | None:
    try:
        status = box.status(name)
    except Exception:  # noqa: BLE001 - it is on its way back
        return None
    return status if status["process"]["pid"] else None


def test_a_killed_keeper_takes_ten_nodes_along_and_they_come_back(make: Callable[..., HiveHarness]) -> None:
    hive = make()
    names = [f"WF.n{number}" for number in range(10)]
    with hive:
        with Box.of(hive) as box:
            for name in names:
                box.spawn(name, runtime="wf.sleep")
            until("ten live", lambda: main_processes(hive) == dict.fromkeys(names, 1))
        hive.kill()
        until("nobody lives", lambda: living(hive) == {})
        hive.start()
        until("ten live again", lambda: main_processes(hive) == dict.fromkeys(names, 1))
        with Box.of(hive) as box:
            listed = box.get("/hives/motherbee/nodes")["payload"]["nodes"]
            assert {one["name"].partition("@")[0] for one in listed if one["managed"]} == set(names)
    assert living(hive) == {}


# --- SIGKILL to everything while packages are published ----------------------------------------------------


def test_a_killed_hive_has_a_package_wholly_or_not_at_all(make: Callable[..., HiveHarness]) -> None:
    hive = make()
    chance = random.Random(SEED)
    root = hive.paths.dist / "runtimes"
    files = {f"data/{number}.txt": str(number) * 20_000 for number in range(12)}
    acknowledged: set[str] = set()
    for turn in range(6):
        with hive_up(hive), Box.of(hive) as box:
            assert not left_over(root), "what a killed publication left is there after the next start"
            listed = manifest_versions(root)
            assert acknowledged <= listed
            for version in listed:
                folder = root / "ai.big" / version
                assert os.access(folder / "bin" / "start.sh", os.X_OK)
                assert {path.name: path.read_text() for path in (folder / "data").iterdir()} == {
                    name.removeprefix("data/"): text for name, text in files.items()
                }
            answer = box.call(
                "POST", "/hives/motherbee/update", {"manifest_hash": box.manifest_hash()}, code=None
            )
            assert answer["payload"]["status"] == "ok", answer
            killed = threading.Event()
            with ThreadPoolExecutor(2) as pool:
                done = [
                    pool.submit(publish_versions, box, turn, files, acknowledged, killed),
                    pool.submit(update_on, box),
                ]
                time.sleep(chance.uniform(0.05, 0.6))
                killed.set()
                hive.kill()
                for each in done:
                    each.result(PATIENCE_S)
    assert acknowledged


@contextmanager
def hive_up(hive: HiveHarness) -> Iterator[None]:
    hive.start()
    try:
        yield
    finally:
        hive.kill()


def publish_versions(
    box: Box, turn: int, files: dict[str, str], acknowledged: set[str], killed: threading.Event
) -> None:
    """One version after the other until nobody answers any more."""
    for number in range(1000):
        version = f"{turn}.{number}.0"
        package = {"name": "ai.big", "version": version, "type": "full_runtime"}
        source = {"package.json": json.dumps(package), "bin/start.sh": SLEEP, **files}
        try:
            body = {"source": {"kind": "inline_package", "files": source}}
            answer = box.call("POST", "/admin/runtime-packages/publish", body, code=None)
        except (httpx.TransportError, ValueError):
            return
        if answer["status"] != "ok":  # planes die one after the other
            assert killed.is_set(), answer
            return
        acknowledged.add(version)


def update_on(box: Box) -> None:
    while True:
        try:
            box.call("POST", "/hives/motherbee/update", {"manifest_hash": box.manifest_hash()}, code=None)
        except (httpx.TransportError, ValueError):
            return


def manifest_versions(root: Path) -> set[str]:
    entry = json.loads((root / "manifest.json").read_text())["runtimes"].get("ai.big", {"available": []})
    return set(entry["available"])


def left_over(root: Path) -> list[Path]:
    return [*root.rglob(".publish-*"), *root.rglob(".removing-*")]


# --- full disk, wrong clock --------------------------------------------------------------------------------


@contextmanager
def filled(place: Path) -> Iterator[None]:
    """Take every block of a file system, also those that are freed meanwhile."""
    ended = threading.Event()

    def fill() -> None:
        with place.open("ab", buffering=0) as file:
            while not ended.is_set():
                with suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                full.set()
                ended.wait(0.002)

    full = threading.Event()
    filler = threading.Thread(target=fill)
    filler.start()
    try:
        assert full.wait(PATIENCE_S)
        yield
    finally:
        ended.set()
        filler.join()
        place.unlink()


@pytest.mark.privileged
def test_a_full_disk_refuses_changes_and_leaves_nothing_half(
    make: Callable[..., HiveHarness],
) -> None:
    hive = make()
    with mounted(hive.paths.lib, "-t", "tmpfs", "-o", "size=24m", "none"):
        publish(hive.paths, "wf.sleep", SLEEP)
        with hive, Box.of(hive) as box:
            box.spawn("WF.old", runtime="wf.sleep", config={"value": 1})
            pid = box.status("WF.old")["process"]["pid"]
            before = box.config_path("WF.old").read_bytes()
            with filled(hive.paths.lib / "filler"):
                answer = box.call("PUT", box.node("WF.old", "/config"), {"value": 2}, code=500)
                assert answer["error_code"] == "CONFIG_WRITE_FAILED"
                answer = box.spawn("WF.new", code=500, runtime="wf.sleep")
                assert answer["error_code"] in ("CONFIG_WRITE_FAILED", "IDENTITY_REGISTER_FAILED"), answer
                assert "space" in str(answer["error_detail"]) + str(answer["payload"])
                files = {
                    "package.json": json.dumps({"name": "ai.x", "version": "1.0.0"}),
                    "bin/start.sh": SLEEP,
                }
                source = {"source": {"kind": "inline_package", "files": files}}
                answer = box.call("POST", "/admin/runtime-packages/publish", source, code=None)
                assert (answer["status"], answer["payload"].get("cause")) == ("error", "STORAGE_FULL"), answer
                assert box.config_path("WF.old").read_bytes() == before
                kept = [path for path in (hive.paths.lib / "nodes").rglob("*") if path.is_file()]
                assert {path.name for path in kept} <= {
                    "config.json",
                    "status_version",
                    "status_fingerprint.sha256",
                }
                assert not left_over(hive.paths.dist / "runtimes")
                health = box.client.get("/health")
                assert health.status_code == 503
                assert f"the disk of {hive.paths.lib} is full" in str(health.json()["reasons"])
                assert "is full" in str(box.get("/hive/overview")["payload"]["reasons"])
                # What needs no room goes on: looking, stopping, starting, deleting.
                assert box.status("WF.old")["process"]["pid"] == pid
                box.kill("WF.old", force=True)
                assert box.call("POST", box.node("WF.old", "/start"), {})["payload"]["state"] == "started"
                hive.kill_plane("control")
                until("it lives", lambda: main_processes(hive) == {"WF.old": 1})
                until("it answers", lambda: knows(box))

            def again() -> bool:
                return box.spawn("WF.new", code=None, runtime="wf.sleep")["status"] == "ok"

            until("space is used again", again, 40.0)
            assert (
                box.call("PUT", box.node("WF.old", "/config"), {"value": 3})["payload"]["config_version"] == 2
            )
            until("it is well", lambda: box.client.get("/health").status_code == 200, 40.0)


@pytest.mark.parametrize("jump_s", [-86_400 * 400, 86_400 * 400])
def test_a_clock_that_jumps_neither_hurries_nor_hides_a_restart(
    make: Callable[..., HiveHarness], monkeypatch: pytest.MonkeyPatch, hive_folder: Path, jump_s: int
) -> None:
    clock = hive_folder / "clock"
    clock.write_text("0")
    monkeypatch.setenv("FLUXBEE_TEST_CLOCK", str(clock))
    hive = make(restart_first_ms=400, park_after=4)
    publish(hive.paths, "wf.crash", CRASH)

    with hive, Box.of(hive) as box:
        box.spawn("WF.crash", runtime="wf.crash")
        until("it waits", lambda: box.status("WF.crash")["process"]["phase"] == "waiting")
        clock.write_text(str(jump_s))
        assert (box.status("WF.crash")["process"]["retry_in_s"] or 0.0) < 1.6
        until("it is parked", lambda: box.status("WF.crash")["process"]["phase"] == "parked")
        process = box.status("WF.crash")["process"]
        assert (process["failures"], process["restart_count"]) == (4, 3)
        box.spawn("WF.old", runtime="wf.sleep")
        clock.write_text("0")  # and back, while it lives
        pid = box.status("WF.old")["process"]["pid"]
        os.kill(pid, 9)
        until("it lives again", lambda: main_processes(hive).get("WF.old") == 1)
        until("it is another", lambda: box.status("WF.old")["process"]["pid"] not in (None, pid))
