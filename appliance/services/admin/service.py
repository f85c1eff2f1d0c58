"""SY.admin as a node: takes ADMIN_COMMANDs, and gives the HTTP door its engine.

Run :meth:`AdminService.run` for the life of the process and :meth:`AdminService.serve` with the node.
Commands are executed beside each other; more than 256 at once are answered ``BUSY``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import trio

from appliance.sdk import Node
from appliance.settings.hive import AdminTimeouts
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.log import get_logger
from appliance.system.paths import Paths
from appliance.wire import verbs
from appliance.wire.admin.outcome import AdminCall, AdminOutcome, failure
from appliance.wire.envelope import Message
from appliance.wire.errors import FluxbeeError
from appliance.wire.frames import FrameTooLarge
from appliance.wire.names import full_name
from appliance.wire.nodeconfig import (
    ConfigFault,
    ConfigResponse,
    build_config_response,
    is_config_get,
    is_config_set,
)

from .counters import VersionCounters
from .engine import Engine, LogReader, Overview
from .gateway import Gateway, answer_command
from .peers import Direct, Peers
from .planner import Planner
from .statistics import AdminStatistics, Counts

__all__ = ["AdminService"]

MAX_COMMANDS = 256

log = get_logger("admin")


class AdminService:
    """The service; satisfies :class:`appliance.wire.admin.outcome.AdminGateway`.

    Args:
        hive: own hive id.
        is_mother: whether this is the motherbee.
        paths: where version counters lie.
        timeouts: ``admin.timeouts``.
        admin_nodes: who may change things by message besides ``SY.*``.
    """

    def __init__(
        self,
        hive: str,
        *,
        is_mother: bool,
        paths: Paths,
        timeouts: AdminTimeouts,
        admin_nodes: Iterable[str] = (),
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self._counts = Counts()
        self._peers = Peers()
        self._world = full_name("SY.world", hive)
        counters = VersionCounters(paths.config_versions, reserve)
        planner = Planner(hive, is_mother=is_mother, timeouts=timeouts)
        self._engine = Engine(planner, self._peers, counters, self._counts)
        self._gateway = Gateway(hive, admin_nodes)

    def bind(
        self,
        *,
        overview: Overview | None = None,
        logs: LogReader | None = None,
        direct: dict[str, Direct] | None = None,
    ) -> None:
        """Give the parts that only the composition root knows; what is not given stays as it is."""
        if overview is not None:
            self._engine.overview = overview
        if logs is not None:
            self._engine.logs = logs
        if direct is not None:
            self._peers.direct = dict(direct)

    @property
    def is_connected(self) -> bool:
        """Whether the router can be asked."""
        node = self._peers.node
        return node is not None and node.is_connected

    @property
    def counts(self) -> Counts:
        """For the parts that count with this service."""
        return self._counts

    async def execute(self, call: AdminCall) -> AdminOutcome:
        """Execute one action; every failure is an outcome."""
        return await self._engine.execute(call)

    def patience_s(self, action: str) -> float:
        """Longest time in seconds that :meth:`execute` may take."""
        return self._engine.patience_s(action)

    async def router_figures(self, timeout_s: float) -> Mapping[str, object] | None:
        """What the router counts, for the metrics; ``None`` when it does not tell in time."""
        return await self._figures(self._peers.last_hop, verbs.ROUTER_STATISTICS, timeout_s)

    async def world_figures(self, timeout_s: float) -> Mapping[str, object] | None:
        """What the world plane counts, by source; ``None`` when it does not tell in time."""
        told = await self._figures(self._world, verbs.WORLD_STATISTICS, timeout_s)
        figures = told.get("figures") if told is not None else None
        return figures if isinstance(figures, dict) else None

    async def _figures(self, peer: str, verb: str, timeout_s: float) -> Mapping[str, object] | None:
        try:
            with trio.fail_after(timeout_s):  # the wait for a router that restarts included
                payload = await self._peers.system(peer, verb, {}, timeout_s)
            told = msgspec.json.decode(payload, type=dict[str, object])
        except (FluxbeeError, msgspec.DecodeError, trio.TooSlowError):
            return None
        return told if told.get("status") == "ok" else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the changes under way, until cancelled."""
        await self._engine.run(task_status=task_status)

    async def serve(self, node: Node) -> None:
        """Answer commands until the node is closed."""
        self._peers.node = node
        try:
            async with trio.open_nursery() as nursery:
                under_way = trio.CapacityLimiter(MAX_COMMANDS)
                async for message in node.receiver:
                    if message.meta.type == verbs.ADMIN and message.meta.msg == verbs.ADMIN_COMMAND:
                        nursery.start_soon(self._command, node, message, under_way)
                    elif is_config_get(message) or is_config_set(message):
                        nursery.start_soon(self._configuration, node, message)
                nursery.cancel_scope.cancel()
        finally:
            self._peers.node = None

    async def _configuration(self, node: Node, message: Message) -> None:
        """CONFIG_GET and CONFIG_SET to SY.admin itself: there is nothing to configure by message."""
        setting = is_config_set(message)
        fault = ConfigFault(code="UNSUPPORTED_OPERATION", detail="SY.admin is configured in hive.yaml")
        answer = ConfigResponse(
            ok=not setting,
            node_name=node.full_name,
            state="configured",
            schema_version=1,
            config_version=0,
            effective_config={},
            error=fault if setting else None,
        )
        try:
            await node.send(build_config_response(message, answer, src=node.uuid))
        except FluxbeeError as error:
            self._counts.answers_lost += 1
            log.info("admin_answer_lost", action=message.meta.msg, error=error.message)

    async def _command(self, node: Node, message: Message, under_way: trio.CapacityLimiter) -> None:
        self._counts.commands += 1
        token = object()
        try:
            under_way.acquire_on_behalf_of_nowait(token)
        except trio.WouldBlock:
            self._counts.commands_busy += 1
            await self._answer(node, message, failure(None, "BUSY", "too many commands are under way"))
            return
        try:
            judged = self._gateway.judge(message)
            if isinstance(judged, AdminOutcome):
                self._counts.commands_refused += judged.error_code == "FORBIDDEN"
                outcome = judged
            else:
                outcome = await self._engine.execute(judged)
            await self._answer(node, message, outcome)
        finally:
            under_way.release_on_behalf_of(token)

    async def _answer(self, node: Node, message: Message, outcome: AdminOutcome) -> None:
        try:
            try:
                await node.send(answer_command(message, outcome, src=node.uuid))
            except FrameTooLarge:
                short = failure(outcome.action, "RESPONSE_TOO_LARGE", "the answer is read over HTTP only")
                await node.send(answer_command(message, short, src=node.uuid))
        except FluxbeeError as error:
            self._counts.answers_lost += 1
            log.info("admin_answer_lost", action=outcome.action, error=error.message)

    def statistics(self) -> AdminStatistics:
        """Counts since start."""
        return self._counts.freeze(locks_held=len(self._engine.turns))
