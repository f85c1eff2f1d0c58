"""Publishes what is notable about this box, as an entity of its own world."""

from __future__ import annotations

import trio

from appliance.system.clock import Clock

from .publishing import Publisher, SourceEvent
from .records import ConnectorOptions
from .sysinfo import BoxReader, Notable

__all__ = ["SYSINFO", "BoxPoller"]

SYSINFO = "sysinfo"
_LOOKS = 5
"""Least looks between two events."""


class BoxPoller:
    """Looks at the box once per poll (a ``Poller``)."""

    def __init__(
        self,
        options: ConnectorOptions,
        box: BoxReader,
        publisher: Publisher,
        clock: Clock,
        files: trio.CapacityLimiter,
    ) -> None:
        self._entity_id = f"{options.sysinfo_namespace}/{options.hive_id}"
        self._box = box
        self._publisher = publisher
        self._clock = clock
        self._files = files
        self._notable = Notable(_LOOKS * options.sysinfo_interval_s)

    async def poll(self) -> None:
        """Look, and publish what moved."""
        look = await trio.to_thread.run_sync(self._box.read, limiter=self._files)
        now = self._clock.monotonic()
        changes = self._notable.changes(look, now)
        if changes:
            event = SourceEvent(stream="box", source=SYSINFO, entity_id=self._entity_id, properties=changes)
            await self._publisher.publish([event])
            self._notable.told(changes, now)
