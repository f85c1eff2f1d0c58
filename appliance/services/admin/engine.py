"""Carries plans out: waits for the turn, asks, folds the answer. HTTP and ADMIN_COMMAND both come here.

Every call ends in an outcome; nothing is raised but cancellation. A change runs in the service's own nursery,
so that a client that leaves does not stop it half-way (``spec/admin-api.md §A.11``).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec
import trio

from appliance.services.sharing import Shared
from appliance.system.log import get_logger
from appliance.wire.admin.catalogue import ACTIONS, CATALOGUE, REGISTRY_VERSION
from appliance.wire.admin.outcome import AdminCall, AdminOutcome, Form, failure, from_error
from appliance.wire.envelope import raw_json
from appliance.wire.errors import Busy, FluxbeeError, Invalid, Unavailable, Unreachable

from .changes import RouteChanges, change_storage
from .counters import VersionCounters
from .fold import fold, transport_failure
from .identities import list_ilks
from .locks import Place, Turns
from .nodes import control_node, send_to_node
from .peers import Peers
from .plan import Kind, Plan
from .planner import Planner, shown_action
from .publish import publish
from .statistics import Counts

__all__ = ["TURN_PATIENCE_S", "Engine", "LogReader", "Overview"]

TURN_PATIENCE_S = 240.0
"""Longer than the slowest change ahead (``add_hive``, 180 s)."""

PUBLISH_PATIENCE_S = 180.0
"""For the follow-ups of a publication: all hives at once, a sync hint and an update each."""

MAX_RUNNING = 512
"""Actions under way at once; the door's own bound of connections is lower."""

Overview = Callable[[], Awaitable[Mapping[str, object]]]
LogReader = Callable[[str, int], Awaitable[Mapping[str, object]]]
"""Last lines of a local node's log: full name and number of lines in, ``{lines, dropped_bytes}`` out."""

log = get_logger("admin")

_SHARED = frozenset({Kind.ADMIN, Kind.SYSTEM, Kind.ILKS})
"""Reads that cost messages: equal ones at the same time are asked once."""

_SHORT = frozenset({"configure_routes", "configure_vpns"})


class Engine:
    """Executes the actions of one hive.

    Args:
        planner: makes the plans.
        peers: whom plans ask.
        counters: version numbers.
        counts: what is counted.
    """

    def __init__(self, planner: Planner, peers: Peers, counters: VersionCounters, counts: Counts) -> None:
        self.planner = planner
        self.peers = peers
        self.counters = counters
        self.counts = counts
        self.turns = Turns()
        self.overview: Overview | None = None
        self.logs: LogReader | None = None
        self._routes = RouteChanges(peers, counters, counts, planner)
        self._nursery: trio.Nursery | None = None
        self._shared: Shared[AdminOutcome] = Shared()
        self._catalogue = raw_json({"registry_version": REGISTRY_VERSION, "actions": CATALOGUE})
        self._ways: Mapping[Kind, Callable[[Plan], Awaitable[AdminOutcome]]] = {
            Kind.ADMIN: self._ask_admin,
            Kind.SYSTEM: self._ask_system,
            Kind.ILKS: self._list_ilks,
            Kind.CATALOGUE: self._list_actions,
            Kind.HELP: self._help,
            Kind.ABSENT: self._absent,
            Kind.MESSAGE: self._send,
            Kind.CONTROL: self._control,
            Kind.ROUTE_CHANGE: self._routes.change,
            Kind.ROUTE_TABLES: self._routes.replace,
            Kind.STORAGE_SET: self._set_storage,
            Kind.STORAGE_METRICS: self._storage_metrics,
            Kind.PUBLISH: self._publish,
            Kind.LOGS: self._read_log,
            Kind.OVERVIEW: self._show_overview,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of changes, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def patience_s(self, action: str) -> float:
        """Longest time that :meth:`execute` may take for ``action``, waiting for its turn included."""
        entry = ACTIONS.get(action)
        waiting = 0.0 if entry is not None and entry.read_only else TURN_PATIENCE_S
        more = PUBLISH_PATIENCE_S if action == "publish_runtime_package" else 0.0
        return self.planner.timeout_s(action) + waiting + more + 3 * self.planner.timeouts.broadcast_s

    async def execute(self, call: AdminCall) -> AdminOutcome:
        """Execute one action; see :class:`appliance.wire.admin.outcome.AdminGateway`."""
        counts = self.counts
        form: Form = "short" if call.action in _SHORT else "envelope"
        try:
            if counts.running >= MAX_RUNNING:
                raise Busy("too many actions are under way")
            plan = self.planner.plan(call)
        except FluxbeeError as error:
            counts.failed += 1
            return from_error(shown_action(call.action), error, form=form)
        counts.running += 1
        try:
            if plan.turn:
                counts.mutations += 1
                outcome = await self._in_turn(plan)
            else:
                counts.reads += 1
                outcome = await self._read(plan, call.action)
        finally:
            counts.running -= 1
        counts.failed += outcome.status == "error"
        return outcome

    async def _read(self, plan: Plan, action: str) -> AdminOutcome:
        entry = ACTIONS.get(action)
        if plan.kind not in _SHARED or entry is None or not entry.read_only:
            return await self.perform(plan)
        key = msgspec.json.encode((plan.action, plan.dst, plan.verb, plan.payload))
        outcome = await self._shared.ask(key, partial(self.perform, plan))
        self.counts.reads_shared = self._shared.statistics().shared
        return outcome

    async def _in_turn(self, plan: Plan) -> AdminOutcome:
        """Carry out a change; the caller may leave, the change goes on."""
        nursery = self._nursery
        if nursery is None or nursery.cancel_scope.cancel_called:
            error = Unavailable("SY.admin is stopping")
            return transport_failure(plan.action, plan.dst, error)
        place = self.turns.join(plan.turn)
        job = _Job()
        nursery.start_soon(self._work, plan, place, job)
        try:
            await job.done.wait()
        except trio.Cancelled:
            if job.outcome is None:
                log.info("admin_client_left", action=plan.action, turn=plan.turn)
            raise
        assert job.outcome is not None
        return job.outcome

    async def _work(self, plan: Plan, place: Place, job: _Job) -> None:
        try:
            async with self.turns.hold(place, patience_s=TURN_PATIENCE_S):
                job.outcome = await self.perform(plan)
        except Unavailable as error:
            self.counts.lock_timeouts = self.turns.timeouts
            job.outcome = failure(plan.action, error.code, error.message)
        finally:
            if job.outcome is None:
                job.outcome = failure(plan.action, "SERVICE_FAILED", "SY.admin stopped")
            job.done.set()

    async def perform(self, plan: Plan) -> AdminOutcome:
        """Carry out a plan whose turn it is; every failure is an outcome."""
        try:
            return await self._ways[plan.kind](plan)
        except (Unreachable, Unavailable) as error:
            self.counts.transport_failures += 1
            return transport_failure(plan.action, plan.dst, error, last_hop=self.peers.last_hop)
        except FluxbeeError as error:
            return from_error(plan.action, error)
        except Exception as error:  # one action's defect must not end the others
            error_id = uuid.uuid4().hex[:12]
            log.exception(
                "admin_action_failed",
                error,
                code="ADMIN_ACTION_FAILED",
                action=plan.action,
                error_id=error_id,
            )
            return failure(plan.action, "INTERNAL", f"internal error {error_id}")

    # --- ways ------------------------------------------------------------------------------------------

    async def _ask_admin(self, plan: Plan) -> AdminOutcome:
        answer = await self.peers.admin(plan.dst, plan.verb, plan.payload, plan.timeout_s)
        return fold(plan.action, answer, plan.statuses)

    async def _ask_system(self, plan: Plan) -> AdminOutcome:
        answer = await self.peers.system(
            plan.dst, plan.verb, plan.payload, plan.timeout_s, action=plan.action
        )
        return fold(plan.action, answer, plan.statuses)

    async def _list_ilks(self, plan: Plan) -> AdminOutcome:
        return await list_ilks(self.peers, plan)

    async def _list_actions(self, plan: Plan) -> AdminOutcome:
        return AdminOutcome(http_status=200, status="ok", action=plan.action, payload=self._catalogue)

    async def _help(self, plan: Plan) -> AdminOutcome:
        payload = {"registry_version": REGISTRY_VERSION, "entry": ACTIONS[plan.verb]}
        return AdminOutcome(http_status=200, status="ok", action=plan.action, payload=payload)

    async def _absent(self, plan: Plan) -> AdminOutcome:
        return failure(plan.action, "NOT_IMPLEMENTED", f"this hive has no {plan.dst} yet")

    async def _send(self, plan: Plan) -> AdminOutcome:
        return await send_to_node(self.peers, plan)

    async def _control(self, plan: Plan) -> AdminOutcome:
        return await control_node(self.peers, plan)

    async def _set_storage(self, plan: Plan) -> AdminOutcome:
        return await change_storage(self.peers, self.counters, self.counts, plan)

    async def _storage_metrics(self, plan: Plan) -> AdminOutcome:
        try:
            answer = await self.peers.system(plan.dst, plan.verb, plan.payload, plan.timeout_s)
        except (Unreachable, Unavailable) as error:
            self.counts.transport_failures += 1
            code = "STORAGE_METRICS_UNAVAILABLE"
            payload = {"status": "error", "error_code": code, "message": error.message}
            return failure(plan.action, code, error.message, payload=payload, http_status=503)
        outcome = fold(plan.action, answer)
        if outcome.status != "error":
            return outcome
        if outcome.error_code == "SERVICE_FAILED":
            return failure(plan.action, "TRANSPORT_ERROR", outcome.error_detail, payload=outcome.payload)
        return failure(
            plan.action,
            outcome.error_code or "STORAGE_METRICS_UNAVAILABLE",
            outcome.error_detail,
            payload=outcome.payload,
            http_status=503,
        )

    async def _publish(self, plan: Plan) -> AdminOutcome:
        return await publish(self.peers, self.planner, self.perform, plan)

    async def _read_log(self, plan: Plan) -> AdminOutcome:
        if self.logs is None or plan.target != self.planner.hive:
            raise Invalid(f"the log of {plan.dst} is read on its own hive", code="UNSUPPORTED_OPERATION")
        tail = plan.payload["tail"]
        assert isinstance(tail, int)
        payload = {"status": "ok", "node_name": plan.dst, **await self.logs(plan.dst, tail)}
        return AdminOutcome(http_status=200, status="ok", action=plan.action, payload=payload)

    async def _show_overview(self, plan: Plan) -> AdminOutcome:
        payload = {"status": "ok", **(await self.overview() if self.overview is not None else {})}
        return AdminOutcome(http_status=200, status="ok", action=plan.action, payload=payload)


class _Job:
    """A change under way, and how it ended."""

    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: AdminOutcome | None = None
