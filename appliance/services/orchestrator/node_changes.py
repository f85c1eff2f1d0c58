"""start, restart and kill of nodes, and removal of their instances (``spec/admin-api.md §D.5``).

While one of these runs, its node's queue is held, so that none of them meets another. The router itself is
restarted by restarting its plane; nodes of the appliance are neither ended nor removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Final

import trio

from appliance.keeper.nodes_protocol import StopSignal
from appliance.keeper.numbers import ROUTING_PLANE
from appliance.supervise.instance import Instance, Removed
from appliance.supervise.names import NodeName, check_spawnable, unit_name
from appliance.supervise.node_config import system_part
from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, Unavailable

from .asked import flag, node_of, refuse_legacy, text
from .forward import forward
from .house import Handler, House, Payload, Request
from .plans import Plan, Plans

__all__ = ["NodeChangeVerbs"]

log = get_logger("orchestrator")

_TIMER_S: Final = 3.0
_KILLED_S: Final = 2.0
"""How long the end after SIGKILL may take before it counts as failed; five more are added."""

_ANSWER_LEAVES_S: Final = 0.2


class NodeChangeVerbs:
    """Handles ``start_node``, ``restart_node``, ``kill_node`` and ``remove_node_instance``.

    Args:
        house: what all verbs share.
        plans: makes launches.
        restart_plane: restarts a plane; ``None`` when there is no keeper to ask.
        forget: told when an instance is gone.
    """

    def __init__(
        self,
        house: House,
        plans: Plans,
        *,
        restart_plane: Callable[[str], Awaitable[None]] | None = None,
        forget: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._house = house
        self._plans = plans
        self._restart_plane = restart_plane
        self._forget = forget
        self.handlers: Mapping[str, Handler] = {
            "start_node": self.start_node,
            "restart_node": self.restart_node,
            "kill_node": self.kill_node,
            "remove_node_instance": self.remove_node_instance,
        }

    # --- start and restart -----------------------------------------------------------------------------

    async def start_node(self, request: Request, source: str) -> Payload:
        """Start a persisted instance; a waiting or parked one is tried at once."""
        refuse_legacy(request, "name", "version")
        house = self._house
        name = node_of(request, house.hive)
        check_spawnable(name, act="started")
        if name.hive != house.hive:
            return await forward(house, "start_node", request, name.hive)
        plan = await self._plan(name)
        visible = await house.sees(name.full)
        process = house.supervisor.process(name.full)
        if visible or (process is not None and process.has_process):
            return self._started(name, plan, "already_running", visible=visible)
        try:
            await house.supervisor.start(plan.launch)
        except FluxbeeError as error:
            raise self._not_started(name, error, "START_FAILED") from error
        house.troubles.pop(name.full, None)
        return self._started(name, plan, "started", visible=await house.sees(name.full))

    async def restart_node(self, request: Request, source: str) -> Payload:
        """Give a persisted instance a new process; without an old one it is a start."""
        refuse_legacy(request, "name", "version")
        house = self._house
        name = node_of(request, house.hive)
        if name.short.startswith("RT."):
            return await self._restart_router(name)
        check_spawnable(name, act="restarted")
        if name.hive != house.hive:
            return await forward(house, "restart_node", request, name.hive)
        plan = await self._plan(name)
        try:
            await house.supervisor.restart(plan.launch)
        except FluxbeeError as error:
            raise self._not_started(name, error, "RESTART_FAILED") from error
        house.troubles.pop(name.full, None)
        return self._started(name, plan, "restarted", visible=await house.sees(name.full))

    async def _plan(self, name: NodeName) -> Plan:
        try:
            return await self._plans.for_stored(name.full)
        except FluxbeeError as error:
            where = {"target": self._house.hive, "node_name": name.full}
            raise type(error)(
                error.message, code=error.code, remedy=error.remedy, details={**error.details, **where}
            ) from error

    def _not_started(self, name: NodeName, error: FluxbeeError, code: str) -> FluxbeeError:
        self._house.troubles[name.full] = error.message
        details = {"target": self._house.hive, "hive": self._house.hive, "node_name": name.full}
        return Unavailable(f"{name.full}: {error.message}", code=code, remedy=error.remedy, details=details)

    def _started(self, name: NodeName, plan: Plan, state: str, *, visible: bool) -> Payload:
        return {
            "status": "ok",
            "state": state,
            "target": self._house.hive,
            "hive": self._house.hive,
            "node_name": name.full,
            "runtime": plan.launchable.runtime,
            "version": plan.launchable.version,
            "requested_version": plan.launchable.requested_version,
            "unit": plan.launch.unit,
            "visible_in_router": visible,
        }

    async def _restart_router(self, name: NodeName) -> Payload:
        house = self._house
        if name.full != house.connected().router_name:
            raise Invalid(f"{name.full} is not this hive's router", field="node_name")
        if self._restart_plane is None or house.nursery is None:
            raise Unavailable("there is no keeper to restart the router", code="RESTART_FAILED")
        house.nursery.start_soon(self._restart_soon, self._restart_plane, name.full)
        return {
            "status": "ok",
            "state": "restarted",
            "target": house.hive,
            "hive": house.hive,
            "node_name": name.full,
            "unit": unit_name(name.full),
            "visible_in_router": True,
        }

    async def _restart_soon(self, restart_plane: Callable[[str], Awaitable[None]], router: str) -> None:
        """Restart the router's plane when the answer, which it carries, has had time to leave."""
        await trio.sleep(_ANSWER_LEAVES_S)
        log.info("router_restarts", router=router)
        try:
            await restart_plane(ROUTING_PLANE)
        except FluxbeeError as error:
            log.warning("router_not_restarted", code="ROUTER_NOT_RESTARTED", router=router, error=str(error))

    # --- kill ------------------------------------------------------------------------------------------

    async def kill_node(self, request: Request, source: str) -> Payload:
        """End a node, also one that waits for its restart; with ``purge_instance`` remove it, too."""
        refuse_legacy(request, "name", "version")
        house = self._house
        force = flag(request, "force", default=False)
        purge = flag(request, "purge_instance", default=False)
        name, unit = self._whom(request)
        if name is not None:
            check_spawnable(name, act="killed")
            if name.hive != house.hive:
                return await forward(house, "kill_node", request, name.hive)
        signal = "SIGKILL" if force else (text(request, "signal") or "SIGTERM").upper()
        answer: Payload = {
            "status": "ok",
            "hive": house.hive,
            "target": house.hive,
            "node_name": name.full if name else None,
            "unit": unit,
            "signal": signal,
            "force": force,
            "purge_instance": purge,
        }
        victim = self._victim(name, unit, by_unit=text(request, "unit") is not None)
        async with self._held(request, name, victim):
            if not await self._end(victim, "SIGKILL" if signal == "SIGKILL" else "SIGTERM"):
                answer |= {"status": "not_found", "state": "not_found"}
            if purge and name is not None:
                answer |= await self._purge(name)
        return answer

    def _held(
        self, request: Request, name: NodeName | None, victim: str | None
    ) -> AbstractAsyncContextManager[object]:
        """The queue of the node that ends; it is ours already when the request names it.

        Raises:
            Invalid: the unit is that of another node than the one named.
        """
        if victim is None or request.get("node_name") is None:
            return nullcontext() if victim is None else self._house.locks.ticket(f"node:{victim}")
        if name is not None and victim != name.full:
            raise Invalid(f"the unit is that of {victim}, not of {name.full}", field="unit")
        return nullcontext()

    def _whom(self, request: Request) -> tuple[NodeName | None, str]:
        house = self._house
        given = text(request, "unit")
        if request.get("node_name") is None:
            if given is None:
                raise Invalid("missing unit or node_name", field="node_name")
            unit = unit_name("", given)
            known = house.supervisor.by_unit(unit)
            return (None if known is None else node_of({"node_name": known}, house.hive)), unit
        name = node_of(request, house.hive)
        process = house.supervisor.process(name.full)
        return name, process.unit if process and given is None else unit_name(name.full, given)

    def _victim(self, name: NodeName | None, unit: str, *, by_unit: bool) -> str | None:
        if by_unit:
            return self._house.supervisor.by_unit(unit)
        return name.full if name is not None else None

    async def _end(self, victim: str | None, signal: StopSignal) -> bool:
        if victim is None:
            return False
        grace_s = _KILLED_S if signal == "SIGKILL" else float(self._house.settings.kill_grace_s)
        self._house.troubles.pop(victim, None)  # nobody is to bring it back any more
        ended = await self._house.supervisor.stop(victim, signal=signal, grace_s=grace_s)
        if ended:
            log.info("node_killed", node=victim, signal=signal)
        return ended

    async def _purge(self, name: NodeName) -> Payload:
        timers = await self._purge_timers(name.full)
        try:
            process = self._house.supervisor.process(name.full)
            if process is not None and process.active:  # the unit that was named is not its own
                raise Conflict(f"{name.full} runs", remedy=f"Kill its unit {process.unit}.")
            removed = await self._remove(name)
        except FluxbeeError as error:
            raise Unavailable(
                error.message,
                code="NODE_INSTANCE_PURGE_FAILED",
                remedy=error.remedy,
                details={"node_name": name.full, "timer_purge": timers},
            ) from error
        answer: Payload = {"timer_purge": timers, "instance_purged": removed is not None}
        if removed is None:
            return {**answer, "purge_status": "not_found"}
        return {
            **answer,
            "removed_path": str(removed.directory),
            "removed_kind_dir": removed.kind_directory,
        }

    # --- removal ---------------------------------------------------------------------------------------

    async def remove_node_instance(self, request: Request, source: str) -> Payload:
        """Delete the instance of a node that does not run."""
        refuse_legacy(request, "name", "version")
        house = self._house
        name = node_of(request, house.hive)
        check_spawnable(name, act="removed")
        if name.hive != house.hive:
            return await forward(house, "remove_node_instance", request, name.hive)
        where: Payload = {"target": house.hive, "hive": house.hive, "node_name": name.full}
        instance = Instance(house.paths, name.full)
        if not instance.exists:
            return {
                "status": "not_found",
                **where,
                "error_code": None,
                "message": f"{name.full} has no instance",
            }
        config, _ = instance.config()
        unit = unit_name(name.full, system_part(config).unit)
        visible = await house.sees(name.full)
        process = house.supervisor.process(name.full)
        if visible or (process is not None and process.active):
            raise Conflict(
                f"{name.full} runs",
                code="NODE_INSTANCE_RUNNING",
                remedy="Kill it first.",
                details={**where, "unit": unit, "visible_in_router": visible},
            )
        await self._end(name.full, "SIGTERM")  # a parked one is put to rest
        timers = await self._purge_timers(name.full)
        try:
            removed = await self._remove(name)
        except FluxbeeError as error:
            raise Unavailable(
                error.message, code="NODE_INSTANCE_REMOVE_FAILED", remedy=error.remedy, details=where
            ) from error
        return {
            "status": "ok",
            **where,
            "unit": unit,
            "removed_path": str(instance.directory),
            "removed_kind_dir": removed is not None and removed.kind_directory,
            "timer_purge": timers,
        }

    async def _remove(self, name: NodeName) -> Removed | None:
        house = self._house
        instance = Instance(house.paths, name.full)
        removed = await trio.to_thread.run_sync(instance.remove, limiter=house.files)
        logs = partial(shutil.rmtree, house.paths.node_logs / name.full, ignore_errors=True)
        await trio.to_thread.run_sync(logs, limiter=house.files)
        house.supervisor.drop(name.full)
        house.troubles.pop(name.full, None)
        self._forget(name.full)
        return removed

    async def _purge_timers(self, owner: str) -> Payload:
        """Ask the timer service to drop the node's timers; its absence is no failure and no wait."""
        target = f"SY.timer@{self._house.hive}"
        block: Payload = {"target": target, "owner_l2_name": owner}
        try:
            answer = await self._house.ask(
                target, verbs.TIMER_PURGE_OWNER, {"owner_l2_name": owner}, timeout_s=_TIMER_S
            )
        except FluxbeeError as error:
            return {"status": "error", **block, "message": error.message}
        if answer.get("ok") is not True:
            return {"status": "error", **block, "message": str(answer.get("error") or "refused")}
        return {"status": "ok", **block, "deleted_count": answer.get("deleted_count", 0), "payload": answer}
