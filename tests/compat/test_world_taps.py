"""Named taps of a real hive: a real program that speaks Singer (``spec/flux-state.md`` CN-23 to 26, §5.6)."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from appliance.system.procfs import process_entry
from appliance.testing.hive import HiveHarness
from tests.compat.world_kit import ADMIN, http, world_hive

pytestmark = pytest.mark.process

PROGRAM = Path(__file__).parent.parent / "tap_demo.py"
FORMS = ["/api/connectors", "/api/connector-manager/connectors", "/connector-manager/api/connectors"]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("taps") / "tap-demo"
    place.write_text(f"#!{sys.executable}\n{PROGRAM.read_text()}")
    place.chmod(0o755)
    return place


def taps(program: Path) -> list[str]:
    unsafe = program.with_name("tap-unsafe")
    unsafe.write_bytes(program.read_bytes())
    unsafe.chmod(0o777)
    return [f"tap-demo={program}", f"tap-gone={program}.gone", f"tap-unsafe={unsafe}"]


@pytest.fixture(scope="module")
def hive(program: Path) -> Iterator[HiveHarness]:
    with world_hive(taps=taps(program)) as hive:
        yield hive


@pytest.fixture
def client(hive: HiveHarness) -> Iterator[httpx.Client]:
    with http(hive) as client:
        yield client


def source(name: str, mode: str = "records", **changes: object) -> dict[str, object]:
    config = {"mode": mode, "name": name, "password": "hunter2-secret", **changes.pop("config", {})}
    return {
        "tap_name": "tap-demo",
        "namespace": name,
        "entity_key_field": "id",
        "config_json": json.dumps(config),
        "poll_interval_secs": 3600,
        "flux_namespace_token": None,
        **changes,
    }


def add(client: httpx.Client, body: dict[str, object]) -> str:
    made = client.post("/api/connectors/named", json=body)
    assert made.status_code == 201, made.text
    return made.json()["source_id"]


def row(client: httpx.Client, source_id: str) -> dict[str, object]:
    return next(one for one in client.get(FORMS[1]).json() if one.get("source_id") == source_id)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def properties(client: httpx.Client, entity: str) -> dict[str, object] | None:
    answer = client.get(f"/api/state/entities/{entity}")
    return answer.json()["properties"] if answer.status_code == 200 else None


def ran(client: httpx.Client, source_id: str) -> bool:
    return "last_success" in row(client, source_id)


def alive(pid: int) -> bool:
    entry = process_entry(pid)
    return entry is not None and entry.alive


def test_the_list_has_what_the_setting_lists(client):
    for mount in FORMS:
        listed = client.get(f"{mount}/taps").json()
        assert [one["name"] for one in listed] == ["tap-demo", "tap-gone", "tap-unsafe"]
        assert listed[0] == {"name": "tap-demo", "label": "Demo", "description": "", "pip_url": ""}


def test_records_appear_and_the_state_advances(client, hive):
    """CN-23, CN-25, CN-50, CN-51, CN-54."""
    source_id = add(client, source("orders"))
    until(lambda: ran(client, source_id))
    assert properties(client, "orders/3") == {"id": 3, "from": 1}
    event = client.get("/api/events", params={"entity": "orders/3"}).json()[0]
    assert (event["stream"], event["source"]) == ("taps.tap.demo.order.lines", "tap.tap-demo")
    assert event["key"] == "orders/3"
    state = hive.paths.world_tap_states / f"{source_id}.json"
    assert json.loads(state.read_text()) == {"at": 3}
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    found = row(client, source_id)
    assert (found["name"], found["type"], found["status"]) == ("tap-demo", "named", "running")
    asked = client.post(f"/api/connectors/named/{source_id}/sync")
    assert (asked.status_code, asked.content) == (202, b"")
    until(lambda: properties(client, "orders/6") == {"id": 6, "from": 4})
    until(lambda: json.loads(state.read_text()) == {"at": 6})
    until(lambda: not any(hive.paths.world_tap_runs.iterdir()))
    stored = b"".join(path.read_bytes() for path in hive.paths.lib.rglob("*") if path.is_file())
    assert b"hunter2-secret" not in stored
    for _ in range(2):
        assert client.delete(f"/api/connectors/named/{source_id}").status_code == 204
    assert not state.exists()


@pytest.mark.parametrize("config", [{"mode": "plain"}, {"newer": True}])
def test_taps_that_know_fewer_options(client, config):
    source_id = add(client, source("options", config=config))
    until(lambda: ran(client, source_id))
    assert properties(client, "options/1") is not None
    client.delete(f"/api/connectors/named/{source_id}")


def test_what_a_tap_gets_to_see(client):
    source_id = add(client, source("look", "look"))
    until(lambda: ran(client, source_id))
    seen = properties(client, "look/look")
    assert (seen["cwd_mode"], seen["config_mode"]) == ("0o700", "0o600")
    assert set(seen["environment"]) <= {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONUNBUFFERED", "LC_CTYPE"}
    assert seen["session"]
    assert seen["group"]
    assert seen["input"] == "/dev/null"
    assert seen["descriptors"] == [0, 1, 2]
    client.delete(f"/api/connectors/named/{source_id}")


def test_a_crash_is_shown_without_secrets_and_waited_for(client, hive):
    """CN-52: a tap that fails has failed."""
    source_id = add(client, source("crash", "crash", poll_interval_secs=600))
    until(lambda: row(client, source_id)["status"] == "error")
    found = row(client, source_id)
    assert found["last_error"] == r"tap-demo exited with code 3: cannot log in with ***\x1b[31m"
    assert found["last_started"]
    assert "hunter2-secret" not in hive.log.read_text()
    before = found["last_started"]
    time.sleep(0.3)
    assert row(client, source_id)["last_started"] == before, "it waits before it tries again"
    client.post(f"/api/connectors/named/{source_id}/sync")
    until(lambda: row(client, source_id)["last_started"] != before)
    client.delete(f"/api/connectors/named/{source_id}")


def test_floods_and_long_lines_are_bounded(client, hive):
    source_id = add(client, source("flood", "flood"))
    until(lambda: row(client, source_id)["status"] == "error")
    assert "a message is longer than" in row(client, source_id)["last_error"]
    assert properties(client, "flood/before") is not None
    assert properties(client, "flood/after") is not None
    assert not (hive.paths.world_tap_states / f"{source_id}.json").exists(), "something was lost before it"
    client.delete(f"/api/connectors/named/{source_id}")


def test_memory_is_limited(client):
    source_id = add(client, source("memory", "memory"))
    until(lambda: row(client, source_id)["status"] == "error")
    assert "MemoryError" in row(client, source_id)["last_error"]
    client.delete(f"/api/connectors/named/{source_id}")


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"tap_name": "tap-other"}, 403, "world.taps"),
        ({"tap_name": "/bin/sh"}, 403, "world.taps"),
        ({"tap_name": "../tap-demo"}, 403, "world.taps"),
        ({"config_json": "[]"}, 400, "config_json"),
        ({"config_json": "{"}, 400, "config_json"),
        ({"config_json": json.dumps({"x": "y" * 70_000})}, 400, "config_json"),
        ({"namespace": "a/b"}, 400, "namespace"),
        ({"namespace": ""}, 400, "namespace"),
        ({"poll_interval_secs": 0}, 400, "poll_interval_secs"),
        ({"flux_namespace_token": "a b"}, 400, "flux_namespace_token"),
        ({"config_json": {}}, 422, "config_json"),
    ],
)
def test_what_is_not_added(client, changes, status, words):
    """DF-18: nothing that a request names is executed unless it is listed."""
    answer = client.post("/api/connectors/named", json=source("no", **changes))
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert not [one for one in client.get(FORMS[1]).json() if one["type"] == "named"]


@pytest.mark.parametrize(("name", "words"), [("tap-gone", "No such file"), ("tap-unsafe", "by anybody")])
def test_programs_that_are_not_run(client, name, words):
    source_id = add(client, source("bad", tap_name=name))
    until(lambda: row(client, source_id)["status"] == "error")
    assert words in row(client, source_id)["last_error"]
    client.delete(f"/api/connectors/named/{source_id}")


def test_an_unknown_source(client):
    assert client.delete("/api/connectors/named/nobody").status_code == 204
    answer = client.post("/api/connectors/named/nobody/sync")
    assert (answer.status_code, answer.json()) == (404, {"error": "Named source nobody not found"})


def hanging(client: httpx.Client, name: str) -> tuple[str, list[int]]:
    """A source whose tap hangs, and the pids of the tap and of what it started."""
    source_id = add(client, source(name, "hang"))
    until(lambda: properties(client, f"{name}/{name}"))
    return source_id, properties(client, f"{name}/{name}")["pids"]


def test_a_removed_source_takes_its_processes_along(client):
    source_id, pids = hanging(client, "removed")
    assert all(map(alive, pids))
    client.post(f"/api/connectors/named/{source_id}/sync")  # does not overlap
    client.delete(f"/api/connectors/named/{source_id}")
    until(lambda: not any(map(alive, pids)))


def test_a_tap_that_hangs_is_killed_and_keeps_its_state(program):
    with world_hive(taps=taps(program), connectors={"tap_timeout_s": 2}) as hive, http(hive) as client:
        source_id, pids = hanging(client, "late")
        until(lambda: row(client, source_id)["status"] == "error")
        assert row(client, source_id)["last_error"] == "tap-demo was killed after 2 s"
        assert not any(map(alive, pids))
        state = hive.paths.world_tap_states / f"{source_id}.json"
        assert json.loads(state.read_text()) == {"at": 1}
        assert list(hive.paths.world_tap_runs.iterdir()) == []


def test_a_killed_world_leaves_no_tap_behind(program):
    with world_hive(taps=taps(program)) as hive, http(hive) as client:
        _, pids = hanging(client, "orphan")
        guard = process_entry(pids[0]).parent
        plane = process_entry(guard).parent
        os.kill(plane, signal.SIGKILL)
        until(lambda: not any(map(alive, [*pids, guard])))


def test_a_killed_guard_takes_its_tap_along(program):
    with world_hive(taps=taps(program)) as hive, http(hive) as client:
        source_id, pids = hanging(client, "unguarded")
        os.kill(process_entry(pids[0]).parent, signal.SIGKILL)
        until(lambda: not alive(pids[0]))
        until(lambda: row(client, source_id)["status"] == "error")


def test_a_stop_ends_taps_and_a_restart_goes_on(program):
    with world_hive(taps=taps(program)) as hive:
        with http(hive) as client:
            kept = add(client, source("kept"))
            until(lambda: ran(client, kept))
            _, pids = hanging(client, "stopped")
        hive.stop()
        assert not any(map(alive, pids))
        hive.start()
        with http(hive) as client:
            until(lambda: properties(client, "kept/6") == {"id": 6, "from": 4})


def test_without_the_setting_nothing_runs():
    with world_hive() as hive, http(hive) as client:
        assert client.get("/api/connectors/taps").json() == []
        answer = client.post("/api/connectors/named", json=source("none"))
        assert answer.status_code == 403
        assert "world.taps" in answer.json()["error"]


def test_with_auth_on_taps_are_the_administrators(program):
    """CN-31."""
    with (
        world_hive(taps=taps(program), auth_enabled=True) as hive,
        http(hive) as nobody,
        http(hive, ADMIN) as admin,
    ):
        assert nobody.post("/api/connectors/named", json=source("auth")).status_code == 401
        assert nobody.post("/api/connectors/named/x/sync").status_code == 401
        token = admin.post("/api/namespaces", json={"name": "auth"}).json()["token"]
        source_id = add(admin, source("auth", flux_namespace_token=token))
        until(lambda: ran(admin, source_id))
        other = add(admin, source("other", flux_namespace_token=token))
        until(lambda: row(admin, other)["status"] == "error")
        assert "could not be used" in row(admin, other)["last_error"]
        assert token not in hive.log.read_text()
