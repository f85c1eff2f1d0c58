"""Regions: what one typed read, one change, one look at the generation page and one published copy cost.

Baselines are the same LMDB calls without our layer, on the same rows in the same run. Rows look like the node
table: a uuid key and a record of six fields.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec

from appliance.store.generations import SLOTS, GenerationPage
from appliance.store.published import PublishedRegion, Publisher
from appliance.store.region import Environment, write_in_slices
from appliance.store.region_admit import CONTROL, LIVE, EnvironmentSpec
from appliance.store.region_codec import UUID_TEXT, cbor_record
from appliance.store.region_table import RegionSpec, Table
from tests.bench.harness import Figure, at_most, interleave, options

__all__ = ["run"]

ROWS = 10_000
ROUNDS = 21
"""Many short rounds: what preempts one of them does not reach the median."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of about the node table's size."""

    name: str
    router_uuid: str
    vpn_id: int
    connected_at_ms: int
    link_epoch: int
    note: str | None = None


ROW = Row(
    name="AI.support.l1@hive1",
    router_uuid=str(uuid.UUID(int=7)),
    vpn_id=3,
    connected_at_ms=10**12,
    link_epoch=9,
)
TABLE = Table("node", UUID_TEXT, cbor_record(Row))
SPEC = RegionSpec(name="node", schema=1, tables=(TABLE,))


def _per_call_ns(call: Callable[[], object], count: int) -> float:
    began = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - began) / count


def _median_ns(ways: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Median cost of each way; an empty call of the same form is the floor of what can be measured."""
    count = options().scaled(count, least=5)
    timed = {name: (lambda call=call: _per_call_ns(call, count)) for name, call in ways.items()}
    return {name: statistics.median(values) for name, values in interleave(timed, ROUNDS).items()}


def _environment(
    spec: EnvironmentSpec, directory: Path, keys: list[str], page: GenerationPage
) -> Environment:
    env = Environment(spec, directory, [SPEC], page=page)
    for _ in write_in_slices(env, ["node"], keys, lambda txn, key: TABLE.put(txn, key, ROW), applied_seq=1):
        pass
    env.finish_rebuild("node")
    return env


def _reads(env: Environment, page: GenerationPage, key: str) -> list[Figure]:
    raw_key, slot = UUID_TEXT.encode(key), SLOTS["node"]
    look = page.getter(slot)
    with env.read() as txn:
        raw, db = txn.raw, txn.dbs["node"]
        cost = _median_ns(
            {
                "typed": lambda: TABLE.get(txn, key),
                "lmdb": lambda: raw.get(raw_key, None, db),
                "own": lambda: env.get(TABLE, key),
                "generation": look,
                "nothing": lambda: None,
            },
            1000,
        )
    return [
        at_most("typed get in a read block", cost["typed"] / 1000, "µs", 3, baseline=cost["lmdb"] / 1000),
        at_most("typed get with its own read", cost["own"] / 1000, "µs", baseline=cost["lmdb"] / 1000),
        at_most("generation check", cost["generation"], "ns", 100, baseline=cost["nothing"]),
    ]


def _writes(
    name: str, env: Environment, rival: lmdb.Environment, keys: list[str], count: int
) -> list[Figure]:
    raw_keys, raw_row = [UUID_TEXT.encode(key) for key in keys], TABLE.value.encode(ROW)
    db = rival.open_db(b"node")

    def ours(some: list[str]) -> None:
        with env.change("node") as txn:
            for key in some:
                TABLE.put(txn, key, ROW)

    def lmdbs(some: list[bytes]) -> None:
        with rival.begin(write=True) as txn:
            for key in some:
                txn.put(key, raw_row, db=db)

    cost = _median_ns(
        {
            "one": lambda: ours(keys[:1]),
            "lmdb one": lambda: lmdbs(raw_keys[:1]),
            "slice": lambda: ours(keys[:200]),
            "lmdb slice": lambda: lmdbs(raw_keys[:200]),
        },
        count,
    )
    return [
        at_most(f"{name}: change of 1 row", cost["one"] / 1000, "µs", baseline=cost["lmdb one"] / 1000),
        at_most(
            f"{name}: change of 200 rows", cost["slice"] / 1000, "µs", baseline=cost["lmdb slice"] / 1000
        ),
    ]


def _published(env: Environment, directory: Path, key: str) -> list[Figure]:
    path = directory / "published.mdb"
    publisher = Publisher(env, path)
    took_s = []
    for _ in range(ROUNDS):
        publisher.publish()
        took_s.append(publisher.statistics().last_took_s)
    with PublishedRegion(path, [SPEC]) as region:
        cost = _median_ns({"get": lambda: region.get(TABLE, key)}, 1000)
    return [
        at_most("publish 10 k rows", statistics.median(took_s) * 1000, "ms"),
        at_most("size of that copy", publisher.statistics().last_bytes / 1024, "KiB"),
        at_most("typed get from a published copy", cost["get"] / 1000, "µs"),
    ]


def _opening(spec: EnvironmentSpec, directory: Path) -> Figure:
    took_ms = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        env = Environment(spec, directory, [SPEC])
        took_ms.append((time.perf_counter() - began) * 1000)
        env.close()
    return at_most("open 10 k rows, checked page by page", statistics.median(took_ms), "ms")


def _rival(directory: Path, *, sync: bool) -> lmdb.Environment:
    path = str(directory / "rival.mdb")
    return lmdb.open(path, subdir=False, map_size=1 << 28, max_dbs=2, sync=sync, metasync=sync)


def run() -> list[Figure]:
    """All figures; some seconds."""
    keys = [str(uuid.UUID(int=number * 7919)) for number in range(ROWS)]
    memory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    disk = Path(tempfile.mkdtemp())
    try:
        page = GenerationPage.create(memory / "generations")
        figures = []
        with _environment(LIVE, memory, keys, page) as live:
            figures += _reads(live, page, keys[ROWS // 2])
            figures += _published(live, memory, keys[ROWS // 2])
            rival = lmdb.open(
                str(memory / "rival.mdb"), subdir=False, map_size=1 << 28, max_dbs=2, sync=False
            )
            figures += _writes("tmpfs", live, rival, keys, 10)
            rival.close()
        figures.append(_opening(LIVE, memory))
        with _environment(CONTROL, disk, keys, page) as control:
            rival = _rival(disk, sync=True)
            figures += _writes("disk, synced", control, rival, keys, 10)
            rival.close()
            before = control.statistics()
            for _ in range(10):
                with control.change("node") as txn:
                    TABLE.put(txn, keys[0], ROW)
            written = control.statistics().bytes_written - before.bytes_written
            figures.append(at_most("disk: bytes per change of 1 row", written / 10, "B"))
        return figures
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(disk)
