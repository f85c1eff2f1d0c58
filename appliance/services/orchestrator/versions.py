"""What software a hive has: ``get_versions`` and ``list_versions`` (``spec/admin-api.md §B.3``).

Everything is read from the disk per call, because scripts edit it behind our back. A part that does not
read is an error of that part; the others are told all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio

from appliance.supervise.core import read_core, read_vendor
from appliance.supervise.manifest import MANIFEST_MISSING, read_manifest
from appliance.supervise.readiness import runtime_readiness
from appliance.wire.errors import FluxbeeError, NotFound, Unreachable

from .asked import text
from .forward import forward
from .house import Handler, House, Payload, Request

__all__ = [
    "CorePart",
    "HiveVersions",
    "ListVersionsPayload",
    "RuntimesPart",
    "VendorPart",
    "VersionVerbs",
    "VersionsPayload",
    "snapshot",
]

_AT_ONCE: Final = 8
_ALL_S: Final = 25.0
"""Below the admin API's 30 s: many silent hives must not keep the others' answers back."""

Optional = msgspec.UnsetType


class CorePart(msgspec.Struct, frozen=True, kw_only=True):
    """The appliance's program; ``message`` when its manifest does not read."""

    status: Literal["ok", "error"]
    schema_version: int | Optional = msgspec.UNSET
    manifest_hash: str | Optional = msgspec.UNSET
    components: Mapping[str, object] | Optional = msgspec.UNSET
    message: str | Optional = msgspec.UNSET


class RuntimesPart(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime manifest; ``runtimes`` are its entries with ``readiness`` by version beside their keys."""

    status: Literal["ok", "missing", "error"]
    manifest_version: int | Optional = msgspec.UNSET
    manifest_hash: str | Optional = msgspec.UNSET
    runtimes: Mapping[str, Mapping[str, object]] | Optional = msgspec.UNSET
    message: str | Optional = msgspec.UNSET


class VendorPart(msgspec.Struct, frozen=True, kw_only=True):
    """What the image brought besides the program."""

    status: Literal["ok", "missing", "error"]
    schema_version: int | Optional = msgspec.UNSET
    manifest_version: int | Optional = msgspec.UNSET
    manifest_updated_at: str | Optional | None = msgspec.UNSET
    manifest_hash: str | Optional = msgspec.UNSET
    syncthing_present: bool = False
    components: Mapping[str, object] | Optional = msgspec.UNSET
    message: str | Optional = msgspec.UNSET


class HiveVersions(msgspec.Struct, frozen=True, kw_only=True):
    """The software of one hive."""

    hive_id: str
    core: CorePart
    runtimes: RuntimesPart
    vendor: VendorPart


class VersionsPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /hives/{hive}/versions``."""

    status: Literal["ok"] = "ok"
    hive: HiveVersions


class ListVersionsPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /versions``: a hive that does not answer is an object with ``status: error``."""

    status: Literal["ok"] = "ok"
    hives: tuple[HiveVersions | Mapping[str, object], ...]


def snapshot(hive: str, dist: Path) -> HiveVersions:
    """The software below ``dist``; blocking."""
    return HiveVersions(hive_id=hive, core=_core(dist), runtimes=_runtimes(dist), vendor=_vendor(dist))


def _core(dist: Path) -> CorePart:
    try:
        found = read_core(dist)
    except FluxbeeError as error:
        return CorePart(status="error", message=error.message)
    return CorePart(
        status="ok",
        schema_version=found.schema_version,
        manifest_hash=found.hash,
        components=found.components,
    )


def _runtimes(dist: Path) -> RuntimesPart:
    try:
        stored = read_manifest(dist)
    except FluxbeeError as error:
        if error.code == MANIFEST_MISSING:
            return RuntimesPart(status="missing")
        return RuntimesPart(status="error", message=error.message)
    return RuntimesPart(
        status="ok",
        manifest_version=stored.manifest.version,
        manifest_hash=stored.hash,
        runtimes={
            name: {
                **entry.document(),
                "readiness": msgspec.to_builtins(runtime_readiness(dist, stored.manifest, name, entry)),
            }
            for name, entry in stored.manifest.runtimes.items()
        },
    )


def _vendor(dist: Path) -> VendorPart:
    try:
        found = read_vendor(dist)
    except FluxbeeError as error:
        return VendorPart(status="error", message=error.message)
    if not found.present:
        return VendorPart(status="missing", syncthing_present=found.tool_present)
    return VendorPart(
        status="ok",
        schema_version=found.schema_version,
        manifest_version=found.version,
        manifest_updated_at=found.updated_at,
        manifest_hash=found.hash,
        syncthing_present=found.tool_present,
        components=found.components,
    )


class VersionVerbs:
    """Handlers of both actions.

    Args:
        house: what all verbs share.
        registered: ids of the hives in the registry; blocking.
    """

    def __init__(self, house: House, registered: Callable[[], list[str]]) -> None:
        self._house = house
        self._registered = registered
        self.handlers: Mapping[str, Handler] = {
            "get_versions": self.get_versions,
            "list_versions": self.list_versions,
        }

    async def get_versions(self, request: Request, source: str) -> Payload:
        """One hive's software; another hive's orchestrator is asked for its own."""
        target = text(request, "target") or self._house.hive
        if target != self._house.hive:
            return await forward(self._house, "get_versions", request, target)
        payload = VersionsPayload(hive=await self._local())
        return dict(msgspec.to_builtins(payload))

    async def _local(self) -> HiveVersions:
        house = self._house
        return await trio.to_thread.run_sync(snapshot, house.hive, house.paths.dist, limiter=house.files)

    async def list_versions(self, request: Request, source: str) -> Payload:
        """Ours, then those of the registered hives; who does not answer is told so."""
        house = self._house
        others = [
            hive
            for hive in await trio.to_thread.run_sync(self._registered, limiter=house.files)
            if hive != house.hive
        ]
        found: dict[str, object] = {}
        limit = trio.CapacityLimiter(_AT_ONCE)

        async def ask(hive: str) -> None:
            async with limit:
                found[hive] = await self._remote(hive)

        with trio.move_on_after(_ALL_S):
            async with trio.open_nursery() as nursery:
                for hive in others:
                    nursery.start_soon(ask, hive)
        local = msgspec.to_builtins(await self._local())
        silent = Unreachable("no answer in time", code="VERSIONS_FAILED")
        rows = [found[hive] if hive in found else _failed(hive, silent) for hive in others]
        return {"status": "ok", "hives": [local, *rows]}

    async def _remote(self, hive: str) -> object:
        try:
            answer = await forward(self._house, "get_versions", {}, hive)
            versions = answer.get("hive")
            if answer.get("status") != "ok" or not isinstance(versions, dict):
                raise NotFound(str(answer.get("message") or "no versions"), code="VERSIONS_FAILED")
        except FluxbeeError as error:
            return _failed(hive, error)
        return versions


def _failed(hive: str, error: FluxbeeError) -> Payload:
    return {"hive_id": hive, "status": "error", "message": error.message, "error_code": error.code}
