"""The tables of ``spec/admin-api.md`` against a running hive: what no other test of the admin API holds.

One hive for all; rows that change something undo it or use names of their own.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import tarfile
import tempfile
from pathlib import Path

import httpx
import pytest

from appliance.http.admin.metric_words import GAUGES
from appliance.testing.hive import HiveHarness
from tests.compat.operator_box import SETTINGS, TENANT, Box

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def hive():
    folder = Path(tempfile.mkdtemp(prefix="fluxbee-"))
    with HiveHarness(folder, settings=SETTINGS) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def box(hive):
    with Box.of(hive) as found:
        found.install("ai.greeter", "0.1.0")
        found.install("ai.greeter", "0.2.0")
        found.install("solo", "1.0.0", start=None)
        found.install("odd", "1.0.0", type="weird")
        found.install("based", "0.9.0", start=None, type="config_only", runtime_base="ai.greeter")
        found.install("based", "1.0.0", start=None, type="config_only", runtime_base="ai.greeter")
        found.install("orphan", "1.0.0", start=None, type="config_only", runtime_base="nowhere")
        found.install("baseless", "1.0.0", start=None, type="workflow")
        yield found


def raw(hive, text):
    """What the door answers to these very bytes, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", hive.port), timeout=10) as sock:
        sock.sendall(text if isinstance(text, bytes) else text.encode())
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    return answer


# --- A.2, A.11: methods, paths, headers ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PROPFIND", "PUT"])
@pytest.mark.parametrize("path", ["/routes", "/hives/motherbee/nodes", "/tap"])
def test_a_method_that_is_not_served_is_an_unknown_path(box, method, path):
    response = box.client.request(method, path)
    assert response.status_code == 404
    assert response.content == (b"" if method == "HEAD" else b'{"error":"not_found"}')
    assert "allow" not in response.headers


OUTSIDE = [
    "/page/../app.py",
    "/page/..%2fapp.py",
    "/page/%2e%2e/app.py",
    "/page//etc/passwd",
    "/page/a%00b",
    "/page/.hidden",
    "/docs/../app.py",
    "/docs/%2e%2e/docs.py",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//health",
    "/hives//nodes",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out(hive, path):
    answer = raw(hive, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.endswith(b'{"error":"not_found"}')


BAD_NAMES = ["..", "AI.%2e%2e%2f%2e%2e", "AI.a%00b", "%C3%A9", "@motherbee", "AI.x%0aFAKE", "AI.%E2%80%AEx"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("what", ["status", "state", "config", "logs"])
def test_what_is_no_name_reaches_no_file(hive, name, what):
    path = f"/hives/motherbee/nodes/{name}/{what}"
    answer = raw(hive, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b'"error_code":"INVALID_REQUEST"' in answer
    assert b"FAKE" not in hive.log.read_bytes()


def test_forwarded_headers_change_nothing(box):
    claims = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9", "x-real-ip": "203.0.113.9"}
    assert box.client.get("/hive/status", headers=claims).status_code == 200
    claims = {"host": "evil.example", "x-forwarded-host": "localhost"}
    refused = box.client.get("/hive/status", headers=claims)
    assert (refused.status_code, refused.json()["error_code"]) == (403, "HOST_REFUSED")


def test_what_a_request_names_cannot_add_a_header(hive):
    head = "GET /hives/x%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = raw(hive, head)
    assert b"set-cookie" not in answer.partition(b"\r\n\r\n")[0].lower()


# --- A.3: bodies that want to hurt -----------------------------------------------------------------------

HURTFUL = [
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="very deep"),
    pytest.param(b'{"config":' + b"[" * 200 + b"]" * 200 + b"}", id="deeper than a frame may be"),
    pytest.param(b'{"config":{"a":' + b"9" * 100_000 + b"}}", id="an endless number"),
    pytest.param(b'{"config":{"a":1e999999}}', id="a number beyond all"),
    pytest.param(b'{"config":{"a":"\\ud800"}}', id="half a surrogate pair"),
    pytest.param(b'{"config":{"a":"\xff"}}', id="no UTF-8"),
    pytest.param(b'{"config":NaN}', id="NaN"),
]


@pytest.mark.parametrize("body", HURTFUL)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/hives/motherbee/nodes"),
        ("PUT", "/hives/motherbee/nodes/AI.x/config"),
        ("POST", "/hives/motherbee/nodes/AI.x/messages"),
        ("POST", "/hives/motherbee/nodes/AI.x/control/config-set"),
    ],
)
def test_a_hurtful_body_is_refused_at_once(box, method, path, body):
    if path.endswith(("nodes", "messages")):
        body = b'{"node_name":"AI.x","payload":' + body + b',"config":' + body + b"}"
    response = box.client.request(method, path, content=body, timeout=5)
    assert (response.status_code, response.json()["error_code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/config/routes", {"routes": [], "version": 2**53}),
        ("/config/vpns", {"vpns": [], "version": 2**64}),
        ("/config/storage", {"path": "/var/lib/fluxbee", "version": 2**63}),
    ],
)
def test_a_version_without_a_successor_is_refused(box, path, body):
    answer = box.call("PUT", path, body, 400)
    assert answer["error_code"] == "INVALID_REQUEST"
    assert "at most" in answer["error_detail"]


# --- B.2: hives ------------------------------------------------------------------------------------------

ADD_HIVE = [
    ({}, 400, "INVALID_REQUEST"),
    ({"hive_id": "edge-1"}, 400, "INVALID_REQUEST"),
    ({"hive_id": "", "address": "10.0.0.1"}, 400, "INVALID_REQUEST"),
    ({"hive_id": 5, "address": "10.0.0.1"}, 400, "INVALID_REQUEST"),
    ({"hive_id": "bad id", "address": "bad address"}, 400, "INVALID_HIVE_ID"),
    ({"hive_id": "motherbee", "address": "10.0.0.1"}, 400, "INVALID_HIVE_ID"),
    ({"hive_id": "x" * 65, "address": "10.0.0.1"}, 400, "INVALID_HIVE_ID"),
    ({"hive_id": "../x", "address": "10.0.0.1"}, 400, "INVALID_HIVE_ID"),
    ({"hive_id": "edge-1", "address": "bad address"}, 400, "INVALID_ADDRESS"),
    ({"hive_id": "edge-1", "address": "10.0.0.1", "harden_ssh": "maybe"}, 400, "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("body", "status", "code"), ADD_HIVE)
def test_adding_a_hive_is_checked_in_order(box, body, status, code):
    assert box.call("POST", "/hives", body, status)["error_code"] == code


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/hives/nope", 404, "NOT_FOUND"),
        ("GET", "/hives/..%2Fx", 400, "INVALID_HIVE_ID"),
        ("DELETE", "/hives/nope", 404, "NOT_FOUND"),
        ("DELETE", "/hives/..%2Fx", 400, "INVALID_HIVE_ID"),
        ("DELETE", "/hives/motherbee", 400, "INVALID_REQUEST"),
    ],
)
def test_hives_that_are_not_there(box, method, path, status, code):
    assert box.call(method, path, code=status)["error_code"] == code


def test_the_local_hive_has_a_record(box):
    record = {"hive_id": "motherbee", "role": "motherbee", "status": "alive", "is_local": True}
    assert box.get("/hives/motherbee")["payload"]["hive"] == record
    assert record in box.get("/hives")["payload"]["hives"]


# --- B.3: versions and history ---------------------------------------------------------------------------


def test_versions_of_one_and_of_all(box):
    one = box.get("/versions?hive=motherbee")
    assert one["action"] == "get_versions"
    assert one["payload"]["hive"]["hive_id"] == "motherbee"
    every = box.get("/versions")
    assert every["action"] == "list_versions"
    assert every["payload"]["hives"][0]["hive_id"] == "motherbee"


@pytest.mark.parametrize("limit", ["abc", "", "99999999999999999999999", "-1", "500"])
def test_a_limit_that_is_none_is_ignored(box, limit):
    answer = box.get(f"/deployments?limit={limit}&category=core")
    assert answer["payload"]["view"] == "history"
    assert {entry["category"] for entry in answer["payload"]["entries"]} == {"core"}


def test_history_of_one_hive_names_it(box):
    for path, action in (("deployments", "get_deployments"), ("drift-alerts", "get_drift_alerts")):
        answer = box.get(f"/hives/motherbee/{path}")
        assert (answer["action"], answer["payload"]["hive_id"]) == (action, "motherbee")
        assert "hive_id" not in box.get(f"/{path}")["payload"]
    none = box.get("/drift-alerts?severity=error&kind=local_current_state")
    assert none["payload"]["entries"] == []


# --- B.4: routes and rules as they were written ----------------------------------------------------------


def test_what_was_left_out_of_a_route_stays_left_out(box):
    written = {"prefix": "AI.short.", "action": "FORWARD", "next_hop_hive": "edge-07", "priority": 50}
    added = box.call("POST", "/routes", written)["payload"]["payload"]["route"]
    assert added == {**written, "metric": None}
    assert added in box.get("/routes")["payload"]["payload"]["routes"]
    box.call("DELETE", "/routes?prefix=AI.short.")
    written = {"prefix": "AI.long.", "match_kind": "PREFIX", "action": "DROP", "metric": 0, "priority": 100}
    added = box.call("POST", "/routes", written)["payload"]["payload"]["route"]
    assert added == {**written, "next_hop_hive": None}
    box.call("DELETE", "/hives/motherbee/routes/AI.long.")
    rule = box.call("POST", "/vpns", {"pattern": "IO.*", "vpn_id": 12})["payload"]["payload"]["vpn"]
    assert rule == {"pattern": "IO.*", "vpn_id": 12, "priority": None}
    box.call("DELETE", "/vpns?pattern=IO.*")


def test_what_a_list_shows_can_be_sent_back(box):
    box.call("POST", "/routes", {"prefix": "AI.back.", "action": "DROP"})
    shown = box.get("/routes")["payload"]["payload"]["routes"]
    assert box.call("PUT", "/config/routes", {"routes": shown}) == {"status": "ok"}
    assert box.get("/routes")["payload"]["payload"]["routes"] == shown
    assert box.call("PUT", "/config/routes", {"routes": []}) == {"status": "ok"}


# --- B.6: nodes ------------------------------------------------------------------------------------------

SPAWN = [
    ({"node_name": "AI.x", "name": "y"}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.x", "version": "y"}, 400, "INVALID_REQUEST"),
    ({}, 400, "INVALID_REQUEST"),
    ({"node_name": 5}, 400, "INVALID_REQUEST"),
    ({"node_name": "x"}, 400, "INVALID_REQUEST"),
    ({"node_name": "SY.foo"}, 400, "INVALID_REQUEST"),
    ({"node_name": "RT.gateway"}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.x/../y"}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.\0x"}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.é"}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.x", "runtime": ".."}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.x", "runtime_version": ""}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.x", "config": {"_system": 1}}, 400, "INVALID_REQUEST"),
    ({"node_name": "AI.x"}, 404, "RUNTIME_NOT_AVAILABLE"),
    ({"node_name": "AI.x", "runtime": "solo", "runtime_version": "9"}, 404, "RUNTIME_NOT_AVAILABLE"),
    ({"node_name": "AI.x", "runtime": "baseless"}, 500, "MISSING_RUNTIME_BASE"),
    ({"node_name": "AI.x", "runtime": "orphan"}, 500, "BASE_RUNTIME_NOT_AVAILABLE"),
    ({"node_name": "AI.x", "runtime": "odd"}, 500, "UNKNOWN_PACKAGE_TYPE"),
    ({"node_name": "AI.x", "runtime": "SOLO"}, 500, "RUNTIME_NOT_PRESENT"),
    ({"node_name": "AI.greeter.x", "tenant_id": "bad"}, 500, "IDENTITY_REGISTER_FAILED"),
    ({"node_name": "AI.x@nope", "runtime": "ai.greeter"}, 502, "SPAWN_FAILED"),
]


@pytest.mark.parametrize(("body", "status", "code"), SPAWN)
def test_a_spawn_is_refused_with_its_code(box, body, status, code):
    answer = box.call("POST", "/hives/motherbee/nodes", body, status)
    assert (answer["action"], answer["error_code"]) == ("run_node", code)
    assert not box.config_path("AI.x").exists()


FORWARDED = [
    ("GET", "nodes", 500, "NODE_LIST_FAILED"),
    ("GET", "versions", 500, "VERSIONS_FAILED"),
    ("GET", "runtimes", 500, "RUNTIMES_FAILED"),
    ("GET", "runtimes/x", 500, "RUNTIME_GET_FAILED"),
    ("GET", "nodes/AI.x/config", 500, "NODE_CONFIG_GET_FAILED"),
    ("PUT", "nodes/AI.x/config", 500, "NODE_CONFIG_SET_FAILED"),
    ("GET", "nodes/AI.x/state", 500, "NODE_STATE_GET_FAILED"),
    ("GET", "nodes/AI.x/status", 500, "NODE_STATUS_GET_FAILED"),
    ("POST", "nodes/AI.x/start", 500, "START_FAILED"),
    ("POST", "nodes/AI.x/restart", 502, "RESTART_FAILED"),
    ("DELETE", "nodes/AI.x", 502, "KILL_FAILED"),
    ("DELETE", "nodes/AI.x/instance", 500, "NODE_INSTANCE_REMOVE_FAILED"),
    ("GET", "identity/ilks", 502, "TRANSPORT_ERROR"),
    ("GET", "vpns", 502, "TRANSPORT_ERROR"),
    ("POST", "sync-hint", 502, "TRANSPORT_ERROR"),
    ("POST", "nodes/AI.x/control/config-get", 502, "TRANSPORT_ERROR"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), FORWARDED)
def test_a_hive_out_of_reach_has_the_actions_code_and_the_token(box, method, path, status, code):
    answer = box.call(method, f"/hives/nope/{path}", {}, status)
    assert answer["error_code"] == code
    assert "UNREACHABLE" in answer["error_detail"]


@pytest.mark.parametrize(
    ("body", "signal", "force"),
    [
        (None, "SIGTERM", False),
        ({"force": True}, "SIGKILL", True),
        ({"signal": "sigint"}, "SIGINT", False),
        ({"signal": "SIGKILL"}, "SIGKILL", False),
    ],
)
def test_a_kill_of_nobody_tells_its_signal(box, body, signal, force):
    payload = box.call("DELETE", "/hives/motherbee/nodes/AI.none", body)["payload"]
    assert (payload["status"], payload["state"]) == ("not_found", "not_found")
    assert (payload["signal"], payload["force"]) == (signal, force)
    assert "instance_purged" not in payload


def test_a_kill_may_name_the_unit_alone(box):
    box.spawn("AI.greeter.u", tenant_id=TENANT)
    unit = "fluxbee-node-AI.greeter.u-motherbee"
    answer = box.call(
        "DELETE", "/hives/motherbee/nodes/AI.other", {"node_name": "", "unit": unit, "force": True}
    )
    assert (answer["payload"]["status"], answer["payload"]["unit"]) == ("ok", unit)
    box.kill("AI.greeter.u", purge_instance=True)
    missing = box.call("DELETE", "/hives/motherbee/nodes/AI.other", {"node_name": ""}, 400)
    assert "missing unit or node_name" in missing["error_detail"]


@pytest.mark.parametrize("path", ["", "/instance"])
@pytest.mark.parametrize("name", ["SY.admin", "RT.gateway"])
def test_the_appliance_itself_cannot_be_killed(box, name, path):
    answer = box.call("DELETE", f"/hives/motherbee/nodes/{name}{path}", code=400)
    assert answer["error_code"] == "INVALID_REQUEST"


def test_a_configuration_is_merged_at_its_top_and_its_version_grows(box):
    box.spawn("AI.greeter.c", config={"a": {"x": 1}}, tenant_id=TENANT)
    path = "/hives/motherbee/nodes/AI.greeter.c/config"
    assert box.call("PUT", path, {"_system": {}}, 400)["error_code"] == "INVALID_REQUEST"
    assert box.call("PUT", f"{path}?replace=maybe", {}, 400)["error_code"] == "INVALID_REQUEST"
    merged = box.call("PUT", path, {"a": {"y": 2}})["payload"]
    assert (merged["config_version"], merged["notify_status"]) == (2, "sent")
    replaced = box.call("PUT", f"{path}?replace=1&notify=0", {"z": 1})["payload"]
    assert (replaced["config_version"], replaced["notify_status"]) == (3, "skipped")
    config = box.get(path)["payload"]["config"]
    system = config.pop("_system")
    assert config == {"z": 1}
    assert (system["runtime"], system["runtime_version"], system["config_version"]) == (
        "ai.greeter",
        "0.2.0",
        3,
    )
    box.kill("AI.greeter.c", force=True, purge_instance=True)


# --- B.6.10, B.6.11: update and sync hint ----------------------------------------------------------------

UPDATE = [
    ({"category": None, "manifest_version": "1"}, "category"),
    ({"category": "", "version": 1}, "category"),
    ({"manifest_version": "1", "version": 1}, "manifest_version must be"),
    ({"manifest_version": -1, "manifest_hash": "x"}, "manifest_version must be"),
    ({"version": 1}, "legacy field 'version' is not supported; use manifest_version"),
    ({"hash": "x"}, "manifest_hash"),
    ({"manifest_hash": "", "runtime": 5}, "missing manifest_hash"),
    ({"hash": "x", "manifest_hash": "y"}, "legacy field 'hash'"),
    ({"category": "core", "manifest_hash": "x", "runtime": "y"}, "category runtime only"),
    ({"manifest_hash": "x", "runtime_version": "1"}, "runtime_version needs runtime"),
]


@pytest.mark.parametrize(("body", "detail"), UPDATE)
def test_an_update_is_checked_in_order(box, body, detail):
    answer = box.update(400, **body)
    assert answer["error_code"] == "INVALID_REQUEST"
    assert detail in answer["error_detail"]


def test_categories_and_hashes_are_read_in_any_spelling(box):
    pending = box.update(202, category=" CORE ", manifest_hash="x")["payload"]
    assert (pending["status"], pending["category"]) == ("sync_pending", "core")
    digest = f"sha256:{box.manifest_hash().upper()}"
    assert box.update(200, manifest_hash=digest, runtime="ai.greeter")["payload"]["status"] == "ok"
    stale = box.update(409, manifest_hash="x", manifest_version=1)
    assert stale["error_code"] == "VERSION_MISMATCH"
    assert stale["payload"]["local_manifest_hash"] == box.manifest_hash()


@pytest.mark.parametrize(
    "body",
    [
        {"channel": "mail"},
        {"channel": "DIST"},
        {"folder_id": ""},
        {"folder_id": "other"},
        {"wait_for_idle": "x"},
        {"timeout_ms": 0},
        {"timeout_ms": -5},
    ],
)
def test_a_sync_hint_is_checked(box, body):
    assert box.call("POST", "/hives/motherbee/sync-hint", body, 400)["error_code"] == "INVALID_REQUEST"


def test_a_sync_hints_time_is_capped(box):
    body = {"channel": "dist", "timeout_ms": 400_000}
    payload = box.call("POST", "/hives/motherbee/sync-hint", body)["payload"]
    assert (payload["timeout_ms"], payload["folder_id"]) == (300_000, "fluxbee-dist")


# --- B.9: inventory, runtimes, publications --------------------------------------------------------------


@pytest.mark.parametrize("path", ["/inventory/nope", "/inventory?hive=nope", "/hives/nope/status"])
def test_the_inventory_of_an_unknown_hive_is_not_found(box, path):
    assert box.call("GET", path, code=404)["error_code"] == "NOT_FOUND"


def test_the_inventory_is_filtered_by_kind_in_any_case(box):
    assert {node["kind"] for node in box.get("/inventory?type=sy")["payload"]["nodes"]} == {"SY"}
    assert box.get("/inventory/nodes?type=zz")["payload"]["nodes"] == []
    assert box.get("/hives/motherbee/inventory/summary")["payload"]["scope"] == "summary"


REMOVE = [
    ("nope/runtimes/ai.greeter/versions/0.1.0", 409, "NOT_PRIMARY"),
    ("motherbee/runtimes/a%20b/versions/0.1.0", 400, "INVALID_REQUEST"),
    ("motherbee/runtimes/nowhere/versions/0.1.0", 404, "RUNTIME_NOT_FOUND"),
    ("motherbee/runtimes/ai.greeter/versions/current", 409, "RUNTIME_CURRENT_CONFLICT"),
    ("motherbee/runtimes/AI.Greeter/versions/0.2.0", 409, "RUNTIME_CURRENT_CONFLICT"),
    ("motherbee/runtimes/solo/versions/1.0.0", 409, "RUNTIME_CURRENT_CONFLICT"),
    ("motherbee/runtimes/ai.greeter/versions/9", 404, "RUNTIME_VERSION_NOT_FOUND"),
    ("motherbee/runtimes/ai.greeter/versions/0.1.0", 409, "RUNTIME_HAS_DEPENDENTS"),
    ("motherbee/runtimes/based/versions/0.9.0?test_hold_ms=abc", 400, "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("path", "status", "code"), REMOVE)
def test_a_version_is_removed_only_when_nobody_needs_it(box, path, status, code):
    answer = box.call("DELETE", f"/hives/{path}", code=status)
    assert answer["error_code"] == code
    assert (box.runtimes / "ai.greeter" / "0.1.0").is_dir()


def test_runtimes_are_looked_up_in_their_own_spelling(box):
    assert box.call("GET", "/hives/motherbee/runtimes/AI.greeter", code=404)["error_code"] == (
        "RUNTIME_NOT_FOUND"
    )
    assert box.call("GET", "/hives/motherbee/runtimes/a%20b", code=400)["error_code"] == "INVALID_REQUEST"
    based = box.get("/hives/motherbee/runtimes/based")["payload"]["materialization"]["versions"]["1.0.0"]
    assert based["runtime_base_version"] == "0.2.0"
    assert based["base_start_script_executable"] is True
    assert "start_script_path" not in based


def package(**document):
    return {"kind": "inline_package", "files": {"package.json": json.dumps(document)}}


PUBLISH = [
    ({}, 400, "INVALID_REQUEST", "source"),
    ({"source": {"kind": "parcel"}}, 400, "INVALID_REQUEST", "parcel"),
    ({"source": {"kind": "inline_package", "files": {}}}, 400, "INVALID_REQUEST", "files"),
    ({"source": {"kind": "inline_package", "files": {"../x": ""}}}, 400, "INVALID_REQUEST", ".."),
    ({"source": {"kind": "inline_package", "files": {"/x": ""}}}, 400, "INVALID_REQUEST", "absolute"),
    ({"source": package(), "sync_to": [""]}, 400, "INVALID_REQUEST", "sync_to"),
    ({"source": package(), "update_to": ["bad id"]}, 400, "INVALID_REQUEST", "bad id"),
    ({"source": {"kind": "bundle_upload", "blob_path": "none.zip"}}, 404, "BLOB_NOT_FOUND", "none.zip"),
    ({"source": {"kind": "bundle_upload", "blob_path": "../../etc/passwd"}}, 400, "INVALID_REQUEST", ".."),
    ({"source": {"kind": "bundle_upload", "blob_path": "/etc/passwd"}}, 400, "INVALID_REQUEST", "absolute"),
    (
        {"source": package(name="a.b", version="1.0.0", type="workflow")},
        400,
        "INVALID_REQUEST",
        "runtime_base is required for workflow",
    ),
    ({"source": package(name="a-b", version="1.0.0", type="full_runtime")}, 400, "INVALID_REQUEST", "a-b"),
    ({"source": package(name="a.b", version="1", type="full_runtime")}, 400, "INVALID_REQUEST", "semver"),
]


@pytest.mark.parametrize(("body", "status", "code", "detail"), PUBLISH)
def test_a_publication_is_checked(box, body, status, code, detail):
    answer = box.call("POST", "/admin/runtime-packages/publish", body, status)
    assert answer["error_code"] == code
    assert detail in answer["error_detail"]


def test_what_is_no_zip_is_no_bundle(box, hive):
    folder = hive.paths.blob
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "no.zip").write_bytes(b"PK\x03\x04 not really")
    body = {"source": {"kind": "bundle_upload", "blob_path": "no.zip"}}
    assert box.call("POST", "/admin/runtime-packages/publish", body, 400)["error_code"] == "INVALID_ZIP"


# --- B.8: modules ----------------------------------------------------------------------------------------


def tar_of(**files):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def test_modules_come_and_go_as_tar(box, hive):
    client = box.client
    assert client.get("/modules").json() == {"status": "ok", "modules": []}
    large = b"x" * 3_000_000  # more than is packed in memory
    told = client.post("/modules/billing/1.0.1", content=tar_of(readme=b"hello", large=large))
    assert told.json() == {"status": "ok", "name": "billing", "version": "1.0.1"}
    again = client.post("/modules/billing/1.0.1", content=tar_of(readme=b"other"))
    assert (again.status_code, again.json()) == (409, {"status": "error", "error_code": "MODULE_EXISTS"})
    assert client.get("/modules/").json() == {"status": "ok", "modules": ["billing"]}
    assert client.get("/modules/billing/").json()["versions"] == ["1.0.1"]
    assert client.get("/modules/none").json() == {"status": "ok", "name": "none", "versions": []}
    got = client.get("/modules/billing/1.0.1")
    assert got.headers["content-type"] == "application/x-tar"
    assert int(got.headers["content-length"]) == len(got.content)
    with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
        names = {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}
    assert names == {"readme": b"hello", "large": large}
    (hive.paths.lib / "modules" / "billing" / "raw").write_bytes(b"just a file")
    got = client.get("/modules/billing/raw")
    assert (got.headers["content-type"], got.content) == ("application/octet-stream", b"just a file")
    assert not list(hive.paths.spool.glob("*")) if hive.paths.spool.exists() else True


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/modules/billing/9", b"", 404, "NOT_FOUND"),
        ("GET", "/modules/%2e%2e", b"", 400, "INVALID_REQUEST"),
        ("GET", "/modules/%2e%2e/%2e%2e", b"", 400, "INVALID_REQUEST"),
        ("GET", "/modules/..%2f../etc", b"", 400, "INVALID_REQUEST"),
        ("POST", "/modules/a%20b/1", b"", 400, "INVALID_REQUEST"),
        ("POST", "/modules/bad/1", b"", 400, "INVALID_ARCHIVE"),
        ("POST", "/modules/bad/1", b"no tar" * 200, 400, "INVALID_ARCHIVE"),
        ("POST", "/modules/bad/1", tar_of(**{"../out": b"x"}), 400, "INVALID_ARCHIVE"),
    ],
)
def test_what_is_no_module_is_refused(hive, method, path, body, status, code):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = raw(hive, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer.startswith(f"HTTP/1.1 {status}".encode()), answer
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (told["status"], told["error_code"]) == ("error", code)
    assert ("error_detail" in told) is (code != "NOT_FOUND")
    assert not (hive.paths.lib / "modules" / "bad" / "1").exists()
    assert not (hive.paths.lib / "out").exists()


# --- health and metrics ----------------------------------------------------------------------------------


def samples(text):
    """Metrics of a text: kind and value by sample; every one has a line of help."""
    kinds, values, helped = {}, {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
        elif line.startswith("# HELP "):
            helped.add(line.split(" ")[2])
        else:
            sample, _, value = line.rpartition(" ")
            values[sample] = float(value)
    assert helped == set(kinds)
    return kinds, values


def test_metrics_tell_of_the_world_and_counters_only_grow(box):
    kinds, before = samples(box.client.get("/metrics").text)
    for source in ("world", "world_feed", "world_door", "world_service", "journals"):
        assert before[f'fluxbee_source_up{{source="{source}"}}'] == 1
    assert before['fluxbee_journals_bytes_written{name="config.routes"}'] > 0
    box.get("/inventory")
    _, after = samples(box.client.get("/metrics").text)
    assert after["fluxbee_admin_reads"] > before["fluxbee_admin_reads"]
    for sample, value in before.items():
        if kinds[sample.partition("{")[0]] == "counter":
            assert after[sample] >= value, sample


def test_every_gauge_in_the_list_exists(box):
    kinds, _ = samples(box.client.get("/metrics").text)
    gauges = [name for name, kind in kinds.items() if kind == "gauge"]
    assert not [word for word in GAUGES if not any(name.endswith(f"_{word}") for name in gauges)]


def test_a_world_that_does_not_answer_is_down_and_hides_nobody(hive_folder):
    with HiveHarness(hive_folder, planes="apart") as apart, httpx.Client(base_url=apart.url) as client:
        world = apart.plane_pid("world")
        assert world is not None
        os.kill(world, signal.SIGSTOP)
        try:
            _, values = samples(client.get("/metrics", timeout=20).text)
        finally:
            os.kill(world, signal.SIGCONT)
    assert values['fluxbee_source_up{source="world"}'] == 0
    assert values['fluxbee_source_up{source="router"}'] == 1
