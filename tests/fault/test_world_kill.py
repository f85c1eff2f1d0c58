"""SIGKILL at any moment under batch load (AT-NEW-5): nothing acknowledged is missing, nothing is there twice.

``FLUXBEE_CRASH_CUTS`` chooses how many processes are killed (2000 by hand), ``FLUXBEE_CRASH_SEED`` when.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from appliance.world import HistoryPage, WorldEngine
from tests.world_kit import Model, engine_in, read_journal, shown

CUTS = int(os.environ.get("FLUXBEE_CRASH_CUTS", "200"))

pytestmark = [pytest.mark.slow, pytest.mark.process]


class Nest:
    """The program that forks what is killed."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.world_child", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self._words = directory / "last-words"

    def live(self, life: int, rng: random.Random) -> list[list[str]]:
        """Run one life and kill it after a random time; the batches that it had acknowledged."""
        self.stdin.write(f"{life}\n".encode())
        self.stdin.flush()
        pid = int(self.stdout.readline().removeprefix(b"pid:"))
        if rng.random() < 0.9:  # else killed while it opens
            first = self.stdout.readline()
            time.sleep(rng.choice([0.0, 0.002, 0.01, 0.04]) * rng.random())
        else:
            first = b""
            time.sleep(rng.random() * 0.02)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pytest.fail(f"life {life} ended by itself:\n{self._words.read_text()[-8000:]}")
        lines = [first, *iter(self.stdout.readline, b"gone\n")]
        return [json.loads(line) for line in lines if line.endswith(b"]\n")]

    def end(self) -> None:
        self.stdin.close()
        self.process.wait(10)
        self.stdout.close()


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    nest = Nest(tmp_path)
    yield nest
    nest.end()


class Ledger:
    """What is known to be stored, life after life."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.model = Model()
        self.ids: set[str] = set()
        self.seq = 0

    def check_journal(self, acked: list[list[str]]) -> None:
        fresh = read_journal(self.home / "journal", self.seq + 1)
        ids = [one["eventId"] for one in fresh.values()]
        assert len(set(ids)) == len(ids), "an event is there twice"
        assert not self.ids & set(ids), "an event came again"
        for batch in acked:
            assert set(batch) <= set(ids), "an acknowledged batch is missing"
        self.check_whole(ids)
        for seq, stored in fresh.items():
            self.model.apply(seq, stored["payload"])
        self.ids |= set(ids)
        self.seq += len(fresh)

    @staticmethod
    def check_whole(ids: list[str]) -> None:
        """Events of a request are there from the first to the last, one after the other."""
        place = {one: at for at, one in enumerate(ids)}
        for one, at in place.items():
            name, _, part = one.rpartition(":")
            if int(part):
                assert place.get(f"{name}:{int(part) - 1}") == at - 1

    async def check_state(self) -> None:
        async with engine_in(self.home) as engine:
            expected = {one: (props, self.model.changed[one]) for one, props in self.model.entities.items()}
            listing = engine.listing()
            texts = [text for page in iter(listing.page, []) for text in page]
            assert shown(texts) == expected
            assert engine.metrics().entities_total == len(expected)
            one = random.Random(self.seq).choice(sorted(self.model.past) or ["none"])
            self.check_history(one, await engine.history(one, limit=500), self.first_kept(engine))

    @staticmethod
    def first_kept(engine: WorldEngine) -> int:
        """The oldest event that base images have left in the journal: many lives write several segments."""
        return engine._keeping.journal.snapshot().first_seq

    def check_history(self, one: str, page: HistoryPage, first: int) -> None:
        """All that is kept, unless the entity was forgotten meanwhile: then it begins behind its deletion."""
        past = self.model.past.get(one, [])
        kept = [seq for seq in past if seq >= first]
        shown = len(page.events)
        assert shown == min(len(kept), 500) or kept[-shown - 1] in self.model.gone
        assert page.complete or len(kept) < len(past)


def test_a_killed_world_loses_nothing_it_acknowledged(nest: Nest, tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("FLUXBEE_CRASH_SEED", "world"))
    ledger = Ledger(tmp_path)
    for life in range(CUTS):
        acked = nest.live(life, rng)
        if not (tmp_path / "journal").is_dir():
            continue
        if rng.random() < 0.2:  # as after a power cut: the region is not to be trusted
            shutil.rmtree(tmp_path / "regions", ignore_errors=True)
        ledger.check_journal(acked)
        if life % 2:  # else the next life itself repairs what this one left
            trio.run(ledger.check_state)
    trio.run(ledger.check_state)
    assert ledger.seq > CUTS
    print(f"{CUTS} kills, {ledger.seq} events, {len(ledger.model.entities)} entities")
