from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.keeper import nodes as nodes_module
from appliance.keeper.node_hunt import Quarry
from appliance.keeper.node_voice import NodeVoice
from appliance.keeper.nodes import NodeHouse
from appliance.keeper.nodes_protocol import Claims, NodeEnded, NodeLaunch, Unclaim
from appliance.keeper.protocol import Order, decode_order
from appliance.system import process
from appliance.system.procfs import process_entry, processes
from appliance.wire.errors import Busy, Conflict, Invalid, Unavailable
from tests.unit.test_keeper_nodes_protocol import launch

NAME = "AI.a@north"
PATIENCE_S = 10.0


class House:
    """Node processes with a loop of their own and planes that remember."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[tuple[str, Order]] = []
        self.deaf = False
        self.poller = select.poll()
        self.voice = NodeVoice("data", self._send, lambda plane: True)
        self.nodes = NodeHouse(directory / "run", self.voice, self.poller, use_cgroups=False)
        (directory / "run").mkdir()
        self.nodes.open()
        self.voice.follow("control")

    def _send(self, plane: str, data: bytes) -> bool:
        if not self.deaf:
            self.said.append((plane, decode_order(data)))
        return not self.deaf

    def launch(self, script: str, **changes: object) -> NodeLaunch:
        argv = ("/bin/sh", "-c", script)
        return launch(argv=argv, log_dir=str(self.directory / "logs"), **changes)

    def turn(self) -> None:
        now = time.monotonic()
        self.nodes.tick(now)
        for fd, _ in self.poller.poll(5):
            self.nodes.read(fd, now)
        while (pid := process.next_exited()) is not None:
            if not self.nodes.exited(pid, time.monotonic()):
                process.reap(pid)

    def ends(self) -> list[NodeEnded]:
        return [order for plane, order in self.said if isinstance(order, NodeEnded) and plane == "control"]

    def wait_end(self) -> NodeEnded:
        deadline = time.monotonic() + PATIENCE_S
        while not self.ends():
            assert time.monotonic() < deadline
            self.turn()
        return self.ends()[-1]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.nodes.close()
    while (pid := process.next_exited()) is not None:
        process.reap(pid)


def test_a_life(house: House) -> None:
    started = house.nodes.start(house.launch("echo hello; exit 7"), time.monotonic())
    (plane, claims) = house.said[0]
    assert plane == "data"
    assert isinstance(claims, Claims)
    assert (claims.claims[0].name, claims.claims[0].pid) == (NAME, started.pid)
    ended = house.wait_end().process
    assert ended.exit_code == 7
    assert house.nodes.page("").nodes == (ended,)
    assert b"hello" in (house.directory / "logs" / "0.log").read_bytes()
    house.nodes.forget(NAME, time.monotonic())
    assert house.said[-1] == ("data", Unclaim(name=NAME))
    statistics = house.nodes.statistics()
    assert (statistics.starts, statistics.running, statistics.records) == (1, 0, 0)
    assert statistics.log_bytes_written == (house.directory / "logs" / "0.log").stat().st_size
    assert house.nodes.next_deadline() is None


def test_a_failed_start_leaves_no_claim_and_no_record(house: House) -> None:
    with pytest.raises(Invalid):
        house.nodes.start(house.launch("", cwd="/no/such/folder"), time.monotonic())
    assert [type(order) for _, order in house.said] == [Claims, Unclaim]
    assert house.nodes.page("").nodes == ()
    assert house.nodes.statistics().start_failures == 1


def test_without_its_claim_nothing_starts(house: House) -> None:
    house.deaf = True
    with pytest.raises(Busy):
        house.nodes.start(house.launch("touch started", cwd=str(house.directory)), time.monotonic())
    house.turn()
    assert not (house.directory / "started").exists()
    assert process.children() == ()


def test_a_foreign_child_and_a_foreign_descriptor_are_left_alone(house: House) -> None:
    house.nodes.read(0, time.monotonic())
    assert not house.nodes.exited(1, time.monotonic())


def test_after_stop_all_nothing_starts_and_everybody_ends(house: House) -> None:
    house.nodes.start(house.launch("exec sleep 600"), time.monotonic())
    house.nodes.stop_all(time.monotonic(), time.monotonic() + 5)
    with pytest.raises(Conflict):
        house.nodes.start(house.launch("true", name="AI.b@north", unit="b"), time.monotonic())
    assert house.wait_end().process.exit_signal == 15
    assert house.nodes.running == 0


def test_an_end_waits_for_what_is_stuck_but_not_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = house.nodes.start(house.launch("exit 0"), time.monotonic())
    stuck = process_entry(1)
    assert stuck is not None
    monkeypatch.setattr(Quarry, "kill", lambda self, listed=None: (1, (stuck,)))
    monkeypatch.setattr(nodes_module, "_LINGER_S", 0.2)
    deadline = time.monotonic() + PATIENCE_S
    while not house.nodes.statistics().lingering:
        assert time.monotonic() < deadline
        house.turn()
    assert house.ends() == []
    assert house.nodes.page("").nodes[0].pid == started.pid
    assert house.nodes.next_deadline() is not None
    assert house.wait_end().process.exit_code == 0


def test_a_name_can_start_again_in_the_same_log(house: House) -> None:
    for number in (1, 2):
        house.said.clear()
        house.nodes.start(house.launch(f"echo run {number}"), time.monotonic())
        house.wait_end()
    text = (house.directory / "logs" / "0.log").read_text()
    said = [line.split(" ", 1)[1] for line in text.splitlines()]
    assert [line for line in said if "fluxbee" not in line] == ["run 1", "run 2"]
    assert [line.split()[1] for line in said if "fluxbee" in line] == ["started", "ended:"] * 2
    assert len(house.nodes.page("").nodes) == 1


def test_only_a_keeper_that_was_killed_makes_the_next_one_sweep(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps: list[object] = []
    monkeypatch.setattr(nodes_module, "sweep", lambda *found: sweeps.append(found) or 2)

    def opened() -> NodeHouse:
        following = NodeHouse(house.directory / "run", house.voice, house.poller, use_cgroups=False)
        following.open()
        return following

    opened()
    assert sweeps == []
    house.nodes.start(house.launch("true"), time.monotonic())
    assert opened().statistics().leftovers_swept == 2
    house.nodes.close()
    opened()
    assert len(sweeps) == 1


def test_a_start_that_the_next_keeper_would_not_know_of_is_refused(house: House) -> None:
    (house.directory / "run").rmdir()
    with pytest.raises(Unavailable):
        house.nodes.start(house.launch("true"), time.monotonic())
    (house.directory / "run").mkdir()


def test_ends_of_one_turn_share_a_look_that_is_no_older_than_they(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    monkeypatch.setattr(nodes_module, "processes", lambda: looks.append(1) or processes())
    pids = []
    for number in range(3):
        order = house.launch("exit 0", name=f"AI.n{number}@north", unit=f"u{number}")
        pids.append(house.nodes.start(order, time.monotonic()).pid)
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    house.turn()
    assert len(house.ends()) == 3
    assert len(looks) == 1


def test_closing_kills_whoever_is_left(house: House) -> None:
    pid = house.nodes.start(house.launch("trap '' TERM; sleep 600"), time.monotonic()).pid
    assert pid is not None
    house.nodes.close()
    entry = process_entry(pid)
    assert entry is None or not entry.alive
