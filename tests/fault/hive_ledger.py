"""The ledger of thread numbers over many starts: a disk that can lose power, a tmpfs that does.

The journal lies on a :class:`CrashDisk` in memory; the region is a real LMDB environment in a folder that a
reboot takes away. What a process that died leaves behind is taken while it still runs.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance.router.thread_ledger import ThreadLedger
from appliance.router.threads import STEP, ThreadCounters
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.store.layouts import THREADS
from appliance.store.region import Environment
from appliance.store.region_admit import LIVE, EnvironmentSpec
from appliance.store.replay import replay
from appliance.system.boot import BootId
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.wire.errors import FluxbeeError, Unavailable

__all__ = ["HOME", "SMALL", "SPEC", "Box", "Run", "accept", "act", "on_trio", "refuse", "rot"]

HOME = Path("/threads")
SPEC = JournalSpec(name="threads", kind="state", durability="relaxed", segment_bytes=16 << 10)
SMALL = msgspec.structs.replace(LIVE, map_bytes=4 << 20)


def on_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine, run by trio."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            with trio.fail_after(60):
                await test(*args, **kwargs)

        trio.run(bounded)

    return run


class Run:
    """One life of the ledger."""

    def __init__(
        self,
        box: Box,
        fault: FaultDisk | None,
        journal: Journal,
        environment: Environment,
        ledger: ThreadLedger,
    ) -> None:
        self.box = box
        self.fault = fault
        self.journal = journal
        self.environment = environment
        self.ledger = ledger
        self.counters = ThreadCounters(ledger, 8)

    def take(self, thread: str, times: int = 1) -> list[int]:
        """The next numbers of ``thread``, as one turn of the router."""
        numbers = [self.counters.next(thread) for _ in range(times)]
        self.counters.flush()
        return numbers

    def crash(self, *, power_seed: int | None = None) -> None:
        """What the next process finds: the page cache as it is, or after a power cut what the medium held."""
        box = self.box
        shutil.rmtree(box.tmpfs / "next", ignore_errors=True)
        if power_seed is None:
            shutil.copytree(box.tmpfs / "live", box.tmpfs / "next")
            box.next_disk = box.disk.after_kill()
        else:
            box.boot += 1
            box.word = [0]
            box.next_disk = box.disk.after_power_cut(power_seed)

    async def write_image(self) -> None:
        """A base image, as the plane's upkeep writes it."""
        upto, records = self.ledger.image()
        image = list(records)
        await self.journal.sync()
        await self.journal.write_base(upto, image)


class Box:
    """A hive's ledger over many starts."""

    def __init__(self, tmpfs: Path) -> None:
        self.tmpfs = tmpfs
        self.disk = CrashDisk()
        self.next_disk: CrashDisk | None = None
        self.boot = 1
        self.word = [0]  # on the generation page

    def reboot(self) -> None:
        """An orderly one: the disk stays, tmpfs does not."""
        self.boot += 1
        self.word = [0]
        shutil.rmtree(self.tmpfs / "live", ignore_errors=True)

    @asynccontextmanager
    async def running(
        self, *, spec: EnvironmentSpec = SMALL, stop: bool = True, fault: dict[str, Any] | None = None
    ) -> AsyncIterator[Run]:
        """Start, and in the end stop: orderly, or as ``Run.crash`` said."""
        faulty = FaultDisk(self.disk, **fault) if fault is not None else None
        journal = Journal.open(HOME, SPEC, disk=faulty or self.disk, inline=True)
        boot = BootId(f"boot-{self.boot}")
        async with journal:
            with Environment(spec, self.tmpfs / "live", (THREADS,), boot=boot) as environment:
                ledger = self.ledger(journal, environment, boot)
                await ledger.replay(replay(journal))
                await ledger.begin()
                yield Run(self, faulty, journal, environment, ledger)
                if stop:
                    await ledger.end()
        if self.next_disk is not None:
            self.disk, self.next_disk = self.next_disk, None
            shutil.rmtree(self.tmpfs / "live")
            if (self.tmpfs / "next").exists():
                (self.tmpfs / "next").rename(self.tmpfs / "live")

    def ledger(self, journal: Journal, environment: Environment, boot: str) -> ThreadLedger:
        """A ledger with this boot's shared memory."""
        word = self.word
        return ThreadLedger(
            journal,
            environment,
            boot,
            recall=partial(word.__getitem__, 0),
            remember=partial(word.__setitem__, 0),
        )

    async def live(self, chance: random.Random, seen: Counter[tuple[str, int]], *, faults: bool) -> None:
        """A life of random turns and works, and a random end: stop, reboot, kill or power cut."""
        ending = chance.choice(["stop", "reboot", "kill", "kill", "power", "power"])
        fault = {"sticky": True} if faults else None
        async with self.running(stop=False, fault=fault) as run:
            for _ in range(chance.randrange(12)):
                await act(run, chance, seen, faults=faults)
            if ending == "kill":
                run.crash()
            elif ending == "power":
                run.crash(power_seed=chance.randrange(1 << 30))
            else:
                await _stop(run)
            accept(run.environment)
        if ending == "reboot":
            self.reboot()


async def _stop(run: Run) -> None:
    try:
        await run.ledger.end()
    except FluxbeeError:
        return  # as the plane does: the next start finds no mark of a clean stop


async def act(
    run: Run, chance: random.Random, seen: Counter[tuple[str, int]], *, faults: bool = False
) -> None:
    """One random thing that happens to a running ledger."""
    what = chance.randrange(15 if faults else 10)
    try:
        if what == 0 and run.environment.applied_seq("thread"):
            await run.write_image()
        elif what == 1:
            await run.journal.sync()
        elif what == 2 and run.ledger.wants_note:
            await run.ledger.note()
        elif what == 10 and run.fault is not None:
            run.fault.fail_at = 0
        elif what == 11 and run.fault is not None:
            run.fault.heal()
            await run.journal.resume()
        elif what == 12:
            refuse(run.environment)
        elif what == 13:
            accept(run.environment)
        else:
            thread = chance.choice(["a", "b", f"fresh-{chance.randrange(10**9)}"])
            numbers = run.take(thread, chance.choice([1, 3, STEP, 2 * STEP + 5]))
            seen.update((thread, number) for number in numbers)
    except FluxbeeError:
        return  # a disk that refuses; what counts is which numbers come


def refuse(environment: Environment) -> None:
    """Let the region take no change."""

    def begin(change: object) -> None:
        raise Unavailable("no space", code="STORAGE_FULL")

    environment.begin = begin  # type: ignore[method-assign]


def accept(environment: Environment) -> None:
    """Let it take changes again."""
    vars(environment).pop("begin", None)


def rot(box: Box, *, share: float, bit: int = 3) -> int:
    """Flip a bit in every file of the journal, at ``share`` of its length; returns how many files."""
    count = 0
    for path, data in box.disk.files().items():
        size = len(data.rstrip(b"\0"))
        if size > 200 and path.suffix != ".aside":
            box.disk.flip(path, int(size * share), bit)
            count += 1
    return count
