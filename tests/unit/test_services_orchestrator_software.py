"""Verbs of runtimes, updates, history, hives and storage, on real files and a real journal."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from appliance.services.orchestrator.hives import AddHiveRequest, WanSettings
from appliance.services.orchestrator.house import House, Payload
from appliance.services.orchestrator.software import Software, SoftwareConfig
from appliance.services.orchestrator.updates import SyncSettings
from appliance.settings.own import Orchestrator
from appliance.supervise.instance import Instance
from appliance.supervise.lifecycle import Phase
from appliance.supervise.manifest import read_manifest
from appliance.supervise.tree import TreeLimits
from appliance.system.paths import Paths
from appliance.testing.clock import FakeClock
from appliance.wire.errors import FluxbeeError, Unavailable
from tests.unit.packages_kit import START, describe, make_package, make_zip, put, write_manifest_text

WAN = WanSettings(listen="127.0.0.1:9000")


class Box:
    """A hive without processes and without a router."""

    def __init__(
        self, root: Path, *, role: str = "motherbee", wan: WanSettings = WAN, **config: object
    ) -> None:
        self.paths = Paths(root)
        for place in (self.paths.etc, self.paths.lib, self.paths.journals, self.paths.blob):
            place.mkdir(parents=True, exist_ok=True)
        self.running: list[SimpleNamespace] = []
        self.clock = FakeClock()
        self.house = House(
            hive="motherbee",
            role=role,  # type: ignore[arg-type]
            paths=self.paths,
            settings=Orchestrator(),
            clock=self.clock,
            supervisor=SimpleNamespace(processes=lambda: self.running),  # type: ignore[arg-type]
            router=None,  # type: ignore[arg-type]
            started_at=0.0,
        )
        bootstrap = config.pop("bootstrap", None)
        more = {} if bootstrap is None else {"bootstrap": bootstrap}
        self.software = Software(
            self.house,
            SoftwareConfig(
                blobs=self.paths.blob,
                storage=self.paths.lib,
                config_file=self.paths.hive_yaml,
                wan=wan,
                **config,  # type: ignore[arg-type]
            ),
            **more,  # type: ignore[arg-type]
        )

    @property
    def dist(self) -> Path:
        return self.paths.dist

    async def ask(self, action: str, **request: object) -> Payload:
        payload = await self.software.handlers[action](request, "SY.admin@motherbee")
        return dict(json.loads(json.dumps(payload)))

    async def refused(self, action: str, **request: object) -> FluxbeeError:
        with pytest.raises(FluxbeeError) as caught:
            await self.ask(action, **request)
        return caught.value

    def add_node(
        self, name: str, runtime: str, version: str, *, active: bool = True, **system: object
    ) -> None:
        instance = Instance(self.paths, name)
        part = {"runtime": runtime, "runtime_version": version, **system}
        instance.create_config({"_system": part})
        self.running.append(SimpleNamespace(name=name, active=active, phase=Phase.RUNNING))


def run(root: Path, body: Callable[[Box], Awaitable[None]], **config: object) -> None:
    async def opened() -> None:
        box = Box(root, **config)  # type: ignore[arg-type]
        with trio.fail_after(30):
            async with box.software.opened():
                await body(box)

    trio.run(opened)


def inline(files: dict[str, str] | None = None, **about: object) -> dict[str, object]:
    described = {"package.json": describe(**about), "bin/start.sh": START}  # type: ignore[arg-type]
    return {"kind": "inline_package", "files": {**described, **(files or {})}}


# --- start -------------------------------------------------------------------------------------------------


def test_the_first_start_writes_manifests_and_the_next_changes_nothing(tmp_path):
    seen: list[str] = []

    async def body(box: Box) -> None:
        hive = (await box.ask("get_versions"))["hive"]
        assert hive["runtimes"]["status"] == "ok"
        assert hive["runtimes"]["runtimes"] == {}
        assert set(hive["core"]["components"]) == {"fluxbee"}
        assert len(hive["core"]["components"]["fluxbee"]["sha256"]) == 64
        assert hive["vendor"]["status"] == "missing"
        core = (box.dist / "core/manifest.json").read_bytes()
        assert hive["core"]["manifest_hash"] == hashlib.sha256(core).hexdigest()
        seen.append(json.dumps(hive))

    run(tmp_path, body)
    run(tmp_path, body)
    assert seen[0] == seen[1]


def test_a_core_manifest_of_somebody_else_stays(tmp_path):
    (tmp_path / "lib/dist/core").mkdir(parents=True)
    text = '{"schema_version":1,"components":{"sy-admin":{"version":"1"}}}'
    (tmp_path / "lib/dist/core/manifest.json").write_text(text)

    async def body(box: Box) -> None:
        assert set((await box.ask("get_versions"))["hive"]["core"]["components"]) == {"sy-admin"}

    run(tmp_path, body)
    assert (tmp_path / "lib/dist/core/manifest.json").read_text() == text


def test_parts_that_do_not_read_are_told_beside_the_others(tmp_path):
    async def body(box: Box) -> None:
        (box.dist / "core/manifest.json").write_text("{")
        (box.dist / "runtimes/manifest.json").unlink()
        (box.dist / "vendor").mkdir()
        (box.dist / "vendor/manifest.json").write_text(
            '{"version":3,"updated_at":"2026-04-02T10:00:00Z","components":{"syncthing":{"sha256":"sha256:AB"}}}'
        )
        hive = (await box.ask("get_versions"))["hive"]
        assert hive["core"]["status"] == "error"
        assert hive["runtimes"] == {"status": "missing"}
        assert (hive["vendor"]["manifest_version"], hive["vendor"]["manifest_hash"]) == (3, "ab")
        assert (await box.refused("list_runtimes")).code == "RUNTIME_MANIFEST_MISSING"

    run(tmp_path, body)


# --- runtimes ----------------------------------------------------------------------------------------------


def test_runtimes_are_told_with_files_and_use(tmp_path):
    async def body(box: Box) -> None:
        put(box.dist, tmp_path / "a", version="0.1.0")
        write_manifest_text(
            box.dist,
            {
                "ai.greeter": {"available": ["0.1.0", "0.2.0"], "current": "0.1.0", "note": "x"},
                "ai.fr": {
                    "available": ["1"],
                    "current": "1",
                    "type": "config_only",
                    "runtime_base": "ai.none",
                },
            },
        )
        box.add_node("AI.greeter@motherbee", "ai.greeter", "0.1.0")
        box.add_node("AI.other@motherbee", "ai.greeter", "0.1.0", active=False)
        rows = (await box.ask("list_runtimes"))["runtimes"]
        assert [row["runtime"] for row in rows] == ["ai.greeter", "ai.fr"]
        assert rows[0]["readiness"]["0.2.0"] == {
            "runtime_present": False,
            "start_sh_executable": False,
            "base_runtime_ready": True,
        }
        assert rows[1]["readiness"]["1"]["base_runtime_ready"] is False
        assert rows[0]["materialization_summary"]["materialized_versions"] == 1
        one = await box.ask("get_runtime", runtime="ai.greeter")
        assert one["usage"]["running_count"] == 1
        assert one["usage"]["running_nodes"][0]["node_name"] == "AI.greeter@motherbee"
        assert one["materialization"]["versions"]["0.2.0"]["blocking_reason"] == "missing_package_dir"
        assert one["targeted_runtime_health"]["error_count"] == 1
        filtered = await box.ask("get_runtime", runtime="ai.greeter", runtime_version="0.1.0")
        assert set(filtered["materialization"]["versions"]) == {"0.1.0"}
        assert filtered["targeted_runtime_health"]["status"] == "ok"
        assert (await box.refused("get_runtime", runtime="AI.greeter")).code == "RUNTIME_NOT_FOUND"
        assert (await box.refused("get_runtime", runtime="a/b")).code == "INVALID_REQUEST"
        versions = (await box.ask("get_versions"))["hive"]["runtimes"]["runtimes"]["ai.greeter"]
        assert versions["note"] == "x"

    run(tmp_path / "box", body)


def test_files_that_appear_count_at_once(tmp_path):
    async def body(box: Box) -> None:
        write_manifest_text(box.dist, {"x.y": {"available": ["1"], "current": "1"}})

        async def flags() -> dict[str, bool]:
            return (await box.ask("list_runtimes"))["runtimes"][0]["readiness"]["1"]

        assert (await flags())["runtime_present"] is False
        script = box.dist / "runtimes/x.y/1/bin/start.sh"
        script.parent.mkdir(parents=True)
        script.write_text(START)
        assert await flags() == {
            "runtime_present": True,
            "start_sh_executable": False,
            "base_runtime_ready": True,
        }
        script.chmod(0o755)
        assert (await flags())["start_sh_executable"] is True

    run(tmp_path, body)


def test_a_version_in_use_stays_and_an_unused_one_goes(tmp_path):
    async def body(box: Box) -> None:
        put(box.dist, tmp_path / "a", version="0.1.0")
        put(box.dist, tmp_path / "b", version="0.2.0", now_ms=6000)
        box.add_node("AI.greeter@motherbee", "ai.greeter", "0.1.0")
        about = {"runtime": "ai.greeter", "version": "0.1.0", "target": "motherbee"}
        error = await box.refused("remove_runtime_version", **about)
        assert error.code == "RUNTIME_IN_USE"
        assert error.details["usage_global_visible"]["running_count"] == 1
        assert (
            await box.refused("remove_runtime_version", **{**about, "target": "edge"})
        ).code == "NOT_PRIMARY"
        assert (
            await box.refused("remove_runtime_version", runtime="a/b", version="1")
        ).code == "INVALID_REQUEST"
        box.running.clear()
        payload = await box.ask("remove_runtime_version", **about, test_hold_ms=1)
        assert payload["removed_version"] == "0.1.0"
        assert payload["usage_global_visible"]["in_use"] is False
        assert (await box.refused("remove_runtime_version", **about)).code == "RUNTIME_VERSION_NOT_FOUND"

    run(tmp_path / "box", body)


def test_other_hives_are_asked_who_runs_what(tmp_path, monkeypatch):
    row = {
        "node_name": "AI.far@edge-07",
        "lifecycle_state": "RUNNING",
        "runtime": {"name": "ai.greeter", "version": "0.1.0"},
    }

    async def answers(_house: House, action: str, _request: object, hive: str) -> Payload:
        if hive == "gone":
            raise Unavailable("router returned UNREACHABLE", code="NODE_LIST_FAILED")
        if action == "get_versions":
            return {"status": "ok", "hive": {"hive_id": hive}}
        stopped = {**row, "lifecycle_state": "STOPPED"}
        return {"status": "ok", "nodes": [row, stopped, {"node_name": "SY.x", "runtime": None}, 5]}

    monkeypatch.setattr("appliance.services.orchestrator.usage.forward", answers)
    monkeypatch.setattr("appliance.services.orchestrator.versions.forward", answers)

    async def body(box: Box) -> None:
        for hive in ("edge-07", "gone"):
            (box.paths.hives / hive).mkdir(parents=True)
        put(box.dist, tmp_path / "a", version="0.1.0")
        put(box.dist, tmp_path / "b", version="0.2.0", now_ms=6000)
        error = await box.refused("remove_runtime_version", runtime="ai.greeter", version="0.1.0")
        usage = error.details["usage_global_visible"]
        assert [node["node_name"] for node in usage["running_nodes"]] == ["AI.far@edge-07"]
        assert [one["hive"] for one in usage["skipped_hives"]] == ["gone"]
        hives = (await box.ask("list_versions"))["hives"]
        assert [hive.get("error_code") for hive in hives] == [None, None, "NODE_LIST_FAILED"]

    run(tmp_path / "box", body)


# --- publishing --------------------------------------------------------------------------------------------


def test_inline_packages_are_published_once(tmp_path):
    async def body(box: Box) -> None:
        payload = await box.ask("publish_runtime_package", source=inline())
        assert (payload["source_kind"], payload["copied_files"]) == ("inline_package", 2)
        assert "blob_path" not in payload
        again = await box.ask("publish_runtime_package", source=inline())
        assert (again["copied_files"], again["manifest_version"]) == (0, payload["manifest_version"])
        other = await box.refused("publish_runtime_package", source=inline({"x": "y"}))
        assert other.code == "VERSION_CONFLICT"
        statistics = box.software.statistics().publish
        assert (statistics.published, statistics.refused) == (2, 1)
        assert statistics.written_bytes == payload["copied_bytes"]
        assert not list((box.dist / "runtimes").glob(".publish-*"))

    run(tmp_path, body)


def test_bundles_are_published_and_their_blob_goes(tmp_path):
    async def body(box: Box) -> None:
        incoming = box.paths.blob / "packages/incoming"
        incoming.mkdir(parents=True)
        bundle = make_zip(incoming / "b.zip", {"package.json": describe(), "bin/start.sh": START})
        source = {"kind": "bundle_upload", "blob_path": "packages/incoming/b.zip"}
        payload = await box.ask("publish_runtime_package", source=source, set_current=False)
        assert payload["blob_path"] == "packages/incoming/b.zip"
        assert not bundle.exists()
        assert read_manifest(box.dist).manifest.runtimes["ai.greeter"].current is None
        assert (await box.refused("publish_runtime_package", source=source)).code == "BLOB_NOT_FOUND"
        bundle.write_bytes(b"no zip")
        assert (await box.refused("publish_runtime_package", source=source)).code == "INVALID_ZIP"
        assert bundle.exists()

    run(tmp_path, body)


BAD_SOURCES = [
    (None, "INVALID_REQUEST"),
    ({"kind": "other"}, "INVALID_REQUEST"),
    ({"kind": "inline_package"}, "INVALID_REQUEST"),
    ({"kind": "inline_package", "files": {"a": 5}}, "INVALID_REQUEST"),
    ({"kind": "inline_package", "files": {"a": "x"}, "blob_path": "x"}, "INVALID_REQUEST"),
    ({"kind": "inline_package", "files": {"a": "x"}}, "INVALID_REQUEST"),
    ({"kind": "inline_package", "files": {"../a": "x"}}, "INVALID_REQUEST"),
    ({"kind": "bundle_upload", "blob_path": "../etc/hive.yaml"}, "INVALID_REQUEST"),
    ({"kind": "bundle_upload", "blob_path": "/etc/passwd"}, "INVALID_REQUEST"),
    ({"kind": "bundle_upload", "blob_path": "link.zip"}, "BLOB_NOT_FOUND"),
    ({"kind": "bundle_upload", "blob_path": "away/secret"}, "BLOB_NOT_FOUND"),
    ({"kind": "bundle_upload", "blob_path": "folder"}, "BLOB_NOT_FOUND"),
]


def test_sources_that_may_not_be_are_refused(tmp_path):
    async def body(box: Box) -> None:
        (tmp_path / "secret").write_text("x")
        (box.paths.blob / "folder").mkdir()
        (box.paths.blob / "link.zip").symlink_to(tmp_path / "secret")
        (box.paths.blob / "away").symlink_to(tmp_path)
        before = sorted((box.dist / "runtimes").iterdir())
        for source, code in BAD_SOURCES:
            assert (await box.refused("publish_runtime_package", source=source)).code == code, source
        assert sorted((box.dist / "runtimes").iterdir()) == before

    run(tmp_path / "box", body)


def test_publication_has_its_own_codes(tmp_path):
    async def body(box: Box) -> None:
        text = {"kind": "inline_package", "files": {"package.json": describe(kind="config_only")}}
        error = await box.refused("publish_runtime_package", source=text)
        assert "runtime_base is required for config_only" in str(error)
        (box.dist / "runtimes/manifest.json").unlink()
        assert (await box.refused("publish_runtime_package", source=inline())).code == "RUNTIME_NOT_AVAILABLE"

    run(tmp_path, body)

    async def worker(box: Box) -> None:
        assert (await box.refused("publish_runtime_package", source=inline())).code == "NOT_PRIMARY"
        assert (await box.refused("add_hive", hive_id="a", address="b")).code == "NOT_PRIMARY"

    run(tmp_path, worker, role="worker")


def test_a_package_over_the_limit_is_refused(tmp_path):
    async def body(box: Box) -> None:
        error = await box.refused("publish_runtime_package", source=inline({"big": "x" * 2000}))
        assert error.code == "INVALID_REQUEST"
        with zipfile.ZipFile(box.paths.blob / "b.zip", "w") as archive:
            archive.writestr("ai.greeter/package.json", "x" * 2000)
        source = {"kind": "bundle_upload", "blob_path": "b.zip"}
        assert (await box.refused("publish_runtime_package", source=source)).code == "INVALID_REQUEST"

    run(tmp_path, body, limits=TreeLimits(max_bytes=1000))


def test_a_full_disk_is_a_failed_service_with_its_cause(tmp_path, monkeypatch):
    async def body(box: Box) -> None:
        monkeypatch.setattr("appliance.supervise.tree.free_bytes", lambda _directory: 0)
        error = await box.refused("publish_runtime_package", source=inline())
        assert (error.code, error.details["cause"]) == ("SERVICE_FAILED", "STORAGE_FULL")
        assert read_manifest(box.dist).manifest.runtimes == {}
        assert not list((box.dist / "runtimes").glob(".publish-*"))

    run(tmp_path, body)


# --- updates -----------------------------------------------------------------------------------------------


def test_an_update_converges_by_hash_and_version(tmp_path):
    async def body(box: Box) -> None:
        version = put(box.dist, tmp_path / "a", now_ms=5000).manifest_version
        digest = read_manifest(box.dist).hash
        good = {"manifest_version": version, "manifest_hash": f"sha256:{digest.upper()}"}
        payload = await box.ask("update", **good)
        assert (payload["status"], payload["unchanged"]) == ("ok", ["runtime-manifest"])
        assert payload["readiness_scope"] == "global"
        assert (await box.ask("update", manifest_hash="0" * 64))["local_manifest_hash"] == digest
        assert (await box.ask("update", **{**good, "manifest_version": version + 1}))[
            "status"
        ] == "sync_pending"
        stale = await box.refused("update", **{**good, "manifest_version": version - 1})
        assert (stale.code, stale.details["local_manifest_version"]) == ("VERSION_MISMATCH", version)

    run(tmp_path / "box", body)


def test_a_targeted_update_does_not_mind_other_broken_runtimes(tmp_path):
    async def body(box: Box) -> None:
        put(box.dist, tmp_path / "a")
        document = json.loads((box.dist / "runtimes/manifest.json").read_text())["runtimes"]
        write_manifest_text(box.dist, {**document, "broken.one": {"available": ["1"], "current": "1"}})
        digest = read_manifest(box.dist).hash
        whole = await box.ask("update", manifest_hash=digest)
        assert (whole["status"], whole["global_runtime_health"]["status"]) == ("sync_pending", "degraded")
        assert "broken.one" in whole["errors"][0]
        one = await box.ask("update", manifest_hash=digest, runtime="AI.Greeter", runtime_version="current")
        assert (one["status"], one["readiness_scope"]) == ("ok", "targeted")
        assert one["targeted_runtime_health"]["status"] == "ok"
        assert (await box.ask("update", manifest_hash=digest, runtime="no.such"))["status"] == "sync_pending"

    run(tmp_path / "box", body)


BAD_UPDATES = [
    {"category": "other", "manifest_hash": "x"},
    {"category": None, "manifest_hash": "x"},
    {"manifest_version": -1, "manifest_hash": "x"},
    {"manifest_version": True, "manifest_hash": "x"},
    {"version": 1, "manifest_hash": "x"},
    {},
    {"hash": "x", "manifest_hash": "x"},
    {"category": "core", "manifest_hash": "x", "runtime": "a"},
    {"manifest_hash": "x", "runtime_version": "1"},
    {"manifest_hash": "x", "runtime": "a/b"},
]


def test_updates_that_are_none(tmp_path):
    async def body(box: Box) -> None:
        for request in BAD_UPDATES:
            assert (await box.refused("update", **request)).code == "INVALID_REQUEST", request

    run(tmp_path, body)


def test_core_and_vendor_are_compared(tmp_path):
    async def body(box: Box) -> None:
        core = (await box.ask("get_versions"))["hive"]["core"]["manifest_hash"]
        done = await box.ask("update", category="core", manifest_version=0, manifest_hash=core)
        assert (done["status"], done["unchanged"]) == ("ok", ["fluxbee"])
        told = await box.ask("update", category="vendor", manifest_hash="0" * 64)
        assert told["status"] == "sync_pending"
        again = await box.ask("update", category="vendor", manifest_hash=told["local_manifest_hash"])
        assert again["status"] == "ok"
        (box.dist / "core/manifest.json").unlink()
        assert (await box.refused("update", category="core", manifest_hash=core)).code == "UPDATE_FAILED"
        (box.dist / "runtimes/manifest.json").write_text("{")
        assert (await box.refused("update", manifest_hash="x")).code == "MANIFEST_INVALID"
        (box.dist / "runtimes/manifest.json").unlink()
        assert (await box.ask("update", manifest_hash="x"))["local_manifest_version"] == 0

    run(tmp_path, body)


def test_an_update_removes_what_nobody_needs(tmp_path):
    async def body(box: Box) -> None:
        put(box.dist, tmp_path / "a")
        old = make_package(box.dist / "runtimes/ai.old/1.0.0", name="ai.old")
        kept = make_package(box.dist / "runtimes/ai.kept/1.0.0", name="ai.kept")
        box.add_node("AI.kept@motherbee", "ai.kept", "1.0.0", active=False)
        import os

        for path in (old, kept):
            os.utime(path, (1, 1))
        digest = read_manifest(box.dist).hash
        await box.ask("update", manifest_hash=digest, runtime="ai.greeter")
        assert not old.exists()
        assert kept.exists()
        assert box.software.statistics().updates.versions_removed == 1
        Instance(box.paths, "AI.kept@motherbee").config_path.write_text("{")
        report = await box.software.updates.retain()
        assert "does not read" in str(report.skipped)

    run(tmp_path / "box", body)


@pytest.mark.parametrize("channel", ["blob", "dist"])
def test_a_sync_hint_without_a_peer_is_idle(tmp_path, channel):
    async def body(box: Box) -> None:
        payload = await box.ask("sync_hint", channel=channel)
        assert (payload["status"], payload["state"], payload["folder_id"]) == (
            "ok",
            "idle",
            f"fluxbee-{channel}",
        )
        for wrong in ({"folder_id": "other"}, {"timeout_ms": 0}, {"wait_for_idle": "yes"}):
            error = await box.refused("sync_hint", channel=channel, **wrong)
            assert (error.code, error.details["channel"]) == ("INVALID_REQUEST", channel)
        assert (await box.refused("sync_hint", channel="other")).code == "INVALID_REQUEST"

    run(tmp_path, body)

    async def disabled(box: Box) -> None:
        assert (await box.refused("sync_hint", channel=channel)).code == "SYNC_DISABLED"

    run(tmp_path, disabled, sync=SyncSettings(blob=False, dist=False))


# --- history -----------------------------------------------------------------------------------------------


def test_history_is_written_and_survives(tmp_path):
    async def body(box: Box) -> None:
        first = await box.ask("get_deployments", hive="motherbee")
        assert {entry["deployment_id"] for entry in first["entries"]} == {
            "local-core-motherbee",
            "local-runtime-motherbee",
        }
        only = await box.ask("list_deployments", category="core")
        assert [entry["category"] for entry in only["entries"]] == ["core"]
        assert "hive_id" not in only
        await box.ask("publish_runtime_package", source=inline())
        digest = read_manifest(box.dist).hash
        await box.ask("update", manifest_hash=digest)
        entries = (await box.ask("list_deployments"))["entries"]
        assert [entry["trigger"] for entry in entries] == ["system_update", "publish"]
        assert entries[0]["workers"][0]["hive_id"] == "motherbee"
        assert entries[0]["target_hives_detail"] == [{"hive_id": "motherbee", "present": True}]
        assert "record" not in entries[0]

    run(tmp_path, body)

    async def later(box: Box) -> None:
        entries = (await box.ask("get_deployments", target="motherbee", limit="1"))["entries"]
        assert [entry["trigger"] for entry in entries] == ["system_update"]
        assert (await box.ask("list_deployments", hive="edge-07"))["entries"] == []
        # A script edits the manifest behind our back: the next update tells that it drifted, once.
        drifted = (await box.ask("list_drift_alerts"))["entries"]
        assert all(entry["synthetic"] for entry in drifted)
        write_manifest_text(box.dist, {}, version=10**15)
        digest = read_manifest(box.dist).hash
        for _ in range(2):
            await box.ask("update", manifest_hash=digest)
        alerts = (await box.ask("get_drift_alerts", hive="motherbee", severity="warning"))["entries"]
        assert [(one["kind"], one["local_hash"]) for one in alerts] == [("manifest_changed", digest)]
        assert (await box.ask("list_drift_alerts", kind="other"))["entries"] == []

    run(tmp_path, later)


def test_our_own_changes_are_no_drift(tmp_path):
    async def body(box: Box) -> None:
        for version in ("0.1.0", "0.2.0"):
            await box.ask("publish_runtime_package", source=inline(version=version))
            await box.ask("update", manifest_hash=read_manifest(box.dist).hash)
        await box.ask("remove_runtime_version", runtime="ai.greeter", version="0.1.0")
        await box.ask("update", manifest_hash=read_manifest(box.dist).hash)
        assert all(one["synthetic"] for one in (await box.ask("list_drift_alerts"))["entries"])

    run(tmp_path, body)


def test_a_new_program_is_a_roll_out_and_no_drift(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_bytes(b"one")
    monkeypatch.setattr("appliance.supervise.core._build", lambda: (program.read_text(), [program]))

    async def first(box: Box) -> None:
        core = (await box.ask("get_versions"))["hive"]["core"]["manifest_hash"]
        await box.ask("update", category="core", manifest_hash=core)

    run(tmp_path / "box", first)
    program.write_bytes(b"two")

    async def second(box: Box) -> None:
        entries = (await box.ask("list_deployments", category="core"))["entries"]
        assert [entry["trigger"] for entry in entries] == ["program_changed", "system_update"]
        core = (await box.ask("get_versions"))["hive"]["core"]["manifest_hash"]
        assert entries[0]["manifest_hash"] == core
        assert (await box.ask("update", category="core", manifest_hash=core))["status"] == "ok"
        assert all(one["synthetic"] for one in (await box.ask("list_drift_alerts"))["entries"])

    run(tmp_path / "box", second)


def test_history_that_cannot_be_stored_is_kept_and_counted(tmp_path):
    async def body() -> None:
        box = Box(tmp_path)
        await box.software.history.record_deployment(
            "runtime", trigger="publish", started_at_ms=1, result="ok"
        )
        assert box.software.history.statistics().not_stored == 1
        assert (await box.ask("list_deployments"))["entries"][0]["trigger"] == "publish"

    trio.run(body)


# --- hives -------------------------------------------------------------------------------------------------


ADDED = [
    ({"address": "10.0.0.1"}, "INVALID_REQUEST"),
    ({"hive_id": "edge-07"}, "INVALID_REQUEST"),
    ({"hive_id": "edge-01", "address": "bad address"}, "HIVE_EXISTS"),
    ({"hive_id": "bad id", "address": "bad address"}, "INVALID_HIVE_ID"),
    ({"hive_id": "../../x", "address": "10.0.0.1"}, "INVALID_HIVE_ID"),
    ({"hive_id": "motherbee", "address": "10.0.0.1"}, "INVALID_HIVE_ID"),
    ({"hive_id": "x" * 65, "address": "10.0.0.1"}, "INVALID_HIVE_ID"),
    ({"hive_id": "edge-07", "address": "bad address"}, "INVALID_ADDRESS"),
    ({"hive_id": "edge-07", "address": "10.0.0.256"}, "INVALID_ADDRESS"),
    ({"hive_id": "edge-07", "address": "-x.example"}, "INVALID_ADDRESS"),
    ({"hive_id": "edge-09", "address": "10.0.0.1"}, "WAN_NOT_AUTHORIZED"),
    ({"hive_id": "edge-07", "address": "10.0.0.1", "harden_ssh": 5}, "INVALID_REQUEST"),
    ({"hive_id": "edge-07", "address": "fe80::1"}, "SSH_KEY_FAILED"),
    ({"hive_id": "edge-07", "address": "box.example.org"}, "SSH_KEY_FAILED"),
]


def test_the_order_of_checks_when_a_hive_is_added(tmp_path):
    (tmp_path / "lib/hives/edge-01").mkdir(parents=True)
    (tmp_path / "lib/hives/edge-01/info.yaml").write_text("hive_id: edge-01\n")

    async def body(box: Box) -> None:
        for request, code in ADDED:
            error = await box.refused("add_hive", **request)
            assert error.code == code, request
            assert sorted(path.name for path in box.paths.hives.iterdir()) == ["edge-01"]
            if {"hive_id", "address"} <= set(request):
                assert error.details["hive_id"] == request["hive_id"]

    run(tmp_path, body, wan=WanSettings(listen="0.0.0.0:9000", authorized_hives=("edge-07",)))


def test_without_a_listening_link_nobody_can_be_added(tmp_path):
    async def body(box: Box) -> None:
        assert (await box.refused("add_hive", hive_id="a", address="b")).code == "MISSING_WAN_LISTEN"

    run(tmp_path, body, wan=WanSettings())


def test_hives_come_and_go(tmp_path):
    seen: list[AddHiveRequest] = []

    async def bootstrap(request: AddHiveRequest) -> Payload:
        seen.append(request)
        if len(seen) == 1:
            raise Unavailable("no link", code="WAN_TIMEOUT")
        return {"bootstrap_mode": "socket_only_existing_orchestrator"}

    async def body(box: Box) -> None:
        about = {"hive_id": "edge-07", "address": "10.20.0.7"}
        more = {"harden_ssh": "yes", "dist_sync_timeout_secs": 9999}
        assert (await box.refused("add_hive", **about, **more)).code == "WAN_TIMEOUT"
        assert (await box.refused("get_hive", hive_id="edge-07")).code == "NOT_FOUND"
        payload = await box.ask("add_hive", **about, **more)
        assert (payload["status"], payload["bootstrap_mode"]) == ("ok", "socket_only_existing_orchestrator")
        assert (seen[0].harden_ssh, seen[0].restrict_ssh, seen[0].dist_sync_probe_timeout_secs) == (
            True,
            True,
            600,
        )
        lines = (box.paths.hives / "edge-07/info.yaml").read_text().splitlines()
        assert "address: 10.20.0.7" in lines
        assert (await box.ask("get_hive", hive_id="edge-07"))["hive"]["status"] == "connected"
        (box.paths.hives / "half").mkdir()
        hives = (await box.ask("list_hives"))["hives"]
        assert [hive["hive_id"] for hive in hives] == ["edge-07", "half", "motherbee"]
        assert hives[1] == {"hive_id": "half"}
        assert hives[2] == {
            "hive_id": "motherbee",
            "role": "motherbee",
            "status": "alive",
            "is_local": True,
        }
        assert (await box.refused("add_hive", **about)).code == "HIVE_EXISTS"
        versions = (await box.ask("list_versions"))["hives"]
        assert [(one["hive_id"], one.get("status")) for one in versions] == [
            ("motherbee", None),
            ("edge-07", "error"),
            ("half", "error"),
        ]
        gone = await box.ask("remove_hive", hive_id="edge-07")
        assert (gone["remote_cleanup"], gone["remote_cleanup_via"]) == ("local_only", "local_only")
        assert gone["address"] == "10.20.0.7"
        assert (await box.refused("remove_hive", hive_id="edge-07")).code == "NOT_FOUND"
        assert (await box.refused("remove_hive", hive_id="motherbee")).code == "INVALID_REQUEST"
        assert (await box.refused("get_hive", hive_id="../x")).code == "INVALID_HIVE_ID"
        assert (await box.ask("get_hive", hive_id="motherbee"))["hive"]["is_local"] is True
        results = [
            entry["result"] for entry in (await box.ask("list_deployments", hive="edge-07"))["entries"]
        ]
        assert results == ["ok", "error"]

    run(tmp_path, body, bootstrap=bootstrap)


# --- storage -----------------------------------------------------------------------------------------------


def test_the_storage_path_comes_back_and_comments_stay(tmp_path):
    async def body(box: Box) -> None:
        box.paths.hive_yaml.write_text("# mine\nhive_id: motherbee # name\n")
        box.paths.hive_yaml.chmod(0o640)
        assert (await box.ask("get_storage"))["path"] == str(box.paths.lib)
        assert (await box.ask("set_storage", path=" /data/x "))["path"] == "/data/x"
        assert (await box.ask("get_storage"))["path"] == "/data/x"
        text = box.paths.hive_yaml.read_text()
        assert text.startswith("# mine\nhive_id: motherbee # name\n")
        assert "/data/x" in text
        assert box.paths.hive_yaml.stat().st_mode & 0o777 == 0o640
        for wrong in (None, "", "relative/x", "/a\nb: c", "/" + "x" * 2000):
            assert (await box.refused("set_storage", path=wrong)).code == "INVALID_REQUEST"
        box.paths.hive_yaml.write_text("storage: [1, 2]\n")
        assert (await box.refused("set_storage", path="/y")).code == "PERSIST_FAILED"
        assert (await box.ask("get_storage"))["path"] == "/data/x"
        box.paths.hive_yaml.unlink()
        await box.ask("set_storage", path="/z")
        assert "/z" in box.paths.hive_yaml.read_text()

    run(tmp_path, body)
