"""What the keeper decides: which plane runs when, when it is given up, in which order all stop.

Sans-IO: events in, ``tick(now)`` gives the commands, ``now`` is monotonic seconds. Invariants: a plane has
at most one process; after a failure it starts no sooner than the back-off says and two starts are never
closer than ``backoff_initial_s``; nothing starts once stopping began; stopping ends within
``stop_give_up_s`` whatever the planes do. Reasons: ``docs/decisions/0002-keeper-forks-planes.md``.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence

import msgspec

from appliance.keeper.numbers import (
    EX_CLEAN,
    EX_CONFIG,
    EX_SOFTWARE,
    EX_UNCLEAN,
    TOGETHER_PLANE,
    UNREAD_S,
    KeeperSettings,
    routing_plane,
)
from appliance.keeper.protocol import PlaneStatus
from appliance.system.process import ProcessExit
from appliance.wire.errors import Conflict, NotFound

__all__ = [
    "Command",
    "Fork",
    "KeeperPlan",
    "Kill",
    "PlaneState",
    "SendStop",
]


class PlaneState(enum.StrEnum):
    """Where a plane stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    PARKED = "parked"
    STOPPED = "stopped"


class Fork(msgspec.Struct, frozen=True):
    """Start a process for ``plane`` and report ``forked`` or ``fork_failed``."""

    plane: str


class SendStop(msgspec.Struct, frozen=True):
    """Tell ``plane`` to finish within ``grace_s`` seconds."""

    plane: str
    reason: str
    grace_s: float


class Kill(msgspec.Struct, frozen=True):
    """End the process of ``plane`` by SIGKILL."""

    plane: str
    reason: str


Command = Fork | SendStop | Kill

_RUNNING = frozenset({PlaneState.STARTING, PlaneState.READY, PlaneState.STOPPING})


class _Plane:
    """Mutable record of one plane; all times are monotonic seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = PlaneState.WAITING
        self.pid: int | None = None
        self.due_at: float | None = None  # waiting or parked: next start
        self.started_at: float | None = None
        self.ready_at: float | None = None
        self.alive_until: float | None = None  # starting or ready: hung after that
        self.kill_at: float | None = None  # stopping: patience ends
        self.killed = False
        self.told = False
        self.restart_wanted = False
        self.starts = 0
        self.failures = 0
        self.parked: str | None = None
        self.last_exit: ProcessExit | str | None = None

    @property
    def runs(self) -> bool:
        return self.state in _RUNNING


class KeeperPlan:
    """The state machine over all planes.

    Args:
        planes: names in the order of their start; the routing plane is moved to the front.
        settings: numbers.
        seed: of the jitter.
    """

    def __init__(self, planes: Sequence[str], settings: KeeperSettings, *, seed: int) -> None:
        if not planes or len(set(planes)) != len(planes):
            raise ValueError(f"planes need different names and at least one of them: {planes}")
        self.settings = settings
        self.routing = routing_plane(planes)
        ordered = sorted(planes, key=lambda name: name != self.routing)
        self._planes = {name: _Plane(name) for name in ordered}
        self._random = random.Random(seed)  # noqa: S311 - jitter, not a secret
        self._stop_requests = 0
        self._soft_at = self._hard_at = self._give_up_at = 0.0
        self._unclean = False
        self._kills = 0
        self.guests = 0
        """Processes beside the planes that still use the router; it waits for them a while when stopping."""
        self.exit_code: int | None = None
        """Set once there is nothing left to do; the keeper exits with it."""

    # -- events ------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Everything may start."""
        for plane in self._planes.values():
            plane.due_at = now

    def forked(self, name: str, pid: int) -> None:
        """The process that ``Fork`` asked for exists."""
        self._planes[name].pid = pid

    def fork_failed(self, name: str, reason: str, now: float) -> None:
        """The system gave no process (no memory, too many processes): a failure like any other."""
        plane = self._planes[name]
        plane.last_exit = reason
        self._failed(plane, now)

    def ready(self, name: str, now: float) -> None:
        """A plane says that it serves."""
        plane = self._planes[name]
        if plane.state is PlaneState.STARTING:
            plane.state = PlaneState.READY
            plane.ready_at = now
            plane.alive_until = None

    def health(self, name: str, timeout_s: float, now: float) -> None:
        """A plane gives a sign of life and says how long it is good for."""
        plane = self._planes[name]
        if plane.state in (PlaneState.STARTING, PlaneState.READY):
            plane.alive_until = now + timeout_s

    def away(self, now: float) -> None:
        """The keeper itself was held up until ``now``: signs of life may wait in its channels unread."""
        for plane in self._planes.values():
            if plane.alive_until is not None:
                plane.alive_until = max(plane.alive_until, now + UNREAD_S)

    def exited(self, name: str, how: ProcessExit, now: float) -> None:
        """The process of a plane has ended."""
        plane = self._planes[name]
        self._forgive(plane, now)
        plane.pid = None
        plane.last_exit = how
        if self.stopping:
            self._unclean |= plane.killed or how != ProcessExit(EX_CLEAN)
            self._rest(plane, PlaneState.STOPPED, None)
        elif plane.restart_wanted:
            self._wait(plane, now)
        elif how.code == EX_CONFIG:
            self._park(plane, "configuration", None)
        else:
            self._failed(plane, now)

    def request_restart(self, name: str, now: float) -> None:
        """Stop a plane cleanly and start it again; a parked or waiting one starts now, forgiven.

        Raises:
            NotFound: there is no such plane.
            Conflict: the keeper is stopping.
        """
        plane = self._planes.get(name) or self._planes.get(TOGETHER_PLANE)
        if plane is None:
            raise NotFound(f"there is no plane {name}; there are {', '.join(self._planes)}")
        if self.stopping:
            raise Conflict("the appliance is stopping; nothing is started any more")
        plane.failures = 0
        plane.restart_wanted = True
        if not plane.runs:
            self._wait(plane, now)
        elif plane.state is not PlaneState.STOPPING:
            plane.state = PlaneState.STOPPING
            plane.kill_at = now + self.settings.restart_grace_s

    def request_stop(self, now: float) -> None:
        """Stop everything; asked a second time: hurry; a third time: at once."""
        settings = self.settings
        self._stop_requests += 1
        if self._stop_requests == 1:
            self._soft_at = now + settings.stop_soft_s
            self._hard_at = now + settings.stop_hard_s
            self._give_up_at = now + settings.stop_give_up_s
            for plane in self._planes.values():
                plane.restart_wanted = False
                if plane.runs:
                    plane.state = PlaneState.STOPPING
                    plane.kill_at = None
                else:
                    self._rest(plane, PlaneState.STOPPED, None)
        else:
            self._soft_at = min(self._soft_at, now)
            hurried_s = settings.stop_hurried_s if self._stop_requests == 2 else 0.0
            self._hard_at = min(self._hard_at, now + hurried_s)

    # -- what follows ------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Command]:
        """What is to be done now. Call it after events and at ``next_deadline``."""
        if self.exit_code is not None:
            return []
        commands: list[Command] = self._tick_stop(now) if self.stopping else []
        for plane in self._planes.values():
            self._forgive(plane, now)
            if plane.due_at is not None and plane.due_at <= now:
                self._begin(plane, now)
                commands.append(Fork(plane.name))
            elif plane.alive_until is not None and plane.alive_until <= now:
                self._kill(plane, "hung: no sign of life", commands)
            elif plane.state is PlaneState.STOPPING and not self.stopping:
                self._tick_restart(plane, now, commands)
        self._tick_end(now)
        return commands

    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do without an event; ``None`` means never."""
        times: list[float] = []
        if self.stopping:
            running = [plane for plane in self._planes.values() if plane.runs and not plane.killed]
            times.append(self._give_up_at)
            times += [self._hard_at] if running else []
            times += [self._soft_at] if not all(plane.told for plane in running) else []
        for plane in self._planes.values():
            times += [t for t in (plane.due_at, plane.alive_until, plane.kill_at) if t is not None]
            if plane.failures and plane.ready_at is not None:
                times.append(plane.ready_at + self.settings.healthy_after_s)
        return min(times, default=None)

    @property
    def stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stop_requests > 0

    @property
    def stop_by(self) -> float:
        """While stopping: when everything that still runs is killed (monotonic seconds)."""
        return self._hard_at

    @property
    def settled(self) -> bool:
        """Whether starting is over: somebody is ready and everybody else is ready or parked."""
        states = {plane.state for plane in self._planes.values()}
        return PlaneState.READY in states and states <= {PlaneState.READY, PlaneState.PARKED}

    @property
    def kills(self) -> int:
        """How many processes had to be killed."""
        return self._kills

    @property
    def planes(self) -> tuple[str, ...]:
        """Names in the order of their start."""
        return tuple(self._planes)

    def starts(self, name: str) -> int:
        """How often a plane was started."""
        return self._planes[name].starts

    def expected(self, name: str, how: ProcessExit) -> bool:
        """Whether an exit of this kind is what the keeper asked of the plane."""
        return self._planes[name].told and how == ProcessExit(EX_CLEAN)

    def state(self, name: str) -> PlaneState:
        """Where a plane stands."""
        return self._planes[name].state

    def status(self, now: float) -> tuple[PlaneStatus, ...]:
        """All planes, for people and programs."""
        return tuple(self._status(plane, now) for plane in self._planes.values())

    def summary(self) -> str:
        """One line: ``data ready, control ready, world parked (exit 1)``."""
        return ", ".join(
            f"{plane.name} {plane.state}" + (f" ({plane.last_exit})" if plane.parked else "")
            for plane in self._planes.values()
        )

    # -- private -----------------------------------------------------------------------------------

    def _begin(self, plane: _Plane, now: float) -> None:
        plane.state = PlaneState.STARTING
        plane.due_at = plane.ready_at = plane.kill_at = plane.parked = None
        plane.killed = plane.told = plane.restart_wanted = False
        plane.started_at = now
        plane.alive_until = now + self.settings.start_timeout_s
        plane.starts += 1

    def _wait(self, plane: _Plane, due_at: float) -> None:
        self._rest(plane, PlaneState.WAITING, due_at)
        plane.parked = None

    def _park(self, plane: _Plane, reason: str, due_at: float | None) -> None:
        self._rest(plane, PlaneState.PARKED, due_at)
        plane.parked = reason

    def _rest(self, plane: _Plane, state: PlaneState, due_at: float | None) -> None:
        plane.state = state
        plane.due_at = due_at
        if due_at is not None and plane.started_at is not None:
            plane.due_at = max(due_at, plane.started_at + self.settings.backoff_initial_s)
        plane.alive_until = plane.kill_at = plane.ready_at = None

    def _failed(self, plane: _Plane, now: float) -> None:
        settings = self.settings
        plane.failures += 1
        if plane.failures >= settings.park_after:
            retry_s = settings.parked_retry_s
            self._park(plane, "failures", None if retry_s is None else now + retry_s)
            return
        # The exponent is bounded by park_after, which may be large: cap it before the power overflows.
        exponent = min(plane.failures - 1, 64)
        delay_s = min(settings.backoff_cap_s, settings.backoff_initial_s * 2.0**exponent)
        self._wait(plane, now + delay_s * (1.0 + settings.backoff_jitter * self._random.random()))

    def _forgive(self, plane: _Plane, now: float) -> None:
        if plane.ready_at is not None and now >= plane.ready_at + self.settings.healthy_after_s:
            plane.failures = 0

    def _kill(self, plane: _Plane, reason: str, commands: list[Command]) -> None:
        plane.alive_until = plane.kill_at = None
        if not plane.killed:
            plane.state = PlaneState.STOPPING
            plane.killed = True
            self._kills += 1
            commands.append(Kill(plane.name, reason))

    def _tell(self, plane: _Plane, reason: str, grace_s: float, commands: list[Command]) -> None:
        if not plane.told and not plane.killed:
            plane.told = True
            plane.alive_until = None
            commands.append(SendStop(plane.name, reason, max(0.0, grace_s)))

    def _tick_restart(self, plane: _Plane, now: float, commands: list[Command]) -> None:
        if plane.kill_at is not None and plane.kill_at <= now:
            self._kill(plane, "restart: did not stop in time", commands)
        elif plane.restart_wanted:
            self._tell(plane, "restart", self.settings.restart_grace_s, commands)

    def _tick_stop(self, now: float) -> list[Command]:
        commands: list[Command] = []
        running = [plane for plane in self._planes.values() if plane.runs]
        others = [plane for plane in running if plane.name != self.routing]
        for plane in others:
            self._tell(plane, "stop", self._hard_at - now, commands)
        if not (others or self.guests) or now >= self._soft_at:
            for plane in running:
                self._tell(plane, "stop", self._hard_at - now, commands)
        if now >= self._hard_at:
            for plane in running:
                self._kill(plane, "stop: did not stop in time", commands)
        return commands

    def _tick_end(self, now: float) -> None:
        states = {plane.state for plane in self._planes.values()}
        if self.stopping:
            if states == {PlaneState.STOPPED}:
                self.exit_code = EX_UNCLEAN if self._unclean else EX_CLEAN
            elif now >= self._give_up_at:
                self.exit_code = EX_UNCLEAN
        elif states == {PlaneState.PARKED}:
            reasons = {plane.parked for plane in self._planes.values()}
            self.exit_code = EX_CONFIG if reasons == {"configuration"} else EX_SOFTWARE

    def _status(self, plane: _Plane, now: float) -> PlaneStatus:
        since = plane.started_at if plane.runs else None
        return PlaneStatus(
            name=plane.name,
            state=plane.state,
            pid=plane.pid,
            restarts=max(0, plane.starts - 1),
            failures=plane.failures,
            parked=plane.parked,
            last_exit=None if plane.last_exit is None else str(plane.last_exit),
            uptime_s=None if since is None else round(now - since, 3),
            start_s=None if since is None or plane.ready_at is None else round(plane.ready_at - since, 3),
            retry_in_s=None if plane.due_at is None else round(max(0.0, plane.due_at - now), 3),
        )
