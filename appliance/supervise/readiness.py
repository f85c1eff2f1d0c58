"""Which runtimes could start now, and what keeps the others: looks at the disk, changes nothing.

Readiness is three flags per version, materialization the same with paths and the blocking reason, health the
verdict over a runtime or over every runtime's current version (``spec/admin-api.md §D.9, §B.9.2, §B.6.10``).
Everything is looked at anew: files that appear count at once, without an update in between.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from .manifest import Manifest, RuntimeEntry, version_directory

__all__ = [
    "PACKAGE_TYPES",
    "START_SCRIPT",
    "Materialization",
    "MaterializationSummary",
    "Readiness",
    "RuntimeHealth",
    "RuntimeMaterialization",
    "global_health",
    "is_executable",
    "materialization",
    "materialization_summary",
    "readiness",
    "runtime_materialization",
    "runtime_readiness",
    "start_script",
    "targeted_health",
]

START_SCRIPT: Final = "bin/start.sh"
PACKAGE_TYPES: Final = ("full_runtime", "config_only", "workflow")


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The three flags of one version."""

    runtime_present: bool
    start_sh_executable: bool
    base_runtime_ready: bool


class Materialization(msgspec.Struct, frozen=True, kw_only=True):
    """One version on the disk; ``start_script_*`` are keys of a full runtime, the rest of the other types."""

    package_dir: str
    package_dir_present: bool
    start_script_path: str | msgspec.UnsetType = msgspec.UNSET
    start_script_present: bool | msgspec.UnsetType = msgspec.UNSET
    start_script_executable: bool | msgspec.UnsetType = msgspec.UNSET
    runtime_base: str | msgspec.UnsetType | None = msgspec.UNSET
    runtime_base_version: str | msgspec.UnsetType | None = msgspec.UNSET
    base_start_script_path: str | msgspec.UnsetType | None = msgspec.UNSET
    base_start_script_present: bool | msgspec.UnsetType = msgspec.UNSET
    base_start_script_executable: bool | msgspec.UnsetType = msgspec.UNSET
    materialized: bool
    blocking_reason: str | None


class RuntimeMaterialization(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime on the disk, version by version."""

    runtime: str
    package_type: str
    current: str | None
    runtime_base: str | None
    versions: dict[str, Materialization]


class MaterializationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The same in numbers."""

    known_versions: int
    materialized_versions: int
    current_version: str | None
    current_materialized: bool
    current_blocking_reason: str | None


class RuntimeHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict: ``ok`` without errors, else ``degraded``."""

    scope: Literal["targeted", "global_current"]
    runtime: str | None
    runtime_version: str | None
    status: Literal["ok", "degraded"]
    error_count: int
    errors: tuple[str, ...]


def start_script(dist: Path, runtime: str, version: str) -> Path:
    """What is started for one version of a full runtime; ``entry_point`` of its package does not count."""
    return version_directory(dist, runtime, version) / START_SCRIPT


def is_executable(path: Path) -> bool:
    """Whether ``path`` is a file with any execute bit."""
    mode = _file_mode(path)
    return mode is not None and mode & 0o111 != 0


def _file_mode(path: Path) -> int | None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return mode if stat.S_ISREG(mode) else None


def materialization(
    dist: Path, manifest: Manifest, name: str, entry: RuntimeEntry, version: str
) -> Materialization:
    """How one version lies on the disk; ``name`` and ``entry`` are a pair of the manifest."""
    directory = version_directory(dist, name, version)
    present = directory.is_dir()
    if entry.is_base_backed:
        return _base_backed(dist, manifest, entry, directory, present)
    script = directory / START_SCRIPT
    mode = _file_mode(script)
    executable = mode is not None and mode & 0o111 != 0
    reason: str | None = None
    if entry.package_type not in PACKAGE_TYPES:
        reason = f"unknown_package_type:{entry.package_type}"
    elif not present:
        reason = "missing_package_dir"
    elif mode is None:
        reason = "missing_start_script"
    elif not executable:
        reason = "start_script_not_executable"
    return Materialization(
        package_dir=str(directory),
        package_dir_present=present,
        start_script_path=str(script),
        start_script_present=mode is not None,
        start_script_executable=executable,
        materialized=reason is None,
        blocking_reason=reason,
    )


def _base_backed(
    dist: Path, manifest: Manifest, entry: RuntimeEntry, directory: Path, present: bool
) -> Materialization:
    found = manifest.runtimes.get(entry.runtime_base or "")
    base_version = found.current if found is not None else None
    script = (
        start_script(dist, entry.runtime_base, base_version) if entry.runtime_base and base_version else None
    )
    mode = _file_mode(script) if script is not None else None
    executable = mode is not None and mode & 0o111 != 0
    reason: str | None = None
    if not present:
        reason = "missing_package_dir"
    elif found is None:
        reason = "missing_runtime_base"
    elif base_version is None:
        reason = "missing_runtime_base_current"
    elif mode is None:
        reason = "missing_base_start_script"
    elif not executable:
        reason = "base_start_script_not_executable"
    return Materialization(
        package_dir=str(directory),
        package_dir_present=present,
        runtime_base=entry.runtime_base,
        runtime_base_version=base_version,
        base_start_script_path=None if script is None else str(script),
        base_start_script_present=mode is not None,
        base_start_script_executable=executable,
        materialized=reason is None,
        blocking_reason=reason,
    )


def readiness(dist: Path, manifest: Manifest, name: str, entry: RuntimeEntry, version: str) -> Readiness:
    """The three flags of one version (``§D.9``)."""
    seen = materialization(dist, manifest, name, entry, version)
    if entry.is_base_backed:
        base_ready = seen.base_start_script_executable is True
        return Readiness(
            runtime_present=seen.package_dir_present,
            start_sh_executable=base_ready,
            base_runtime_ready=base_ready,
        )
    return Readiness(
        runtime_present=seen.start_script_present is True,
        start_sh_executable=seen.start_script_executable is True,
        base_runtime_ready=True,
    )


def runtime_readiness(
    dist: Path, manifest: Manifest, name: str, entry: RuntimeEntry, only: str | None = None
) -> dict[str, Readiness]:
    """:func:`readiness` of every version, or of ``only`` that one."""
    return {
        version: readiness(dist, manifest, name, entry, version)
        for version in entry.versions
        if only in (None, version)
    }


def runtime_materialization(
    dist: Path, manifest: Manifest, name: str, entry: RuntimeEntry, only: str | None = None
) -> RuntimeMaterialization:
    """:func:`materialization` of every version, or of ``only`` that one."""
    return RuntimeMaterialization(
        runtime=name,
        package_type=entry.package_type,
        current=entry.current,
        runtime_base=entry.runtime_base,
        versions={
            version: materialization(dist, manifest, name, entry, version)
            for version in entry.versions
            if only in (None, version)
        },
    )


def materialization_summary(of: RuntimeMaterialization) -> MaterializationSummary:
    """A runtime's materialization in numbers."""
    current = of.versions.get(of.current or "")
    return MaterializationSummary(
        known_versions=len(of.versions),
        materialized_versions=sum(one.materialized for one in of.versions.values()),
        current_version=of.current,
        current_materialized=current is not None and current.materialized,
        current_blocking_reason=None if current is None else current.blocking_reason,
    )


def targeted_health(
    dist: Path, manifest: Manifest, runtime: str, version: str | None = None
) -> RuntimeHealth:
    """The verdict over one runtime.

    Args:
        dist: ``Paths.dist``.
        manifest: what the manifest says.
        runtime: exact name.
        version: one version, or ``current``; None means every version that is listed.
    """
    return _verdict("targeted", runtime, version, _problems(dist, manifest, runtime, version))


def global_health(dist: Path, manifest: Manifest) -> RuntimeHealth:
    """The verdict over the current version of every runtime that has one."""
    errors = [
        problem
        for name, entry in manifest.runtimes.items()
        if entry.current is not None
        for problem in _problems(dist, manifest, name, "current")
    ]
    return _verdict("global_current", None, None, errors)


def _verdict(
    scope: Literal["targeted", "global_current"],
    runtime: str | None,
    version: str | None,
    errors: Iterable[str],
) -> RuntimeHealth:
    found = tuple(errors)
    return RuntimeHealth(
        scope=scope,
        runtime=runtime,
        runtime_version=version,
        status="degraded" if found else "ok",
        error_count=len(found),
        errors=found,
    )


def _problems(dist: Path, manifest: Manifest, runtime: str, version: str | None) -> list[str]:
    entry = manifest.runtimes.get(runtime)
    if entry is None:
        return [f"runtime '{runtime}' is not in the manifest"]
    wanted = entry.current if version == "current" else version
    if version == "current" and wanted is None:
        return [f"runtime '{runtime}' has no current version"]
    if wanted is not None and wanted not in entry.versions:
        return [f"runtime '{runtime}' has no version '{wanted}'"]
    found = []
    for one in entry.versions if wanted is None else (wanted,):
        seen = materialization(dist, manifest, runtime, entry, one)
        if seen.blocking_reason is not None:
            found.append(f"runtime '{runtime}' version '{one}': {seen.blocking_reason} ({seen.package_dir})")
    return found
