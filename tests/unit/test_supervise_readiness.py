"""Readiness, materialization and health: what the disk says, at once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.supervise.manifest import Manifest, RuntimeEntry
from appliance.supervise.readiness import (
    global_health,
    is_executable,
    materialization,
    materialization_summary,
    readiness,
    runtime_materialization,
    runtime_readiness,
    targeted_health,
)
from tests.unit.packages_kit import START


def script(dist: Path, runtime: str, version: str, mode: int = 0o755) -> Path:
    path = dist / "runtimes" / runtime / version / "bin/start.sh"
    path.parent.mkdir(parents=True)
    path.write_text(START)
    path.chmod(mode)
    return path


BASED = RuntimeEntry(available=("1",), current="1", package_type="config_only", runtime_base="base")
OWN = RuntimeEntry(available=("1", "2"), current="1")


def manifest(**runtimes: RuntimeEntry) -> Manifest:
    return Manifest(runtimes=runtimes)


@pytest.mark.parametrize(
    ("prepare", "flags", "reason"),
    [
        (None, (False, False, True), "missing_package_dir"),
        ("directory", (False, False, True), "missing_start_script"),
        (0o644, (True, False, True), "start_script_not_executable"),
        (0o755, (True, True, True), None),
        (0o001, (True, True, True), None),
    ],
)
def test_a_full_runtime(tmp_path, prepare, flags, reason):
    if prepare == "directory":
        (tmp_path / "runtimes/own/1/bin/start.sh").mkdir(parents=True)
    elif prepare is not None:
        script(tmp_path, "own", "1", prepare)
    of = manifest(own=OWN)
    assert msgspec.structs.astuple(readiness(tmp_path, of, "own", OWN, "1")) == flags
    seen = msgspec.to_builtins(materialization(tmp_path, of, "own", OWN, "1"))
    assert (seen["blocking_reason"], seen["materialized"]) == (reason, reason is None)
    assert not any(key.startswith("base_") for key in seen)


@pytest.mark.parametrize(
    ("base", "mode", "flags", "reason"),
    [
        (None, None, (True, False, False), "missing_runtime_base"),
        (RuntimeEntry(available=("9",)), None, (True, False, False), "missing_runtime_base_current"),
        (RuntimeEntry(current="9"), None, (True, False, False), "missing_base_start_script"),
        (RuntimeEntry(current="9"), 0o644, (True, False, False), "base_start_script_not_executable"),
        (RuntimeEntry(current="9"), 0o755, (True, True, True), None),
    ],
)
def test_a_package_on_a_base(tmp_path, base, mode, flags, reason):
    (tmp_path / "runtimes/fr/1").mkdir(parents=True)
    if mode is not None:
        script(tmp_path, "base", "9", mode)
    of = manifest(fr=BASED, **({} if base is None else {"base": base}))
    assert msgspec.structs.astuple(readiness(tmp_path, of, "fr", BASED, "1")) == flags
    seen = msgspec.to_builtins(materialization(tmp_path, of, "fr", BASED, "1"))
    assert seen["blocking_reason"] == reason
    assert "start_script_path" not in seen
    assert seen["runtime_base"] == "base"


def test_a_package_without_its_directory_and_an_unknown_type(tmp_path):
    script(tmp_path, "base", "9")
    of = manifest(fr=BASED, base=RuntimeEntry(current="9"))
    assert materialization(tmp_path, of, "fr", BASED, "1").blocking_reason == "missing_package_dir"
    odd = RuntimeEntry(available=("1",), package_type="odd")
    assert (
        materialization(tmp_path, manifest(odd=odd), "odd", odd, "1").blocking_reason
        == "unknown_package_type:odd"
    )


def test_numbers_of_a_runtime(tmp_path):
    script(tmp_path, "own", "1")
    of = manifest(own=OWN)
    summary = materialization_summary(runtime_materialization(tmp_path, of, "own", OWN))
    assert msgspec.structs.astuple(summary) == (2, 1, "1", True, None)
    assert set(runtime_readiness(tmp_path, of, "own", OWN)) == {"1", "2"}
    assert set(runtime_readiness(tmp_path, of, "own", OWN, "2")) == {"2"}
    none = materialization_summary(runtime_materialization(tmp_path, of, "x", RuntimeEntry()))
    assert (none.current_version, none.current_materialized) == (None, False)


def test_health_is_of_one_runtime_or_of_what_is_current(tmp_path):
    script(tmp_path, "own", "1")
    of = manifest(own=OWN, broken=RuntimeEntry(available=("1",), current="1"), idle=RuntimeEntry())
    overall = global_health(tmp_path, of)
    assert (overall.scope, overall.status, overall.error_count) == ("global_current", "degraded", 1)
    assert "broken" in overall.errors[0]
    assert targeted_health(tmp_path, of, "own", "current").status == "ok"
    assert targeted_health(tmp_path, of, "own", "1").status == "ok"
    assert targeted_health(tmp_path, of, "own").error_count == 1
    for runtime, version in (("none", None), ("own", "7"), ("idle", "current")):
        assert targeted_health(tmp_path, of, runtime, version).status == "degraded"


def test_a_directory_is_no_program(tmp_path):
    assert not is_executable(tmp_path)
    assert not is_executable(tmp_path / "none")
