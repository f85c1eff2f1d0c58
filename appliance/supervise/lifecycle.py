"""The life of one managed node: events in, commands out.

Sans-IO: ``now`` is an argument, what the keeper does arrives as an event. Invariants: at most one launch is
under way; a node that nobody wants is never started; a stop during a wait or a launch is honoured; every
wait has its :class:`WakeAt`. It knows nothing of configuration, packages or files.
"""

from __future__ import annotations

import random
from enum import StrEnum

import msgspec

from .backoff import RestartBackoff, RestartPolicy

__all__ = [
    "Command",
    "Forget",
    "NodeEnd",
    "NodeLifecycle",
    "Phase",
    "Start",
    "Stop",
    "WakeAt",
]


class Phase(StrEnum):
    """Where a node is in its life."""

    STOPPED = "stopped"
    LAUNCHING = "launching"
    """The keeper was asked to start it."""
    STARTING = "starting"
    """It has a process that the router has not seen yet."""
    RUNNING = "running"
    """It has a process, and the router has seen its name."""
    STOPPING = "stopping"
    WAITING = "waiting"
    """It ended and will be started again when its wait is over."""
    FAILED = "failed"
    """It could not be launched; nobody tries again by himself."""
    PARKED = "parked"
    """It ended too often in a row; it rests until somebody starts it."""


class NodeEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended: a code, or a signal, and whether the kernel ended it for want of memory."""

    code: int | None = None
    signal: int | None = None
    oom: bool = False

    def __str__(self) -> str:
        if self.oom:
            return "out of memory"
        return f"exit {self.code}" if self.signal is None else f"signal {self.signal}"


class Start(msgspec.Struct, frozen=True):
    """Ask the keeper to start the process; answer with ``started`` or ``start_failed``."""


class Stop(msgspec.Struct, frozen=True):
    """Ask the keeper to end the process; the end comes as ``ended``."""

    signal: str
    grace_s: float


class Forget(msgspec.Struct, frozen=True):
    """Drop the ended process's record and the claim on its name."""


class WakeAt(msgspec.Struct, frozen=True):
    """Call ``tick`` at ``at`` (monotonic seconds)."""

    at: float


Command = Start | Stop | Forget | WakeAt

_WITH_PROCESS = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING})
_ACTIVE = _WITH_PROCESS | {Phase.LAUNCHING, Phase.WAITING}


class NodeLifecycle:
    """One node. Every method returns the commands to carry out, in order.

    Args:
        policy: waits and parking.
        chance: jitter of the waits, for tests.

    Attributes:
        phase: where the node is.
        wanted: whether it is to live.
        restarts: how often it was started again by itself.
        last_end: how its last process ended.
        trouble: why the last launch failed, in one sentence.
    """

    def __init__(self, policy: RestartPolicy, chance: random.Random | None = None) -> None:
        self.phase = Phase.STOPPED
        self.wanted = False
        self.restarts = 0
        self.last_end: NodeEnd | None = None
        self.trouble: str | None = None
        self.wake_at: float | None = None
        self._backoff = RestartBackoff(policy, chance)
        self._started_at = 0.0
        self._restarting = False
        self._stop: Stop | None = None  # what a stop during a launch asked for

    @property
    def has_process(self) -> bool:
        """Whether a process is believed to live."""
        return self.phase in _WITH_PROCESS

    @property
    def active(self) -> bool:
        """Whether a kill finds something to end: a process, a launch, or a restart that waits."""
        return self.phase in _ACTIVE

    @property
    def failures(self) -> int:
        """Ends in a row without a healthy life between them."""
        return self._backoff.failures

    # --- what people want ------------------------------------------------------------------------------

    def start_wanted(self, now: float) -> tuple[Command, ...]:
        """Somebody wants the node to live; a parked or waiting one is tried at once."""
        self.wanted = True
        if self.phase is Phase.LAUNCHING:
            self._stop = None
            return ()
        if self.phase is Phase.STOPPING:
            self._restarting = True
            return ()
        if self.phase in (Phase.STARTING, Phase.RUNNING):
            return ()
        self._backoff.reset()
        return self._launch()

    def stop_wanted(self, now: float, *, signal: str, grace_s: float) -> tuple[Command, ...]:
        """Somebody wants the node to end; a waiting restart is cancelled."""
        self.wanted = self._restarting = False
        return self._end(Stop(signal, grace_s))

    def restart_wanted(self, now: float, *, grace_s: float) -> tuple[Command, ...]:
        """Somebody wants a new process; without an old one it is a start."""
        if not self.has_process:
            return self.start_wanted(now)
        self.wanted = self._restarting = True
        self._backoff.reset()
        return () if self.phase is Phase.STOPPING else self._end(Stop("SIGTERM", grace_s))

    def adopted(self, now: float, *, age_s: float, restarts: int = 0) -> tuple[Command, ...]:
        """A process of this name lives already: the keeper kept it while nobody decided."""
        self.wanted = True
        self.phase = Phase.STARTING
        self._started_at = now - age_s
        self.restarts = max(self.restarts, restarts)
        return ()

    # --- what happens ----------------------------------------------------------------------------------

    def started(self, now: float) -> tuple[Command, ...]:
        """The keeper started the process."""
        if self.phase is not Phase.LAUNCHING:
            return ()
        self.phase = Phase.STARTING
        self._started_at = now
        self.trouble = None
        stop, self._stop = self._stop, None
        return self._end(stop) if stop is not None else ()

    def start_failed(self, now: float, why: str, *, again: bool = False) -> tuple[Command, ...]:
        """The keeper could not start it. ``again``: it is a restart that should be tried on, with waits."""
        if self.phase is not Phase.LAUNCHING:
            return ()
        self.trouble = why
        if self._stop is not None:
            self._stop = None
            self.phase = Phase.STOPPED
            return (Forget(),)
        if again:
            return self._wait(now, 0.0)
        self.phase = Phase.FAILED
        self.wanted = False
        return (Forget(),)

    def ended(self, now: float, end: NodeEnd) -> tuple[Command, ...]:
        """The process ended, by itself or because it was told to."""
        if self.phase not in _WITH_PROCESS and self.phase is not Phase.LAUNCHING:
            # One whose launch was taken for failed; a waiting node keeps the claim on its name.
            return () if self.phase is Phase.WAITING else (Forget(),)
        self.last_end = end
        told = self.phase is Phase.STOPPING
        lived_s = 0.0 if self.phase is Phase.LAUNCHING else now - self._started_at
        if self._stop is not None or not self.wanted:
            self._stop = None
            self.phase = Phase.STOPPED
            return (Forget(),)
        if told and self._restarting:
            self._restarting = False
            return self._launch()
        return self._wait(now, lived_s)

    def seen(self, now: float) -> tuple[Command, ...]:
        """The router has the node's name."""
        if self.phase is Phase.STARTING:
            self.phase = Phase.RUNNING
        return ()

    def gone(self, now: float) -> tuple[Command, ...]:
        """The router has lost the node's name; its process may come back to it."""
        if self.phase is Phase.RUNNING:
            self.phase = Phase.STARTING
        return ()

    def tick(self, now: float) -> tuple[Command, ...]:
        """A wait may be over."""
        if self.phase is not Phase.WAITING or self.wake_at is None:
            return ()
        if now < self.wake_at:
            return (WakeAt(self.wake_at),)
        self.restarts += 1
        return self._launch()

    # --- inside ----------------------------------------------------------------------------------------

    def _launch(self) -> tuple[Command, ...]:
        self.phase = Phase.LAUNCHING
        self.wake_at = None
        self._stop = None
        self._restarting = False
        return (Start(),)

    def _end(self, stop: Stop) -> tuple[Command, ...]:
        if self.phase is Phase.LAUNCHING:
            self._stop = stop
            return ()
        if self.has_process:
            self.phase = Phase.STOPPING
            return (stop,)
        self.wake_at = None
        waited = self.phase in (Phase.WAITING, Phase.PARKED, Phase.FAILED)
        self.phase = Phase.STOPPED
        return (Forget(),) if waited else ()

    def _wait(self, now: float, lived_s: float) -> tuple[Command, ...]:
        wait_s = self._backoff.ended(lived_s)
        if wait_s is None:
            self.phase = Phase.PARKED
            self.wake_at = None
            return (Forget(),)
        self.phase = Phase.WAITING
        self.wake_at = now + wait_s
        return (WakeAt(self.wake_at),)
