"""Taking and answering requests: who may, in which order, how many at once. No processes, no sockets."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from appliance.sdk import NodeConfig, UuidMode, connect
from appliance.services.orchestrator import OrchestratorConfig, OrchestratorService
from appliance.settings.own import Orchestrator
from appliance.system.paths import Paths
from appliance.testing.keeper import FakeKeeper
from appliance.testing.link import FakeRouter
from appliance.wire import verbs
from appliance.wire.envelope import Meta, build_message, system_message
from appliance.wire.errors import Conflict, NotFound

ME = "SY.orchestrator@test"


def serving(tmp_path, body, *, role="motherbee", requests=8):
    """Run ``body(service, connect)`` beside a service that serves."""
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    config = OrchestratorConfig(hive="test", role=role, paths=paths, settings=Orchestrator(requests=requests))
    router = FakeRouter(hive="test")

    def node(name, **more):
        given = {"name": name, "paths": paths, "dial": router.dial, "uuid_mode": UuidMode.EPHEMERAL}
        return connect(NodeConfig(**given, **more))

    async def main():
        with trio.fail_after(10):
            service = OrchestratorService(config, FakeKeeper())
            async with node("SY.orchestrator", answer_status=False) as own, trio.open_nursery() as nursery:
                await nursery.start(service.run)
                nursery.start_soon(service.serve, own)
                await body(service, node)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def ask(node, action, payload=None):
    message = build_message(
        src=node.uuid, dst=ME, payload=payload or {}, meta=Meta(type=verbs.ADMIN, action=action)
    )
    return (await node.request(message, timeout_s=5)).json()


async def tell(node, verb, payload=None):
    return (
        await node.request(system_message(src=node.uuid, dst=ME, verb=verb, payload=payload or {}))
    ).json()


def test_strangers_may_list_and_nothing_else(tmp_path):
    async def body(service, node):
        async with node("AI.stranger") as stranger:
            for verb in (verbs.SPAWN_NODE, verbs.START_NODE, verbs.RESTART_NODE, verbs.NODE_CONFIG_GET):
                answer = await tell(stranger, verb, {"node_name": "AI.x"})
                assert (answer["error_code"], answer["src_l2_name"]) == ("FORBIDDEN", "AI.stranger@test")
            assert (await ask(stranger, "kill_node", {"node_name": "AI.x"}))["error_code"] == "FORBIDDEN"
            assert (await tell(stranger, verbs.LIST_NODES))["status"] == "ok"
        assert service.statistics().forbidden == 5

    serving(tmp_path, body)


def test_a_worker_sends_back_what_is_for_the_motherbee(tmp_path):
    async def body(service, node):
        async with node("SY.admin") as admin:
            answer = await ask(admin, "add_hive", {"hive_id": "x"})
            assert answer["error_code"] == "NOT_PRIMARY"

    serving(tmp_path, body, role="worker")


def test_changes_of_one_node_follow_each_other_and_reads_overtake_them(tmp_path):
    order = []
    gate = trio.Event()

    async def slow(request, source):
        order.append(request["number"])
        if request["number"] == 0:
            await gate.wait()
        return {"status": "ok"}

    async def body(service, node):
        service._handlers["kill_node"] = slow
        async with node("SY.admin") as admin, trio.open_nursery() as nursery:

            async def kill(number, name):
                await ask(admin, "kill_node", {"node_name": name, "number": number})

            for number in range(5):
                nursery.start_soon(kill, number, "AI.x")
                await trio.testing.wait_all_tasks_blocked()
            assert order == [0]
            assert (await ask(admin, "hive_status"))["status"] == "ok"
            await kill(99, "AI.other")
            assert order == [0, 99]
            gate.set()
        assert order == [0, 99, 1, 2, 3, 4]

    serving(tmp_path, body)


def test_who_is_over_the_bound_is_told_to_come_back(tmp_path):
    gate = trio.Event()

    async def slow(request, source):
        await gate.wait()
        return {"status": "ok"}

    async def body(service, node):
        service.add({"wait": slow})
        async with node("SY.admin") as admin, trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, admin, "wait")
            await trio.testing.wait_all_tasks_blocked()
            assert (await ask(admin, "hive_status"))["error_code"] == "BUSY"
            assert service.statistics().working == 4
            gate.set()
        async with node("SY.admin") as admin:
            assert (await ask(admin, "hive_status"))["status"] == "ok"
        assert (service.statistics().busy, service.statistics().working) == (1, 0)

    serving(tmp_path, body, requests=4)


def test_errors_and_defects_are_answers(tmp_path, capfd):
    async def refused(request, source):
        raise NotFound("no such thing", code="THING_NOT_FOUND", details={"thing": source})

    async def broken(request, source):
        raise ZeroDivisionError

    async def large(request, source):
        return {"status": "ok", "text": "x" * 200_000}

    async def body(service, node):
        service.add({"refused": refused, "broken": broken, "large": large})
        with pytest.raises(Conflict):
            service.add({"large": large})
        async with node("SY.admin") as admin:
            assert await ask(admin, "refused") == {
                "status": "error",
                "error_code": "THING_NOT_FOUND",
                "message": "no such thing",
                "thing": "SY.admin@test",
            }
            assert (await ask(admin, "broken"))["error_code"] == "ORCHESTRATOR_ERROR"
            assert (await ask(admin, "large"))["error_code"] == "RESPONSE_TOO_LARGE"
            assert (await ask(admin, "unknown"))["error_code"] == "UNKNOWN_ACTION"
            assert (await ask(admin, "hive_status", [1]))["error_code"] == "INVALID_REQUEST"
        by_hand = await service.answer_here("large", {})
        assert len(by_hand["text"]) == 200_000
        assert (await service.answer_here("unknown", {}))["error_code"] == "UNKNOWN_ACTION"
        numbers = service.statistics()
        assert (numbers.errors, numbers.failures, numbers.too_large) == (1, 1, 1)

    serving(tmp_path, body)
    assert "ORCHESTRATOR_VERB_FAILED" in capfd.readouterr().err


def test_what_is_no_request_is_not_answered(tmp_path):
    async def body(service, node):
        async with node("SY.admin") as admin:
            await admin.send(system_message(src=admin.uuid, dst=ME, verb="SOMETHING"))
            await admin.send(build_message(src=admin.uuid, dst=ME, payload={"text": "hello"}))
            await admin.send(system_message(src=admin.uuid, dst="broadcast", verb=verbs.LIST_NODES))
            assert (await ask(admin, "hive_status"))["status"] == "ok"
        assert service.statistics().requests == 1

    serving(tmp_path, body)


def test_the_process_is_noted_for_scripts(tmp_path):
    async def body(service, node):
        assert Paths(tmp_path).orchestrator_pid.read_text().strip().isdigit()

    serving(tmp_path, body)
