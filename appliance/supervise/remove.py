"""Take one version of a runtime away (``spec/admin-api.md §B.9.2``).

The order of the checks is asserted by operators' scripts: known, not current, listed, not in use, no
dependents. Whether nodes run it is the caller's to ask between :func:`check_removable` and
:func:`check_dependents`. The removal itself renames the directory away, writes the manifest and then deletes;
a failure puts everything back. Blocking calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from appliance.store.files import storage_error
from appliance.system.log import get_logger
from appliance.wire.errors import Conflict, FluxbeeError, NotFound, Unavailable

from .install import quarantine_name
from .manifest import (
    Manifest,
    RuntimeEntry,
    StoredManifest,
    find_runtime,
    locked_manifest,
    next_manifest,
    read_manifest,
    version_directory,
    write_manifest,
)
from .tree import remove_empty, remove_tree, sync_path

__all__ = [
    "CURRENT_CONFLICT",
    "Dependent",
    "RemovalReport",
    "check_dependents",
    "check_removable",
    "dependents",
    "discard_version",
    "remove_version",
]

CURRENT_CONFLICT: Final = "RUNTIME_CURRENT_CONFLICT"
REMOVE_FAILED: Final = "RUNTIME_REMOVE_FAILED"

log = get_logger("packages")


class Dependent(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime that names another one as its base."""

    runtime: str
    current: str | None
    available: tuple[str, ...]
    type: str
    runtime_base: str | None


class RemovalReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a removal did."""

    runtime: str
    removed_version: str
    current: str | None
    manifest_version: int
    manifest_hash: str
    removed_path: str
    removed_runtime_dir: bool


def check_removable(manifest: Manifest, runtime: str, version: str) -> tuple[str, RuntimeEntry]:
    """The runtime that ``version`` can be taken from (checks 5 to 7).

    Raises:
        NotFound: ``RUNTIME_NOT_FOUND``, ``RUNTIME_VERSION_NOT_FOUND``.
        Conflict: ``RUNTIME_CURRENT_CONFLICT``; the current version stays, also when it is the only one.
    """
    found = find_runtime(manifest, runtime)
    if found is None:
        raise NotFound(f"runtime '{runtime}' is not in the manifest", code="RUNTIME_NOT_FOUND")
    name, entry = found
    if version in ("current", entry.current):
        raise Conflict(
            f"'{entry.current}' is the current version of '{name}'",
            code=CURRENT_CONFLICT,
            remedy="Publish another version as the current one first.",
        )
    if version not in entry.available:
        raise NotFound(f"runtime '{name}' has no version '{version}'", code="RUNTIME_VERSION_NOT_FOUND")
    return name, entry


def dependents(manifest: Manifest, runtime: str) -> list[Dependent]:
    """Runtimes whose base is ``runtime``, whatever its version."""
    return [
        Dependent(
            runtime=name,
            current=entry.current,
            available=entry.available,
            type=entry.package_type,
            runtime_base=entry.runtime_base,
        )
        for name, entry in manifest.runtimes.items()
        if entry.runtime_base == runtime
    ]


def check_dependents(manifest: Manifest, runtime: str) -> None:
    """Refuse when there are dependents (check 10).

    Raises:
        Conflict: ``RUNTIME_HAS_DEPENDENTS``; they are in its details.
    """
    found = dependents(manifest, runtime)
    if found:
        names = ", ".join(one.runtime for one in found)
        raise Conflict(
            f"runtime '{runtime}' is the base of {names}",
            code="RUNTIME_HAS_DEPENDENTS",
            remedy="Remove those first.",
            details={"dependents": msgspec.to_builtins(found)},
        )


def remove_version(dist: Path, runtime: str, version: str, *, now_ms: int) -> RemovalReport:
    """Remove one version from the manifest and from the disk.

    Args:
        dist: ``Paths.dist``.
        runtime: name in any case.
        version: not the current one.
        now_ms: wall clock, for the manifest's version.

    Raises:
        NotFound, Conflict: the checks, which are made again while other writers are kept out.
        Unavailable: ``RUNTIME_REMOVE_FAILED``; everything is as before. ``RUNTIME_MANIFEST_MISSING``.
        Damaged: ``MANIFEST_INVALID``.
        Busy: another process keeps the manifest.
    """
    with locked_manifest(dist):
        before = read_manifest(dist)
        name, entry = check_removable(before.manifest, runtime, version)
        check_dependents(before.manifest, name)
        target = version_directory(dist, name, version)
        try:
            quarantine = _quarantined(target)
            stored = _unlisted(dist, before, name, version, quarantine, now_ms)
        except (FluxbeeError, OSError) as error:
            raise Unavailable(
                f"{name} {version} was not removed: {error}",
                code=REMOVE_FAILED,
                remedy="Check space and health of the disk, then try again.",
            ) from error
        if quarantine is not None:
            _discard(quarantine)
    return RemovalReport(
        runtime=name,
        removed_version=version,
        current=entry.current,
        manifest_version=stored.manifest.version,
        manifest_hash=stored.hash,
        removed_path=str(target),
        removed_runtime_dir=remove_empty(target.parent),
    )


def _quarantined(target: Path) -> Path | None:
    """Where the version lies now; None when there was nothing."""
    quarantine = target.with_name(quarantine_name(target.name))
    try:
        target.rename(quarantine)
    except FileNotFoundError:
        return None
    sync_path(target.parent)
    return quarantine


def _unlisted(
    dist: Path, before: StoredManifest, name: str, version: str, quarantine: Path | None, now_ms: int
) -> StoredManifest:
    entry = before.manifest.runtimes[name]
    left = tuple(one for one in entry.available if one != version)
    runtimes = dict(before.manifest.runtimes)
    if left or entry.current is not None:
        runtimes[name] = msgspec.structs.replace(entry, available=left)
    else:
        del runtimes[name]
    try:
        return write_manifest(dist, next_manifest(before.manifest, runtimes, now_ms=now_ms))
    except BaseException:
        if quarantine is not None:
            quarantine.rename(quarantine.with_name(version))
        raise


def discard_version(dist: Path, runtime: str, version: str) -> None:
    """Delete the directory of a version that is not listed, and the runtime's when it is empty then.

    The caller holds the manifest's lock.

    Raises:
        Unavailable: the medium refuses.
    """
    target = version_directory(dist, runtime, version)
    try:
        quarantine = _quarantined(target)
    except OSError as error:
        raise storage_error(error, str(target)) from error
    if quarantine is not None:
        _discard(quarantine)
    remove_empty(target.parent)


def _discard(quarantine: Path) -> None:
    error = remove_tree(quarantine)
    if error is not None:  # the version is gone for everybody; the next start tries again
        log.warning("leftover_stays", code="PACKAGE_LEFTOVERS", path=str(quarantine), error=str(error))
