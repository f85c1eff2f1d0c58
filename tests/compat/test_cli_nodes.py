"""The operators' verbs against a real hive: publish, spawn, watch, change, stop and forget a node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.output import ExitCode
from appliance.testing.hive import HiveHarness
from tests.compat.fake_openai import FakeOpenAI

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
TENANT = "tnt:11111111-1111-4111-8111-111111111111"
DEADLINE_S = 60.0


class Cli:
    """`fluxbee` as somebody types it on the box."""

    def __init__(self, hive: HiveHarness) -> None:
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("FLUXBEE_", "ADMIN_"))},
            "PYTHONPATH": str(ROOT),
            "FLUXBEE_ROOT": str(hive.paths.root),
            "TENANT_ID": TENANT,
        }

    def __call__(self, *words: str, code: int = 0, **env: str) -> str:
        """Run to the end; returns what was printed, messages included."""
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *words],
            env={**self.environment, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
            check=False,
        )
        output = done.stdout.decode()
        assert done.returncode == code, f"{words} ended with {done.returncode}\n{output}"
        return output


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with HiveHarness(Path(os.path.realpath(tmp_path_factory.mktemp("h")))) as hive:
        cli = Cli(hive)
        cli("publish", str(ROOT / "docs" / "examples" / "ai-echo"))
        yield cli


def test_a_node_from_birth_to_oblivion(cli):
    spawned = cli("node", "spawn", "AI.echo", "--set", "upper=true", "--wait")
    assert "AI.echo@motherbee runs: ai.echo 1.0.0" in spawned
    assert "HOLA" in cli("send", "AI.echo@motherbee", "hola")
    assert "HEALTHY (node reported)" in cli("node", "status", "AI.echo")
    row = next(line for line in cli("node", "list").splitlines() if line.startswith("AI.echo@motherbee"))
    assert row.split()[1:5] == ["RUNNING", "HEALTHY", "ai.echo", "1.0.0"]
    assert "SY.admin@motherbee" in cli("node", "list", "--all")

    again = cli("node", "spawn", "AI.echo", code=ExitCode.CONFLICT)
    assert "NODE_ALREADY_EXISTS" in again
    assert "remedy: `fluxbee node start`" in again

    assert "version 2; told" in cli("node", "config", "set", "AI.echo", "--set", "prefix=> ")
    config = json.loads(cli("node", "config", "get", "AI.echo"))
    assert (config["prefix"], config["upper"]) == ("> ", True)
    assert "_system" not in config
    assert "_system" in cli("node", "config", "get", "AI.echo", "--system")
    assert "> HOLA" in cli("send", "AI.echo@motherbee", "hola")

    assert "has version 7" in cli(
        "node", "control", "set", "AI.echo", "--set", "upper=false", "--config-version", "7"
    )
    assert "hola" in cli("send", "AI.echo@motherbee", "hola")
    refused = cli("node", "control", "set", "AI.echo", "--set", "upper=7", code=ExitCode.REFUSED)
    assert "upper" in refused
    state = json.loads(cli("node", "state", "AI.echo"))
    assert state["config"] == {"upper": False}

    assert "node_config_changed" in cli("node", "logs", "AI.echo")
    assert "restarted" in cli("node", "restart", "AI.echo", "--wait")
    assert "runs" in cli("node", "rm", "AI.echo", code=ExitCode.CONFLICT)
    assert "ended (SIGTERM)" in cli("node", "kill", "AI.echo")
    assert "did not run" in cli("node", "kill", "AI.echo", code=ExitCode.NOT_FOUND)
    assert "STOPPED" in cli("node", "status", "AI.echo", code=ExitCode.FAILED)
    assert "started" in cli("node", "start", "AI.echo", "--wait")
    assert "is forgotten" in cli("node", "rm", "AI.echo", "--force")
    assert "NODE_NOT_FOUND" in cli("node", "status", "AI.echo", code=ExitCode.NOT_FOUND)


def test_programs_get_the_payload(cli):
    payload = json.loads(cli("node", "list", "--json"))
    assert payload["hive"] == "motherbee"
    assert json.loads(cli("hive", "status", "--json"))["hive_id"] == "motherbee"
    assert json.loads(cli("runtime", "show", "ai.echo", "--json"))["runtime"]["current"] == "1.0.0"
    failure = json.loads(cli("node", "status", "AI.none", "--json", code=ExitCode.NOT_FOUND))
    assert failure["code"] == "NODE_NOT_FOUND"


def test_a_log_is_followed_until_somebody_has_enough(cli):
    cli("node", "spawn", "AI.echo.log", "--runtime", "ai.echo", "--wait")
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "node", "logs", "AI.echo.log", "-f"],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        cli("node", "config", "set", "AI.echo.log", "--set", "prefix=a")
        assert process.stdout is not None
        assert any(b"node_config_changed" in line for line in process.stdout)  # after what was there
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.communicate()
    cli("node", "kill", "AI.echo.log", "--force", "--purge")


def test_a_node_that_cannot_run_is_told_with_its_log(cli, tmp_path):
    package = tmp_path / "broken"
    (package / "bin").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "ai.broken", "version": "1.0.0", "type": "full_runtime"}')
    (package / "bin" / "start.sh").write_text("#!/bin/sh\necho cannot find my glasses >&2\nexit 3\n")
    (package / "bin" / "start.sh").chmod(0o755)
    cli("publish", str(package))
    told = cli("node", "spawn", "AI.broken", "--wait", "--timeout", "1.5", code=ExitCode.BUSY)
    assert "cannot find my glasses" in told
    cli("node", "rm", "AI.broken", "--force")
    cli("runtime", "rm", "ai.broken", "1.0.0", code=ExitCode.CONFLICT)
    cli("publish", str(package), "--version", "1.1.0")
    assert "is removed" in cli("runtime", "rm", "ai.broken", "1.0.0")


def test_software_and_hives(cli):
    row = next(line for line in cli("runtime", "list").splitlines() if line.startswith("ai.echo "))
    assert row.split() == ["ai.echo", "1.0.0", "yes", "full_runtime"]
    assert "has everything" in cli("update", "--wait")
    assert "runtime" in cli("deployments", "--category", "runtime")
    assert "when" in cli("drift")
    assert "motherbee  alive" in cli("hive", "list")
    assert "INVALID_ADDRESS" in cli("hive", "add", "edge-7", "bad address", code=ExitCode.USAGE)
    assert "NOT_FOUND" in cli("hive", "rm", "edge-7", code=ExitCode.NOT_FOUND)


def test_the_diagnostics_helper_of_the_scripts(cli):
    answer = json.loads(cli("admin-command", ADMIN_ACTION="hive_status", ADMIN_REQUEST_ID="r-1"))
    assert (answer["status"], answer["action"], answer["request_id"]) == ("ok", "hive_status", "r-1")
    assert answer["payload"]["hive_id"] == "motherbee"
    assert set(answer) == {
        "status",
        "action",
        "payload",
        "error_code",
        "error_detail",
        "request_id",
        "trace_id",
    }
    told = cli("admin-command", "list_nodes", code=ExitCode.FAILED, ADMIN_EXPECT_STATUS="ok")
    assert "missing target" in told
    cli("admin-command", "list_nodes", ADMIN_PAYLOAD_TARGET="motherbee", ADMIN_EXPECT_STATUS="ok")
    cli("admin-command", code=ExitCode.FAILED, ADMIN_TARGET="SY.nobody@motherbee")
    assert "no JSON object" in cli("admin-command", code=ExitCode.USAGE, ADMIN_PARAMS_JSON="[]")


def test_a_node_that_only_holds_its_place(cli):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from appliance.cli.node_hold import hold_main; sys.exit(hold_main())",
        ],
        env={**cli.environment, "INVENTORY_HOLD_NODE_NAME": "WF.held", "INVENTORY_HOLD_NODE_VERSION": "2"},
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"WF.held@motherbee" in process.stderr.readline()
        assert "WF.held@motherbee" in cli("node", "list", "--kind", "WF")
        assert "UNKNOWN" in cli("node", "status", "WF.held", code=ExitCode.FAILED), "nobody spawned it"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.communicate()
    cli("node", "hold", "WF.short", "--seconds", "0.1")


def test_an_agent_without_a_line_of_code(cli, tmp_path):
    key = tmp_path / "key.txt"
    key.write_text("sk-test\n")
    for example in ("ai-openai", "ai-openai-helper"):
        cli("publish", str(ROOT / "docs" / "examples" / example))
    with FakeOpenAI() as fake:
        endpoint = f"base_url={fake.base_url}"
        cli("node", "spawn", "AI.helper", "--runtime", "ai.openai.helper", "--set", endpoint, "--wait")
        assert "refuses the API key" in cli("send", "AI.helper@motherbee", "hello")
        assert "DEGRADED" in cli("node", "status", "AI.helper", code=ExitCode.FAILED)
        cli("node", "control", "set", "AI.helper", "--set", f"api_key=@{key}")
        assert "heard: hello" in cli("send", "AI.helper@motherbee", "hello")
        assert "HEALTHY" in cli("node", "status", "AI.helper")
        told = cli("node", "control", "get", "AI.helper") + cli("node", "logs", "AI.helper")
        assert "sk-test" not in told
        cli("node", "restart", "AI.helper", "--wait")
        assert "heard: again" in cli("send", "AI.helper@motherbee", "again", "--timeout", "20")
    assert fake.problems == []
    assert fake.requests[0]["messages"][0]["content"].startswith("You help people with their orders.")
    assert fake.requests[0]["temperature"] == 0.2
    cli("node", "rm", "AI.helper", "--force")
