"""`fluxbee world …` against a real hive, as somebody types it on the box."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.output import ExitCode
from appliance.testing.hive import HiveHarness

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


class Cli:
    """Runs the program with the hive's root and nothing else."""

    def __init__(self, hive: HiveHarness) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLUX")}
        self.environment = {**kept, "PYTHONPATH": str(ROOT), "FLUXBEE_ROOT": str(hive.paths.root)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "appliance", "world", *words]

    def __call__(self, *words: str, code: int = 0, stdin: str = "") -> str:
        done = subprocess.run(
            self.command(*words),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str, code: int = 0) -> object:
        return json.loads(self(*words, "--json", code=code))


@pytest.fixture(scope="module")
def cli(module_hive_folder: Path) -> Iterator[Cli]:
    with HiveHarness(module_hive_folder, settings={"world": {"auth_enabled": False}}) as hive:
        yield Cli(hive)


def test_a_world_by_hand(cli):
    assert "0 entities" in cli("health")
    receipt = cli.json("publish", "sensors", "lab", 'lab/"odd" é', '{"on": true}')
    assert receipt["stream"] == "sensors"
    cli("publish", "sensors", "lab", 'lab/"odd" é', '{"on": false}')
    assert cli.json("get", 'lab/"odd" é')["properties"] == {"on": False}
    assert cli.json("get", 'lab/"odd" é', "--at", str(receipt["seq"]))["properties"] == {"on": True}
    assert len(cli.json("history", 'lab/"odd" é')) == 2
    assert [one["id"] for one in cli.json("list", "--prefix", "lab/")] == ['lab/"odd" é']
    events = [
        {"stream": "s", "source": "s", "payload": {"entity_id": f"tmp-{n}", "properties": {"n": n}}}
        for n in range(3)
    ]
    cli("batch", "-", stdin=json.dumps(events))
    assert cli.json("batch-delete", "--prefix", "tmp-")["deleted"] == 3
    cli("delete", 'lab/"odd" é')
    cli("get", 'lab/"odd" é', code=ExitCode.NOT_FOUND)
    assert "github" in cli("connectors")


def test_watching(cli):
    with subprocess.Popen(
        cli.command("watch", "seen", "--count", "1", "--json"),
        env=cli.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            for number in range(100):  # until it subscribed and saw one
                cli("publish", "s", "s", "seen", f'{{"n": {number}}}')
                if watching.poll() is not None:
                    break
            assert watching.wait(10) == 0
        finally:
            watching.kill()
        frame = json.loads(watching.stdout.readline())
    assert frame["type"] in ("state_update", "metrics_update")


def test_sources(cli):
    assert cli.json("add-source", "http://192.0.2.1/x", "plant/m", "--name", "meter")["source_id"]
    assert "meter" in cli("connectors")
    cli("remove-source", "meter")
    assert "meter" not in cli("connectors")
    cli("add-source", "http://169.254.169.254/", "plant/m", code=ExitCode.REFUSED)
    cli("add-source", "file:///etc/passwd", "plant/m", code=ExitCode.USAGE)


def test_the_boxs_own_token_changes_limits_and_copies_the_world(cli, tmp_path):
    assert (
        cli.json("admin-config", "rate_limit_per_namespace_per_minute=600")[
            "rate_limit_per_namespace_per_minute"
        ]
        == 600
    )
    cli("publish", "s", "s", "kept", '{"a": 1}')
    copy = tmp_path / "world.backup"
    assert cli.json("backup", str(copy))["bytes"] == copy.stat().st_size
    cli("publish", "s", "s", "later", '{"a": 1}')
    assert cli.json("restore", str(copy))["restored"] is True
    cli("get", "later", code=ExitCode.NOT_FOUND)
    assert cli.json("get", "kept")["properties"] == {"a": 1}
    copy.write_bytes(b"nonsense")
    cli("restore", str(copy), code=ExitCode.USAGE)
    assert cli.json("get", "kept")["properties"] == {"a": 1}
    cli("namespace", "create", "plant", code=ExitCode.NOT_FOUND)  # auth is off
