"""SYSTEM_UPDATE and SYSTEM_SYNC_HINT on the hive that they are for (``spec/admin-api.md §D.10``).

An update compares, and installs nothing by itself: what is named must be what lies here. Files arrive by
replication or by a publication; nodes that run keep their version. ``sync_pending`` tells the caller to ask
again. A sync hint asks for replication: without a peer everything is in sync (``design.md §5``, Sync hints
and blobs).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, Literal

import msgspec
import trio

from appliance.supervise.core import normalized, read_core, read_vendor
from appliance.supervise.manifest import (
    MANIFEST_INVALID,
    MANIFEST_MISSING,
    StoredManifest,
    check_runtime,
    check_version,
    find_runtime,
    read_manifest,
)
from appliance.supervise.readiness import RuntimeHealth, global_health, targeted_health
from appliance.supervise.retention import Protections, RetentionReport, run_retention
from appliance.system.log import get_logger
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, Unavailable

from .asked import text
from .history import History
from .house import Handler, House, Payload, Request
from .usage import UsageReader

__all__ = ["SyncHintPayload", "SyncSettings", "UpdatePayload", "UpdateStatistics", "UpdateVerbs"]

_CATEGORIES: Final = ("runtime", "core", "vendor")
_MAX_U64: Final = 2**64 - 1
_MAX_WAIT_MS: Final = 300_000
_RETENTION_S: Final = 300.0
Optional = msgspec.UnsetType

log = get_logger("orchestrator")


class UpdatePayload(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /hives/{hive}/update``; ``manifest_version`` is what was asked for, 0: any."""

    status: Literal["ok", "sync_pending"]
    category: str
    hive: str
    manifest_version: int
    local_manifest_version: int
    local_manifest_hash: str | None
    runtime: str | None = None
    runtime_version: str | None = None
    readiness_scope: Literal["targeted", "global"] | Optional = msgspec.UNSET
    targeted_runtime_health: RuntimeHealth | Optional | None = msgspec.UNSET
    global_runtime_health: RuntimeHealth | Optional = msgspec.UNSET
    message: str | Optional = msgspec.UNSET
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class SyncHintPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /hives/{hive}/sync-hint``."""

    status: Literal["ok", "sync_pending"] = "ok"
    hive: str
    channel: str
    folder_id: str
    wait_for_idle: bool
    timeout_ms: int
    api_healthy: bool = True
    folder_healthy: bool = True
    state: str = "idle"
    need_total_items: int = 0
    errors: tuple[str, ...] = ()


class SyncSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which channels are served: ``blob.sync.enabled`` and ``dist.sync.enabled``."""

    blob: bool = True
    dist: bool = True


class UpdateStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start."""

    updates: int
    pending: int
    sync_hints: int
    versions_removed: int
    retention_failures: int


class _Asked(msgspec.Struct, frozen=True):
    category: str
    manifest_version: int
    manifest_hash: str
    runtime: str | None
    runtime_version: str | None


class UpdateVerbs:
    """Handlers of both actions; run :meth:`run` for retention.

    Args:
        house: what all verbs share.
        history: where roll-outs are recorded.
        usage: what nodes need.
        sync: which channels are served.
    """

    def __init__(self, house: House, history: History, usage: UsageReader, sync: SyncSettings) -> None:
        self._house = house
        self._dist = house.paths.dist
        self._history = history
        self._usage = usage
        self._sync = sync
        self._protections = Protections()
        self._updates = self._pending = self._hints = self._removed = self._retention_failures = 0
        self.handlers: Mapping[str, Handler] = {"update": self.update, "sync_hint": self.sync_hint}

    def statistics(self) -> UpdateStatistics:
        """Counters."""
        return UpdateStatistics(
            updates=self._updates,
            pending=self._pending,
            sync_hints=self._hints,
            versions_removed=self._removed,
            retention_failures=self._retention_failures,
        )

    # --- update ----------------------------------------------------------------------------------------

    async def update(self, request: Request, source: str) -> Payload:
        """Compare, verify, and answer what is so."""
        asked = _parsed(request)
        started_ms = self._house.clock.wall_ms()
        self._updates += 1
        try:
            if asked.category == "runtime":
                payload = await self._runtime(asked, started_ms)
            else:
                payload = await self._program(asked, started_ms)
        except FluxbeeError as error:
            if error.code in (MANIFEST_INVALID, "VERSION_MISMATCH", Invalid.code):
                raise
            raise Unavailable(error.message, code="UPDATE_FAILED", remedy=error.remedy) from error
        self._pending += payload.status == "sync_pending"
        return dict(msgspec.to_builtins(payload))

    async def _runtime(self, asked: _Asked, started_ms: int) -> UpdatePayload:
        files = self._house.files
        try:
            stored = await trio.to_thread.run_sync(read_manifest, self._dist, limiter=files)
        except FluxbeeError as error:
            if error.code != MANIFEST_MISSING:
                raise
            return self._waiting(asked, 0, None, "there is no runtime manifest here yet")
        version, digest = stored.manifest.version, stored.hash
        await self._history.note_manifest("runtime", digest, wanted=asked.manifest_hash)
        waiting = self._compared(asked, version, digest)
        if waiting is not None:
            return waiting
        name = asked.runtime
        if name is not None:
            found = find_runtime(stored.manifest, name)
            name = name if found is None else found[0]
        self._protections.protect(name, asked.runtime_version, self._house.clock.monotonic())
        payload = await trio.to_thread.run_sync(partial(self._verified, asked, stored, name), limiter=files)
        if payload.status == "ok":
            await self.retain()
        await self._record(asked, payload, started_ms)
        return payload

    def _verified(self, asked: _Asked, stored: StoredManifest, name: str | None) -> UpdatePayload:
        """Whether the files of the scope are here; blocking."""
        manifest = stored.manifest
        overall = global_health(self._dist, manifest)
        targeted = None
        if name is not None:
            targeted = targeted_health(self._dist, manifest, name, asked.runtime_version)
        problems = overall.errors if targeted is None else targeted.errors
        return UpdatePayload(
            status="sync_pending" if problems else "ok",
            category=asked.category,
            hive=self._house.hive,
            manifest_version=asked.manifest_version,
            local_manifest_version=manifest.version,
            local_manifest_hash=stored.hash,
            runtime=name,
            runtime_version=asked.runtime_version,
            readiness_scope="global" if targeted is None else "targeted",
            targeted_runtime_health=targeted,
            global_runtime_health=overall,
            message="files of the manifest are missing here" if problems else msgspec.UNSET,
            unchanged=("runtime-manifest",),
            errors=problems,
        )

    async def _program(self, asked: _Asked, started_ms: int) -> UpdatePayload:
        """``core`` and ``vendor`` are compared, never replaced (decision H-13)."""
        read = partial(self._program_state, asked.category)
        version, digest, parts = await trio.to_thread.run_sync(read, limiter=self._house.files)
        await self._history.note_manifest(asked.category, digest, wanted=asked.manifest_hash)
        waiting = self._compared(asked, version, digest)
        if waiting is not None:
            return waiting
        payload = UpdatePayload(
            status="ok",
            category=asked.category,
            hive=self._house.hive,
            manifest_version=asked.manifest_version,
            local_manifest_version=version,
            local_manifest_hash=digest,
            unchanged=parts,
        )
        await self._record(asked, payload, started_ms)
        return payload

    def _program_state(self, category: str) -> tuple[int, str, tuple[str, ...]]:
        """Manifest version (0: it has none), hash, and the names of the parts; blocking."""
        if category == "core":
            core = read_core(self._dist)
            return 0, core.hash, tuple(core.components)
        vendor = read_vendor(self._dist)
        return vendor.version, vendor.hash, tuple(vendor.components)

    def _compared(self, asked: _Asked, version: int, digest: str) -> UpdatePayload | None:
        """Steps 2 and 3: the answer when this is not the manifest that was meant.

        Raises:
            Conflict: ``VERSION_MISMATCH``; ours is newer than what was asked for.
        """
        if asked.category != "core" and asked.manifest_version:
            if version > asked.manifest_version:
                raise Conflict(
                    f"stale: local manifest version {version} is newer than {asked.manifest_version}",
                    code="VERSION_MISMATCH",
                    details={
                        "category": asked.category,
                        "hive": self._house.hive,
                        "manifest_version": asked.manifest_version,
                        "local_manifest_version": version,
                        "local_manifest_hash": digest,
                    },
                )
            if version < asked.manifest_version:
                return self._waiting(asked, version, digest, f"local manifest version {version} is older")
        if normalized(digest) != normalized(asked.manifest_hash):
            return self._waiting(asked, version, digest, "the local manifest has another hash")
        return None

    def _waiting(self, asked: _Asked, version: int, digest: str | None, why: str) -> UpdatePayload:
        return UpdatePayload(
            status="sync_pending",
            category=asked.category,
            hive=self._house.hive,
            manifest_version=asked.manifest_version,
            local_manifest_version=version,
            local_manifest_hash=digest,
            runtime=asked.runtime,
            runtime_version=asked.runtime_version,
            message=why,
        )

    async def _record(self, asked: _Asked, payload: UpdatePayload, started_ms: int) -> None:
        await self._history.record_deployment(
            asked.category,
            trigger="system_update",
            started_at_ms=started_ms,
            result=payload.status,
            manifest_version=payload.local_manifest_version or None,
            manifest_hash=payload.local_manifest_hash,
            reason=payload.errors[0] if payload.errors else None,
        )

    # --- retention -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Remove what nobody needs, every five minutes, until cancelled."""
        while True:
            await trio.sleep(_RETENTION_S)
            await self.retain()

    async def retain(self) -> RetentionReport:
        """One pass of retention (``§D.14``); what keeps it from working is in the report and counted."""
        house = self._house
        try:
            references = await self._usage.references()
        except FluxbeeError as error:
            self._retention_failures += 1
            return RetentionReport(skipped=error.message)
        work = partial(
            run_retention, self._dist, references, self._protections, now_s=house.clock.monotonic()
        )
        report = await trio.to_thread.run_sync(work, limiter=house.files)
        self._removed += len(report.removed)
        self._retention_failures += report.failed
        return report

    # --- sync hints ------------------------------------------------------------------------------------

    async def sync_hint(self, request: Request, source: str) -> Payload:
        """Replication of a channel; without a peer it is done at once."""
        channel = text(request, "channel") or "blob"
        if channel not in ("blob", "dist"):
            raise Invalid("channel must be one of blob, dist", field="channel")
        folder = text(request, "folder_id") or f"fluxbee-{channel}"
        told = {"channel": channel, "folder_id": folder, "hive": self._house.hive}
        if folder != f"fluxbee-{channel}":
            raise Invalid(f"folder_id must be fluxbee-{channel}", field="folder_id", details=told)
        wait, timeout_ms = request.get("wait_for_idle", True), request.get("timeout_ms", 30_000)
        if not isinstance(wait, bool):
            raise Invalid("wait_for_idle must be true or false", field="wait_for_idle", details=told)
        if type(timeout_ms) is not int or timeout_ms <= 0:
            raise Invalid("timeout_ms must be greater than 0", field="timeout_ms", details=told)
        if not (self._sync.blob if channel == "blob" else self._sync.dist):
            raise Unavailable(
                f"synchronization of {channel} is disabled",
                code="SYNC_DISABLED",
                remedy=f"Set {channel}.sync.enabled in hive.yaml.",
                details=told,
            )
        self._hints += 1
        payload = SyncHintPayload(
            hive=self._house.hive,
            channel=channel,
            folder_id=folder,
            wait_for_idle=wait,
            timeout_ms=min(timeout_ms, _MAX_WAIT_MS),
        )
        return dict(msgspec.to_builtins(payload))


def _parsed(request: Request) -> _Asked:
    """The request of an update; the order is that of ``spec/admin-api.md §B.6.10``.

    Raises:
        Invalid: a field is wrong.
    """
    given = request.get("category", "runtime")
    category = given.strip().lower() if isinstance(given, str) else ""
    if category not in _CATEGORIES:
        raise Invalid(f"category must be one of {', '.join(_CATEGORIES)}", field="category")
    version = request.get("manifest_version", 0)
    if type(version) is not int or not 0 <= version <= _MAX_U64:
        raise Invalid("manifest_version must be an unsigned integer", field="manifest_version")
    if "version" in request:
        raise Invalid("legacy field 'version' is not supported; use manifest_version", field="version")
    digest = text(request, "manifest_hash")
    if digest is None or not digest.strip():
        raise Invalid("missing manifest_hash", field="manifest_hash")
    if "hash" in request:
        raise Invalid("legacy field 'hash' is not supported; use manifest_hash", field="hash")
    runtime, runtime_version = text(request, "runtime"), text(request, "runtime_version")
    if category != "runtime" and (runtime or runtime_version):
        raise Invalid("runtime and runtime_version are for category runtime only", field="runtime")
    if runtime is None and runtime_version is not None:
        raise Invalid("runtime_version needs runtime", field="runtime_version")
    if runtime is not None:
        check_runtime(runtime)
    if runtime_version is not None:
        check_version(runtime_version)
    return _Asked(category, version, digest, runtime, runtime_version)
