"""`fluxbee runtime|hive|deployments|drift|update`: what is asked for, what is printed, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from appliance.cli import deployments, main
from appliance.cli.output import ExitCode
from tests.unit.cli_stub import Api, envelope, failure, serving

Run = Callable[..., int]
READY = {"runtime_present": True, "start_sh_executable": True, "base_runtime_ready": True}
MANIFEST = {"manifest_version": 9, "manifest_hash": "ab", "runtimes": {}}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[Api]:
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    monkeypatch.setattr(deployments, "POLL_S", 0.0)
    with serving() as api:
        yield api


@pytest.fixture
def run(api: Api) -> Run:
    return lambda *words: main([*words, "--base", api.base])


def test_runtimes(api, run, capsys):
    rows = [
        {
            "runtime": "a.b",
            "current": "2.0.0",
            "available": ["1.0.0", "2.0.0"],
            "type": "full_runtime",
            "readiness": {"2.0.0": READY},
        },
        {
            "runtime": "c",
            "current": "1.0.0",
            "available": ["1.0.0"],
            "runtime_base": "x",
            "readiness": {"1.0.0": {**READY, "base_runtime_ready": False}},
        },
        {"runtime": "d", "available": []},
    ]
    api.on("GET /hives/h1/runtimes", envelope({"runtimes": rows}))
    assert run("runtime", "list") == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["a.b", "2.0.0", "yes", "full_runtime", "1.0.0"]
    assert "base missing" in lines[2]


def test_one_runtime(api, run, capsys):
    payload = {
        "runtime": {
            "runtime": "a.b",
            "type": "full_runtime",
            "available": ["1.0.0"],
            "readiness": {"1.0.0": READY},
        },
        "materialization": {"versions": {"1.0.0": {"package_dir": "/p", "blocking_reason": None}}},
        "usage": {"running_nodes": [{"node_name": "AI.x@h1", "runtime_version": "1.0.0"}]},
    }
    api.on("GET /hives/h1/runtimes/a.b", envelope(payload))
    assert run("runtime", "show", "a.b") == ExitCode.OK
    told = capsys.readouterr().out
    assert "/p" in told
    assert "AI.x@h1" in told


def test_removing_a_version(api, run, capsys):
    line = "DELETE /hives/h1/runtimes/a.b/versions/1.0.0"
    api.on(line, envelope({"runtime": "a.b", "removed_version": "1.0.0"}))
    assert run("runtime", "rm", "a.b", "1.0.0") == ExitCode.OK
    assert capsys.readouterr().out == "a.b 1.0.0 is removed\n"
    api.on(line, failure("RUNTIME_IN_USE", http=409))
    assert run("runtime", "rm", "a.b", "1.0.0") == ExitCode.CONFLICT


def test_hives(api, run, capsys):
    summary = {"hives_alive": 1, "total_hives": 2, "nodes_by_type": {"AI": 3, "SY": 8}}
    api.on("GET /inventory/summary", envelope(summary))
    assert run("hive", "status") == ExitCode.OK
    told = capsys.readouterr().out
    assert "1 d 1 h" in told
    assert "1 of 2 alive" in told
    assert "3 AI, 8 SY" in told
    rows = [{"hive_id": "h1", "status": "alive", "created_at": "1790000012345"}]
    api.on("GET /hives", envelope({"hives": rows}))
    assert run("hive", "list") == ExitCode.OK
    assert "2026-" in capsys.readouterr().out
    api.on("POST /hives", envelope({"hive_id": "h2", "wan_connected": True}))
    assert run("hive", "add", "h2", "10.0.0.2", "--harden-ssh") == ExitCode.OK
    assert api.body("POST /hives") == {"hive_id": "h2", "address": "10.0.0.2", "harden_ssh": True}
    api.on("DELETE /hives/h2", envelope({"hive_id": "h2", "remote_cleanup": "local_only"}))
    assert run("hive", "rm", "h2") == ExitCode.OK
    assert "local_only" in capsys.readouterr().out
    api.on("POST /hives", failure("HIVE_EXISTS", http=409))
    assert run("hive", "add", "h2", "10.0.0.2") == ExitCode.CONFLICT


@pytest.mark.parametrize(("ms", "text"), [(0, "0 s"), (61_000, "1 min 1 s"), (None, "")])
def test_how_long_it_runs(ms, text):
    from appliance.cli.hive import _duration

    assert _duration(ms) == text


def test_history(api, run, capsys):
    entry = {
        "started_at": 1_790_000_000_000,
        "category": "runtime",
        "result": "ok",
        "target_hives": ["h1", "h2"],
    }
    api.on("GET /deployments?category=runtime&limit=3", envelope({"entries": [entry]}))
    assert run("deployments", "--category", "runtime", "--limit", "3") == ExitCode.OK
    assert "h1, h2" in capsys.readouterr().out
    api.on("GET /hives/h2/deployments", envelope({"entries": []}))
    assert run("deployments", "--hive", "h2") == ExitCode.OK
    alert = {"hive_id": "h2", "severity": "error", "message": "behind"}
    api.on("GET /drift-alerts?severity=error&kind=k", envelope({"entries": [alert]}))
    assert run("drift", "--severity", "error", "--kind", "k") == ExitCode.OK
    assert "behind" in capsys.readouterr().out


@pytest.fixture
def updating(api: Api) -> Api:
    api.on(
        "GET /hives/h1/versions", envelope({"hive": {"runtimes": MANIFEST, "core": {"manifest_hash": "cd"}}})
    )
    api.on("POST /hives/h2/sync-hint", envelope({}))
    return api


def test_an_update_is_asked_for_until_everything_is_there(updating, run, capsys):
    pending = envelope(
        {"hive": "h2", "status": "sync_pending", "category": "runtime"}, status="sync_pending", http=202
    )
    done = envelope({"hive": "h2", "status": "ok", "category": "runtime", "updated": ["x"]})
    updating.on("POST /hives/h2/update", pending, pending, done)
    assert run("update", "h2", "--wait", "--runtime", "a.b", "--version", "1.0.0") == ExitCode.OK
    assert updating.body("POST /hives/h2/update") == {
        "category": "runtime",
        "manifest_version": 9,
        "manifest_hash": "ab",
        "runtime": "a.b",
        "runtime_version": "1.0.0",
    }
    assert capsys.readouterr().out == "h2 has everything (runtime)\n  updated: x\n"
    updating.on("POST /hives/h2/update", pending)
    assert run("update", "h2") == ExitCode.BUSY
    assert "sync pending" in capsys.readouterr().out
    assert run("update", "h2", "--wait", "--timeout", "0") == ExitCode.BUSY
    assert "remedy" in capsys.readouterr().err


def test_other_software_has_no_version_and_no_hint(updating, run, capsys):
    errors = {"targeted_runtime_health": {"errors": ["a.b: start.sh missing"]}}
    updating.on("POST /hives/h2/update", envelope({"hive": "h2", "status": "ok", **errors}))
    assert run("update", "h2", "--category", "core") == ExitCode.OK
    sent = updating.body("POST /hives/h2/update")
    assert sent == {"category": "core", "manifest_version": 0, "manifest_hash": "cd"}
    assert not [line for line, _ in updating.asked if "sync-hint" in line]
    assert "not ready: a.b: start.sh missing" in capsys.readouterr().out
    assert run("update", "h2", "--category", "vendor") == ExitCode.NOT_FOUND
