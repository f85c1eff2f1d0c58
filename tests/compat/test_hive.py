"""The main path of a hive, in both plane modes, through real processes and sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import uuid

import httpx
import pytest
import trio

from appliance.sdk import reply
from appliance.sdk.replies import deserves_answer
from appliance.testing.hive import HiveHarness
from appliance.wire import verbs
from appliance.wire.envelope import Meta, build_message, system_message
from appliance.wire.errors import Unreachable

pytestmark = pytest.mark.process

MODES = ("together", "apart")


@pytest.fixture(params=MODES)
def hive(request, hive_folder):
    with HiveHarness(hive_folder, planes=request.param) as running:
        yield running


async def echo(node, *, task_status):
    task_status.started()
    async for message in node.receiver:
        if deserves_answer(message):
            await node.send(reply(message, message.payload, src=node.uuid))


def in_trio(body):
    async def limited():
        with trio.fail_after(20):
            await body()

    trio.run(limited)


def test_two_nodes_talk_by_name_and_the_reply_comes_back_by_uuid(hive):
    async def body():
        async with (
            hive.connect("AI.echo") as server,
            hive.connect("AI.asker") as asker,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(echo, server)
            message = build_message(src=asker.uuid, dst="AI.echo@motherbee", payload={"say": "hola"})
            answer = await asker.request(message)
            assert answer.json() == {"say": "hola"}
            assert answer.source_l2_name == "AI.echo@motherbee"
            assert answer.meta.action_class == "send_message"
            nursery.cancel_scope.cancel()

    in_trio(body)


def test_a_client_that_knows_only_the_wire_is_served_alike(hive):
    def frame(value):
        body = json.dumps(value).encode()
        return struct.pack(">I", len(body)) + body

    def read(sock):
        size = struct.unpack(">I", sock.recv(4, socket.MSG_WAITALL))[0]
        return json.loads(sock.recv(size, socket.MSG_WAITALL))

    mine = str(uuid.uuid4())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(hive.socket_path))
        hello = {"uuid": mine, "name": "AI.plain", "version": "0"}
        meta = {"type": "system", "msg": "HELLO"}
        trace = str(uuid.uuid4())
        routing = {"src": mine, "dst": None, "ttl": 1, "trace_id": trace}
        sock.sendall(frame({"routing": routing, "meta": meta, "payload": hello}))
        announce = read(sock)
        assert announce["meta"]["msg"] == "ANNOUNCE"
        assert announce["routing"] == {
            "src": announce["routing"]["src"],
            "dst": mine,
            "ttl": 1,
            "trace_id": trace,
        }
        assert announce["payload"] == {
            "uuid": mine,
            "name": "AI.plain@motherbee",
            "status": "registered",
            "vpn_id": 0,
            "router_name": "RT.gateway@motherbee",
        }
        routing = {"src": mine, "dst": "AI.plain@motherbee", "ttl": 16, "trace_id": "t"}
        sock.sendall(frame({"routing": routing, "meta": {"type": "user"}, "payload": "self"}))
        assert read(sock)["payload"] == "self"
        routing = {"src": mine, "dst": "AI.nobody@motherbee", "ttl": 16, "trace_id": "u"}
        sock.sendall(frame({"routing": routing, "meta": {"type": "user"}, "payload": 1}))
        refused = read(sock)
        assert refused["payload"] == {"original_dst": "AI.nobody@motherbee", "reason": "NODE_NOT_FOUND"}
        assert refused["routing"]["trace_id"] == "u"


def test_a_missing_node_is_an_error_with_the_routers_reason(hive):
    async def body():
        async with hive.connect("AI.asker") as asker:
            message = build_message(src=asker.uuid, dst="AI.nobody@motherbee", payload=None)
            with pytest.raises(Unreachable) as caught:
                await asker.request(message)
            assert caught.value.code == "NODE_NOT_FOUND"
            with pytest.raises(Unreachable) as caught:
                await asker.request(build_message(src=asker.uuid, dst=None, payload=None))
            assert caught.value.code == "OPA_NO_TARGET"

    in_trio(body)


async def admin(node, action, payload):
    meta = Meta(type=verbs.ADMIN, action=action)
    question = build_message(src=node.uuid, dst="SY.config.routes@motherbee", payload=payload, meta=meta)
    return (await node.request(question)).json()


def test_a_vpn_rule_takes_effect_on_connected_nodes_and_survives_a_restart(hive_folder):
    for mode in MODES:
        harness = HiveHarness(hive_folder / mode, planes=mode)
        harness.paths.etc.mkdir(parents=True)

        async def blocked(asker):
            message = build_message(src=asker.uuid, dst="AI.b@motherbee", payload=None)
            with pytest.raises(Unreachable) as caught:
                await asker.request(message, timeout_s=2)
            return caught.value.code

        async def change(running=harness, blocked=blocked):
            async with running.connect("AI.a") as a, running.connect("AI.b"), running.connect("IO.op") as op:
                answer = await admin(op, "add_vpn", {"pattern": "AI.b*", "match_kind": "GLOB", "vpn_id": 7})
                assert answer["status"] == "ok"
                assert answer["payload"]["config_version"] == 2
                # The answer means: journal and region have it. The router looks once per turn.
                with trio.fail_after(5):
                    while await blocked(a) != "VPN_BLOCKED":  # noqa: ASYNC110 - only asking tells
                        await trio.sleep(0.01)
                again = await admin(op, "add_vpn", {"pattern": "AI.b*", "vpn_id": 7})
                assert again["error_code"] == "DUPLICATE_PATTERN"
                wrong = await admin(op, "add_route", {"prefix": "AI.x", "action": "FORWARD", "metric": -1})
                assert wrong["status"] == "error"
                assert "metric" in wrong["error_detail"]
                listed = await admin(op, "list_vpns", {})
                assert [rule["pattern"] for rule in listed["payload"]["vpns"]] == ["AI.b*"]

        async def check(running=harness, blocked=blocked):
            async with running.connect("AI.a") as a, running.connect("AI.b") as b:
                assert b.vpn_id == 7
                assert await blocked(a) == "VPN_BLOCKED"

        with harness:
            in_trio(change)
        assert "AI.b*" in harness.paths.routes_yaml.read_text()
        with harness:
            in_trio(check)


def test_thread_numbers_go_on_after_a_restart(hive, hive_folder):
    async def numbers(count):
        got = []
        async with hive.connect("AI.sink") as sink, hive.connect("AI.source") as source:
            for _ in range(count):
                message = build_message(
                    src=source.uuid,
                    dst="AI.sink@motherbee",
                    meta=Meta(type="user", thread_id="thread:one"),
                    payload=None,
                )
                await source.send(message)
                got.append((await sink.receive(timeout_s=5)).meta.thread_seq)
        return got

    before = trio.run(numbers, 3)
    assert before == [1, 2, 3]
    assert hive.stop() == 0
    hive.start()
    after = trio.run(numbers, 2)
    assert after[0] > 3
    assert after[1] == after[0] + 1


def test_health_tells_the_truth(hive):
    response = httpx.get(f"{hive.url}/health", timeout=5)
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["hive_id"] == "motherbee"


def test_health_is_503_while_the_router_is_down(hive_folder):
    with HiveHarness(hive_folder, planes="apart", check_exit=False) as hive:
        pid = hive.plane_pid("data")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            response = httpx.get(f"{hive.url}/health", timeout=5)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert response.status_code == 503
        assert any("router" in reason for reason in response.json()["reasons"])


def test_the_router_tells_about_itself_only_to_those_who_may(hive_folder):
    settings = {"security": {"admin_nodes": [], "system_uids": []}}
    with HiveHarness(hive_folder, settings=settings) as hive:

        async def body():
            async with hive.connect("AI.curious") as node:
                question = system_message(
                    src=node.uuid, dst=node.router_name, verb=verbs.ROUTER_STATUS, payload={}
                )
                answer = (await node.request(question)).json()
                assert answer["error_code"] == "FORBIDDEN"
                echo_request = system_message(
                    src=node.uuid, dst=node.router_name, verb=verbs.ECHO, payload={}
                )
                assert (await node.request(echo_request)).meta.msg == verbs.ECHO_REPLY
                forbidden = await admin(node, "add_route", {"prefix": "AI.x", "action": "DROP"})
                assert forbidden["error_code"] == "FORBIDDEN"
                assert (await admin(node, "list_routes", {}))["status"] == "ok"

        in_trio(body)


def test_the_command_line_sends_and_shows(hive):
    def fluxbee(*words):
        return subprocess.run(
            [sys.executable, "-m", "appliance", *words, "--root", str(hive.paths.root)],
            capture_output=True,
            text=True,
            timeout=30,
        )

    server = subprocess.Popen(
        [sys.executable, "-m", "appliance", "node", "echo", "AI.echo", "--root", str(hive.paths.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "connected" in server.stderr.readline()
        sent = fluxbee("send", "AI.echo@motherbee", "hola", "--trace")
        assert sent.returncode == 0, sent.stderr
        assert sent.stdout == "hola\n"
        assert " ms" in sent.stderr
        assert "connected here" in sent.stderr
        missing = fluxbee("send", "AI.nobody@motherbee", "hola")
        assert missing.returncode == 4
        assert "NODE_NOT_FOUND" in missing.stderr
        status = fluxbee("status", "--json")
        assert status.returncode == 0, status.stderr
        assert "AI.echo@motherbee" in [one["name"] for one in json.loads(status.stdout)["nodes"]]
        assert "AI.echo@motherbee" in fluxbee("status", "--queues").stdout
    finally:
        server.terminate()
        out, err = server.communicate(timeout=10)
    assert server.returncode == 0, err
    assert "hola" in out


def test_tap_shows_what_is_routed(hive):
    tap = subprocess.Popen(
        [sys.executable, "-m", "appliance", "tap", "--json", "--count", "1", "--root", str(hive.paths.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "watching" in tap.stderr.readline()

        async def body():
            async with hive.connect("AI.one") as one:
                await one.send(build_message(src=one.uuid, dst="AI.one@motherbee", payload={"n": 1}))
                await one.receive(timeout_s=5)

        in_trio(body)
        out, err = tap.communicate(timeout=10)
    finally:
        tap.kill()
    event = json.loads(out)
    assert event["from"] == "AI.one@motherbee"
    assert event["outcome"] == "delivered"
    assert event["frame"]["payload"] == {"n": 1}
    assert tap.returncode == 0, err


def test_a_second_hive_in_the_same_place_is_refused(hive):
    second = subprocess.run(
        [
            sys.executable,
            "-m",
            "appliance",
            "run",
            "--config",
            str(hive.paths.hive_yaml),
            "--root",
            hive.paths.root,
        ],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert second.returncode == 8
    assert "remedy" in second.stderr


def test_tools_read_published_copies_of_the_regions(hive):
    from appliance.sdk.regions import open_published
    from appliance.store.layouts import CFG_META, CONFIG, NODE_NAME, NODES

    async def body():
        async with hive.connect("AI.seen") as node:
            live = open_published("live", [NODES], paths=hive.paths)
            with trio.fail_after(5):
                while not live.values(NODE_NAME, "AI.seen@motherbee"):  # noqa: ASYNC110 - at most once a second
                    await trio.sleep(0.05)
            assert live.values(NODE_NAME, "AI.seen@motherbee")[0][1] == node.uuid
            live.close()
            control = open_published("control", [CONFIG], paths=hive.paths)
            meta = control.get(CFG_META, "v")
            assert meta is not None
            assert meta.doc_version == 1
            control.close()

    in_trio(body)
