from __future__ import annotations

import math
import os
import socket

import pytest

from appliance.keeper.numbers import KeeperSettings
from appliance.keeper.observer import Observer
from appliance.keeper.plan import KeeperPlan
from appliance.keeper.protocol import KeeperStatistics
from appliance.system import log
from appliance.system.notify import Notifier
from appliance.system.process import ProcessExit


@pytest.fixture
def plan() -> KeeperPlan:
    plan = KeeperPlan(("data", "world"), KeeperSettings(), seed=1)
    plan.start(0.0)
    plan.tick(0.0)
    return plan


@pytest.fixture
def records():
    with log.capture() as records:
        yield records


class Manager:
    """A service manager that listens on a real socket."""

    def __init__(self, path: str, *, watchdog_s: float | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)
        self.notifier = Notifier(path, watchdog_interval_s=watchdog_s)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found += self.socket.recv(1000).decode().split("\n")
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.notifier.close()
        self.socket.close()


@pytest.fixture
def manager(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_each_change_is_said_once(plan: KeeperPlan, records) -> None:
    observer = Observer()
    for _ in range(3):
        observer.look(plan, 0.0)
    plan.ready("data", 1.0)
    observer.look(plan, 1.0)
    plan.exited("data", ProcessExit(1), 2.0)
    observer.look(plan, 2.0)
    assert [(record.event, record.fields["plane"]) for record in records] == [
        ("plane_starting", "data"),
        ("plane_starting", "world"),
        ("plane_ready", "data"),
        ("plane_waiting", "data"),
    ]


def test_a_parked_plane_is_an_error_that_says_why(plan: KeeperPlan, records) -> None:
    plan.exited("world", ProcessExit(78), 1.0)
    Observer().look(plan, 1.0)
    (parked,) = [record for record in records if record.event == "plane_parked"]
    assert (parked.level, parked.code) == (log.Level.ERROR, "PLANE_PARKED")
    assert (parked.fields["reason"], parked.fields["last_exit"]) == ("configuration", "exit 78")


def test_ends_that_were_asked_for_are_no_warnings(records) -> None:
    observer = Observer()
    observer.exited("data", 5, "exit 0", expected=True)
    observer.exited("data", 6, "SIGSEGV", expected=False)
    observer.killing("data", "hung")
    assert [(record.level.word, record.code) for record in records] == [
        ("info", None),
        ("warning", "PLANE_EXITED"),
        ("warning", "PLANE_KILLED"),
    ]


def test_the_service_manager_hears_ready_once_and_every_change(plan: KeeperPlan, manager, records) -> None:
    observer = Observer(manager.notifier)
    observer.look(plan, 0.0)
    for name in plan.planes:
        plan.ready(name, 1.0)
    observer.look(plan, 1.0)
    plan.exited("world", ProcessExit(1), 2.0)
    observer.look(plan, 2.0)
    observer.look(plan, 2.1)
    observer.stopping("SIGTERM")
    assert manager.heard() == [
        "STATUS=data starting, world starting",
        "EXTEND_TIMEOUT_USEC=30000000",
        "STATUS=data ready, world ready",
        "READY=1",
        "STATUS=data ready, world waiting",
        "STOPPING=1",
    ]


def test_a_long_start_asks_for_time_until_it_is_over(plan: KeeperPlan, manager, records) -> None:
    observer = Observer(manager.notifier)
    for now in range(0, 31, 5):
        observer.look(plan, float(now))
    assert manager.heard().count("EXTEND_TIMEOUT_USEC=30000000") == 4
    assert observer.next_at == 40.0
    plan.request_stop(32.0)
    observer.look(plan, 32.0)
    assert observer.next_at == math.inf
    assert "READY=1" not in manager.heard()


def test_the_watchdog_is_fed_at_its_pace(plan: KeeperPlan, tmp_path, records) -> None:
    manager = Manager(str(tmp_path / "notify"), watchdog_s=10.0)
    observer = Observer(manager.notifier)
    for name in plan.planes:
        plan.ready(name, 1.0)
    assert observer.next_at == -math.inf
    for now in (100.0, 105.0, 109.9, 110.0, 111.0):
        observer.look(plan, now)
    assert manager.heard().count("WATCHDOG=1") == 2
    assert observer.next_at == 120.0
    manager.close()


def test_without_a_service_manager_there_is_nothing_to_do_by_the_clock() -> None:
    assert Observer().next_at == math.inf


def test_threads_before_a_fork_are_a_warning(records) -> None:
    Observer().started(("data",), 1)
    assert [record.event for record in records] == ["started"]
    assert records[0].fields["pid"] == os.getpid()
    Observer().started(("data",), 2)
    assert (records[-1].event, records[-1].code) == ("threads_before_fork", "KEEPER_THREADS")


def test_the_last_record_holds_the_counters(plan: KeeperPlan, records) -> None:
    Observer().stopped(plan, KeeperStatistics(forks=7))
    assert records[0].fields["forks"] == 7
    assert records[0].fields["planes"] == "data starting, world starting"
