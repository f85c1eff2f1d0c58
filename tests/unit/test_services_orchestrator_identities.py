"""The map from nodes to identities: one map, also when many ask first, and nothing lost with a bad read."""

from __future__ import annotations

import json

import pytest
import trio

from appliance.services.orchestrator.identities import Identities
from appliance.supervise.names import NodeName
from appliance.system.paths import Paths
from appliance.wire.errors import Unavailable

TENANT = "tnt:11111111-2222-4333-8444-555555555555"


class House:
    """As much of the house as identities need; SY.identity accepts everybody."""

    hive = "h"

    def __init__(self, paths):
        self.paths = paths
        self.files = trio.CapacityLimiter(4)

    async def ask(self, dst, verb, body, *, timeout_s):
        await trio.lowlevel.checkpoint()
        return {"status": "ok", "ilk_id": body.ilk_id}


@pytest.fixture
def paths(tmp_path):
    made = Paths(tmp_path)
    made.identity_map.parent.mkdir(parents=True)
    return made


async def register(identities, short):
    ilk, _ = await identities.register(NodeName(short, "h"), {}, tenant=TENANT, through_admin=True)
    return ilk


def stored(paths):
    return json.loads(paths.identity_map.read_text())["nodes"]


def test_many_first_registrations_lose_no_entry(paths):
    given = {}

    async def main():
        identities = Identities(House(paths))

        async def one(short):
            given[f"{short}@h"] = await register(identities, short)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(one, f"AI.n{number}")
        again = Identities(House(paths))
        assert await register(again, "AI.n7") == given["AI.n7@h"]

    trio.run(main)
    assert stored(paths) == given


def test_a_map_that_does_not_read_now_is_not_overwritten(paths, monkeypatch):
    paths.identity_map.write_text(json.dumps({"nodes": {"AI.a@h": "ilk:1"}}))

    async def main():
        identities = Identities(House(paths))
        with monkeypatch.context() as failing:
            failing.setattr(type(paths.identity_map), "read_bytes", _refuse)
            with pytest.raises(Unavailable) as caught:
                await register(identities, "AI.b")
            assert caught.value.code == "IDENTITY_REGISTER_FAILED"
        await register(identities, "AI.b")

    trio.run(main)
    assert stored(paths)["AI.a@h"] == "ilk:1"


def test_a_damaged_map_is_set_aside(paths):
    paths.identity_map.write_text("{")
    trio.run(lambda: register(Identities(House(paths)), "AI.b"))
    assert list(stored(paths)) == ["AI.b@h"]
    assert paths.identity_map.with_suffix(".damaged").read_text() == "{"


def _refuse(path):
    raise OSError(5, "Input/output error")
