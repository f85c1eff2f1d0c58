"""Power cuts and rot: thread numbers never come twice, whatever the medium kept.

The ledger alone goes through thousands of random lives; then a whole hive loses everything since its last
sync, its tmpfs with it, and starts in another boot.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest
import trio

from appliance.router.threads import STEP
from appliance.testing.hive import PROGRAM_ENV, HiveHarness
from tests.fault.hive_ledger import Box, on_trio, rot
from tests.fault.hive_load import PlainNode

LIVES = int(os.environ.get("FLUXBEE_CRASH_CUTS", "200"))


@pytest.mark.slow
@pytest.mark.parametrize("faults", [False, True], ids=["sound disk", "refusing disk"])
@on_trio
async def test_the_ledger_survives_random_lives(tmp_path: Path, faults: bool) -> None:
    """Turns, images, notes, syncs; stops, reboots, kills, power cuts; a disk and a region that refuse."""
    for seed in range(max(LIVES // 10, 1)):
        chance, seen = random.Random(seed), Counter[tuple[str, int]]()
        box = Box(tmp_path / str(seed))
        for _ in range(10):
            await box.live(chance, seen, faults=faults)
        repeated = [key for key, count in seen.items() if count > 1]
        assert not repeated, f"seed {seed}: {repeated[:5]}"
        shutil.rmtree(box.tmpfs)


@pytest.mark.slow
@on_trio
async def test_rot_anywhere_in_the_journal_repeats_no_number(tmp_path: Path) -> None:
    """After an orderly reboot the journal alone knows; then a bit of every file flips, somewhere."""
    lifted = 0
    for seed in range(max(LIVES // 5, 1)):
        chance, seen = random.Random(seed), Counter[tuple[str, int]]()
        box = Box(tmp_path / str(seed))
        for _ in range(4):
            async with box.running() as run:
                for _ in range(chance.randrange(1, 30)):
                    thread = chance.choice("abcdef")
                    seen.update((thread, number) for number in run.take(thread, STEP))
                    if chance.random() < 0.3:
                        await run.journal.sync()
                lifted += run.ledger.statistics().floor > 0
            rot(box, share=chance.random(), bit=chance.randrange(8))
            box.reboot()
        repeated = [key for key, count in seen.items() if count > 1]
        assert not repeated, f"seed {seed}: {repeated[:5]}"
        shutil.rmtree(box.tmpfs)
    assert lifted, "no damage was ever found"


class Numbers:
    """Sends on some threads to itself and returns the numbers that came back."""

    def __init__(self, hive: HiveHarness) -> None:
        self._got: list[int] = []
        self._node = PlainNode(
            hive, "AI.loop", lambda message: self._got.append(message["meta"]["thread_seq"])
        )

    async def take(self, thread: str, count: int) -> list[int]:
        self._got.clear()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._node.run)
                while not self._node.connected:  # noqa: ASYNC110 - only looking tells
                    await trio.sleep(0.01)
                meta = {"type": "user", "thread_id": thread}
                for start in range(0, count, 64):
                    part = min(64, count - start)
                    await self._node.send(
                        *[self._node.message(self._node.full_name, meta) for _ in range(part)]
                    )
                    while len(self._got) < start + part:  # noqa: ASYNC110
                        await trio.sleep(0.005)
                nursery.cancel_scope.cancel()
        return list(self._got)


@pytest.mark.process
@pytest.mark.parametrize("mode", ["apart", "together"])
def test_a_hive_that_lost_all_since_its_last_sync_goes_on_above(
    hive_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Nothing is synced by time here, so what was there right after the start is what a medium surely has."""
    monkeypatch.setenv(PROGRAM_ENV, f"{sys.executable} -m tests.fault.hive_program")
    settings = {"journals": {"sync_ms": 60_000}}
    hive = HiveHarness(hive_folder, planes=mode, settings=settings, check_exit=False)  # type: ignore[arg-type]
    seen: Counter[tuple[str, int]] = Counter()
    lib, kept = hive.paths.lib, hive_folder / "medium"
    for cut in range(3):
        monkeypatch.setenv("FLUXBEE_TEST_BOOT_ID", str(uuid.uuid4()))
        with hive:
            numbers = Numbers(hive)
            first = trio.run(numbers.take, "known", 3)
            seen.update(("known", number) for number in first)
            shutil.copytree(lib / "journals" / "threads", kept)
            for thread in ("known", f"lost-{cut}"):
                seen.update((thread, number) for number in trio.run(numbers.take, thread, 2 * STEP))
            hive.kill()
        # The power is gone: of the ledger remains what was synced, of tmpfs nothing.
        shutil.rmtree(lib / "journals" / "threads")
        kept.rename(lib / "journals" / "threads")
        shutil.rmtree(hive.paths.run)
    monkeypatch.setenv("FLUXBEE_TEST_BOOT_ID", str(uuid.uuid4()))
    with hive:
        numbers = Numbers(hive)
        for thread in ("known", "lost-0", "lost-1", "lost-2", "never seen"):
            taken = trio.run(numbers.take, thread, 2)
            seen.update((thread, number) for number in taken)
            assert taken[0] > 2 * STEP  # lifted, whether it was known or not
    assert max(seen.values()) == 1, [key for key, count in seen.items() if count > 1][:5]
