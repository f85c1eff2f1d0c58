"""`fluxbee node config|control|state|logs`: what is sent, what is shown, and that a node may say no."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from appliance.cli import main
from appliance.cli.output import ExitCode
from tests.unit.cli_stub import Api, envelope, serving

PATH = "/hives/h1/nodes/AI.x@h1"
Run = Callable[..., int]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[Api]:
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    with serving() as api:
        yield api


@pytest.fixture
def run(api: Api) -> Run:
    return lambda *words: main(["node", *words, "--base", api.base])


def test_config_get(api, run, capsys):
    api.on(f"GET {PATH}/config", envelope({"config": {"a": 1, "_system": {"runtime": "r"}}}))
    assert run("config", "get", "AI.x") == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    run("config", "get", "AI.x", "--system")
    assert json.loads(capsys.readouterr().out)["_system"] == {"runtime": "r"}


def test_config_set(api, run, capsys):
    done = {"node_name": "AI.x@h1", "config_version": 4, "notify_status": "sent"}
    api.on(f"PUT {PATH}/config", envelope(done))
    assert run("config", "set", "AI.x", "--set", "a=1") == ExitCode.OK
    assert api.body(f"PUT {PATH}/config") == {"a": 1}
    assert capsys.readouterr().out == "AI.x@h1 has version 4; told\n"
    api.on(f"PUT {PATH}/config?replace=1&notify=0", envelope({**done, "notify_status": "skipped"}))
    assert run("config", "set", "AI.x", "--config", "{}", "--replace", "--no-notify") == ExitCode.OK
    assert capsys.readouterr().out.endswith("; not told\n")
    api.on(f"PUT {PATH}/config", envelope({**done, "notify_status": "dispatch_failed: gone"}))
    run("config", "set", "AI.x", "--set", "a=1")
    assert "dispatch_failed: gone" in capsys.readouterr().out
    assert run("config", "set", "AI.x") == ExitCode.USAGE


def test_control(api, run, capsys):
    response = {"ok": True, "state": "CONFIGURED", "config_version": 5, "effective_config": {"a": 1}}
    answer = envelope({"node_name": "AI.x@h1", "node_ok": True, "response": response})
    api.on(f"POST {PATH}/control/config-get", answer)
    api.on(f"POST {PATH}/control/config-set", answer)
    assert run("control", "get", "AI.x") == ExitCode.OK
    assert "CONFIGURED" in capsys.readouterr().out
    assert run("control", "set", "AI.x", "--set", "a=1", "--config-version", "5") == ExitCode.OK
    sent = api.body(f"POST {PATH}/control/config-set")
    assert (sent["config"], sent["config_version"], sent["apply_mode"]) == ({"a": 1}, 5, "replace")
    run("control", "set", "AI.x", "--set", "a=1")
    first = api.body(f"POST {PATH}/control/config-set")["config_version"]
    run("control", "set", "AI.x", "--set", "a=1")
    assert api.body(f"POST {PATH}/control/config-set")["config_version"] >= first > 5


@pytest.mark.parametrize(
    "payload",
    [
        {"node_ok": False, "node_error": {"code": "stale_config_version", "detail": "too old"}},
        {"response": {"ok": False, "error": {"code": "stale_config_version", "message": "too old"}}},
    ],
)
def test_a_node_may_refuse(api, run, capsys, payload):
    api.on(f"POST {PATH}/control/config-set", envelope(payload))
    assert run("control", "set", "AI.x", "--set", "a=1", "--json") == ExitCode.REFUSED
    told = json.loads(capsys.readouterr().err)
    assert told["code"] == "stale_config_version"
    assert "too old" in told["message"]


def test_state(api, run, capsys):
    api.on(f"GET {PATH}/state", envelope({"state": None}))
    assert run("state", "AI.x") == ExitCode.OK
    assert capsys.readouterr().out == "null\n"


def test_logs(api, run, capsys):
    api.on(f"GET {PATH}/logs?tail=2", envelope({"lines": ["a", "b\x1b[31m"], "dropped_bytes": 9}))
    assert run("logs", "AI.x", "--tail", "2") == ExitCode.OK
    told = capsys.readouterr()
    assert told.out == "a\nb\\x1b[31m\n"
    assert told.err.startswith("9 bytes were dropped")
    api.on(f"GET {PATH}/logs?tail=200&follow=1", (200, ": open\n\ndata: a\n\ndata: b\n\n"))
    assert run("logs", "AI.x", "-f") == ExitCode.OK
    assert capsys.readouterr().out == "a\nb\n"
    run("logs", "AI.x", "-f", "--json")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"line": "a"},
        {"line": "b"},
    ]
