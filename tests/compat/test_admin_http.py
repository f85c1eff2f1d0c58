"""The admin API as operators' scripts call it, on a real hive: tables A.2 to A.5, B.1, B.4 and C.

Requests go over real sockets with bodies as ``curl -d`` sends them; the same actions go over the router as
ADMIN_COMMAND.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio

from appliance.testing.hive import HiveHarness
from appliance.wire import verbs
from appliance.wire.envelope import Meta, build_message, system_message

pytestmark = pytest.mark.process

ENVELOPE = {"status", "action", "payload", "error_code", "error_detail"}
FORM = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d says


@pytest.fixture(scope="module")
def hive():
    folder = Path(tempfile.mkdtemp(prefix="fluxbee-"))
    with HiveHarness(folder, settings={"storage": {}}) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def http(hive):
    with httpx.Client(base_url=hive.url, timeout=40) as client:
        yield client


def raw_request(hive, text):
    """What the door answers to these very bytes: status and body."""
    with socket.create_connection(("127.0.0.1", hive.port), timeout=10) as sock:
        sock.sendall(text.encode())
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def get_raw(hive, target):
    return raw_request(hive, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


async def command(hive, payload, name="WF.orch.diag"):
    async with hive.connect(name) as node:
        message = build_message(
            src=node.uuid,
            dst="SY.admin@motherbee",
            payload=payload,
            meta=Meta(type=verbs.ADMIN, msg=verbs.ADMIN_COMMAND),
        )
        answer = await node.request(message, timeout_s=35, reply_verbs=verbs.ADMIN_COMMAND_RESPONSE)
        return answer.json(), answer.meta


# --- A.2: paths ------------------------------------------------------------------------------------------

NOT_FOUND = [
    ("GET", "/nope"),
    ("GET", "/versions/"),
    ("GET", "/inventory/"),
    ("GET", "/drift_alerts"),
    ("GET", "/hives/motherbee/routers"),
    ("POST", "/hive/status"),
    ("PATCH", "/routes"),
    ("OPTIONS", "/routes"),
    ("DELETE", "/hives/motherbee/routes"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "path"), NOT_FOUND)
def test_an_unknown_path_or_method_has_the_one_404_body(http, method, path):
    response = http.request(method, path)
    assert response.status_code == 404
    assert response.content == b'{"error":"not_found"}'
    assert response.headers["content-type"] == "application/json"


def test_health_is_small_and_true(http):
    response = http.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/hives/", "//hives/motherbee/routes/", "/hives/motherbee/nodes/"])
def test_slashes_are_tolerated_below_hives(hive, path):
    status, body = get_raw(hive, path)
    assert status != 404, body


def test_an_encoded_slash_and_a_plus_stay_in_their_segment(http):
    http.post("/routes", content=b'{"prefix":"AI.a b/","action":"DROP"}')
    response = http.delete("/hives/motherbee/routes/AI.a+b%2F")
    assert response.status_code == 200, response.text
    literal = http.delete("/hives/motherbee/routes/AI.a%2Bb")
    assert "'AI.a+b'" in literal.json()["error_detail"]


def test_the_last_of_equal_query_fields_wins(hive):
    status, body = get_raw(hive, "/routes?hive=nowhere&hive=motherbee&flag")
    assert (status, json.loads(body)["status"]) == (200, "ok")


# --- A.3: bad input --------------------------------------------------------------------------------------

BAD_BODIES = [
    ("POST", "/routes", b"{"),
    ("POST", "/routes", b""),
    ("POST", "/routes", b"[1]"),
    ("POST", "/routes", b"{}"),
    ("POST", "/routes", b'{"prefix":1,"action":"DROP"}'),
    ("POST", "/routes", b'{"prefix":"AI.","action":"drop"}'),
    ("POST", "/routes", b'{"prefix":"AI.","action":"DROP","match_kind":"Glob"}'),
    ("POST", "/vpns", b'{"pattern":"AI."}'),
    ("POST", "/vpns", b'{"pattern":"AI.","vpn_id":4294967296}'),
    ("POST", "/hives/motherbee/nodes", b"[1]"),
    ("POST", "/hives/motherbee/nodes", b"not json"),
    ("POST", "/hives/motherbee/nodes", b""),
    ("DELETE", "/hives/motherbee/nodes/AI.x", b"[1]"),
    ("POST", "/hives/motherbee/nodes/AI.x/start", b'"x"'),
    ("POST", "/hives/motherbee/nodes/AI.x/messages", b"7"),
    ("POST", "/hives/motherbee/nodes/AI.x/messages", b'{"ttl":0}'),
    ("POST", "/hives/motherbee/nodes/AI.x/messages", b'{"msg_type":""}'),
    ("PUT", "/hives/motherbee/nodes/AI.x/config", b"[1]"),
    ("PUT", "/hives/motherbee/nodes/AI.x/config", b""),
    ("POST", "/hives/motherbee/nodes/AI.x/control/config-get", b"[1]"),
    ("POST", "/hives/motherbee/nodes/AI.x@elsewhere/control/config-get", b"{}"),
    ("POST", "/hives/motherbee/update", b'{"hash":"x"}'),
    ("POST", "/hives/motherbee/update", b'{"version":3,"manifest_hash":"x"}'),
    ("POST", "/hives/motherbee/update", b'{"category":"all","manifest_hash":"x"}'),
    ("POST", "/hives/motherbee/sync-hint", b'{"channel":"mail"}'),
    ("PUT", "/config/storage", b'{"path":""}'),
    ("PUT", "/config/storage", b"{}"),
    ("POST", "/admin/runtime-packages/publish", b"{}"),
]


@pytest.mark.parametrize(("method", "path", "body"), BAD_BODIES)
def test_bad_input_is_400_in_the_envelope(http, method, path, body):
    response = http.request(method, path, content=body, headers=FORM)
    assert response.status_code == 400, response.text
    answer = response.json()
    assert set(answer) == ENVELOPE
    assert (answer["status"], answer["error_code"]) == ("error", "INVALID_REQUEST")
    assert answer["error_detail"]


def test_what_is_no_json_says_so(http):
    detail = http.post("/routes", content=b"{").json()["error_detail"]
    assert detail.startswith("invalid JSON body: ")
    detail = http.put("/hives/motherbee/nodes/AI.x/config", content=b"[]").json()["error_detail"]
    assert detail == "request body must be a JSON object"


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"routes":[{"prefix":"x"}]}', b'{"version":"new"}'])
def test_bad_tables_are_400_in_the_short_form(http, body):
    response = http.put("/config/routes", content=body)
    assert response.status_code == 400
    assert set(response.json()) == {"status", "error_code", "error_detail"}


# --- A.4, A.5: envelopes ---------------------------------------------------------------------------------

READS = [
    ("/hive/status", "hive_status"),
    ("/hive/overview", "hive_overview"),
    ("/admin/actions", "list_admin_actions"),
    ("/admin/actions/run_node", "get_admin_action_help"),
    ("/routes", "list_routes"),
    ("/hives/motherbee/routes", "list_routes"),
    ("/vpns", "list_vpns"),
    ("/hives/motherbee/nodes", "list_nodes"),
    ("/inventory", "inventory"),
    ("/inventory/summary", "inventory"),
    ("/inventory/nodes?type=sy", "inventory"),
    ("/inventory/motherbee", "inventory"),
    ("/hives/motherbee/status", "inventory"),
    ("/hives/motherbee/inventory/summary", "inventory"),
    ("/hives/motherbee/inventory/hive", "inventory"),
    ("/hives/motherbee/identity/ilks", "list_ilks"),
    ("/hives/motherbee/nodes/AI.nobody/state", "get_node_state"),
    ("/admin/executor/functions", "list_executor_functions"),
]


@pytest.mark.parametrize(("path", "action"), READS)
def test_reads_answer_in_the_envelope(http, path, action):
    response = http.get(path)
    answer = response.json()
    assert response.status_code == 200, answer
    assert response.headers["content-type"] == "application/json"
    assert set(answer) == ENVELOPE
    assert (answer["status"], answer["action"]) == ("ok", action)
    assert answer["error_code"] is answer["error_detail"] is None


FAILURES = [
    ("GET", "/admin/actions/fly", 404, "ACTION_NOT_FOUND"),
    ("GET", "/hives/motherbee/nodes/AI.nobody/status", 404, "NODE_NOT_FOUND"),
    ("GET", "/hives/motherbee/nodes/AI.nobody/config", 500, "NODE_CONFIG_NOT_FOUND"),
    ("GET", "/hives/motherbee/nodes/AI.nobody/logs", 404, "NODE_NOT_FOUND"),
    ("GET", "/hives/motherbee/identity/ilks/nonsense", 400, "INVALID_REQUEST"),
    ("DELETE", "/routes", 404, "NOT_FOUND"),
    ("GET", "/hives/bad%20id", 400, "INVALID_HIVE_ID"),
    ("GET", "/hives/bad%20id/nodes", 400, "INVALID_REQUEST"),
    ("GET", "/hives/nowhere/routes", 502, "TRANSPORT_ERROR"),
    ("GET", "/opa/status", 501, "NOT_IMPLEMENTED"),
    ("POST", "/hives/motherbee/opa/policy/check", 501, "NOT_IMPLEMENTED"),
    ("GET", "/hives/motherbee/timer/now", 501, "NOT_IMPLEMENTED"),
    ("POST", "/wf-rules", 501, "NOT_IMPLEMENTED"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), FAILURES)
def test_failures_have_status_and_code(http, method, path, status, code):
    response = http.request(method, path)
    answer = response.json()
    assert (response.status_code, answer["error_code"]) == (status, code), answer
    assert set(answer) == ENVELOPE
    assert answer["status"] == "error"


def test_an_unreachable_hive_has_the_token_that_scripts_retry_on(http):
    for method, path in (("GET", "/hives/nowhere/routes"), ("POST", "/hives/nowhere/update")):
        response = http.request(method, path, content=b'{"manifest_hash":"x"}')
        assert response.status_code == 502
        assert "router returned UNREACHABLE for target=SY." in response.json()["error_detail"]


def test_a_body_too_large_is_413_in_the_envelope(hive):
    head = "POST /hives HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
    status, body = raw_request(hive, head)
    assert status == 413
    assert json.loads(body)["error_code"] == "INVALID_REQUEST"


def test_documents_and_page(http):
    assert http.get("/openapi.json").json()["openapi"] == "3.1.0"
    for path in ("/docs", "/docs/docs.js", "/docs/docs.css"):
        response = http.get(path)
        assert response.status_code == 200
        assert "default-src 'self'" in response.headers["content-security-policy"]
    page = http.get("/", headers={"accept": "text/html,application/xhtml+xml"})
    assert page.headers["content-type"].startswith("text/html")


def test_metrics_tell_of_every_service(http):
    text = http.get("/metrics").text
    for source in ("router", "keeper", "admin", "door", "identity", "orchestrator"):
        assert f'fluxbee_source_up{{source="{source}"}} 1\n' in text
    assert "# TYPE fluxbee_admin_reads " in text


# --- B.4: routes and VPN rules ---------------------------------------------------------------------------


def versions(http):
    return http.get("/routes").json()["payload"]["payload"]["config_version"]


def test_routes_are_doubly_nested_and_versions_follow_each_other(http):
    before = versions(http)
    added = http.post("/hives/motherbee/routes", content=b'{"prefix":"AI.sales.","action":"DROP","x":1}')
    assert added.status_code == 200, added.text
    inner = added.json()["payload"]
    assert (inner["status"], inner["action"]) == ("ok", "add_route")
    assert inner["payload"]["route"]["prefix"] == "AI.sales."
    assert inner["payload"]["config_version"] == before + 1
    listed = http.get("/routes").json()["payload"]["payload"]
    assert [route["prefix"] for route in listed["routes"]] == ["AI.sales."]
    again = http.post("/routes", content=b'{"prefix":"AI.sales.","action":"DROP"}')
    assert (again.status_code, again.json()["error_code"]) == (500, "DUPLICATE_PREFIX")
    deleted = http.delete("/routes?prefix=AI.sales.")
    assert deleted.json()["payload"]["payload"] == {"config_version": before + 2}
    gone = http.delete("/routes?prefix=AI.sales.")
    assert (gone.status_code, gone.json()["error_code"]) == (404, "NOT_FOUND")
    assert "AI.sales." in gone.json()["error_detail"]


def test_vpns_likewise(http):
    added = http.post("/vpns", content=b'{"pattern":"IO.zone","vpn_id":12}')
    assert added.json()["payload"]["payload"]["vpn"]["vpn_id"] == 12
    listed = http.get("/hives/motherbee/vpns").json()["payload"]["payload"]["vpns"]
    assert [rule["pattern"] for rule in listed] == ["IO.zone"]
    again = http.post("/hives/motherbee/vpns", content=b'{"pattern":"IO.zone","vpn_id":13}')
    assert (again.status_code, again.json()["error_code"]) == (500, "DUPLICATE_PATTERN")
    assert http.delete("/hives/motherbee/vpns/IO.zone").status_code == 200


def test_whole_tables_are_replaced_and_versions_only_grow(http, hive):
    tables = {"routes": [{"prefix": "AI.t", "action": "DROP"}], "vpns": [{"pattern": "IO.t", "vpn_id": 3}]}
    assert http.put("/config/routes", json=tables).content == b'{"status":"ok"}'
    assert [one["prefix"] for one in http.get("/routes").json()["payload"]["payload"]["routes"]] == ["AI.t"]
    assert [one["vpn_id"] for one in http.get("/vpns").json()["payload"]["payload"]["vpns"]] == [3]
    stale = http.put("/config/vpns", json={"vpns": [], "version": 1})
    assert stale.status_code == 409
    assert stale.json()["error_code"] == "VERSION_MISMATCH"
    assert "version must be greater than current (current=" in stale.json()["error_detail"]
    assert http.put("/config/routes", content=b"{}").content == b'{"status":"ok"}'
    assert http.put("/config/vpns", json={"vpns": [], "routes": "ignored"}).content == b'{"status":"ok"}'
    assert http.put("/config/routes", json={"routes": []}).status_code == 200
    counter = hive.paths.config_versions / "routes-vpns.txt"
    assert int(counter.read_text()) >= versions(http)


def test_nodes_hear_of_a_change_and_only_local_ones_do(http, hive):
    async def body():
        async with hive.connect("AI.listens") as node:
            answer = await trio.to_thread.run_sync(
                lambda: http.post("/routes", content=b'{"prefix":"AI.heard","action":"DROP"}')
            )
            assert answer.status_code == 200
            with trio.fail_after(5):
                while (message := await node.receive()).meta.msg != verbs.CONFIG_CHANGED:
                    pass
            told = message.json()
            assert told["subsystem"] == "routes"
            assert [route["prefix"] for route in told["config"]["routes"]] == ["AI.heard"]
            assert told["version"] >= answer.json()["payload"]["payload"]["config_version"]
            assert message.meta.scope == "global"
        await trio.to_thread.run_sync(lambda: http.delete("/routes?prefix=AI.heard"))

    trio.run(body)


# --- B.6: messages and control ---------------------------------------------------------------------------


def test_a_message_is_sent_and_a_control_request_is_answered(http, hive):
    def post(path, body):
        return http.post(path, content=json.dumps(body).encode()).json()

    async def body():
        async with hive.connect("AI.target") as node:
            sent = await trio.to_thread.run_sync(
                post, "/hives/motherbee/nodes/AI.target/messages", {"payload": {"say": 1}, "src_ilk": "ilk:x"}
            )
            assert sent["payload"] | {"trace_id": ""} == {
                "status": "sent",
                "target": "motherbee",
                "node_name": "AI.target@motherbee",
                "trace_id": "",
                "msg_type": "user",
                "msg": None,
                "src_ilk": "ilk:x",
                "ttl": 16,
            }
            got = await node.receive(timeout_s=5)
            assert got.json() == {"say": 1}
            assert got.routing.trace_id == sent["payload"]["trace_id"]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(refuse, node)
                told = await trio.to_thread.run_sync(
                    post, "/hives/motherbee/nodes/AI.target/control/config-set", {"config": {}, "ttl": 900}
                )
            assert told["status"] == "ok"
            assert told["payload"]["node_ok"] is False
            assert told["payload"]["node_error"] == {"code": "stale_config_version", "detail": "old"}
            assert told["payload"]["response"]["node_name"] == "AI.target@motherbee"

    async def refuse(node):
        request = await node.receive(timeout_s=5)
        assert (request.meta.msg, request.meta.target) == ("CONFIG_SET", verbs.NODE_CONTROL_TARGET)
        assert request.json() == {"config": {}, "node_name": "AI.target@motherbee"}
        payload = {
            "ok": False,
            "node_name": "AI.target@motherbee",
            "error": {"code": "stale_config_version", "message": "old"},
        }
        await node.send(
            system_message(
                src=node.uuid,
                dst=request.routing.src,
                verb=verbs.CONFIG_RESPONSE,
                payload=payload,
                trace_id=request.routing.trace_id,
            )
        )

    trio.run(body)


# --- streams ---------------------------------------------------------------------------------------------


class Watcher:
    """A stream's connection; nothing that came is thrown away before it was waited for."""

    def __init__(self, hive, path):
        self._hive, self._path, self._seen = hive, path, b""

    async def __aenter__(self):
        self.stream = await trio.open_tcp_stream("127.0.0.1", self._hive.port)
        await self.stream.send_all(f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return self

    async def __aexit__(self, *error):
        await self.stream.aclose()

    async def until(self, word):
        """What came up to and including ``word``."""
        while word not in self._seen:
            got = await self.stream.receive_some()
            assert got, self._seen
            self._seen += got
        end = self._seen.index(word) + len(word)
        found, self._seen = self._seen[:end], self._seen[end:]
        return found


async def opens(hive, path):
    async with Watcher(hive, path) as watcher:
        return b" 200 " in await watcher.until(b"\r\n\r\n")


def test_the_tap_streams_what_is_routed(hive):
    async def body():
        with trio.fail_after(20):
            async with hive.connect("AI.seen") as node, Watcher(hive, "/tap?name=AI.seen") as watcher:
                assert b"text/event-stream" in await watcher.until(b": open")
                await node.send(build_message(src=node.uuid, dst="AI.nobody@motherbee", payload={"n": 1}))
                seen = await watcher.until(b"}\n\n")
        event = json.loads(seen[seen.index(b"data: ") + 6 :].split(b"\n")[0])
        assert (event["from"], event["dst"]) == ("AI.seen@motherbee", "AI.nobody@motherbee")

    trio.run(body)


def test_taps_are_bounded_and_are_given_back(hive):
    async def body():
        with trio.fail_after(20):
            async with AsyncExitStack() as stack:
                for _ in range(8):
                    watcher = await stack.enter_async_context(Watcher(hive, "/tap?name=AI.none"))
                    await watcher.until(b": open")
                status, answer = await trio.to_thread.run_sync(get_raw, hive, "/tap")
                assert (status, json.loads(answer)["error_code"]) == (409, "BUSY")
            while not await opens(hive, "/tap?name=AI.none"):  # noqa: ASYNC110 - only asking tells
                await trio.sleep(0.05)

    trio.run(body)


@pytest.mark.slow
def test_a_large_hive_lists_all_its_nodes(hive_folder):
    """The answers are longer than a frame."""

    async def body(hive):
        async with AsyncExitStack() as stack:
            for number in range(700):
                await stack.enter_async_context(hive.connect(f"AI.n{number}"))
            return await trio.to_thread.run_sync(
                lambda: [
                    httpx.get(f"{hive.url}{path}", timeout=30).json()["payload"]
                    for path in ("/hives/motherbee/nodes", "/inventory")
                ]
            )

    with HiveHarness(hive_folder) as hive:
        for payload in trio.run(body, hive):
            names = {node["name"] for node in payload["nodes"]}
            assert {f"AI.n{number}@motherbee" for number in range(700)} <= names


def test_a_watcher_does_not_hold_up_the_stop(hive_folder):
    hive = HiveHarness(hive_folder)
    hive.start()
    with socket.create_connection(("127.0.0.1", hive.port), timeout=10) as sock:
        sock.sendall(b"GET /tap HTTP/1.1\r\nHost: localhost\r\n\r\n")
        seen = b""
        while b": open" not in seen:
            seen += sock.recv(65536)
        assert hive.stop() == 0
        while chunk := sock.recv(65536):
            seen += chunk
    assert seen.endswith(b"0\r\n\r\n")  # the stream was ended, not cut


def test_sy_admin_answers_about_its_own_configuration(http):
    asked = http.post("/hives/motherbee/nodes/SY.admin/control/config-get", content=b"{}").json()
    assert asked["payload"]["node_ok"] is True
    body = b'{"schema_version":1,"config_version":1,"apply_mode":"replace","config":{}}'
    told = http.post("/hives/motherbee/nodes/SY.admin/control/config-set", content=body).json()
    assert told["payload"]["node_error"]["code"] == "UNSUPPORTED_OPERATION"


def test_the_log_of_a_node_is_read_and_followed(hive):
    folder = hive.paths.node_logs / "AI.talks@motherbee"
    folder.mkdir(parents=True)
    log = folder / "0.log"
    log.write_text("2026-11-20T10:00:00.000Z one\n2026-11-20T10:00:01.000Z two\n")
    answer = httpx.get(f"{hive.url}/hives/motherbee/nodes/AI.talks/logs?tail=1").json()
    assert answer["payload"]["lines"] == ["2026-11-20T10:00:01.000Z two"]
    assert answer["payload"]["dropped_bytes"] == 0

    async def body():
        with trio.fail_after(20):
            path = "/hives/motherbee/nodes/AI.talks/logs?tail=2&follow=1"
            async with Watcher(hive, path) as watcher:
                await watcher.until(b"data: 2026-11-20T10:00:01.000Z two\n\n")
                with log.open("a") as file:
                    file.write("2026-11-20T10:00:02.000Z three\n")
                await watcher.until(b"data: 2026-11-20T10:00:02.000Z three\n\n")
        status, _ = await trio.to_thread.run_sync(get_raw, hive, path.replace("talks", "silent"))
        assert status == 404

    trio.run(body)


# --- A.9, C: the gateway ---------------------------------------------------------------------------------


def test_catalogue_is_the_same_over_both_ways(http, hive):
    over_http = http.get("/admin/actions").json()
    over_router, _ = trio.run(command, hive, {"action": "list_admin_actions", "request_id": "r1"})
    assert over_router.pop("request_id") == "r1"
    assert over_router == over_http
    payload = over_http["payload"]
    names = [entry["action"] for entry in payload["actions"]]
    assert payload["registry_version"] == "6"
    assert len(names) == 66
    assert {"list_admin_actions", "run_node", "inventory", "update", "sync_hint"} <= set(names)
    assert "get_storage_metrics" not in names


SAME = [
    ("GET", "/admin/actions/run_node", {"action": "get_admin_action_help", "params": {"action": "run_node"}}),
    ("GET", "/routes", {"action": "list_routes", "target": "motherbee"}),
    ("GET", "/hives/motherbee/routes", {"action": "list_routes", "target": "SY.admin@motherbee"}),
    (
        "GET",
        "/hives/motherbee/nodes/AI.nobody/status",
        {"action": "get_node_status", "target": "motherbee", "params": {"node_name": "AI.nobody"}},
    ),
    (
        "GET",
        "/hives/motherbee/nodes/AI.nobody/state",
        {
            "action": "get_node_state",
            "target": "elsewhere",
            "params": {"node_name": "AI.nobody@motherbee"},
        },
    ),
    ("DELETE", "/routes", {"action": "delete_route", "target": "motherbee", "params": {}}),
    (
        "POST",
        "/hives/motherbee/update",
        {"action": "update", "target": "motherbee", "params": {}},
    ),
    ("GET", "/hives/bad%20id", {"action": "get_hive", "params": {"hive_id": "bad id"}}),
]


@pytest.mark.parametrize(("method", "path", "payload"), SAME)
def test_both_ways_answer_alike(http, hive, method, path, payload):
    over_router, meta = trio.run(command, hive, payload)
    over_http = http.request(method, path).json()
    for key in ("status", "action", "payload", "error_code"):
        assert over_router[key] == over_http[key]
    assert "request_id" not in over_router
    assert meta.action == over_router["action"]


def test_a_change_over_the_router_is_stamped_and_needs_a_right(hive_folder):
    settings = {"security": {"admin_nodes": ["WF.orch.diag"], "system_uids": []}}
    with HiveHarness(hive_folder, settings=settings) as guarded:
        route = {
            "action": "add_route",
            "target": "motherbee",
            "params": {"prefix": "AI.x", "action": "DROP"},
        }
        refused, meta = trio.run(command, guarded, route, "AI.stranger")
        assert (refused["status"], refused["error_code"]) == ("error", "FORBIDDEN")
        assert meta.action_result == "blocked"
        done, meta = trio.run(command, guarded, route)
        assert done["status"] == "ok"
        assert (meta.action_class, meta.action_result) == ("system_config", "applied")
        read, _ = trio.run(command, guarded, {"action": "list_routes", "target": "motherbee"}, "AI.stranger")
        assert read["status"] == "ok"


def test_a_worker_sends_mother_only_actions_back(hive_folder):
    settings = {"hive_id": "edge-07", "role": "worker"}
    with HiveHarness(hive_folder, settings=settings) as worker, httpx.Client(base_url=worker.url) as client:
        for method, path, body in (
            ("POST", "/hives", b'{"hive_id":"x","address":"127.0.0.1"}'),
            ("DELETE", "/hives/motherbee", b""),
            ("POST", "/admin/runtime-packages/publish", b'{"source":{"kind":"inline_package"}}'),
            ("DELETE", "/hives/edge-07/runtimes/ai.x/versions/1.0.0", b""),
            ("GET", "/hives/motherbee/nodes", b""),
        ):
            response = client.request(method, path, content=body)
            assert (response.status_code, response.json()["error_code"]) == (409, "NOT_PRIMARY"), path
        assert client.get("/hive/status").json()["payload"]["hive_id"] == "edge-07"
        assert client.get("/hives/edge-07/routes").status_code == 200


def test_a_token_guards_everything_but_health(hive_folder):
    settings = {"http": {"token": "correct-horse-battery-staple-0001"}}
    with HiveHarness(hive_folder, settings=settings) as hive, httpx.Client(base_url=hive.url) as client:
        # On loopback the token is not asked for, except to write from a foreign page.
        assert client.get("/hive/status").status_code == 200
        foreign = {"origin": "http://evil.example"}
        refused = client.post("/routes", content=b"{}", headers=foreign)
        assert (refused.status_code, refused.json()["error_code"]) == (403, "ORIGIN_REFUSED")
        token = {"authorization": "Bearer correct-horse-battery-staple-0001"}
        assert client.post("/routes", content=b"{}", headers=foreign | token).status_code == 400
        rebound = client.get("/hive/status", headers={"host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error_code"]) == (403, "HOST_REFUSED")
