"""Node processes in the keeper: starts them, reads their output, ends them with everything they started.

The hands of :class:`appliance.keeper.node_plan.NodeBook`, which decides. Nothing here waits, but for the
few milliseconds until a program is executed or a killed process has ended; nothing is polled while all is
quiet: exits come by SIGCHLD, output by the loop's ``poll``. Children are reaped only after their last
straggler is gone, so neither pid nor session can belong to somebody else meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import select
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from appliance.keeper.node_child import child_environment, credentials_of, launch_process
from appliance.keeper.node_hunt import Listed, Quarry, TokenMint, sweep
from appliance.keeper.node_outlet import NodeOutlet
from appliance.keeper.node_plan import NodeBook, TerminateNode
from appliance.keeper.node_voice import NodeVoice
from appliance.keeper.nodes_protocol import (
    Claim,
    NodeLaunch,
    NodePage,
    NodeProcess,
    NodeStatistics,
    StopSignal,
    check_launch,
    page_of,
)
from appliance.system import process
from appliance.system.cgroup import Cgroup, CgroupTree
from appliance.system.log import get_logger
from appliance.system.process import ProcessExit
from appliance.system.procfs import ProcessEntry, process_entry, processes
from appliance.wire.errors import FluxbeeError, Unavailable

__all__ = ["NodeHouse"]

_LINGER_S = 2.0
"""A killed process that has not ended by then is stuck in the kernel; its node's end is reported anyway."""
_LINGER_LOOK_S = 0.05

log = get_logger("keeper")


class _Held:
    """What the keeper holds for one live node process."""

    def __init__(self, name: str, quarry: Quarry, outlet: NodeOutlet) -> None:
        self.name = name
        self.quarry = quarry
        self.outlet = outlet
        self.how: ProcessExit | None = None  # the main process is reaped
        self.lingering: tuple[ProcessEntry, ...] = ()
        self.give_up_at = 0.0


class NodeHouse:
    """All node processes of this keeper.

    Args:
        run_directory: of the hive; marks tokens and the cgroup.
        voice: speaks to planes.
        poller: of the keeper's loop; what it says about a descriptor of ours goes to :meth:`read`.
        use_cgroups: whether to look for cgroup v2 at all.
    """

    def __init__(
        self, run_directory: Path, voice: NodeVoice, poller: select.poll, *, use_cgroups: bool = True
    ) -> None:
        self.voice = voice
        self._poller = poller
        self._mint = TokenMint(run_directory)
        self._mark = run_directory / "keeper.nodes"
        self._marked = False
        self._use_cgroups = use_cgroups
        self._tree: CgroupTree | None = None
        self._book = NodeBook()
        self._held: dict[int, _Held] = {}  # by pid of the main process
        self._outlets: dict[int, _Held] = {}  # by descriptor
        self._paused: dict[int, float] = {}
        self._gaps: dict[int, float] = {}
        self._lingering: list[_Held] = []
        self._listed: Listed | None = None  # a look at all processes in this turn
        self._look_at: float | None = None
        self._counts: Counter[str] = Counter()
        self._done = NodeStatistics()  # log counters of outlets that are closed

    def open(self) -> None:
        """Find the cgroups and end what an earlier keeper of this hive left; the hive's lock is held."""
        if self._use_cgroups:
            self._tree = CgroupTree.open(f"fluxbee-{self._mint.mark}")
        # A keeper that ended cleanly left nothing: looking at every process of the machine can be spared.
        self._marked = self._mark.exists()
        swept = sweep(self._mint, self._tree) if self._marked else 0
        if swept:
            self._count(leftovers_swept=swept)
            log.warning("leftovers_ended", code="NODE_LEFTOVERS", processes=swept)

    def close(self) -> None:
        """Kill whatever still runs; nothing is reported."""
        for held in (*self._held.values(), *self._lingering):
            held.quarry.kill()
            held.outlet.finish(time.monotonic(), _wall_ms(), "ended with the hive")
            self._discard(held.quarry.group)
        self._held.clear()
        self._lingering.clear()
        if self._tree is not None:
            self._tree.close()
        with suppress(OSError):
            self._mark.unlink(missing_ok=True)
        self._marked = False

    # -- what planes ask ---------------------------------------------------------------------------

    def start(self, launch: NodeLaunch, now: float) -> NodeProcess:
        """Start a process. Errors as :meth:`appliance.keeper.trio_plane.TrioPlane.start_node`."""
        check_launch(launch)
        self._book.check_start(launch)
        self._leave_mark()
        try:
            started = self._launch(launch, now)
        except FluxbeeError as error:
            self._count(start_failures=1)
            log.info("node_not_started", node=launch.name, error=error.message)
            raise
        self._count(starts=1)
        log.info("node_started", node=launch.name, pid=started.pid, unit=launch.unit)
        return started

    def stop(self, name: str, signal: StopSignal, grace_s: float | None, now: float) -> NodeProcess:
        """Begin to end a process. Raises ``NotFound``."""
        stopping = self._book.stop(name, signal, grace_s, now)
        self._count(stops=1)
        self.tick(now)
        return stopping

    def forget(self, name: str, now: float) -> None:
        """Drop a record and the claim. Raises ``NotFound``, ``Conflict``."""
        self._book.forget(name)
        self.voice.unclaim(name, now)

    def page(self, after: str) -> NodePage:
        """Processes by name behind ``after``."""
        for held in self._held.values():
            self._book.dropped(held.name, held.outlet.dropped_bytes)
        return page_of(self._book.processes(), after)

    # -- what the loop says ------------------------------------------------------------------------

    def read(self, fd: int, now: float) -> None:
        """``fd`` is ready; if it is a node's output, take some."""
        held = self._outlets.get(fd)
        if held is None:
            return
        outlet = held.outlet
        outlet.read(now, _wall_ms())
        until = outlet.paused_until(now)
        if outlet.ended:
            self._stop_reading(fd)
        elif until is not None:
            self._poller.unregister(fd)
            self._paused[fd] = until
        gap_at = outlet.next_deadline(now)
        if gap_at is not None:
            self._gaps[fd] = gap_at

    def exited(self, pid: int, now: float) -> bool:
        """A child has ended and is not reaped; ``False`` when it is none of ours."""
        held = self._held.pop(pid, None)
        if held is None:
            return False
        killed, left = held.quarry.kill(self._look_after(pid, held))
        if killed:
            self._count(stragglers_killed=killed)
            log.info("node_stragglers_killed", node=held.name, processes=killed)
        held.how = process.reap(pid)
        if left:
            held.lingering = left
            held.give_up_at = now + _LINGER_S
            self._lingering.append(held)
            self._look_at = now
        else:
            self._end(held, now)
        return True

    def stop_all(self, now: float, by: float) -> None:
        """Everything ends, killed at ``by`` at the latest; nothing starts any more."""
        self._book.stop_all(now, by)

    def tick(self, now: float) -> None:
        """What is due. Call it every turn."""
        self._listed = None
        for command in self._book.tick(now):
            self._carry_out(command.name, None if isinstance(command, TerminateNode) else command.overdue)
        for fd, at in list(self._paused.items()):
            if at <= now:
                del self._paused[fd]
                self._poller.register(fd, select.POLLIN)
        for fd, at in list(self._gaps.items()):
            if at <= now:
                del self._gaps[fd]
                self._outlets[fd].outlet.tick(now, _wall_ms())
        self._look_at_lingering(now)
        self.voice.tick(now)

    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do without an event; ``None`` means never."""
        times = [*self._paused.values(), *self._gaps.values()]
        others = (self._book.next_deadline(), self.voice.next_deadline(), self._look_at)
        return min((*times, *(at for at in others if at is not None)), default=None)

    @property
    def running(self) -> int:
        """Live node processes."""
        return self._book.running

    def statistics(self) -> NodeStatistics:
        """Counters since the start."""
        tree, done = self._tree, self._done
        outlets = [held.outlet for held in (*self._held.values(), *self._lingering)]
        return NodeStatistics(
            group="session" if tree is None else "cgroup",
            memory_limit="cgroup" if tree is not None and "memory" in tree.controllers else "rlimit",
            running=self._book.running,
            records=len(self._book),
            lingering=len(self._lingering),
            events_sent=self.voice.events_sent,
            events_waiting=self.voice.events_waiting,
            claims_sent=self.voice.claims_sent,
            log_bytes_written=done.log_bytes_written + sum(one.written_bytes for one in outlets),
            log_bytes_dropped=done.log_bytes_dropped + sum(one.dropped_bytes for one in outlets),
            log_lines_cut=done.log_lines_cut + sum(one.cut_lines for one in outlets),
            log_write_errors=done.log_write_errors + sum(one.write_errors for one in outlets),
            log_pauses=done.log_pauses + sum(one.pauses for one in outlets),
            **{field: self._counts[field] for field in _COUNTED},
        )

    # -- private -----------------------------------------------------------------------------------

    def _launch(self, launch: NodeLaunch, now: float) -> NodeProcess:
        token = self._mint.token()
        credentials = credentials_of(launch.user)
        group = self._group(launch)
        limited = group is not None and self._tree is not None and "memory" in self._tree.controllers
        older: list[Claim | None] = []

        def before_exec(pid: int) -> None:
            if group is not None:
                try:
                    group.add(pid)
                except OSError as error:
                    raise Unavailable(f"{launch.name} cannot enter its cgroup: {error.strerror}") from error
            digest = hashlib.sha256(token.encode()).hexdigest()
            path = group.path if group is not None else ""
            older.append(self.voice.claim(Claim(name=launch.name, pid=pid, token_sha256=digest, cgroup=path)))

        try:
            launched = launch_process(
                launch,
                child_environment(launch.env, token, os.environ),
                credentials=credentials,
                data_limit_bytes=None if limited else launch.memory_bytes,
                before_exec=before_exec,
            )
        except FluxbeeError:
            if older:
                self.voice.take_back(launch.name, older[0], now)
            self._discard(group)
            raise
        outlet = NodeOutlet(launched.output, Path(launch.log_dir), launch.log_bytes, now)
        outlet.note(f"started as process {launched.pid}", _wall_ms())
        held = _Held(launch.name, Quarry(launched.pid, token, group), outlet)
        self._held[launched.pid] = held
        self._outlets[outlet.fd] = held
        self._poller.register(outlet.fd, select.POLLIN)
        return self._book.started(launch, launched.pid, _wall_ms())

    def _leave_mark(self) -> None:
        """Note for the next keeper that there may be leftovers, should this one be killed."""
        if not self._marked:
            try:
                self._mark.touch(0o600)
            except OSError as error:
                raise Unavailable(f"{self._mark}: {error.strerror}") from error
            self._marked = True

    def _group(self, launch: NodeLaunch) -> Cgroup | None:
        if self._tree is None:
            return None
        try:
            return self._tree.create(
                launch.unit,
                memory_bytes=launch.memory_bytes,
                pids=launch.pids,
                cpu_weight=launch.cpu_weight,
            )
        except OSError as error:
            raise Unavailable(f"no cgroup for {launch.name}: {error.strerror}") from error

    def _discard(self, group: Cgroup | None) -> None:
        if self._tree is not None and group is not None:
            self._tree.discard(group)

    def _carry_out(self, name: str, overdue: bool | None) -> None:
        held = next((held for held in self._held.values() if held.name == name), None)
        if held is None:
            return  # it has ended; only its stragglers are left, and those are killed already
        if overdue is None:
            held.quarry.terminate()
            return
        self._count(kills=1)
        if overdue:
            log.warning("node_killed", code="NODE_KILLED", node=name, pid=held.quarry.pid)
        held.quarry.kill()

    def _look_after(self, pid: int, held: _Held) -> Listed | None:
        """A look at all processes since the main process ``pid`` ended, shared by the ends of one turn."""
        if held.quarry.group is not None:
            return None
        found = None if self._listed is None else self._listed.get(pid)
        if self._listed is None or found is None or found.alive:
            self._listed = processes()
        return self._listed

    def _look_at_lingering(self, now: float) -> None:
        if self._look_at is None or now < self._look_at:
            return
        for held in list(self._lingering):
            held.lingering = tuple(filter(_still_there, held.lingering))
            if not held.lingering or now >= held.give_up_at:
                self._lingering.remove(held)
                if held.lingering:
                    pids = [entry.pid for entry in held.lingering]
                    log.warning("node_lingers", code="NODE_LINGERS", node=held.name, pids=pids)
                self._end(held, now)
        self._look_at = now + _LINGER_LOOK_S if self._lingering else None

    def _end(self, held: _Held, now: float) -> None:
        """Nothing of the node is left: close its log, report."""
        self._stop_reading(held.outlet.fd)
        del self._outlets[held.outlet.fd]
        group = held.quarry.group
        how = held.how or ProcessExit(None, 9)
        oom = group is not None and how != ProcessExit(0) and group.oom_kills() > 0
        held.outlet.finish(now, _wall_ms(), f"ended: {how}{', out of memory' if oom else ''}")
        self._book.dropped(held.name, held.outlet.dropped_bytes)
        self._keep_counts(held.outlet)
        self._count(oom_kills=int(oom))
        self._discard(group)
        ended = self._book.exited(held.name, how, _wall_ms(), oom_killed=oom)
        log.info("node_ended", node=held.name, exit=str(how), oom_killed=oom)
        self.voice.shut(held.name, now)
        self.voice.ended(ended, now)

    def _stop_reading(self, fd: int) -> None:
        self._gaps.pop(fd, None)
        if self._paused.pop(fd, None) is None:
            try:
                self._poller.unregister(fd)
            except KeyError:
                return  # it had closed its output before

    def _keep_counts(self, outlet: NodeOutlet) -> None:
        done = self._done
        self._done = NodeStatistics(
            log_bytes_written=done.log_bytes_written + outlet.written_bytes,
            log_bytes_dropped=done.log_bytes_dropped + outlet.dropped_bytes,
            log_lines_cut=done.log_lines_cut + outlet.cut_lines,
            log_write_errors=done.log_write_errors + outlet.write_errors,
            log_pauses=done.log_pauses + outlet.pauses,
        )

    def _count(self, **more: int) -> None:
        self._counts.update(more)


_COUNTED = ("starts", "start_failures", "stops", "kills", "stragglers_killed", "oom_kills", "leftovers_swept")


def _still_there(entry: ProcessEntry) -> bool:
    found = process_entry(entry.pid)
    return found is not None and found.started == entry.started and found.alive


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
