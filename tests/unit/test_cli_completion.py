"""The completion script, asked by a real bash."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from appliance.cli import VERB_MODULES, build_parser, main
from appliance.cli.completion import bash_script
from appliance.cli.frame import Parser, add_verb, completes
from appliance.settings import Settings
from appliance.settings.keys import leaves, section_names

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "fluxbee.bash"
    path.write_text(bash_script(build_parser()))
    return path


def complete(script: Path, *words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers when Tab is pressed at the end of the last word."""
    line = " ".join(shlex.quote(word) for word in words)
    asked = (
        f"set -u; source {script}; complete -p fluxbee >/dev/null || exit 9; COMP_WORDS=({line});"
        f" COMP_CWORD={len(words) - 1}; _fluxbee; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, timeout=60, cwd=cwd, check=True
    )
    assert done.stderr == ""
    return [word for word in done.stdout.split("\n") if word]


def test_verbs(script: Path) -> None:
    assert {"config", "completion", "version"} <= set(complete(script, "fluxbee", ""))
    assert complete(script, "fluxbee", "conf") == ["config"]
    assert complete(script, "fluxbee", "config", "") == ["check", "explain", "schema"]
    assert complete(script, "fluxbee", "config", "e") == ["explain"]
    assert complete(script, "fluxbee", "completion", "") == ["bash"]
    assert complete(script, "fluxbee", "nonsense", "zzz") == []


def test_options(script: Path) -> None:
    assert complete(script, "fluxbee", "--v") == ["--version"]
    assert complete(script, "fluxbee", "config", "check", "-") == [
        "--config",
        "--help",
        "--json",
        "--root",
        "-h",
    ]
    assert complete(script, "fluxbee", "config", "check", "--json", "--r") == ["--root"]


def test_settings(script: Path) -> None:
    offered = complete(script, "fluxbee", "config", "explain", "")
    assert sorted(offered) == sorted([*leaves(Settings), *section_names(Settings)])
    assert complete(script, "fluxbee", "config", "explain", "wan.l") == ["wan.listen"]
    assert complete(script, "fluxbee", "config", "explain", "--json", "wan.g") == ["wan.gateway_name"]


def test_files(script: Path, tmp_path: Path) -> None:
    (tmp_path / "a b.yaml").touch()
    (tmp_path / "a.d").mkdir()
    for words in (["--config", "a"], ["--config", "=", "a"], ["--json", "--config", "a"]):
        assert sorted(complete(script, "fluxbee", "config", "check", *words, cwd=tmp_path)) == [
            "a b.yaml",
            "a.d",
        ]
    assert complete(script, "fluxbee", "config", "check", "--root", "", cwd=tmp_path) == ["a.d"]
    assert sorted(complete(script, "fluxbee", "config", "check", "--config", "=", cwd=tmp_path)) == [
        "a b.yaml",
        "a.d",
    ]


def test_the_value_of_an_option_is_no_verb(script: Path) -> None:
    words = ("fluxbee", "config", "explain", "--config", "check", "--root", "=", "x", "turns.r")
    assert complete(script, *words) == ["turns.rate_bytes_per_s"]


def test_choices_and_unknown_values_of_options(tmp_path: Path) -> None:
    parser = Parser(prog="fluxbee")
    verbs = parser.add_subparsers()
    one = add_verb(verbs, "show", lambda args: 0, summary="show it", examples=[("fluxbee show", "show")])
    one.add_argument("--as", choices=["table", "json"])
    one.add_argument("--name")
    completes(one.add_argument("file"), "file")
    script = tmp_path / "script"
    script.write_text(bash_script(parser))
    assert complete(script, "fluxbee", "show", "--as", "") == ["table", "json"]
    assert complete(script, "fluxbee", "show", "--as", "=", "j") == ["json"]
    assert complete(script, "fluxbee", "show", "--name", "") == []
    assert complete(script, "fluxbee", "show", "--name", "show", "scr", cwd=tmp_path) == ["script"]


def test_the_verb_prints_it(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == script.read_text()


def test_every_module_is_completed(script: Path) -> None:
    assert len(complete(script, "fluxbee", "")) >= len(VERB_MODULES)
