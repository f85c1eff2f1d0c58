"""What the keeper decides about node processes: who may start, who is to be ended when, who has ended.

Sans-IO: events in, ``tick(now)`` gives the commands; ``now`` is monotonic seconds, ``at_ms`` epoch
milliseconds. Invariants: a name and a unit have at most one live process; a stop becomes sooner but never
later; after its deadline a process is killed, once; an ended process stays on record until it is forgotten
or started again. Nothing is ever started from here.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from appliance.keeper.nodes_protocol import (
    MAX_NODE_RECORDS,
    NODE_RUNNING,
    UNIT_RUNNING,
    NodeLaunch,
    NodeProcess,
    NodeState,
    StopSignal,
)
from appliance.system.process import ProcessExit
from appliance.wire.errors import Busy, Conflict, NotFound

__all__ = ["KillNode", "NodeBook", "TerminateNode"]


class TerminateNode(msgspec.Struct, frozen=True):
    """Send SIGTERM to everybody of node ``name``."""

    name: str


class KillNode(msgspec.Struct, frozen=True):
    """Send SIGKILL to everybody of node ``name``; ``overdue`` when it had been asked before."""

    name: str
    overdue: bool


class _Node:
    def __init__(self, launch: NodeLaunch, pid: int, at_ms: int, serial: int) -> None:
        self.launch = launch
        self.serial = serial
        self.pid: int | None = pid
        self.state: NodeState = "running"
        self.started_at_ms = at_ms
        self.ended_at_ms: int | None = None
        self.how: ProcessExit | None = None
        self.oom_killed = False
        self.log_dropped_bytes = 0
        self.asked = self.told = self.killed = False
        self.kill_at: float | None = None

    @property
    def lives(self) -> bool:
        return self.state != "exited"


class NodeBook:
    """The state machine over all node processes."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._stopping = False
        self._serial = 0

    # -- events ------------------------------------------------------------------------------------

    def check_start(self, launch: NodeLaunch) -> None:
        """Whether this may start now.

        Raises:
            Conflict: its name or its unit has a live process, or everything is being stopped.
            Busy: there are ``MAX_NODE_RECORDS`` already.
        """
        if self._stopping:
            raise Conflict("the appliance is stopping; nothing is started any more")
        for name, node in self._nodes.items():
            if node.lives and name == launch.name:
                raise Conflict(f"{name} runs already as process {node.pid}", code=NODE_RUNNING)
            if node.lives and node.launch.unit == launch.unit:
                raise Conflict(f"the unit {launch.unit} belongs to {name}, which runs", code=UNIT_RUNNING)
        if launch.name not in self._nodes and len(self._nodes) >= MAX_NODE_RECORDS:
            raise Busy(f"{MAX_NODE_RECORDS} node processes are on record; forget some that ended")

    def started(self, launch: NodeLaunch, pid: int, at_ms: int) -> NodeProcess:
        """The process exists."""
        self._serial += 1
        self._nodes[launch.name] = _Node(launch, pid, at_ms, self._serial)
        return self.process(launch.name)

    def stop(self, name: str, signal: StopSignal, grace_s: float | None, now: float) -> NodeProcess:
        """Have a process ended.

        Raises:
            NotFound: no process of that name is known.
        """
        node = self._known(name)
        if node.lives:
            grace = node.launch.stop_grace_s if grace_s is None else grace_s
            self._end_by(node, now if signal == "SIGKILL" else now + grace, quietly=signal == "SIGKILL")
        return self.process(name)

    def stop_all(self, now: float, by: float) -> None:
        """Everything ends: all are asked now and killed after their grace, at ``by`` at the latest."""
        self._stopping = True
        for node in self._nodes.values():
            if node.lives:
                self._end_by(node, min(now + node.launch.stop_grace_s, by))

    def exited(self, name: str, how: ProcessExit, at_ms: int, *, oom_killed: bool) -> NodeProcess:
        """The main process has ended and nothing of it is left."""
        node = self._known(name)
        node.pid, node.state, node.kill_at = None, "exited", None
        node.how, node.ended_at_ms, node.oom_killed = how, at_ms, oom_killed
        return self.process(name)

    def dropped(self, name: str, size_bytes: int) -> None:
        """So much of its output was not kept so far."""
        self._known(name).log_dropped_bytes = size_bytes

    def forget(self, name: str) -> None:
        """Drop the record of a process that ended.

        Raises:
            NotFound: no process of that name is known.
            Conflict: it lives.
        """
        node = self._known(name)
        if node.lives:
            raise Conflict(f"{name} runs as process {node.pid}; stop it first", code=NODE_RUNNING)
        del self._nodes[name]

    # -- what follows ------------------------------------------------------------------------------

    def tick(self, now: float) -> list[TerminateNode | KillNode]:
        """What is to be done now. Call it after events and at ``next_deadline``."""
        commands: list[TerminateNode | KillNode] = []
        for name, node in self._nodes.items():
            if node.asked and not node.told and not node.killed:
                node.told = True
                commands.append(TerminateNode(name))
            if node.kill_at is not None and node.kill_at <= now:
                node.kill_at = None
                node.killed = True
                commands.append(KillNode(name, node.told))
        return commands

    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do without an event; ``None`` means never."""
        return min((node.kill_at for node in self._nodes.values() if node.kill_at is not None), default=None)

    @property
    def running(self) -> int:
        """Live processes."""
        return sum(node.lives for node in self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def process(self, name: str) -> NodeProcess:
        """One process as planes see it. Raises ``NotFound``."""
        node = self._known(name)
        how = node.how
        return NodeProcess(
            name=name,
            unit=node.launch.unit,
            pid=node.pid,
            state=node.state,
            started_at_ms=node.started_at_ms,
            serial=node.serial,
            ended_at_ms=node.ended_at_ms,
            exit_code=None if how is None else how.code,
            exit_signal=None if how is None else how.signal,
            oom_killed=node.oom_killed,
            log_dropped_bytes=node.log_dropped_bytes,
            launch=node.launch,
        )

    def processes(self) -> Iterator[NodeProcess]:
        """All processes on record."""
        return map(self.process, tuple(self._nodes))

    # -- private -----------------------------------------------------------------------------------

    def _known(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            raise NotFound(f"no process of {name} is known")
        return node

    @staticmethod
    def _end_by(node: _Node, kill_at: float, *, quietly: bool = False) -> None:
        node.state = "stopping"
        node.asked = node.asked or not quietly
        if not node.killed:
            node.kill_at = kill_at if node.kill_at is None else min(node.kill_at, kill_at)
