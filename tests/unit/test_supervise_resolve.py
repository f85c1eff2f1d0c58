"""From a runtime's name to what is started, and the diagnostics when that does not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.supervise.manifest import read_manifest
from appliance.supervise.resolve import derive_runtime, read_template, resolve
from appliance.wire.errors import Damaged, FluxbeeError, Invalid
from tests.unit.packages_kit import make_dist, put, write_manifest_text


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return make_dist(tmp_path / "dist")


def resolved(dist: Path, runtime: str, version: str = "current"):
    return resolve(read_manifest(dist), dist, runtime, version)


def refused(dist: Path, runtime: str, version: str = "current") -> FluxbeeError:
    with pytest.raises(FluxbeeError) as caught:
        resolved(dist, runtime, version)
    return caught.value


def test_a_full_runtime_is_its_own_program(dist, tmp_path):
    put(dist, tmp_path / "a", version="0.1.0")
    put(dist, tmp_path / "b", version="0.2.0", now_ms=6000)
    found = resolved(dist, "AI.Greeter")
    assert (found.runtime, found.version, found.requested_version) == ("ai.greeter", "0.2.0", "current")
    assert found.start_script == dist / "runtimes/ai.greeter/0.2.0/bin/start.sh"
    assert (found.package_path, found.runtime_base, found.template) == (None, None, {})
    assert resolved(dist, "ai.greeter", "0.1.0").version == "0.1.0"


def test_a_base_backed_package_starts_the_current_version_of_its_base(dist, tmp_path):
    put(dist, tmp_path / "a", version="0.1.0")
    put(
        dist,
        tmp_path / "f",
        files={"config/default-config.json": '{"model":"m","_system":{"x":1}}'},
        name="ai.greeter.fr",
        version="1.0.0",
        kind="config_only",
        runtime_base="ai.greeter",
    )
    found = resolved(dist, "ai.greeter.fr")
    assert found.start_script == dist / "runtimes/ai.greeter/0.1.0/bin/start.sh"
    assert found.package_path == dist / "runtimes/ai.greeter.fr/1.0.0"
    assert (found.runtime_base, found.base_version) == ("ai.greeter", "0.1.0")
    assert found.template == {"model": "m"}


@pytest.mark.parametrize(
    ("entry", "version", "code"),
    [
        (None, "current", "RUNTIME_NOT_AVAILABLE"),
        ({"available": ["1"]}, "current", "RUNTIME_NOT_AVAILABLE"),
        ({"available": ["1"], "current": "1"}, "2", "RUNTIME_NOT_AVAILABLE"),
        ({"available": ["1"], "current": "1"}, "1", "RUNTIME_NOT_PRESENT"),
        ({"available": ["1"], "current": "1", "type": "odd"}, "1", "UNKNOWN_PACKAGE_TYPE"),
        ({"available": ["1"], "current": "1", "type": "config_only"}, "1", "MISSING_RUNTIME_BASE"),
        (
            {"available": ["1"], "current": "1", "type": "workflow", "runtime_base": "no.base"},
            "1",
            "BASE_RUNTIME_NOT_AVAILABLE",
        ),
        (
            {"available": ["1"], "current": "1", "type": "workflow", "runtime_base": "half"},
            "1",
            "BASE_RUNTIME_NOT_AVAILABLE",
        ),
        (
            {"available": ["1"], "current": "1", "type": "config_only", "runtime_base": "base"},
            "1",
            "BASE_RUNTIME_NOT_PRESENT",
        ),
    ],
)
def test_the_codes_of_the_steps(dist, entry, version, code):
    others = {"base": {"available": ["3"], "current": "3"}, "half": {"available": ["3"]}}
    write_manifest_text(dist, {**others, **({"rt": entry} if entry is not None else {})})
    assert refused(dist, "rt", version).code == code


@pytest.mark.parametrize(("runtime", "version"), [("a/b", "1"), ("a", ""), ("..", "current"), ("a", "../1")])
def test_what_is_no_name_is_refused(dist, runtime, version):
    assert isinstance(refused(dist, runtime, version), Invalid)


def test_what_is_missing_is_told_with_all_that_is_known(dist, tmp_path):
    report = put(dist, tmp_path / "a")
    script = Path(report.installed_path) / "bin/start.sh"
    script.chmod(0o644)
    error = refused(dist, "ai.greeter")
    assert error.code == "RUNTIME_NOT_PRESENT"
    assert error.details["expected_path"] == str(script)
    seen = error.details["runtime_materialization"]["versions"]["0.1.0"]
    assert (seen["start_script_present"], seen["blocking_reason"]) == (True, "start_script_not_executable")
    assert error.details["targeted_runtime_health"]["error_count"] == 1
    assert error.details["global_runtime_health"]["status"] == "degraded"
    json.dumps(dict(error.details))
    script.chmod(0o100)
    assert resolved(dist, "ai.greeter").version == "0.1.0"


def test_a_missing_base_is_told_with_both_sides(dist):
    write_manifest_text(
        dist,
        {
            "fr": {"available": ["1"], "current": "1", "type": "config_only", "runtime_base": "base"},
            "base": {"available": ["3"], "current": "3"},
        },
    )
    details = refused(dist, "fr").details
    assert details["base_version"] == "3"
    assert details["requested_runtime_materialization"]["versions"]["1"]["package_dir_present"] is False
    assert (
        details["runtime_base_materialization"]["versions"]["3"]["blocking_reason"] == "missing_package_dir"
    )


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("AI.chat", "ai.chat"),
        ("AI.chat.eu@motherbee", "ai.chat"),
        ("WF.Pilot.a1", "wf.pilot"),
        ("AI", None),
        (".chat", None),
        ("AI.", None),
    ],
)
def test_a_runtime_is_derived_from_a_nodes_name(name, runtime):
    assert derive_runtime(name) == runtime


def test_a_template_is_the_one_that_the_package_names(tmp_path):
    (tmp_path / "package.json").write_text('{"config_template":"config/mine.json"}')
    (tmp_path / "config").mkdir()
    (tmp_path / "config/default-config.json").write_text('{"from":"default"}')
    (tmp_path / "config/mine.json").write_text('{"from":"mine"}')
    assert read_template(tmp_path) == {"from": "mine"}
    (tmp_path / "package.json").unlink()
    assert read_template(tmp_path) == {"from": "default"}
    (tmp_path / "config/default-config.json").unlink()
    assert read_template(tmp_path) == {}


@pytest.mark.parametrize("named", ['"../x.json"', '"/etc/passwd"', '"none.json"', "5"])
def test_a_template_outside_of_the_package_is_refused(tmp_path, named):
    (tmp_path / "package.json").write_text(f'{{"config_template":{named}}}')
    with pytest.raises(Damaged) as caught:
        read_template(tmp_path)
    assert caught.value.code == "CONFIG_WRITE_FAILED"


@pytest.mark.parametrize("text", ["[]", "{", "5"])
def test_a_template_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/default-config.json").write_text(text)
    with pytest.raises(Damaged):
        read_template(tmp_path)
