from __future__ import annotations

import signal

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.keeper.numbers import EX_CLEAN, EX_CONFIG, EX_SOFTWARE, EX_UNCLEAN, KeeperSettings
from appliance.keeper.plan import Fork, KeeperPlan, Kill, PlaneState, SendStop
from appliance.system.process import ProcessExit
from appliance.wire.errors import Conflict, NotFound

CRASH = ProcessExit(1)
CLEAN = ProcessExit(0)
KILLED = ProcessExit(None, signal.SIGKILL)
THREE = ("control", "world", "data")
STEADY = KeeperSettings(backoff_jitter=0.0)


def started(planes=THREE, settings=STEADY, *, ready=True) -> KeeperPlan:
    plan = KeeperPlan(planes, settings, seed=1)
    plan.start(0.0)
    for pid, command in enumerate(plan.tick(0.0), 100):
        assert isinstance(command, Fork)
        plan.forked(command.plane, pid)
        if ready:
            plan.ready(command.plane, 0.0)
    return plan


def one(plan: KeeperPlan, name: str, now: float = 0.0):
    return next(status for status in plan.status(now) if status.name == name)


# -- starting -----------------------------------------------------------------------------------------


def test_the_routing_plane_starts_first_and_nobody_waits_for_it() -> None:
    plan = KeeperPlan(THREE, STEADY, seed=1)
    plan.start(5.0)
    assert plan.tick(5.0) == [Fork("data"), Fork("control"), Fork("world")]
    assert plan.tick(5.0) == []


@pytest.mark.parametrize("planes", [(), ("data", "data"), ("control", "world")])
def test_planes_that_cannot_work_are_refused(planes) -> None:
    with pytest.raises(ValueError):
        KeeperPlan(planes, STEADY, seed=1)


def test_settled_when_all_are_ready() -> None:
    plan = started(ready=False)
    for name in ("data", "control"):
        plan.ready(name, 1.0)
        assert not plan.settled
    plan.ready("world", 1.5)
    assert plan.settled
    assert one(plan, "world", 2.0).start_s == 1.5
    assert one(plan, "world", 2.0).uptime_s == 2.0


def test_a_parked_plane_does_not_hold_up_the_others_start() -> None:
    plan = started(ready=False)
    plan.exited("world", ProcessExit(EX_CONFIG), 0.5)
    plan.ready("data", 1.0)
    plan.ready("control", 1.0)
    assert plan.settled
    assert plan.summary() == "data ready, control ready, world parked (exit 78)"


def test_ready_twice_or_from_nowhere_changes_nothing() -> None:
    plan = started()
    plan.ready("data", 9.0)
    assert one(plan, "data", 9.0).start_s == 0.0
    plan.exited("data", CRASH, 10.0)
    plan.ready("data", 10.0)
    assert plan.state("data") is PlaneState.WAITING


# -- failures -----------------------------------------------------------------------------------------


def test_back_off_doubles_up_to_its_cap() -> None:
    settings = KeeperSettings(backoff_initial_s=1.0, backoff_cap_s=5.0, backoff_jitter=0.0, park_after=100)
    plan = started(settings=settings, ready=False)
    now, delays = 0.0, []
    for _ in range(5):
        now += 1.0
        plan.exited("world", CRASH, now)
        due = plan.next_deadline()
        assert due is not None
        assert plan.tick(due - 0.001) == []
        assert plan.tick(due) == [Fork("world")]
        delays.append(due - now)
        now = due
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert one(plan, "world").restarts == 5


def test_jitter_lengthens_and_comes_from_the_seed() -> None:
    def delays(seed: int) -> list[float]:
        plan = KeeperPlan(("all",), KeeperSettings(backoff_initial_s=1.0), seed=seed)
        plan.start(0.0)
        now, found = 0.0, []
        for _ in range(5):
            plan.tick(now)
            plan.exited("all", CRASH, now)
            due = plan.next_deadline()
            assert due is not None
            found.append(due - now)
            now = due
        return found

    assert delays(1) == delays(1) != delays(2)
    for number, delay in enumerate(delays(3)):
        assert 2**number <= delay <= 2**number * 1.25


def test_sustained_health_forgives() -> None:
    plan = started()
    plan.exited("data", CRASH, 10.0)
    plan.tick(20.0)
    plan.ready("data", 20.0)
    plan.exited("data", CRASH, 30.0)
    assert one(plan, "data").failures == 2
    plan.tick(40.0)
    plan.ready("data", 40.0)
    assert plan.next_deadline() == 40.0 + STEADY.healthy_after_s
    plan.tick(40.0 + STEADY.healthy_after_s)
    assert one(plan, "data").failures == 0
    plan.exited("data", CRASH, 200.0)
    assert one(plan, "data").failures == 1


def test_a_tick_at_the_deadline_forgives_whatever_the_rounding() -> None:
    # Found by the state machine: (71.78… + 60.0) - 71.78… is less than 60.0 in floating point.
    ready_at = 71.78010286734025
    plan = started()
    plan.exited("data", CRASH, 10.0)
    plan.tick(ready_at)
    plan.ready("data", ready_at)
    due = plan.next_deadline()
    assert due is not None
    plan.tick(due)
    assert one(plan, "data").failures == 0


def test_health_is_forgiven_at_the_exit_even_without_a_tick() -> None:
    plan = started()
    plan.exited("data", CRASH, 1.0)
    plan.tick(2.0)
    plan.ready("data", 2.0)
    plan.exited("data", CRASH, 1000.0)
    assert one(plan, "data").failures == 1


def crash_until_parked(plan: KeeperPlan, name: str, now: float = 0.0) -> float:
    while plan.state(name) is not PlaneState.PARKED:
        plan.exited(name, CRASH, now)
        if plan.state(name) is PlaneState.WAITING:
            due = one(plan, name, now).retry_in_s
            assert due is not None
            now += due + 0.001  # the status is rounded to milliseconds
            assert Fork(name) in plan.tick(now)
    return now


def test_parked_after_so_many_failures_and_visible() -> None:
    plan = started()
    now = crash_until_parked(plan, "world")
    assert plan.tick(now + 60) == []
    status = one(plan, "world", now)
    assert (status.state, status.parked, status.failures) == ("parked", "failures", STEADY.park_after)
    assert status.last_exit == "exit 1"
    assert status.retry_in_s == STEADY.parked_retry_s
    assert plan.exit_code is None


def test_a_parked_plane_is_tried_once_more_after_a_long_time() -> None:
    plan = started()
    now = crash_until_parked(plan, "world") + 300.0
    assert plan.tick(now) == [Fork("world")]
    plan.exited("world", CRASH, now + 1)
    assert plan.state("world") is PlaneState.PARKED
    assert plan.tick(now + 2) == []
    assert plan.tick(now + 302) == [Fork("world")]
    plan.ready("world", now + 303)
    plan.tick(now + 363)
    assert one(plan, "world").failures == 0


def test_without_a_retry_a_parked_plane_stays_parked() -> None:
    plan = started(settings=KeeperSettings(parked_retry_s=None))
    now = crash_until_parked(plan, "world")
    assert plan.tick(now + 1e6) == []


def test_a_configuration_error_parks_at_once_and_for_good() -> None:
    plan = started()
    plan.exited("control", ProcessExit(EX_CONFIG), 1.0)
    status = one(plan, "control", 1.0)
    assert (status.state, status.parked, status.retry_in_s) == ("parked", "configuration", None)
    assert plan.tick(1e6) == []


@pytest.mark.parametrize(
    ("exits", "code"),
    [
        ((EX_CONFIG, EX_CONFIG, EX_CONFIG), EX_CONFIG),
        ((EX_CONFIG, 1, EX_CONFIG), EX_SOFTWARE),
        ((1, 1, 1), EX_SOFTWARE),
    ],
)
def test_nothing_left_to_run_ends_the_keeper(exits, code) -> None:
    plan = started(settings=KeeperSettings(park_after=1))
    for name, exit_code in zip(plan.planes, exits, strict=True):
        assert plan.exit_code is None
        plan.exited(name, ProcessExit(exit_code), 1.0)
        plan.tick(1.0)
    assert plan.exit_code == code
    assert plan.tick(2.0) == []


def test_a_fork_that_fails_is_a_failure() -> None:
    plan = started()
    plan.exited("world", CRASH, 1.0)
    plan.tick(2.0)
    plan.fork_failed("world", "no memory", 2.0)
    assert one(plan, "world", 2.0).failures == 2
    assert one(plan, "world", 2.0).last_exit == "no memory"
    assert plan.tick(2.4) == []
    assert plan.tick(2.5) == [Fork("world")]


# -- signs of life ------------------------------------------------------------------------------------


def test_no_sign_of_life_after_the_start_is_a_hang() -> None:
    plan = started(ready=False)
    plan.ready("data", 1.0)
    plan.health("control", 500.0, 1.0)  # a long recovery says so
    assert plan.next_deadline() == STEADY.start_timeout_s
    assert plan.tick(120.0) == [Kill("world", "hung: no sign of life")]
    assert plan.tick(121.0) == []
    plan.exited("world", KILLED, 121.0)
    assert one(plan, "world").failures == 1
    assert plan.kills == 1


def test_health_that_stops_is_a_hang_and_ready_alone_never_is() -> None:
    plan = started()
    plan.health("world", 10.0, 5.0)
    plan.health("world", 10.0, 12.0)
    assert plan.tick(21.9) == []
    assert plan.tick(22.0) == [Kill("world", "hung: no sign of life")]
    assert plan.tick(1e6) == []


# -- restart ------------------------------------------------------------------------------------------


def test_restart_stops_cleanly_and_starts_without_a_penalty() -> None:
    plan = started()
    plan.request_restart("data", 10.0)
    assert plan.tick(10.0) == [SendStop("data", "restart", STEADY.restart_grace_s)]
    plan.request_restart("data", 10.5)
    assert plan.tick(10.5) == []
    plan.exited("data", CLEAN, 11.0)
    assert plan.tick(11.0) == [Fork("data")]
    assert (one(plan, "data").failures, one(plan, "data").restarts) == (0, 1)


def test_restart_of_a_plane_that_does_not_stop_kills_it() -> None:
    plan = started()
    plan.request_restart("data", 10.0)
    plan.tick(10.0)
    assert plan.next_deadline() == 10.0 + STEADY.restart_grace_s
    assert plan.tick(15.0) == [Kill("data", "restart: did not stop in time")]
    plan.exited("data", KILLED, 15.1)
    assert plan.tick(15.1) == [Fork("data")]


def test_restart_gives_a_parked_plane_a_new_chance() -> None:
    plan = started()
    plan.exited("world", ProcessExit(EX_CONFIG), 1.0)
    plan.request_restart("world", 2.0)
    assert plan.tick(2.0) == [Fork("world")]
    assert one(plan, "world").parked is None


def test_restart_ends_a_back_off_but_never_hammers() -> None:
    plan = started(ready=False)
    plan.exited("world", CRASH, 0.0)
    plan.request_restart("world", 0.0)
    assert plan.tick(0.2) == []
    assert plan.tick(STEADY.backoff_initial_s) == [Fork("world")]


def test_restart_of_a_plane_within_the_one_process() -> None:
    plan = started(("all",))
    plan.request_restart("data", 1.0)
    assert plan.tick(1.0) == [SendStop("all", "restart", STEADY.restart_grace_s)]


def test_restart_of_what_is_not_there() -> None:
    with pytest.raises(NotFound, match="there is no plane moon"):
        started().request_restart("moon", 1.0)


def test_restart_while_stopping_is_a_conflict() -> None:
    plan = started()
    plan.request_stop(1.0)
    with pytest.raises(Conflict):
        plan.request_restart("data", 1.0)


# -- stopping -----------------------------------------------------------------------------------------


def test_the_routing_plane_stops_last() -> None:
    plan = started()
    plan.request_stop(10.0)
    assert plan.tick(10.0) == [SendStop("control", "stop", 4.0), SendStop("world", "stop", 4.0)]
    plan.exited("control", CLEAN, 10.1)
    assert plan.tick(10.1) == []
    plan.exited("world", CLEAN, 10.5)
    assert plan.tick(10.5) == [SendStop("data", "stop", 3.5)]
    plan.exited("data", CLEAN, 11.0)
    assert plan.tick(11.0) == []
    assert plan.exit_code == EX_CLEAN


def test_a_slow_plane_delays_the_routing_plane_only_so_long() -> None:
    plan = started()
    plan.request_stop(10.0)
    plan.tick(10.0)
    plan.exited("control", CLEAN, 10.1)
    assert plan.next_deadline() == 12.0
    assert plan.tick(12.0) == [SendStop("data", "stop", 2.0)]
    plan.exited("data", CLEAN, 12.5)
    assert plan.next_deadline() == 14.0
    assert plan.tick(14.0) == [Kill("world", "stop: did not stop in time")]
    plan.exited("world", KILLED, 14.1)
    plan.tick(14.1)
    assert plan.exit_code == EX_UNCLEAN


def test_the_routing_plane_waits_for_guests_but_not_for_ever() -> None:
    plan = started(("data",))
    plan.guests = 1
    plan.request_stop(10.0)
    assert plan.tick(10.0) == []
    assert plan.next_deadline() == 12.0
    assert plan.tick(12.0) == [SendStop("data", "stop", 2.0)]
    other = started(("data",))
    other.guests = 1
    other.request_stop(10.0)
    other.guests = 0
    assert other.tick(10.5) == [SendStop("data", "stop", 3.5)]
    assert other.stop_by == 14.0


def test_who_was_told_to_stop_needs_no_sign_of_life() -> None:
    plan = started()
    for name in THREE:
        plan.health(name, 1.0, 0.0)
    plan.request_stop(0.5)
    plan.tick(0.5)
    plan.exited("control", CLEAN, 0.6)
    plan.exited("world", CLEAN, 0.6)
    plan.tick(0.6)
    assert plan.tick(3.0) == []
    assert plan.next_deadline() == 4.5


def test_a_process_that_cannot_even_be_killed_is_left_behind() -> None:
    plan = started(("all",))
    plan.request_stop(0.0)
    plan.tick(0.0)
    assert plan.tick(4.0) == [Kill("all", "stop: did not stop in time")]
    assert plan.next_deadline() == 4.8
    plan.tick(4.8)
    assert plan.exit_code == EX_UNCLEAN


def test_a_second_request_hurries_and_a_third_kills() -> None:
    plan = started()
    plan.request_stop(0.0)
    plan.tick(0.0)
    plan.request_stop(0.5)
    assert plan.tick(0.5) == [SendStop("data", "stop", 1.0)]
    assert plan.next_deadline() == 1.5
    plan.request_stop(0.6)
    assert {command.plane for command in plan.tick(0.6) if isinstance(command, Kill)} == set(THREE)


def test_stop_during_a_restart_waits_for_the_plane_and_does_not_start_it() -> None:
    plan = started(("all",))
    plan.request_restart("all", 1.0)
    plan.tick(1.0)
    plan.request_stop(2.0)
    assert plan.tick(2.0) == []
    assert plan.next_deadline() == 6.0
    plan.exited("all", CLEAN, 3.0)
    assert plan.tick(3.0) == []
    assert plan.exit_code == EX_CLEAN


def test_the_routing_plane_that_ends_before_it_was_told_is_not_killed_later() -> None:
    plan = started(ready=False)
    plan.request_stop(0.0)
    plan.tick(0.0)
    plan.exited("data", CRASH, 0.1)
    assert plan.tick(1000.0) == [
        Kill("control", "stop: did not stop in time"),
        Kill("world", "stop: did not stop in time"),
    ]


def test_stop_while_everything_waits_ends_at_once() -> None:
    plan = started(ready=False)
    for name in THREE:
        plan.exited(name, CRASH, 0.1)
    plan.request_stop(0.2)
    assert plan.tick(0.2) == []
    assert plan.exit_code == EX_CLEAN


def test_a_plane_that_fails_while_stopping_makes_the_stop_unclean() -> None:
    plan = started(("all",))
    plan.request_stop(0.0)
    plan.tick(0.0)
    plan.exited("all", CRASH, 1.0)
    plan.tick(1.0)
    assert plan.exit_code == EX_UNCLEAN


# -- whatever happens ---------------------------------------------------------------------------------


class Supervision(RuleBasedStateMachine):
    """Planes crash, hang, recover and are restarted at any time; the promises hold."""

    @initialize(
        planes=st.sampled_from([THREE, ("all",)]),
        seed=st.integers(0, 1000),
        park_after=st.integers(1, 4),
        retry_s=st.sampled_from([None, 50.0]),
    )
    def begin(self, planes, seed, park_after, retry_s) -> None:
        self.settings = KeeperSettings(
            park_after=park_after, parked_retry_s=retry_s, start_timeout_s=20.0, healthy_after_s=10.0
        )
        self.now = 100.0
        self.plan = KeeperPlan(planes, self.settings, seed=seed)
        self.running: dict[str, int] = {}
        self.not_before: dict[str, float] = {}
        self.last_fork: dict[str, float] = {}
        self.failures: dict[str, int] = dict.fromkeys(planes, 0)
        self.ready_at: dict[str, float] = {}
        self.asked: set[str] = set()
        self.stopped_at: float | None = None
        self.next_pid = 1
        self.plan.start(self.now)

    def act(self) -> None:
        for command in self.plan.tick(self.now):
            if isinstance(command, Fork):
                assert self.stopped_at is None, "started while stopping"
                assert command.plane not in self.running, "two processes"
                assert self.now >= self.not_before.get(command.plane, 0.0), "faster than the back-off"
                last = self.last_fork.get(command.plane)
                assert last is None or self.now - last >= self.settings.backoff_initial_s
                self.last_fork[command.plane] = self.now
                self.running[command.plane] = self.next_pid
                self.asked.discard(command.plane)
                self.plan.forked(command.plane, self.next_pid)
                self.next_pid += 1
            else:
                assert command.plane in self.running

    def end(self, name: str, how: ProcessExit) -> None:
        del self.running[name]
        self.plan.exited(name, how, self.now)
        ready_at = self.ready_at.pop(name, None)
        if ready_at is not None and self.now - ready_at >= self.settings.healthy_after_s:
            self.failures[name] = 0
        if self.stopped_at is None and name not in self.asked:
            self.failures[name] += 1
            delay = min(30.0, 0.25 * 2 ** (self.failures[name] - 1))
            if how.code == EX_CONFIG:
                delay = 1e9
            elif self.failures[name] >= self.settings.park_after:
                assert self.plan.state(name) is PlaneState.PARKED
                delay = self.settings.parked_retry_s or 1e9
            self.not_before[name] = self.now + delay

    @rule(step=st.floats(0.0, 40.0))
    def pass_time(self, step: float) -> None:
        self.now += step

    @rule()
    def pass_time_to_the_deadline(self) -> None:
        due = self.plan.next_deadline()
        if due is not None and self.plan.exit_code is None:
            self.now = max(self.now, due)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from([CRASH, CLEAN, KILLED, ProcessExit(EX_CONFIG)]))
    def exit(self, data, how) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.running))), how)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def get_ready(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        if self.plan.state(name) is PlaneState.STARTING:
            self.ready_at[name] = self.now
        self.plan.ready(name, self.now)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), timeout_s=st.floats(0.1, 100.0))
    def give_health(self, data, timeout_s) -> None:
        self.plan.health(data.draw(st.sampled_from(sorted(self.running))), timeout_s, self.now)

    @precondition(lambda self: self.plan.exit_code is None)
    @rule(data=st.data())
    def ask_restart(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.plan.planes)))
        if self.stopped_at is not None:
            with pytest.raises(Conflict):
                self.plan.request_restart(name, self.now)
            return
        self.plan.request_restart(name, self.now)
        self.failures[name] = 0
        self.not_before.pop(name, None)
        if name in self.running:
            self.asked.add(name)

    @rule()
    def ask_stop(self) -> None:
        self.plan.request_stop(self.now)
        if self.stopped_at is None:
            self.stopped_at = self.now

    @invariant()
    def promises(self) -> None:
        if not hasattr(self, "plan"):
            return
        self.act()
        assert self.act() is None
        if self.stopped_at is not None:
            over = self.now >= self.stopped_at + self.settings.stop_give_up_s
            assert self.plan.exit_code is not None or not over, "stopping did not end"
        if self.plan.exit_code is None:
            due = self.plan.next_deadline()
            # A deadline that lies in the past after a tick would make the loop spin.
            assert due is None or due > self.now
            if not self.running:
                assert due is not None, "nothing runs and nothing ever will"
        for status in self.plan.status(self.now):
            assert (status.pid is not None) == (status.name in self.running)


Supervision.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSupervision = Supervision.TestCase


def test_signs_of_life_that_wait_while_the_keeper_is_held_up_are_read_first() -> None:
    plan = started()
    for name in THREE:
        plan.health(name, 30.0, 0.0)
    plan.away(40.0)  # a launch from a slow medium took that long
    assert plan.tick(40.0) == []
    plan.health("data", 30.0, 40.1)
    assert {command.plane for command in plan.tick(41.0)} == {"control", "world"}
