"""Identity in a hive that is killed at the worst moment, or whose medium is full: answered means kept."""

from __future__ import annotations

import errno
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from appliance.sdk import Node
from appliance.store.layouts import IDENTITY, IDENTITY_NODE_NAME, ILK
from appliance.store.region_reader import RegionReader
from appliance.testing.hive import PROGRAM_ENV, HiveHarness
from appliance.wire.envelope import Json, system_message
from appliance.wire.errors import FluxbeeError
from appliance.wire.identity import PRIMARY_IDENTITY, IlkRegister, new_ilk_id, new_tenant_id

pytestmark = [pytest.mark.process, pytest.mark.slow]

MODES = ("apart", "together")
TENANT = new_tenant_id()
Reply = dict[str, Json]


async def register(node: Node, name: str) -> Reply:
    request = IlkRegister(
        ilk_id=new_ilk_id(),
        ilk_type="agent",
        tenant_id=TENANT,
        identification={"node_name": name},
        auto_tenant=True,
    )
    message = system_message(src=node.uuid, dst=PRIMARY_IDENTITY, verb="ILK_REGISTER", payload=request)
    answer = (await node.request(message, timeout_s=2)).json()
    assert isinstance(answer, dict)
    return answer


async def persist(node: Node, name: str) -> str:
    """Register until it is answered ``ok``."""
    while True:
        try:
            answer = await register(node, name)
        except FluxbeeError:  # nobody there, or the answer went down with the process
            answer = {}
        if answer.get("status") == "ok":
            return str(answer["ilk_id"])
        assert answer.get("error_code") in (None, "DB_NOT_READY")
        await trio.sleep(0.05)


def run(hive: HiveHarness, body: Callable[[Node], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(60):
            async with hive.connect("SY.orchestrator.relay.test") as node:
                await body(node)

    trio.run(limited)


def region(hive: HiveHarness) -> dict[str, str]:
    """Node names and their ILKs as the region shows them."""
    with RegionReader(hive.paths.regions_disk / "control.mdb", (IDENTITY,)) as reader:
        assert reader.ready("identity")
        with reader.read() as txn:
            rows = dict(ILK.items(txn))
            return {name: rows[key].ilk_id for name, key in IDENTITY_NODE_NAME.items(txn)}


@pytest.mark.parametrize("mode", MODES)
def test_a_kill_between_journal_and_region_loses_nothing(
    hive_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    flag = hive_folder / "die"
    monkeypatch.setenv(PROGRAM_ENV, f"{sys.executable} -m tests.fault.identity_program")
    monkeypatch.setenv("FLUXBEE_TEST_DIE", str(flag))
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    kept: dict[str, str] = {}

    async def body(node: Node) -> None:
        kept["AI.before@motherbee"] = await persist(node, "AI.before@motherbee")
        for number in range(3):
            name = f"AI.n{number}@motherbee"
            flag.touch()
            kept[name] = await persist(node, name)
            assert not flag.exists()  # it died on the way
        for name, ilk_id in kept.items():
            assert await persist(node, name) == ilk_id

    with hive:
        run(hive, body)
    assert region(hive) == kept


@pytest.mark.parametrize("mode", MODES)
def test_kills_under_load_keep_every_answer(
    hive_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(PROGRAM_ENV, f"{sys.executable} -m tests.fault.hive_program")
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    kept: dict[str, str] = {}

    async def load(node: Node) -> None:
        for number in range(10_000):
            name = f"AI.n{number % 60}@motherbee"
            ilk_id = await persist(node, name)
            assert kept.setdefault(name, ilk_id) == ilk_id

    async def body(node: Node) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, node)
            for _ in range(8):
                await trio.sleep(0.3)
                while hive.plane_pid("control") is None:  # noqa: ASYNC110 - only looking tells
                    await trio.sleep(0.02)
                hive.kill_plane("control")
            await trio.sleep(0.3)
            nursery.cancel_scope.cancel()

    with hive:
        run(hive, body)
        assert len(kept) > 1
    shown = region(hive)
    assert kept.items() <= shown.items()


@pytest.mark.parametrize("mode", MODES)
def test_a_full_medium_refuses_changes_and_serves_reads(
    hive_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    flag = hive_folder / "fault"
    monkeypatch.setenv(PROGRAM_ENV, f"{sys.executable} -m tests.fault.hive_program")
    monkeypatch.setenv("FLUXBEE_TEST_FAULT", str(flag))
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    kept: dict[str, str] = {}

    async def body(node: Node) -> None:
        kept["AI.a@motherbee"] = await persist(node, "AI.a@motherbee")
        flag.write_text(str(errno.ENOSPC))
        for _ in range(3):
            refused = await register(node, "AI.b@motherbee")
            assert (refused["error_code"], refused["state"]) == ("DB_NOT_READY", "db_not_ready")
        async with hive.connect("SY.admin") as admin:
            message = system_message(src=admin.uuid, dst=PRIMARY_IDENTITY, verb="ILK_LIST", payload={})
            listed = (await admin.request(message)).json()
            assert isinstance(listed, dict)
            assert listed["count"] == 1
        flag.unlink()
        for name in ("AI.a@motherbee", "AI.b@motherbee"):
            kept.setdefault(name, await persist(node, name))

    with hive:
        run(hive, body)
    assert region(hive) == kept
