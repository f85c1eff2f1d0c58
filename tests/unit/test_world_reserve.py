"""What the world does on a full disk: events are refused, whoever removes or administrates is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.store.reserve import DISK_FULL, Reserve, Space
from appliance.wire.errors import Unavailable
from appliance.world import WorldEngine, WorldOptions
from appliance.world.types import INTERNAL
from tests.world_kit import batch, event

MIB = 1 << 20


class Disk:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.room_bytes = 100 * MIB

    def measured(self, file: Path) -> Space:
        held = 8 * MIB if file.exists() else 0
        return Space(max(self.room_bytes - held, 0), held)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def run(home, disk, use, *, mock=False, **options):
    file = home / "reserve"
    file.touch()

    async def main():
        reserve = Reserve(file, 8 * MIB, now=trio.current_time, measured=disk.measured)
        options_ = WorldOptions(**options)
        async with WorldEngine(home / "journal", home / "regions", options_, reserve=reserve) as engine:
            await use(engine, reserve)

    clock = trio.testing.MockClock(autojump_threshold=0.02) if mock else None
    trio.run(main, clock=clock)


def body(entity, **properties):
    return json.dumps(event(entity, **properties)).encode()


async def refused(call):
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.code == DISK_FULL


def test_events_are_refused_and_removal_goes_on(tmp_path, disk):
    async def use(engine, reserve):
        await engine.publish_batch(batch(*[event(f"a/{n}", p=n) for n in range(9)]), INTERNAL)
        disk.room_bytes = 9 * MIB
        reserve.look()
        before = engine.statistics()
        await refused(engine.publish(body("a/9", p=1), INTERNAL))
        await refused(engine.publish_batch(batch(event("a/9", p=1)), INTERNAL))
        assert engine.entity("a/9") is None
        await engine.delete("a/1", INTERNAL)
        assert not (tmp_path / "reserve").exists()  # released for it
        assert (await engine.delete_many(INTERNAL, entity_ids=["a/2", "a/3"])).deleted == 2
        await engine.create_namespace("plant")
        await engine.delete_namespace("plant")
        await engine.set_config(engine.config)
        assert [engine.entity(f"a/{n}") is None for n in range(5)] == [False, True, True, True, False]
        await refused(engine.publish(body("a/9", p=1), INTERNAL))
        assert engine.statistics().write_failures == before.write_failures
        disk.room_bytes = 100 * MIB
        reserve.look()
        await engine.publish(body("a/9", p=1), INTERNAL)
        assert engine.entity("a/9") is not None

    run(tmp_path, disk, use)


def test_what_the_region_is_still_owed_counts_as_written(tmp_path, disk):
    """Room of 1 MiB above the limit, and the journal alone would have taken the half of it."""

    async def use(engine, reserve):
        disk.room_bytes = 11 * MIB
        taken = 0
        with pytest.raises(Unavailable, match="disk is full"):
            while taken < 100:
                await engine.publish(body(f"a/{taken}", fill="x" * 20_000), INTERNAL)
                taken += 1
        assert 10 < taken < 40
        assert not reserve.read_only  # it is about to be, or not, when the region has it
        await engine.settle()
        await engine.publish(body("a/x", fill="x"), INTERNAL)

    run(tmp_path, disk, use)


@pytest.mark.parametrize(("room_bytes", "images"), [(9 * MIB, 1), (4096, 0)])
def test_on_a_full_disk_an_image_is_written_early_if_it_fits(tmp_path, disk, room_bytes, images):
    async def use(engine, reserve):
        for number in range(40):
            await engine.publish(body("a", n=number, fill="x" * 5000), INTERNAL)
        disk.room_bytes = room_bytes
        if room_bytes < 8 * MIB:
            (tmp_path / "reserve").unlink()
        reserve.look()
        await trio.sleep(60)
        assert engine.statistics().images == images

    run(tmp_path, disk, use, mock=True, segment_bytes=64 << 10)
