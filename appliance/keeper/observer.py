"""Tells people and the service manager what the keeper does: log lines, readiness, status text, watchdog.

State changes are found by comparing with the last look, so nothing that a plane says can flood the log:
lines come at the pace of starts and ends, which the back-off bounds. A log or a service manager that fails
is counted and otherwise ignored; supervision does not depend on being watched.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from appliance.keeper.plan import KeeperPlan, PlaneState
from appliance.keeper.protocol import KeeperStatistics, PlaneStatus

__all__ = ["Field", "Log", "Observer", "ServiceManager", "log_line", "watchdog_interval_s"]

Field = str | int | float | None
Log = Callable[[str, Mapping[str, Field]], None]
"""Takes an event name and its fields."""


class ServiceManager(Protocol):
    """What systemd wants to hear (sd_notify)."""

    def ready(self) -> None:
        """Starting is over."""

    def stopping(self) -> None:
        """The end has begun."""

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""

    def watchdog(self) -> None:
        """The loop turns."""


def log_line(event: str, fields: Mapping[str, Field]) -> None:
    """Write an event as one line to stderr: ``keeper.plane_waiting plane=data last_exit="exit 1"``."""
    words = [event, *(f"{key}={_word(value)}" for key, value in fields.items() if value is not None)]
    print(" ".join(words), file=sys.stderr, flush=True)


def _word(value: Field) -> str:
    text = str(value)
    return msgspec.json.encode(text).decode() if set(text) & set(' "=\n') else text


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often the service manager wants a ping, in seconds; ``None`` when it wants none.

    Half of ``WATCHDOG_USEC`` (sd_watchdog_enabled(3)), if ``WATCHDOG_PID`` means this process or nobody.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isascii() and text.isdigit() and int(text) > 0 else None


class Observer:
    """Watches the plan and reports.

    Args:
        log: gets events.
        manager: the service manager; ``None`` when nobody supervises the keeper.
        watchdog_s: seconds between pings; ``None`` for no pings.
    """

    def __init__(
        self,
        *,
        log: Log = log_line,
        manager: ServiceManager | None = None,
        watchdog_s: float | None = None,
    ) -> None:
        self._log = log
        self._manager = manager
        self._watchdog_s = watchdog_s if manager is not None else None
        self._seen: dict[str, tuple[str, int]] = {}
        self._settled = False
        self._summary = ""
        self._failures = 0
        self.next_at = -math.inf if self._watchdog_s is not None else math.inf
        """When ``look`` wants to be called without an event (monotonic seconds)."""

    @property
    def failures(self) -> int:
        """How many reports could not be delivered."""
        return self._failures

    def started(self, planes: Sequence[str], threads: int) -> None:
        """The keeper begins. More than one thread makes forking unsafe: say so."""
        self._event("keeper.started", {"pid": os.getpid(), "planes": ",".join(planes)})
        if threads > 1:
            self._event("keeper.threads_before_fork", {"threads": threads})

    def look(self, plan: KeeperPlan, now: float) -> None:
        """Report what has changed since the last look, and that the loop turns."""
        for status in plan.status(now):
            state = (status.state, status.restarts)
            if self._seen.get(status.name) != state:
                self._seen[status.name] = state
                self._plane(status)
        if self._manager is not None:
            self._report(self._manager, plan, now)

    def exited(self, plane: str, pid: int, how: str) -> None:
        """The process of a plane has ended."""
        self._event("keeper.plane_exited", {"plane": plane, "pid": pid, "exit": how})

    def killing(self, plane: str, reason: str) -> None:
        """A plane is about to be killed."""
        self._event("keeper.plane_killed", {"plane": plane, "reason": reason})

    def stopping(self, why: str) -> None:
        """The keeper was told to stop (again)."""
        self._event("keeper.stopping", {"why": why})
        if self._manager is not None:
            self._try(self._manager.stopping)

    def stopped(self, plan: KeeperPlan, statistics: KeeperStatistics) -> None:
        """The keeper ends."""
        fields: dict[str, Field] = {"exit_code": plan.exit_code, "planes": plan.summary()}
        self._event("keeper.stopped", fields | msgspec.structs.asdict(statistics))

    def _plane(self, status: PlaneStatus) -> None:
        fields: dict[str, Field] = {"plane": status.name, "pid": status.pid}
        if status.state in (PlaneState.WAITING, PlaneState.PARKED, PlaneState.STOPPED):
            fields |= {"last_exit": status.last_exit, "failures": status.failures}
            fields |= {"parked": status.parked, "retry_in_s": status.retry_in_s}
        elif status.state == PlaneState.READY:
            fields["start_s"] = status.start_s
        self._event(f"keeper.plane_{status.state}", fields)

    def _report(self, manager: ServiceManager, plan: KeeperPlan, now: float) -> None:
        if plan.settled and not self._settled:
            self._settled = True
            self._try(manager.ready)
        summary = plan.summary()
        if summary != self._summary:
            self._summary = summary
            self._try(lambda: manager.status(summary))
        if self._watchdog_s is not None and now >= self.next_at:
            self.next_at = now + self._watchdog_s
            self._try(manager.watchdog)

    def _event(self, name: str, fields: Mapping[str, Field]) -> None:
        self._try(lambda: self._log(name, fields))

    def _try(self, report: Callable[[], None]) -> None:
        try:
            report()
        except (OSError, ValueError):  # a full disk, a closed pipe or stream: the keeper goes on
            self._failures += 1
