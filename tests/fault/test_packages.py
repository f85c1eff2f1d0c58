"""Packages against everything that goes wrong: hostile archives, a full disk, a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.api import AdminApi, Envelope
from appliance.supervise.install import clean_leftovers, install_package
from appliance.supervise.manifest import read_manifest
from appliance.supervise.package import validate_package
from appliance.testing.hive import HiveHarness
from appliance.wire.errors import Unavailable
from tests.unit.packages_kit import (
    START,
    describe,
    make_dist,
    make_package,
    make_zip,
    snapshot,
    write_manifest_text,
)

TENANT = "tnt:00000000-0000-4000-8000-000000000001"
GOOD = {"package.json": describe(), "bin/start.sh": START}


# --- a running hive ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HiveHarness]:
    with HiveHarness(tmp_path_factory.mktemp("hv")) as harness:
        yield harness


@pytest.fixture
def api(hive: HiveHarness) -> AdminApi:
    return AdminApi(hive.url)


@pytest.fixture
def unchanged(hive: HiveHarness) -> Iterator[None]:
    """Nothing may be installed, listed or left lying about."""
    before = snapshot(hive.paths.dist)
    yield
    assert snapshot(hive.paths.dist) == before
    assert not list((hive.paths.dist / "runtimes").rglob(".publish-*"))


def publish_bundle(hive: HiveHarness, api: AdminApi, data: bytes) -> Envelope:
    """Upload by the blob store and publish."""
    blob = hive.paths.blob / "incoming.zip"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    source = {"kind": "bundle_upload", "blob_path": "incoming.zip"}
    return api.call("POST", "/admin/runtime-packages/publish", {"source": source})


def with_entry(tmp_path: Path, name: str, mode: int = 0o100644, content: bytes = b"x") -> bytes:
    path = make_zip(tmp_path / "b.zip", GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, content)
    return path.read_bytes()


def claiming(tmp_path: Path, size: int) -> bytes:
    raw = bytearray(make_zip(tmp_path / "b.zip", GOOD).read_bytes())
    struct.pack_into("<L", raw, raw.rfind(b"PK\x01\x02") + 24, size)
    return bytes(raw)


def wrong_checksum(tmp_path: Path) -> bytes:
    raw = bytearray(make_zip(tmp_path / "b.zip", GOOD).read_bytes())
    struct.pack_into("<L", raw, raw.rfind(b"PK\x01\x02") + 16, 0xDEAD)
    return bytes(raw)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.usefixtures("unchanged")
def test_hostile_bundles_are_refused_and_leave_nothing(hive, api, tmp_path):
    whole = make_zip(tmp_path / "w.zip", GOOD).read_bytes()
    cases = {
        "traversal": (with_entry(tmp_path, "ai.greeter/../../../etc/evil"), 400, "INVALID_REQUEST"),
        "absolute": (with_entry(tmp_path, "/etc/evil"), 400, "INVALID_REQUEST"),
        "symlink": (with_entry(tmp_path, "ai.greeter/l", 0o120777, b"/etc"), 400, "INVALID_REQUEST"),
        "device": (with_entry(tmp_path, "ai.greeter/d", 0o060644), 400, "INVALID_REQUEST"),
        "pipe": (with_entry(tmp_path, "ai.greeter/p", 0o010644), 400, "INVALID_REQUEST"),
        "case": (with_entry(tmp_path, "ai.greeter/PACKAGE.json"), 400, "INVALID_REQUEST"),
        "two roots": (with_entry(tmp_path, "other/x"), 422, "INVALID_PACKAGE_LAYOUT"),
        "claims 4 GiB": (claiming(tmp_path, 0xFFFF_FFF0), 400, "INVALID_REQUEST"),
        "claims less": (claiming(tmp_path, 3), 400, "INVALID_ZIP"),
        "truncated": (whole[:-30], 400, "INVALID_ZIP"),
        "truncated middle": (whole[:60] + whole[90:], 400, "INVALID_ZIP"),
        "checksum": (wrong_checksum(tmp_path), 400, "INVALID_ZIP"),
        "not a zip": (b"#!/bin/sh\n" * 100, 400, "INVALID_ZIP"),
    }
    for what, (data, status, code) in cases.items():
        answer = publish_bundle(hive, api, data)
        assert (answer.http_status, answer.error_code) == (status, code), what


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.usefixtures("unchanged")
def test_packages_that_could_not_start_are_refused(hive, api, tmp_path):
    missing = make_zip(tmp_path / "m.zip", {"package.json": describe(), "data/x": "x"}).read_bytes()
    answer = publish_bundle(hive, api, missing)
    assert (answer.http_status, answer.error_code) == (400, "INVALID_REQUEST")
    assert "bin/start.sh" in str(answer.error_detail)
    flat = tmp_path / "flat.zip"
    with zipfile.ZipFile(flat, "w") as archive:
        for name, text in GOOD.items():
            info = zipfile.ZipInfo(f"ai.greeter/{name}")
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, text)
    answer = publish_bundle(hive, api, flat.read_bytes())
    assert (answer.http_status, answer.error_code) == (400, "INVALID_REQUEST")
    assert "not executable" in str(answer.error_detail)


def spawn(api: AdminApi, runtime: str) -> Envelope:
    body = {"node_name": f"AI.{runtime.replace('.', '-')}", "runtime": runtime, "tenant_id": TENANT}
    return api.call("POST", "/hives/motherbee/nodes", body)


@pytest.mark.slow
@pytest.mark.process
def test_what_is_missing_is_seen_in_readiness_and_told_at_spawn(hive, api):
    config = {"package.json": describe("ai.fr", "1.0.0", "config_only", runtime_base="ai.nobase")}
    source = {"kind": "inline_package", "files": config}
    assert api.call("POST", "/admin/runtime-packages/publish", {"source": source}).http_status == 200
    versions = api.call("GET", "/hives/motherbee/versions").fields()["hive"]["runtimes"]["runtimes"]
    assert versions["ai.fr"]["readiness"]["1.0.0"] == {
        "runtime_present": True,
        "start_sh_executable": False,
        "base_runtime_ready": False,
    }
    answer = spawn(api, "ai.fr")
    assert (answer.http_status, answer.error_code) == (500, "BASE_RUNTIME_NOT_AVAILABLE")
    document = json.loads((hive.paths.dist / "runtimes/manifest.json").read_text())
    listed = {"available": ["1"], "current": "1"}
    runtimes = {**document["runtimes"], "ai.nobase": listed, "ai.nofiles": listed}
    write_manifest_text(hive.paths.dist, runtimes, version=document["version"] + 1)
    assert spawn(api, "ai.fr").error_code == "BASE_RUNTIME_NOT_PRESENT"
    answer = spawn(api, "ai.nofiles")
    assert (answer.http_status, answer.error_code) == (500, "RUNTIME_NOT_PRESENT")
    diagnostics = answer.fields()
    assert str(diagnostics["expected_path"]).endswith("ai.nofiles/1/bin/start.sh")
    assert diagnostics["runtime_materialization"]["versions"]["1"]["blocking_reason"] == "missing_package_dir"
    script = hive.paths.dist / "runtimes/ai.nofiles/1/bin/start.sh"
    script.parent.mkdir(parents=True)
    script.write_text(START)
    assert "not executable" in str(spawn(api, "ai.nofiles").error_detail)
    script.chmod(0o755)
    assert spawn(api, "ai.nofiles").http_status == 200


# --- kill -9 -----------------------------------------------------------------------------------------------

_CHILD = """
import sys, time
from pathlib import Path
from appliance.supervise import install, tree
from appliance.supervise.package import validate_package

source, dist, step = sys.argv[1:]

def stop(name, module):
    original = getattr(module, name)
    def stopped(*args, **more):
        print("here", flush=True)
        time.sleep(60)
        return original(*args, **more)
    setattr(module, name, stopped)

places = {"copy": "_pieces", "modes": "normalize_modes", "sync": "sync_tree", "list": "write_manifest"}
stop(places[step], tree if step == "copy" else install)
install.install_package(validate_package(Path(source)), Path(dist), now_ms=9000)
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("step", ["copy", "modes", "sync", "list"])
def test_a_kill_at_any_step_leaves_nothing_half_installed(tmp_path, step):
    dist = make_dist(tmp_path / "dist")
    source = make_package(tmp_path / "p", {"data/x": "x" * 10_000})
    before = read_manifest(dist)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(source), str(dist), step], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        child.send_signal(signal.SIGKILL)
    assert read_manifest(dist).hash == before.hash
    clean_leftovers(dist, now_s=time.time() + 7200)  # the next start, two hours later
    home = dist / "runtimes/ai.greeter"
    if step == "list":  # complete, and not listed yet
        assert sorted(path.name for path in home.iterdir()) == ["0.1.0"]
    else:
        assert not home.exists()
    report = install_package(validate_package(source), dist, now_ms=9500)
    assert report.copied_files == (0 if step == "list" else 3)
    assert read_manifest(dist).manifest.runtimes["ai.greeter"].current == "0.1.0"
    assert (home / "0.1.0/data/x").read_text() == "x" * 10_000


@pytest.mark.slow
@pytest.mark.process
def test_programs_that_publish_at_once_lose_nothing(tmp_path):
    dist = make_dist(tmp_path / "lib/dist")
    versions = [f"1.0.{number}" for number in range(4)]
    command = [sys.executable, "-c", "import sys; from appliance.cli.publish import main; sys.exit(main())"]
    environment = {**os.environ, "FLUXBEE_ROOT": str(tmp_path)}
    source = str(make_package(tmp_path / "p"))
    programs = [
        subprocess.Popen([*command, source, "--version", version], env=environment, stdout=subprocess.DEVNULL)
        for version in versions
    ]
    assert [program.wait(60) for program in programs] == [0] * len(versions)
    entry = read_manifest(dist).manifest.runtimes["ai.greeter"]
    assert sorted(entry.available) == versions
    assert sorted(path.name for path in (dist / "runtimes/ai.greeter").iterdir()) == versions


# --- a full disk -------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], check=True)
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.privileged
def test_a_disk_that_is_full_from_the_start(small, tmp_path):
    dist = make_dist(small / "dist")
    package = validate_package(make_package(tmp_path / "p", {"big": "x" * 1_500_000}))
    before = snapshot(dist)
    with pytest.raises(Unavailable) as caught:
        install_package(package, dist, now_ms=5000)
    assert caught.value.code == "STORAGE_FULL"
    assert snapshot(dist) == before


@pytest.mark.privileged
def test_a_disk_that_fills_while_a_package_is_copied(small, tmp_path, monkeypatch):
    dist = make_dist(small / "dist")
    files = {f"data/{number}": "x" * 100_000 for number in range(30)}
    package = validate_package(make_package(tmp_path / "p", files))
    before = snapshot(dist)
    # Somebody else fills it after the question for space.
    monkeypatch.setattr("appliance.supervise.tree.free_bytes", lambda _directory: 1 << 40)
    with pytest.raises(Unavailable) as caught:
        install_package(package, dist, now_ms=5000)
    assert caught.value.code == "STORAGE_FULL"
    assert snapshot(dist) == before
    assert not (dist / "runtimes/ai.greeter").exists()
    less = validate_package(make_package(tmp_path / "q"))
    monkeypatch.undo()
    assert install_package(less, dist, now_ms=6000).copied_files == 2


@pytest.mark.privileged
def test_a_disk_that_is_full_when_the_package_is_listed(small, tmp_path, monkeypatch):
    dist = make_dist(small / "dist")
    package = validate_package(make_package(tmp_path / "p"))
    before = snapshot(dist)
    from appliance.supervise import install as module

    listing = module.write_manifest

    def filled(*args: object) -> object:
        descriptor = os.open(small / "ballast", os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(descriptor, b"b" * 4096):
                pass
        except OSError:
            pass
        finally:
            os.close(descriptor)
        return listing(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_manifest", filled)
    with pytest.raises(Unavailable) as caught:
        install_package(package, dist, now_ms=5000)
    assert caught.value.code == "STORAGE_FULL"
    (small / "ballast").unlink()
    assert snapshot(dist) == before
    assert not (dist / "runtimes/ai.greeter").exists()
