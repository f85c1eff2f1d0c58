"""From a runtime or a stored instance to a launch: what spawn, start, restart and reconciliation share."""

from __future__ import annotations

import msgspec
import trio

from appliance.keeper.nodes_protocol import NodeLaunch
from appliance.supervise.environment import LaunchMaker
from appliance.supervise.instance import Instance
from appliance.supervise.manifest import read_manifest, version_directory
from appliance.supervise.names import unit_name
from appliance.supervise.node_config import launch_part, system_part
from appliance.supervise.resolve import Launchable, resolve

from .house import House

__all__ = ["Plan", "Plans"]


class Plan(msgspec.Struct, frozen=True):
    """A runtime that is there, and how to start it for one node."""

    launchable: Launchable
    launch: NodeLaunch


class Plans:
    """Makes plans; everything is read anew, because scripts edit manifest and packages behind our back."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._maker = LaunchMaker(house.paths, house.settings)

    async def resolve(self, runtime: str, version: str) -> Launchable:
        """Steps 7 to 11 of ``spec/admin-api.md §D.3``; errors as :func:`.resolve.resolve`."""
        return await trio.to_thread.run_sync(self._resolve, runtime, version, limiter=self._house.files)

    def _resolve(self, runtime: str, version: str) -> Launchable:
        dist = self._house.paths.dist
        return resolve(read_manifest(dist), dist, runtime, version)

    async def for_new(self, name: str, unit: str, launchable: Launchable) -> Plan:
        """How to start a node whose runtime is resolved.

        Raises:
            Damaged, Misconfigured, Unavailable: as :meth:`LaunchMaker.launch`.
        """
        return await trio.to_thread.run_sync(self._plan, name, unit, launchable, limiter=self._house.files)

    def _plan(self, name: str, unit: str, launchable: Launchable) -> Plan:
        package = version_directory(self._house.paths.dist, launchable.runtime, launchable.version)
        return Plan(launchable, self._maker.launch(name, unit, launchable.start_script, package))

    async def for_stored(self, name: str) -> Plan:
        """How to start a node that has an instance, with the version that it is pinned to.

        Raises:
            NotFound: ``NODE_CONFIG_NOT_FOUND``.
            Unavailable, Damaged: ``NODE_CONFIG_READ_FAILED``, ``NODE_CONFIG_INVALID``; errors of the runtime.
        """
        return await trio.to_thread.run_sync(self._stored, name, limiter=self._house.files)

    def _stored(self, name: str) -> Plan:
        config = Instance(self._house.paths, name).read_config()
        runtime, version = launch_part(config, name)
        return self._plan(name, unit_name(name, system_part(config).unit), self._resolve(runtime, version))
