"""Operators' scripts about nodes (``spec/admin-api.md §F.1, §F.2``), row by row, in one hive."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from appliance.testing.hive import HiveHarness

from .operator_box import HELD, NODE, OTHER_TENANT, SETTINGS, SLEEPER, TENANT, Box

pytestmark = pytest.mark.process

ECHO = Path(__file__).resolve().parents[2] / "docs" / "examples" / "ai-echo"
ILK = re.compile(r"ilk:[0-9a-fA-F-]{36}\Z")


@pytest.fixture(scope="module")
def harness(module_hive_folder):
    with HiveHarness(module_hive_folder, planes="apart", settings=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def box(harness):
    with Box.of(harness) as box:
        box.install("wf.orch.diag", "0.0.1")
        box.install("ai.test.gov", "1.0.0", NODE, HELD)
        yield box


def test_node_config_per_node(box):
    name = f"WF.cfg.a@{box.hive}"
    first = box.spawn(
        "WF.cfg.a", runtime="wf.orch.diag", tenant_id=TENANT, config={"model": "m-1", "tenant_id": TENANT}
    )
    assert first["status"] == "ok"
    assert first["payload"]["config"]["path"] == str(box.config_path("WF.cfg.a"))
    again = box.spawn("WF.cfg.a", code=500, runtime="wf.orch.diag", tenant_id=TENANT)
    assert "NODE_ALREADY_EXISTS" in (again["error_code"], again["payload"]["error_code"])
    stored = box.get(box.node(name, "/config"))["payload"]
    assert (stored["config"]["model"], stored["config"]["tenant_id"]) == ("m-1", TENANT)
    state = box.get(box.node(name, "/state"))
    assert state["payload"]["path"]
    assert state["payload"]["node_name"] == name
    missing = box.get(box.node(f"WF.none@{box.hive}", "/state"))["payload"]
    assert missing["state"] is None
    assert missing["path"] == str(box.lib / "nodes" / "WF" / f"WF.none@{box.hive}" / "state.json")
    put = box.call("PUT", box.node(name, "/config"), {"temperature": 0.2, "system_prompt": "be brief"})
    assert put["payload"]["config_version"] > stored["config_version"]
    after = box.get(box.node(name, "/config"))["payload"]["config"]
    assert (after["model"], after["temperature"], after["system_prompt"]) == ("m-1", 0.2, "be brief")
    box.remove(name)


@pytest.mark.parametrize(("force", "signal"), [(False, "SIGTERM"), (True, "SIGKILL")])
def test_orchestrator_spawn_kill_v2(box, force, signal):
    spawned = box.spawn("WF.v2", runtime="wf.orch.diag")
    assert spawned["status"] == "ok"
    assert spawned["payload"]["node_name"] == f"WF.v2@{box.hive}"
    killed = box.kill(f"WF.v2@{box.hive}", force=force)
    assert killed["status"] == "ok"
    assert killed["payload"]["signal"] == signal
    assert box.kill(f"WF.v2@{box.hive}", force=force)["payload"]["status"] == "not_found"
    box.remove(f"WF.v2@{box.hive}")


def test_orchestrator_legacy_payload_negative(box):
    base = f"/hives/{box.hive}"
    for path, body in (
        ("/nodes", {"node_name": "WF.x", "name": "WF.x"}),
        ("/nodes", {"node_name": "WF.x", "version": "1"}),
        ("/update", {"version": 1, "manifest_hash": "0"}),
        ("/update", {"hash": "0"}),
    ):
        assert box.call("POST", base + path, body, code=400)["error_code"] == "INVALID_REQUEST"


def test_identity_node_registration_with_purge(box):
    def ilk():
        register = box.spawn("WF.ident", runtime="wf.orch.diag", tenant_id=TENANT)["payload"]["identity"][
            "register"
        ]
        assert register["status"] == "ok"
        box.kill("WF.ident", purge_instance=True)
        return register["ilk_id"]

    assert ilk() == ilk()


def test_identity_register_strict(box):
    spawned = box.spawn("WF.strict", runtime="wf.orch.diag", tenant_id=TENANT)
    identity = spawned["payload"]["identity"]
    assert identity["identity_primary_hive_id"] == "motherbee"
    assert identity["identity_target"] == "SY.identity@motherbee"
    assert ILK.match(identity["register"]["ilk_id"])
    box.remove(f"WF.strict@{box.hive}")
    bad = box.spawn("WF.strict", code=500, runtime="wf.orch.diag", tenant_id="tnt:no")
    assert bad["error_code"] == "IDENTITY_REGISTER_FAILED"


def test_identity_register_strict_without_a_tenant(hive_folder):
    with HiveHarness(hive_folder) as running, Box.of(running) as box:
        box.install("wf.orch.diag", "0.0.1")
        answer = box.spawn("WF.strict", code=500, runtime="wf.orch.diag")
        assert answer["error_code"] == "IDENTITY_REGISTER_FAILED"
        assert "tenant_id is missing" in str(answer)
        assert not box.config_path("WF.strict").exists()


def test_node_status_fr7_of_a_node_that_reports(box):
    reporting = HELD.replace('anyio.run(run_node, "AI.test", handler)', REPORTER)
    box.install("ai.status.own", "1.0.0", NODE, reporting)
    name = f"AI.fr7@{box.hive}"
    assert box.get("/hive/status")["payload"]["hive_id"] == box.hive
    spawned = box.spawn("AI.fr7", runtime="ai.status.own")
    status = box.running(name)
    assert (status["health_state"], status["health_source"]) == ("DEGRADED", "NODE_REPORTED")
    assert status["config"]["valid"] is True
    with open(spawned["payload"]["config"]["path"], "w") as config:
        config.write("{broken")
    broken = box.status(name)
    assert (broken["lifecycle_state"], broken["config"]["valid"]) == ("RUNNING", False)
    box.kill(name)
    stopped = box.status(name)
    assert (stopped["lifecycle_state"], stopped["health_state"], stopped["health_source"]) == (
        "STOPPED",
        "UNKNOWN",
        "UNKNOWN",
    )
    box.remove(name)


def test_identity_register_strict_while_identity_is_out_of_reach(hive_folder):
    """The scripts stop its service; here a route that wins over the live node keeps everybody from it."""
    settings = {**SETTINGS, "routing": {"static_override": True}}
    with HiveHarness(hive_folder, settings=settings) as running, Box.of(running) as box:
        box.install("wf.orch.diag", "0.0.1")
        box.call("POST", "/routes", {"prefix": "SY.identity", "action": "DROP"})
        answer = box.spawn("WF.strict", code=500, runtime="wf.orch.diag", tenant_id=TENANT)
        assert answer["error_code"] == "IDENTITY_REGISTER_FAILED"
        assert set(re.findall(r"SY\.identity@[\w-]+", str(answer))) <= {"SY.identity@motherbee"}
        assert not box.config_path("WF.strict").exists()
        box.call("DELETE", "/routes?prefix=SY.identity")
        box.until(
            "it is reached again",
            lambda: box.spawn("WF.strict", None, runtime="wf.orch.diag")["status"] == "ok",
        )


REPORTER = """
async def main():
    import os
    from appliance.sdk import connect, NodeConfig
    async with connect(NodeConfig(name=os.environ["FLUXBEE_NODE_NAME"])) as node:
        node.health.state = "DEGRADED"
        async for message in node.receiver:
            pass

anyio.run(main)
"""


def test_node_status_fr7_of_a_silent_node(box):
    box.install(
        "ai.status.silent",
        "1.0.0",
        NODE.replace("exec", "NODE_STATUS_DEFAULT_HANDLER_ENABLED=false exec", 1),
        HELD,
    )
    box.spawn("AI.silent", runtime="ai.status.silent")
    status = box.running(f"AI.silent@{box.hive}")
    assert (status["health_state"], status["health_source"]) == ("HEALTHY", "ORCHESTRATOR_INFERRED")
    box.remove(f"AI.silent@{box.hive}")


def test_status_version_survives_a_restart_of_everything(hive_folder):
    harness = HiveHarness(hive_folder, settings=SETTINGS)
    with harness, Box.of(harness) as box:
        box.install("wf.orch.diag", "0.0.1")
        box.spawn("WF.t12", runtime="wf.orch.diag")
        box.kill("WF.t12")
        before = box.status("WF.t12")["status_version"]
    with harness, Box.of(harness) as box:
        assert box.status("WF.t12")["status_version"] >= before


def test_inventory_spawn_kill(box):
    name = f"AI.seen@{box.hive}"
    box.spawn("AI.seen", runtime="ai.test.gov")

    def listed():
        answer = box.get(f"/inventory/{box.hive}")
        assert answer["status"] == answer["payload"]["status"] == "ok"
        return name in [one["node_name"] for one in answer["payload"]["nodes"]]

    box.until("it appears", listed)
    assert {one["hive_id"] for one in box.get("/inventory")["payload"]["hives"]} == {box.hive}
    box.kill(name)
    box.until("it vanishes", lambda: not listed())
    box.remove(name)


def test_custom_node_reboot_reconcile(hive_folder):
    harness = HiveHarness(hive_folder, planes="apart", settings=SETTINGS)
    name = f"AI.boot@{harness.hive_id}"
    with harness, Box.of(harness) as box:
        box.install("ai.test.gov", "1.0.0", NODE, HELD)
        box.spawn("AI.boot", runtime="ai.test.gov", config={"kept": 1})
        assert box.running(name)["process"]["pid"] > 0
        box.kill(name)
        listed = {one["node_name"]: one for one in box.get(f"/hives/{box.hive}/nodes")["payload"]["nodes"]}
        assert (listed[name]["lifecycle_state"], listed[name]["visible_in_router"]) == ("STOPPED", False)
        assert box.spawn("AI.boot", code=500, runtime="ai.test.gov")["error_code"] == "NODE_ALREADY_EXISTS"
    with harness, Box.of(harness) as box:
        box.running(name)
        config = box.get(box.node(name, "/config"))["payload"]["config"]
        assert config["kept"] == 1
        assert (config["_system"]["runtime"], config["_system"]["runtime_version"]) == (
            "ai.test.gov",
            "1.0.0",
        )
        box.remove(name)
        assert box.get(box.node(name, "/status"), code=404)["error_code"] == "NODE_NOT_FOUND"


def test_deploy_scripts_update_and_reuse(box):
    """The HTTP steps of the deploy scripts: hint, update, replace the node, set its configuration."""
    folder = box.install("ai.echo", "1.0.0", NODE)
    shutil.copytree(ECHO, folder, dirs_exist_ok=True)
    hint = {"channel": "dist", "folder_id": "fluxbee-dist", "wait_for_idle": True, "timeout_ms": 30000}
    assert box.call("POST", f"/hives/{box.hive}/sync-hint", hint)["status"] in ("ok", "sync_pending")
    runtimes = box.versions()["runtimes"]
    updated = box.update(
        code=None,
        category="runtime",
        manifest_version=runtimes["manifest_version"],
        manifest_hash=runtimes["manifest_hash"],
        runtime="ai.echo",
    )
    assert updated["status"] in ("ok", "sync_pending")
    assert box.spawn("AI.deployed", runtime="ai.echo", config={"a": 1})["status"] == "ok"
    assert box.spawn("AI.deployed", code=500, runtime="ai.echo")["error_code"] == "NODE_ALREADY_EXISTS"
    kept = box.get(box.node("AI.deployed", "/config"))["payload"]["config"]
    assert kept["a"] == 1
    box.running("AI.deployed")
    body = {"schema_version": 1, "config_version": 1, "apply_mode": "replace", "config": {"b": 2}}
    told = box.call("POST", box.node("AI.deployed", "/control/config-set"), body, code=None)
    assert told["status"] == "ok"
    box.remove("AI.deployed")


def test_a_node_name_with_a_hive_goes_before_the_hive_of_the_path(box):
    answer = box.spawn("WF.far@edge-07", code=None, runtime="wf.orch.diag")
    assert answer["status"] == "error"
    assert answer["error_code"] in ("SPAWN_FAILED", "TRANSPORT_ERROR", "TIMEOUT")
    assert not list(box.lib.glob("nodes/WF/WF.far@*"))


def test_template_tenant_and_request_layering(box, tmp_path):
    folder = box.install("wf.layers", "1.0.0")
    (folder / "package.json").write_text(
        '{"name":"wf.layers","version":"1.0.0","type":"full_runtime","config_template":"config/t.json"}'
    )
    (folder / "config").mkdir()
    (folder / "config" / "t.json").write_text(
        f'{{"from_template":1,"both":"template","tenant_id":"{OTHER_TENANT}","_system":{{"leak":true}}}}'
    )
    box.spawn(
        "WF.layers", tenant_id=TENANT, config={"both": "request", "from_request": 2, "tenant_id": TENANT}
    )
    config = box.get(box.node("WF.layers", "/config"))["payload"]["config"]
    system = config["_system"]
    assert (config["from_template"], config["both"], config["from_request"]) == (1, "request", 2)
    assert config["tenant_id"] == system["tenant_id"] == TENANT
    assert system["managed_by"] == "SY.orchestrator"
    assert "leak" not in system
    box.remove("WF.layers")


def test_sleepers_are_starting_and_end_with_their_kill(box):
    box.install("wf.sleeper", "1.0.0", SLEEPER)
    box.spawn("WF.sleeper")
    assert box.status("WF.sleeper")["lifecycle_state"] == "STARTING"
    pid = box.status("WF.sleeper")["process"]["pid"]
    box.kill("WF.sleeper")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    box.remove("WF.sleeper")
