"""Real keepers, real forks, real kills."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.system.process import children

pytestmark = pytest.mark.process

PATIENCE_S = 10.0
THREE: dict[str, dict[str, Any]] = {"data": {}, "control": {}, "world": {}}


class Box:
    """A keeper process: its log lines, its planes, its end."""

    def __init__(
        self, run_directory: Path, planes: dict[str, dict[str, Any]], **settings: float | None
    ) -> None:
        self.run_directory = run_directory
        plan = json.dumps({"planes": planes, "settings": settings})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.keeper_program", str(run_directory), plan],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        os.set_blocking(self.stderr.fileno(), False)
        self._unread = b""
        self.records: list[dict[str, Any]] = []

    def expect(self, event: str, timeout_s: float = PATIENCE_S, **fields: Any) -> dict[str, Any]:
        """Read the log on to the next record of this event with these fields."""
        deadline = time.monotonic() + timeout_s
        while True:
            while b"\n" in self._unread:
                line, self._unread = self._unread.split(b"\n", 1)
                record = json.loads(line)
                self.records.append(record)
                if record["event"] == event and fields.items() <= record.items():
                    return record
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self.stderr], [], [], left_s)[0]:
                raise AssertionError(f"no {event} with {fields} in\n" + self.history())
            chunk = os.read(self.stderr.fileno(), 65536)
            if not chunk:
                raise AssertionError(f"the log ended without {event} {fields}:\n" + self.history())
            self._unread += chunk

    def history(self) -> str:
        return "\n".join(map(str, self.records))

    def seen(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Records of this event with these fields among those read so far."""
        return [each for each in self.records if each["event"] == event and fields.items() <= each.items()]

    def expect_ready(self, *planes: str) -> None:
        waiting = set(planes)
        while waiting:
            waiting.discard(self.expect("plane_ready")["plane"])

    def ask(self, asked: str, do: str, **arguments: Any) -> Any:
        """Give a command to a ready plane and return its answer (``None`` when it ended instead)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.run_directory / f"{asked}.cmd"))
            connection.sendall(json.dumps({"do": do, **arguments}).encode())
            try:
                answer = connection.recv(65536)
            except ConnectionResetError:
                answer = b""
        return json.loads(answer) if answer else None

    def tell(self, plane: str, do: str, **arguments: Any) -> None:
        """Give a command and do not wait."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(self.run_directory / f"{plane}.cmd"))
            connection.sendall(json.dumps({"do": do, **arguments}).encode())

    def status(self, asker: str = "control") -> dict[str, Any]:
        status = self.ask(asker, "status")
        status["planes"] = {plane["name"]: plane for plane in status["planes"]}
        return status

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        self.process.kill()  # its planes go with it
        self.process.wait(PATIENCE_S)
        self.stderr.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    boxes: list[Box] = []

    def _start(planes: dict[str, dict[str, Any]] | None = None, **settings: float | None) -> Box:
        box = Box(tmp_path, THREE if planes is None else planes, **settings)
        boxes.append(box)
        return box

    yield _start
    for box in boxes:
        box.close()


@pytest.fixture
def box(start: Callable[..., Box]) -> Box:
    """Three ready planes."""
    box = start()
    box.expect_ready(*THREE)
    return box


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie counts as ended)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat[stat.rindex(b")") + 2 :].split()[0] in (b"Z", b"X")


def eventually(check: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        select.select([], [], [], 0.005)


# -- what a plane is ----------------------------------------------------------------------------------


def test_a_plane_is_a_child_with_its_name_and_nothing_of_the_keepers(box: Box) -> None:
    for name in THREE:
        about = box.ask(name, "about")
        assert about["parent"] == box.process.pid
        assert about["session"] == about["pid"]
        assert about["name"] == f"fluxbee-{name}"
        assert about["restarts"] == 0
        assert about["eventfds"] == sorted(THREE)
        assert about["foreign"] == 1  # the command connection that asks
        assert about["blocked"] == []
        assert about["frozen"] > 1000
        assert about["sigterm"]


def test_a_generation_is_announced_between_planes(box: Box) -> None:
    box.ask("control", "wake", plane="world")
    box.ask("data", "wake", plane="world")
    assert box.ask("world", "awaited") == 2


def test_together_is_one_child_that_links_to_itself(start: Callable[..., Box]) -> None:
    box = start({"all": {}})
    box.expect_ready("all")
    assert list(box.status("all")["planes"]) == ["all"]
    assert box.ask("all", "about")["eventfds"] == ["all"]
    assert box.stop() == 0


def test_a_plane_on_trio_serves_itself_and_stops_cleanly(start: Callable[..., Box]) -> None:
    box = start({"all": {"trio": True}})
    box.expect("greeted", text="all:SY.self")
    box.signal(signal.SIGTERM)
    box.expect("told", reason="stop")
    assert box.wait() == 0


def test_sigterm_to_a_plane_on_trio_alone_ends_it_cleanly_and_it_comes_back(
    start: Callable[..., Box],
) -> None:
    box = start({"all": {"trio": True}})
    box.expect("greeted", text="all:SY.self")
    (pid,) = children(box.process.pid)
    os.kill(pid, signal.SIGTERM)
    box.expect("plane_exited", pid=pid, exit="exit 0")
    box.expect("greeted", text="all:SY.self")
    assert box.stop() == 0


def test_the_service_manager_hears_of_it_from_the_keeper_alone(
    start: Callable[..., Box], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        box = start()
        waiting = {b"READY=1", b"WATCHDOG=1", b"STATUS=data ready, control ready, world ready"}
        while waiting:
            waiting -= set(manager.recv(1000).split(b"\n"))
        assert not box.ask("control", "about")["notify"]
        box.signal(signal.SIGTERM)
        while b"STOPPING=1" not in manager.recv(1000):
            pass
        assert box.wait() == 0


# -- crashes ------------------------------------------------------------------------------------------


def test_a_killed_plane_comes_back_and_the_others_do_not_notice(box: Box) -> None:
    before = box.status()["planes"]
    os.kill(before["data"]["pid"], signal.SIGKILL)
    box.expect("plane_exited", plane="data", exit="SIGKILL")
    box.expect_ready("data")
    after = box.status()["planes"]
    assert after["data"]["pid"] != before["data"]["pid"]
    assert (after["data"]["restarts"], after["data"]["failures"]) == (1, 1)
    assert after["data"]["last_exit"] == "SIGKILL"
    assert box.ask("data", "about")["restarts"] == 1
    for name in ("control", "world"):
        assert after[name]["pid"] == before[name]["pid"]


def test_an_eventfd_works_on_after_a_restart(box: Box) -> None:
    box.tell("world", "exit", code=1)
    box.expect("plane_waiting", plane="world")
    box.expect_ready("world")
    box.ask("control", "wake", plane="world")
    assert box.ask("world", "awaited") == 1


def test_a_crash_loop_is_parked_and_visible_and_can_be_restarted(start: Callable[..., Box]) -> None:
    box = start({**THREE, "world": {"exit": 5}}, backoff_initial_s=0.01, park_after=4)
    box.expect_ready("data", "control")
    eventually(lambda: box.status()["planes"]["world"]["state"] == "parked")
    world = box.status()["planes"]["world"]
    assert (world["parked"], world["restarts"], world["last_exit"]) == ("failures", 3, "exit 5")
    assert box.ask("control", "restart", plane="world") is None
    eventually(lambda: box.status()["planes"]["world"]["restarts"] > 3)
    box.stop()
    box.expect("plane_parked", plane="world", last_exit="exit 5", failures=4)


def test_a_configuration_error_is_parked_at_once(start: Callable[..., Box]) -> None:
    box = start({**THREE, "world": {"fail": "misconfigured"}})
    box.expect("plane_parked", plane="world", failures=0, reason="configuration")
    (said,) = box.seen("misconfigured")
    assert (said["service"], said["code"]) == ("world", "MISCONFIGURED")
    assert said["message"] == "hive.yaml: role is wrong"


@pytest.mark.parametrize(
    ("behaviour", "code"), [({"fail": "misconfigured"}, 78), ({"exit": 1}, 70), ({"fail": "boom"}, 70)]
)
def test_nothing_left_to_run_is_an_exit_code(start: Callable[..., Box], behaviour, code) -> None:
    box = start(dict.fromkeys(THREE, behaviour), backoff_initial_s=0.005, park_after=2)
    assert box.wait() == code


def test_a_plane_that_hangs_is_killed_and_started_again(box: Box) -> None:
    pid = box.status()["planes"]["world"]["pid"]
    box.ask("world", "health", valid_s=0.05)
    box.expect("plane_killed", plane="world")
    box.expect_ready("world")
    assert gone(pid)


def test_helpers_of_a_crashed_plane_go_with_it(box: Box) -> None:
    helper = box.ask("world", "helper")
    assert not gone(helper)
    box.tell("world", "exit", code=1)
    eventually(lambda: gone(helper))


def test_orphans_are_adopted_and_reaped(box: Box) -> None:
    box.ask("world", "orphans", count=200)
    # Looked at from outside, since a request would wake the keeper.
    eventually(lambda: len(children(box.process.pid)) == len(THREE))
    status = box.status()
    assert status["statistics"]["orphans_reaped"] >= 200
    assert set(children(box.process.pid)) == {plane["pid"] for plane in status["planes"].values()}


# -- the keeper's own end -----------------------------------------------------------------------------


def test_no_plane_survives_a_killed_keeper(start: Callable[..., Box]) -> None:
    box = start({**THREE, "world": {"ignore_stop": True}})
    box.expect_ready(*THREE)
    pids = [plane["pid"] for plane in box.status()["planes"].values()]
    box.process.kill()
    box.wait()
    eventually(lambda: all(gone(pid) for pid in pids))


def test_a_killed_keeper_leaves_no_lock(start: Callable[..., Box]) -> None:
    first = start()
    first.expect_ready(*THREE)
    first.process.kill()
    first.wait()
    second = start()
    second.expect_ready(*THREE)
    assert second.stop() == 0


def test_a_second_keeper_is_refused_and_told_by_whom(box: Box, start: Callable[..., Box]) -> None:
    second = start()
    refused = second.expect("refused", code="ALREADY_RUNNING")
    assert f"process {box.process.pid} " in refused["message"]
    assert second.wait() == 3
    assert box.stop() == 0
    assert (box.run_directory / "keeper.lock").read_text() == ""


# -- stopping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_clean_stop_takes_the_routing_plane_last(box: Box, signum: int) -> None:
    pids = [plane["pid"] for plane in box.status()["planes"].values()]
    box.signal(signum)
    assert box.wait() == 0
    box.expect("stopped")
    stopped = [record["plane"] for record in box.seen("plane_exited", exit="exit 0", level="info")]
    assert stopped[-1] == "data"
    assert sorted(stopped) == sorted(THREE)
    assert all(gone(pid) for pid in pids)


def test_a_plane_that_ignores_the_stop_is_killed_in_time(start: Callable[..., Box]) -> None:
    box = start(
        {**THREE, "world": {"ignore_stop": True}}, stop_soft_s=0.3, stop_hard_s=0.6, stop_give_up_s=2.0
    )
    box.expect_ready(*THREE)
    world = box.status()["planes"]["world"]["pid"]
    assert box.stop() == 75
    box.expect("plane_killed", plane="world")
    assert gone(world)
    # The others had their clean end all the same.
    box.expect("stopped")
    assert len(box.seen("plane_exited", exit="exit 0")) == 2


def test_a_plane_without_a_channel_is_stopped_by_signal(box: Box) -> None:
    box.tell("world", "close_channel")
    turns = box.status()["statistics"]["turns"]
    for _ in range(10):
        box.status()
    assert box.status()["statistics"]["turns"] < turns + 50  # its hang-up does not make the loop spin
    box.signal(signal.SIGTERM)
    assert box.wait() == 75
    box.expect("plane_exited", plane="world", exit="SIGTERM")


def test_a_second_request_speeds_up(start: Callable[..., Box]) -> None:
    box = start({"all": {"ignore_stop": True}}, stop_hurried_s=0.01)
    box.expect_ready("all")
    box.signal(signal.SIGINT)
    box.expect("stopping", why="SIGINT")
    select.select([], [], [], 0.35)  # closer signals count as one
    box.signal(signal.SIGINT)
    box.expect("plane_killed", timeout_s=2.0)
    assert box.wait() == 75


def test_two_signals_at_once_are_one_wish(box: Box) -> None:
    box.signal(signal.SIGINT)
    box.signal(signal.SIGTERM)
    box.expect("stopped")
    assert len(box.seen("stopping")) == 1


def test_a_daemonised_grandchild_does_not_outlive_the_keeper(box: Box) -> None:
    daemon = box.ask("world", "daemon")
    assert box.stop() == 0
    eventually(lambda: gone(daemon))


# -- links --------------------------------------------------------------------------------------------


def test_a_link_reaches_the_routing_plane_with_the_askers_name(box: Box) -> None:
    assert box.ask("control", "link", name="SY.admin") == "control:SY.admin"
    assert box.ask("world", "link", name="SY.world") == "world:SY.world"
    assert box.status()["statistics"]["links_forwarded"] == 2


def test_a_link_ends_with_the_routing_plane_and_a_new_one_waits_for_it(box: Box) -> None:
    box.ask("control", "link", name="SY.admin")
    os.kill(box.status()["planes"]["data"]["pid"], signal.SIGKILL)
    assert box.ask("control", "link_end") == ""
    box.expect("plane_waiting", plane="data")
    box.expect("plane_starting", plane="data")
    # Not ready yet, perhaps: the link waits in the channel of the starting plane.
    assert box.ask("control", "link", name="SY.admin") == "control:SY.admin"


def test_a_link_is_refused_while_the_routing_plane_is_down(start: Callable[..., Box]) -> None:
    box = start({**THREE, "data": {"exit": 78}})
    box.expect_ready("control", "world")
    eventually(lambda: box.status()["planes"]["data"]["state"] == "parked")
    descriptors = len(os.listdir(f"/proc/{box.process.pid}/fd"))
    for _ in range(3):
        answer = box.ask("control", "link", name="SY.admin")
        assert answer["error"] == "UNAVAILABLE"
        assert "parked" in answer["message"]
    assert box.status()["statistics"]["links_refused"] == 3
    assert len(os.listdir(f"/proc/{box.process.pid}/fd")) == descriptors


def test_restart_by_request(box: Box) -> None:
    before = box.status()["planes"]["data"]["pid"]
    assert box.ask("control", "restart", plane="data") is None
    box.expect("plane_stopping", plane="data")
    box.expect_ready("data")
    after = box.status()["planes"]["data"]
    assert after["pid"] != before
    assert (after["failures"], after["last_exit"]) == (0, "exit 0")
    assert box.ask("control", "restart", plane="moon")["error"] == "NOT_FOUND"


# -- abuse --------------------------------------------------------------------------------------------


def test_a_flood_does_not_hold_up_the_others(box: Box) -> None:
    box.tell("world", "flood", packets=20_000)
    eventually(lambda: box.status()["statistics"]["floods_paused"] > 0)
    eventually(lambda: box.status()["statistics"]["sends_dropped"] > 0)  # the flooding plane's own answers
    assert box.ask("control", "link", name="SY.admin") == "control:SY.admin"
    os.kill(box.status()["planes"]["world"]["pid"], signal.SIGKILL)
    box.expect("plane_starting", plane="world")
    box.expect_ready("world")
    assert box.stop() == 0


def test_rubbish_is_answered_and_leaks_nothing(box: Box) -> None:
    descriptors = len(os.listdir(f"/proc/{box.process.pid}/fd"))
    assert box.ask("world", "rubbish") == 0
    eventually(lambda: box.status()["statistics"]["requests_rejected"] >= 6)
    assert len(os.listdir(f"/proc/{box.process.pid}/fd")) == descriptors


def test_two_hundred_restarts_leak_no_descriptor(start: Callable[..., Box]) -> None:
    box = start(
        {**THREE, "world": {"exit": 1}}, backoff_initial_s=0.001, backoff_cap_s=0.001, park_after=10_000
    )
    box.expect_ready("data", "control")

    def restarts() -> int:
        return box.status()["planes"]["world"]["restarts"]

    eventually(lambda: restarts() >= 10)
    before = len(os.listdir(f"/proc/{box.process.pid}/fd"))
    eventually(lambda: restarts() >= 210, timeout_s=30)
    # A look may fall into the middle of a start: some few more or less are no leak.
    assert abs(len(os.listdir(f"/proc/{box.process.pid}/fd")) - before) < 10
    assert box.ask("control", "about")["foreign"] == 1
