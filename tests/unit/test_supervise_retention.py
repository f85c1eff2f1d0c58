"""Which versions go by themselves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from appliance.supervise.manifest import Manifest, RuntimeEntry
from appliance.supervise.retention import (
    PROTECTION_S,
    Protections,
    Reference,
    expendable,
    references_of,
    run_retention,
)
from tests.unit.packages_kit import make_dist, make_package, put, write_manifest_text


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    dist = make_dist(tmp_path / "dist")
    put(dist, tmp_path / "a", version="1.0.0")
    make_package(dist / "runtimes/ai.greeter/0.9.0", version="0.9.0")
    make_package(dist / "runtimes/ai.old/1.0.0", name="ai.old", version="1.0.0")
    return dist


def passed(dist: Path, references: set[Reference] | None = None, protections: Protections | None = None):
    return run_retention(
        dist, references or set(), protections or Protections(), now_s=100.0, wall_s=time.time() + 3600
    )


def test_what_nobody_needs_goes_with_its_empty_directory(dist):
    assert passed(dist).removed == ("ai.greeter/0.9.0", "ai.old/1.0.0")
    assert not (dist / "runtimes/ai.old").exists()
    assert (dist / "runtimes/ai.greeter/1.0.0").is_dir()
    assert passed(dist).removed == ()


def test_what_nodes_refer_to_stays(dist):
    references = references_of(
        [
            {"runtime": "ai.greeter", "runtime_version": "0.9.0"},
            {"runtime": "ai.fr", "runtime_version": "1", "runtime_base": "ai.old"},
            {"runtime": 5},
        ]
    )
    assert Reference("ai.old") in references
    assert passed(dist, references).removed == ()


def test_young_directories_stay(dist):
    report = run_retention(dist, set(), Protections(), now_s=100.0)
    assert (report.removed, report.skipped) == ((), None)


def test_nothing_goes_while_something_is_missing(dist):
    write_manifest_text(dist, {"ai.greeter": {"available": ["1.0.0", "3"], "current": "3"}})
    report = passed(dist)
    assert report.removed == ()
    assert "not converged" in str(report.skipped)
    (dist / "runtimes/manifest.json").write_text("{")
    assert passed(dist).skipped
    assert (dist / "runtimes/ai.old/1.0.0").is_dir()


def test_an_update_protects_for_ten_minutes():
    protections = Protections()
    protections.protect("a", "1", 0.0)
    protections.protect("b", None, 10.0)
    assert protections.covers("a", "1", 1.0)
    assert not protections.covers("a", "2", 1.0)
    assert protections.covers("b", "9", 11.0)
    assert not protections.covers("a", "1", PROTECTION_S)
    protections.protect(None, None, 700.0)
    assert protections.covers("any", "1", 701.0)


def test_protections_are_bounded():
    protections = Protections()
    for number in range(300):
        protections.protect(f"r{number}", "1", 0.0)
    assert all(protections.covers(f"r{number}", "1", 1.0) for number in range(300))


def test_protected_versions_stay(dist):
    protections = Protections()
    protections.protect("ai.old", None, 50.0)
    assert passed(dist, protections=protections).removed == ("ai.greeter/0.9.0",)


def test_expendable_is_what_neither_manifest_nor_nodes_name():
    manifest = Manifest(runtimes={"a": RuntimeEntry(available=("1",), current="2")})
    present = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("c", "1")]
    assert expendable(manifest, present, {Reference("b", "1"), Reference("c", "9")}) == [
        ("a", "3"),
        ("c", "1"),
    ]
