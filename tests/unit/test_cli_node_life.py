"""`fluxbee node list|spawn|start|restart|kill|rm|status`: what is asked for, what is printed, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from appliance.cli import main, node_life
from appliance.cli.output import ExitCode
from tests.unit.cli_stub import Api, envelope, failure, serving

PATH = "/hives/h1/nodes/AI.x@h1"
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("FLUXBEE_BASE", "BASE", "FLUXBEE_HTTP_TOKEN", "TENANT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    monkeypatch.setattr(node_life, "POLL_S", 0.0)


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def run(api: Api) -> Run:
    return lambda *words: main(["node", *words, "--base", api.base])


def status(lifecycle: str, health: str = "HEALTHY", **more: object) -> tuple[int, dict]:
    return envelope({"node_status": {"lifecycle_state": lifecycle, "health_state": health, **more}})


NODES = [
    {
        "name": "AI.x@h1",
        "kind": "AI",
        "uuid": "u",
        "vpn_id": 3,
        "connected_at": 1_790_000_000_000,
        "lifecycle_state": "RUNNING",
        "health_state": "HEALTHY",
        "runtime": {"name": "ai.x", "version": "1.0.0"},
    },
    {"name": "WF.y@h1", "kind": "WF", "uuid": None, "lifecycle_state": "STOPPED"},
    {"name": "IO.by\x1bhand@h1", "kind": "IO", "uuid": "v", "status": "active"},
    {"name": "SY.admin@h1", "kind": "SY", "uuid": "w"},
]


def test_list(api, run, capsys):
    api.on("GET /hives/h1/nodes", envelope({"nodes": NODES}))
    assert run("list") == ExitCode.OK
    told = capsys.readouterr()
    rows = [line.split() for line in told.out.splitlines()]
    assert [row[:2] for row in rows[1:]] == [
        ["AI.x@h1", "RUNNING"],
        ["IO.by\\x1bhand@h1", "connected"],
        ["WF.y@h1", "STOPPED"],
    ]
    assert rows[1][2:6] == ["HEALTHY", "ai.x", "1.0.0", "3"]
    assert told.err == "1 nodes of the appliance itself are not shown (--all)\n"
    run("list", "--all")
    assert "SY.admin@h1" in capsys.readouterr().out
    run("list", "--kind", "WF")
    told = capsys.readouterr()
    assert "AI.x" not in told.out
    assert told.err == ""


def test_spawn_sends_what_was_given_and_nothing_else(api, run, capsys, monkeypatch):
    api.on("POST /hives/h1/nodes", envelope({"node_name": "AI.x@h1", "runtime": "ai.x", "version": "1.0.0"}))
    assert run("spawn", "AI.x") == ExitCode.OK
    assert api.body("POST /hives/h1/nodes") == {"node_name": "AI.x"}
    assert capsys.readouterr().out == "AI.x@h1 is started: ai.x 1.0.0\n"
    monkeypatch.setenv("TENANT_ID", "tnt:1")
    run("spawn", "AI.x", "--runtime", "ai.y", "--version", "2.0.0", "--config", '{"a": 1}', "--set", "b=2")
    assert api.body("POST /hives/h1/nodes") == {
        "node_name": "AI.x",
        "runtime": "ai.y",
        "runtime_version": "2.0.0",
        "tenant_id": "tnt:1",
        "config": {"a": 1, "b": 2},
    }
    api.on("POST /hives/h2/nodes", envelope({"node_name": "AI.x@h2", "state": "already_running"}))
    run("spawn", "AI.x@h2", "--tenant", "tnt:2")
    assert api.body("POST /hives/h2/nodes")["tenant_id"] == "tnt:2"
    assert "was running already" in capsys.readouterr().out


def test_spawn_waits_until_it_runs(api, run, capsys):
    api.on("POST /hives/h1/nodes", envelope({"node_name": "AI.x@h1", "runtime": "r", "version": "1"}))
    starting = status("STARTING", process={"restart_count": 1})
    api.on(f"GET {PATH}/status", starting, starting, status("RUNNING"))
    assert run("spawn", "AI.x", "--wait") == ExitCode.OK
    assert capsys.readouterr().out == "AI.x@h1 runs: r 1\n"


@pytest.mark.parametrize(
    ("lifecycle", "log", "code", "said"),
    [
        ("FAILED", envelope({"lines": ["no glasses"]}), ExitCode.UNREACHABLE, "no glasses"),
        ("FAILED", failure("NOT_FOUND", http=404), ExitCode.UNREACHABLE, "has failed"),
        ("STARTING", envelope({"lines": []}), ExitCode.BUSY, "is STARTING after 0 s"),
    ],
)
def test_spawn_tells_why_it_does_not_run(api, run, capsys, lifecycle, log, code, said):
    api.on("POST /hives/h1/nodes", envelope({"node_name": "AI.x@h1"}))
    api.on(f"GET {PATH}/status", status(lifecycle))
    api.on(f"GET {PATH}/logs?tail=10", log)
    assert run("spawn", "AI.x", "--wait", "--timeout", "0") == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("act", ["start", "restart"])
def test_start_and_restart(api, run, capsys, act):
    api.on(f"POST {PATH}/{act}", envelope({"node_name": "AI.x@h1", "state": "already_running"}))
    api.on(f"GET {PATH}/status", status("RUNNING"))
    assert run(act, "AI.x", "--wait") == ExitCode.OK
    assert capsys.readouterr().out == "AI.x@h1 already running\n"


def test_kill(api, run, capsys):
    api.on(f"DELETE {PATH}", envelope({"node_name": "AI.x@h1", "status": "ok", "signal": "SIGTERM"}))
    assert run("kill", "AI.x") == ExitCode.OK
    assert api.body(f"DELETE {PATH}") == {"force": False, "purge_instance": False}
    assert capsys.readouterr().out == "AI.x@h1 ended (SIGTERM)\n"
    api.on(f"DELETE {PATH}", envelope({"status": "not_found", "instance_purged": True}))
    assert run("kill", "AI.x", "--force", "--purge") == ExitCode.OK
    assert api.body(f"DELETE {PATH}") == {"force": True, "purge_instance": True}
    assert capsys.readouterr().out == "AI.x did not run and is forgotten\n"
    api.on(f"DELETE {PATH}", envelope({"status": "not_found"}))
    assert run("kill", "AI.x") == ExitCode.NOT_FOUND


def test_remove(api, run, capsys):
    api.on(f"DELETE {PATH}/instance", envelope({"node_name": "AI.x@h1", "status": "ok"}))
    assert run("rm", "AI.x") == ExitCode.OK
    assert capsys.readouterr().out == "AI.x@h1 is forgotten\n"
    assert not [line for line, _ in api.asked if line == f"DELETE {PATH}"]
    api.on(f"DELETE {PATH}", envelope({"status": "ok"}))
    api.on(f"DELETE {PATH}/instance", envelope({"status": "not_found"}))
    assert run("rm", "AI.x", "--force") == ExitCode.NOT_FOUND
    api.on(f"DELETE {PATH}/instance", failure("NODE_INSTANCE_RUNNING", http=409))
    assert run("rm", "AI.x") == ExitCode.CONFLICT
    assert "--force" in capsys.readouterr().err


def test_status(api, run, capsys):
    whole = {
        "node_name": "AI.x@h1",
        "health_source": "NODE_REPORTED",
        "runtime": {"name": "ai.x", "resolved_version": "1.0.0"},
        "process": {"pid": None, "restart_count": 2, "exit_code": 3},
        "config": {"exists": True, "valid": False, "config_version": 4, "path": "/p"},
        "identity": {"ilk_id": "ilk:1"},
        "last_error": {"code": "NO_KEY", "message": "there is no key"},
        "extensions": {"answered": 7},
    }
    api.on(f"GET {PATH}/status", status("FAILED", "DEGRADED", **whole))
    assert run("status", "AI.x") == ExitCode.FAILED
    told = capsys.readouterr().out
    for words in (
        "DEGRADED (node reported)",
        "NO_KEY: there is no key",
        "exit code   3",
        "NOT VALID",
        "ilk:1",
        '"answered": 7',
    ):
        assert words in told
    api.on(f"GET {PATH}/status", status("RUNNING"))
    assert run("status", "AI.x") == ExitCode.OK
    api.on(f"GET {PATH}/status", failure("NODE_NOT_FOUND", http=404))
    capsys.readouterr()
    assert run("status", "AI.x", "--json") == ExitCode.NOT_FOUND
    assert json.loads(capsys.readouterr().err)["code"] == "NODE_NOT_FOUND"


def test_nobody_answers(capsys):
    assert main(["node", "list", "--base", "http://127.0.0.1:1"]) == ExitCode.UNREACHABLE
    assert "does not answer" in capsys.readouterr().err
