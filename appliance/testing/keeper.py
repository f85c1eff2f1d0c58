"""A keeper without processes: what a supervisor asks of it is recorded, what happens is said by the test.

Satisfies :class:`appliance.supervise.processes.NodeKeeper`, with the refusals of the real one. A stop ends
the process at once unless the name is in ``stubborn``.
"""

from __future__ import annotations

import itertools

import msgspec
import trio

from appliance.keeper.nodes_protocol import NodeEnded, NodeLaunch, NodeProcess, StopSignal, check_launch
from appliance.testing.clock import EPOCH_2026_MS
from appliance.wire.errors import Conflict, FluxbeeError, NotFound

__all__ = ["FakeKeeper"]

_FIRST_PID = 40_000


class FakeKeeper:
    """Keeps records of processes that do not exist.

    Attributes:
        records: by name, as ``nodes`` returns them.
        calls: ``(what, name)`` in order.
        refuse_start: raised by every launch while it is set.
        stubborn: names that do not end when told; the test says ``end``.
        node_events: where the ends come out.
    """

    def __init__(self) -> None:
        self.records: dict[str, NodeProcess] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse_start: FluxbeeError | None = None
        self.stubborn: set[str] = set()
        self.followed = False
        self._send, self.node_events = trio.open_memory_channel[NodeEnded](1024)
        self._pids = itertools.count(_FIRST_PID)
        self._started = itertools.count(EPOCH_2026_MS)
        self._serials = itertools.count(1)

    def live(self) -> list[str]:
        """Names with a process, sorted."""
        return sorted(name for name, one in self.records.items() if one.state != "exited")

    def count(self, what: str, name: str) -> int:
        """How often ``what`` (``start``, ``SIGTERM``, ``SIGKILL``, ``forget``) was asked for ``name``."""
        return self.calls.count((what, name))

    # --- what a supervisor asks ------------------------------------------------------------------------

    async def start_node(self, launch: NodeLaunch) -> NodeProcess:
        """Start one; ``Conflict`` ``NODE_RUNNING`` when it lives."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("start", launch.name))
        check_launch(launch)
        if self.refuse_start is not None:
            raise self.refuse_start
        if launch.name in self.live():
            raise Conflict(f"{launch.name} runs", code="NODE_RUNNING")
        return self.place(launch)

    async def stop_node(
        self, name: str, *, signal: StopSignal = "SIGTERM", grace_s: float | None = None
    ) -> NodeProcess:
        """End one."""
        await trio.lowlevel.checkpoint()
        self.calls.append((signal, name))
        if name not in self.records:
            raise NotFound(f"no process {name}")
        if name not in self.stubborn:
            self.end(name, signal=9 if signal == "SIGKILL" else 15)
        return self.records[name]

    async def forget_node(self, name: str) -> None:
        """Drop a record."""
        await trio.lowlevel.checkpoint()
        self.calls.append(("forget", name))
        if name in self.live():
            raise Conflict(f"{name} runs", code="NODE_RUNNING")
        if self.records.pop(name, None) is None:
            raise NotFound(f"no process {name}")

    async def nodes(self) -> list[NodeProcess]:
        """All records."""
        await trio.lowlevel.checkpoint()
        return [self.records[name] for name in sorted(self.records)]

    async def follow_nodes(self) -> None:
        """Ends come as events from now on."""
        await trio.lowlevel.checkpoint()
        self.followed = True

    # --- what a test says ------------------------------------------------------------------------------

    def place(self, launch: NodeLaunch) -> NodeProcess:
        """A process that lives, as one that was started by an earlier control plane."""
        process = NodeProcess(
            name=launch.name,
            unit=launch.unit,
            pid=next(self._pids),
            state="running",
            started_at_ms=next(self._started),
            serial=next(self._serials),
            launch=launch,
        )
        self.records[launch.name] = process
        return process

    def end(
        self, name: str, *, code: int | None = None, signal: int | None = None, oom: bool = False
    ) -> None:
        """The process ends; an ended one stays as it is."""
        process = self.records[name]
        if process.state == "exited":
            return
        ended = msgspec.structs.replace(
            process,
            pid=None,
            state="exited",
            ended_at_ms=process.started_at_ms + 1,
            exit_code=code,
            exit_signal=signal,
            oom_killed=oom,
        )
        self.records[name] = ended
        if self.followed:
            self._send.send_nowait(NodeEnded(process=ended))
