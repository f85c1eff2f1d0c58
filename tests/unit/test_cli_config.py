"""``fluxbee config``: check, explain, schema."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.cli.output import ExitCode
from appliance.settings import Settings
from appliance.settings.keys import leaves
from appliance.settings.reference import json_schema, markdown


@pytest.fixture(autouse=True)
def empty_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working directory and a root of the test's own."""
    for name in list(os.environ):
        if name.startswith(("FLUX", "JSR_", "ORCH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)


def write(text: str) -> str:
    Path("hive.yaml").write_text(text)
    return "hive.yaml"


def test_check_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "ok  no hive.yaml: an unclaimed worker; worker unclaimed\n"


def test_check_says_what_is_worth_knowing(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("role: motherbee\nsecurity: {admin_nodes: ['*']}\nidentity: {sync: {port: 9100}}\n")
    assert main(["config", "check", "--config", file]) == 0
    told = capsys.readouterr()
    assert told.out == "ok  hive.yaml: 3 keys; motherbee motherbee\n"
    assert [line.split(":")[0] for line in told.err.splitlines()] == [
        "notice CONFIG_KEY_INERT",
        "warning CONFIG_SECURITY_RELAXED",
    ]


def test_check_names_every_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("hive-id: x\nnats: {port: 0}\n")
    assert main(["config", "check", "--config", file]) == ExitCode.MISCONFIGURED
    assert capsys.readouterr().err.splitlines() == [
        "fluxbee: hive.yaml:1: hive-id: unknown key; the nearest key is hive_id",
        "  hive.yaml:2: nats.port: found 0; expected a whole number from 1 to 65535",
        "  remedy: Correct the named key; `fluxbee config check` verifies the file.",
    ]


def test_check_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("database: {url: 'postgres://h/x'}\n")
    os.chmod(file, 0o600)
    assert main(["config", "check", "--json", "--config", file]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["file"], told["problems"]) == (True, "hive.yaml", [])
    (notice,) = told["notices"]
    assert (notice["code"], notice["level"], notice["key"]) == (
        "CONFIG_DISCOURAGED",
        "warning",
        "database.url",
    )
    assert notice["source"] == {"kind": "file", "name": "hive.yaml", "line": 1}
    write("a: [")
    assert main(["config", "check", "--json", "--config", file]) == ExitCode.MISCONFIGURED
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    assert told["problems"][0]["message"].startswith("not YAML")


def test_root_moves_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "r" / "etc").mkdir(parents=True)
    (tmp_path / "r" / "etc" / "hive.yaml").write_text("hive_id: edge-9\n")
    assert main(["config", "check", "--root", "r"]) == 0
    assert capsys.readouterr().out.endswith("worker edge-9\n")


def test_explain_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["KEY", *leaves(Settings)]


def test_explain_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("wan:\n  uplinks: [{address: 'h:1'}]\n")
    assert main(["config", "explain", "wan", "--config", file]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["wan.gateway_name", "RT.gateway", "default"] in lines
    assert ["wan.uplinks", "[{address:", "h:1}]", "hive.yaml:2"] in lines


def test_explain_one_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JSR_ADMIN_LISTEN", "127.0.0.1:18080")
    assert main(["config", "explain", "admin.listen"]) == 0
    assert capsys.readouterr().out == (
        "admin.listen: 127.0.0.1:18080\n"
        "  source       environment JSR_ADMIN_LISTEN\n"
        "  default      127.0.0.1:8080\n"
        "  expects      host:port, for example 127.0.0.1:8080; port 0 lets the system choose\n"
        "  environment  JSR_ADMIN_LISTEN\n"
        "  meaning      Where the admin API listens; off loopback it needs `http.token`.\n"
    )
    assert main(["config", "explain", "blob.path"]) == 0
    assert capsys.readouterr().out.startswith("blob.path: not set: <lib>/blob\n  source   default\n")
    assert main(["config", "explain", "wan.listen"]) == 0
    assert capsys.readouterr().out.startswith("wan.listen: not set\n")


def test_explain_for_programs_hides_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_ADMIN_TOKEN", "geheim")
    assert main(["config", "explain", "--json", "world"]) == 0
    out = capsys.readouterr().out
    assert "geheim" not in out
    rows = {row["key"]: row for row in json.loads(out)}
    assert rows["world.admin_token"]["value"] == "<hidden>"
    assert rows["world.admin_token"]["source"] == "environment FLUX_ADMIN_TOKEN"
    assert rows["world.encryption_key"]["value"] is None


def test_explain_an_unknown_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "wan.lisen"]) == ExitCode.NOT_FOUND
    assert "Did you mean `wan.listen`?" in capsys.readouterr().err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert capsys.readouterr().out == json_schema()
    assert main(["config", "schema", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown()
