"""How often nodes were started again, kept over a restart of the control plane.

A small file in the run directory, written at most once a second and only when a count changed: on an image
that is memory, not flash. A loss costs a count, nothing else, so failures are counted and not raised.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import msgspec
import trio

from appliance.store.files import durable_replace
from appliance.wire.errors import FluxbeeError

__all__ = ["RestartLedger"]

_EVERY_S = 1.0


class RestartLedger:
    """Counts by node name; ``failures`` counts what could not be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: dict[str, int] = {}
        self._dirty = trio.Event()
        self.failures = 0

    def count(self, name: str) -> int:
        """Restarts of ``name`` so far."""
        return self._counts.get(name, 0)

    def note(self, name: str, restarts: int) -> None:
        """``name`` was started again."""
        self._counts[name] = restarts
        self._dirty.set()

    def forget(self, name: str) -> None:
        """``name`` is no more."""
        if self._counts.pop(name, None) is not None:
            self._dirty.set()

    def keep(self, names: Container[str]) -> None:
        """All but ``names`` are no more: their directories went while nobody looked."""
        for name in [name for name in self._counts if name not in names]:
            self.forget(name)

    async def load(self) -> None:
        """Read what an earlier control plane left."""
        try:
            data = await trio.to_thread.run_sync(self._path.read_bytes)
            self._counts = msgspec.json.decode(data, type=dict[str, int])
        except FileNotFoundError:
            self._counts = {}
        except (OSError, msgspec.DecodeError):
            self.failures += 1

    async def run(self) -> None:
        """Write changes until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty = trio.Event()
            data = msgspec.json.encode(self._counts)
            try:
                await trio.to_thread.run_sync(durable_replace, self._path, data)
            except FluxbeeError:
                self.failures += 1
            await trio.sleep(_EVERY_S)
