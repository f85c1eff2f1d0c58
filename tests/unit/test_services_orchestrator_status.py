import pytest

from appliance.services.orchestrator.status import NodeFacts, inferred_health, lifecycle_of
from appliance.supervise.instance import FileFacts
from appliance.supervise.lifecycle import Phase
from appliance.supervise.node_config import SystemPart
from appliance.supervise.processes import ManagedProcess

GOOD, BAD, NONE = FileFacts(True, True, 1), FileFacts(True, False, 1), FileFacts()
LIVE = {Phase.STARTING, Phase.RUNNING, Phase.STOPPING}
REST = {Phase.STOPPED, Phase.FAILED, Phase.PARKED}


def facts(phase=None, *, visible=False, config=GOOD, state=NONE, error=None, is_system=False):
    process = None
    if phase is not None:
        process = ManagedProcess(
            name="AI.a@h",
            unit="u",
            phase=phase,
            active=phase not in REST,
            has_process=phase in LIVE,
            pid=7,
            started_at_ms=1,
            exit_code=None,
            exit_signal=None,
            oom_killed=False,
            restarts=0,
            failures=0,
            retry_in_s=None,
            trouble=None,
        )
    return NodeFacts(
        process=process,
        visible=visible,
        config=config,
        state=state,
        system=SystemPart(),
        state_error=error,
        is_system=is_system,
    )


@pytest.mark.parametrize(
    ("given", "lifecycle"),
    [
        (facts(Phase.RUNNING, visible=True), "RUNNING"),
        (facts(Phase.STARTING, visible=True), "RUNNING"),
        (facts(Phase.STARTING), "STARTING"),
        (facts(Phase.LAUNCHING), "STARTING"),
        (facts(Phase.WAITING), "STARTING"),
        (facts(Phase.WAITING, visible=True), "STARTING"),
        (facts(Phase.PARKED), "FAILED"),
        (facts(Phase.FAILED), "FAILED"),
        (facts(Phase.STOPPED), "STOPPED"),
        (facts(), "STOPPED"),
        (facts(config=NONE, state=GOOD), "STOPPED"),
        (facts(config=NONE), "UNKNOWN"),
        (facts(config=NONE, visible=True), "UNKNOWN"),
        (facts(config=NONE, visible=True, is_system=True), "RUNNING"),
        (facts(config=NONE, is_system=True), "UNKNOWN"),
    ],
)
def test_the_lifecycle_follows_from_process_router_and_files(given, lifecycle):
    assert lifecycle_of(given) == lifecycle


@pytest.mark.parametrize(
    ("given", "health"),
    [
        (facts(visible=True), ("HEALTHY", "ORCHESTRATOR_INFERRED")),
        (facts(config=BAD), ("ERROR", "ORCHESTRATOR_INFERRED")),
        (facts(config=NONE), ("ERROR", "ORCHESTRATOR_INFERRED")),
        (facts(error={"x": 1}), ("DEGRADED", "ORCHESTRATOR_INFERRED")),
        (facts(error={"x": 1}, config=BAD), ("ERROR", "ORCHESTRATOR_INFERRED")),
        (facts(config=NONE, is_system=True), ("HEALTHY", "ORCHESTRATOR_INFERRED")),
    ],
)
def test_the_health_of_a_silent_node_is_inferred(given, health):
    assert inferred_health(given, "RUNNING") == health
    assert inferred_health(given, "STARTING") == ("UNKNOWN", "UNKNOWN")
