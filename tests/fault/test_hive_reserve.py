"""A hive on a disk that is really full refuses what is ordinary; whoever makes room can still do so."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from appliance.cli.api import AdminApi
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.testing.hive import HiveHarness
from tests.fault.hive_load import Traffic
from tests.unit.packages_kit import START, describe

pytestmark = [pytest.mark.process, pytest.mark.privileged, pytest.mark.slow]

MIB = 1 << 20
RESERVE = 8 * MIB
MODES = ("apart", "together")
KEPT = 4
RECOVERY_S = 40.0
"""A journal that failed looks again after 1, 2, 4 … at most 30 s."""

Json = dict[str, Any]


@contextmanager
def small_disk(place: Path, size_mib: int) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


class FullBox:
    """A hive whose root folder is a file system of its own, with things in it that can be removed."""

    def __init__(self, root: Path, mode: str) -> None:
        self.hive = HiveHarness(root, planes=mode)  # type: ignore[arg-type]
        self.traffic = Traffic(self.hive, pairs=2, pause_s=0.02)
        self.filler = root / "filler"
        self.api = AdminApi(self.hive.url)

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        async def loaded() -> None:
            async with trio.open_nursery() as nursery, httpx.AsyncClient(timeout=15) as self.http:
                with trio.fail_after(150):
                    nursery.start_soon(self.traffic.run)
                    await self.until(self.routed)
                    await body()
                nursery.cancel_scope.cancel()

        trio.run(loaded)
        assert self.traffic.repeated == []

    async def until(self, wanted: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
        with trio.move_on_after(within_s):
            while not await wanted():  # noqa: ASYNC110 - only asking tells
                await trio.sleep(0.05)
            return
        raise AssertionError(f"not {wanted} within {within_s} s\n{self.hive.log_tail(60)}")

    async def routed(self) -> bool:
        """Whether messages arrive at this moment."""
        before = self.traffic.seen
        await trio.sleep(0.1)
        return self.traffic.seen > before

    # --- the disk --------------------------------------------------------------------------------------

    async def fill(self) -> None:
        """A stranger's file takes what is free, to the last block."""
        with self.filler.open("ab", buffering=0) as file:
            for size in (MIB, 4096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
                        await trio.lowlevel.checkpoint()

    @property
    def holds(self) -> bool:
        """Whether the reserve is there, in full."""
        file = self.hive.paths.reserve
        return file.exists() and file.stat().st_blocks * 512 >= RESERVE

    async def is_held(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.holds

    # --- asking ----------------------------------------------------------------------------------------

    async def call(self, method: str, path: str, body: object = None) -> Json:
        answer = await trio.to_thread.run_sync(self.api.call, method, path, body)
        return dict(msgspec.to_builtins(answer))

    async def health(self) -> tuple[int, Json]:
        answer = await self.http.get(f"{self.hive.url}/health")
        return answer.status_code, answer.json()

    async def full(self) -> bool:
        code, told = await self.health()
        return code == 503 and any("read-only: the disk is full" in one for one in told["reasons"])

    async def well(self) -> bool:
        code, told = await self.health()
        return code == 200 and told["read_only"] is False

    async def publish(self, number: int, size: int = 200) -> httpx.Response:
        event = {
            "stream": "box.things",
            "source": "test",
            "payload": {"entity_id": f"box/{number}", "properties": {"text": "x" * size}},
        }
        return await self.http.post(f"{self.hive.world_url}/api/events", json=event)

    async def publish_many(self, start: int) -> httpx.Response:
        events = [
            {
                "stream": "box.things",
                "source": "test",
                "payload": {
                    "entity_id": f"box/{start + one}",
                    "properties": {"text": f"{start + one}" * 400},
                },
            }
            for one in range(200)
        ]
        return await self.http.post(f"{self.hive.world_url}/api/events/batch", json={"events": events})

    async def entity(self, number: int) -> int:
        return (await self.http.get(f"{self.hive.world_url}/api/state/entities/box/{number}")).status_code

    async def refuses_events(self) -> bool:
        """Whether the world has seen, at most a second later, that there is no room; no other error comes."""
        answer = await self.publish(KEPT)
        if answer.status_code == 200:
            return False
        assert answer.status_code == 503, answer.text
        return "the disk is full" in answer.text

    async def leaves_turns_out(self) -> bool:
        """Whether the router has seen it too."""
        status = await self.traffic.sources[0].router("ROUTER_STATUS")
        return status is not None and status["turns"]["disk_full"] > 0

    async def published(self, number: int) -> bool:
        return (await self.publish(number)).status_code == 200

    async def package(self, version: str) -> Json:
        files = {"package.json": describe(version=version), "bin/start.sh": START}
        source = {"kind": "inline_package", "files": files}
        body = {"source": source, "set_current": True}
        return await self.call("POST", "/admin/runtime-packages/publish", body)

    async def furnish(self) -> None:
        """Things that can be removed later."""
        for number in range(KEPT):
            assert (await self.publish(number)).status_code == 200
        for version in ("0.1.0", "0.2.0"):
            assert (await self.package(version))["status"] == "ok"
        await self.until(self.is_held)

    async def administer(self, name: str) -> None:
        """Everything that an operator needs on a full disk works."""
        hive = f"/hives/{self.hive.hive_id}"
        route = {"prefix": f"AI.{name}", "action": "DROP"}
        added = await self.call("POST", f"{hive}/routes", route)
        assert added["status"] == "ok", added
        listed = await self.call("GET", f"{hive}/routes")
        assert f"AI.{name}" in str(listed["payload"]), listed
        gone = await self.call("DELETE", f"{hive}/routes/AI.{name}")
        assert gone["status"] == "ok", gone


async def gaps_of(hive: HiveHarness) -> list[Json]:
    """What the turn journal says about turns that it does not have."""
    spec = JournalSpec(name="storage.turns", durability="relaxed")
    found, position = [], 1
    async with await Journal.opened(hive.paths.journals / "storage.turns", spec) as journal:
        assert journal.damages == ()
        while batch := await journal.read(position):
            found += [msgspec.json.decode(one)["gap"] for one in batch.records if one.startswith(b'{"gap"')]
            position = batch.next_seq
    return found


@pytest.mark.parametrize("mode", MODES)
def test_strangers_fill_the_disk_and_the_operator_makes_room(hive_folder: Path, mode: str) -> None:
    box = FullBox(hive_folder, mode)

    async def body() -> None:
        await box.furnish()
        await box.fill()
        await box.until(box.full)
        # ordinary writers are refused, in words
        await box.until(box.refuses_events)
        await box.until(box.leaves_turns_out)
        package = await box.package("0.3.0")
        assert package["status"] == "error"
        assert "disk is full" in str(package), package
        # whoever administrates and removes is not
        await box.administer("one")
        assert not box.holds
        deleted = await box.http.delete(f"{box.hive.world_url}/api/state/entities/box/0")
        assert deleted.status_code == 200, deleted.text
        assert (await box.entity(0), await box.entity(1)) == (404, 200)
        hive = f"/hives/{box.hive.hive_id}"
        removed = await box.call("DELETE", f"{hive}/runtimes/ai.greeter/versions/0.1.0")
        assert removed["status"] == "ok", removed
        await box.administer("two")
        # the room that was given back is not for events
        assert (await box.publish(KEPT)).status_code == 503
        await box.until(box.routed)
        assert await box.full()
        overview = (await box.call("GET", "/hive/overview"))["payload"]
        assert overview["facts"]["read_only"] is True
        # and back
        box.filler.unlink()
        await box.until(box.well, RECOVERY_S)
        await box.until(box.is_held)
        await box.until(partial(box.published, KEPT), RECOVERY_S)
        await box.administer("three")
        await box.until(box.routed)

    with small_disk(hive_folder, 48):
        with box.hive:
            box.run(body)
            told = box.hive.log.read_text(errors="replace")
        gaps = trio.run(gaps_of, box.hive)
        assert any("disk_full" in one["reasons"] for one in gaps), gaps
    assert told.count("[DISK_FULL]") == 1
    assert told.count("[RESERVE_RELEASED]") == 1


@pytest.mark.parametrize("mode", MODES)
def test_events_stop_before_they_fill_the_disk(hive_folder: Path, mode: str) -> None:
    """The world's own writers leave the reserve alone: nobody has to release it for an entity to go."""
    box = FullBox(hive_folder, mode)

    async def body() -> None:
        await box.furnish()
        start = 1000
        while (answer := await box.publish_many(start)).status_code == 200:
            start += 200
            assert start < 100_000
        assert "disk is full" in answer.text, answer.text
        assert box.holds
        await box.until(box.full)
        body = {"entity_ids": [f"box/{number}" for number in range(1000, 1100)]}
        deleted = await box.http.post(f"{box.hive.world_url}/api/state/entities/delete", json=body)
        assert deleted.status_code == 200, deleted.text
        assert deleted.json()["deleted"] == 100
        await box.administer("one")
        await box.until(box.routed)
        assert (await box.publish(1)).status_code == 503
        assert await box.entity(1) == 200

    with small_disk(hive_folder, 40), box.hive:
        box.run(body)


def test_a_hive_starts_on_a_full_disk(hive_folder: Path) -> None:
    """There is no reserve then; it says so, serves, and makes one as soon as there is room."""
    box = FullBox(hive_folder, "together")

    async def body() -> None:
        await box.until(box.full)
        assert not box.holds
        assert (await box.publish(0)).status_code == 503
        await box.administer("one")
        box.filler.unlink()
        await box.until(box.well, RECOVERY_S)
        await box.until(box.is_held)
        await box.until(partial(box.published, 0), RECOVERY_S)

    with small_disk(hive_folder, 32):
        box.filler.write_bytes(bytes(22 * MIB))
        with box.hive:
            box.run(body)
