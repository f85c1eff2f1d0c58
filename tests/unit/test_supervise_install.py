"""Installing: wholly or not at all, once, beside other writers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest

from appliance.supervise import install as module
from appliance.supervise.bundle import unpack_bundle
from appliance.supervise.install import clean_leftovers, install_package, make_staging, quarantine_name
from appliance.supervise.manifest import locked_manifest, read_manifest
from appliance.supervise.package import validate_package
from appliance.supervise.tree import TreeLimits
from appliance.wire.errors import Conflict, Unavailable
from tests.unit.packages_kit import (
    START,
    describe,
    make_dist,
    make_package,
    make_zip,
    put,
    snapshot,
    write_manifest_text,
)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return make_dist(tmp_path / "dist")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_package_lies_where_the_manifest_says(dist, tmp_path):
    report = put(dist, tmp_path / "p", files={"bin/tool": "t", "data/x": "x"})
    target = Path(report.installed_path)
    assert target == dist / "runtimes/ai.greeter/0.1.0"
    assert (report.copied_files, report.copied_bytes) == (4, validate_package(tmp_path / "p").size_bytes)
    assert [mode(target / one) for one in (".", "bin", "bin/tool", "data/x")] == [0o755, 0o755, 0o755, 0o644]
    stored = read_manifest(dist)
    entry = stored.manifest.runtimes["ai.greeter"]
    assert (entry.available, entry.current) == (("0.1.0",), "0.1.0")
    assert (stored.manifest.version, stored.hash) == (report.manifest_version, report.manifest_hash)
    assert report.manifest_version == 5000
    assert sorted(path.name for path in (dist / "runtimes/ai.greeter").iterdir()) == ["0.1.0"]


def test_the_same_again_changes_nothing(dist, tmp_path):
    first = put(dist, tmp_path / "p")
    before = snapshot(dist)
    again = put(dist, tmp_path / "p", now_ms=9000)
    assert (again.copied_files, again.copied_bytes) == (0, 0)
    assert again.manifest_version == first.manifest_version
    assert snapshot(dist) == before


def test_the_same_again_may_change_what_is_current(dist, tmp_path):
    put(dist, tmp_path / "a", version="1.0.0")
    put(dist, tmp_path / "b", version="2.0.0", now_ms=6000)
    assert put(dist, tmp_path / "a", version="1.0.0", now_ms=7000, set_current=False).manifest_version == 6000
    assert put(dist, tmp_path / "a", version="1.0.0", now_ms=8000).manifest_version == 8000
    assert read_manifest(dist).manifest.runtimes["ai.greeter"].current == "1.0.0"


def test_other_content_under_the_same_version_is_a_conflict(dist, tmp_path):
    put(dist, tmp_path / "p")
    before = snapshot(dist)
    for files in ({"bin/start.sh": START + "# more\n"}, {"extra": "x"}, {"bin/start.sh": START[:-1] + " "}):
        with pytest.raises(Conflict, match=r"install conflict: .* different contents") as caught:
            put(dist, tmp_path / f"p{len(files)}{len(str(files))}", files=files)
        assert caught.value.code == "VERSION_CONFLICT"
    (tmp_path / "less").mkdir()
    assert snapshot(dist) == before


def test_a_name_that_differs_in_case_is_a_conflict(dist, tmp_path):
    write_manifest_text(dist, {"AI.Greeter": {"available": []}})
    with pytest.raises(Conflict) as caught:
        put(dist, tmp_path / "p")
    assert caught.value.code == "VERSION_MISMATCH"
    assert not (dist / "runtimes/ai.greeter").exists()


def test_a_given_version_is_written_and_compared(dist, tmp_path):
    package = validate_package(make_package(tmp_path / "p"), version="3.0.0")
    report = install_package(package, dist, now_ms=5000)
    assert json.loads((Path(report.installed_path) / "package.json").read_text())["version"] == "3.0.0"
    assert install_package(package, dist, now_ms=6000).copied_files == 0


def test_current_may_stay_and_foreign_keys_do(dist, tmp_path):
    entry = {"available": ["0.0.1"], "current": "0.0.1", "owner": "me"}
    write_manifest_text(dist, {"ai.greeter": entry, "other": {"available": ["1"], "x": 1}}, note="mine")
    put(dist, tmp_path / "p", set_current=False)
    document = json.loads((dist / "runtimes/manifest.json").read_text())
    assert document["runtimes"]["ai.greeter"] == {
        "available": ["0.0.1", "0.1.0"],
        "current": "0.0.1",
        "type": "full_runtime",
        "owner": "me",
    }
    assert document["runtimes"]["other"]["x"] == 1
    assert document["note"] == "mine"


def test_a_new_runtime_that_is_not_current_has_no_current(dist, tmp_path):
    put(dist, tmp_path / "p", set_current=False)
    assert read_manifest(dist).manifest.runtimes["ai.greeter"].current is None


def test_an_unpacked_bundle_is_moved_and_not_copied(dist, tmp_path):
    bundle = make_zip(tmp_path / "b.zip", {"package.json": describe(), "bin/start.sh": START})
    staging = make_staging(dist)
    package = validate_package(unpack_bundle(bundle, staging, TreeLimits()))
    inode = (package.directory / "bin/start.sh").stat().st_ino
    report = install_package(package, dist, now_ms=5000, movable=True)
    assert (Path(report.installed_path) / "bin/start.sh").stat().st_ino == inode
    staging.rmdir()


def test_what_the_manifest_refuses_goes_away_again(dist, tmp_path, monkeypatch):
    before = snapshot(dist)

    def full(*_args: object) -> None:
        raise Unavailable("no space", code="STORAGE_FULL")

    monkeypatch.setattr(module, "write_manifest", full)
    with pytest.raises(Unavailable):
        put(dist, tmp_path / "p")
    assert snapshot(dist) == before
    assert not (dist / "runtimes/ai.greeter").exists()


def test_a_full_disk_leaves_nothing(dist, tmp_path, monkeypatch):
    before = snapshot(dist)
    writes = os.write
    count = 0

    def failing(descriptor: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return writes(descriptor, data)

    source = make_package(tmp_path / "p", {"a": "a", "b": "b"})
    package = validate_package(source)
    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(Unavailable) as caught:
        install_package(package, dist, now_ms=5000)
    monkeypatch.undo()
    assert caught.value.code == "STORAGE_FULL"
    assert snapshot(dist) == before
    assert not (dist / "runtimes/ai.greeter").exists()


def test_space_is_asked_for_before_anything_is_copied(dist, tmp_path, monkeypatch):
    monkeypatch.setattr("appliance.supervise.tree.free_bytes", lambda _directory: 1000)
    with pytest.raises(Unavailable) as caught:
        put(dist, tmp_path / "p")
    assert caught.value.code == "STORAGE_FULL"
    assert not (dist / "runtimes/ai.greeter").exists()


def test_without_a_manifest_nothing_is_created(tmp_path):
    with pytest.raises(Unavailable, match="initialize dist first"):
        put(tmp_path / "dist", tmp_path / "p")
    assert not (tmp_path / "dist").exists()


def test_progress_counts_the_bytes(dist, tmp_path):
    package = validate_package(make_package(tmp_path / "p", {"big": "x" * 100}))
    steps: list[tuple[int, int]] = []
    install_package(package, dist, now_ms=5000, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (package.size_bytes, package.size_bytes)
    assert steps == sorted(steps)


# --- leftovers ---------------------------------------------------------------------------------------------


def test_old_leftovers_go_and_young_ones_stay(dist, tmp_path):
    put(dist, tmp_path / "p")
    home = dist / "runtimes/ai.greeter"
    staging = make_staging(dist)
    own = home / ".publish-9.9.9-abc-staging"
    removing = home / quarantine_name("9.9.9")
    for path in (own, removing):
        path.mkdir()
        (path / "x").write_text("x")
    assert clean_leftovers(dist) == 0
    assert clean_leftovers(dist, now_s=time.time() + 4000) == 3
    assert not any(path.exists() for path in (staging, own, removing))
    assert (home / "0.1.0").is_dir()


def test_a_removal_that_was_cut_off_is_undone(dist, tmp_path):
    put(dist, tmp_path / "a", version="1.0.0")
    home = dist / "runtimes/ai.greeter"
    (home / "1.0.0").rename(home / quarantine_name("1.0.0"))
    assert clean_leftovers(dist, now_s=time.time() + 4000) == 0
    assert (home / "1.0.0/bin/start.sh").is_file()


def test_cleaning_waits_for_nobody_for_ever(dist, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "locked_manifest", lambda dist: locked_manifest(dist, timeout_s=0.01))
    with locked_manifest(dist):
        assert clean_leftovers(dist) == 0
    assert clean_leftovers(tmp_path / "none") == 0


def test_staging_of_a_process_that_has_ended_goes_at_once(tmp_path):
    dist = make_dist(tmp_path / "dist")
    home = dist / "runtimes" / "ai.greeter"
    home.mkdir()
    mine = make_staging(dist)
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    for place in (
        dist / "runtimes" / f".publish-bundle-{ended.pid}-{uuid4().hex}-staging",
        home / f".publish-1.0.0-{ended.pid}-{uuid4().hex}-staging",
    ):
        place.mkdir()
        (place / "half").write_text("x")
    assert clean_leftovers(dist) == 2
    assert sorted(path.name for path in (dist / "runtimes").iterdir() if path.is_dir()) == [mine.name]
