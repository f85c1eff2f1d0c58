"""SIGKILL to every process of a hive, under load, at any moment: the promises that must survive it.

``FLUXBEE_CRASH_CUTS`` sets the number of kills (default 200, in both modes together).
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import msgspec
import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import Gap, JournalSpec, Kind
from appliance.store.layouts import NODE, NODE_NAME, NODES
from appliance.store.region_reader import RegionReader
from appliance.store.replay import replay
from appliance.testing.hive import PROGRAM_ENV, HiveHarness
from appliance.wire.errors import FluxbeeError
from tests.fault.hive_load import SERVICES, PlainNode, RouteChanger, Traffic

pytestmark = [pytest.mark.process, pytest.mark.slow]

CUTS = int(os.environ.get("FLUXBEE_CRASH_CUTS", "200"))
SEED = int(os.environ.get("FLUXBEE_CRASH_SEED", "1"))
RECOVERY_S = 10.0
POLL_S = 0.02

SHARES = {
    "apart": {"data": 0.5, "control": 0.3, "world": 0.12, "keeper": 0.08},
    "together": {"all": 0.88, "keeper": 0.12},
}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program with a keeper that does not wait before it starts a fallen plane again."""
    monkeypatch.setenv(PROGRAM_ENV, f"{sys.executable} -m tests.fault.hive_program")


class Chaos:
    """One hive under load, killed again and again."""

    def __init__(self, hive: HiveHarness, *, seed: int) -> None:
        self.hive = hive
        self.chance = random.Random(seed)
        self.traffic = Traffic(hive, seed=seed)
        self.routes = RouteChanger(hive, seed=seed)
        self.observer = PlainNode(hive, "IO.observer")
        self.kills: dict[str, int] = dict.fromkeys(SHARES[hive.planes], 0)
        self.recoveries_s: list[float] = []
        self.touched_data = True
        self.flickering = trio.Lock()

    @property
    def nodes(self) -> list[PlainNode]:
        return [*self.traffic.nodes, self.routes.node, self.observer]

    async def run(self, cuts: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.traffic.run)
            nursery.start_soon(self.routes.run)
            nursery.start_soon(self.observer.run)
            nursery.start_soon(self.flicker)
            await self.recover()
            while sum(self.kills.values()) < cuts:
                await self.round()
            nursery.cancel_scope.cancel()

    async def flicker(self) -> None:
        """Nodes that come and vanish without a word: candidates for ghosts."""
        while True:
            async with self.flickering:
                node = PlainNode(self.hive, f"AI.flicker{self.chance.randrange(3)}")
                with trio.move_on_after(self.chance.uniform(0.0, 0.1)):
                    await node.run()
                node.drop()
            await trio.sleep(0.02)

    async def round(self) -> None:
        """One kill at a random moment; sometimes more, into the recovery; then everything must hold."""
        before = {node: node.losses for node in self.nodes}
        self.touched_data = False
        await trio.sleep(self.chance.uniform(0.0, 0.15))
        if self.chance.random() < 0.5:  # what was answered a moment ago must be there
            with trio.move_on_after(0.5):
                await self.routes.next_acknowledgement()
        await self.kill()
        while self.chance.random() < 0.35:
            await trio.sleep(self.chance.uniform(0.0, 0.12))
            await self.kill()
        began = time.monotonic()
        await self.recover()
        self.recoveries_s.append(time.monotonic() - began)
        if not self.touched_data:
            assert {node: node.losses for node in self.nodes} == before, "a node lost its connection"

    async def kill(self) -> None:
        shares = SHARES[self.hive.planes]
        target = self.chance.choices(list(shares), list(shares.values()))[0]
        if target == "keeper":
            self.touched_data = True
            self.hive.kill()
            await trio.to_thread.run_sync(self.hive.start)
        else:
            try:
                self.hive.kill_plane(target)
            except RuntimeError:  # it is just between two lives
                return
            self.touched_data |= target != "control" and target != "world"
        self.kills[target] += 1

    async def recover(self) -> None:
        """Wait until the hive is whole again, by every view of it."""
        with trio.move_on_after(RECOVERY_S):
            while not await self.whole():  # noqa: ASYNC110 - only asking tells
                await trio.sleep(POLL_S)
            return
        raise AssertionError(
            f"not whole within {RECOVERY_S} s after {self.kills}: {self.why}\n{self.hive.log_tail()}"
        )

    async def whole(self) -> bool:
        """Whether router, region, route service and the nodes themselves agree; nobody flickers meanwhile."""
        async with self.flickering:
            return await self.agree()

    async def agree(self) -> bool:
        self.why = "a node is not connected"
        if not all(node.connected for node in self.nodes):
            return False
        self.why = "the router does not answer"
        answer = await self.observer.router("ROUTER_NODES", timeout_s=0.3)
        if answer is None:
            return False
        listed = {node["name"]: node["uuid"] for node in answer["nodes"]}
        real = {node.full_name: node.uuid for node in self.nodes}
        services = {f"{name}@{self.hive.hive_id}" for name in SERVICES}
        self.why = f"nodes: {sorted(listed)}"
        if len(answer["nodes"]) != len(listed) or listed.keys() != real.keys() | services:
            return False
        self.why = "another uuid under a name"
        if any(listed[name] != uuid for name, uuid in real.items()):
            return False
        self.why = "the route service does not answer"
        if not await self.routes.check():
            return False
        rows = self.region()
        self.why = f"the region shows {sorted(rows)}"
        return rows == sorted(listed.items())

    def region(self) -> list[tuple[str, str]]:
        """Names and uuids of all nodes, as another plane sees them; both tables must show the same."""
        try:
            with RegionReader(self.hive.paths.regions_tmp / "live.mdb", (NODES,)) as reader:
                rows = sorted((row.name, uuid) for uuid, row in reader.items(NODE))
                names = sorted((name, uuid) for name, (_, uuid) in reader.items(NODE_NAME))
        except FluxbeeError:
            return []
        return rows if rows == names else []


@pytest.mark.parametrize("mode", ["apart", "together"])
@pytest.mark.usefixtures("eager")
def test_every_promise_survives_kills_under_load(hive_folder: Path, mode: str) -> None:
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    chaos = Chaos(hive, seed=SEED)
    with hive:
        trio.run(chaos.run, max(CUTS // 2, 1))
    print(report(chaos))
    assert chaos.traffic.repeated == []
    assert chaos.routes.wrong == []
    assert chaos.traffic.seen > 1000
    assert chaos.routes.acknowledged > 10
    trio.run(journals_are_whole, hive, chaos)


def report(chaos: Chaos) -> str:
    times = sorted(chaos.recoveries_s)
    return (
        f"{chaos.hive.planes}: kills {chaos.kills}, messages {chaos.traffic.sent} sent, "
        f"{chaos.traffic.seen} seen, routes {chaos.routes.acknowledged} acknowledged, "
        f"refused {dict(chaos.routes.refused)}, recovery s: median {times[len(times) // 2]:.2f}, "
        f"longest {times[-1]:.2f}"
    )


async def journals_are_whole(hive: HiveHarness, chaos: Chaos) -> None:
    routes = await records(hive, "config.routes", "state")
    versions = [msgspec.json.decode(record)["version"] for record in routes]
    assert versions == sorted(set(versions)), "a version went back, or came twice"
    assert versions[-1] >= chaos.routes.version
    last = {route["prefix"] for route in msgspec.json.decode(routes[-1])["routes"]}
    assert chaos.routes.known <= last | chaos.routes.open
    await records(hive, "threads", "state")
    seen: set[tuple[str, int]] = set()
    for record in await records(hive, "storage.turns", "log"):
        meta = msgspec.json.decode(record).get("meta")
        if meta and "thread_seq" in meta:
            number = (meta["thread_id"], meta["thread_seq"])
            assert number not in seen, f"{number} was given out twice"
            seen.add(number)
    assert seen  # the newest quarter of a second may be missing: turns are of the relaxed class


async def records(hive: HiveHarness, name: str, kind: Kind) -> list[bytes]:
    """Everything in a journal, which must be undamaged and without gaps."""
    spec = JournalSpec(name=name, kind=kind, durability="durable" if name == "config.routes" else "relaxed")
    found: list[bytes] = []
    async with await Journal.opened(hive.paths.journals / name, spec) as journal:
        assert journal.damages == ()
        assert journal.repairs == ()
        async for part in replay(journal):
            assert not isinstance(part, Gap), part
            found += [record for _, record in part]
    return found
