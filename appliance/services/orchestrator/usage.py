"""Which nodes run which version of a runtime (``spec/admin-api.md §B.9.2``).

Of this hive from the instances on disk and the supervisor's processes, of others from their orchestrators'
node lists. A hive that does not answer is named as skipped: its nodes are not visible.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import trio

from appliance.supervise.instance import list_instances
from appliance.supervise.lifecycle import Phase
from appliance.supervise.node_config import SYSTEM_KEY
from appliance.supervise.retention import Reference, references_of
from appliance.wire.errors import FluxbeeError, Unavailable

from .forward import forward
from .house import House

__all__ = ["GlobalUsage", "RunningNode", "SkippedHive", "Usage", "UsageReader"]

_AT_ONCE: Final = 8
_ANSWER_S: Final = 5.0
_WORDS: Final = {Phase.LAUNCHING: "STARTING", Phase.STARTING: "STARTING", Phase.WAITING: "STARTING"}


class RunningNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that lives, and what it runs."""

    node_name: str
    hive: str
    runtime: str
    runtime_version: str | None
    lifecycle: str


class SkippedHive(msgspec.Struct, frozen=True, kw_only=True):
    """A hive whose nodes are not known, and why."""

    hive: str
    reason: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Use on this hive."""

    scope: Literal["hive_local_visible"] = "hive_local_visible"
    in_use: bool
    running_count: int
    running_nodes: tuple[RunningNode, ...]


class GlobalUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Use on every hive that answers."""

    scope: Literal["group_visible_control_plane"] = "group_visible_control_plane"
    in_use: bool
    running_count: int
    running_nodes: tuple[RunningNode, ...]
    skipped_hives: tuple[SkippedHive, ...]


class UsageReader:
    """Asks; see the module.

    Args:
        house: what all verbs share.
    """

    def __init__(self, house: House) -> None:
        self._house = house

    async def local(self, runtime: str, version: str | None = None) -> Usage:
        """Nodes of this hive that run ``version`` (None: any) of ``runtime``.

        Raises:
            Unavailable: the instances cannot be listed.
        """
        nodes = tuple(node for node in await self._local_nodes() if _runs(node, runtime, version))
        return Usage(in_use=bool(nodes), running_count=len(nodes), running_nodes=nodes)

    async def everywhere(self, hives: list[str], runtime: str, version: str | None = None) -> GlobalUsage:
        """The same over this hive and ``hives``; errors as :meth:`local`."""
        found = list(await self._local_nodes())
        skipped: list[SkippedHive] = []
        limit = trio.CapacityLimiter(_AT_ONCE)

        async def ask(hive: str) -> None:
            async with limit:
                try:
                    found.extend(await self._remote_nodes(hive))
                except FluxbeeError as error:
                    skipped.append(SkippedHive(hive=hive, reason=error.message))

        async with trio.open_nursery() as nursery:
            for hive in hives:
                if hive != self._house.hive:
                    nursery.start_soon(ask, hive)
        nodes = tuple(sorted((n for n in found if _runs(n, runtime, version)), key=lambda n: n.node_name))
        return GlobalUsage(
            in_use=bool(nodes),
            running_count=len(nodes),
            running_nodes=nodes,
            skipped_hives=tuple(sorted(skipped, key=lambda one: one.hive)),
        )

    async def references(self) -> set[Reference]:
        """What all instances of this hive need, running or not.

        Raises:
            Unavailable: one of them does not read: what it needs is not known.
        """
        parts = await trio.to_thread.run_sync(self._system_parts, limiter=self._house.files)
        unread = [name for name, part in parts.items() if part is None]
        if unread:
            raise Unavailable(f"the configuration of {unread[0]} does not read")
        return references_of(part for part in parts.values() if part is not None)

    def _system_parts(self) -> dict[str, dict[str, object] | None]:
        """``_system`` by node name; None when config.json is there and does not read."""
        parts: dict[str, dict[str, object] | None] = {}
        for instance in list_instances(self._house.paths):
            config, facts = instance.config()
            part = None if config is None else config.get(SYSTEM_KEY)
            if isinstance(part, dict):
                parts[instance.name] = part
            elif facts.exists and config is None:
                parts[instance.name] = None
        return parts

    async def _local_nodes(self) -> list[RunningNode]:
        parts = await trio.to_thread.run_sync(self._system_parts, limiter=self._house.files)
        nodes: list[RunningNode] = []
        for process in self._house.supervisor.processes():
            part = parts.get(process.name)
            if process.active and part is not None:
                version = part.get("runtime_version")
                nodes.append(
                    RunningNode(
                        node_name=process.name,
                        hive=self._house.hive,
                        runtime=str(part.get("runtime")),
                        runtime_version=version if isinstance(version, str) else None,
                        lifecycle=_WORDS.get(process.phase, "RUNNING"),
                    )
                )
        return nodes

    async def _remote_nodes(self, hive: str) -> list[RunningNode]:
        with trio.move_on_after(_ANSWER_S):
            answer = await forward(self._house, "list_nodes", {}, hive)
            rows = answer.get("nodes")
            if answer.get("status") != "ok" or not isinstance(rows, list):
                raise Unavailable(f"{hive} gave no list of nodes")
            return [node for row in rows if (node := _node_of(row, hive)) is not None]
        raise Unavailable(f"{hive} did not answer in time")


def _node_of(row: object, hive: str) -> RunningNode | None:
    """A running managed node of another hive's list; None for everything else in it."""
    if not isinstance(row, dict) or row.get("lifecycle_state") not in ("RUNNING", "STARTING"):
        return None
    runtime = row.get("runtime")
    name, version = (
        (runtime.get("name"), runtime.get("version")) if isinstance(runtime, dict) else (None, None)
    )
    if not isinstance(name, str):
        return None
    return RunningNode(
        node_name=str(row.get("node_name")),
        hive=hive,
        runtime=name,
        runtime_version=version if isinstance(version, str) else None,
        lifecycle=str(row["lifecycle_state"]),
    )


def _runs(node: RunningNode, runtime: str, version: str | None) -> bool:
    if node.runtime != runtime:
        return False
    return version is None or node.runtime_version in (None, version)
