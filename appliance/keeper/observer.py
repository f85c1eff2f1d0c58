"""Tells people and the service manager what the keeper does: log records, readiness, status, watchdog.

State changes are found by comparing with the last look, so nothing that a plane says can flood the log:
records come at the pace of starts and ends, which the back-off bounds. Neither the log nor the notifier
blocks or raises; supervision does not depend on being watched.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import msgspec

from appliance.keeper.plan import KeeperPlan, PlaneState
from appliance.keeper.protocol import KeeperStatistics, PlaneStatus
from appliance.system import log
from appliance.system.notify import Notifier

__all__ = ["Observer"]

_EXTEND_EVERY_S = 10.0
_EXTEND_BY_S = 30.0
"""While planes still start, the service manager is asked for this much more time. The keeper's own
``start_timeout_s`` and parking bound how long that can go on."""


class Observer:
    """Watches the plan and reports.

    Args:
        notifier: speaks to the service manager; by default nobody listens.
    """

    def __init__(self, notifier: Notifier | None = None) -> None:
        self._notifier = notifier or Notifier()
        self._log = log.get_logger("keeper")
        self._seen: dict[str, tuple[str, int]] = {}
        self._settled = False
        watched = self._notifier.watchdog_interval_s is not None
        self._watchdog_at = -math.inf if watched else math.inf
        self._extend_at = -math.inf if self._notifier.listening else math.inf

    @property
    def next_at(self) -> float:
        """When ``look`` wants to be called without an event (monotonic seconds)."""
        return min(self._watchdog_at, self._extend_at)

    def started(self, planes: Sequence[str], threads: int) -> None:
        """The keeper begins. More than one thread makes forking unsafe: say so."""
        self._log.info("started", pid=os.getpid(), planes=list(planes))
        if threads > 1:
            self._log.warning("threads_before_fork", code="KEEPER_THREADS", threads=threads)

    def look(self, plan: KeeperPlan, now: float) -> None:
        """Report what has changed since the last look, and that the loop turns."""
        changed = False
        for status in plan.status(now):
            state = (status.state, status.restarts)
            if self._seen.get(status.name) != state:
                self._seen[status.name] = state
                self._plane(status)
                changed = True
        if changed:
            self._notifier.status(plan.summary())
        if not self._settled and (plan.settled or plan.stopping):
            self._settled = True
            self._extend_at = math.inf
            if not plan.stopping:
                self._notifier.ready()
        if now >= self._extend_at:
            self._extend_at = now + _EXTEND_EVERY_S
            self._notifier.extend_timeout(_EXTEND_BY_S)
        interval_s = self._notifier.watchdog_interval_s
        if interval_s is not None and now >= self._watchdog_at:
            self._watchdog_at = now + interval_s
            self._notifier.watchdog()

    def exited(self, plane: str, pid: int, how: str, *, expected: bool) -> None:
        """The process of a plane has ended."""
        if expected:
            self._log.info("plane_exited", plane=plane, pid=pid, exit=how)
        else:
            self._log.warning("plane_exited", code="PLANE_EXITED", plane=plane, pid=pid, exit=how)

    def killing(self, plane: str, reason: str) -> None:
        """A plane is about to be killed."""
        self._log.warning("plane_killed", code="PLANE_KILLED", plane=plane, reason=reason)

    def stopping(self, why: str) -> None:
        """The keeper was told to stop (again)."""
        self._log.info("stopping", why=why)
        self._notifier.stopping()

    def stopped(self, plan: KeeperPlan, statistics: KeeperStatistics) -> None:
        """The keeper ends; nothing is reported after this."""
        counters = msgspec.structs.asdict(statistics)
        self._log.info("stopped", exit_code=plan.exit_code, planes=plan.summary(), **counters)
        log.flush()
        self._notifier.close()

    def _plane(self, status: PlaneStatus) -> None:
        name = f"plane_{status.state}"
        if status.state == PlaneState.PARKED:
            self._log.error(
                name,
                code="PLANE_PARKED",
                plane=status.name,
                reason=status.parked,
                last_exit=status.last_exit,
                failures=status.failures,
                retry_in_s=status.retry_in_s,
            )
        elif status.state == PlaneState.WAITING:
            self._log.info(name, plane=status.name, failures=status.failures, retry_in_s=status.retry_in_s)
        elif status.state == PlaneState.READY:
            self._log.info(name, plane=status.name, pid=status.pid, start_s=status.start_s)
        else:
            self._log.info(name, plane=status.name, pid=status.pid)
