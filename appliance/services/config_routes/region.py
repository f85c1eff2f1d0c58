"""Region ``config`` as a view of the route document.

The document's journal is the truth; this can be behind it, and says so in ``failure``. A medium that takes no
writes leaves readers what they have; the region is opened as soon as the medium allows it.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.store.layouts import CFG_META, CFG_ROUTE, CFG_VPN, CONFIG, ConfigMeta
from appliance.store.region import Environment

from ..control_regions import ControlRegions
from .book import RouteBook

__all__ = ["ConfigRegion"]


class ConfigRegion:
    """The one writer of region ``config``.

    Args:
        hive: hive id, shown in the header.
        shared: environment ``control``.
        on_trouble: called when the region has to be shown again.
    """

    def __init__(self, hive: str, shared: ControlRegions, on_trouble: Callable[[], None]) -> None:
        self._hive = hive
        self._region = shared.region(CONFIG, on_trouble)

    @property
    def failure(self) -> str | None:
        """Why it does not show the newest document; ``None`` when it does."""
        return self._region.failure

    def show(self, book: RouteBook, sequence: int) -> None:
        """Make the region a view of ``book``, which is record ``sequence`` of the journal.

        Raises:
            Conflict: another process writes the environment.
            Unavailable, Busy, Damaged: it is behind now; the next call tries again.
        """
        with self._region.use() as environment:
            self._show(environment, book, sequence)

    def _show(self, environment: Environment, book: RouteBook, sequence: int) -> None:
        rebuilding = not environment.ready("config")
        if not rebuilding and environment.applied_seq("config") == sequence:
            return
        if rebuilding or environment.applied_seq("config") > sequence:
            rebuilding = True  # empty, or a view of a journal that is gone
            environment.reset("config")
        with environment.change("config", applied_seq=None if rebuilding else sequence, urgent=True) as txn:
            for table in (CFG_META, CFG_ROUTE, CFG_VPN):
                table.clear(txn)
            CFG_META.put(txn, "v", ConfigMeta(book.version, book.updated_at_ms, self._hive))
            for index, route in enumerate(book.routes):
                CFG_ROUTE.put(txn, index, route.in_force())
            for index, rule in enumerate(book.vpns):
                CFG_VPN.put(txn, index, rule.in_force())
        if rebuilding:
            environment.finish_rebuild("config", applied_seq=sequence)
