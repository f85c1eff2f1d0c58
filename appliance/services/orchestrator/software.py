"""Software of the hive: the verbs of runtimes, updates, history, hives and storage, put together.

Run :meth:`Software.run` inside :meth:`Software.opened` and give ``handlers`` to the orchestrator. At the
start the manifests exist (an empty one of runtimes, one that describes this program) and what crashes left
is cleaned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from appliance.supervise.core import ensure_core_manifest, read_core
from appliance.supervise.install import LEFTOVER_AGE_S, clean_leftovers
from appliance.supervise.manifest import create_manifest
from appliance.supervise.tree import TreeLimits
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError

from .history import History, HistoryStatistics
from .hives import Bootstrap, HiveVerbs, WanSettings, no_bootstrap
from .house import Handler, House
from .publish import PublishStatistics, PublishVerbs
from .runtimes import RuntimeVerbs
from .storage import StorageVerbs
from .updates import SyncSettings, UpdateStatistics, UpdateVerbs
from .usage import UsageReader
from .versions import VersionVerbs

__all__ = ["Software", "SoftwareConfig", "SoftwareStatistics"]

log = get_logger("orchestrator")


class SoftwareConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where things lie and what is allowed.

    Attributes:
        blobs: root of the blob store.
        storage: ``storage.path`` in force.
        config_file: the hive.yaml that this hive was started with.
        limits: most that a package may be.
        sync, wan: settings of those sections.
    """

    blobs: Path
    storage: Path
    config_file: Path
    limits: TreeLimits = TreeLimits()
    sync: SyncSettings = SyncSettings()
    wan: WanSettings = WanSettings()


class SoftwareStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of each part."""

    publish: PublishStatistics
    updates: UpdateStatistics
    history: HistoryStatistics
    leftovers_removed: int


class Software:
    """See the module.

    Args:
        house: what all verbs of the orchestrator share.
        config: places and limits.
        bootstrap: brings workers in.
    """

    def __init__(self, house: House, config: SoftwareConfig, bootstrap: Bootstrap = no_bootstrap) -> None:
        self._house = house
        self._leftovers = 0
        # The registry is known to all of them before the history, which records what they do.
        self.history = History(house, lambda: self.hives.registry.ids())
        self.hives = HiveVerbs(house, self.history, config.wan, bootstrap)
        registered = self.hives.registry.ids
        usage = UsageReader(house)
        self.updates = UpdateVerbs(house, self.history, usage, config.sync)
        self.publish = PublishVerbs(house, self.history, config.blobs, config.limits)
        self.handlers: Mapping[str, Handler] = {
            **VersionVerbs(house, registered).handlers,
            **RuntimeVerbs(house, usage, self.history, registered).handlers,
            **self.updates.handlers,
            **self.publish.handlers,
            **self.history.handlers,
            **self.hives.handlers,
            **StorageVerbs(house, config.storage, config.config_file).handlers,
        }

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Software]:
        """Make what must exist, clean what crashes left, open the history.

        Raises:
            Conflict, Damaged, Unavailable: the history's journal cannot be opened.
        """
        started_ms = self._house.clock.wall_ms()
        program = await trio.to_thread.run_sync(self._prepare, limiter=self._house.files)
        async with self.history.opened():
            if program is not None:
                await self.history.record_deployment(
                    "core",
                    trigger="program_changed",
                    started_at_ms=started_ms,
                    result="ok",
                    manifest_hash=program,
                )
            yield self

    def _prepare(self) -> str | None:
        """Make and clean; the hash of the core manifest when the program is another than before."""
        dist = self._house.paths.dist
        known = (dist / "core" / "manifest.json").exists()
        try:
            if create_manifest(dist, now_ms=self._house.clock.wall_ms()):
                log.info("runtime_manifest_created", path=str(dist / "runtimes" / "manifest.json"))
            self._leftovers = clean_leftovers(dist)
            if ensure_core_manifest(dist) and known:
                return read_core(dist).hash
        except FluxbeeError as error:
            # The hive runs what it has all the same; verbs that need these files say what is missing.
            log.error("software_not_prepared", code="SOFTWARE_NOT_PREPARED", error=str(error))
        return None

    async def run(self) -> None:
        """Upkeep until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.updates.run)
            while True:
                await trio.sleep(LEFTOVER_AGE_S)
                clean = partial(clean_leftovers, self._house.paths.dist)
                self._leftovers += await trio.to_thread.run_sync(clean, limiter=self._house.files)

    def statistics(self) -> SoftwareStatistics:
        """Of each part."""
        return SoftwareStatistics(
            publish=self.publish.statistics(),
            updates=self.updates.statistics(),
            history=self.history.statistics(),
            leftovers_removed=self._leftovers,
        )
