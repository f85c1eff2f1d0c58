"""Which nodes come back, in which order, and that a failure stops nobody else."""

from __future__ import annotations

import trio
import trio.testing

from appliance.services.orchestrator.house import House
from appliance.services.orchestrator.plans import Plans
from appliance.services.orchestrator.reconcile import Reconciler, boot_order
from appliance.services.orchestrator.router_view import RouterView
from appliance.settings.own import Orchestrator
from appliance.supervise.backoff import RestartPolicy
from appliance.supervise.instance import Instance
from appliance.supervise.restarts import RestartLedger
from appliance.supervise.supervisor import Supervisor
from appliance.system.clock import SystemClock
from appliance.system.paths import Paths
from appliance.testing.keeper import FakeKeeper
from appliance.wire.errors import Unreachable
from tests.orchestrator_kit import SLEEP, publish


class Seen(RouterView):
    """A router that sees a fixed set of names."""

    def __init__(self, *names):
        self.names = names

    async def sees(self, name):
        await trio.lowlevel.checkpoint()
        return name in self.names


def instance(paths, name, runtime="ai.sleep", version="1.0.0", **more):
    system = {"runtime": runtime, "runtime_version": version, "relaunch_on_boot": True, **more}
    Instance(paths, name).create_config({"_system": system})


def reconciled(paths, keeper, *, visible=()):
    async def main():
        clock = SystemClock()
        supervisor = Supervisor(keeper, RestartPolicy(), clock, RestartLedger(paths.node_restarts))
        house = House(
            hive="h",
            role="motherbee",
            paths=paths,
            settings=Orchestrator(),
            clock=clock,
            supervisor=supervisor,
            router=Seen(*visible),
            started_at=clock.monotonic(),
            node=_Connected(),
        )
        reconciler = Reconciler(house, Plans(house))
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await reconciler.run_once()
            await reconciler.run_once()
            nursery.cancel_scope.cancel()
        return house, reconciler

    return trio.run(main)


class _Connected:
    router_name = "RT.r@h"


def test_workflows_and_agents_come_before_the_edges():
    names = ["IO.a@h", "custom@h", "AI.b@h", "AI.a@h", "WF.z@h"]
    assert sorted(names, key=boot_order) == ["WF.z@h", "AI.a@h", "AI.b@h", "custom@h", "IO.a@h"]


def test_what_belongs_here_is_started_and_one_failure_stops_nobody(tmp_path):
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    publish(paths, "ai.sleep", SLEEP)
    instance(paths, "IO.edge@h")
    instance(paths, "AI.a@h")
    instance(paths, "AI.gone@h", runtime="ai.unknown")
    instance(paths, "AI.off@h", relaunch_on_boot=False)
    instance(paths, "AI.far@elsewhere")
    instance(paths, "AI.bare@h", runtime="")
    instance(paths, "SY.mine@h")
    instance(paths, "AI.byhand@h")
    Instance(paths, "AI.broken@h").make()
    keeper = FakeKeeper()
    house, reconciler = reconciled(paths, keeper, visible=["AI.byhand@h"])
    assert [name for what, name in keeper.calls if what == "start"] == ["AI.a@h", "IO.edge@h"]
    assert (reconciler.started, reconciler.failed) == (2, 1)
    assert reconciler.done.is_set()
    assert "ai.unknown" in house.troubles["AI.gone@h"]


def test_what_lives_already_is_left_alone(tmp_path):
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    publish(paths, "ai.sleep", SLEEP)
    instance(paths, "AI.a@h")
    keeper = FakeKeeper()
    reconciled(paths, keeper)
    keeper.calls.clear()
    reconciled(paths, keeper)
    assert keeper.calls == []


def test_the_pinned_version_counts_not_the_current_one(tmp_path):
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    for version in ("1.0.0", "2.0.0"):
        publish(paths, "ai.sleep", SLEEP, version=version)
    instance(paths, "AI.a@h")
    keeper = FakeKeeper()
    reconciled(paths, keeper)
    assert "/1.0.0/" in keeper.records["AI.a@h"].launch.argv[0]


def retried(paths, body):
    """Run the reconciler on a clock that trio moves; ``body(house, router)`` interferes after a pass."""

    async def main():
        keeper, clock = FakeKeeper(), TrioClock()
        supervisor = Supervisor(keeper, RestartPolicy(), clock, RestartLedger(paths.node_restarts))
        router = Flaky()
        house = House(
            hive="h",
            role="motherbee",
            paths=paths,
            settings=Orchestrator(),
            clock=clock,
            supervisor=supervisor,
            router=router,
            started_at=0.0,
            node=_Connected(),
        )
        reconciler = Reconciler(house, Plans(house))
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            nursery.start_soon(reconciler.run)
            await reconciler.done.wait()
            await body(house, router)
            await trio.sleep(200)
            nursery.cancel_scope.cancel()
        return reconciler, keeper, house

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


class TrioClock:
    def monotonic(self):
        return trio.current_time()

    def wall_ms(self):
        return 0


class Flaky(Seen):
    """A router that is away at first."""

    def __init__(self):
        super().__init__()
        self.away = True

    async def sees(self, name):
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unreachable("nobody answers")
        return False


def test_a_router_on_its_way_back_loses_no_node(tmp_path):
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    publish(paths, "ai.sleep", SLEEP)
    instance(paths, "AI.a@h")

    async def body(house, router):
        assert "AI.a@h" in house.troubles
        await trio.sleep(10)
        router.away = False

    reconciler, keeper, house = retried(paths, body)
    assert (keeper.live(), reconciler.started, reconciler.failed) == (["AI.a@h"], 1, 1)
    assert house.troubles == {}


def test_files_that_arrive_later_and_a_node_that_somebody_dealt_with(tmp_path):
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    publish(paths, "ai.sleep", SLEEP)
    publish(paths, "ai.late", None)
    instance(paths, "AI.late@h", runtime="ai.late")
    instance(paths, "AI.dealt@h")

    async def body(house, router):
        router.away = False
        house.troubles.pop("AI.dealt@h")
        await trio.sleep(10)
        publish(paths, "ai.late", SLEEP)

    _, keeper, _ = retried(paths, body)
    assert keeper.live() == ["AI.late@h"]
