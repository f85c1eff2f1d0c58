"""Region ``config`` as a view of the route document: written, opened again after trouble, copied for readers.

The document's journal is the truth; this can be behind it, and says so in ``failure``. A medium that takes no
writes leaves readers what they have; the region is opened as soon as the medium allows it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.store.generations import GenerationPage
from appliance.store.layouts import CFG_META, CFG_ROUTE, CFG_VPN, CONFIG, ConfigMeta
from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.store.region_statistics import EnvironmentStatistics
from appliance.store.region_txn import REGION_CLOSED
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError, Unavailable

from .book import RouteBook

__all__ = ["ConfigRegion"]

log = get_logger("config_routes")


class ConfigRegion:
    """The one writer of environment ``control``, until other services share it.

    Args:
        hive: hive id, shown in the header.
        spec: of the environment.
        directory: where it lies.
        page: where its generation is announced.
    """

    def __init__(self, hive: str, spec: EnvironmentSpec, directory: Path, page: GenerationPage) -> None:
        self._hive = hive
        self._spec = spec
        self._directory = directory
        self._page = page
        self._environment: Environment | None = None
        self._listener: Callable[[frozenset[str]], None] = lambda regions: None
        self.failure: str | None = None
        """Why it does not show the newest document; ``None`` when it does."""

    def on_change(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Call ``listener`` after every change that readers should see."""
        self._listener = listener

    def show(self, book: RouteBook, sequence: int) -> None:
        """Make the region a view of ``book``, which is record ``sequence`` of the journal.

        Raises:
            Conflict: another process writes the environment.
            Unavailable, Busy, Damaged: it is behind now; the next call tries again.
        """
        try:
            self._show(self._open(), book, sequence)
        except FluxbeeError as error:
            self.failure = error.message
            # What an environment refuses for good it takes again when it is opened and judged anew.
            self.close()
            raise
        self.failure = None

    def _open(self) -> Environment:
        if self._environment is None:
            opened = Environment(self._spec, self._directory, (CONFIG,), page=self._page)
            opened.on_change(lambda regions: self._listener(regions))
            if opened.opened.set_aside is not None:
                log.warning("region_set_aside", code="REGION_SET_ASIDE", reason=opened.opened.reason)
            self._environment = opened
        return self._environment

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
                CFG_ROUTE.put(txn, index, route)
            for index, rule in enumerate(book.vpns):
                CFG_VPN.put(txn, index, rule)
        if rebuilding:
            environment.finish_rebuild("config", applied_seq=sequence)

    def maintain(self) -> None:
        """What wants to be done every minute or so: free what readers that died left behind."""
        if self._environment is not None:
            with suppress(FluxbeeError):  # shows again, with its reason, at the next change
                self._environment.maintain()

    def close(self) -> None:
        """Close the environment; :meth:`show` opens it again."""
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    # --- what a publisher copies ---------------------------------------------------------------------------

    def _source(self) -> Environment:
        environment = self._environment
        if environment is None:
            raise Unavailable(f"{self._spec.name}: {self.failure or 'not open'}", code=REGION_CLOSED)
        return environment

    def copy_to(self, fd: int) -> None:
        """Write a compacted copy to ``fd``; may run in another thread."""
        self._source().copy_to(fd)

    def statistics(self) -> EnvironmentStatistics:
        """Figures of the environment since it was opened."""
        return self._source().statistics()
