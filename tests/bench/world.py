"""The world engine without its door: events per second that are durable and visible, and how fast it is back.

The baseline of the rates is the least that the promise costs in the same run: the same bytes appended to a
journal and synced, nothing else. Eight publishers, each waiting for its batch of 500 before it sends the next
one; bodies are made before the clock starts. The files lie in the folder for temporary files.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import trio

from appliance.app.planes import SWITCH_INTERVAL_S
from appliance.store.journal import Journal
from appliance.store.journal_format import join_records
from appliance.wire.errors import Busy
from appliance.world import INTERNAL, BatchReport, WorldEngine, WorldOptions
from appliance.world.keeping import JOURNAL

from .harness import Figure, at_least, at_most, note, options, rss_anon

__all__ = ["PARTS"]

BATCH = 500
PUBLISHERS = 8
MIB = 1 << 20


def bodies(entities: int, events: int, *, properties: int = 3, ordered: bool = False) -> list[bytes]:
    """Request bodies of ``BATCH`` events over so many entities, chosen at random unless ``ordered``."""
    rng = random.Random(7)
    made = []
    pick = (lambda number: number % entities) if ordered else (lambda _: rng.randrange(entities))
    for start in range(0, events, BATCH):
        batch = [
            {
                "stream": "plant.line2",
                "source": f"plc-{number % 50}",
                "timestamp": 1_770_000_000_000 + number,
                "payload": {
                    "entity_id": f"plant/pump-{pick(number):07d}",
                    "properties": {f"value_{i}": number * (i + 1) / 8 for i in range(properties)},
                },
            }
            for number in range(start, start + BATCH)
        ]
        made.append(msgspec.json.encode({"events": batch}))
    return made


async def patiently(engine: WorldEngine, body: bytes) -> BatchReport:
    """Publish; when there is no room, again as the engine says."""
    while True:
        try:
            return await engine.publish_batch(body, INTERNAL)
        except Busy as busy:
            note("publishers were sent away for a moment: the overlay was full")
            await trio.sleep(busy.retry_after_s)


async def publish(engine: WorldEngine, requests: Sequence[bytes]) -> float:
    """Send all from ``PUBLISHERS`` tasks; events per second from the first to the last answer."""
    waiting = iter(requests)

    async def publisher() -> None:
        for body in waiting:
            report = await patiently(engine, body)
            if report.failed:
                raise AssertionError(report.results[0])

    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(PUBLISHERS):
            nursery.start_soon(publisher)
    return len(requests) * BATCH / (time.perf_counter() - begun)


async def plain(directory: Path, requests: Sequence[bytes]) -> float:
    """The same bytes in a journal, each request one synced append."""
    waiting = iter(requests)

    async def appender(journal: Journal) -> None:
        for body in waiting:
            joined, _ = join_records([body])
            await journal.append_joined(joined, 1)

    async with Journal.open(directory, JOURNAL) as journal:
        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(PUBLISHERS):
                nursery.start_soon(appender, journal)
        return len(requests) * BATCH / (time.perf_counter() - begun)


def in_folder(run: Callable[[Path], list[Figure]]) -> list[Figure]:
    """With an empty folder."""
    with tempfile.TemporaryDirectory(prefix="fluxbee-bench-") as folder:
        return run(Path(folder))


def _engine(home: Path, **more: object) -> WorldEngine:
    return WorldEngine(home / "journal", home / "regions", WorldOptions(**more))  # type: ignore[arg-type]


async def _rate(home: Path, fill: Sequence[bytes], requests: Sequence[bytes]) -> tuple[float, float]:
    async with _engine(home) as engine:
        await publish(engine, fill)
        await engine.settle()
        cpu = time.process_time()
        rate = await publish(engine, requests)
        spent = time.process_time() - cpu
    return rate, spent / (len(requests) * BATCH) * 1e6


def _rates(name: str, entities: int, events: int, goal: float, *, filled: bool) -> list[Figure]:
    def run(home: Path) -> list[Figure]:
        count = options().scaled(events, least=BATCH, multiple=BATCH)
        entities_ = options().scaled(entities, least=100)
        fill = bodies(entities_, -(-entities_ // BATCH) * BATCH, ordered=True) if filled else []
        requests = bodies(entities_, count)
        baseline = trio.run(plain, home / "plain", requests)
        gc.collect()
        gc.freeze()  # as a plane does
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        rate, cpu_us = trio.run(_rate, home, fill, requests)
        return [
            at_least(f"{name}: events", rate, "events/s", goal, baseline=baseline),
            at_most(f"{name}: CPU per event, projection included", cpu_us, "µs"),
        ]

    return in_folder(run)


def burst() -> list[Figure]:
    """One million events as fast as they come, over ten thousand entities."""
    return _rates("burst of 1 M over 10 k entities", 10_000, 1_000_000, 150_000, filled=False)


def sustained() -> list[Figure]:
    """Long enough for many projection cycles."""
    return _rates("sustained over 10 k entities", 10_000, 2_000_000, 100_000, filled=True)


def wide() -> list[Figure]:
    """Hardly ever the same entity twice in a cycle: one row per event."""
    return _rates("sustained over 1 M entities", 1_000_000, 1_000_000, 60_000, filled=True)


def _in_child(work: Callable[[], object]) -> bytes:
    """``work`` in a process of its own; what it returns, as JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, msgspec.json.encode(work()))
        except BaseException:  # noqa: BLE001 - whatever it was, the parent only sees that it is gone
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            return pipe.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _million(rows: int, properties: int) -> Sequence[bytes]:
    return bodies(rows, rows, properties=properties, ordered=True)


async def _prepare(home: Path, rows: int, events: int, properties: int) -> None:
    async with _engine(home) as engine:
        await publish(engine, _million(rows, properties))
        await engine.compact()
        await publish(engine, bodies(rows, events, properties=properties))


async def _open(home: Path) -> tuple[float, int, int, int]:
    begun = time.perf_counter()
    async with _engine(home) as engine:
        took = time.perf_counter() - begun
        figures = engine.statistics()
        return took, figures.entities, figures.recovered_events, rss_anon()


def recovery() -> list[Figure]:
    """After a power cut: the region is not trusted; image and events make it anew."""

    def run(home: Path) -> list[Figure]:
        rows, events = (
            options().scaled(1_000_000, least=1000, multiple=BATCH),
            options().scaled(300_000, least=BATCH, multiple=BATCH),
        )
        _in_child(lambda: trio.run(_prepare, home, rows, events, 3))
        for path in (home / "regions").iterdir():
            path.unlink()
        took, entities, replayed, rss = msgspec.json.decode(
            _in_child(lambda: trio.run(_open, home)), type=tuple[float, int, int, int]
        )
        note(f"recovery: {entities} rows and {replayed} events")
        begun = time.perf_counter()
        for path in (home / "journal").iterdir():
            path.read_bytes()
        baseline = time.perf_counter() - begun
        return [
            at_most("base image of 1 M rows + 300 k events: ready after", took, "s", 3, baseline=baseline),
            at_most("private memory right after it", rss / MIB, "MiB"),
        ]

    return in_folder(run)


async def _memory(home: Path, rows: int) -> tuple[int, int]:
    async with _engine(home) as engine:
        for start in range(0, rows, 20_000):
            requests = [
                body.replace(b'"plant/pump-', b'"plant/%03d-' % (start // 20_000))
                for body in bodies(20_000, 20_000, properties=10, ordered=True)
            ]
            await publish(engine, requests)
        await engine.settle()
        return rss_anon(), engine.metrics().entities_total


def memory() -> list[Figure]:
    """The world is not held in memory: what the process has to itself with a million entities."""

    def run(home: Path) -> list[Figure]:
        rows = options().scaled(1_000_000, least=20_000, multiple=20_000)
        rss, entities = msgspec.json.decode(
            _in_child(lambda: trio.run(_memory, home, rows)), type=tuple[int, int]
        )
        note(f"memory: {entities} entities of 10 properties")
        return [at_most("private memory at 1 M entities × 10 properties", rss / MIB, "MiB", 250)]

    return in_folder(run)


PARTS = {"burst": burst, "sustained": sustained, "wide": wide, "recovery": recovery, "memory": memory}
