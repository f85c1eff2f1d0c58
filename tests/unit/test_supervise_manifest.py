"""The runtime manifest: read anew, written rarely, by several processes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.supervise.manifest import (
    Manifest,
    RuntimeEntry,
    check_runtime,
    check_version,
    create_manifest,
    find_runtime,
    is_token,
    is_version,
    locked_manifest,
    manifest_path,
    next_manifest,
    read_manifest,
    write_manifest,
)
from appliance.wire.errors import Busy, Conflict, Damaged, Invalid, Unavailable
from tests.unit.packages_kit import make_dist, write_manifest_text

tokens = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,12}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
extras = st.dictionaries(st.sampled_from(["limits", "owner", "x"]), json_values, max_size=2)
entries = st.builds(
    RuntimeEntry,
    available=st.lists(tokens, unique=True, max_size=4).map(tuple),
    current=st.none() | tokens,
    package_type=st.sampled_from(["full_runtime", "config_only", "workflow", "odd"]),
    runtime_base=st.none() | tokens,
    extra=extras,
)


@settings(max_examples=25, deadline=None)
@given(
    runtimes=st.dictionaries(tokens, entries, max_size=4),
    version=st.integers(1, 2**64 - 1),
    updated_at=st.none() | st.text(max_size=10),
    extra=extras,
)
def test_what_is_written_is_read_back(tmp_path_factory, runtimes, version, updated_at, extra):
    dist = tmp_path_factory.mktemp("dist")
    (dist / "runtimes").mkdir()
    manifest = Manifest(version=version, updated_at=updated_at, runtimes=runtimes, extra=extra)
    stored = write_manifest(dist, manifest)
    again = read_manifest(dist)
    assert again.hash == stored.hash == hashlib.sha256(stored.path.read_bytes()).hexdigest()
    assert again.manifest.runtimes == runtimes
    assert (again.manifest.version, again.manifest.updated_at) == (version, updated_at)
    assert {**again.manifest.extra, "hash": None} == {**extra, "hash": None}


def test_the_file_is_pretty_and_readable_by_all(tmp_path: Path):
    dist = make_dist(tmp_path / "dist")
    path = manifest_path(dist)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_text().startswith('{\n  "schema_version": 1,\n  "version": 1000,\n')
    assert json.loads(path.read_text())["hash"] is None
    assert not create_manifest(dist, now_ms=2000)
    assert read_manifest(dist).manifest.version == 1000


def test_nothing_is_cached_and_the_hash_is_over_the_bytes(tmp_path: Path):
    dist = make_dist(tmp_path)
    write_manifest_text(dist, {"a.b": {"available": ["1.0.0"], "current": "1.0.0"}})
    first = read_manifest(dist)
    manifest_path(dist).write_text(manifest_path(dist).read_text() + "\n")
    second = read_manifest(dist)
    assert first.manifest == second.manifest
    assert first.hash != second.hash


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema_version":3,"version":1,"runtimes":{}}',
        '{"schema_version":true,"version":1,"runtimes":{}}',
        '{"schema_version":1,"version":0,"runtimes":{}}',
        '{"schema_version":1,"version":1.5,"runtimes":{}}',
        '{"schema_version":1,"version":1}',
        '{"schema_version":1,"version":1,"runtimes":[]}',
        '{"schema_version":1,"version":1,"runtimes":{},"updated_at":5}',
        '{"schema_version":1,"version":1,"runtimes":{"a":[]}}',
        '{"schema_version":1,"version":1,"runtimes":{"../a":{"available":[]}}}',
        '{"schema_version":1,"version":1,"runtimes":{"..":{"available":[]}}}',
        '{"schema_version":1,"version":1,"runtimes":{"a":{"available":["../.."]}}}',
        '{"schema_version":1,"version":1,"runtimes":{"a":{"available":[1]}}}',
        '{"schema_version":1,"version":1,"runtimes":{"a":{"available":[],"current":"a/b"}}}',
        '{"schema_version":1,"version":1,"runtimes":{"a":{"available":[],"type":5}}}',
        '{"schema_version":1,"version":1,"runtimes":{"a":{"available":[],"runtime_base":"/etc"}}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_told(tmp_path: Path, text: str):
    dist = make_dist(tmp_path)
    manifest_path(dist).write_text(text)
    with pytest.raises(Damaged) as caught:
        read_manifest(dist)
    assert caught.value.code == "MANIFEST_INVALID"


def test_a_missing_manifest_has_its_own_code(tmp_path: Path):
    with pytest.raises(Unavailable) as caught:
        read_manifest(tmp_path)
    assert caught.value.code == "RUNTIME_MANIFEST_MISSING"
    assert "initialize dist first" in str(caught.value)


def test_gaps_of_an_entry_are_filled(tmp_path: Path):
    dist = make_dist(tmp_path)
    write_manifest_text(dist, {"a": {"available": ["1", "1"], "current": "", "limits": {"pids": 5}}, "b": {}})
    runtimes = read_manifest(dist).manifest.runtimes
    entry = runtimes["a"]
    assert (entry.available, entry.current, entry.package_type) == (("1",), None, "full_runtime")
    assert entry.document()["limits"] == {"pids": 5}
    assert runtimes["b"].versions == ()
    assert RuntimeEntry(available=("1",), current="2").versions == ("1", "2")


def test_a_runtime_is_found_exactly_or_by_the_only_one_that_differs_in_case():
    manifest = Manifest(runtimes={"ai.x": RuntimeEntry(), "AI.y": RuntimeEntry(), "ai.Y": RuntimeEntry()})
    assert find_runtime(manifest, "ai.x")[0] == "ai.x"
    assert find_runtime(manifest, "AI.X")[0] == "ai.x"
    assert find_runtime(manifest, "AI.y")[0] == "AI.y"
    assert find_runtime(manifest, "ai.y") is None
    assert find_runtime(manifest, "zz") is None


def test_versions_of_the_manifest_only_grow(monkeypatch):
    before = Manifest(version=500)
    assert next_manifest(before, {}, now_ms=400).version == 501
    after = next_manifest(before, {}, now_ms=900)
    assert (after.version, after.updated_at, after.schema_version) == (900, "1970-01-01T00:00:00Z", 1)
    monkeypatch.setenv("FLUXBEE_RUNTIME_MANIFEST_WRITE_V2", "yes")
    assert next_manifest(before, {}, now_ms=0).schema_version == 2
    with pytest.raises(Conflict):
        next_manifest(Manifest(version=2**64 - 1), {}, now_ms=0)


def test_two_writers_take_turns(tmp_path: Path):
    dist = make_dist(tmp_path)

    def add(count: int) -> None:
        for _ in range(count):
            with locked_manifest(dist):
                manifest = read_manifest(dist).manifest
                total = dict(manifest.extra).get("total", 0)
                write_manifest(dist, Manifest(version=manifest.version + 1, extra={"total": total + 1}))

    threads = [threading.Thread(target=add, args=(10,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_manifest(dist).manifest.extra["total"] == 40
    assert read_manifest(dist).manifest.version == 1040


def test_who_waits_too_long_is_told(tmp_path: Path):
    dist = make_dist(tmp_path)
    with locked_manifest(dist), pytest.raises(Busy), locked_manifest(dist, timeout_s=0.05):
        pytest.fail("two at once")
    with pytest.raises(Unavailable), locked_manifest(tmp_path / "none"):
        pytest.fail("no directory")


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a b", "a\n", "ä", "a" * 129, None, 5, "a+b"])
def test_what_is_no_token(text):
    assert not is_token(text)
    with pytest.raises(Invalid):
        check_runtime(text)
    if text != "a+b":
        assert not is_version(text)
        with pytest.raises(Invalid):
            check_version(text)


def test_a_build_may_stand_in_a_version():
    assert check_version("1.0.0+build.5") == "1.0.0+build.5"
    assert check_runtime("ai.x-y_Z") == "ai.x-y_Z"


def test_an_unreadable_manifest_is_no_missing_one(tmp_path: Path):
    dist = make_dist(tmp_path)
    manifest_path(dist).unlink()
    manifest_path(dist).mkdir()
    with pytest.raises(Damaged):
        read_manifest(dist)
    os.rmdir(manifest_path(dist))
    with manifest_path(dist).open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(Damaged, match="larger"):
        read_manifest(dist)
