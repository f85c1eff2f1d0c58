"""The processes of managed nodes: decisions of :mod:`.lifecycle`, carried out by the keeper.

Invariants: one :class:`NodeLifecycle` per name; its commands are carried out in order, one at a time, by a
task of :meth:`Supervisor.run`, so a cancelled caller leaves nothing half done. Nothing polls: ends are
events, and one task sleeps until the nearest restart is due. Nodes that the keeper kept while nobody decided
are adopted at the start. It knows no files of nodes and no messages.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

import trio

from appliance.keeper.nodes_protocol import NodeLaunch, NodeProcess, StopSignal
from appliance.system.clock import Clock
from appliance.system.log import get_logger
from appliance.wire.errors import Busy, Conflict, FluxbeeError, NotFound, Unavailable

from .backoff import RestartPolicy
from .errands import AGAIN_S, forget_record
from .lifecycle import Command, Forget, NodeEnd, NodeLifecycle, Phase, Start, Stop
from .processes import ManagedProcess, NodeKeeper, SupervisorStatistics
from .restarts import RestartLedger

__all__ = ["Supervisor"]

log = get_logger("supervise")

_LAUNCH_S = 10.0
"""A launch that the keeper did not answer by then has failed."""

_MOST_TALKS = 32
"""Questions to the keeper at a time; it refuses more than 64 of one plane, and others ask it, too."""

_SLACK_S = 5.0
"""How much longer than its grace a stop may take, for the keeper to kill and to say so."""


class _Entry:
    """One node."""

    __slots__ = ("busy", "changed", "commands", "gone", "launch", "life", "process")

    def __init__(self, life: NodeLifecycle, launch: NodeLaunch) -> None:
        self.life = life
        self.launch = launch
        self.process: NodeProcess | None = None
        self.commands: deque[Command] = deque()
        self.busy = False
        self.changed = trio.Event()
        self.gone = 0  # serial of the last process whose end was dealt with

    def touch(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Supervisor:
    """Start :meth:`run` first; everything else may then be called from any task of the loop.

    Args:
        keeper: who owns the processes.
        policy: waits between restarts.
        clock: monotonic for waits.
        ledger: where restart counts outlive this plane.
    """

    def __init__(
        self, keeper: NodeKeeper, policy: RestartPolicy, clock: Clock, ledger: RestartLedger
    ) -> None:
        self._keeper = keeper
        self._policy = policy
        self._clock = clock
        self.ledger = ledger
        self._entries: dict[str, _Entry] = {}
        self._nursery: trio.Nursery | None = None
        self._talking = trio.Semaphore(_MOST_TALKS)
        self._rescheduled = trio.Event()
        self._launches = self._launch_failures = self._ends = 0
        self._restarts = self._adopted = self._keeper_errors = 0

    # --- life of the supervisor ------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopt what lives, then follow ends and due restarts until cancelled; started means adopted.

        Raises:
            Unavailable: the keeper does not answer.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.ledger.load()
            await self._keeper.follow_nodes()
            await self._adopt()
            nursery.start_soon(self._follow)
            nursery.start_soon(self.ledger.run)
            task_status.started()
            await self._wake()

    async def _adopt(self) -> None:
        for process in await self._keeper.nodes():
            entry = self._entry(process.launch)
            entry.process = process
            if process.state == "exited":
                # Whoever asked for its end, or what failed, is not known any more: reconciliation decides.
                self._note_end(entry, process)
                self._keeper_errors += await forget_record(self._keeper, process.name)
                continue
            self._adopted += 1
            age_s = max((self._clock.wall_ms() - process.started_at_ms) / 1000, 0.0)
            restarts = self.ledger.count(process.name)
            entry.life.adopted(self._clock.monotonic(), age_s=age_s, restarts=restarts)
            log.info("node_adopted", node=process.name, pid=process.pid, restarts=restarts)

    async def _follow(self) -> None:
        async for event in self._keeper.node_events:
            entry = self._entries.get(event.process.name)
            if entry is not None:
                self._on_end(entry, event.process)

    def _on_end(self, entry: _Entry, process: NodeProcess) -> None:
        if process.serial <= entry.gone or (entry.process and process.serial < entry.process.serial):
            return  # an older process of this name, or one whose end was dealt with
        self._ends += 1
        end = self._note_end(entry, process)
        before = entry.life.phase
        self._do(entry, entry.life.ended(self._clock.monotonic(), end))
        life = entry.life
        if before is Phase.STOPPING:
            log.info("node_stopped", node=process.name, how=str(end))
        elif life.phase is Phase.PARKED:
            log.error(
                "node_parked", code="NODE_PARKED", node=process.name, how=str(end), failures=life.failures
            )
        else:
            log.warning(
                "node_ended",
                code="NODE_ENDED",
                node=process.name,
                how=str(end),
                failures=life.failures,
                retry_in_s=round(self._retry_in_s(life) or 0.0, 1),
            )

    def _note_end(self, entry: _Entry, process: NodeProcess) -> NodeEnd:
        entry.process = process
        entry.gone = process.serial
        end = NodeEnd(code=process.exit_code, signal=process.exit_signal, oom=process.oom_killed)
        entry.life.last_end = end
        return end

    async def _wake(self) -> None:
        """Sleep until the nearest restart is due; no node waiting, no wake-up."""
        while True:
            now = self._clock.monotonic()
            due = math.inf
            for entry in self._entries.values():
                at = entry.life.wake_at
                if at is not None and at <= now:
                    self._restarts += 1
                    self._do(entry, entry.life.tick(now))
                    self.ledger.note(entry.launch.name, entry.life.restarts)
                elif at is not None:
                    due = min(due, at)
            rescheduled = self._rescheduled
            with trio.move_on_after(max(due - now, 0.0)):
                await rescheduled.wait()

    # --- what callers want -----------------------------------------------------------------------------

    async def start(self, launch: NodeLaunch) -> bool:
        """Start a node, or leave it as it is when it lives; ``False`` in that case.

        A parked or waiting node is started at once, with the new ``launch``.

        Raises:
            Unavailable, Conflict, Invalid, Busy: the keeper could not start it.
        """
        entry = self._entry(launch)
        if entry.life.has_process and entry.life.phase is not Phase.STOPPING:
            return False
        entry.launch = launch
        self._do(entry, entry.life.start_wanted(self._clock.monotonic()))
        await self._launched(entry, launch)
        return True

    async def restart(self, launch: NodeLaunch) -> None:
        """Replace the process by a new one; without a process it is a start.

        Raises:
            Unavailable: the old one did not end, or the new one did not start.
        """
        entry = self._entry(launch)
        entry.launch = launch
        old = entry.process
        self._do(entry, entry.life.restart_wanted(self._clock.monotonic(), grace_s=launch.stop_grace_s))
        with trio.move_on_after(launch.stop_grace_s + _SLACK_S):
            while entry.life.phase is Phase.STOPPING and entry.process is old:
                await entry.changed.wait()
        await self._launched(entry, launch)

    async def stop(self, name: str, *, signal: StopSignal = "SIGTERM", grace_s: float) -> bool:
        """End a node and cancel a waiting restart; ``False`` when there was nothing to end.

        A parked node counts: it is put to rest, and a launch that is under way is ended.

        Raises:
            Unavailable: ``KILL_FAILED``, it did not end within ``grace_s`` and five seconds.
        """
        entry = self._entries.get(name)
        if entry is None:
            return False
        rests = entry.life.phase in (Phase.PARKED, Phase.FAILED)
        if not entry.life.active and not rests:
            return False
        self._do(entry, entry.life.stop_wanted(self._clock.monotonic(), signal=signal, grace_s=grace_s))
        with trio.move_on_after(grace_s + _SLACK_S):
            while entry.life.active or entry.busy:
                await entry.changed.wait()
        if entry.life.active:
            raise Unavailable(f"{name} did not end within {grace_s:g} s", code="KILL_FAILED")
        return True

    def drop(self, name: str) -> None:
        """Forget a node that has no process any more: its instance was removed."""
        entry = self._entries.get(name)
        if entry is not None and not entry.life.active and not entry.busy:
            del self._entries[name]
            self.ledger.forget(name)

    def observe(self, visible: Iterable[str] | Mapping[str, object]) -> None:
        """Tell which names the router sees now, all of them."""
        now = self._clock.monotonic()
        names = set(visible)
        for name, entry in self._entries.items():
            entry.life.seen(now) if name in names else entry.life.gone(now)

    def observe_one(self, name: str, *, visible: bool) -> None:
        """Tell whether the router sees one name now."""
        entry = self._entries.get(name)
        if entry is not None:
            now = self._clock.monotonic()
            entry.life.seen(now) if visible else entry.life.gone(now)

    # --- what is known ---------------------------------------------------------------------------------

    def process(self, name: str) -> ManagedProcess | None:
        """What is known of ``name``; ``None`` when it was never started here."""
        entry = self._entries.get(name)
        return None if entry is None else self._describe(entry)

    def processes(self) -> list[ManagedProcess]:
        """All nodes, by name."""
        return [self._describe(self._entries[name]) for name in sorted(self._entries)]

    def by_unit(self, unit: str) -> str | None:
        """Name of the node whose unit is ``unit``."""
        return next((name for name, entry in self._entries.items() if entry.launch.unit == unit), None)

    def statistics(self) -> SupervisorStatistics:
        """Counters and gauges."""
        lives = [entry.life for entry in self._entries.values()]
        return SupervisorStatistics(
            nodes=len(lives),
            active=sum(life.active for life in lives),
            waiting=sum(life.phase is Phase.WAITING for life in lives),
            parked=sum(life.phase is Phase.PARKED for life in lives),
            launches=self._launches,
            launch_failures=self._launch_failures,
            ends=self._ends,
            restarts=self._restarts,
            adopted=self._adopted,
            keeper_errors=self._keeper_errors,
            ledger_failures=self.ledger.failures,
        )

    def _describe(self, entry: _Entry) -> ManagedProcess:
        life, process = entry.life, entry.process
        live = process if life.has_process else None
        end = life.last_end or NodeEnd()
        return ManagedProcess(
            name=entry.launch.name,
            unit=entry.launch.unit,
            phase=life.phase,
            active=life.active,
            has_process=life.has_process,
            pid=live.pid if live else None,
            started_at_ms=live.started_at_ms if live else None,
            exit_code=end.code,
            exit_signal=end.signal,
            oom_killed=end.oom,
            restarts=life.restarts,
            failures=life.failures,
            retry_in_s=self._retry_in_s(life),
            trouble=life.trouble,
        )

    def _retry_in_s(self, life: NodeLifecycle) -> float | None:
        return None if life.wake_at is None else max(life.wake_at - self._clock.monotonic(), 0.0)

    # --- carrying out ----------------------------------------------------------------------------------

    def _entry(self, launch: NodeLaunch) -> _Entry:
        entry = self._entries.get(launch.name)
        if entry is None:
            entry = self._entries[launch.name] = _Entry(NodeLifecycle(self._policy), launch)
        return entry

    async def _launched(self, entry: _Entry, launch: NodeLaunch) -> None:
        """Wait until the launch that was just wanted succeeded or failed."""
        with trio.move_on_after(_LAUNCH_S + launch.stop_grace_s + _SLACK_S):
            while entry.life.phase in (Phase.LAUNCHING, Phase.STOPPING) or entry.busy:
                await entry.changed.wait()
        if entry.life.phase in (Phase.LAUNCHING, Phase.FAILED, Phase.STOPPING):
            raise Unavailable(entry.life.trouble or f"{launch.name} did not start", code="SPAWN_FAILED")

    def _do(self, entry: _Entry, commands: tuple[Command, ...]) -> None:
        entry.commands.extend(commands)
        self._rescheduled.set()
        self._rescheduled = trio.Event()
        entry.touch()
        if entry.commands and not entry.busy:
            if self._nursery is None:
                raise Unavailable("the supervisor does not run")
            entry.busy = True
            self._nursery.start_soon(self._work, entry)

    async def _work(self, entry: _Entry) -> None:
        try:
            while entry.commands:
                command = entry.commands.popleft()
                async with self._talking:
                    if isinstance(command, Start):
                        await self._start(entry)
                    elif isinstance(command, Stop):
                        await self._stop(entry, command)
                    elif isinstance(command, Forget):
                        self._keeper_errors += await forget_record(self._keeper, entry.launch.name)
        finally:
            entry.busy = False
            entry.touch()

    async def _start(self, entry: _Entry) -> None:
        life, launch = entry.life, entry.launch
        self._launches += 1
        again = life.restarts > 0 and life.failures > 0
        try:
            with trio.fail_after(_LAUNCH_S):
                process = await self._keeper.start_node(launch)
        except (FluxbeeError, trio.TooSlowError) as error:
            process_or_none = await self._already_running(launch.name, error)
            if process_or_none is None:
                self._launch_failures += 1
                why = str(error) or f"no answer within {_LAUNCH_S:g} s"
                log.warning("node_not_started", code="NODE_NOT_STARTED", node=launch.name, error=why)
                retry = again or isinstance(error, Busy)
                self._do(entry, life.start_failed(self._clock.monotonic(), why, again=retry))
                return
            process = process_or_none
        if process.serial > entry.gone:
            entry.process = process
        log.info("node_started", node=launch.name, pid=process.pid, unit=launch.unit)
        self._do(entry, life.started(self._clock.monotonic()))

    async def _already_running(self, name: str, error: Exception) -> NodeProcess | None:
        """The process of ``name`` when a launch failed because it lives, or its answer was lost."""
        refused = isinstance(error, FluxbeeError) and not isinstance(error, Conflict | Unavailable)
        if refused:
            return None
        try:
            found = await self._keeper.nodes()
        except FluxbeeError:
            self._keeper_errors += 1
            return None
        return next((one for one in found if one.name == name and one.state == "running"), None)

    async def _stop(self, entry: _Entry, command: Stop) -> None:
        signal: StopSignal = "SIGKILL" if command.signal == "SIGKILL" else "SIGTERM"
        try:
            process = await self._keeper.stop_node(entry.launch.name, signal=signal, grace_s=command.grace_s)
        except NotFound:
            # Its end was never told: the record is gone, and with it the process.
            self._keeper_errors += 1
            self._do(entry, entry.life.ended(self._clock.monotonic(), NodeEnd()))
        except FluxbeeError as error:
            self._keeper_errors += 1
            log.warning("node_not_stopped", code="NODE_NOT_STOPPED", node=entry.launch.name, error=str(error))
            await trio.sleep(AGAIN_S)
            if entry.life.phase is Phase.STOPPING:  # a stop that nobody heard would be waited for in vain
                entry.commands.append(command)
        else:
            if process.state == "exited":
                self._on_end(entry, process)
