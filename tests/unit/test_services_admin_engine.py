"""The engine with scripted peers: changes that nobody interrupts, announcements, publications, defects."""

from __future__ import annotations

from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from appliance.sdk.requests import router_error
from appliance.services.admin.counters import VersionCounters
from appliance.services.admin.engine import Engine
from appliance.services.admin.peers import ConfigAck, Peers
from appliance.services.admin.planner import Planner
from appliance.services.admin.statistics import Counts
from appliance.settings.hive import AdminTimeouts
from appliance.wire import verbs
from appliance.wire.admin.outcome import AdminCall
from appliance.wire.envelope import encode_message, system_message
from appliance.wire.errors import Unavailable, Unreachable
from appliance.wire.frames import MAX_FRAME_BYTES, pack_frame
from tests.trio_kit import on_trio

OK = {"status": "ok"}


class Script(Peers):
    """Answers by action or verb; a callable answers by itself, an exception is raised."""

    def __init__(self, **answers):
        super().__init__()
        self.answers = answers
        self.asked = []
        self.announced = []
        self.told = []
        self.ack = ConfigAck(status="ok")

    async def _say(self, name, payload):
        await trio.lowlevel.checkpoint()
        answer = self.answers.get(name, OK)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = await answer(payload)
        return msgspec.json.encode(answer)

    async def admin(self, dst, action, payload, timeout_s):
        self.asked.append((dst, action, dict(payload)))
        return await self._say(action, payload)

    async def system(self, dst, verb, payload, timeout_s, *, action=""):
        self.asked.append((dst, verb, dict(payload)))
        return await self._say(verb, payload)

    async def announce_change(self, subsystem, version, config, timeout_s):
        self.announced.append((subsystem, version, config))
        if isinstance(self.ack, Exception):
            raise self.ack
        return self.ack

    async def tell(self, message):
        self.told.append(message)


@asynccontextmanager
async def engine(tmp_path, peers, *, is_mother=True):
    planner = Planner("m", is_mother=is_mother, timeouts=AdminTimeouts())
    made = Engine(planner, peers, VersionCounters(tmp_path), Counts())
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


def call(action, target=None, /, **params):
    return AdminCall(action=action, target=target, params=params)


def table(version=1, **rows):
    return {"status": "ok", "action": "list", "payload": {"config_version": version, **rows}}


@on_trio
async def test_a_read_is_folded(tmp_path):
    peers = Script(get_node_status={"status": "error", "error_code": "NODE_NOT_FOUND", "message": "no"})
    async with engine(tmp_path, peers) as made:
        outcome = await made.execute(call("get_node_status", node_name="AI.x"))
    assert (outcome.http_status, outcome.error_code, outcome.error_detail) == (404, "NODE_NOT_FOUND", "no")
    assert (made.counts.reads, made.counts.failed, made.counts.running) == (1, 1, 0)


@on_trio
async def test_changes_of_one_node_keep_their_order_and_reads_pass_them(tmp_path):
    gate, order = trio.Event(), []

    async def slow(payload):
        order.append(payload["number"])
        await gate.wait()
        return OK

    async with engine(tmp_path, Script(start_node=slow)) as made, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(made.execute, call("start_node", node_name="AI.x", number=number))
            await trio.testing.wait_all_tasks_blocked()
        assert order == [0]
        assert (await made.execute(call("get_node_status", node_name="AI.x"))).status == "ok"
        assert (await made.execute(call("kill_node", node_name="AI.other"))).status == "ok"
        gate.set()
    assert order == [0, 1, 2, 3, 4]
    assert len(made.turns) == 0


@on_trio
async def test_a_caller_that_leaves_does_not_stop_a_change(tmp_path):
    gate, done = trio.Event(), []

    async def slow(payload):
        await gate.wait()
        done.append(payload["node_name"])
        return OK

    async with engine(tmp_path, Script(run_node=slow)) as made:
        with trio.move_on_after(0.01) as scope:
            await made.execute(call("run_node", node_name="AI.x"))
        assert scope.cancelled_caught
        gate.set()
        # The next change of the same node waits for the one whose caller left.
        await made.execute(call("run_node", node_name="AI.x"))
    assert done == ["AI.x@m", "AI.x@m"]


@on_trio
async def test_a_defect_is_one_500_and_no_more(tmp_path):
    async def broken(payload):
        raise KeyError("oops")

    async with engine(tmp_path, Script(list_nodes=broken)) as made:
        outcome = await made.execute(call("list_nodes"))
        assert (outcome.http_status, outcome.error_code) == (500, "INTERNAL")
        assert "oops" not in str(outcome.error_detail)
        assert (await made.execute(call("hive_status"))).status == "ok"


@on_trio
async def test_no_answer(tmp_path):
    refusal = system_message(
        src="rt", dst="u", verb=verbs.UNREACHABLE, payload={"original_dst": "x", "reason": "NODE_NOT_FOUND"}
    )
    peers = Script(hive_status=Unreachable("silence", code="TIMEOUT"), ILK_LIST=router_error(refusal))
    async with engine(tmp_path, peers) as made:
        assert (await made.execute(call("hive_status"))).http_status == 504
        outcome = await made.execute(call("list_ilks", "edge-07"))
    assert "UNREACHABLE for target=SY.identity@edge-07 reason=NODE_NOT_FOUND" in outcome.error_detail
    assert made.counts.transport_failures == 2


@on_trio
async def test_storage_figures_are_503_when_they_are_not_there(tmp_path):
    peers = Script(STORAGE_METRICS=Unavailable("down"))
    async with engine(tmp_path, peers) as made:
        outcome = await made.execute(call("get_storage_metrics"))
        assert (outcome.http_status, outcome.error_code) == (503, "STORAGE_METRICS_UNAVAILABLE")
        assert outcome.payload["error_code"] == "STORAGE_METRICS_UNAVAILABLE"
        peers.answers["STORAGE_METRICS"] = {"status": "error", "error_code": "DB_NOT_READY", "message": "m"}
        outcome = await made.execute(call("get_storage_metrics"))
        assert (outcome.http_status, outcome.error_code) == (503, "DB_NOT_READY")
        peers.answers["STORAGE_METRICS"] = [1]
        outcome = await made.execute(call("get_storage_metrics"))
        assert (outcome.http_status, outcome.error_code) == (502, "TRANSPORT_ERROR")


@on_trio
async def test_pages_of_identities_become_one_list(tmp_path):
    ids = [f"ilk:{number}" for number in range(7)]

    async def pages(payload):
        rest = [one for one in ids if one > payload.get("after", "")]
        shown = rest[: payload.get("limit", 3)]
        more = {"total": 7, "next_after": shown[-1]} if len(rest) > len(shown) else {}
        return {"status": "ok", "count": len(shown), "ilks": shown, **more}

    async with engine(tmp_path, Script(ILK_LIST=pages)) as made:
        whole = msgspec.json.decode((await made.execute(call("list_ilks"))).body())["payload"]
        assert whole == {"status": "ok", "count": 7, "ilks": ids}
        page = msgspec.json.decode((await made.execute(call("list_ilks", limit="2"))).body())["payload"]
        assert (page["count"], page["next_after"]) == (2, "ilk:1")
        made.peers.answers["ILK_LIST"] = {"status": "error", "error_code": "DB_NOT_READY"}
        assert (await made.execute(call("list_ilks"))).http_status == 500


# --- announcements ---------------------------------------------------------------------------------------


@on_trio
async def test_a_changed_table_is_announced_with_the_services_version(tmp_path):
    peers = Script(list_routes=table(18, routes=[{"prefix": "AI."}]))
    async with engine(tmp_path, peers) as made:
        outcome = await made.execute(
            AdminCall(action="add_route", params={"prefix": "AI.", "action": "DROP"})
        )
        assert outcome.status == "ok"
        assert [(one[0], one[1]) for one in peers.announced] == [("routes", 18)]
        assert msgspec.json.encode(peers.announced[0][2]) == b'{"routes":[{"prefix":"AI."}]}'
        assert await made.counters.current("routes") == 18
        peers.announced.clear()
        await made.execute(AdminCall(action="delete_vpn", target="edge-07", params={"pattern": "AI."}))
        assert peers.announced == []  # another hive's table is none of this hive's business


@on_trio
async def test_an_announcement_that_fails_says_that_the_change_is_applied(tmp_path):
    peers = Script(list_vpns=table(2, vpns=[]))
    peers.ack = Unreachable("silence", code="TIMEOUT")
    async with engine(tmp_path, peers) as made:
        outcome = await made.execute(call("delete_vpn", pattern="AI."))
    assert (outcome.http_status, outcome.error_code) == (502, "CONFIG_BROADCAST_FAILED")
    assert "the change is applied" in outcome.error_detail
    assert made.counts.broadcast_failures == 1


@on_trio
async def test_both_tables_take_two_numbers_above_everything_known(tmp_path):
    peers = Script(list_routes=table(7), list_vpns=table(7))
    async with engine(tmp_path, peers) as made:
        tables = {"routes": [], "vpns": [{"pattern": "IO.", "vpn_id": 1}]}
        outcome = await made.execute(call("configure_routes", **tables))
        assert outcome.body() == b'{"status":"ok"}'
        assert [one[:2] for one in peers.announced] == [("routes", 8), ("vpn", 9)]
        stale = await made.execute(call("configure_vpns", vpns=[], version=9))
        assert (stale.http_status, stale.error_code, stale.form) == (409, "VERSION_MISMATCH", "short")
        peers.ack = ConfigAck(status="error", error_code="INVALID_CONFIG", error_detail="bad")
        refused = await made.execute(call("configure_vpns", vpns=[]))
        assert (refused.http_status, refused.error_code) == (422, "INVALID_CONFIG")
        peers.ack = Unavailable("no router")
        failed = await made.execute(call("configure_vpns", vpns=[]))
        assert (failed.http_status, failed.error_code) == (502, "CONFIG_BROADCAST_FAILED")
        assert await made.counters.current("vpn") == 11  # used up although nothing was sent


@on_trio
async def test_the_storage_root_is_stored_then_told(tmp_path):
    peers = Script()
    async with engine(tmp_path, peers) as made:
        assert (await made.execute(call("set_storage", path="/srv", version=4))).status == "ok"
        assert peers.asked == [("SY.orchestrator@m", "set_storage", {"path": "/srv"})]
        assert peers.told[0].json()["version"] == 4
        stale = await made.execute(call("set_storage", path="/srv", version=4))
        assert (stale.http_status, stale.form) == (409, "short")
        peers.answers["set_storage"] = {"status": "error", "error_code": "PERSIST_FAILED"}
        assert (await made.execute(call("set_storage", path="/srv"))).http_status == 500
        assert len(peers.told) == 1
        assert await made.counters.current("storage") == 5


# --- publishing ------------------------------------------------------------------------------------------

INSTALLED = {
    "status": "ok",
    "runtime_name": "ai.x",
    "runtime_version": "1.0.0",
    "manifest_version": 5,
    "manifest_hash": "ab",
}
PACKAGE = {"kind": "inline_package", "files": {"package.json": '{"name":"ai.x"}'}}


def publication(**more):
    return call("publish_runtime_package", source=PACKAGE, **more)


@on_trio
async def test_a_publication_is_followed_up(tmp_path):
    peers = Script(publish_runtime_package=INSTALLED, SYSTEM_UPDATE={"status": "sync_pending"})
    async with engine(tmp_path, peers) as made:
        outcome = await made.execute(publication(sync_to=["m"], update_to=["m", "edge-07"]))
    assert (outcome.http_status, outcome.status) == (202, "sync_pending")
    assert peers.asked[0][2] == {"source": PACKAGE}
    update = next(one for one in peers.asked if one[1] == "SYSTEM_UPDATE")
    assert update[2] == {
        "category": "runtime",
        "manifest_version": 5,
        "manifest_hash": "ab",
        "runtime": "ai.x",
        "runtime_version": "1.0.0",
    }
    payload = msgspec.json.decode(outcome.body())["payload"]
    assert "status" not in payload
    assert payload["follow_up"]["requested"] == {"sync_to": ["m"], "update_to": ["m", "edge-07"]}
    assert [one["http_status"] for one in payload["follow_up"]["sync_hint"]] == [200]
    assert [one["hive"] for one in payload["follow_up"]["update"]] == ["m", "edge-07"]
    assert payload["follow_up"]["update"][0]["response"]["status"] == "sync_pending"


@on_trio
async def test_a_failing_follow_up_fails_the_call_and_keeps_the_package(tmp_path):
    peers = Script(publish_runtime_package=INSTALLED, SYSTEM_UPDATE=Unreachable("x", code="TIMEOUT"))
    async with engine(tmp_path, peers) as made:
        outcome = await made.execute(publication(update_to=["m"]))
    assert (outcome.http_status, outcome.error_code) == (504, "SERVICE_FAILED")
    assert outcome.payload["runtime_name"] == "ai.x"


@pytest.mark.parametrize(
    ("code", "status"), [("NOT_PRIMARY", 409), ("RUNTIME_NOT_AVAILABLE", 409), ("INVALID_ZIP", 400)]
)
def test_a_package_that_is_refused_is_not_followed_up(tmp_path, code, status):
    peers = Script(publish_runtime_package={"status": "error", "error_code": code, "message": "no"})

    async def body():
        async with engine(tmp_path, peers) as made:
            return await made.execute(publication(sync_to=["m"]))

    outcome = trio.run(body)
    assert (outcome.http_status, outcome.error_code) == (status, code)
    assert len(peers.asked) == 1


# --- what does not fit -----------------------------------------------------------------------------------


class Node:
    uuid = "00000000-0000-4000-8000-0000000000aa"
    router_name = "RT.gateway@m"
    is_connected = True

    def __init__(self, answer):
        self.answer = answer

    async def request(self, message, *, timeout_s, reply_verbs=None):
        pack_frame(encode_message(message))
        return system_message(src="x", dst=self.uuid, verb="x", payload=self.answer)


@on_trio
async def test_large_questions_and_answers_go_by_hand():
    asked = []

    async def direct(action, request):
        asked.append(action)
        return {"status": "ok", "nodes": ["x"]}

    peers = Peers()
    peers.node = Node({"status": "error", "error_code": "RESPONSE_TOO_LARGE"})
    peers.direct["SY.orchestrator@m"] = direct
    answer = await peers.admin("SY.orchestrator@m", "list_nodes", {}, 5)
    assert msgspec.json.decode(answer)["nodes"] == ["x"]
    big = {"files": "x" * MAX_FRAME_BYTES}
    await peers.admin("SY.orchestrator@m", "publish_runtime_package", big, 5)
    await peers.system("SY.orchestrator@m", "INVENTORY_REQUEST", {}, 5, action="inventory")
    assert asked == ["list_nodes", "publish_runtime_package", "inventory"]


@on_trio
async def test_without_a_router_nobody_waits_long():
    peers = Peers()
    with pytest.raises(Unavailable):
        await peers.admin("SY.orchestrator@m", "list_nodes", {}, 5)


@on_trio
async def test_equal_reads_at_once_are_asked_once_and_changes_never(tmp_path):
    peers = Script()
    async with engine(tmp_path, peers) as made, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(made.execute, call("get_node_status", node_name="AI.x"))
            nursery.start_soon(made.execute, call("send_node_message", node_name="AI.x", payload={}))
            nursery.start_soon(made.execute, call("start_node", node_name="AI.x"))
    asked = [action for _, action, _ in peers.asked]
    assert (asked.count("get_node_status"), asked.count("start_node"), len(peers.told)) == (2, 10, 10)
    assert made.counts.reads_shared == 8
