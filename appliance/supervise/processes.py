"""What a supervisor asks of the keeper, and what it tells about the processes of nodes.

Shapes only: :mod:`.supervisor` fills them, :class:`appliance.keeper.trio_plane.TrioPlane` and
:class:`appliance.testing.keeper.FakeKeeper` are keepers.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import trio

from appliance.keeper.nodes_protocol import NodeEnded, NodeLaunch, NodeProcess, StopSignal

from .lifecycle import Phase

__all__ = ["ManagedProcess", "NodeKeeper", "SupervisorStatistics"]


class NodeKeeper(Protocol):
    """The keeper's side, as :class:`appliance.keeper.trio_plane.TrioPlane` has it."""

    @property
    def node_events(self) -> trio.MemoryReceiveChannel[NodeEnded]:
        """Ends of node processes; after :meth:`follow_nodes`."""

    async def start_node(self, launch: NodeLaunch) -> NodeProcess:
        """Start a process; ``Conflict`` ``NODE_RUNNING`` when one of that name lives."""

    async def stop_node(
        self, name: str, *, signal: StopSignal = "SIGTERM", grace_s: float | None = None
    ) -> NodeProcess:
        """Have a process ended; its end comes as an event; ``NotFound`` without a record."""

    async def forget_node(self, name: str) -> None:
        """Drop the record of an ended process."""

    async def nodes(self) -> list[NodeProcess]:
        """All records."""

    async def follow_nodes(self) -> None:
        """Send events from now on."""


class ManagedProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one node's process.

    ``started_at_ms`` is wall clock; ``exit_code`` and ``exit_signal`` are those of the last end;
    ``retry_in_s`` counts down a waiting restart; ``trouble`` is why the last launch failed.
    """

    name: str
    unit: str
    phase: Phase
    active: bool
    has_process: bool
    pid: int | None
    started_at_ms: int | None
    exit_code: int | None
    exit_signal: int | None
    oom_killed: bool
    restarts: int
    failures: int
    retry_in_s: float | None
    trouble: str | None


class SupervisorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start of this plane, and what is held now."""

    nodes: int
    active: int
    waiting: int
    parked: int
    launches: int
    launch_failures: int
    ends: int
    restarts: int
    adopted: int
    keeper_errors: int
    ledger_failures: int
