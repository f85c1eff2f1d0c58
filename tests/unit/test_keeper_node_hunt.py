from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.keeper import node_hunt
from appliance.keeper.node_hunt import Quarry, TokenMint, sweep
from appliance.keeper.nodes_protocol import LAUNCH_TOKEN_ENV
from appliance.system.cgroup import CgroupTree
from appliance.system.process import children
from appliance.system.procfs import process_entry

SCRIPT = """
import os, signal, sys, time
if os.fork() == 0:
    if 'apart' in sys.argv: os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True); time.sleep(600)
time.sleep(600)
"""


@pytest.fixture
def mint(tmp_path: Path) -> TokenMint:
    return TokenMint(tmp_path)


class Family:
    """A process with a child; ``child`` is its pid."""

    def __init__(self, token: str, *how: str) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *how],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={LAUNCH_TOKEN_ENV: token},
        )
        assert self.parent.stdout is not None
        self.child = int(self.parent.stdout.readline())

    def alive(self) -> list[bool]:
        entries = (process_entry(pid) for pid in (self.parent.pid, self.child))
        return [entry is not None and entry.alive for entry in entries]

    def close(self) -> None:
        for pid in (self.parent.pid, self.child):
            entry = process_entry(pid)
            if entry is not None and entry.alive:
                os.kill(pid, signal.SIGKILL)
        self.parent.communicate()


@pytest.fixture(params=["", "apart"])
def family(request: pytest.FixtureRequest, mint: TokenMint) -> Iterator[Family]:
    made = Family(mint.token(), request.param)
    yield made
    made.close()


def test_tokens_differ_and_tell_whose_they_are(tmp_path: Path, mint: TokenMint) -> None:
    assert mint.token() != mint.token()
    assert f"{LAUNCH_TOKEN_ENV}={mint.token()}".encode().startswith(mint.needle)
    assert TokenMint(tmp_path / "other").mark != mint.mark


def test_everybody_below_is_found_and_killed(family: Family) -> None:
    killed, left = Quarry(family.parent.pid, "-", None).kill()
    assert killed == 2
    assert left == ()
    assert family.alive() == [False, False]
    assert Quarry(family.parent.pid, "-", None).kill() == (0, ())


def test_who_was_seen_at_the_stop_is_found_without_its_parent(family: Family) -> None:
    quarry = Quarry(family.parent.pid, "-", None)
    quarry.terminate()
    family.parent.wait()
    assert family.alive() == [False, True]
    assert quarry.kill() == (1, ())


def test_who_does_not_end_is_named(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_hunt, "signal_process", lambda entry, signum: False)
    monkeypatch.setattr(node_hunt, "_kill_groups", lambda entries: None)
    monkeypatch.setattr(node_hunt, "_ROUNDS", 2)
    killed, left = Quarry(family.parent.pid, "-", None).kill()
    assert killed == 2
    assert {entry.pid for entry in left} == {family.parent.pid, family.child}


def test_a_sweep_ends_what_carries_our_token_and_nobody_else(mint: TokenMint, tmp_path: Path) -> None:
    ours, foreign = Family(mint.token(), "apart"), Family(TokenMint(tmp_path / "other").token())
    try:
        assert sweep(mint, None) == 2
        assert ours.alive() == [False, False]
        assert foreign.alive() == [True, True]
        assert sweep(mint, None) == 0
    finally:
        ours.close()
        foreign.close()


def test_a_sweep_spares_the_keeper_and_whoever_started_it(
    mint: TokenMint, monkeypatch: pytest.MonkeyPatch
) -> None:
    carries = {os.getpid(), os.getppid()}
    everything = (mint.needle + b"x",)
    monkeypatch.setattr(node_hunt, "environment_of", lambda pid: everything if pid in carries else ())
    assert sweep(mint, None) == 0


def test_a_sweep_empties_groups(mint: TokenMint) -> None:
    tree = CgroupTree.open(f"fluxbee-{mint.mark}")
    if tree is None:  # nothing could have been put into a group here
        assert sweep(mint, tree) == 0
        return
    group = tree.create("unit")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    group.add(child.pid)
    assert sweep(mint, tree) == 1
    assert child.wait() == -signal.SIGKILL
    child.communicate()
    sweep(mint, tree)
    assert tree.units() == ()
    tree.close()
    assert child.pid not in children()
