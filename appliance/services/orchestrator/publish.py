"""publish_runtime_package: the install part (``spec/admin-api.md §B.9.3``); SY.admin does the follow-ups.

The package is unpacked and judged in a worker thread, one at a time; then the runtime's place in the queue
is taken, and it is installed. A bundle's blob goes away after success, and only then. Whatever fails,
nothing is installed.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
import trio

from appliance.supervise.bundle import INVALID_LAYOUT, INVALID_ZIP, stage_inline, unpack_bundle
from appliance.supervise.install import InstallReport, install_package, make_staging
from appliance.supervise.manifest import MANIFEST_MISSING, read_manifest
from appliance.supervise.package import Package, validate_package
from appliance.supervise.tree import TreeLimits, check_relative
from appliance.system.log import get_logger
from appliance.wire.admin.requests import PublishPackage
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound, Unavailable

from .history import History
from .house import Handler, House, Payload, Request
from .verbs_table import runtime_resource

__all__ = ["PublishPayload", "PublishStatistics", "PublishVerbs"]

_KNOWN: Final = frozenset(
    {
        "INVALID_REQUEST",
        INVALID_ZIP,
        INVALID_LAYOUT,
        "BLOB_NOT_FOUND",
        "RUNTIME_NOT_AVAILABLE",
        "VERSION_CONFLICT",
        "VERSION_MISMATCH",
        "NOT_PRIMARY",
        "MANIFEST_INVALID",
    }
)
"""Codes that are answered as they are; everything else is ``SERVICE_FAILED`` with its code as ``cause``."""

T = TypeVar("T")

log = get_logger("orchestrator")


class PublishPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /admin/runtime-packages/publish`` without ``follow_up``; ``blob_path`` for bundles."""

    status: Literal["ok"] = "ok"
    source_kind: str
    blob_path: str | msgspec.UnsetType = msgspec.UNSET
    runtime_name: str
    runtime_version: str
    package_type: str
    installed_path: str
    manifest_path: str
    manifest_version: int
    manifest_hash: str
    copied_files: int
    copied_bytes: int


class PublishStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start; ``written_bytes`` is what packages put on the medium."""

    published: int
    refused: int
    written_bytes: int
    blobs_kept: int


class PublishVerbs:
    """The handler.

    Args:
        house: what all verbs share.
        history: where publications are recorded.
        blobs: root of the blob store.
        limits: most that a package may be.
    """

    def __init__(self, house: House, history: History, blobs: Path, limits: TreeLimits) -> None:
        self._house = house
        self._dist = house.paths.dist
        self._history = history
        self._blobs = blobs
        self._limits = limits
        self._packages = trio.CapacityLimiter(1)
        self._published = self._refused = self._written_bytes = self._blobs_kept = 0
        self.handlers: Mapping[str, Handler] = {"publish_runtime_package": self.publish}

    def statistics(self) -> PublishStatistics:
        """Counters."""
        return PublishStatistics(
            published=self._published,
            refused=self._refused,
            written_bytes=self._written_bytes,
            blobs_kept=self._blobs_kept,
        )

    async def publish(self, request: Request, source: str) -> Payload:
        """Install one package."""
        started_ms = self._house.clock.wall_ms()
        try:
            if not self._house.is_mother:
                raise Conflict("packages are published on the motherbee", code="NOT_PRIMARY")
            wanted = _parsed(request)
            self._house.reserve.check()
            report = await self._installed(wanted)
        except FluxbeeError as error:
            self._refused += 1
            raise _told(error) from error
        self._published += 1
        self._written_bytes += report.copied_bytes
        if wanted.source.blob_path is not None:
            await self._on_thread(partial(self._drop_blob, wanted.source.blob_path))
        await self._history.record_deployment(
            "runtime",
            trigger="publish",
            started_at_ms=started_ms,
            result="ok",
            manifest_version=report.manifest_version,
            manifest_hash=report.manifest_hash,
        )
        log.info("package_published", runtime=report.runtime_name, version=report.runtime_version, by=source)
        payload = PublishPayload(
            source_kind=wanted.source.kind,
            blob_path=msgspec.UNSET if wanted.source.blob_path is None else wanted.source.blob_path,
            **msgspec.structs.asdict(report),
        )
        return dict(msgspec.to_builtins(payload))

    async def _installed(self, wanted: PublishPackage) -> InstallReport:
        await self._on_thread(partial(read_manifest, self._dist))
        staging = await self._on_thread(partial(make_staging, self._dist))
        try:
            package = await self._on_thread(partial(self._judged, wanted, staging))
            async with self._house.locks.ticket(runtime_resource(package.name)):
                install = partial(
                    install_package,
                    package,
                    self._dist,
                    now_ms=self._house.clock.wall_ms(),
                    set_current=wanted.set_current,
                    movable=True,
                    limits=self._limits,
                )
                return await self._on_thread(install)
        finally:
            with trio.CancelScope(shield=True):
                await self._on_thread(partial(shutil.rmtree, staging, ignore_errors=True))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._packages)

    def _judged(self, wanted: PublishPackage, staging: Path) -> Package:
        """The package, unpacked and valid; blocking."""
        if wanted.source.files is not None:
            root = stage_inline(wanted.source.files, staging, self._limits)
        else:
            root = unpack_bundle(self._blob(wanted.source.blob_path or ""), staging, self._limits)
        return validate_package(root, limits=self._limits)

    def _blob(self, name: str) -> Path:
        """The bundle's file; what leads out of the blob store does not exist.

        Raises:
            Invalid: ``name`` is no relative path.
            NotFound: ``BLOB_NOT_FOUND``.
        """
        path = self._blobs / check_relative(name, "blob_path")
        try:
            inside = path.resolve().is_relative_to(self._blobs.resolve())
            if inside and stat.S_ISREG(path.lstat().st_mode):
                return path
        except OSError:
            pass  # told below
        raise NotFound(f"there is no blob {name!r}", code="BLOB_NOT_FOUND", field="blob_path")

    def _drop_blob(self, name: str) -> None:
        try:
            self._blob(name).unlink()
        except (FluxbeeError, OSError) as error:
            self._blobs_kept += 1
            log.warning("bundle_not_removed", code="BUNDLE_NOT_REMOVED", blob_path=name, error=str(error))


def _parsed(request: Request) -> PublishPackage:
    body = {key: value for key, value in request.items() if key != "target"}
    try:
        wanted = msgspec.convert(body, PublishPackage)
    except msgspec.ValidationError as error:
        raise Invalid(str(error), field="source") from None
    source = wanted.source
    inline = source.kind == "inline_package"
    if inline != (source.files is not None) or inline == (source.blob_path is not None):
        needed = "files" if inline else "blob_path"
        raise Invalid(f"source of kind {source.kind} has {needed} and nothing else", field=f"source.{needed}")
    return wanted


def _told(error: FluxbeeError) -> FluxbeeError:
    if error.code in _KNOWN:
        return error
    if error.code == MANIFEST_MISSING:
        return NotFound(error.message, code="RUNTIME_NOT_AVAILABLE", remedy=error.remedy)
    details = {**error.details, "cause": error.code}
    return Unavailable(error.message, code="SERVICE_FAILED", remedy=error.remedy, details=details)
