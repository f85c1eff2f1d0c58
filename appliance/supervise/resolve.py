"""From the name of a runtime to what can be launched (``spec/admin-api.md §D.3`` steps 8 to 11).

Reads the disk, changes nothing. Errors carry the spec's code, and in ``details`` the diagnostics of
``§B.6.2``: which path was expected and how the runtime lies on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from appliance.wire.errors import Damaged, FluxbeeError, NotFound, Unavailable

from .manifest import (
    RuntimeEntry,
    StoredManifest,
    check_runtime,
    check_version,
    find_runtime,
    version_directory,
)
from .readiness import (
    PACKAGE_TYPES,
    global_health,
    is_executable,
    runtime_materialization,
    start_script,
    targeted_health,
)

__all__ = ["CURRENT", "Launchable", "derive_runtime", "read_template", "resolve", "resolve_version"]

CURRENT: Final = "current"
MAX_TEMPLATE_BYTES: Final = 4 << 20


class Launchable(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a runtime that is there and can be started.

    ``version`` is resolved, ``requested_version`` is what was asked for; ``package_path``, ``runtime_base``
    and ``base_version`` are those of a base-backed package and None for a full runtime; ``template`` is the
    package's configuration template without its ``_system`` key.
    """

    runtime: str
    version: str
    requested_version: str
    package_type: str
    start_script: Path
    package_path: Path | None
    runtime_base: str | None
    base_version: str | None
    template: Mapping[str, object]


def derive_runtime(node_name: str) -> str | None:
    """Runtime that a node's name means: the lower-cased first two segments; None when there are not two.

    ``AI.chat.eu@motherbee`` means ``ai.chat`` (``§B.6.2``).
    """
    kind, dot, rest = node_name.partition("@")[0].partition(".")
    label = rest.partition(".")[0]
    return f"{kind}.{label}".lower() if kind and dot and label else None


def resolve(stored: StoredManifest, dist: Path, runtime: str, version: str = CURRENT) -> Launchable:
    """What starting ``version`` of ``runtime`` means now.

    Args:
        stored: the manifest, just read.
        dist: ``Paths.dist``.
        runtime: name in any case.
        version: a version that is listed, or ``current``.

    Raises:
        Invalid: ``runtime`` or ``version`` is no name of one.
        NotFound: ``RUNTIME_NOT_AVAILABLE``.
        Unavailable: ``MISSING_RUNTIME_BASE``, ``BASE_RUNTIME_NOT_AVAILABLE``, ``UNKNOWN_PACKAGE_TYPE``,
            ``RUNTIME_NOT_PRESENT``, ``BASE_RUNTIME_NOT_PRESENT``.
        Damaged: ``CONFIG_WRITE_FAILED``; the package's configuration template does not read.
    """
    check_runtime(runtime)
    check_version(version)
    found = find_runtime(stored.manifest, runtime)
    if found is None:
        raise NotFound(f"runtime '{runtime}' is not in the manifest", code="RUNTIME_NOT_AVAILABLE")
    name, entry = found
    wanted = resolve_version(name, entry, version)
    package = version_directory(dist, name, wanted)
    base, base_version = _base(stored, name, entry)
    script = start_script(
        dist, name if base is None else base, wanted if base_version is None else base_version
    )
    if not is_executable(script):
        raise _not_present(stored, dist, name, wanted, base, base_version, script)
    return Launchable(
        runtime=name,
        version=wanted,
        requested_version=version,
        package_type=entry.package_type,
        start_script=script,
        package_path=None if base is None else package,
        runtime_base=base,
        base_version=base_version,
        template=read_template(package),
    )


def resolve_version(name: str, entry: RuntimeEntry, version: str) -> str:
    """The version that ``version`` means, ``current`` included.

    Raises:
        NotFound: ``RUNTIME_NOT_AVAILABLE``.
    """
    wanted = entry.current if version == CURRENT else version
    if wanted is None:
        raise NotFound(f"runtime '{name}' has no current version", code="RUNTIME_NOT_AVAILABLE")
    if wanted not in entry.versions:
        raise NotFound(
            f"version '{wanted}' of runtime '{name}' is not in the manifest", code="RUNTIME_NOT_AVAILABLE"
        )
    return wanted


def _base(stored: StoredManifest, name: str, entry: RuntimeEntry) -> tuple[str | None, str | None]:
    if entry.package_type not in PACKAGE_TYPES:
        raise Unavailable(
            f"runtime '{name}' has the unknown package type '{entry.package_type}'",
            code="UNKNOWN_PACKAGE_TYPE",
        )
    if not entry.is_base_backed:
        return None, None
    if entry.runtime_base is None:
        raise Unavailable(f"runtime '{name}' names no runtime_base", code="MISSING_RUNTIME_BASE")
    base = stored.manifest.runtimes.get(entry.runtime_base)
    if base is None or base.current is None:
        missing = "is not in the manifest" if base is None else "has no current version"
        raise Unavailable(
            f"base runtime '{entry.runtime_base}' of '{name}' {missing}",
            code="BASE_RUNTIME_NOT_AVAILABLE",
            remedy="Publish the base runtime first.",
            details={"runtime": name, "runtime_base": entry.runtime_base},
        )
    return entry.runtime_base, base.current


def _not_present(
    stored: StoredManifest,
    dist: Path,
    name: str,
    version: str,
    base: str | None,
    base_version: str | None,
    script: Path,
) -> FluxbeeError:
    manifest = stored.manifest
    own = runtime_materialization(dist, manifest, name, manifest.runtimes[name], version)
    hint = "Let the files of this version arrive (sync_hint, update), or publish it again."
    details: dict[str, object] = {"runtime": name, "version": version}
    if base is None:
        details |= {
            "expected_path": str(script),
            "hint": hint,
            "runtime_materialization": msgspec.to_builtins(own),
        }
    else:
        below = runtime_materialization(dist, manifest, base, manifest.runtimes[base], base_version)
        details |= {
            "runtime_base": base,
            "base_version": base_version,
            "expected_path": str(script),
            "hint": hint,
            "requested_runtime_materialization": msgspec.to_builtins(own),
            "runtime_base_materialization": msgspec.to_builtins(below),
        }
    details["targeted_runtime_health"] = msgspec.to_builtins(targeted_health(dist, manifest, name, version))
    details["global_runtime_health"] = msgspec.to_builtins(global_health(dist, manifest))
    whose = f"runtime '{name}'" if base is None else f"base runtime '{base}' of '{name}'"
    what = "is not executable" if script.is_file() else "is missing"
    return Unavailable(
        f"{whose}: {script} {what}",
        code="RUNTIME_NOT_PRESENT" if base is None else "BASE_RUNTIME_NOT_PRESENT",
        remedy=hint,
        details=details,
    )


def read_template(package: Path) -> dict[str, object]:
    """The configuration that a package gives to its nodes, without ``_system``; empty when it has none.

    ``config_template`` of its package.json, else ``config/default-config.json`` (``§D.3``).

    Raises:
        Damaged: ``CONFIG_WRITE_FAILED``; it does not read, is no object, or leads out of the package.
    """
    described = _json_object(package / "package.json")
    named = described.get("config_template") if described is not None else None
    if named is None:
        template = _json_object(package / "config" / "default-config.json")
    else:
        path = Path(str(named))
        if not isinstance(named, str) or path.is_absolute() or ".." in path.parts:
            raise _no_template(package / "package.json", "config_template leads out of the package")
        template = _json_object(package / path)
        if template is None:
            raise _no_template(package / path, "it does not exist")
    return {key: value for key, value in (template or {}).items() if key != "_system"}


def _json_object(path: Path) -> dict[str, object] | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _no_template(path, str(error)) from error
    if len(data) > MAX_TEMPLATE_BYTES:
        raise _no_template(path, f"larger than {MAX_TEMPLATE_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _no_template(path, str(error)) from None
    if not isinstance(value, dict):
        raise _no_template(path, "not a JSON object")
    return value


def _no_template(path: Path, why: str) -> FluxbeeError:
    return Damaged(
        f"configuration template {path}: {why}",
        code="CONFIG_WRITE_FAILED",
        remedy="Publish a package whose template is a JSON object.",
    )
