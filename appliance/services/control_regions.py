"""Environment ``control`` and the regions that services keep in it: opened here, written by each its own.

One object per process is the one writer. A service gets its :class:`ControlRegion` and works on it inside
``with region.use() as environment``. A journal is the truth of every region, so a region may be behind, and
says so in ``failure``. Whatever an environment refuses, it is closed and judged anew at the next use; other
regions go on with what was committed, and their owners are told when they have to fill theirs again. One
publisher keeps the copy for nodes and tools. Everything here runs on one loop, without waiting inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import trio

from appliance.store.generations import GenerationPage
from appliance.store.layouts import CONFIG, IDENTITY
from appliance.store.published import Publisher, PublisherStatistics
from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.store.region_statistics import EnvironmentStatistics
from appliance.store.region_table import RegionSpec
from appliance.store.region_txn import REGION_CLOSED
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError, Unavailable

__all__ = ["CONTROL_REGIONS", "ControlRegion", "ControlRegions"]

CONTROL_REGIONS: Final[tuple[RegionSpec, ...]] = (CONFIG, IDENTITY)
"""All regions of the environment."""

_FIRST_MAINTENANCE_S: Final = 5.0
_MAINTENANCE_S: Final = 60.0

log = get_logger("control_regions")


class ControlRegion:
    """One service's region; made by :meth:`ControlRegions.region`.

    Attributes:
        name: of the region.
        failure: why it does not show the newest state; ``None`` when it does.
    """

    def __init__(self, shared: ControlRegions, name: str, on_trouble: Callable[[], None]) -> None:
        self.name = name
        self.failure: str | None = None
        self._shared = shared
        self._on_trouble = on_trouble

    @contextmanager
    def use(self) -> Iterator[Environment]:
        """The open environment; at the end of the block the region is up to date, unless it raised.

        The block may wait between two changes; the environment may then be closed by another service's
        trouble (``Unavailable``: ``REGION_CLOSED``).

        Raises:
            Conflict: another process writes the environment.
            Unavailable, Busy, Damaged: the region is behind now; ``failure`` says why.
        """
        environment: Environment | None = None
        try:
            environment = self._shared.environment()
            yield environment
        except FluxbeeError as error:
            self.failure = error.message
            # What an environment refuses for good it takes again when it is opened and judged anew.
            self._shared.give_up(environment)
            raise
        self.failure = None

    def note_emptied(self, reason: str) -> None:
        """The environment was opened without the region's rows: its owner must fill it again."""
        self.failure = reason
        self._on_trouble()


class ControlRegions:
    """Environment ``control``, its regions and its published copy.

    Args:
        spec: of the environment.
        directory: where it lies.
        page: where generations are announced.
        published: the directory of published copies.
    """

    def __init__(self, spec: EnvironmentSpec, directory: Path, page: GenerationPage, published: Path) -> None:
        self.spec = spec
        self._directory = directory
        self._page = page
        self._environment: Environment | None = None
        self._regions: dict[str, ControlRegion] = {}
        self._publisher = Publisher(self, published / f"{spec.name}.mdb")

    def region(self, spec: RegionSpec, on_trouble: Callable[[], None] = lambda: None) -> ControlRegion:
        """The handle of one region, for its one owner.

        Args:
            spec: one of :data:`CONTROL_REGIONS`.
            on_trouble: called when the region has to be filled again; it must neither raise nor wait.
        """
        if spec not in CONTROL_REGIONS:
            raise ValueError(f"region {spec.name} is not of environment {self.spec.name}")
        if spec.name in self._regions:
            raise ValueError(f"region {spec.name} has an owner already")
        region = ControlRegion(self, spec.name, on_trouble)
        self._regions[spec.name] = region
        return region

    # --- opening and closing ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def environment(self) -> Environment:
        """The open environment, opened if need be; errors as :meth:`ControlRegion.use`."""
        if self._environment is None:
            opened = Environment(self.spec, self._directory, CONTROL_REGIONS, page=self._page)
            opened.on_change(self._publisher.notify)
            self._environment = opened
            if opened.opened.set_aside is not None:
                log.warning("region_set_aside", code="REGION_SET_ASIDE", reason=opened.opened.reason)
            for region in self._regions.values():
                if not opened.ready(region.name):
                    region.note_emptied(opened.opened.reason or "it is empty")
        return self._environment

    def give_up(self, environment: Environment | None) -> None:
        """Close ``environment`` if it is still the one in use; the next use opens it again."""
        if environment is not None and environment is self._environment:
            self.close()

    def close(self) -> None:
        """Close the environment; the next use opens it again."""
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    # --- upkeep ----------------------------------------------------------------------------------------

    def maintain(self) -> None:
        """Free what readers that died left behind."""
        if self._environment is not None:
            with suppress(FluxbeeError):  # shows again, with its reason, at the next change
                self._environment.upkeep()

    async def upkeep(self) -> None:
        """Maintain the environment for as long as it runs."""
        pause_s = _FIRST_MAINTENANCE_S
        while True:
            await trio.sleep(pause_s)
            self.maintain()
            pause_s = _MAINTENANCE_S

    # --- what the publisher copies ---------------------------------------------------------------------

    async def publish(self) -> None:
        """Keep the copy that nodes and tools read up to date, until cancelled."""
        await self._publisher.run()

    def _source(self) -> Environment:
        environment = self._environment
        if environment is None:
            reasons = [region.failure for region in self._regions.values() if region.failure]
            raise Unavailable(f"{self.spec.name}: {'; '.join(reasons) or 'not open'}", code=REGION_CLOSED)
        return environment

    def copy_to(self, fd: int) -> None:
        """Write a compacted copy to ``fd``; may run in another thread."""
        self._source().copy_to(fd)

    def statistics(self) -> EnvironmentStatistics:
        """Figures of the environment since it was opened; may be asked from another thread."""
        return self._source().statistics()

    def publisher_statistics(self) -> PublisherStatistics:
        """Figures of the published copy."""
        return self._publisher.statistics()
