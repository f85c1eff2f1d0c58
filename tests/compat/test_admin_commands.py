"""Commands and blobs from a node's side, in a whole hive: the SDK against SY.admin and SY.orchestrator."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from appliance.sdk import admin_command, admin_command_ok, publish_blob_and_confirm
from appliance.testing.hive import HiveHarness
from appliance.wire.errors import FluxbeeError

pytestmark = pytest.mark.process


@pytest.mark.parametrize("mode", ["together", "apart"])
def test_a_node_commands_the_hive_and_publishes_a_blob(hive_folder: Path, mode: str) -> None:
    async def body(hive: HiveHarness) -> None:
        async with hive.connect("WF.keeper") as node:
            route = {"prefix": "AI.old", "action": "DROP"}
            added = await admin_command_ok(node, "add_route", target="motherbee", params=route)
            assert (added.status, added.action_result) == ("ok", "applied")
            listed = await admin_command(node, "list_ilks", target="motherbee", request_id="mine")
            assert listed.request_id == "mine"
            assert listed.payload == {"status": "ok", "count": 0, "ilks": []}
            wrong = await admin_command(node, "fly")
            assert (wrong.is_ok, wrong.error_code) == (False, "INVALID_REQUEST")
            with pytest.raises(FluxbeeError) as caught:
                await admin_command_ok(node, "fly")
            assert caught.value.code == "INVALID_REQUEST"
            done = await publish_blob_and_confirm(node, b"content", "a.txt", targets=["motherbee"])
            assert [one.status for one in done.targets] == ["ok"]
            assert await node.content.read(done.blob_ref) == b"content"

    async def limited() -> None:
        with trio.fail_after(30):
            async with HiveHarness(hive_folder, planes=mode) as hive:  # type: ignore[arg-type]
                await body(hive)

    trio.run(limited)
