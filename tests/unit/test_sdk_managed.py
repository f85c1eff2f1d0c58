from __future__ import annotations

from pathlib import Path

import pytest

from appliance.sdk.managed import (
    managed_node_config_path,
    managed_node_instance_dir,
    managed_node_name,
    managed_node_state_path,
)
from appliance.wire.errors import Invalid


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "AI.default"),
        ({"FLUXBEE_NODE_NAME": "AI.given@h"}, "AI.given@h"),
        ({"FLUXBEE_NODE_NAME": "  AI.given@h\n"}, "AI.given@h"),
        ({"FLUXBEE_NODE_NAME": "  ", "OLD": "AI.old"}, "AI.old"),
        ({"OLDER": "AI.older"}, "AI.older"),
        ({"OLD": "AI.old", "OLDER": "AI.older"}, "AI.old"),
        ({"OLD": "AI.old", "FLUXBEE_NODE_NAME": "AI.given"}, "AI.given"),
    ],
)
def test_the_name(environment: dict[str, str], expected: str) -> None:
    assert managed_node_name("AI.default", ("OLD", "OLDER"), environment) == expected


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBEE_NODE_NAME", "WF.x@h")
    assert managed_node_name("AI.default") == "WF.x@h"


def test_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = managed_node_instance_dir("AI.support.l1@hive1", tmp_path)
    assert directory == tmp_path / "AI" / "AI.support.l1@hive1"
    assert managed_node_config_path("AI.x@h", tmp_path).name == "config.json"
    assert managed_node_state_path("AI.x@h", tmp_path).name == "state.json"
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    assert managed_node_instance_dir("IO.x@h") == tmp_path / "lib/nodes/IO/IO.x@h"


@pytest.mark.parametrize(
    "name", ["AI.x", "@h", "AI.x@", "AI.x@h/..", "../AI.x@h", "..@h", ".x@h", "AI.x@h\0"]
)
def test_names_that_have_no_directory(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        managed_node_instance_dir(name)
    assert caught.value.field == "node_name"
