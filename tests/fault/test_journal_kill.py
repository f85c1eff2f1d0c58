"""SIGKILL at any moment: a real process, real files; no acknowledged record is lost and none comes twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.store.journal import Journal
from appliance.store.journal_reader import JournalFiles
from tests.fault.journal_child import SPECS

CUTS = int(os.environ.get("FLUXBEE_CRASH_CUTS", "200"))
"""How many processes are killed in each mode."""

pytestmark = [pytest.mark.slow, pytest.mark.process]


class Nest:
    """The program that forks what is killed."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.journal_child", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def live(self, mode: str, life: int, rng: random.Random) -> list[bytes]:
        """Run one life and kill it after a random time; what it had acknowledged."""
        self.stdin.write(f"{mode} {life}\n".encode())
        self.stdin.flush()
        pid = int(self.stdout.readline().removeprefix(b"pid:"))
        acked = [self.stdout.readline().strip()]
        time.sleep(rng.choice([0.0, 0.001, 0.005, 0.02]) * rng.random())
        os.kill(pid, signal.SIGKILL)
        acked += iter(lambda: self.stdout.readline().strip(), b"gone")
        return acked

    def end(self) -> None:
        self.stdin.close()
        self.process.wait(10)
        self.stdout.close()


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    nest = Nest(tmp_path)
    yield nest
    nest.end()


def records_from(directory: Path, seq: int) -> dict[int, bytes]:
    records: dict[int, bytes] = {}
    for batch in JournalFiles(directory).batches(seq):
        assert batch.gap is None
        records |= dict(enumerate((r.rstrip(b".") for r in batch.records), batch.first_seq))
    return records


@pytest.mark.parametrize("mode", ["durable", "through"])
def test_a_killed_process_loses_nothing_it_acknowledged(mode: str, nest: Nest, tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("FLUXBEE_CRASH_SEED", mode))
    directory = tmp_path / mode
    known: dict[int, bytes] = {}
    repairs = 0
    for life in range(CUTS):
        acked = nest.live(mode, life, rng)
        if life % 2:  # else the next life itself repairs what this one left
            journal = Journal.open(directory, SPECS[mode])
            assert journal.damages == ()
            repairs += len(journal.repairs)
            journal.close()
        fresh = records_from(directory, len(known) + 1)
        assert sorted(fresh) == list(range(len(known) + 1, len(known) + len(fresh) + 1))
        assert set(acked) <= set(fresh.values())
        assert len(set(fresh.values())) == len(fresh)
        assert all(record.startswith(b"%d:" % life) for record in fresh.values())
        known |= fresh
    assert records_from(directory, 1) == known
    print(f"{mode}: {CUTS} kills, {len(known)} records, {repairs} torn tails")
