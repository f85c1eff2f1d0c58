"""Routes and VPN rules as the route service wrote them, read when their generation moves. Blocking reads.

The region is another plane's; it may not be there yet, be rebuilt, or be damaged. Then the last version that
was read stays in force, and before the first one business nodes are held (``design.md §4``).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from appliance.store.generations import SLOTS, GenerationPage
from appliance.store.layouts import CFG_META, CFG_ROUTE, CFG_VPN, CONFIG, ConfigMeta
from appliance.store.region_reader import RegionReader
from appliance.wire.errors import FluxbeeError
from appliance.wire.routes import Route, VpnRule

__all__ = ["ConfigView", "RouteTables"]

_SLOT = SLOTS["config"]


class RouteTables(msgspec.Struct, frozen=True):
    """One consistent version."""

    meta: ConfigMeta
    routes: tuple[Route, ...]
    vpns: tuple[VpnRule, ...]


class ConfigView:
    """Follows region ``config``.

    Args:
        path: file of environment ``control``.
        page: where its generation is announced.
    """

    def __init__(self, path: Path, page: GenerationPage) -> None:
        self._reader = RegionReader(path, (CONFIG,))
        self._words = page.words
        self._seen = -1
        self.failures = 0
        self.failure: str | None = None

    @property
    def changed(self) -> bool:
        """Whether there is something new to read; costs tens of nanoseconds."""
        return self._words[_SLOT] != self._seen

    def look_again(self) -> None:
        """Take it for changed: what failed was perhaps not the region but a lack of descriptors or memory."""
        self._seen = -1

    def read(self) -> RouteTables | None:
        """The current version, or ``None`` while it cannot be read (the reason is in ``failure``)."""
        self._seen = self._words[_SLOT]
        try:
            if not self._reader.ready("config"):
                self.failure = "no configuration has been written yet"
                return None
            with self._reader.read() as txn:
                meta = CFG_META.get(txn, "v")
                routes = tuple(route for _, route in CFG_ROUTE.items(txn))
                vpns = tuple(rule for _, rule in CFG_VPN.items(txn))
        except FluxbeeError as error:
            self.failures += 1
            self.failure = error.message
            return None
        if meta is None:
            self.failure = "the configuration has no header"
            return None
        self.failure = None
        return RouteTables(meta, routes, vpns)

    def close(self) -> None:
        """Release the reader."""
        self._reader.close()
