"""The parent process: one thread, one ``poll`` loop, no event loop library, no rooms above ``system``.

It forks the planes, so it must stay what a fork can copy safely: no threads, no locks held, everything
imported before the first fork and frozen out of the collector's sight. Nothing in the loop waits but
``poll``; work per turn is bounded; a plane that floods its channel is read less often. Decisions are in
:mod:`appliance.keeper.plan`, answers in :mod:`appliance.keeper.desk`, node processes are the matter of
:mod:`appliance.keeper.nodes`.
"""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from appliance.keeper.child import ALL_SIGNALS, run_plane
from appliance.keeper.desk import Counters, Desk
from appliance.keeper.lock import InstanceLock
from appliance.keeper.node_voice import NodeVoice
from appliance.keeper.nodes import NodeHouse
from appliance.keeper.numbers import EX_SOFTWARE, KeeperSettings
from appliance.keeper.observer import Observer
from appliance.keeper.plan import Command, Fork, KeeperPlan, Kill, SendStop
from appliance.keeper.plane import PlaneContext, PlaneMain
from appliance.keeper.protocol import KeeperStatistics, Stop, encode
from appliance.system import process
from appliance.system.channel import Channel
from appliance.system.notify import Notifier

__all__ = ["Keeper"]

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PACKETS_PER_TURN = 32
_HELD_UP_S = 0.25
"""A turn that takes longer (a launch from a slow medium, above all) held up everybody's words."""
_FLOOD_PAUSE_S = 0.02
_REAPS_PER_TURN = 64
_SIGNAL_BOUNCE_S = 0.3
"""A terminal and a wrapping tool may both pass on one Ctrl-C: signals this close together are one wish."""
_LEFTOVER_WAIT_S = 0.15
_POLL_LIMIT_S = 3600.0


class _Process:
    """What the keeper holds for one running plane."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel


class Keeper:
    """Starts and supervises planes until told to stop, or until none is left to run.

    Args:
        planes: what to run, by plane name: ``data``, ``control``, ``world``, or one ``all``.
        run_directory: where the instance lock goes.
        settings: numbers of supervision.
        notifier: speaks to the service manager; by default as the environment says.
        inherited: descriptors to hand on to every plane, by name.
        seed: of the back-off's jitter; random by default, so that a fleet does not restart in step.
        use_cgroups: whether nodes get cgroups where the system has them.
    """

    def __init__(
        self,
        planes: Mapping[str, PlaneMain],
        *,
        run_directory: Path,
        settings: KeeperSettings | None = None,
        notifier: Notifier | None = None,
        inherited: Mapping[str, int] | None = None,
        seed: int | None = None,
        use_cgroups: bool = True,
    ) -> None:
        self._mains = dict(planes)
        self._run_directory = run_directory
        self._observer = Observer(notifier or Notifier.from_environment())
        self._inherited = dict(inherited or {})
        seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self._plan = KeeperPlan(tuple(planes), settings or KeeperSettings(), seed=seed)
        self._counters = Counters()
        self._processes: dict[str, _Process] = {}
        self._channels: dict[str, Channel] = {}
        self._poller = select.poll()
        voice = NodeVoice(self._plan.routing, self._send, self._channels.__contains__)
        self._nodes = NodeHouse(run_directory, voice, self._poller, use_cgroups=use_cgroups)
        self._desk = Desk(
            self._plan, self._channels, self._counters, started_at=time.monotonic(), nodes=self._nodes
        )
        self._eventfds: dict[str, int] = {}
        self._reading: dict[int, str] = {}  # channel descriptors in the poller
        self._paused: dict[str, float] = {}  # planes that flood: read again at
        self._wishes: list[int] = []
        self._last_wish_at = -_SIGNAL_BOUNCE_S
        self._reap_more = False
        self._nodes_until: float | None = None

    def run(self) -> int:
        """Run until the end; call it in the main thread of a process without other threads.

        Returns:
            the exit code: 0 stopped cleanly, 70 all planes parked, 75 stopped but a plane had to be killed
            or failed while stopping, 78 all planes parked by configuration errors.

        Raises:
            Conflict: another keeper holds this run directory.
        """
        process.ensure_stdio()
        with InstanceLock(self._run_directory / "keeper.lock"):
            wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            before = self._take_signals(wake_write)
            try:
                self._prepare()
                return self._loop(wake_read)
            finally:
                self._end()
                signal.set_wakeup_fd(-1)
                for signum, handler in before.items():
                    signal.signal(signum, handler)
                os.close(wake_read)
                os.close(wake_write)

    def statistics(self) -> KeeperStatistics:
        """Counters since the start."""
        return self._desk.statistics()

    # -- the loop ----------------------------------------------------------------------------------

    def _loop(self, wake_read: int) -> int:
        self._poller.register(wake_read, select.POLLIN)
        self._plan.start(time.monotonic())
        self._observer.started(self._plan.planes, self._counters.threads_at_fork)
        now = time.monotonic()
        while True:
            self._counters.turns += 1
            now, before = time.monotonic(), now
            if now - before > _HELD_UP_S:
                self._plan.away(now)
            self._resume_paused(now)
            for command in self._plan.tick(now):
                self._carry_out(command)
            self._nodes.tick(now)
            self._observer.look(self._plan, now)
            if self._plan.exit_code is not None and self._nodes_gone(now):
                return self._plan.exit_code
            ready = self._poller.poll(self._timeout_ms())
            now = time.monotonic()
            self._drain_wakeups(wake_read)
            self._take_wishes(now)
            for fd, _ in ready:
                name = self._reading.get(fd)
                if name is not None:
                    self._read(name, now)
                else:
                    self._nodes.read(fd, now)
            self._reap(now)
            self._stop_nodes(now)

    def _stop_nodes(self, now: float) -> None:
        self._plan.guests = self._nodes.running
        if self._plan.stopping:
            self._nodes.stop_all(now, self._plan.stop_by)

    def _nodes_gone(self, now: float) -> bool:
        """All planes are over; nodes have the rest of their time."""
        settings = self._plan.settings
        by = self._plan.stop_by if self._plan.stopping else now + settings.stop_soft_s
        if self._nodes_until is None or self._plan.stopping:
            self._nodes.stop_all(now, by)
            self._nodes.tick(now)
            self._nodes_until = by + settings.stop_give_up_s - settings.stop_hard_s
        return not self._nodes.running or now >= self._nodes_until

    def _timeout_ms(self) -> float:
        if self._reap_more or self._wishes:
            return 0
        times = [*self._paused.values(), self._observer.next_at]
        deadlines = (self._plan.next_deadline(), self._nodes.next_deadline(), self._nodes_until)
        times += [at for at in deadlines if at is not None]
        left_s = min(times) - time.monotonic()
        # One millisecond more, since poll rounds down and would come back just before the deadline.
        return min(max(0.0, left_s), _POLL_LIMIT_S) * 1000 + 1

    def _carry_out(self, command: Command) -> None:
        match command:
            case Fork(plane):
                self._fork(plane)
            case SendStop(plane, reason, grace_s):
                if not self._desk.send(plane, encode(Stop(reason=reason, grace_s=grace_s))):
                    self._signal(plane, signal.SIGTERM)
            case Kill(plane, reason):
                self._observer.killing(plane, reason)
                self._signal(plane, signal.SIGKILL)

    def _signal(self, plane: str, signum: int) -> None:
        held = self._processes.get(plane)
        if held is not None:
            os.kill(held.pid, signum)  # not reaped yet, so the number is still its own

    # -- channels ----------------------------------------------------------------------------------

    def _send(self, plane: str, data: bytes) -> bool:
        return self._desk.send(plane, data)

    def _read(self, name: str, now: float) -> None:
        channel = self._channels[name]
        for _ in range(_PACKETS_PER_TURN):
            try:
                packet = channel.receive()
            except EOFError:
                # It closed its end but may still run: it cannot be asked to stop any more, only signalled.
                self._stop_reading(channel)
                return
            if packet is None:
                return
            self._desk.serve(name, packet, now)
            if time.monotonic() - now > _HELD_UP_S:
                return  # a launch took its time: the others' words come first, then the rest of these
        self._stop_reading(channel)
        self._paused[name] = now + _FLOOD_PAUSE_S
        self._counters.floods_paused += 1

    def _resume_paused(self, now: float) -> None:
        for name, until in list(self._paused.items()):
            if until <= now:
                del self._paused[name]
                self._start_reading(name, self._channels[name])

    def _start_reading(self, name: str, channel: Channel) -> None:
        self._reading[channel.fileno()] = name
        self._poller.register(channel.fileno(), select.POLLIN)

    def _stop_reading(self, channel: Channel) -> None:
        if self._reading.pop(channel.fileno(), None) is not None:
            self._poller.unregister(channel.fileno())

    # -- processes ---------------------------------------------------------------------------------

    def _prepare(self) -> None:
        process.become_subreaper()
        for name in self._plan.planes:
            self._eventfds[name] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._counters.threads_at_fork = process.thread_count()
        # What is loaded now is shared with every plane: a collection in a child would touch, and so copy,
        # every page of it.
        gc.freeze()
        self._nodes.open()

    def _fork(self, name: str) -> None:
        try:
            ours, theirs = Channel.pair()
        except OSError as error:
            self._fork_failed(name, error)
            return
        if name == self._plan.routing:  # before it runs, so that it knows them before it listens
            self._nodes.voice.introduce(ours.send)
        _flush()
        keeper_pid = os.getpid()
        # No signal may run the keeper's handlers in a child that is not yet a plane.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_plane(name, ours, theirs, keeper_pid)
        except OSError as error:
            ours.close()
            self._fork_failed(name, error)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        self._counters.forks += 1
        self._processes[name] = _Process(pid, ours)
        self._channels[name] = ours
        self._start_reading(name, ours)
        self._plan.forked(name, pid)

    def _fork_failed(self, name: str, error: OSError) -> None:
        self._counters.fork_failures += 1
        self._plan.fork_failed(name, f"no process: {error.strerror}", time.monotonic())

    def _become_plane(self, name: str, ours: Channel, theirs: Channel, keeper_pid: int) -> NoReturn:
        try:
            for other in (ours, *self._channels.values()):
                other.forget()
            context = PlaneContext(
                name=name,
                channel=theirs,
                eventfds=self._eventfds,
                inherited=self._inherited,
                restarts=self._plan.starts(name) - 1,
                keeper_pid=keeper_pid,
            )
            keep = {theirs.fileno(), *self._eventfds.values(), *self._inherited.values()}
            run_plane(self._mains[name], context, keep=keep)
        finally:
            os._exit(EX_SOFTWARE)  # a child never gets back into the keeper's loop

    def _reap(self, now: float) -> None:
        for _ in range(_REAPS_PER_TURN):
            pid = process.next_exited()
            if pid is None:
                self._reap_more = False
                return
            name = next((name for name, held in self._processes.items() if held.pid == pid), None)
            if name is not None:
                self._reap_plane(name, now)
            elif not self._nodes.exited(pid, now):
                process.reap(pid)
                self._counters.orphans_reaped += 1
        self._reap_more = True

    def _reap_plane(self, name: str, now: float) -> None:
        held = self._processes.pop(name)
        # Its helpers share its group; the number is safe to signal until the leader is reaped.
        process.signal_group(held.pid, signal.SIGKILL)
        how = process.reap(held.pid) or process.ProcessExit(EX_SOFTWARE)
        self._observer.exited(name, held.pid, str(how), expected=self._plan.expected(name, how))
        self._stop_reading(held.channel)
        self._paused.pop(name, None)
        self._counters.packets_dropped += held.channel.statistics().dropped_truncated
        del self._channels[name]
        self._nodes.voice.plane_ended(name)
        held.channel.close()
        self._plan.exited(name, how, now)

    def _end(self) -> None:
        """Leave no process and no descriptor behind, whatever ended the loop."""
        self._nodes.close()
        deadline = time.monotonic() + _LEFTOVER_WAIT_S
        while (left := process.children()) and time.monotonic() < deadline:
            for pid in left:
                # Ours and unreaped, so the number cannot be anybody else's.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            select.select([], [], [], 0.005)
            self._reap(time.monotonic())
        for channel in self._channels.values():
            channel.close()
        for fd in self._eventfds.values():
            os.close(fd)
        self._observer.stopped(self._plan, self.statistics())

    # -- signals -----------------------------------------------------------------------------------

    def _take_signals(self, wake_write: int) -> Mapping[signal.Signals, signal._HANDLER]:
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        before: dict[signal.Signals, signal._HANDLER] = {}
        for signum in _STOP_SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup means it
                before[signum] = signal.signal(signum, self._on_stop_signal)
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _on_child_signal)
        return before

    def _on_stop_signal(self, signum: int, frame: FrameType | None) -> None:
        self._wishes.append(signum)

    @staticmethod
    def _drain_wakeups(wake_read: int) -> None:
        try:
            while os.read(wake_read, 512):
                pass
        except BlockingIOError:
            return

    def _take_wishes(self, now: float) -> None:
        wishes, self._wishes = self._wishes, []
        for signum in wishes:
            if now - self._last_wish_at >= _SIGNAL_BOUNCE_S:
                self._last_wish_at = now
                self._plan.request_stop(now)
                self._observer.stopping(signal.Signals(signum).name)


def _flush() -> None:
    """Write out what is buffered; else a child would write it a second time."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or its reader is gone
            stream.flush()


def _on_child_signal(signum: int, frame: FrameType | None) -> None:
    """Only a wake-up: the loop asks the kernel who has ended."""
