"""Media that rot, fill up or fail; regions that vanish; clocks that jump: the world says what it lost."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from appliance.system.disk import RealDisk
from appliance.testing.clock import FakeClock
from appliance.testing.faultdisk import FaultDisk
from appliance.wire.errors import Busy, Damaged, Unavailable
from appliance.world import INTERNAL, WorldEngine
from tests.world_kit import Model, batch, engine_in, event, read_journal, shown


def run(home: Path, use: Callable[[WorldEngine], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with engine_in(home, **options) as engine:
            await use(engine)

    trio.run(main)


async def everything_of(engine: WorldEngine) -> dict[str, tuple[dict[str, object], int]]:
    listing = engine.listing()
    return shown([text for page in iter(listing.page, []) for text in page])


def some(rng: random.Random, count: int) -> list[dict[str, object]]:
    made = []
    for number in range(count):
        properties = {"__deleted__": True} if rng.random() < 0.1 else {rng.choice("abc"): number}
        made.append(event(f"plant/{rng.randrange(12)}", **properties))
    return made


def model_of(home: Path) -> Model:
    model = Model()
    for seq, stored in read_journal(home / "journal").items():
        model.apply(seq, stored["payload"])
    return model


def expected(model: Model) -> dict[str, tuple[dict[str, object], int]]:
    return {one: (properties, model.changed[one]) for one, properties in model.entities.items()}


def wipe_region(home: Path) -> None:
    for path in (home / "regions").iterdir():
        path.unlink()


@pytest.fixture
def filled(tmp_path):
    """A world with an image, events behind it, and what it shows."""
    found = {}

    async def fill(engine):
        rng = random.Random(1)
        for _ in range(10):
            await engine.publish_batch(batch(*some(rng, 20)), INTERNAL)
        await engine.compact()
        for _ in range(10):
            await engine.publish_batch(batch(*some(rng, 20)), INTERNAL)
        found.update(await everything_of(engine))

    run(tmp_path, fill)
    return found


def test_a_region_that_is_gone_is_made_anew(filled, tmp_path):
    wipe_region(tmp_path)

    async def look(engine):
        assert await everything_of(engine) == filled
        assert engine.statistics().rebuilt
        assert engine.metrics().entities_total == len(filled)

    run(tmp_path, look)
    assert filled == expected(model_of(tmp_path)), "the projection is what the log says"


def test_a_region_of_another_journal_is_made_anew(filled, tmp_path):
    other = tmp_path / "other"

    async def publish(engine):
        await engine.publish(json.dumps(event("x", p=1)).encode(), INTERNAL)

    run(other, publish)
    wipe_region(tmp_path)
    for path in (other / "regions").iterdir():
        (tmp_path / "regions" / path.name).write_bytes(path.read_bytes())

    async def look(engine):
        assert await everything_of(engine) == filled

    run(tmp_path, look)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_flipped_bits_in_the_region_do_not_stop_the_world(filled, tmp_path, share):
    """Where LMDB or a row notices, the region is set aside and made anew, at once or at the next start."""
    path = tmp_path / "regions" / "world.mdb"
    data = bytearray(path.read_bytes())
    for number in range(200):
        data[min(int(len(data) * share) + number * 16, len(data) - 1)] ^= 0x20
    path.write_bytes(data)

    async def look(engine):
        try:
            found = await everything_of(engine)
        except Damaged:
            noticed.append(True)
        else:
            assert found == filled or not engine.statistics().rebuilt
            assert not noticed or engine.statistics().rebuilt

    noticed: list[bool] = []
    run(tmp_path, look)
    run(tmp_path, look)


@pytest.mark.parametrize("damage", [b"not JSON", b'{"id":1}', b'{"id":"plant/0","properties":[]}'])
def test_a_row_that_does_not_decode_has_the_region_made_anew(filled, tmp_path, damage):
    one = next(iter(filled))

    async def spoil(engine):
        view = engine._keeping.view
        with view.env.change("world") as txn:
            txn.raw.put(one.encode(), bytes(8) + damage, db=txn.dbs["world_entity"])
        await engine.publish(json.dumps(event(one, zz=1)).encode(), INTERNAL)
        with pytest.raises(Damaged):
            engine.entity(one)

    run(tmp_path, spoil)

    async def look(engine):
        found = await everything_of(engine)
        assert found.pop(one)[0] == {**filled[one][0], "zz": 1}
        assert found == {key: value for key, value in filled.items() if key != one}

    run(tmp_path, look)


def test_a_damaged_image_falls_back_to_the_one_before(filled, tmp_path):
    async def again(engine):
        await engine.compact()

    run(tmp_path, again)
    images = sorted((tmp_path / "journal").glob("base-*.img"))
    assert len(images) == 2
    data = bytearray(images[-1].read_bytes())
    data[len(data) // 2] ^= 1
    images[-1].write_bytes(data)
    wipe_region(tmp_path)

    async def look(engine):
        assert await everything_of(engine) == filled
        assert engine.statistics().gaps == 0

    run(tmp_path, look)


def test_a_flipped_bit_in_the_log_costs_that_batch_and_is_told(tmp_path):
    async def fill(engine):
        for number in range(30):
            await engine.publish(json.dumps(event(f"a/{number}", p=number)).encode(), INTERNAL)

    run(tmp_path, fill)
    segment = next((tmp_path / "journal").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    at = data.index(b'"a/10"')
    data[at + 3] ^= 1
    segment.write_bytes(data)
    wipe_region(tmp_path)

    async def look(engine):
        found = await everything_of(engine)
        figures = engine.statistics()
        assert (figures.gaps, figures.gap_records) == (1, 1)
        assert set(found) == {f"a/{number}" for number in range(30) if number != 10}
        await engine.publish(json.dumps(event("new", p=1)).encode(), INTERNAL)
        assert figures.last_seq + 1 == engine.last_seq == 31

    run(tmp_path, look)


def test_a_torn_tail_is_cut(tmp_path):
    """Only what was never acknowledged can be torn; here the clean end of the file is lost as well."""

    async def fill(engine):
        for number in range(10):
            await engine.publish_batch(batch(event("a", p=number), event("b", p=number)), INTERNAL)

    run(tmp_path, fill)
    segment = next((tmp_path / "journal").glob("*.seg"))
    data = segment.read_bytes()
    cut = data.rindex(b'"entity_id":"a"')
    segment.write_bytes(data[:cut])
    wipe_region(tmp_path)

    async def look(engine):
        found = await everything_of(engine)
        assert found["a"][0] == found["b"][0] == {"p": 8}, "a batch is there whole or not at all"
        await engine.publish_batch(batch(event("a", p=9)), INTERNAL)

    run(tmp_path, look)
    assert list(read_journal(tmp_path / "journal")) == list(range(1, 20))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("inline", [True, False])
def test_a_failing_disk_refuses_writes_and_keeps_reads(tmp_path, error, inline):
    """AT-NEW-22, DF-06: refused events leave no trace, chains and numbers go on without a hole."""
    disk = FaultDisk(RealDisk(mode=0o600), error=error, sticky=True, only=frozenset({"pwrite", "sync"}))
    stored = {"n": 0}

    async def use(engine):
        await engine.publish(json.dumps(event("a/b", n=0)).encode(), INTERNAL)
        disk.fail_at = len(disk.calls)
        refused = []

        async def publish(number: int) -> None:
            made = {**event("a/b", n=number), "eventId": f"mine-{number}"}
            try:
                await engine.publish(json.dumps(made).encode(), INTERNAL)
            except Unavailable as failure:
                refused.append(failure.status)

        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(publish, number)
        assert refused == [503] * 5
        assert engine.failure is not None
        assert json.loads(engine.entity("a/b"))["properties"] == stored
        disk.heal()
        await engine._keeping.journal.resume()
        for number in range(1, 6):
            await publish(number)
        assert engine.failure is None
        assert engine.last_seq == 6
        page = await engine.history("a/b")
        assert [json.loads(text)["payload"]["properties"]["n"] for text in page.events] == [5, 4, 3, 2, 1, 0]

    run(tmp_path, use, disk=disk, inline=inline)
    assert list(read_journal(tmp_path / "journal")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("seed", range(6))
def test_a_disk_that_fails_now_and_then(tmp_path, seed):
    """Whatever call fails: what was answered is there, what was refused is not, in numbers without holes."""
    disk = FaultDisk(RealDisk(mode=0o600), error=errno.ENOSPC, part=0.5, only=frozenset({"pwrite"}))
    rng = random.Random(seed)
    answered: list[str] = []
    refused: list[str] = []

    async def use(engine):
        async def publisher(task: int) -> None:
            for number in range(15):
                made = some(rng, 3)
                for part, one in enumerate(made):
                    one["eventId"] = f"{task}:{number}:{part}"
                ids = [str(one["eventId"]) for one in made]
                try:
                    await engine.publish_batch(batch(*made), INTERNAL)
                    answered.extend(ids)
                except Unavailable:
                    refused.extend(ids)
                    await engine._keeping.journal.resume()
                if rng.random() < 0.1 and not disk.failed:
                    disk.fail_at = len(disk.calls)

        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(publisher, task)
        assert await everything_of(engine) == expected(model_of(tmp_path))

    run(tmp_path, use, disk=disk)
    stored = [one["eventId"] for one in read_journal(tmp_path / "journal").values()]
    assert sorted(stored) == sorted(answered)
    assert not set(refused) & set(stored)
    assert disk.failed


def test_clocks_jump(tmp_path):
    """design.md §5, Time: a box without a battery, then a time server, then a mistake."""
    clock = FakeClock()
    clock.lose_battery()

    async def use(engine):
        for jump in (0, 56 * 365 * 86_400, -86_400 * 365, 10):
            clock.jump_wall(jump)
            clock.advance(1)
            await engine.publish(json.dumps(event("a", **{f"p{jump}": 1})).encode(), INTERNAL)
        assert len(json.loads(engine.entity("a"))["properties"]) == 4
        assert len((await engine.history("a")).events) == 4
        recent = await engine.history("a", since_ms=clock.wall_ms() - 60_000)
        assert len(recent.events) == 3, "what a wrong clock stamped later than now is later"
        assert (await engine.entity_at("a", seq=4)).entity == engine.entity("a")

    run(tmp_path, use, clock=clock)
    clock.set_wall(-5)

    async def look(engine):
        await engine.publish(json.dumps(event("a", q=1)).encode(), INTERNAL)
        assert json.loads(engine.entity("a"))["lastUpdated"].startswith("1970-01-01T00:00:00")

    run(tmp_path, look, clock=clock)


def test_a_full_map_is_a_quota_and_not_an_end(tmp_path):
    """design.md §5: MAP_FULL refuses, keeps what is durable readable, and says so."""

    async def use(engine):
        fill = "x" * 4000
        for number in range(300):
            await engine.publish(json.dumps(event(f"a/{number}", fill=fill)).encode(), INTERNAL)
        with pytest.raises(Busy):
            await engine._keeping._cycle()
        assert len(await everything_of(engine)) == engine.metrics().entities_total
        assert engine.ready

    run(tmp_path, use, map_bytes=1 << 20)
