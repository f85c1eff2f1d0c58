"""The runtimes of a hive: list, one of them, removal of a version (``spec/admin-api.md §B.9.2``).

Manifest and files are looked at anew per request. A removal checks in the order that operators' scripts
assert; the dispatcher holds the runtime's place in its queue, so ``test_hold_ms`` sleeps inside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal

import msgspec
import trio

from appliance.supervise.manifest import (
    Manifest,
    RuntimeEntry,
    StoredManifest,
    check_runtime,
    check_version,
    read_manifest,
)
from appliance.supervise.readiness import (
    MaterializationSummary,
    Readiness,
    RuntimeHealth,
    RuntimeMaterialization,
    global_health,
    materialization_summary,
    runtime_materialization,
    runtime_readiness,
    targeted_health,
)
from appliance.supervise.remove import (
    REMOVE_FAILED,
    check_dependents,
    check_removable,
    remove_version,
)
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound, Unavailable

from .asked import text
from .forward import forward
from .history import History
from .house import Handler, House, Payload, Request
from .usage import GlobalUsage, Usage, UsageReader

__all__ = [
    "RemovalPayload",
    "RuntimeDetail",
    "RuntimeList",
    "RuntimeRow",
    "RuntimeVerbs",
]

_MAX_HOLD_MS: Final = 60_000


class RuntimeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime of a list."""

    runtime: str
    current: str | None
    available: tuple[str, ...]
    type: str
    runtime_base: str | None
    readiness: dict[str, Readiness]
    materialization_summary: MaterializationSummary


class RuntimeList(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /hives/{hive}/runtimes``."""

    status: Literal["ok"] = "ok"
    hive_id: str
    manifest_version: int
    manifest_hash: str
    runtimes: tuple[RuntimeRow, ...]


class RuntimeDetail(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /hives/{hive}/runtimes/{runtime}``."""

    status: Literal["ok"] = "ok"
    hive_id: str
    manifest_version: int
    manifest_hash: str
    runtime: RuntimeRow
    runtime_version_filter: str | None
    materialization: RuntimeMaterialization
    targeted_runtime_health: RuntimeHealth
    global_runtime_health: RuntimeHealth
    usage: Usage
    usage_global_visible: GlobalUsage


class RemovalPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``DELETE /hives/{hive}/runtimes/{runtime}/versions/{version}``."""

    status: Literal["ok"] = "ok"
    owner_hive: str
    runtime: str
    removed_version: str
    current: str | None
    manifest_version: int
    manifest_hash: str
    removed_path: str
    removed_runtime_dir: bool
    convergence_status: Literal["owner_updated"] = "owner_updated"
    usage_global_visible: GlobalUsage


class RuntimeVerbs:
    """Handlers of the three actions.

    Args:
        house: what all verbs share.
        usage: tells what runs.
        history: where removals are recorded, so that the changed manifest is no drift.
        registered: ids of the hives in the registry; blocking.
    """

    def __init__(
        self, house: House, usage: UsageReader, history: History, registered: Callable[[], list[str]]
    ) -> None:
        self._house = house
        self._history = history
        self._dist = house.paths.dist
        self._usage = usage
        self._registered = registered
        self.handlers: Mapping[str, Handler] = {
            "list_runtimes": self.list_runtimes,
            "get_runtime": self.get_runtime,
            "remove_runtime_version": self.remove_runtime_version,
        }

    async def list_runtimes(self, request: Request, source: str) -> Payload:
        """Every runtime of the manifest."""
        target = text(request, "target") or self._house.hive
        if target != self._house.hive:
            return await forward(self._house, "list_runtimes", request, target)
        found = await trio.to_thread.run_sync(self._list, limiter=self._house.files)
        return dict(msgspec.to_builtins(found))

    def _list(self) -> RuntimeList:
        stored = read_manifest(self._dist)
        manifest = stored.manifest
        return RuntimeList(
            hive_id=self._house.hive,
            manifest_version=manifest.version,
            manifest_hash=stored.hash,
            runtimes=tuple(self._row(manifest, name, entry) for name, entry in manifest.runtimes.items()),
        )

    def _row(self, manifest: Manifest, name: str, entry: RuntimeEntry, only: str | None = None) -> RuntimeRow:
        return RuntimeRow(
            runtime=name,
            current=entry.current,
            available=entry.available,
            type=entry.package_type,
            runtime_base=entry.runtime_base,
            readiness=runtime_readiness(self._dist, manifest, name, entry, only),
            materialization_summary=materialization_summary(
                runtime_materialization(self._dist, manifest, name, entry)
            ),
        )

    async def get_runtime(self, request: Request, source: str) -> Payload:
        """One runtime: exact name, versions, readiness, files, use."""
        target = text(request, "target") or self._house.hive
        if target != self._house.hive:
            return await forward(self._house, "get_runtime", request, target)
        name = check_runtime(request.get("runtime"))
        wanted = text(request, "runtime_version")
        only = check_version(wanted) if wanted is not None else None
        usage = await self._usage.local(name, only)
        hives = await trio.to_thread.run_sync(self._registered, limiter=self._house.files)
        everywhere = await self._usage.everywhere(hives, name, only)
        detail = partial(self._detail, name, only, usage, everywhere)
        return dict(msgspec.to_builtins(await trio.to_thread.run_sync(detail, limiter=self._house.files)))

    def _detail(self, name: str, only: str | None, usage: Usage, everywhere: GlobalUsage) -> RuntimeDetail:
        stored = read_manifest(self._dist)
        manifest = stored.manifest
        entry = manifest.runtimes.get(name)
        if entry is None:
            raise NotFound(f"runtime '{name}' is not in the manifest", code="RUNTIME_NOT_FOUND")
        if only == "current":
            only = entry.current
        if only is not None and only not in entry.versions:
            raise NotFound(f"runtime '{name}' has no version '{only}'", code="RUNTIME_VERSION_NOT_FOUND")
        return RuntimeDetail(
            hive_id=self._house.hive,
            manifest_version=manifest.version,
            manifest_hash=stored.hash,
            runtime=self._row(manifest, name, entry, only),
            runtime_version_filter=only,
            materialization=runtime_materialization(self._dist, manifest, name, entry, only),
            targeted_runtime_health=targeted_health(self._dist, manifest, name, only),
            global_runtime_health=global_health(self._dist, manifest),
            usage=usage,
            usage_global_visible=everywhere,
        )

    async def remove_runtime_version(self, request: Request, source: str) -> Payload:
        """Remove a version that is not current, not in use and nobody's base."""
        target = text(request, "target") or self._house.hive
        if target != self._house.hive or not self._house.is_mother:
            raise Conflict(
                "versions of runtimes are removed on the motherbee",
                code="NOT_PRIMARY",
                remedy="Name the motherbee as the hive.",
            )
        runtime, version = check_runtime(request.get("runtime")), check_version(_version_of(request))
        await _hold(request.get("test_hold_ms"))
        stored = await trio.to_thread.run_sync(read_manifest, self._dist, limiter=self._house.files)
        name, usage = await self._checked(stored, runtime, version)
        removal = partial(remove_version, self._dist, name, version, now_ms=self._house.clock.wall_ms())
        started_ms = self._house.clock.wall_ms()
        report = await trio.to_thread.run_sync(removal, limiter=self._house.files)
        await self._history.record_deployment(
            "runtime",
            trigger="remove_runtime_version",
            started_at_ms=started_ms,
            result="ok",
            manifest_version=report.manifest_version,
            manifest_hash=report.manifest_hash,
        )
        payload = RemovalPayload(
            owner_hive=self._house.hive, usage_global_visible=usage, **msgspec.structs.asdict(report)
        )
        return dict(msgspec.to_builtins(payload))

    async def _checked(self, stored: StoredManifest, runtime: str, version: str) -> tuple[str, GlobalUsage]:
        """Checks 5 to 10; the runtime's exact name and who uses other versions of it."""
        name, _ = check_removable(stored.manifest, runtime, version)
        try:
            hives = await trio.to_thread.run_sync(self._registered, limiter=self._house.files)
            usage = await self._usage.everywhere(hives, name, version)
        except FluxbeeError as error:
            raise Unavailable(
                f"who runs {name} {version} is not known: {error}", code=REMOVE_FAILED
            ) from error
        if usage.in_use:
            raise Conflict(
                f"{name} {version} runs on {usage.running_nodes[0].node_name}",
                code="RUNTIME_IN_USE",
                remedy="Stop those nodes first.",
                details={"usage_global_visible": msgspec.to_builtins(usage)},
            )
        check_dependents(stored.manifest, name)
        return name, usage


def _version_of(request: Request) -> object:
    return request.get("version", request.get("runtime_version"))


async def _hold(value: object) -> None:
    """The diagnostic sleep inside the queue's place (``spec/admin-api.md §A.7``)."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid("test_hold_ms must be an unsigned integer", field="test_hold_ms")
    await trio.sleep(min(value, _MAX_HOLD_MS) / 1000)
