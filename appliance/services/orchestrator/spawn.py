"""run_node: from a request to a process, in the strict order of ``spec/admin-api.md §D.3``.

The first failing step answers. Whether the name is free is asked before the identity is registered and again
by making ``config.json``, which only one of two spawns can do. Success means launched, not healthy.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from appliance.supervise.instance import Instance
from appliance.supervise.manifest import check_runtime, check_version
from appliance.supervise.names import NodeName, check_spawnable, unit_name
from appliance.supervise.node_config import SpawnFacts, check_patch, identity_tenant, spawn_config
from appliance.supervise.resolve import CURRENT, Launchable, derive_runtime
from appliance.system.log import get_logger
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, Unavailable

from .asked import node_of, refuse_legacy, text
from .forward import forward
from .house import ADMIN_SOURCE, Handler, House, Payload, Request
from .identities import Identities
from .plans import Plans
from .verbs_table import runtime_resource

__all__ = ["SpawnVerbs"]

log = get_logger("orchestrator")


class SpawnVerbs:
    """Handles ``run_node``."""

    def __init__(self, house: House, plans: Plans) -> None:
        self._house = house
        self._plans = plans
        self._identities = Identities(house)
        self.handlers: Mapping[str, Handler] = {"run_node": self.run_node}

    async def run_node(self, request: Request, source: str) -> Payload:
        """Spawn a node that does not exist yet."""
        refuse_legacy(request, "name", "version")
        house = self._house
        name = node_of(request, house.hive)
        check_spawnable(name, act="spawned")
        runtime = _runtime_of(request, name)
        version = CURRENT if request.get("runtime_version") is None else request["runtime_version"]
        version = check_version(version)
        unit = unit_name(name.full, text(request, "unit"))
        if name.hive != house.hive:
            resolved = {"node_name": name.full, "runtime": runtime, "runtime_version": version, "unit": unit}
            return await forward(house, "run_node", {**request, **resolved}, name.hive)
        holder = house.supervisor.by_unit(unit)
        if holder not in (None, name.full):
            raise Invalid(f"unit {unit!r} is that of {holder}", field="unit")
        config = check_patch(request.get("config"))
        launchable = await self._resolved(name, runtime, version)
        instance = Instance(house.paths, name.full)
        if instance.config_path.exists():
            raise Conflict(
                f"{name.full} exists already: {instance.config_path}",
                code="NODE_ALREADY_EXISTS",
                remedy="Start it, or remove its instance first.",
            )
        ilk, identity = await self._identify(name, request, config, source)
        facts = SpawnFacts(
            name=name,
            runtime=launchable.runtime,
            runtime_version=launchable.version,
            runtime_base=launchable.runtime_base,
            package_path=launchable.package_path,
            ilk_id=ilk,
            now_ms=house.clock.wall_ms(),
            unit=unit if text(request, "unit") else None,
        )
        effective = spawn_config(
            facts,
            template=launchable.template,
            config=config,
            requested_tenant=text(request, "tenant_id"),
            default_tenant=house.settings.default_tenant_id,
        )
        async with house.locks.ticket(runtime_resource(launchable.runtime)):
            # Nobody removes the version between this look and the launch.
            launchable = await self._resolved(name, launchable.runtime, launchable.version, version)
            await trio.to_thread.run_sync(instance.create_config, effective, limiter=house.files)
            already = not await self._launch(name, unit, launchable)
        answer: Payload = {
            "status": "ok",
            "node_name": name.full,
            "runtime": launchable.runtime,
            "version": launchable.version,
            "requested_version": version,
            "hive": house.hive,
            "target": house.hive,
            "unit": unit,
            "identity": identity,
            "config": {
                "status": "ok",
                "path": str(instance.config_path),
                "created": True,
                "config_version": 1,
            },
        }
        return {**answer, "state": "already_running"} if already else answer

    async def _resolved(
        self, name: NodeName, runtime: str, version: str, requested: str | None = None
    ) -> Launchable:
        try:
            return await self._plans.resolve(runtime, version)
        except FluxbeeError as error:
            where = {"target": self._house.hive, "node_name": name.full}
            raise _with(error, where, requested) from error

    async def _identify(
        self, name: NodeName, request: Request, config: Mapping[str, object], source: str
    ) -> tuple[str, Payload]:
        default = self._house.settings.default_tenant_id
        try:
            tenant = identity_tenant(request.get("tenant_id"), config, default)
        except Invalid as error:
            raise Invalid(error.message, code="IDENTITY_REGISTER_FAILED", field=error.field) from error
        return await self._identities.register(
            name, request, tenant=tenant, through_admin=source.startswith(ADMIN_SOURCE)
        )

    async def _launch(self, name: NodeName, unit: str, launchable: Launchable) -> bool:
        house = self._house
        try:
            plan = await self._plans.for_new(name.full, unit, launchable)
            started = await house.supervisor.start(plan.launch)
        except FluxbeeError as error:
            house.troubles[name.full] = error.message
            raise Unavailable(
                f"{name.full} was not started: {error.message}",
                code="SPAWN_FAILED",
                remedy=error.remedy,
                details={"node_name": name.full, "target": house.hive},
            ) from error
        house.troubles.pop(name.full, None)
        log.info("node_spawned", node=name.full, runtime=launchable.runtime, version=launchable.version)
        return started


def _runtime_of(request: Request, name: NodeName) -> str:
    given = request.get("runtime")
    runtime = derive_runtime(name.full) if given is None else given
    if runtime is None:
        raise Invalid(f"no runtime given, and none follows from {name.short!r}", field="runtime")
    return check_runtime(runtime)


def _with(error: FluxbeeError, details: Mapping[str, object], requested: str | None) -> FluxbeeError:
    more = {**error.details, **details}
    if requested is not None:
        more["requested_version"] = requested
    return type(error)(error.message, code=error.code, remedy=error.remedy, field=error.field, details=more)
