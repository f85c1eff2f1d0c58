from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.keeper.node_plan import KillNode, NodeBook, TerminateNode
from appliance.keeper.nodes_protocol import MAX_NODE_RECORDS
from appliance.system.process import ProcessExit
from appliance.wire.errors import Busy, Conflict, NotFound
from tests.unit.test_keeper_nodes_protocol import launch

A, B = "AI.a@north", "AI.b@north"


def book(*names: str) -> NodeBook:
    made = NodeBook()
    for pid, name in enumerate(names, 100):
        order = launch(name, unit=f"u-{pid}")
        made.check_start(order)
        made.started(order, pid, 1000)
    return made


def test_a_start_is_on_record() -> None:
    process = book(A).process(A)
    assert (process.pid, process.state, process.started_at_ms, process.ended_at_ms) == (
        100,
        "running",
        1000,
        None,
    )


def test_a_name_and_a_unit_have_one_live_process() -> None:
    made = book(A)
    with pytest.raises(Conflict) as same_name:
        made.check_start(launch(A, unit="other"))
    assert same_name.value.code == "NODE_RUNNING"
    with pytest.raises(Conflict) as same_unit:
        made.check_start(launch(B, unit="u-100"))
    assert same_unit.value.code == "UNIT_RUNNING"
    made.exited(A, ProcessExit(0), 2000, oom_killed=False)
    made.check_start(launch(A))
    made.check_start(launch(B, unit="u-100"))


def test_a_stop_asks_and_kills_at_the_deadline_once() -> None:
    made = book(A)
    assert made.stop(A, "SIGTERM", 5.0, now=10.0).state == "stopping"
    assert made.tick(10.0) == [TerminateNode(A)]
    assert made.tick(14.9) == []
    assert made.next_deadline() == 15.0
    assert made.tick(15.0) == [KillNode(A, overdue=True)]
    assert made.tick(99.0) == []
    assert made.next_deadline() is None


def test_a_stop_without_a_grace_takes_that_of_the_launch() -> None:
    made = book(A)
    made.stop(A, "SIGTERM", None, now=0.0)
    assert made.next_deadline() == 10.0


def test_a_kill_does_not_ask() -> None:
    made = book(A)
    made.stop(A, "SIGKILL", None, now=3.0)
    assert made.tick(3.0) == [KillNode(A, overdue=False)]


def test_a_stop_becomes_sooner_and_never_later() -> None:
    made = book(A)
    made.stop(A, "SIGTERM", 5.0, now=0.0)
    made.stop(A, "SIGTERM", 50.0, now=1.0)
    assert made.next_deadline() == 5.0
    made.stop(A, "SIGKILL", None, now=2.0)
    assert made.tick(2.0) == [TerminateNode(A), KillNode(A, overdue=True)]
    made.stop(A, "SIGTERM", 1.0, now=3.0)
    assert made.tick(9.0) == []


def test_an_end_is_remembered_until_forgotten() -> None:
    made = book(A)
    made.dropped(A, 77)
    ended = made.exited(A, ProcessExit(None, 9), 3000, oom_killed=True)
    assert (ended.pid, ended.state, ended.exit_code, ended.exit_signal) == (None, "exited", None, 9)
    assert (ended.oom_killed, ended.ended_at_ms, ended.log_dropped_bytes) == (True, 3000, 77)
    assert [one.name for one in made.processes()] == [A]
    assert made.stop(A, "SIGTERM", 1.0, now=0.0) == ended
    made.forget(A)
    assert len(made) == 0


def test_what_lives_is_not_forgotten_and_what_is_unknown_not_found() -> None:
    made = book(A)
    with pytest.raises(Conflict):
        made.forget(A)
    for unknown in (made.forget, made.process):
        with pytest.raises(NotFound):
            unknown(B)


def test_records_are_bounded() -> None:
    made = book(*(f"AI.n{i}@north" for i in range(MAX_NODE_RECORDS)))
    for name in list(made.processes()):
        made.exited(name.name, ProcessExit(0), 1, oom_killed=False)
    with pytest.raises(Busy):
        made.check_start(launch(B, unit="u"))
    made.check_start(launch("AI.n5@north", unit="u"))


def test_at_the_end_everybody_is_asked_and_nobody_starts() -> None:
    made = book(A, B)
    made.stop_all(now=0.0, by=4.0)
    assert made.tick(0.0) == [TerminateNode(A), TerminateNode(B)]
    with pytest.raises(Conflict):
        made.check_start(launch("AI.c@north", unit="c"))
    made.stop_all(now=1.0, by=2.0)
    assert made.next_deadline() == 2.0
    assert made.tick(2.0) == [KillNode(A, overdue=True), KillNode(B, overdue=True)]


steps = st.lists(
    st.tuples(
        st.sampled_from(["start", "stop", "kill", "exit", "forget", "tick"]),
        st.sampled_from([A, B]),
        st.floats(0, 3),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_happens_a_live_process_is_killed_at_most_once(plan: list[tuple[str, str, float]]) -> None:
    made, now, kills = NodeBook(), 0.0, dict.fromkeys((A, B), 0)
    for what, name, passed in plan:
        now += passed
        lives = name in made and made.process(name).state != "exited"
        if what == "start" and not lives:
            made.check_start(launch(name, unit=name))
            made.started(launch(name, unit=name), 7, 1)
            kills[name] = 0
        elif what in ("stop", "kill") and name in made:
            made.stop(name, "SIGTERM" if what == "stop" else "SIGKILL", 1.0, now)
        elif what == "exit" and lives:
            made.exited(name, ProcessExit(0), 1, oom_killed=False)
        elif what == "forget" and name in made and not lives:
            made.forget(name)
        for command in made.tick(now):
            assert made.process(command.name).state == "stopping"
            kills[command.name] += isinstance(command, KillNode)
        assert max(kills.values()) <= 1
        due = made.next_deadline()
        assert due is None or due > now
