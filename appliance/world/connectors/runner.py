"""One source under way: asked when its schedule says, told about honestly. The trio shell of a schedule."""

from __future__ import annotations

from typing import Final, Protocol

import trio

from appliance.system.clock import Clock
from appliance.system.log import get_logger
from appliance.wire.errors import Busy, FluxbeeError
from appliance.world.entities import rfc3339

from .records import Status
from .schedule import Schedule

__all__ = ["Poller", "Runner"]

_WORDS: Final = 500

log = get_logger("world")


class Poller(Protocol):
    """What a runner runs."""

    async def poll(self) -> None:
        """Ask once; raises from the error tree when it failed. ``Busy`` says when to come back."""


class Runner:
    """Polls until cancelled.

    Args:
        poller: asks.
        interval_s: between two polls.
        clock: for the schedule and for stamps.
        at_once: most polls under way together; others wait their turn.

    Attributes:
        scope: cancel it to stop; a poll under way ends too.
    """

    def __init__(
        self, poller: Poller, interval_s: float, clock: Clock, at_once: trio.CapacityLimiter
    ) -> None:
        self._poller = poller
        self._clock = clock
        self._at_once = at_once
        self.schedule = Schedule(interval_s, clock.monotonic())
        self.scope = trio.CancelScope()
        self.started_ms = clock.wall_ms()
        self.polled_ms: int | None = None
        self.succeeded_ms: int | None = None
        self.failed_polls = 0
        self._wanted = trio.Event()

    @property
    def status(self) -> Status:
        """As of the last poll; before the first one nothing is wrong."""
        return "running" if self.schedule.error is None else "error"

    def stamp(self, at_ms: int | None) -> str | None:
        """A time of this runner's as in ``lastUpdated``."""
        return None if at_ms is None else rfc3339(at_ms).decode()

    def hurry(self) -> None:
        """Poll now; when a poll is under way, once more right after it."""
        self._wanted.set()

    async def run(self) -> None:
        """Poll until :attr:`scope` is cancelled."""
        with self.scope:
            while True:
                with trio.move_on_after(max(self.schedule.due_at - self._clock.monotonic(), 0)):
                    await self._wanted.wait()
                self._wanted = trio.Event()
                async with self._at_once:
                    await self._once()

    async def _once(self) -> None:
        self.schedule.begin(self._clock.monotonic())
        self.polled_ms = self._clock.wall_ms()
        try:
            await self._poller.poll()
        except FluxbeeError as error:
            self.failed_polls += 1
            wait_s = error.retry_after_s if isinstance(error, Busy) else 0.0
            self.schedule.fail(self._clock.monotonic(), error.message[:_WORDS], wait_s=wait_s)
        except Exception as error:  # a defect in one source must not take the world down
            self.failed_polls += 1
            log.exception("source_failed", error, code="WORLD_SOURCE_FAILED")
            self.schedule.fail(self._clock.monotonic(), f"internal error: {type(error).__name__}")
        else:
            self.succeeded_ms = self._clock.wall_ms()
            self.schedule.succeed(self._clock.monotonic())
