"""What was rolled out and what drifted (``spec/admin-api.md §B.3, §D.11``).

A durable log journal holds one record per update that was carried out, per publication, per hive that was
added (decision H-6), and one per manifest that changed behind our back since it had converged. The newest
of each kind are kept in memory and answer the queries. A record that the medium refuses is kept in memory,
logged and counted: an update does not fail for want of history. While nothing is recorded for this hive,
its current state is shown instead, as synthetic entries.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import Gap, JournalSpec
from appliance.store.replay import replay
from appliance.supervise.core import read_core, read_vendor
from appliance.supervise.manifest import read_manifest
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError, Invalid

from .asked import text
from .history_records import Deployment, DeploymentsPayload, DriftAlert, DriftPayload, TargetHive, Worker
from .house import Handler, House, Payload, Request

__all__ = ["History", "HistoryStatistics"]

JOURNAL: Final = "orchestrator.history"
KEPT: Final = 1000
_KEEP_BYTES: Final = 8 << 20
_DEFAULT_LIMIT: Final = 50
_MOST: Final = 500

log = get_logger("orchestrator")


class HistoryStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges, and counters since the start."""

    deployments: int
    drift_alerts: int
    not_stored: int
    not_read: int


class _Filter(msgspec.Struct, frozen=True):
    """What a query asks for; times newest first."""

    hive: str | None
    category: str | None
    severity: str | None
    kind: str | None
    limit: int


class History:
    """Run inside :meth:`opened`.

    Args:
        house: what all verbs share.
        registered: ids of the hives in the registry; blocking.
    """

    def __init__(self, house: House, registered: Callable[[], list[str]]) -> None:
        self._house = house
        self._registered = registered
        self._deployments: deque[Deployment] = deque(maxlen=KEPT)
        self._drift: deque[DriftAlert] = deque(maxlen=KEPT)
        self._converged: dict[
            str, str
        ] = {}  # hash of the manifest by category, when it last was applied here
        self._journal: Journal | None = None
        self._not_stored = self._not_read = 0
        self.handlers: Mapping[str, Handler] = {
            "list_deployments": self._deployments_of,
            "get_deployments": self._deployments_of,
            "list_drift_alerts": self._drift_of,
            "get_drift_alerts": self._drift_of,
        }

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[History]:
        """Open the journal and read what is kept.

        Raises:
            Conflict: another process has it open.
            Damaged, Unavailable: it cannot be read.
        """
        directory = self._house.paths.journals / JOURNAL
        spec = JournalSpec(
            name=JOURNAL, kind="log", durability="durable", segment_bytes=1 << 20, keep_bytes=_KEEP_BYTES
        )
        async with await Journal.opened(directory, spec) as journal:
            await self._restore(journal)
            self._journal = journal
            try:
                yield self
            finally:
                self._journal = None

    async def _restore(self, journal: Journal) -> None:
        async for part in replay(journal):
            if isinstance(part, Gap):
                continue  # trimmed, or damaged and told by the journal; the rest is worth showing
            for _, record in part:
                try:
                    self._keep(msgspec.json.decode(record, type=Deployment | DriftAlert))
                except msgspec.DecodeError:
                    self._not_read += 1

    def _keep(self, record: Deployment | DriftAlert) -> None:
        if isinstance(record, DriftAlert):
            self._drift.append(record)
            if isinstance(record.local_hash, str) and record.hive_id == self._house.hive:
                self._converged[record.category] = record.local_hash  # told once
            return
        self._deployments.append(record)
        digest = record.manifest_hash
        if record.result == "ok" and isinstance(digest, str) and record.concerns(self._house.hive):
            self._converged[record.category] = digest

    def statistics(self) -> HistoryStatistics:
        """Counters and gauges."""
        return HistoryStatistics(
            deployments=len(self._deployments),
            drift_alerts=len(self._drift),
            not_stored=self._not_stored,
            not_read=self._not_read,
        )

    # --- recording -------------------------------------------------------------------------------------

    async def record_deployment(
        self,
        category: str,
        *,
        trigger: str,
        started_at_ms: int,
        result: str,
        target: str | None = None,
        manifest_version: int | None = None,
        manifest_hash: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Record a roll-out that ended now.

        Args:
            category, trigger, result: such as ``runtime``, ``system_update``, ``ok``.
            started_at_ms: wall clock.
            target: hive; None means this one.
            manifest_version, manifest_hash: of the manifest, when known.
            reason: why it is not ``ok``.
        """
        now_ms = self._house.clock.wall_ms()
        hive = target or self._house.hive
        worker = Worker(
            hive_id=hive,
            status=result,
            duration_ms=max(0, now_ms - started_at_ms),
            reason=msgspec.UNSET if reason is None else reason,
            local_hash=msgspec.UNSET if manifest_hash is None else manifest_hash,
        )
        await self._record(
            Deployment(
                deployment_id=uuid.uuid4().hex,
                category=category,
                trigger=trigger,
                actor=f"SY.orchestrator@{self._house.hive}",
                started_at=started_at_ms,
                finished_at=now_ms,
                manifest_version=msgspec.UNSET if manifest_version is None else manifest_version,
                manifest_hash=msgspec.UNSET if manifest_hash is None else manifest_hash,
                target_hives=(hive,),
                result=result,
                workers=(worker,),
            )
        )

    async def note_manifest(self, category: str, digest: str, *, wanted: str) -> None:
        """Compare a manifest at update time with the one that last converged; a change is an alert, once.

        Args:
            category: as above.
            digest: SHA-256 of the manifest now.
            wanted: the hash that the update names.
        """
        before = self._converged.get(category)
        if before is None or before == digest:
            return
        await self._record(
            DriftAlert(
                alert_id=uuid.uuid4().hex,
                detected_at=self._house.clock.wall_ms(),
                category=category,
                trigger="system_update",
                hive_id=self._house.hive,
                severity="warning",
                kind="manifest_changed",
                message=f"the {category} manifest changed since it had converged",
                local_hash=digest,
                remote_hash_before=before,
                remote_hash_after=wanted,
            )
        )

    async def _record(self, record: Deployment | DriftAlert) -> None:
        self._keep(record)
        try:
            if self._journal is None:
                raise Invalid("the history is not open")
            await self._journal.append(msgspec.json.encode(record))
        except FluxbeeError as error:
            self._not_stored += 1
            log.warning("history_not_stored", code="HISTORY_NOT_STORED", error=str(error))

    # --- queries ---------------------------------------------------------------------------------------

    async def _deployments_of(self, request: Request, source: str) -> Payload:
        wanted, present = await self._asked(request)
        entries: list[Deployment] = list(reversed(self._deployments))
        if not any(entry.concerns(self._house.hive) for entry in entries):
            dist = self._house.paths.dist
            entries += await trio.to_thread.run_sync(self._synthetic, dist, limiter=self._house.files)
        found = [
            _with_presence(entry, present)
            for entry in entries
            if (wanted.hive is None or entry.concerns(wanted.hive))
            and wanted.category in (None, entry.category)
        ]
        payload = DeploymentsPayload(
            hive_id=msgspec.UNSET if wanted.hive is None else wanted.hive,
            entries=tuple(found[: wanted.limit]),
        )
        return _plain(payload)

    async def _drift_of(self, request: Request, source: str) -> Payload:
        wanted, present = await self._asked(request)
        entries: list[DriftAlert] = list(reversed(self._drift))
        if not any(entry.hive_id == self._house.hive for entry in entries):
            dist = self._house.paths.dist
            current = await trio.to_thread.run_sync(self._synthetic, dist, limiter=self._house.files)
            entries += [_synthetic_alert(entry, self._house.hive) for entry in current]
        found = [
            msgspec.structs.replace(entry, hive_present=entry.hive_id in present)
            for entry in entries
            if wanted.hive in (None, entry.hive_id)
            and wanted.category in (None, entry.category)
            and wanted.severity in (None, entry.severity)
            and wanted.kind in (None, entry.kind)
        ]
        payload = DriftPayload(
            hive_id=msgspec.UNSET if wanted.hive is None else wanted.hive,
            entries=tuple(found[: wanted.limit]),
        )
        return _plain(payload)

    async def _asked(self, request: Request) -> tuple[_Filter, set[str]]:
        registered = await trio.to_thread.run_sync(self._registered, limiter=self._house.files)
        wanted = _Filter(
            hive=text(request, "hive") or text(request, "target"),
            category=text(request, "category"),
            severity=text(request, "severity"),
            kind=text(request, "kind"),
            limit=_limit(request.get("limit")),
        )
        return wanted, {*registered, self._house.hive}

    def _synthetic(self, dist: Path) -> list[Deployment]:
        """The current state as entries; parts that do not read are left out. Blocking."""
        return [
            Deployment(
                deployment_id=f"local-{category}-{self._house.hive}",
                category=category,
                trigger="local_current_state",
                actor=f"SY.orchestrator@{self._house.hive}",
                started_at=changed_ms,
                finished_at=changed_ms,
                manifest_version=version,
                manifest_hash=digest,
                target_hives=(self._house.hive,),
                result="ok",
                workers=(Worker(hive_id=self._house.hive, status="ok", duration_ms=0, local_hash=digest),),
            )
            for category, version, digest, changed_ms in _current_state(dist)
        ]


def _current_state(dist: Path) -> Iterable[tuple[str, int | msgspec.UnsetType, str, int]]:
    """Category, manifest version, hash and time of the manifest's file in ms, of every part that is there."""
    try:
        core = read_core(dist)
        yield "core", msgspec.UNSET, core.hash, _changed_ms(dist / "core" / "manifest.json")
    except (FluxbeeError, OSError):
        pass
    try:
        stored = read_manifest(dist)
        yield "runtime", stored.manifest.version, stored.hash, stored.modified_at_ms
    except FluxbeeError:
        pass
    try:
        vendor = read_vendor(dist)
        if vendor.present:
            yield "vendor", vendor.version, vendor.hash, _changed_ms(dist / "vendor" / "manifest.json")
    except (FluxbeeError, OSError):
        pass


def _changed_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _synthetic_alert(entry: Deployment, hive: str) -> DriftAlert:
    return DriftAlert(
        alert_id=f"local-drift-{entry.category}-{hive}",
        detected_at=entry.started_at,
        category=entry.category,
        trigger=entry.trigger,
        hive_id=hive,
        severity="info",
        kind="local_current_state",
        message=f"the {entry.category} of {hive} as it is now",
        local_hash=entry.manifest_hash,
        synthetic=True,
    )


def _with_presence(entry: Deployment, present: set[str]) -> Deployment:
    return msgspec.structs.replace(
        entry,
        target_hives_detail=tuple(
            TargetHive(hive_id=hive, present=hive in present) for hive in entry.target_hives
        ),
        workers=tuple(
            msgspec.structs.replace(worker, hive_present=worker.hive_id in present)
            for worker in entry.workers
        ),
    )


def _limit(value: object) -> int:
    """Between 1 and 500; what does not read as a number counts as absent."""
    number = _DEFAULT_LIMIT
    if isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):
            number = int(value)
    return max(1, min(number, _MOST))


def _plain(payload: DeploymentsPayload | DriftPayload) -> Payload:
    """The payload without the word that tells the journal's records apart."""
    plain: Payload = msgspec.to_builtins(payload)
    entries = plain["entries"]
    assert isinstance(entries, list | tuple)
    return plain | {"entries": [{k: v for k, v in entry.items() if k != "record"} for entry in entries]}
