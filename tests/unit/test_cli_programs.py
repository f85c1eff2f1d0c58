"""The frozen program's other names are the entry points of the package."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from appliance.cli.programs import PROGRAMS, main

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]


def test_names_are_those_of_the_package() -> None:
    assert {name: f"appliance.cli.{what}" for name, what in PROGRAMS.items()} == {
        name: what for name, what in PROJECT["scripts"].items() if name != "fluxbee"
    }


@pytest.mark.parametrize("name", ["fluxbee", "renamed"])
def test_other_names_are_fluxbee(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/opt/fluxbee/{name}", "version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("fluxbee ")


def test_a_link_is_the_publisher(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/fluxbee/fluxbee-publish"])
    assert main() == 2
    assert "fluxbee-publish <package_dir>" in capsys.readouterr().err
