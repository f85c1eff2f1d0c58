"""SY.orchestrator: takes requests, hands them to the verb modules, answers.

Reads run at once; changes stand in their resource's queue in the order in which they came. A bound on what
is worked on at once answers ``BUSY`` beyond it. A failing handler answers an error and ends nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import msgspec
import trio

from appliance.sdk import Node, system_reply
from appliance.store.files import durable_replace
from appliance.supervise.backoff import RestartPolicy
from appliance.supervise.instance import clean_instances
from appliance.supervise.lifecycle import Phase
from appliance.supervise.processes import NodeKeeper
from appliance.supervise.restarts import RestartLedger
from appliance.supervise.supervisor import Supervisor
from appliance.system.clock import Clock, SystemClock
from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.envelope import Message, Meta, build_message, encode_message
from appliance.wire.errors import Busy, Conflict, FluxbeeError, Invalid
from appliance.wire.frames import MAX_FRAME_BYTES
from appliance.wire.names import full_name

from .allow import Allowed, forbidden
from .config import OrchestratorConfig
from .house import Handler, House, Payload, Request, error_payload
from .inventory import InventoryVerbs
from .locks import Ticket
from .node_changes import NodeChangeVerbs
from .node_files import NodeFileVerbs
from .plans import Plans
from .reconcile import Reconciler
from .router_view import RouterView
from .spawn import SpawnVerbs
from .status import StatusVerbs
from .verbs_table import ACTION_OF, MOTHER_ONLY, is_guarded, resource_of

__all__ = ["OrchestratorConfig", "OrchestratorService", "OrchestratorStatistics"]

log = get_logger("orchestrator")

_MOST_NOTICES = 20

_STAMP_BYTES = 2048
"""What the router may add to an answer: the sender's name, in which every byte may be escaped."""


class OrchestratorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start, and what is worked on now."""

    requests: int
    working: int
    busy: int
    forbidden: int
    errors: int
    failures: int
    too_large: int
    answers_lost: int
    reconciled: int
    reconcile_failures: int


class _Work(NamedTuple):
    """A request that was let in; it owns its place in the queue."""

    action: str
    request: Request
    ticket: Ticket | None


class OrchestratorService:
    """Run :meth:`run` beside :meth:`serve`, which is the body of the node ``SY.orchestrator``.

    Args:
        config: who and where.
        keeper: who owns the processes.
        clock: of the box; a test gives its own.
    """

    def __init__(self, config: OrchestratorConfig, keeper: NodeKeeper, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        settings = config.settings
        policy = RestartPolicy(
            first_s=settings.restart_first_ms / 1000,
            cap_s=settings.restart_cap_s,
            healthy_after_s=settings.healthy_after_s,
            park_after=settings.park_after,
        )
        self.supervisor = Supervisor(keeper, policy, clock, RestartLedger(config.paths.node_restarts))
        self.house = House(
            hive=config.hive,
            role=config.role,
            paths=config.paths,
            settings=settings,
            clock=clock,
            supervisor=self.supervisor,
            router=RouterView(lambda: self.house.connected(), self.supervisor.observe),
            started_at=clock.monotonic(),
            reserve=config.reserve,
        )
        origins = (*settings.allowed_origins, *config.admin_nodes)
        self._allowed = Allowed(config.hive, origins, everybody=config.open_security)
        plans = Plans(self.house)
        status = StatusVerbs(self.house)
        self._reconciler = Reconciler(self.house, plans)
        self._handlers: dict[str, Handler] = {}
        for module in (
            SpawnVerbs(self.house, plans),
            status,
            NodeChangeVerbs(self.house, plans, restart_plane=config.restart_plane, forget=status.forget),
            NodeFileVerbs(self.house),
            InventoryVerbs(self.house),
        ):
            self.add(module.handlers)
        self._requests = self._working = self._busy = self._forbidden = 0
        self._errors = self._failures = self._too_large = self._answers_lost = 0

    def add(self, handlers: Mapping[str, Handler]) -> None:
        """Register further verbs.

        Raises:
            Conflict: somebody has the action already.
        """
        for action, handler in handlers.items():
            if action in self._handlers:
                raise Conflict(f"the action {action} has two handlers")
            self._handlers[action] = handler

    def statistics(self) -> OrchestratorStatistics:
        """Counters and gauges; those of the processes are ``supervisor.statistics()``."""
        return OrchestratorStatistics(
            requests=self._requests,
            working=self._working,
            busy=self._busy,
            forbidden=self._forbidden,
            errors=self._errors,
            failures=self._failures,
            too_large=self._too_large,
            answers_lost=self._answers_lost,
            reconciled=self._reconciler.started,
            reconcile_failures=self._reconciler.failed,
        )

    def notices(self) -> tuple[str, ...]:
        """What people should know of managed nodes: who rests though somebody wanted it to live."""
        told: list[str] = []
        for process in self.supervisor.processes():
            trouble = process.trouble or self.house.troubles.get(process.name)
            if process.phase is Phase.PARKED:
                told.append(f"{process.name} is parked: it ended {process.failures} times in a row")
            elif process.phase is Phase.FAILED:
                told.append(f"{process.name} was not started: {trouble or 'no reason is known'}")
        known = {process.name for process in self.supervisor.processes()}
        told += [f"{name}: {why}" for name, why in sorted(self.house.troubles.items()) if name not in known]
        more = len(told) - _MOST_NOTICES
        return (*told[:_MOST_NOTICES], f"and {more} nodes more") if more > 0 else tuple(told)

    # --- life ------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled; started means that living nodes are adopted."""
        self._write_pid()
        left = await trio.to_thread.run_sync(clean_instances, self.house.paths, limiter=self.house.files)
        if left:
            log.info("instance_leftovers_removed", entries=left)
        await self.supervisor.run(task_status=task_status)

    def _write_pid(self) -> None:
        try:
            durable_replace(self.house.paths.orchestrator_pid, f"{os.getpid()}\n".encode(), 0o644)
        except FluxbeeError as error:
            log.warning("pid_not_written", code="PID_NOT_WRITTEN", error=str(error))

    async def serve(self, node: Node) -> None:
        """Answer requests until the node is closed; nodes that belong to this hive are started first."""
        self.house.node = node
        try:
            async with trio.open_nursery() as nursery:
                self.house.nursery = nursery
                nursery.start_soon(self._reconciler.run)
                async for message in node.receiver:
                    self._take(message, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self.house.node = self.house.nursery = None

    # --- one request -----------------------------------------------------------------------------------

    def _take(self, message: Message, nursery: trio.Nursery) -> None:
        action = _action_of(message)
        if action is None or not message.routing.src or message.routing.dst == verbs.BROADCAST:
            return
        self._requests += 1
        work: _Work | Payload
        try:
            work = self._refusal(action, message) or self._admit(action, _request_of(message))
        except FluxbeeError as error:
            work = error_payload(error)
        nursery.start_soon(self._work, message, work)

    def _refusal(self, action: str, message: Message) -> Payload | None:
        if is_guarded(action, _request_of(message)) and not self._allowed.may_change(message.source_l2_name):
            self._forbidden += 1
            return forbidden(message)
        if message.meta.msg == verbs.RUNTIME_UPDATE:
            raise Invalid("RUNTIME_UPDATE is no longer supported; use SYSTEM_UPDATE", field="meta.msg")
        return None

    def _admit(self, action: str, request: Request) -> _Work:
        """Take a place for a request, in the order of arrival.

        Raises:
            Conflict: for the motherbee only. Invalid: unknown. Busy: too many are worked on.
        """
        if action in MOTHER_ONLY and not self.house.is_mother:
            raise Conflict(
                f"{action} is for the motherbee; {self.house.hive} is a worker",
                code="NOT_PRIMARY",
                remedy="Ask the motherbee's admin API.",
            )
        if action not in self._handlers:
            raise Invalid(f"unknown action {action!r}", code="UNKNOWN_ACTION", field="meta.action")
        if self._working >= self.house.settings.requests:
            self._busy += 1
            raise Busy("the orchestrator works on too many requests")
        resource = resource_of(action, request, self.house.hive)
        self._working += 1
        return _Work(action, request, self.house.locks.ticket(resource) if resource is not None else None)

    async def answer_here(self, action: str, request: Mapping[str, object]) -> Payload:
        """Do what SY.admin asks in this process, for answers that no frame holds; errors are payloads."""
        self._requests += 1
        try:
            work = self._admit(action, dict(request))
        except FluxbeeError as error:
            return error_payload(error)
        return await self._done(work, full_name("SY.admin", self.house.hive))

    async def _work(self, message: Message, work: _Work | Payload) -> None:
        if isinstance(work, _Work):
            work = await self._done(work, message.source_l2_name or "")
        await self._answer(message, work)

    async def _done(self, work: _Work, source: str) -> Payload:
        try:
            async with work.ticket or nullcontext():
                if work.ticket is not None:  # it changes something
                    await self.house.reserve.make_way()
                return await self._handled(work.action, work.request, source)
        finally:
            self._working -= 1

    async def _handled(self, action: str, request: Request, source: str) -> Payload:
        try:
            return await self._handlers[action](request, source)
        except FluxbeeError as error:
            self._errors += 1
            return error_payload(error)
        except Exception as error:  # the seam to the verb modules: a defect answers, and ends nobody else
            self._failures += 1
            log.exception("verb_failed", error, code="ORCHESTRATOR_VERB_FAILED", action=action)
            return {
                "status": "error",
                "error_code": "ORCHESTRATOR_ERROR",
                "message": f"{action} failed: {type(error).__name__}",
            }

    async def _answer(self, message: Message, payload: Payload) -> None:
        node = self.house.node
        if node is None:
            self._answers_lost += 1
            return
        answer = _answer_to(message, payload, node.uuid)
        if len(encode_message(answer)) > MAX_FRAME_BYTES - _STAMP_BYTES:
            self._too_large += 1
            problem = Conflict(
                f"the answer does not fit into {MAX_FRAME_BYTES} bytes; ask for pages with `after`",
                code="RESPONSE_TOO_LARGE",
            )
            answer = _answer_to(message, error_payload(problem), node.uuid)
        try:
            await node.send(answer)
        except FluxbeeError as error:
            self._answers_lost += 1
            log.warning(
                "answer_lost", code="ORCHESTRATOR_ANSWER_LOST", to=message.source_l2_name, error=str(error)
            )


def _action_of(message: Message) -> str | None:
    meta = message.meta
    if meta.type == verbs.ADMIN and meta.msg is None:
        return meta.action
    if meta.type == verbs.SYSTEM and meta.msg is not None:
        if meta.msg == verbs.RUNTIME_UPDATE:
            return "update"
        return ACTION_OF.get(meta.msg)
    return None


def _request_of(message: Message) -> Request:
    value = message.json()
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid("the payload is not an object", field="payload")
    return dict(value)


def _answer_to(message: Message, payload: Payload, src: str) -> Message:
    if message.meta.type == verbs.SYSTEM:
        verb = verbs.INVENTORY_RESPONSE if message.meta.msg == verbs.INVENTORY_REQUEST else None
        return system_reply(message, payload, verb=verb, src=src)
    return build_message(
        src=src,
        dst=message.routing.src,
        payload=payload,
        meta=Meta(type=verbs.ADMIN, action=message.meta.action),
        trace_id=message.routing.trace_id,
    )
