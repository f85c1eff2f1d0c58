"""get_node_status: what is known of one node, put together when asked (``spec/admin-api.md §D.6``).

Process, router, files and the node itself are asked at once; the node has two seconds. A node that waits for
its restart is ``STARTING``, a parked one ``FAILED`` with the reason in ``last_error``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import trio

from appliance.supervise.instance import FileFacts, Instance
from appliance.supervise.lifecycle import Phase
from appliance.supervise.names import NodeName, unit_name
from appliance.supervise.node_config import SystemPart, system_part
from appliance.supervise.processes import ManagedProcess
from appliance.supervise.status_version import StatusVersions
from appliance.system.clock import iso_seconds
from appliance.wire import verbs
from appliance.wire.errors import FluxbeeError, NotFound
from appliance.wire.names import is_system_name
from appliance.wire.nodestatus import HealthState

from .asked import node_of
from .forward import forward
from .house import Handler, House, Payload, Request

__all__ = ["NodeFacts", "StatusVerbs", "inferred_health", "lifecycle_of"]

NODE_TIMEOUT_S: Final = 2.0
_FAILED: Final = (Phase.FAILED, Phase.PARKED)

_NODE_REPORTED: Final = "NODE_REPORTED"
_INFERRED: Final = "ORCHESTRATOR_INFERRED"
_UNKNOWN: Final = "UNKNOWN"


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What process, router and disk say of one node."""

    process: ManagedProcess | None
    visible: bool
    config: FileFacts
    state: FileFacts
    system: SystemPart
    state_error: object = None
    is_system: bool = False


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """What the node answered about itself."""

    health: str | None = None
    last_error: object = None
    extensions: object = None


def lifecycle_of(facts: NodeFacts) -> str:
    """``RUNNING``, ``STARTING``, ``FAILED``, ``STOPPED`` or ``UNKNOWN``."""
    process = facts.process
    if facts.is_system and facts.visible:
        return "RUNNING"
    if process is not None and process.active:
        return "RUNNING" if facts.visible and process.has_process else "STARTING"
    if process is not None and process.phase in _FAILED:
        return "FAILED"
    return "STOPPED" if facts.config.exists or facts.state.exists else _UNKNOWN


def inferred_health(facts: NodeFacts, lifecycle: str) -> tuple[str, str]:
    """Health and its source as far as they follow without asking the node."""
    if lifecycle != "RUNNING":
        return _UNKNOWN, _UNKNOWN
    if facts.is_system:
        return HealthState.HEALTHY.value, _INFERRED
    if not facts.config.exists or not facts.config.valid:
        return HealthState.ERROR.value, _INFERRED
    if facts.state_error is not None:
        return HealthState.DEGRADED.value, _INFERRED
    return HealthState.HEALTHY.value, _INFERRED


class StatusVerbs:
    """Handles ``get_node_status``."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._versions = StatusVersions()
        self._writing = trio.CapacityLimiter(1)
        self.handlers: Mapping[str, Handler] = {"get_node_status": self.get_node_status}

    def forget(self, name: str) -> None:
        """The instance is gone: its counter starts again."""
        self._versions.forget(name)

    async def get_node_status(self, request: Request, source: str) -> Payload:
        """The status of one node."""
        house = self._house
        name = node_of(request, house.hive)
        if name.hive != house.hive:
            return await forward(house, "get_node_status", request, name.hive)
        instance = Instance(house.paths, name.full)
        facts = await self._facts(name, instance)
        if facts.process is None and not (facts.visible or facts.config.exists or facts.state.exists):
            where = {"target": house.hive, "hive": house.hive, "node_name": name.full}
            raise NotFound(f"nothing is known of {name.full}", code="NODE_NOT_FOUND", details=where)
        lifecycle = lifecycle_of(facts)
        said = await self._ask(name.full) if lifecycle == "RUNNING" else _Said()
        status = await self._compose(name, instance, facts, lifecycle, said)
        return {
            "status": "ok",
            "target": house.hive,
            "hive": house.hive,
            "node_name": name.full,
            "node_status": status,
        }

    async def _facts(self, name: NodeName, instance: Instance) -> NodeFacts:
        house = self._house
        (config, config_facts), (state, state_facts) = await trio.to_thread.run_sync(
            lambda: (instance.config(), instance.state()), limiter=house.files
        )
        visible = await house.sees(name.full)
        return NodeFacts(
            process=house.supervisor.process(name.full),
            visible=visible,
            config=config_facts,
            state=state_facts,
            system=system_part(config),
            state_error=None if state is None else state.get("last_error"),
            is_system=is_system_name(name.short),
        )

    async def _ask(self, name: str) -> _Said:
        house = self._house
        node = house.connected()
        if name == node.full_name:
            return _Said(health=HealthState.HEALTHY.value)
        if name == node.router_name:
            return _Said()  # routers do not answer it; that it serves is known from our own connection
        try:
            body = await house.ask(name, verbs.NODE_STATUS_GET, {"node_name": name}, timeout_s=NODE_TIMEOUT_S)
        except FluxbeeError:
            return _Said()  # silent: health is inferred
        inner = body.get("payload")
        nested: Mapping[str, object] = inner if isinstance(inner, dict) else {}

        def pick(key: str) -> object:
            value = body.get(key)
            return nested.get(key) if value is None else value

        word = pick("health_state")
        health = word.strip().upper() if isinstance(word, str) else ""
        known = health in HealthState.__members__
        return _Said(
            health=health if known else None, last_error=pick("last_error"), extensions=pick("extensions")
        )

    async def _compose(
        self, name: NodeName, instance: Instance, facts: NodeFacts, lifecycle: str, said: _Said
    ) -> Payload:
        house = self._house
        health, source = inferred_health(facts, lifecycle)
        if said.health is not None:
            health, source = said.health, _NODE_REPORTED
        last_error = facts.state_error if said.last_error is None else said.last_error
        if last_error is None:
            last_error = self._trouble(name.full, facts, lifecycle)
        system = facts.system
        runtime = {
            "name": system.runtime,
            "requested_version": system.requested_version,
            "resolved_version": system.runtime_version,
        }
        process = _process_block(facts.process, unit_name(name.full, system.unit))
        members: Payload = {
            "lifecycle": lifecycle,
            "health": health,
            "source": source,
            "runtime": runtime,
            "config": [facts.config.exists, facts.config.valid, system.config_version],
            "state": facts.state.exists,
            "process": [process[key] for key in ("pid", "exit_code", "restart_count", "started_at")],
            "identity": [system.ilk_id, system.tenant_id],
            "last_error": last_error,
        }
        status: Payload = {
            "schema_version": "1",
            "node_name": name.full,
            "hive_id": house.hive,
            "observed_at": iso_seconds(house.clock.wall_ms()),
            "lifecycle_state": lifecycle,
            "health_state": health,
            "health_source": source,
            "status_version": await self._version(instance, members),
            "runtime": runtime,
            "process": process,
            "config": _config_block(instance, facts),
            "state": {"path": str(instance.state_path), "exists": facts.state.exists},
            "identity": {"ilk_id": system.ilk_id, "tenant_id": system.tenant_id},
            "visible_in_router": facts.visible,
        }
        if last_error is not None:
            status["last_error"] = last_error
        if said.extensions is not None:
            status["extensions"] = said.extensions
        return status

    def _trouble(self, name: str, facts: NodeFacts, lifecycle: str) -> object:
        process = facts.process
        if lifecycle == "FAILED" and process is not None:
            parked = process.phase is Phase.PARKED
            text = (
                f"parked: it ended {process.failures} times in a row; start it when the cause is mended"
                if parked
                else process.trouble or "it did not start"
            )
            return {"code": "NODE_PARKED" if parked else "NODE_NOT_STARTED", "message": text}
        why = self._house.troubles.get(name)
        return None if why is None or lifecycle == "RUNNING" else {"code": "NODE_NOT_STARTED", "message": why}

    async def _version(self, instance: Instance, members: Payload) -> int:
        known = self._versions.unchanged(instance.name, members)
        if known is not None:
            return known
        return await trio.to_thread.run_sync(self._versions.version, instance, members, limiter=self._writing)


def _process_block(process: ManagedProcess | None, unit: str) -> Payload:
    if process is None:
        return {
            "unit": unit,
            "pid": None,
            "exit_code": 0,
            "restart_count": 0,
            "started_at": None,
        }
    started = process.started_at_ms
    return {
        "unit": process.unit,
        "pid": process.pid,
        "exit_code": process.exit_code or 0,
        "restart_count": process.restarts,
        "started_at": None if started is None else iso_seconds(started),
        "phase": process.phase.value,
        "exit_signal": process.exit_signal,
        "oom_killed": process.oom_killed,
        "failures": process.failures,
        "retry_in_s": None if process.retry_in_s is None else round(process.retry_in_s, 1),
    }


def _config_block(instance: Instance, facts: NodeFacts) -> Payload:
    updated = facts.config.updated_at_ms
    return {
        "path": str(instance.config_path),
        "exists": facts.config.exists,
        "valid": facts.config.valid,
        "config_version": facts.system.config_version,
        "updated_at": None if updated is None else iso_seconds(updated),
    }
