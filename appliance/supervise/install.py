"""Bring a package into ``<dist>/runtimes`` and into the manifest: wholly or not at all.

``spec/admin-api.md §E.3``: a package is staged beside its target, synced, renamed into place and then listed;
when listing fails, it goes away again. Publishing the same content again changes nothing but what ``current``
means. Other writers, also of other processes, are kept out by the manifest's lock from the rename to the
listing. What a crash leaves is staging (removed by :func:`clean_leftovers`) or a complete, not yet listed
version, which the next publication of the same content lists. Blocking calls; not for an event loop.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from appliance.store.files import storage_error
from appliance.system.log import get_logger
from appliance.system.procfs import process_entry
from appliance.wire.errors import Conflict, FluxbeeError

from .manifest import (
    RuntimeEntry,
    StoredManifest,
    find_runtime,
    locked_manifest,
    next_manifest,
    read_manifest,
    runtimes_root,
    version_directory,
    write_manifest,
)
from .package import DESCRIPTION_FILE, Package
from .tree import (
    Progress,
    TreeLimits,
    check_space,
    copy_tree,
    normalize_modes,
    remove_empty,
    remove_tree,
    same_tree,
    sync_path,
    sync_tree,
)

__all__ = [
    "LEFTOVER_AGE_S",
    "InstallReport",
    "clean_leftovers",
    "install_package",
    "make_staging",
    "quarantine_name",
]

LEFTOVER_AGE_S: Final = 3600
_PUBLISHING: Final = ".publish-"
_STAGING: Final = re.compile(r"-(?P<pid>[0-9]{1,10})-[0-9a-f]{32}-staging\Z")
_REMOVING: Final = re.compile(r"\.removing-(?P<version>.+)-[0-9a-f]{32}\Z")

log = get_logger("packages")


class InstallReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a publication did; both numbers are 0 when the same content was there already."""

    runtime_name: str
    runtime_version: str
    package_type: str
    installed_path: str
    manifest_path: str
    manifest_version: int
    manifest_hash: str
    copied_files: int
    copied_bytes: int


def quarantine_name(version: str) -> str:
    """Name of a version's directory while it is removed."""
    return f".removing-{version}-{uuid.uuid4().hex}"


def _staging_name(label: str) -> str:
    """Whose it is stands in the name, so that the next one knows what nobody works on any more."""
    return f"{_PUBLISHING}{label}-{os.getpid()}-{uuid.uuid4().hex}-staging"


def make_staging(dist: Path, label: str = "bundle") -> Path:
    """A new private directory on the file system of the runtimes; its maker removes it.

    Raises:
        Unavailable, NotFound: it cannot be made.
    """
    path = runtimes_root(dist) / _staging_name(label)
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    return path


def install_package(
    package: Package,
    dist: Path,
    *,
    now_ms: int,
    set_current: bool = True,
    movable: bool = False,
    limits: TreeLimits | None = None,
    progress: Progress | None = None,
) -> InstallReport:
    """Install ``package`` and list it in the manifest.

    Args:
        package: as :func:`~.package.validate_package` saw it.
        dist: ``Paths.dist``.
        now_ms: wall clock, for the manifest's version.
        set_current: whether this version becomes what ``current`` means; without it a new runtime has none.
        movable: ``package.directory`` lies on the file system of ``dist`` and may be used up.
        limits: of what lies at the target already.
        progress: told while files are copied.

    Raises:
        Conflict: ``VERSION_CONFLICT`` (the version is there with other content), ``VERSION_MISMATCH`` (a
            runtime of that name is there in another case).
        Unavailable: ``RUNTIME_MANIFEST_MISSING``, or the medium is full or refuses: nothing changed.
        Damaged: ``MANIFEST_INVALID``.
        Busy: another process keeps the manifest.
    """
    target = version_directory(dist, package.name, package.version)
    bounds = limits or TreeLimits()
    _check_case(read_manifest(dist), package.name)
    if _is_same(package, target, bounds):
        with locked_manifest(dist):
            if target.is_dir():  # nobody removed it since we looked
                return _report(package, target, _listed(package, dist, now_ms, set_current), copied=False)
    if not movable:
        check_space(runtimes_root(dist), package.size_bytes)
    with _staged(package, target, movable, progress) as staging:
        normalize_modes(staging, package.entries)
        sync_tree(staging, package.entries)
        with locked_manifest(dist):
            return _put_in_place(package, staging, target, dist, now_ms, set_current, bounds)


def _put_in_place(
    package: Package,
    staging: Path,
    target: Path,
    dist: Path,
    now_ms: int,
    set_current: bool,
    limits: TreeLimits,
) -> InstallReport:
    _check_case(read_manifest(dist), package.name)
    staged = msgspec.structs.replace(package, directory=staging)
    if _is_same(staged, target, limits):  # somebody else was faster
        return _report(package, target, _listed(package, dist, now_ms, set_current), copied=False)
    try:
        staging.rename(target)
        sync_path(target.parent)
        sync_path(target.parent.parent)
    except OSError as error:
        raise storage_error(error, str(target)) from error
    try:
        stored = _listed(package, dist, now_ms, set_current)
    except BaseException:
        _remove(target)
        raise
    return _report(package, target, stored, copied=True)


@contextmanager
def _staged(package: Package, target: Path, movable: bool, progress: Progress | None) -> Iterator[Path]:
    """The package beside its target; whatever is left of it at the end goes, also the runtime's directory."""
    staging = target.with_name(_staging_name(package.version))
    replaced = {DESCRIPTION_FILE: package.content}
    try:
        try:
            target.parent.mkdir(mode=0o755, exist_ok=True)
            if movable:
                package.directory.rename(staging)
                _describe(staging / DESCRIPTION_FILE, package.content)
        except OSError as error:
            raise storage_error(error, str(staging)) from error
        if not movable:
            copy_tree(package.directory, package.entries, staging, replaced, progress)
        yield staging
    finally:
        _remove(staging)
        remove_empty(target.parent)


def _describe(path: Path, content: bytes) -> None:
    if path.read_bytes() != content:
        path.write_bytes(content)


def _is_same(package: Package, target: Path, limits: TreeLimits) -> bool:
    """Whether ``target`` is there and is the package; ``Conflict`` when it is something else."""
    if not target.exists() and not target.is_symlink():
        return False
    if target.is_dir() and not target.is_symlink():
        replaced = {DESCRIPTION_FILE: package.content}
        if same_tree(package.directory, package.entries, target, replaced, limits):
            return True
    raise Conflict(
        f"install conflict: {package.name} {package.version} already exists with different contents",
        code="VERSION_CONFLICT",
        remedy="Publish it under a new version.",
        details={"runtime_name": package.name, "runtime_version": package.version},
    )


def _check_case(stored: StoredManifest, name: str) -> None:
    for known in stored.manifest.runtimes:
        if known != name and known.casefold() == name.casefold():
            raise Conflict(
                f"install conflict: '{known}' already exists and differs from '{name}' in case only",
                code="VERSION_MISMATCH",
                remedy="Choose another name, or remove that runtime from the manifest.",
            )


def _listed(package: Package, dist: Path, now_ms: int, set_current: bool) -> StoredManifest:
    """The manifest with the package in it; it is written only when it says something else then."""
    stored = read_manifest(dist)
    found = find_runtime(stored.manifest, package.name)
    before = found[1] if found is not None else None
    entry = before or RuntimeEntry()
    versions = entry.available if package.version in entry.available else (*entry.available, package.version)
    entry = msgspec.structs.replace(
        entry,
        available=versions,
        current=package.version if set_current else entry.current,
        package_type=package.package_type,
        runtime_base=package.runtime_base,
    )
    if entry == before:
        return stored
    runtimes = dict(stored.manifest.runtimes) | {package.name: entry}
    return write_manifest(dist, next_manifest(stored.manifest, runtimes, now_ms=now_ms))


def _report(package: Package, target: Path, stored: StoredManifest, *, copied: bool) -> InstallReport:
    return InstallReport(
        runtime_name=package.name,
        runtime_version=package.version,
        package_type=package.package_type,
        installed_path=str(target),
        manifest_path=str(stored.path),
        manifest_version=stored.manifest.version,
        manifest_hash=stored.hash,
        copied_files=package.files if copied else 0,
        copied_bytes=package.size_bytes if copied else 0,
    )


# --- what crashes leave ------------------------------------------------------------------------------------


def clean_leftovers(dist: Path, *, now_s: float | None = None) -> int:
    """Remove staging and quarantine that ended processes left; how many went.

    A version that was taken away and is still listed comes back: the removal did not happen. Staging whose
    process has ended goes at once. Everything else that is younger than an hour stays, because another
    process may be at work on it.

    Args:
        dist: ``Paths.dist``.
        now_s: wall clock in seconds since 1970.
    """
    root = runtimes_root(dist)
    oldest_s = (time.time() if now_s is None else now_s) - LEFTOVER_AGE_S
    removed = 0
    try:
        with locked_manifest(dist):
            for path in _leftovers(root):
                match = _REMOVING.match(path.name)
                if match is not None and _restored(dist, path, match["version"]):
                    continue
                with suppress(OSError):
                    if _deserted(path.name) or path.lstat().st_mtime < oldest_s:
                        removed += _remove(path)
                        remove_empty(path.parent)
    except (FluxbeeError, OSError) as error:
        log.warning("leftovers_not_cleaned", code="PACKAGE_LEFTOVERS", error=str(error))
    return removed


def _deserted(name: str) -> bool:
    """Whether ``name`` is staging of a process that has ended."""
    match = _STAGING.search(name)
    if match is None:
        return False
    process = process_entry(int(match["pid"]))
    return process is None or not process.alive


def _leftovers(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.name.startswith(_PUBLISHING):
            yield path
        elif path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from (
                each
                for each in sorted(path.iterdir())
                if each.name.startswith(_PUBLISHING) or _REMOVING.match(each.name)
            )


def _restored(dist: Path, path: Path, version: str) -> bool:
    target = path.with_name(version)
    entry = read_manifest(dist).manifest.runtimes.get(path.parent.name)
    if entry is None or version not in entry.versions or target.exists():
        return False
    path.rename(target)
    log.info("removal_undone", runtime=path.parent.name, version=version)
    return True


def _remove(path: Path) -> bool:
    error = remove_tree(path)
    if error is not None:
        log.warning("leftover_stays", code="PACKAGE_LEFTOVERS", path=str(path), error=str(error))
    return error is None
