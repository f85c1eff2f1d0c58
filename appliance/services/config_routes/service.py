"""SY.config.routes: the document in a journal, its view in region ``config``, its messages.

A change is answered when journal *and* region have it (``design.md §2``). Messages are handled one after the
other, so versions follow each other. A change that the journal refuses is refused and nothing moves; one that
only the region refuses is stored, is answered ``APPLY_FAILED``, and takes effect when the region lets it.
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
from appliance.store.journal import Journal
from appliance.store.journal_types import Gap, JournalSpec, JournalStatistics
from appliance.store.replay import replay
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.log import get_logger
from appliance.system.paths import Paths
from appliance.wire.envelope import Message
from appliance.wire.errors import Conflict, Damaged, FluxbeeError
from appliance.wire.names import full_name

from ..control_regions import ControlRegions
from ..health import JournalState, journal_states
from .book import RouteBook, RouteLimits
from .desk import RoutesDesk
from .document import edited, read_document, write_document
from .region import ConfigRegion

__all__ = ["RouteService"]

_JOURNAL: Final = "config.routes"
_BASE_EVERY: Final = 64
"""A base image is written after so many changes; each record is a whole document."""

_RETRY_S: Final = 2.0

log = get_logger("config_routes")


class RouteService:
    """Run :meth:`serve` with its node and :meth:`upkeep` inside :meth:`opened`.

    Args:
        hive: hive id.
        paths: where journal, region and file lie.
        limits: most entries.
        admin_nodes: who may change routes besides ``SY.*``.
        regions: environment ``control``.
        reserve: of the disk; a change may use what it frees.
    """

    def __init__(
        self,
        hive: str,
        paths: Paths,
        *,
        limits: RouteLimits,
        admin_nodes: tuple[str, ...],
        regions: ControlRegions,
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self._paths = paths
        self._reserve = reserve
        self._trouble = trio.Event()
        self._region = ConfigRegion(hive, regions, self._note_trouble)
        self._desk = RoutesDesk(hive, full_name("SY.config.routes", hive), limits, admin_nodes)
        self.book = RouteBook()
        self._sequence = 0  # of the record that holds ``book``; 0 while none does
        self._wanted: RouteBook | None = None  # the file's, until the journal takes it
        self._lock = trio.Lock()  # messages and upkeep both bring journal and region up to date

    @property
    def _document(self) -> Path:
        return self._paths.routes_yaml

    # --- opening ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Open journal and region and find the document in force; both are closed at the end.

        A medium that takes no writes is no error: what is stored is in force, and changes are refused.

        Raises:
            Conflict: another process has them open.
            Damaged, Unavailable: the journal cannot be read.
        """
        directory = self._paths.journals / _JOURNAL
        spec = JournalSpec(name=_JOURNAL, kind="state", durability="durable", segment_bytes=1 << 20)
        async with await Journal.opened(directory, spec) as self._journal:
            await self._restore()
            yield self

    async def _restore(self) -> None:
        """Find the document in force: the journal's, unless somebody edited the file since."""
        stored = await self._last_record()
        found = self._read_file()
        if stored is not None:
            self.book, self._sequence = stored, self._journal.last_seq
        if stored is None:
            self._wanted = found or RouteBook(updated_at_ms=_now_ms())
        elif found is not None and edited(found, stored):
            version = max(found.version, stored.version + 1)
            log.info("document_edited_by_hand", version=version)
            self._wanted = msgspec.structs.replace(found, version=version, updated_at_ms=_now_ms())
        elif self._file_readable and (found is None or found.version != stored.version):
            self._write_file(stored)
        try:
            await self._catch_up()
        except Conflict:
            raise
        except FluxbeeError as error:
            log.error(
                "document_not_in_force", code="DOCUMENT_NOT_IN_FORCE", error=str(error), remedy=error.remedy
            )
            self._trouble.set()

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
        """Journal, then region, then the operator's file; a failure of the file is only logged.

        Raises:
            FluxbeeError: not stored, or (``self.book is book``) stored and not in the region.
        """
        self._sequence = await self._journal.append(msgspec.json.encode(book))
        self.book, self._wanted = book, None
        if self._file_readable or not self._document.exists():
            self._write_file(book)
        self._region.show(book, self._sequence)
        if self._sequence % _BASE_EVERY == 0:
            await self._write_base(book)

    async def _catch_up(self) -> None:
        """Store what waits for the journal, show what waits for the region; errors as :meth:`_commit`."""
        if self._wanted is not None:
            await self._commit(self._wanted)
        else:
            self._region.show(self.book, self._sequence)

    async def _write_base(self, book: RouteBook) -> None:
        try:
            await self._journal.write_base(self._sequence, [msgspec.json.encode(book)])
        except FluxbeeError as error:
            log.warning("base_image_not_written", code="BASE_IMAGE_NOT_WRITTEN", error=str(error))

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
            async with self._lock:
                answer = await self._decide(message, node.uuid)
            if answer is not None and message.routing.src:
                try:
                    await node.send(answer)
                except FluxbeeError as error:
                    log.warning(
                        "answer_not_sent", code="ANSWER_NOT_SENT", to=message.source_l2_name, error=str(error)
                    )

    async def _decide(self, message: Message, src: str) -> Message | None:
        if self.is_behind:
            await self._reserve.make_way(self._journal)
            await self._try_to_catch_up()
        outcome = self._desk.handle(message, self.book, src=src, now_ms=_now_ms())
        if outcome.book is None:
            return outcome.answer
        await self._reserve.make_way(self._journal)
        try:
            await self._commit(outcome.book)
        except FluxbeeError as error:
            stored = self.book is outcome.book
            log.error("document_not_stored", code="DOCUMENT_NOT_STORED", error=str(error), in_journal=stored)
            self._trouble.set()
            return self._desk.not_done(message, self.book, src=src, error=error, stored=stored)
        log.info("document_changed", version=outcome.book.version, by=message.source_l2_name)
        return outcome.answer

    @property
    def is_behind(self) -> bool:
        """Whether journal or region still owe something."""
        return self._wanted is not None or self._region.failure is not None

    async def _try_to_catch_up(self) -> bool:
        try:
            await self._catch_up()
        except FluxbeeError:
            return False  # health says why
        log.info("document_in_force", version=self.book.version)
        return True

    def _note_trouble(self) -> None:
        self._trouble.set()

    async def upkeep(self) -> None:
        """Bring up what a refusing medium left behind as soon as it takes writes, until cancelled."""
        while True:
            await self._trouble.wait()
            self._trouble = trio.Event()
            while self.is_behind:
                async with self._lock:
                    done = await self._try_to_catch_up()
                await trio.sleep(0 if done else _RETRY_S)

    def journals(self) -> Sequence[JournalState]:
        """For the health report: the journal, and the region when it is behind."""
        return journal_states(self._journal.statistics(), "config", self._region.failure)

    def journal_statistics(self) -> JournalStatistics:
        """Figures of the journal."""
        return self._journal.statistics()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
