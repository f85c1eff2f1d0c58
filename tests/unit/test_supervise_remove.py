"""Taking a version away, and giving it back when that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.supervise import remove as module
from appliance.supervise.manifest import read_manifest
from appliance.supervise.remove import check_dependents, check_removable, discard_version, remove_version
from appliance.wire.errors import Conflict, FluxbeeError, Unavailable
from tests.unit.packages_kit import make_dist, put, snapshot, write_manifest_text


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    dist = make_dist(tmp_path / "dist")
    put(dist, tmp_path / "a", version="1.0.0")
    put(dist, tmp_path / "b", version="2.0.0", now_ms=6000)
    return dist


def code_of(dist: Path, runtime: str, version: str) -> str:
    with pytest.raises(FluxbeeError) as caught:
        remove_version(dist, runtime, version, now_ms=7000)
    return caught.value.code


def test_a_version_that_is_not_current_goes(dist):
    report = remove_version(dist, "AI.Greeter", "1.0.0", now_ms=7000)
    assert (report.runtime, report.removed_version, report.current) == ("ai.greeter", "1.0.0", "2.0.0")
    assert (report.manifest_version, report.removed_runtime_dir) == (7000, False)
    assert report.manifest_hash == read_manifest(dist).hash
    assert read_manifest(dist).manifest.runtimes["ai.greeter"].available == ("2.0.0",)
    assert [path.name for path in (dist / "runtimes/ai.greeter").iterdir()] == ["2.0.0"]


def test_the_order_of_the_checks(dist):
    assert code_of(dist, "ai.none", "1.0.0") == "RUNTIME_NOT_FOUND"
    assert code_of(dist, "ai.greeter", "current") == "RUNTIME_CURRENT_CONFLICT"
    assert code_of(dist, "ai.greeter", "2.0.0") == "RUNTIME_CURRENT_CONFLICT"
    assert code_of(dist, "ai.greeter", "9.9.9") == "RUNTIME_VERSION_NOT_FOUND"
    remove_version(dist, "ai.greeter", "1.0.0", now_ms=7000)
    assert code_of(dist, "ai.greeter", "2.0.0") == "RUNTIME_CURRENT_CONFLICT"


def test_a_base_with_dependents_stays_whatever_the_version(dist, tmp_path):
    put(
        dist,
        tmp_path / "f",
        name="ai.fr",
        version="1.0.0",
        kind="config_only",
        runtime_base="ai.greeter",
        now_ms=6500,
    )
    before = snapshot(dist)
    assert code_of(dist, "ai.greeter", "1.0.0") == "RUNTIME_HAS_DEPENDENTS"
    with pytest.raises(Conflict) as caught:
        check_dependents(read_manifest(dist).manifest, "ai.greeter")
    assert caught.value.details["dependents"] == [
        {
            "runtime": "ai.fr",
            "current": "1.0.0",
            "available": ("1.0.0",),
            "type": "config_only",
            "runtime_base": "ai.greeter",
        }
    ]
    assert snapshot(dist) == before


def test_a_version_without_files_leaves_the_manifest_only(dist):
    write_manifest_text(dist, {"x.y": {"available": ["1", "2"], "current": "2"}}, version=10**15)
    report = remove_version(dist, "x.y", "1", now_ms=7000)
    assert report.manifest_version == 10**15 + 1
    assert not report.removed_runtime_dir


def test_the_last_version_of_a_runtime_without_current_takes_the_runtime_along(dist, tmp_path):
    put(dist, tmp_path / "n", name="ai.new", set_current=False, now_ms=6500)
    report = remove_version(dist, "ai.new", "0.1.0", now_ms=7000)
    assert report.removed_runtime_dir
    assert "ai.new" not in read_manifest(dist).manifest.runtimes
    assert not (dist / "runtimes/ai.new").exists()


def test_what_cannot_be_written_comes_back(dist, monkeypatch):
    before = snapshot(dist)

    def full(*_args: object) -> None:
        raise Unavailable("no space", code="STORAGE_FULL")

    monkeypatch.setattr(module, "write_manifest", full)
    assert code_of(dist, "ai.greeter", "1.0.0") == "RUNTIME_REMOVE_FAILED"
    assert snapshot(dist) == before
    assert len(list((dist / "runtimes/ai.greeter").iterdir())) == 2


def test_files_that_do_not_go_do_not_matter(dist, monkeypatch):
    monkeypatch.setattr(module, "remove_tree", lambda _path: Unavailable("busy"))
    remove_version(dist, "ai.greeter", "1.0.0", now_ms=7000)
    assert "1.0.0" not in read_manifest(dist).manifest.runtimes["ai.greeter"].available
    assert not (dist / "runtimes/ai.greeter/1.0.0").exists()


def test_a_directory_alone_is_discarded_with_its_empty_parent(dist):
    discard_version(dist, "ai.greeter", "1.0.0")
    assert (dist / "runtimes/ai.greeter").is_dir()
    discard_version(dist, "ai.greeter", "2.0.0")
    discard_version(dist, "ai.greeter", "2.0.0")
    assert not (dist / "runtimes/ai.greeter").exists()


def test_the_check_gives_the_exact_name(dist):
    assert check_removable(read_manifest(dist).manifest, "AI.GREETER", "1.0.0")[0] == "ai.greeter"
