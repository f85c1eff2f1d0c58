"""Bringing nodes back when the orchestrator starts (``spec/admin-api.md §D.8``).

Every instance with ``relaunch_on_boot`` is started unless it lives or the router sees it, with the version
that it is pinned to, also in the middle of an update. Workflows and agents come before the edges, so that an
edge opens when those behind it live. A failure is logged, shown in the node's status, and the next goes on;
what may pass (a router on its way back, files that are still to arrive) is tried again, until somebody else
starts, kills or removes the node.
"""

from __future__ import annotations

from typing import Final

import trio

from appliance.supervise.catalog import InstanceCatalog, StoredNode
from appliance.system.log import get_logger
from appliance.wire.errors import Busy, FluxbeeError, NotFound, Unavailable, Unreachable
from appliance.wire.names import is_system_name

from .house import House
from .plans import Plans

__all__ = ["Reconciler", "boot_order"]

log = get_logger("orchestrator")

_RANKS: Final = {"WF": 0, "AI": 1, "IO": 3}
_OTHER: Final = 2

_PASSING: Final = (Busy, NotFound, Unavailable, Unreachable)
_FIRST_S: Final = 1.0
_LONGEST_S: Final = 60.0


def boot_order(name: str) -> tuple[int, str]:
    """Sort key: workflows, agents, others, edges; by name within."""
    return _RANKS.get(name.partition(".")[0], _OTHER), name


class Reconciler:
    """Runs once per orchestrator.

    Attributes:
        started, failed: how many nodes were started, and could not be.
        done: set when all were tried.
    """

    def __init__(self, house: House, plans: Plans) -> None:
        self._house = house
        self._plans = plans
        self._begun = False
        self.started = 0
        self.failed = 0
        self.done = trio.Event()
        self._again: list[str] = []

    async def run(self) -> None:
        """:meth:`run_once`, and then again with growing waits those whose trouble may pass."""
        await self.run_once()
        wait_s = _FIRST_S
        while self._again:
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_S)
            names, self._again = self._again, []
            for name in names:
                await self._bring_back(name, again=True)

    async def run_once(self) -> None:
        """Start what belongs to this hive; a second call does nothing."""
        if self._begun:
            return
        self._begun = True
        try:
            for node in await self._wanted():
                await self._bring_back(node.name)
        finally:
            self.done.set()
        if self.started or self.failed:
            log.info("nodes_reconciled", started=self.started, failed=self.failed)

    async def _wanted(self) -> list[StoredNode]:
        house = self._house
        stored = await trio.to_thread.run_sync(InstanceCatalog(house.paths).look, limiter=house.files)
        house.supervisor.ledger.keep(stored)
        suffix = f"@{house.hive}"
        wanted = [
            node
            for node in stored.values()
            if node.system.relaunch_on_boot
            and node.system.runtime
            and node.system.runtime_version
            and node.name.endswith(suffix)
            and not is_system_name(node.name)
        ]
        return sorted(wanted, key=lambda node: boot_order(node.name))

    async def _bring_back(self, name: str, *, again: bool = False) -> None:
        house = self._house
        async with house.locks.ticket(f"node:{name}"):
            if again and name not in house.troubles:
                return  # somebody dealt with it
            process = house.supervisor.process(name)
            if process is not None and process.active:
                return
            try:
                if await house.sees(name):
                    return
                plan = await self._plans.for_stored(name)
                await house.supervisor.start(plan.launch)
            except FluxbeeError as error:
                if again and error.code == "NODE_CONFIG_NOT_FOUND":
                    del house.troubles[name]  # somebody took its directory away
                    return
                house.troubles[name] = error.message
                if isinstance(error, _PASSING):
                    self._again.append(name)
                if again:
                    return
                self.failed += 1
                log.warning(
                    "node_not_brought_back",
                    code="NODE_NOT_BROUGHT_BACK",
                    node=name,
                    reason=error.code,
                    error=error.message,
                )
            else:
                house.troubles.pop(name, None)
                self.started += 1
