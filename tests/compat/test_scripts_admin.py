"""Operators' scripts about hives, the catalogue and the internal gateway (``spec/admin-api.md §F.1–F.3``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from appliance.testing.hive import HiveHarness

from .operator_box import HELD, NODE, SETTINGS, Box

pytestmark = pytest.mark.process

RECORD = """hive_id: edge-07
address: 10.20.0.7
created_at: "1790000012345"
status: connected
syncthing_peer_linked: false
"""


@pytest.fixture(scope="module")
def harness(module_hive_folder):
    running = HiveHarness(module_hive_folder, planes="apart", settings=SETTINGS)
    record = running.paths.lib / "hives" / "edge-07" / "info.yaml"
    record.parent.mkdir(parents=True)
    record.write_text(RECORD)
    with running:
        yield running


@pytest.fixture(scope="module")
def box(harness):
    with Box.of(harness) as box:
        box.install("ai.test.gov", "1.0.0", NODE, HELD)
        yield box


def diag(box, action, code=0, **inputs):
    """The diagnostics helper of ``§F.3``: inputs in variables, pretty JSON out."""
    variables = {f"ADMIN_{name.upper()}": value for name, value in inputs.items()}
    environment = {**os.environ, **box.environment, "ADMIN_ACTION": action, **variables}
    command = [sys.executable, "-m", "appliance", "admin-command"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode == code, told.stdout + told.stderr
    return json.loads(told.stdout)


def test_admin_add_hive_matrix(box):
    assert box.get("/health")["status"] == "ok"
    cases = (
        ({"hive_id": "edge-09", "address": "bad address"}, 400, "INVALID_ADDRESS"),
        ({"hive_id": "bad id", "address": "10.0.0.9"}, 400, "INVALID_HIVE_ID"),
        ({"hive_id": "edge-07", "address": "10.20.0.7"}, 409, "HIVE_EXISTS"),
        ({"address": "10.0.0.9"}, 400, "INVALID_REQUEST"),
        ({"hive_id": "", "address": "10.0.0.9"}, 400, "INVALID_REQUEST"),
        ({"hive_id": "motherbee", "address": "10.0.0.9"}, 400, "INVALID_HIVE_ID"),
    )
    for body, status, code in cases:
        assert box.call("POST", "/hives", body, status)["error_code"] == code
    known = [one for one in box.get("/hives")["payload"]["hives"] if one.get("address")]
    assert known[0]["hive_id"] == "edge-07"
    fresh = box.call("POST", "/hives", {"hive_id": "edge-10", "address": "127.0.0.1"}, code=502)
    assert fresh["error_code"].startswith("SSH_")


def test_hives_without_a_listening_link_or_without_leave(hive_folder):
    settings = {"wan": {"listen": "127.0.0.1:9000", "authorized_hives": ["edge-01"]}}
    harness = HiveHarness(hive_folder, settings=settings)
    with harness, Box.of(harness) as box:
        body = {"hive_id": "edge-10", "address": "127.0.0.1"}
        assert box.call("POST", "/hives", body, 409)["error_code"] == "WAN_NOT_AUTHORIZED"
    harness = HiveHarness(hive_folder)
    with harness, Box.of(harness) as box:
        assert box.call("POST", "/hives", body, 503)["error_code"] == "MISSING_WAN_LISTEN"


def test_orchestrator_remove_hive_socket_offline(box):
    assert box.call("DELETE", "/hives/edge-none", code=404)["error_code"] == "NOT_FOUND"
    assert box.get("/hives/edge-07")["payload"]["hive"]["address"] == "10.20.0.7"
    record = box.lib / "hives" / "edge-08" / "info.yaml"
    record.parent.mkdir(parents=True)
    record.write_text(RECORD.replace("edge-07", "edge-08"))
    removed = box.call("DELETE", "/hives/edge-08")["payload"]
    assert removed["remote_cleanup"] in ("socket_timeout", "local_only")
    assert removed["remote_cleanup_via"] == "local_only"
    assert not record.exists()
    assert box.get("/hives/edge-08", code=404)["error_code"] == "NOT_FOUND"


def test_admin_list_actions(box):
    http = box.get("/admin/actions")
    gateway = diag(box, "list_admin_actions")
    for answer in (http, gateway):
        assert (answer["status"], answer["action"]) == ("ok", "list_admin_actions")
        names = [one["action"] for one in answer["payload"]["actions"]]
        assert {"list_admin_actions", "run_node", "inventory", "update", "sync_hint"} <= set(names)
        assert "get_storage_metrics" not in names
        assert len(names) == 66
    assert http["payload"]["registry_version"] == gateway["payload"]["registry_version"] == "6"


def test_admin_http_socket_parity(box):
    seen = diag(box, "inventory", params_json=json.dumps({"scope": "hive", "filter_hive": box.hive}))
    for answer in (box.get(f"/inventory/{box.hive}"), seen):
        assert answer["status"] == answer["payload"]["status"] == "ok"
    hint = box.call("POST", f"/hives/{box.hive}/sync-hint", {"channel": "dist"}, code=None)
    assert hint["status"] == "ok"
    assert diag(box, "sync_hint", payload_target=box.hive, params_json='{"channel":"dist"}')["status"] == "ok"
    known = box.versions()["runtimes"]
    wanted = {"manifest_version": known["manifest_version"], "manifest_hash": known["manifest_hash"]}
    assert box.update(**wanted)["status"] == "ok"
    assert diag(box, "update", payload_target=box.hive, params_json=json.dumps(wanted))["status"] == "ok"
    spawned = diag(
        box,
        "run_node",
        payload_target=box.hive,
        params_json=json.dumps({"node_name": "AI.parity", "runtime": "ai.test.gov"}),
    )
    assert spawned["status"] == "ok"
    assert box.status("AI.parity")["lifecycle_state"] in ("STARTING", "RUNNING")
    asked = diag(box, "get_node_status", payload_target=box.hive, params_json='{"node_name":"AI.parity"}')
    assert asked["payload"]["node_status"]["lifecycle_state"] in ("STARTING", "RUNNING")
    body = json.dumps({"node_name": "AI.parity", "purge_instance": True})
    assert diag(box, "kill_node", payload_target=box.hive, params_json=body)["status"] == "ok"


def test_admin_internal_target_required(box):
    missing = diag(box, "run_node", params_json='{"node_name":"AI.x"}')
    assert missing["error_code"] == "INVALID_REQUEST"
    assert "missing target" in missing["error_detail"]
    legacy = diag(
        box, "run_node", payload_target=box.hive, params_json='{"node_name":"AI.x","hive_id":"motherbee"}'
    )
    assert legacy["error_code"] == "INVALID_REQUEST"
    assert "legacy field 'hive_id' is not supported" in legacy["error_detail"]


def test_admin_internal_hive_id_selector(box):
    for action in ("run_node", "update"):
        answer = diag(box, action, payload_target=box.hive, params_json='{"hive_id":"motherbee"}')
        assert "legacy field 'hive_id' is not supported" in answer["error_detail"]
    assert diag(box, "get_hive", params_json='{"hive_id":"edge-07"}')["error_code"] != "INVALID_REQUEST"


def test_admin_internal_node_name_precedence(box):
    body = json.dumps({"node_name": "WF.far@edge-07", "runtime": "ai.test.gov"})
    answer = diag(box, "run_node", payload_target=box.hive, params_json=body)
    assert answer["status"] == "error"
    assert not list(box.lib.glob("nodes/WF/WF.far*"))


@pytest.mark.parametrize("action", ["list_routers", "get_routers", "add_router", "delete_router"])
def test_admin_internal_no_legacy(box, action):
    answer = diag(box, action, payload_target=box.hive)
    assert answer["error_code"] == "INVALID_REQUEST"
    assert "legacy router action is not supported" in answer["error_detail"]


def test_the_diagnostics_helper_checks_what_is_expected(box):
    diag(box, "hive_status", expect_status="ok")
    diag(box, "hive_status", code=1, expect_status="error")
    answer = diag(box, "no_such_action", request_id="r-1")
    assert (answer["error_code"], answer["request_id"]) == ("INVALID_REQUEST", "r-1")
    assert answer["trace_id"]


def test_every_action_of_the_catalogue_is_known_to_the_gateway(box):
    for entry in box.get("/admin/actions")["payload"]["actions"]:
        if not entry["read_only"]:
            continue
        inputs = {"payload_target": box.hive} if entry["requires_target"] else {}
        answer = diag(box, entry["action"], **inputs)
        assert answer["status"] in ("ok", "sync_pending", "error")
        assert "unknown action" not in str(answer["error_detail"])


def test_nats_client_transport_metrics(box):
    metrics = box.get("/config/storage/metrics")
    assert metrics["status"] == metrics["payload"]["status"] == "ok"
    assert set(metrics["payload"]["metrics"]) >= {
        "pending",
        "pending_with_error",
        "oldest_pending_age_s",
        "processed_total",
    }


def test_storage_path_round_trips(box):
    before = box.get("/config/storage")["payload"]["path"]
    assert before == str(box.lib)
    box.call("PUT", "/config/storage", {"path": str(box.lib / "elsewhere")})
    assert box.get("/config/storage")["payload"]["path"] == str(box.lib / "elsewhere")
    box.call("PUT", "/config/storage", {"path": before})
    assert box.get("/config/storage")["payload"]["path"] == before
