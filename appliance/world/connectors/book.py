"""The sources and credentials of a world, kept in the journal ``world.connectors``.

A change is in force when the journal has it. Credentials that were sealed under an older key are sealed anew
at the start (rotation). What does not decode is counted and left where it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import msgspec
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import Gap, JournalSpec
from appliance.store.replay import replay
from appliance.system.clock import Clock
from appliance.system.log import get_logger
from appliance.wire.errors import Busy, Damaged, FluxbeeError

from .records import (
    Credential,
    CredentialGone,
    GenericSource,
    NamedGone,
    NamedSource,
    Record,
    SourceGone,
)
from .vault import KeyRing

__all__ = ["JOURNAL", "MAX_CREDENTIALS", "ConnectorBook", "Secrets"]

JOURNAL: Final = JournalSpec(
    name="world.connectors", kind="state", durability="durable", segment_bytes=1 << 20, keep_bases=2
)
MAX_CREDENTIALS: Final = 10_000
_BASE_EVERY: Final = 128

log = get_logger("world")
_decoder = msgspec.json.Decoder(Record)


class Secrets(msgspec.Struct, frozen=True):
    """What a credential holds; only in memory, only while it is needed."""

    access: str
    refresh: str | None = None
    expires_at_ms: int | None = None

    def __repr__(self) -> str:
        return "Secrets(…)"


class ConnectorBook:
    """See the module.

    Args:
        directory: of the journal.
        ring: seals and opens.
        clock: for stamps.
    """

    def __init__(self, directory: Path, ring: KeyRing, clock: Clock) -> None:
        self._directory = directory
        self._ring = ring
        self._clock = clock
        self._lock = trio.Lock()
        self._changes = 0
        self.credentials: dict[tuple[str, str], Credential] = {}
        self.sources: dict[str, GenericSource] = {}
        self.named: dict[str, NamedSource] = {}
        self.undecodable = 0
        self.resealed = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Read what is stored; the journal is closed at the end.

        Raises:
            Conflict: another process has it open.
            Unavailable, Damaged: it cannot be read.
        """
        async with await Journal.opened(self._directory, JOURNAL) as self._journal:
            async for part in replay(self._journal):
                if isinstance(part, Gap):
                    log.error(
                        "world_sources_lost", code="WORLD_SOURCES_LOST", first=part.first, last=part.last
                    )
                    continue
                for _, record in part:
                    self._take(record)
            try:
                await self._reseal()
            except FluxbeeError as error:
                log.warning("credentials_not_resealed", code="CREDENTIALS_NOT_RESEALED", error=str(error))
            yield self

    def journal_bytes(self) -> int:
        """Bytes written to the medium by this journal since the start."""
        return self._journal.statistics().bytes_written

    def _take(self, text: bytes) -> None:
        try:
            record = _decoder.decode(text)
        except msgspec.MsgspecError:
            self.undecodable += 1
            return
        self._apply(record)

    def _apply(self, record: Record) -> None:
        if isinstance(record, Credential):
            self.credentials[record.owner, record.connector] = record
        elif isinstance(record, CredentialGone):
            self.credentials.pop((record.owner, record.connector), None)
        elif isinstance(record, GenericSource):
            self.sources[record.source_id] = record
        elif isinstance(record, NamedSource):
            self.named[record.source_id] = record
        elif isinstance(record, NamedGone):
            self.named.pop(record.source_id, None)
        else:
            self.sources.pop(record.source_id, None)

    async def _commit(self, *records: Record) -> None:
        """Journal, then memory; all of them or none.

        Raises:
            Unavailable, Busy: the journal did not take them; nothing changed.
        """
        async with self._lock:
            _, last = await self._journal.append_many([msgspec.json.encode(record) for record in records])
            for record in records:
                self._apply(record)
            self._changes += len(records)
            if self._changes >= _BASE_EVERY:
                self._changes = 0
                await self._write_base(last)

    async def _write_base(self, seq: int) -> None:
        rows: list[Record] = [*self.credentials.values(), *self.sources.values(), *self.named.values()]
        try:
            await self._journal.write_base(seq, [msgspec.json.encode(row) for row in rows])
        except FluxbeeError as error:
            log.warning("base_image_not_written", code="BASE_IMAGE_NOT_WRITTEN", error=str(error))

    # --- sources ---------------------------------------------------------------------------------------

    async def add_source(self, source: GenericSource | NamedSource, tokens: dict[str, str]) -> None:
        """Keep ``source`` and its ``tokens`` (owner to token); errors as the journal's."""
        rows = [self._sealed(owner, source.source_id, Secrets(token)) for owner, token in tokens.items()]
        await self._commit(*rows, source)

    async def remove_source(self, source_id: str) -> bool:
        """Forget a source and its tokens; whether there was one."""
        gone_source: Record
        if source_id in self.sources:
            gone_source = SourceGone(source_id=source_id)
        elif source_id in self.named:
            gone_source = NamedGone(source_id=source_id)
        else:
            return False
        gone = [
            CredentialGone(owner=owner, connector=connector)
            for owner, connector in self.credentials
            if connector == source_id
        ]
        await self._commit(gone_source, *gone)
        return True

    # --- credentials -----------------------------------------------------------------------------------

    async def store(self, owner: str, connector: str, secrets: Secrets) -> None:
        """Store or replace a credential.

        Raises:
            Busy: there are too many.
            Unavailable: the journal did not take it.
        """
        await self._commit(self._sealed(owner, connector, secrets))

    def _sealed(self, owner: str, connector: str, secrets: Secrets) -> Credential:
        old = self.credentials.get((owner, connector))
        if old is None and len(self.credentials) >= MAX_CREDENTIALS:
            raise Busy(f"{MAX_CREDENTIALS} credentials are stored already")
        now_ms = self._clock.wall_ms()
        seal = self._ring.seal
        refresh = secrets.refresh
        return Credential(
            owner=owner,
            connector=connector,
            access=seal(secrets.access, owner=owner, connector=connector, field="access"),
            refresh=None
            if refresh is None
            else seal(refresh, owner=owner, connector=connector, field="refresh"),
            expires_at_ms=secrets.expires_at_ms,
            created_at_ms=now_ms if old is None else old.created_at_ms,
            updated_at_ms=now_ms,
        )

    async def remove(self, owner: str, connector: str) -> bool:
        """Forget a credential; whether there was one."""
        if (owner, connector) not in self.credentials:
            return False
        await self._commit(CredentialGone(owner=owner, connector=connector))
        return True

    def secrets(self, owner: str, connector: str) -> Secrets | None:
        """What is stored, opened; ``None`` without one.

        Raises:
            Damaged: it does not open.
        """
        row = self.credentials.get((owner, connector))
        if row is None:
            return None
        unseal = self._ring.unseal
        access = unseal(row.access, owner=owner, connector=connector, field="access")
        refresh = None
        if row.refresh is not None:
            refresh = unseal(row.refresh, owner=owner, connector=connector, field="refresh")
        return Secrets(access, refresh, row.expires_at_ms)

    async def _reseal(self) -> None:
        rows: list[Record] = []
        for (owner, connector), row in self.credentials.items():
            if row.access.key_id == self._ring.current:
                continue
            try:
                secrets = self.secrets(owner, connector)
            except Damaged as error:
                log.warning(
                    "credential_unreadable",
                    code="CREDENTIAL_UNREADABLE",
                    connector=connector,
                    error=str(error),
                )
                continue
            if secrets is not None:
                fresh = self._sealed(owner, connector, secrets)
                rows.append(msgspec.structs.replace(fresh, updated_at_ms=row.updated_at_ms))
        if rows:
            await self._commit(*rows)
            self.resealed = len(rows)
