"""Owners and readers that are killed at the worst moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.store import region_check
from appliance.store.generations import SLOTS, GenerationPage
from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.wire.errors import Busy, Conflict
from tests.fault.region_kit import Child, Hear, Say, filled
from tests.unit.store_regions import ALIAS, EVENT, LOOSE, MIB, REGIONS, ROUTE, SMALL, SYNCED, Route

pytestmark = pytest.mark.process


@pytest.mark.parametrize("spec", [SYNCED, LOOSE, SMALL], ids=lambda spec: spec.name)
def test_a_writer_killed_inside_a_change_leaves_the_last_commit(
    tmp_path: Path, spec: EnvironmentSpec
) -> None:
    def write(say: Say, hear: Hear) -> None:
        env = Environment(spec, tmp_path, REGIONS)
        for region in REGIONS:
            env.finish_rebuild(region.name)
        with env.change("config", applied_seq=1) as txn:
            ALIAS.put(txn, "committed", b"1")
        with env.change("config", applied_seq=2) as txn:
            for number in range(500):
                ROUTE.put(txn, number, Route(prefix="never"))
            say("inside")
            hear()

    child = Child(write)
    assert child.hears() == "inside"
    with pytest.raises(Conflict) as caught:
        Environment(spec, tmp_path, REGIONS)
    assert f"process {child.pid} " in str(caught.value)
    child.kill()
    with Environment(spec, tmp_path, REGIONS) as env:
        assert env.opened.kept
        assert not env.opened.rebuild_needed
        assert (env.get(ALIAS, "committed"), env.count(ROUTE), env.applied_seq("config")) == (b"1", 0, 1)
        with env.change("config", applied_seq=2) as txn:
            ROUTE.put(txn, 1, Route(prefix="now"))


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_never_shows_half_a_change(tmp_path: Path) -> None:
    """Every change writes one number into two regions: whatever survives must agree with its sequence."""
    page = GenerationPage.create(tmp_path / "generations")

    def write(say: Say, hear: Hear) -> None:
        env = Environment(LOOSE, tmp_path, REGIONS, page=GenerationPage.create(tmp_path / "generations"))
        for region in sorted(env.opened.rebuild):
            env.finish_rebuild(region)
        number = env.applied_seq("config")
        say("go")
        while True:
            number += 1
            with env.change("config", "identity", applied_seq=number) as txn:
                ALIAS.put(txn, "last", str(number).encode())
                EVENT.put(txn, number, bytes(number % 3000))
                if number > 20:
                    EVENT.delete(txn, number - 20)
            if number % 50 == 0:
                env.maintain()

    chance, reached, generation = random.Random(7), 0, 0
    for _ in range(25):
        child = Child(write)
        assert child.hears() == "go"
        time.sleep(chance.uniform(0, 0.03))
        child.kill()
        with Environment(LOOSE, tmp_path, REGIONS, page=page) as env:
            assert env.opened.kept
            assert not env.opened.rebuild_needed
            number = env.applied_seq("config")
            assert number >= reached
            assert env.applied_seq("identity") == number
            if number:
                assert env.get(ALIAS, "last") == str(number).encode()
                assert env.get(EVENT, number) == bytes(number % 3000)
                assert env.count(EVENT) == min(number, 20)
            assert env.generation("config") >= generation
            assert page.get(SLOTS["config"]) == env.generation("config")
            reached, generation = number, env.generation("config")
    assert reached > 0


def test_a_killed_reader_does_not_pin_the_map(tmp_path: Path) -> None:
    """The reader dies inside a transaction; without cleaning up, the map would fill with old pages."""
    spec = EnvironmentSpec(name="pinned", on_disk=False, sync=False, map_bytes=2 * MIB)
    with Environment(spec, tmp_path, REGIONS) as env:
        with env.change("config") as txn:
            ALIAS.put(txn, "a", bytes(200_000))

        child = ReaderProcess(env.path)
        assert child.hears() == "200000"
        overwrite(env, 3)
        assert env.statistics().readers == 1
        assert env.statistics().reader_lag_txns == 3
        with pytest.raises(Busy):
            overwrite(env, 50)
        child.kill()
        assert env.maintain().readers_cleared == 1
        overwrite(env, 50)
        assert env.statistics().readers == 0


def test_a_reader_killed_earlier_is_cleared_at_the_next_opening(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        with env.change("config") as txn:
            ALIAS.put(txn, "a", b"x")
        keeper = ReaderProcess(env.path)  # keeps LMDB's lock file in use, so that it is not begun anew
        victim = ReaderProcess(env.path)
        assert keeper.hears() == victim.hears() == "1"
        victim.kill()
    with Environment(SMALL, tmp_path, REGIONS) as env:
        assert env.statistics().readers_cleared == 1
        assert env.statistics().readers == 1
        keeper.kill()
        assert env.maintain().readers_cleared == 2


def overwrite(env: Environment, times: int) -> None:
    for number in range(times):
        with env.change("config") as txn:
            ALIAS.put(txn, "a", number.to_bytes(4, "big") + bytes(200_000))


class ReaderProcess:
    """A program that reads row ``a`` in a transaction and stays in it.

    Not forked: a child must not inherit the open environment.
    """

    PROGRAM = """
import sys
from pathlib import Path
from appliance.store.region_reader import RegionReader
from tests.unit.store_regions import ALIAS, REGIONS
with RegionReader(Path(sys.argv[1]), REGIONS).read() as txn:
    print(len(ALIAS.get(txn, "a") or b""), flush=True)
    sys.stdin.read()
"""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def hears(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def test_the_owner_s_death_during_the_probe_frees_the_lock(tmp_path: Path) -> None:
    """The probing child holds a copy of the lock's descriptor; it must go with its parent."""
    filled(tmp_path, SYNCED, rows=200)

    def open_and_hang(say: Say, hear: Hear) -> None:
        def hang(*_: object, **__: object) -> None:
            say(f"{os.getpid()} ")
            signal.pause()

        region_check._walk = hang
        Environment(SYNCED, tmp_path, REGIONS)

    child = Child(open_and_hang)
    probing = int(child.hears())
    child.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{probing}/status").exists() and "zombie" not in state_of(probing):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert env.opened.kept


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text().split("State:")[1].split("\n")[0]
    except (FileNotFoundError, ProcessLookupError):
        return "(zombie)"
