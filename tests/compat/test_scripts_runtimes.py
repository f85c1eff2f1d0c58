"""Operators' scripts about runtimes, packages and updates (``spec/admin-api.md §F.1, §F.2``), row by row."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from appliance.testing.hive import HiveHarness

from .operator_box import HELD, NODE, SETTINGS, SLEEPER, TENANT, Box, write_package, write_script, zipped

pytestmark = pytest.mark.process

NO_HASH = "0" * 64


@pytest.fixture(scope="module")
def harness(module_hive_folder):
    with HiveHarness(module_hive_folder, planes="apart", settings=SETTINGS) as running:
        yield running


@pytest.fixture
def box(harness):
    """The hive with an empty manifest: one broken runtime makes untargeted updates of others wait (§G.30)."""
    with Box.of(harness) as box:
        yield box
        box.edit_manifest(dict.clear)


def publish_tool(box, folder, *more):
    environment = {**os.environ, **box.environment}
    command = [sys.executable, "-m", "appliance", "publish", str(folder), *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("channel", ["dist", "blob"])
def test_orchestrator_sync_hint_api(box, channel):
    answer = box.call("POST", f"/hives/{box.hive}/sync-hint", {"channel": channel})
    assert answer["status"] != "error"
    assert answer["payload"]["status"] in ("ok", "sync_pending")


@pytest.mark.parametrize("category", ["runtime", "core", "vendor"])
def test_orchestrator_system_update_api(box, category):
    box.install("wf.orch.diag", "0.0.1")
    known = box.versions()[{"runtime": "runtimes"}.get(category, category)]
    version = 0 if category == "core" else known.get("manifest_version", 0)
    pending = box.update(code=202, category=category, manifest_version=version, manifest_hash=NO_HASH)
    assert pending["status"] == pending["payload"]["status"] == "sync_pending"
    current = known.get("manifest_hash") or pending["payload"].get("local_manifest_hash")
    if category == "vendor" and not current:
        assert known["status"] == "missing"
        assert isinstance(known["syncthing_present"], bool)
        return
    assert re.fullmatch("[0-9a-f]{64}", current)
    done = box.update(code=None, category=category, manifest_version=version, manifest_hash=current)
    assert done["payload"]["status"] in ("ok", "rollback")
    entries = box.get(f"/hives/{box.hive}/deployments?category={category}")["payload"]["entries"]
    assert any(
        worker["hive_id"] == box.hive and worker["status"] == "ok"
        for one in entries
        for worker in one["workers"]
    )


def test_orchestrator_system_update_api_stale(box):
    box.install("wf.orch.diag", "0.0.1")
    known = box.versions()["runtimes"]
    stale = box.update(
        code=409, manifest_version=known["manifest_version"] - 1, manifest_hash=known["manifest_hash"]
    )
    assert stale["error_code"] == "VERSION_MISMATCH"
    ahead = box.update(
        code=202, manifest_version=known["manifest_version"] + 1, manifest_hash=known["manifest_hash"]
    )
    assert ahead["status"] == "sync_pending"


def test_orchestrator_no_ssh_run_kill_update(box):
    key = box.lib / "ssh" / "motherbee.key"
    key.parent.mkdir(exist_ok=True)
    key.write_text("garbage")
    box.install("wf.orch.diag", "0.0.1")
    assert box.spawn("WF.nossh", runtime="wf.orch.diag")["status"] == "ok"
    assert box.kill("WF.nossh")["status"] == "ok"
    known = box.versions()["runtimes"]
    done = box.update(
        code=None, manifest_version=known["manifest_version"], manifest_hash=known["manifest_hash"]
    )
    assert done["status"] != "error"
    assert done["payload"]["status"] in ("ok", "sync_pending", "rollback")
    box.remove("WF.nossh")
    key.unlink()


def test_runtime_lifecycle_fr8(box):
    box.install("wf.fr8", "2.0.0", start=None)
    shutil.rmtree(box.runtimes / "wf.fr8")
    ready = box.readiness("wf.fr8", "2.0.0")
    assert (ready["runtime_present"], ready["start_sh_executable"]) == (False, False)
    assert box.spawn("WF.fr8", code=500)["error_code"] == "RUNTIME_NOT_PRESENT"
    write_script(box.runtimes / "wf.fr8" / "2.0.0" / "bin" / "start.sh", SLEEPER)
    ready = box.readiness("wf.fr8", "2.0.0")
    assert (ready["runtime_present"], ready["start_sh_executable"]) == (True, True)
    assert box.spawn("WF.fr8")["status"] == "ok"
    box.remove("WF.fr8")


def bundle(box, tmp_path, files, **package):
    source = write_package(tmp_path / package["name"], files, **package)
    name = f"packages/incoming/{package['name']}-{package['version']}.zip"
    zipped(source, box.lib / "blob" / name)
    return {"source": {"kind": "bundle_upload", "blob_path": name}}


def publish(box, body, code=200):
    return box.call("POST", "/admin/runtime-packages/publish", body, code)


def test_runtime_packaging_pub_t22_full_runtime(box, tmp_path):
    files = {"bin/start.sh": NODE, "main.py": HELD}
    body = bundle(box, tmp_path, files, name="ai.tee", version="0.1.0", type="full_runtime")
    answer = publish(box, {**body, "sync_to": [box.hive], "update_to": [box.hive]})
    follow = answer["payload"]["follow_up"]
    assert follow["sync_hint"][0]["response"]["status"] == "ok"
    assert follow["update"][0]["response"]["status"] == "ok"
    assert follow["update"][0]["response"]["error_code"] is None
    assert not (box.lib / "blob" / body["source"]["blob_path"]).exists()
    ready = box.readiness("ai.tee", "0.1.0")
    assert ready == {"runtime_present": True, "start_sh_executable": True, "base_runtime_ready": True}
    box.spawn("AI.tee")
    status = box.running("AI.tee")
    assert (status["runtime"]["name"], status["runtime"]["resolved_version"]) == ("ai.tee", "0.1.0")
    box.remove("AI.tee")


def test_runtime_packaging_pub_t23_config_only(box, tmp_path):
    box.install("ai.base", "1.0.0", NODE, HELD)
    files = {"config/default-config.json": '{"prompt":"kind"}'}
    package = {"name": "ai.base.fr", "version": "1.0.0", "type": "config_only", "runtime_base": "ai.base"}
    body = bundle(box, tmp_path, files, **package)
    assert publish(box, {**body, "update_to": [box.hive]})["status"] == "ok"
    assert box.readiness("ai.base.fr", "1.0.0")["base_runtime_ready"] is True
    box.spawn("AI.base.fr", runtime="ai.base.fr")
    status = box.running("AI.base.fr")
    assert (status["runtime"]["name"], status["runtime"]["resolved_version"]) == ("ai.base.fr", "1.0.0")
    config = box.get(box.node("AI.base.fr", "/config"))["payload"]["config"]
    assert config["prompt"] == "kind"
    assert config["_system"]["runtime_base"] == "ai.base"
    assert config["_system"]["package_path"] == str(box.runtimes / "ai.base.fr" / "1.0.0")
    box.remove("AI.base.fr")


def inline(**package):
    return {"source": {"kind": "inline_package", "files": {"package.json": json.dumps(package)}}}


def test_runtime_packaging_pub_t25(box):
    no_base = {"name": "ai.lone", "version": "1.0.0", "type": "config_only"}
    refused = publish(box, inline(**no_base), code=400)
    assert refused["error_code"] == "INVALID_REQUEST"
    assert "runtime_base is required for config_only" in str(refused)
    answer = publish(
        box, {**inline(**no_base, runtime_base="ai.nowhere"), "update_to": [box.hive]}, code=None
    )
    assert isinstance(answer["payload"]["manifest_version"], int)
    assert answer["payload"]["follow_up"]["update"][0]["response"]["status"] in ("ok", "sync_pending")
    ready = box.readiness("ai.lone", "1.0.0")
    assert (ready["runtime_present"], ready["start_sh_executable"], ready["base_runtime_ready"]) == (
        True,
        False,
        False,
    )
    assert box.spawn("AI.lone", code=500)["error_code"] == "BASE_RUNTIME_NOT_AVAILABLE"
    box.install("ai.nowhere", "1.0.0", start=None)
    assert box.spawn("AI.lone", code=500)["error_code"] == "BASE_RUNTIME_NOT_PRESENT"


def test_runtime_packaging_pub_t26_through_the_tool(box, tmp_path):
    files = {"bin/start.sh": SLEEPER, "config/default-config.json": '{"a":1,"b":1,"_system":{"leak":1}}'}
    folder = write_package(tmp_path / "p", files, name="wf.tool", version="0.3.0", type="full_runtime")
    told = publish_tool(box, folder, "--deploy", box.hive)
    assert told.returncode == 0, told.stderr
    version = re.search(r"^Manifest: .* \(version=([0-9]+)\)$", told.stdout, re.M)
    assert version is not None
    assert int(version[1]) == box.versions()["runtimes"]["manifest_version"]
    assert re.search(r"sync_hint_status=ok update_status=ok update_error_code=$", told.stdout, re.M)
    assert f"Installed path: {box.runtimes / 'wf.tool' / '0.3.0'}" in told.stdout
    box.spawn("WF.tool", tenant_id=TENANT, config={"b": 2, "c": 3, "tenant_id": TENANT})
    config = box.get(box.node("WF.tool", "/config"))["payload"]["config"]
    assert (config["a"], config["b"], config["c"]) == (1, 2, 3)
    assert "leak" not in config["_system"]
    box.remove("WF.tool")


def test_orchestrator_runtime_targeted(box):
    box.install("wf.good", "1.0.0")
    box.install("wf.broken", "1.0.0", start=None)
    known = box.versions()["runtimes"]
    wanted = {"manifest_version": known["manifest_version"], "manifest_hash": known["manifest_hash"]}
    done = box.update(**wanted, runtime="wf.good", runtime_version="1.0.0")["payload"]
    assert done["readiness_scope"] == "targeted"
    assert done["targeted_runtime_health"]["status"] == "ok"
    assert done["global_runtime_health"]["status"] != "ok"
    assert box.update(code=202, **wanted)["payload"]["errors"]
    shown = box.get(f"/hives/{box.hive}/runtimes/wf.good")["payload"]["materialization"]["versions"]["1.0.0"]
    assert (shown["materialized"], shown["start_script_present"], shown["start_script_executable"]) == (
        True,
    ) * 3
    assert shown["blocking_reason"] is None
    broken = box.get(f"/hives/{box.hive}/runtimes/wf.broken")["payload"]["materialization"]["versions"][
        "1.0.0"
    ]
    assert broken["blocking_reason"] == "missing_start_script"


def test_admin_runtime_delete(box):
    base = f"/hives/{box.hive}/runtimes"
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        box.install("ai.del", version, NODE, HELD)
    removed = box.call("DELETE", f"{base}/ai.del/versions/1.0.0")["payload"]
    assert removed["removed_version"] == "1.0.0"
    assert box.get(f"{base}/ai.del")["payload"]["runtime"]["available"] == ["1.1.0", "1.2.0"]
    assert not (box.runtimes / "ai.del" / "1.0.0").exists()
    code = box.call("DELETE", f"{base}/ai.del/versions/9.9.9", code=404)["error_code"]
    assert code == "RUNTIME_VERSION_NOT_FOUND"
    box.install("ai.sole", "1.0.0")
    code = box.call("DELETE", f"{base}/ai.sole/versions/1.0.0", code=409)["error_code"]
    assert code == "RUNTIME_CURRENT_CONFLICT"
    box.spawn("AI.del", runtime_version="1.1.0")
    box.running("AI.del")
    in_use = box.call("DELETE", f"{base}/ai.del/versions/1.1.0", code=409)
    assert in_use["error_code"] == "RUNTIME_IN_USE"
    assert in_use["payload"]["usage_global_visible"]["running_count"] == 1
    box.remove("AI.del")
    box.install("ai.del.on", "1.0.0", start=None, type="config_only", runtime_base="ai.del")
    dependents = box.call("DELETE", f"{base}/ai.del/versions/1.1.0", code=409)
    assert dependents["error_code"] == "RUNTIME_HAS_DEPENDENTS"
    assert dependents["payload"]["dependents"][0]["runtime"] == "ai.del.on"


def test_publish_again_is_idempotent_and_differing_contents_conflict(box, tmp_path):
    files = {"bin/start.sh": SLEEPER}
    package = {"name": "wf.twice", "version": "1.0.0", "type": "full_runtime"}
    first = publish(box, bundle(box, tmp_path / "a", files, **package))["payload"]
    again = publish(box, bundle(box, tmp_path / "b", files, **package))["payload"]
    assert (again["copied_files"], again["copied_bytes"]) == (0, 0)
    assert again["manifest_version"] == first["manifest_version"]
    files["bin/start.sh"] = SLEEPER + "# other\n"
    other = publish(box, bundle(box, tmp_path / "c", files, **package), code=409)
    assert other["error_code"] == "VERSION_CONFLICT"
