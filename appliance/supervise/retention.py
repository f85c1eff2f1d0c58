"""Which versions nobody needs any more, and their removal (``spec/admin-api.md §D.14``).

A version directory goes when the manifest does not list it, no node instance refers to it and no update
protects it. Nothing goes while something is not converged, or while it is not known what the nodes refer to:
then a directory that looks forgotten may be the one that is just arriving. So the young ones stay, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError

from .manifest import Manifest, is_token, is_version, locked_manifest, read_manifest, runtimes_root
from .readiness import global_health
from .remove import discard_version

__all__ = [
    "PROTECTION_S",
    "YOUNG_S",
    "Protections",
    "Reference",
    "RetentionReport",
    "expendable",
    "references_of",
    "run_retention",
]

PROTECTION_S: Final = 600.0
"""For so long an update keeps what it was about (``§D.10``)."""

YOUNG_S: Final = 60.0
"""Scripts copy a version first and list it then."""

_MOST_PROTECTIONS: Final = 256

log = get_logger("packages")


class Reference(msgspec.Struct, frozen=True):
    """What a node instance needs; ``version`` None stands for every version of ``runtime``."""

    runtime: str
    version: str | None = None


class RetentionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass removed, as ``runtime/version``; ``skipped`` says why it did nothing."""

    removed: tuple[str, ...] = ()
    failed: int = 0
    skipped: str | None = None


class Protections:
    """What updates protect for a while. Sans-IO: times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: dict[tuple[str | None, str | None], float] = {}

    def protect(self, runtime: str | None, version: str | None, now_s: float) -> None:
        """Keep ``version`` of ``runtime`` (None: all of them) for :data:`PROTECTION_S` seconds."""
        self._until = {scope: until for scope, until in self._until.items() if until > now_s}
        if len(self._until) >= _MOST_PROTECTIONS:
            runtime = version = None  # so many scopes are told apart no longer: everything is kept
        self._until[(runtime, version)] = now_s + PROTECTION_S

    def covers(self, runtime: str, version: str, now_s: float) -> bool:
        """Whether an update keeps this version now."""
        scopes: tuple[tuple[str | None, str | None], ...] = (
            (None, None),
            (runtime, None),
            (runtime, version),
        )
        return any(self._until.get(scope, 0.0) > now_s for scope in scopes)


def references_of(system_parts: Iterable[Mapping[str, object]]) -> set[Reference]:
    """What the ``_system`` parts of node configurations need.

    A base is needed whole: which version of it a node runs is not stored.
    """
    found: set[Reference] = set()
    for part in system_parts:
        runtime, version, base = part.get("runtime"), part.get("runtime_version"), part.get("runtime_base")
        if isinstance(runtime, str):
            found.add(Reference(runtime, version if isinstance(version, str) else None))
        if isinstance(base, str):
            found.add(Reference(base))
    return found


def expendable(
    manifest: Manifest, present: Iterable[tuple[str, str]], references: set[Reference]
) -> list[tuple[str, str]]:
    """Those of the ``present`` (runtime, version) that neither manifest nor nodes need."""
    return [
        (runtime, version)
        for runtime, version in present
        if (runtime not in manifest.runtimes or version not in manifest.runtimes[runtime].versions)
        and Reference(runtime, version) not in references
        and Reference(runtime) not in references
    ]


def run_retention(
    dist: Path,
    references: set[Reference],
    protections: Protections,
    *,
    now_s: float,
    wall_s: float | None = None,
) -> RetentionReport:
    """One pass. Blocking.

    Args:
        dist: ``Paths.dist``.
        references: what nodes need.
        protections: of updates.
        now_s: monotonic seconds.
        wall_s: seconds since 1970, to compare with the times of directories.
    """
    oldest_s = (time.time() if wall_s is None else wall_s) - YOUNG_S
    removed: list[str] = []
    failed = 0
    try:
        with locked_manifest(dist):
            manifest = read_manifest(dist).manifest
            broken = global_health(dist, manifest).errors
            if broken:
                return RetentionReport(skipped=f"not converged: {broken[0]}")
            for runtime, version in expendable(manifest, _present(dist, oldest_s), references):
                if protections.covers(runtime, version, now_s):
                    continue
                try:
                    discard_version(dist, runtime, version)
                    removed.append(f"{runtime}/{version}")
                except FluxbeeError as error:
                    failed += 1
                    log.warning("version_stays", code="PACKAGE_LEFTOVERS", error=str(error))
    except (FluxbeeError, OSError) as error:
        return RetentionReport(removed=tuple(removed), failed=failed, skipped=str(error))
    if removed:
        log.info("versions_removed", removed=removed)
    return RetentionReport(removed=tuple(removed), failed=failed)


def _present(dist: Path, oldest_s: float) -> list[tuple[str, str]]:
    return [
        (runtime.name, version.name)
        for runtime in sorted(runtimes_root(dist).iterdir())
        if is_token(runtime.name) and not runtime.name.startswith(".") and runtime.is_dir()
        for version in sorted(runtime.iterdir())
        if is_version(version.name)
        and not version.name.startswith(".")
        and version.is_dir()
        and version.stat().st_mtime < oldest_s
    ]
