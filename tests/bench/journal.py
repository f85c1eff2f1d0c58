"""Journals: what a durable append costs alone and in company, what an accepted record costs the loop.

The baseline is the plainest way to the same promise, in the same run and on the same disk: one ``pwrite`` and
one ``fdatasync`` per append, one after the other. Group commit is worth its code where it beats that.
The files lie in the folder for temporary files: ``TMPDIR`` chooses the disk.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from appliance.store.journal import Journal
from appliance.store.journal_format import join_records
from appliance.store.journal_types import JournalSpec

from .harness import Figure, at_least, at_most, median_ratio, note, options, percentile

__all__ = ["run"]

RECORD = b"x" * 350
"""As long as a routed message of the router's benchmark."""
READ_BATCH = 16
"""Records in one read of the router."""
WORLD_BATCH = 500
"""Events in one request to the world door."""
WORLD_RECORD = b"e" * 120
ROUNDS = 5
RAW_APPENDS = 600
REPLAYED = 300_000
IMAGE_ROWS = 1_000_000

_DURABLE = JournalSpec(name="bench", segment_bytes=64 << 20)
_RELAXED = JournalSpec(name="bench", durability="relaxed", segment_bytes=64 << 20)
_STATE = JournalSpec(name="bench", kind="state", segment_bytes=64 << 20)


class Load(msgspec.Struct, frozen=True):
    """How it went: records per second, and each append's time in seconds."""

    rate: float
    times: list[float]


def raw(directory: Path, body: bytes, records: int, appends: int) -> Load:
    """One ``pwrite`` and one ``fdatasync`` for each append."""
    fd = os.open(directory / "raw", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    times = []
    for number in range(appends):
        begun = time.perf_counter()
        os.pwrite(fd, body, number * len(body))
        os.fdatasync(fd)
        times.append(time.perf_counter() - begun)
    os.close(fd)
    return Load(records * appends / sum(times), times)


async def appending(directory: Path, body: bytes, records: int, appenders: int, each: int) -> Load:
    """``appenders`` tasks, each of which waits for its append before the next one."""
    times: list[float] = []

    async def appender(journal: Journal) -> None:
        for _ in range(each):
            begun = time.perf_counter()
            await journal.append_joined(body, records)
            times.append(time.perf_counter() - begun)

    async with Journal.open(directory, _DURABLE) as journal:
        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(appenders):
                nursery.start_soon(appender, journal)
        took = time.perf_counter() - begun
    return Load(records * appenders * each / took, times)


def rounds(appenders: int, each: int, body: bytes, records: int) -> tuple[list[Load], list[Load]]:
    """Journal and plain file in turn, so that what disturbs the disk disturbs both."""
    ours, plain = [], []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="fluxbee-bench-") as folder:
            home = Path(folder)
            plain.append(raw(home, body, records, options().scaled(RAW_APPENDS, least=10)))
            ours.append(trio.run(appending, home / str(number), body, records, appenders, each))
    return ours, plain


def durable(appenders: int, each: int) -> list[Figure]:
    """Single records, acknowledged when they are on the medium."""
    body, count = join_records([RECORD])
    ours, plain = rounds(appenders, options().scaled(each, least=3), body, count)
    who = f"{appenders} appender{'s' * (appenders > 1)}"
    rate = statistics.median(load.rate for load in ours)
    raw_rate = statistics.median(load.rate for load in plain)
    ratio = median_ratio([load.rate for load in ours], [load.rate for load in plain])
    figures = [at_least(f"durable appends, {who}", rate, "records/s", baseline=raw_rate, ratio=ratio)]
    for share in (0.5, 0.99):
        mine, base = ([percentile(load.times, share) * 1e6 for load in loads] for loads in (ours, plain))
        figures.append(
            at_most(
                f"durable append, {who}, p{share * 100:g}",
                statistics.median(mine),
                "µs",
                baseline=statistics.median(base),
                ratio=median_ratio(mine, base),
            )
        )
    return figures


def batches() -> list[Figure]:
    """World events in batches of 500 from eight tasks; the goal is that of the door above it."""
    body, count = join_records([WORLD_RECORD] * WORLD_BATCH)
    ours, plain = rounds(8, options().scaled(60, least=2), body, count)
    return [
        at_least(
            "durable batches of 500 × 120 B, 8 appenders",
            statistics.median(load.rate for load in ours),
            "records/s",
            150_000,
            baseline=statistics.median(load.rate for load in plain),
            ratio=median_ratio([load.rate for load in ours], [load.rate for load in plain]),
        )
    ]


def _each(call: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begun) * 1e6)
    return taken


async def _accepting(directory: Path) -> list[Figure]:
    body, count = join_records([RECORD] * READ_BATCH)
    separate = [RECORD] * READ_BATCH
    small, one = join_records([b"r" * 24])
    times = options().scaled(4000, least=100)
    taken: dict[str, list[float]] = {"joined": [], "records": [], "through": []}
    async with Journal.open(directory, _RELAXED) as journal:
        for _ in range(ROUNDS):
            for _ in range(times // 40):
                taken["joined"] += _each(lambda: journal.append_joined_nowait(body, count), 40)
                await trio.lowlevel.checkpoint()
                taken["records"] += _each(lambda: journal.append_nowait(separate), 40)
                if journal.statistics().pending_bytes > _RELAXED.max_pending_bytes // 4:
                    await journal.sync()
                await trio.lowlevel.checkpoint()
    async with Journal.open(directory / "through", _RELAXED) as journal:
        for _ in range(ROUNDS * times // 40):
            taken["through"] += _each(lambda: journal.write_through_joined(small, one), 40)
            await trio.lowlevel.checkpoint()
    fd = os.open(directory / "raw", os.O_RDWR | os.O_CREAT, 0o600)
    plain = statistics.median(_each(lambda: os.pwrite(fd, small, 0), times))
    os.close(fd)
    names = {
        "joined": "accept 16 records, joined by the caller",
        "records": "accept 16 separate records",
        "through": "write 1 record through to the page cache",
    }
    figures = []
    for key, name in names.items():
        baseline = plain if key == "through" else None
        most = 10.0 if key == "joined" else None
        figures.append(at_most(f"{name}, p50", percentile(taken[key], 0.5), "µs", most, baseline=baseline))
        figures.append(at_most(f"{name}, p99", percentile(taken[key], 0.99), "µs"))
    return figures


def accepting() -> list[Figure]:
    """What the loop pays for a record that it does not wait for."""
    with tempfile.TemporaryDirectory(prefix="fluxbee-bench-") as folder:
        return trio.run(_accepting, Path(folder))


async def _fill(directory: Path) -> None:
    """A base image and events behind it."""
    rows, events = options().scaled(IMAGE_ROWS, least=1000), options().scaled(REPLAYED, least=1000)
    body, count = join_records([WORLD_RECORD] * WORLD_BATCH)
    async with Journal.open(directory, _STATE) as journal:
        await journal.append(WORLD_RECORD)
        await journal.write_base(1, (WORLD_RECORD for _ in range(rows)))
        for _ in range(events // WORLD_BATCH):
            await journal.append_joined(body, count)


def _tear(directory: Path) -> None:
    last = max(directory.glob("*.seg"))
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 1000)


async def _replay(directory: Path) -> tuple[int, int]:
    journal = await Journal.opened(directory, _STATE)
    rows = sum(len(part) for part in journal.read_base())
    base = journal.base
    follower = journal.follow(1 if base is None else base.upto_seq + 1)
    while follower.next_seq <= journal.last_seq:
        await follower.batch()
    journal.close()
    return rows, follower.next_seq


def reopening() -> list[Figure]:
    """Opening with a torn tail, and reading image and events; what the owner does with them is not in it."""
    with tempfile.TemporaryDirectory(prefix="fluxbee-bench-") as folder:
        trio.run(_fill, Path(folder))
        _tear(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        begun = time.perf_counter()
        rows, next_seq = trio.run(_replay, Path(folder))
        took = time.perf_counter() - begun
        begun = time.perf_counter()
        for path in Path(folder).iterdir():
            path.read_bytes()
        plain = time.perf_counter() - begun
    note(f"replay: {rows} rows and {next_seq - 2} events, {size / 1e6:.0f} MB, read back from the page cache")
    return [at_most("open with a torn tail and replay 1 M rows + 300 k events", took, "s", 3, baseline=plain)]


def run() -> list[Figure]:
    """All of it; about half a minute."""
    return [
        *durable(1, 600),
        *durable(8, 200),
        *durable(64, 60),
        *batches(),
        *accepting(),
        *reopening(),
    ]
