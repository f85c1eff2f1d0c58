"""SY.config.routes: the document in a journal, its view in region ``config``, its messages.

A change is answered when journal *and* region have it (``design.md §2``). Messages are handled one after the
other, so versions follow each other; a change that cannot be stored is refused and nothing moves.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import msgspec
import trio

from appliance.sdk import Node
from appliance.store.generations import GenerationPage
from appliance.store.journal import Journal
from appliance.store.journal_types import Gap, JournalSpec
from appliance.store.layouts import CFG_META, CFG_ROUTE, CFG_VPN, CONFIG, ConfigMeta
from appliance.store.published import Publisher
from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.store.replay import replay
from appliance.system.log import get_logger
from appliance.system.paths import Paths
from appliance.wire.errors import Damaged, FluxbeeError
from appliance.wire.names import full_name

from ..health import JournalState
from .book import RouteBook, RouteLimits
from .desk import RoutesDesk
from .document import edited, read_document, write_document

__all__ = ["RouteService"]

_JOURNAL: Final = "config.routes"
_MAINTAIN_S: Final = 60.0
_BASE_EVERY: Final = 64
"""A base image is written after so many changes; each record is a whole document."""

log = get_logger("config_routes")


class RouteService:
    """Run :meth:`serve` with its node inside :meth:`opened`.

    Args:
        hive: hive id.
        paths: where journal, region and file lie.
        page: where the region's generation is announced.
        limits: most entries.
        admin_nodes: who may change routes besides ``SY.*``.
        environment: environment ``control``; this service is its one writer until others share it.
    """

    def __init__(
        self,
        hive: str,
        paths: Paths,
        page: GenerationPage,
        *,
        limits: RouteLimits,
        admin_nodes: tuple[str, ...],
        environment: EnvironmentSpec,
    ) -> None:
        self._hive = hive
        self._paths = paths
        self._page = page
        self._limits = limits
        self._spec = environment
        self._desk = RoutesDesk(hive, full_name("SY.config.routes", hive), limits, admin_nodes)
        self.book = RouteBook()

    @property
    def _document(self) -> Path:
        return self._paths.routes_yaml

    # --- opening ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Open journal and region and find the document in force; both are closed at the end.

        Raises:
            Conflict: another process has them open.
            Damaged, Unavailable: the journal cannot be read, or the first version not be stored.
        """
        directory = self._paths.journals / _JOURNAL
        spec = JournalSpec(name=_JOURNAL, kind="state", durability="durable", segment_bytes=1 << 20)
        async with await Journal.opened(directory, spec) as self._journal:
            self._environment = Environment(self._spec, self._paths.regions_disk, (CONFIG,), page=self._page)
            with self._environment:
                await self._restore()
                yield self

    async def _restore(self) -> None:
        """Find the document in force: the journal's, unless somebody edited the file since."""
        stored = await self._last_record()
        found = self._read_file()
        if stored is not None:
            self.book = stored
            self._project(self._journal.last_seq)
        if stored is None:
            await self._commit(found or RouteBook(updated_at_ms=_now_ms()))
        elif found is not None and edited(found, stored):
            version = max(found.version, stored.version + 1)
            log.info("document_edited_by_hand", version=version)
            await self._commit(msgspec.structs.replace(found, version=version, updated_at_ms=_now_ms()))
        elif self._file_readable and (found is None or found.version != stored.version):
            self._write_file(stored)

    async def _last_record(self) -> RouteBook | None:
        last: bytes | None = None
        async for part in replay(self._journal):
            if isinstance(part, Gap):
                log.error(
                    "document_versions_lost", code="DOCUMENT_VERSIONS_LOST", first=part.first, last=part.last
                )
            elif part:
                last = part[-1][1]
        if last is None:
            return None
        try:
            return msgspec.json.decode(last, type=RouteBook)
        except msgspec.DecodeError as error:
            raise Damaged(f"journal {_JOURNAL}: the last document does not decode: {error}") from error

    def _read_file(self) -> RouteBook | None:
        self._file_readable = True
        try:
            return read_document(self._document)
        except FluxbeeError as error:
            # Kept as it is for the operator to mend; the journal's document stays in force.
            self._file_readable = False
            log.error("document_refused", code="DOCUMENT_REFUSED", error=str(error), remedy=error.remedy)
            return None

    # --- changing --------------------------------------------------------------------------------------

    async def _commit(self, book: RouteBook) -> None:
        """Journal, then region, then the operator's file; a failure of the file is only logged."""
        sequence = await self._journal.append(msgspec.json.encode(book))
        self.book = book
        self._project(sequence)
        if self._file_readable or not self._document.exists():
            self._write_file(book)
        if sequence % _BASE_EVERY == 0:
            await self._journal.write_base(sequence, [msgspec.json.encode(book)])

    def _project(self, sequence: int) -> None:
        """Make the region a view of ``book``; skipped when it is one already."""
        environment = self._environment
        rebuilding = "config" in environment.opened.rebuild and not environment.ready("config")
        if not rebuilding and environment.applied_seq("config") == sequence:
            return
        if rebuilding:
            environment.reset("config")
        book = self.book
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

    def _write_file(self, book: RouteBook) -> None:
        try:
            write_document(self._document, book)
            self._file_readable = True
        except FluxbeeError as error:
            log.error(
                "document_not_written", code="DOCUMENT_NOT_WRITTEN", error=str(error), remedy=error.remedy
            )

    # --- serving ---------------------------------------------------------------------------------------

    async def serve(self, node: Node) -> None:
        """Answer messages until the node is closed."""
        async for message in node.receiver:
            outcome = self._desk.handle(message, self.book, src=node.uuid, now_ms=_now_ms())
            answer = outcome.answer
            if outcome.book is not None:
                try:
                    await self._commit(outcome.book)
                    log.info("document_changed", version=outcome.book.version, by=message.source_l2_name)
                except FluxbeeError as error:
                    log.error("document_not_stored", code="DOCUMENT_NOT_STORED", error=str(error))
                    answer = self._desk.not_stored(message, src=node.uuid, error=error)
            if answer is not None and message.routing.src:
                await node.send(answer)

    async def upkeep(self) -> None:
        """Until cancelled: publish the copy that nodes and tools read, keep the environment in order."""
        publisher = Publisher(self._environment, self._paths.published / f"{self._spec.name}.mdb")
        self._environment.on_change(publisher.notify)
        async with trio.open_nursery() as nursery:
            await nursery.start(publisher.run)
            while True:
                self._environment.maintain()
                await trio.sleep(_MAINTAIN_S)

    def journals(self) -> Sequence[JournalState]:
        """For the health report."""
        statistics = self._journal.statistics()
        return (JournalState(f"journal {statistics.name}", statistics.failure),)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
