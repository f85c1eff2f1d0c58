"""The life of one node: worked cases, and a machine that tries any order of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.supervise.backoff import RestartPolicy
from appliance.supervise.lifecycle import Forget, NodeEnd, NodeLifecycle, Phase, Start, Stop, WakeAt

POLICY = RestartPolicy(first_s=1, cap_s=8, healthy_after_s=60, park_after=4)
CRASH = NodeEnd(code=3)


def living(now=0.0):
    life = NodeLifecycle(POLICY)
    assert life.start_wanted(now) == (Start(),)
    assert life.started(now) == ()
    return life


def parked():
    life, now = living(), 0.0
    while life.phase is not Phase.PARKED:
        commands = life.ended(now, CRASH)
        if life.phase is Phase.WAITING:
            (wake,) = commands
            now = wake.at
            assert life.tick(now) == (Start(),)
            life.started(now)
    return life


def test_a_node_starts_is_seen_and_is_stopped():
    life = living()
    assert life.phase is Phase.STARTING
    life.seen(1)
    assert life.phase is Phase.RUNNING
    assert life.stop_wanted(2, signal="SIGTERM", grace_s=10) == (Stop("SIGTERM", 10),)
    assert life.phase is Phase.STOPPING
    assert life.ended(3, NodeEnd(signal=15)) == (Forget(),)
    assert life.phase is Phase.STOPPED
    assert not life.active


def test_a_node_that_leaves_the_router_is_starting_again():
    life = living()
    life.seen(1)
    life.gone(2)
    assert life.phase is Phase.STARTING


def test_any_end_is_followed_by_a_restart_also_exit_code_zero():
    life = living()
    (wake,) = life.ended(1, NodeEnd(code=0))
    assert isinstance(wake, WakeAt)
    assert 1.5 <= wake.at <= 2
    assert life.phase is Phase.WAITING
    assert life.active
    assert life.tick(wake.at - 0.1) == (wake,)
    assert life.tick(wake.at) == (Start(),)
    assert life.restarts == 1


def test_a_node_that_crashes_on_is_parked_and_started_by_hand():
    life = parked()
    assert life.failures == 4
    assert not life.active
    assert life.tick(1e9) == ()
    assert life.start_wanted(1e9) == (Start(),)
    assert life.failures == 0


def test_a_kill_while_it_waits_cancels_the_restart():
    life = living()
    (wake,) = life.ended(1, CRASH)
    assert life.stop_wanted(1.1, signal="SIGTERM", grace_s=10) == (Forget(),)
    assert life.phase is Phase.STOPPED
    assert life.tick(wake.at) == ()


def test_a_start_while_it_waits_does_not_wait():
    life = living()
    life.ended(1, CRASH)
    assert life.start_wanted(1.1) == (Start(),)
    assert life.wake_at is None


def test_a_kill_during_a_launch_is_carried_out_when_it_has_a_process():
    life = NodeLifecycle(POLICY)
    life.start_wanted(0)
    assert life.stop_wanted(0.1, signal="SIGKILL", grace_s=2) == ()
    assert life.started(0.2) == (Stop("SIGKILL", 2),)
    assert life.ended(0.3, NodeEnd(signal=9)) == (Forget(),)
    assert life.phase is Phase.STOPPED


def test_a_kill_during_a_launch_that_fails_leaves_it_stopped():
    life = NodeLifecycle(POLICY)
    life.start_wanted(0)
    life.stop_wanted(0.1, signal="SIGTERM", grace_s=2)
    assert life.start_failed(0.2, "no") == (Forget(),)
    assert life.phase is Phase.STOPPED


def test_a_first_launch_that_fails_is_not_tried_again():
    life = NodeLifecycle(POLICY)
    life.start_wanted(0)
    assert life.start_failed(1, "no such file") == (Forget(),)
    assert (life.phase, life.trouble, life.active) == (Phase.FAILED, "no such file", False)


def test_a_restart_that_cannot_be_launched_waits_on():
    life = living()
    (wake,) = life.ended(1, CRASH)
    life.tick(wake.at)
    (again,) = life.start_failed(wake.at, "busy", again=True)
    assert isinstance(again, WakeAt)
    assert life.phase is Phase.WAITING


def test_a_restart_waits_for_the_old_process():
    life = living()
    assert life.restart_wanted(5, grace_s=3) == (Stop("SIGTERM", 3),)
    assert life.ended(6, NodeEnd(signal=15)) == (Start(),)
    assert (life.restarts, life.failures) == (0, 0)


def test_a_restart_of_nothing_is_a_start():
    assert NodeLifecycle(POLICY).restart_wanted(0, grace_s=3) == (Start(),)


def test_a_start_while_it_stops_follows_the_end():
    life = living()
    life.stop_wanted(1, signal="SIGTERM", grace_s=3)
    assert life.start_wanted(2) == ()
    assert life.ended(3, NodeEnd(signal=15)) == (Start(),)


def test_a_second_kill_makes_the_first_one_harder():
    life = living()
    life.stop_wanted(1, signal="SIGTERM", grace_s=30)
    assert life.stop_wanted(2, signal="SIGKILL", grace_s=2) == (Stop("SIGKILL", 2),)


def test_an_end_that_comes_before_the_answer_to_the_launch_counts_as_one():
    life = NodeLifecycle(POLICY)
    life.start_wanted(0)
    (wake,) = life.ended(0.1, CRASH)
    assert isinstance(wake, WakeAt)
    assert life.started(0.2) == ()
    assert life.phase is Phase.WAITING


def test_an_adopted_node_keeps_its_age_and_its_count():
    life = NodeLifecycle(POLICY)
    life.adopted(1000, age_s=500, restarts=7)
    assert (life.phase, life.restarts) == (Phase.STARTING, 7)
    life.ended(1001, CRASH)
    assert life.failures == 1


def test_ends_are_said_in_words():
    assert [str(one) for one in (CRASH, NodeEnd(signal=9), NodeEnd(signal=9, oom=True))] == [
        "exit 3",
        "signal 9",
        "out of memory",
    ]


class AnyLife(RuleBasedStateMachine):
    """A keeper that obeys, and people and chance that do anything in any order."""

    def __init__(self):
        super().__init__()
        self.life = NodeLifecycle(POLICY)
        self.now = 0.0
        self.process = False
        self.launching = False
        self.due = None
        self.wanted = False

    def carry_out(self, commands):
        for command in commands:
            match command:
                case Start():
                    assert not self.process, "started beside a living process"
                    assert not self.launching, "two launches at once"
                    assert self.wanted, "started though nobody wants it"
                    self.launching, self.due = True, None
                case Stop():
                    assert self.process
                case Forget():
                    assert not self.process
                case WakeAt(at=at):
                    assert at >= self.now
                    self.due = at

    @rule(by=st.floats(0, 200))
    def pass_time(self, by):
        self.now += by
        if self.due is not None and self.now >= self.due:
            self.carry_out(self.life.tick(self.now))

    @rule()
    def start(self):
        self.wanted = True
        self.carry_out(self.life.start_wanted(self.now))

    @rule()
    def restart(self):
        self.wanted = True
        self.carry_out(self.life.restart_wanted(self.now, grace_s=1))

    @rule(signal=st.sampled_from(["SIGTERM", "SIGKILL"]))
    def stop(self, signal):
        self.wanted = False
        self.due = None
        self.carry_out(self.life.stop_wanted(self.now, signal=signal, grace_s=1))

    @precondition(lambda self: self.launching)
    @rule()
    def launched(self):
        self.launching, self.process = False, True
        self.carry_out(self.life.started(self.now))

    @precondition(lambda self: self.launching)
    @rule(again=st.booleans())
    def not_launched(self, again):
        self.launching = False
        self.carry_out(self.life.start_failed(self.now, "no", again=again))
        self.wanted = self.wanted and self.life.phase is not Phase.FAILED

    @precondition(lambda self: self.process)
    @rule(end=st.sampled_from([NodeEnd(code=0), CRASH, NodeEnd(signal=9, oom=True)]))
    def end(self, end):
        self.process = False
        self.carry_out(self.life.ended(self.now, end))

    @rule(visible=st.booleans())
    def router_says(self, visible):
        self.carry_out(self.life.seen(self.now) if visible else self.life.gone(self.now))

    @invariant()
    def phase_and_process_agree(self):
        assert self.life.has_process == self.process
        assert (self.life.phase is Phase.LAUNCHING) == self.launching
        assert (self.life.phase is Phase.WAITING) == (self.life.wake_at is not None)
        assert self.life.phase is not Phase.WAITING or self.due == self.life.wake_at

    @invariant()
    def what_is_wanted_lives_or_says_why_not(self):
        if self.wanted:
            assert self.life.active or self.life.phase is Phase.PARKED
        if not self.wanted and not self.process and not self.launching:
            assert not self.life.active


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
