"""run_node step by step: identity asked, files written, node launched. No processes, no sockets."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import trio

from appliance.sdk import NodeConfig, UuidMode, connect, system_reply
from appliance.services.orchestrator import OrchestratorConfig, OrchestratorService
from appliance.settings.own import Orchestrator
from appliance.supervise.instance import Instance
from appliance.system.paths import Paths
from appliance.testing.keeper import FakeKeeper
from appliance.testing.link import FakeRouter
from appliance.wire import verbs
from appliance.wire.errors import Invalid
from tests.orchestrator_kit import SLEEP, TENANT, publish

NAME = "AI.sleep@motherbee"
ILK = "ilk:6a0d0000-0000-4000-8000-000000000001"


class Stage:
    """A service with a keeper and an identity service that the test plays."""

    def __init__(self, folder, **settings):
        self.paths = Paths(folder)
        self.paths.run.mkdir(parents=True)
        publish(self.paths, "ai.sleep", SLEEP)
        self.router = FakeRouter(hive="motherbee")
        self.keeper = FakeKeeper()
        config = OrchestratorConfig(
            hive="motherbee", role="motherbee", paths=self.paths, settings=Orchestrator(**settings)
        )
        self.service = OrchestratorService(config, self.keeper)
        self.asked = []
        self.answers = {}

    def node(self, name, **more):
        given = {"name": name, "paths": self.paths, "dial": self.router.dial, "uuid_mode": UuidMode.EPHEMERAL}
        return connect(NodeConfig(**given, **more))

    async def play_identity(self, node):
        async for message in node.receiver:
            self.asked.append((message.meta.msg, message.json()))
            answer = self.answers.get(message.meta.msg, {"status": "ok", "ilk_id": ILK})
            await node.send(system_reply(message, answer, src=node.uuid))

    @asynccontextmanager
    async def set_up(self, *, identity=True):
        with trio.fail_after(10):
            async with (
                self.node("SY.orchestrator", answer_status=False) as own,
                trio.open_nursery() as nursery,
            ):
                await nursery.start(self.service.run)
                nursery.start_soon(self.service.serve, own)
                async with self.node("SY.identity" if identity else "SY.nobody") as other:
                    nursery.start_soon(self.play_identity, other)
                    yield
                    nursery.cancel_scope.cancel()

    async def spawn(self, **more):
        request = {"node_name": "AI.sleep", "tenant_id": TENANT, **more}
        return await self.service.answer_here("run_node", request)


def on_stage(stage, body, **more):
    async def main():
        async with stage.set_up(**more):
            await body()

    trio.run(main)


def test_a_spawn_registers_writes_and_launches(tmp_path):
    stage = Stage(tmp_path)

    async def body():
        answer = await stage.spawn(roles=["r"], capabilities=["c"])
        assert answer["status"] == "ok"
        assert answer["runtime"] == "ai.sleep"
        assert answer["identity"]["register"]["ilk_id"] == ILK
        ((verb, payload),) = stage.asked
        assert verb == verbs.ILK_REGISTER
        assert payload.pop("ilk_id").startswith("ilk:")
        assert payload == {
            "ilk_type": "agent",
            "tenant_id": TENANT,
            "identification": {"node_name": NAME},
            "roles": ["r"],
            "capabilities": ["c"],
            "auto_tenant": True,
        }
        assert stage.keeper.live() == [NAME]
        launch = stage.keeper.records[NAME].launch
        assert launch.env["FLUXBEE_NODE_NAME"] == NAME
        assert launch.argv[0].endswith("ai.sleep/1.0.0/bin/start.sh")

    on_stage(stage, body)


def test_only_the_admin_api_may_bring_a_new_tenant(tmp_path):
    stage = Stage(tmp_path)

    async def body():
        handler = stage.service._handlers["run_node"]
        await handler({"node_name": "AI.sleep", "tenant_id": TENANT}, "SY.orchestrator@other")
        assert "auto_tenant" not in stage.asked[0][1]

    on_stage(stage, body)


def test_a_wish_to_change_the_identity_is_passed_on(tmp_path):
    stage = Stage(tmp_path)
    channel = {"ich_id": "ich:6a0d0000-0000-4000-8000-000000000001", "type": "x", "address": "a"}

    async def body():
        answer = await stage.spawn(add_roles=["boss"], add_channels=[channel], change_reason="why")
        assert answer["identity"]["update"] == {
            "status": "ok",
            "ilk_id": ILK,
            "target": "SY.identity@motherbee",
        }
        verb, payload = stage.asked[1]
        assert (verb, payload["add_roles"], payload["change_reason"]) == (verbs.ILK_UPDATE, ["boss"], "why")
        assert payload["add_channels"][0].items() >= channel.items()
        wrong = await stage.spawn(node_name="AI.sleep.two", add_channels=[{"type": 7}])
        assert wrong["error_code"] == "INVALID_REQUEST"
        assert len(stage.asked) == 2

    on_stage(stage, body)


def test_a_refused_change_of_the_identity_fails_the_spawn(tmp_path):
    stage = Stage(tmp_path)
    stage.answers[verbs.ILK_UPDATE] = {"status": "error", "error_code": "VOCABULARY_INVALID", "message": "no"}

    async def body():
        answer = await stage.spawn(add_roles=["b oss"])
        assert (answer["error_code"], answer["identity_error_code"]) == (
            "IDENTITY_UPDATE_FAILED",
            "VOCABULARY_INVALID",
        )
        assert not Instance(stage.paths, NAME).exists

    on_stage(stage, body)


def test_without_the_identity_service_nothing_is_spawned(tmp_path):
    stage = Stage(tmp_path)

    async def body():
        answer = await stage.spawn()
        assert answer["error_code"] == "IDENTITY_REGISTER_FAILED"
        assert "SY.identity@motherbee" in answer["message"]
        assert stage.keeper.calls == []

    on_stage(stage, body, identity=False)


def test_the_default_tenant_serves_who_names_none(tmp_path):
    stage = Stage(tmp_path, default_tenant_id=TENANT)

    async def body():
        answer = await stage.spawn(tenant_id=None)
        assert answer["status"] == "ok"
        config = Instance(stage.paths, NAME).read_config()
        assert config["tenant_id"] == config["_system"]["tenant_id"] == TENANT

    on_stage(stage, body)


def test_a_node_that_cannot_be_launched_keeps_its_files_and_says_why(tmp_path):
    stage = Stage(tmp_path)
    stage.keeper.refuse_start = Invalid("no interpreter", code="LAUNCH_FAILED")

    async def body():
        answer = await stage.spawn()
        assert answer["error_code"] == "SPAWN_FAILED"
        assert "no interpreter" in answer["message"]
        assert Instance(stage.paths, NAME).config_path.exists()
        assert "no interpreter" in stage.service.house.troubles[NAME]

    on_stage(stage, body)


def test_the_identity_is_remembered_and_proposed_again(tmp_path):
    stage = Stage(tmp_path)

    async def body():
        await stage.spawn()
        await stage.service.answer_here("kill_node", {"node_name": "AI.sleep", "purge_instance": True})
        await stage.spawn()
        assert stage.asked[-1][1]["ilk_id"] == ILK
        assert json.loads(stage.paths.identity_map.read_bytes()) == {"nodes": {NAME: ILK}}

    on_stage(stage, body)


def test_a_damaged_map_of_identities_is_written_anew(tmp_path):
    stage = Stage(tmp_path)
    stage.paths.identity_map.parent.mkdir(parents=True)
    stage.paths.identity_map.write_text("{")

    async def body():
        assert (await stage.spawn())["status"] == "ok"
        assert json.loads(stage.paths.identity_map.read_bytes()) == {"nodes": {NAME: ILK}}

    on_stage(stage, body)


def test_a_unit_belongs_to_one_node(tmp_path):
    stage = Stage(tmp_path)

    async def body():
        assert (await stage.spawn(unit="mine"))["unit"] == "mine"
        second = await stage.spawn(node_name="AI.sleep.two", unit="mine")
        assert second["error_code"] == "INVALID_REQUEST"

    on_stage(stage, body)


def test_packages_say_what_their_nodes_may_use(tmp_path):
    stage = Stage(tmp_path)
    publish(stage.paths, "ai.sleep", SLEEP, files={"package.json": '{"limits": {"memory_bytes": 7000000}}'})

    async def body():
        await stage.spawn()
        assert stage.keeper.records[NAME].launch.memory_bytes == 7_000_000

    on_stage(stage, body)
