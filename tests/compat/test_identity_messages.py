"""SY.identity and SY.storage by message, in a whole hive (``spec/identity-and-knowledge.md §2, §7``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest
import trio

from appliance.sdk import Node, reply
from appliance.sdk.replies import deserves_answer
from appliance.store.layouts import IDENTITY, IDENTITY_NODE_NAME, ILK
from appliance.store.published import PublishedRegion
from appliance.testing.hive import HiveHarness
from appliance.wire.envelope import Json, build_message, system_message
from appliance.wire.errors import FluxbeeError
from appliance.wire.identity import PRIMARY_IDENTITY, IlkRegister, id_uuid, new_ilk_id, new_tenant_id

pytestmark = pytest.mark.process

MODES = ("together", "apart")
RELAY = "SY.orchestrator.relay.test"
"""Counts as the orchestrator, whose own name is taken."""

Reply = dict[str, Json]


@pytest.fixture(params=MODES)
def hive(request: pytest.FixtureRequest, hive_folder: Path) -> Iterator[HiveHarness]:
    with HiveHarness(hive_folder, planes=request.param) as running:
        yield running


def in_trio(body: Callable[[], Coroutine[object, object, None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(20):
            await body()

    trio.run(limited)


async def ask(node: Node, verb: str, payload: object, dst: str = PRIMARY_IDENTITY) -> Reply:
    message = system_message(src=node.uuid, dst=dst, verb=verb, payload=payload)
    answer = (await node.request(message, reply_verbs=f"{verb}_RESPONSE")).json()
    assert isinstance(answer, dict)
    return answer


def registration(node_name: str, tenant: str, *, kind: str = "agent", auto: bool = True) -> IlkRegister:
    return IlkRegister(
        ilk_id=new_ilk_id(),
        ilk_type=kind,
        tenant_id=tenant,
        identification={"node_name": node_name, "display_name": node_name},
        auto_tenant=auto,
    )


def test_an_orchestrator_registers_and_an_admin_reads(hive: HiveHarness) -> None:
    async def body() -> None:
        async with hive.connect(RELAY) as orchestrator, hive.connect("SY.admin") as admin:
            tenant = new_tenant_id()
            made = await ask(orchestrator, "ILK_REGISTER", registration("AI.a@motherbee", tenant))
            assert made["status"] == "ok"
            ilk_id = made["ilk_id"]
            assert re.fullmatch("ilk:[0-9a-fA-F-]{36}", str(ilk_id))
            assert await ask(orchestrator, "ILK_REGISTER", registration("AI.a@motherbee", tenant)) == made
            other = await ask(
                orchestrator, "ILK_REGISTER", registration("WF.b@motherbee", tenant, kind="system")
            )
            change = {"ilk_id": ilk_id, "add_roles": ["Sales"], "add_capabilities": ["b", "a"]}
            updated = await ask(orchestrator, "ILK_UPDATE", {**change, "change_reason": "why"})
            assert updated == {"status": "ok", "ilk_id": ilk_id, "change_reason": "why"}

            listed = await ask(admin, "ILK_LIST", {})
            assert listed["count"] == 2
            entries = listed["ilks"]
            assert isinstance(entries, list)
            assert [entry["ilk_id"] for entry in entries] == sorted([ilk_id, other["ilk_id"]])  # type: ignore
            assert set(entries[0]) == {  # type: ignore[arg-type]
                "ilk_id",
                "ilk_type",
                "registration_status",
                "tenant_id",
                "tenant_name",
                "display_name",
                "node_name",
                "channel_count",
                "channels",
                "deleted_at_ms",
            }
            got = await ask(admin, "ILK_GET", {"ilk_id": ilk_id})
            ilk, found = got["ilk"], got["tenant"]
            assert isinstance(ilk, dict)
            assert isinstance(found, dict)
            assert (ilk["roles"], ilk["capabilities"]) == (["sales"], ["a", "b"])
            assert (ilk["ilk_type"], ilk["registration_status"]) == ("agent", "complete")
            assert (found["tenant_id"], found["status"]) == (tenant, "active")
            missing = await ask(admin, "ILK_GET", {"ilk_id": new_ilk_id()})
            assert missing["error_code"] == "NOT_FOUND"

    in_trio(body)


def test_who_may_not_and_what_is_wrong(hive: HiveHarness) -> None:
    async def body() -> None:
        async with hive.connect(RELAY) as orchestrator, hive.connect("AI.guest") as guest:
            tenant = new_tenant_id()
            refused = await ask(guest, "ILK_REGISTER", registration("AI.x@motherbee", tenant))
            assert refused["error_code"] == "UNAUTHORIZED_REGISTRAR"
            assert (refused["src_uuid"], refused["src_l2_name"]) == (guest.uuid, "AI.guest@motherbee")
            unknown = await ask(
                orchestrator, "ILK_REGISTER", registration("AI.x@motherbee", tenant, auto=False)
            )
            assert unknown["error_code"] == "INVALID_TENANT"
            bare = {"ilk_id": new_ilk_id(), "ilk_type": "agent", "identification": {}}
            assert "tenant_id is missing" in str((await ask(orchestrator, "ILK_REGISTER", bare))["message"])
            extra = {**bare, "tenant_id": tenant, "degree": "x"}
            assert (await ask(orchestrator, "ILK_REGISTER", extra))["error_code"] == "INVALID_REQUEST"
            metrics = await ask(guest, "IDENTITY_METRICS", {})
            assert metrics["metrics"] == {
                "tenant_count": 1,
                "ilk_count": 0,
                "ich_count": 0,
                "alias_count": 0,
                "deleted_ilk_count": 0,
            }

    in_trio(body)


def test_interlocutors_stay_over_kills_restarts_and_a_lost_region(hive: HiveHarness) -> None:
    tenant = new_tenant_id()

    async def register() -> Json:
        while True:
            try:
                async with hive.connect(RELAY) as node:
                    answer = await ask(node, "ILK_REGISTER", registration("AI.a@motherbee", tenant))
            except FluxbeeError:  # router or service are not back yet
                await trio.sleep(0.05)
                continue
            assert answer["status"] == "ok", answer
            return answer["ilk_id"]

    ids: list[Json] = []

    async def body() -> None:
        ids.append(await register())

    in_trio(body)
    hive.kill_plane("control")
    in_trio(body)
    hive.stop()
    for path in hive.paths.regions_disk.iterdir():
        path.unlink()
    hive.start()
    in_trio(body)
    assert len(set(map(str, ids))) == 1

    async def published() -> None:
        with PublishedRegion(hive.paths.published / "control.mdb", (IDENTITY,)) as copy:
            while True:
                try:
                    if (key := copy.get(IDENTITY_NODE_NAME, "AI.a@motherbee")) is not None:
                        break
                except FluxbeeError:
                    pass
                await trio.sleep(0.05)
            row = copy.get(ILK, key)
        assert row is not None
        assert (row.ilk_id, key) == (ids[0], id_uuid(str(ids[0])))

    in_trio(published)


def test_a_worker_sends_registrations_to_the_primary(hive_folder: Path) -> None:
    settings = {"hive_id": "north", "role": "worker"}

    async def body() -> None:
        async with hive.connect(RELAY) as node:
            answer = await ask(
                node, "ILK_REGISTER", registration("AI.a@north", new_tenant_id()), "SY.identity@north"
            )
            assert (answer["error_code"], answer["replica_hive_id"]) == ("NOT_PRIMARY", "north")

    with HiveHarness(hive_folder, settings=settings) as hive:
        in_trio(body)


def test_turns_are_counted_once_they_are_on_the_medium(hive: HiveHarness) -> None:
    async def echo(node: Node) -> None:
        async for message in node.receiver:
            if deserves_answer(message):
                await node.send(reply(message, message.payload, src=node.uuid))

    async def body() -> None:
        async with (
            hive.connect("AI.echo") as server,
            hive.connect("AI.asker") as asker,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(echo, server)
            for number in range(3):
                await asker.request(build_message(src=asker.uuid, dst="AI.echo@motherbee", payload=number))
            while True:
                answer = await ask(asker, "STORAGE_METRICS", {}, "SY.storage@motherbee")
                assert answer["status"] == "ok"
                metrics = answer["metrics"]
                assert isinstance(metrics, dict)
                if metrics["processed_total"] == 6:
                    break
                await trio.sleep(0.1)
            assert (metrics["pending"], metrics["pending_with_error"], metrics["max_attempts"]) == (0, 0, 0)
            assert metrics["oldest_pending_age_s"] == 0
            nursery.cancel_scope.cancel()

    in_trio(body)
