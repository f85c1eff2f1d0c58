"""`fluxbee selfcheck`: every library is used, and a broken one is named without hiding the others."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from appliance.cli import selfcheck
from appliance.cli.frame import Parser

ROOT = Path(__file__).resolve().parents[2]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    parser = Parser(prog="fluxbee")
    selfcheck.add_parser(parser.add_subparsers())
    args = parser.parse_args(["selfcheck", *words])
    code = int(args.handler(args))
    return code, capsys.readouterr().out


def test_every_runtime_dependency_has_a_check():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=!~\[; ]", line)[0] for line in project["dependencies"]]
    assert sorted(selfcheck.CHECKS) == sorted(names)


def test_all_libraries_work_here(capsys):
    code, out = run(capsys)
    assert code == 0, out
    assert out.count("ok") == len(selfcheck.CHECKS)


def test_a_broken_library_is_named_and_the_rest_still_checked(capsys, monkeypatch):
    def broken() -> None:
        raise OSError("cannot open shared object file")

    monkeypatch.setitem(selfcheck.CHECKS, "wasmtime", broken)
    code, out = run(capsys, "--json")
    told = json.loads(out)
    assert code == 1
    assert not told["frozen"]
    errors = {one["name"]: one["error"] for one in told["libraries"]}
    assert errors.pop("wasmtime") == "OSError: cannot open shared object file"
    assert set(errors.values()) == {None}
