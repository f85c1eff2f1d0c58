"""The manifests of the program and of what came with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.supervise import core as module
from appliance.supervise.core import ensure_core_manifest, normalized, read_core, read_vendor
from appliance.wire.errors import Damaged, NotFound


def test_our_manifest_follows_the_program(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_bytes(b"one")
    monkeypatch.setattr(module, "_build", lambda: (program.read_text(), [program]))
    assert ensure_core_manifest(tmp_path)
    first = read_core(tmp_path)
    assert first.components["fluxbee"]["size"] == 3
    assert not ensure_core_manifest(tmp_path)
    program.write_bytes(b"three")
    assert ensure_core_manifest(tmp_path)
    assert read_core(tmp_path).hash != first.hash
    assert (tmp_path / "core/manifest.json").stat().st_mode & 0o777 == 0o644


def test_somebody_elses_manifest_stays(tmp_path):
    path = tmp_path / "core/manifest.json"
    path.parent.mkdir()
    for text in ('{"components":{}}', "broken"):
        path.write_text(text)
        assert not ensure_core_manifest(tmp_path)
        assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"components":[]}', "[" * 50_000])
def test_what_is_no_manifest(tmp_path, text):
    for part, read in (("core", read_core), ("vendor", read_vendor)):
        path = tmp_path / part / "manifest.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(Damaged) as caught:
            read(tmp_path)
        assert caught.value.code == "MANIFEST_INVALID"


def test_nothing_there(tmp_path, monkeypatch):
    with pytest.raises(NotFound):
        read_core(tmp_path)
    monkeypatch.setattr(module.shutil, "which", lambda _name: None)
    vendor = read_vendor(tmp_path)
    assert (vendor.present, vendor.tool_present) == (False, False)
    assert vendor.hash.startswith("e3b0c442")
    tool = tmp_path / "syncthing"
    tool.write_bytes(b"x")
    monkeypatch.setattr(module.shutil, "which", lambda _name: str(tool))
    assert read_vendor(tmp_path).tool_present
    assert read_vendor(tmp_path).hash.startswith("2d711642")


def test_a_vendor_manifest(tmp_path: Path):
    (tmp_path / "vendor").mkdir()
    tool = {"version": "1.27.0", "sha256": " SHA256:AB ".strip().lower()}
    document = {"schema_version": 1, "version": 3, "updated_at": "x", "components": {"syncthing": tool}}
    (tmp_path / "vendor/manifest.json").write_text(json.dumps(document))
    vendor = read_vendor(tmp_path)
    assert (vendor.present, vendor.tool_present, vendor.version, vendor.hash) == (True, True, 3, "ab")
    assert normalized(" sha256:AB ") == normalized("ab")
