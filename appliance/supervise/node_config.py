"""What goes into a node's ``config.json``: the layers at spawn, later changes, and ``_system``.

Layers of a spawn, later wins, top-level key by top-level key: the package's template, the request, the
tenant, ``_system`` (``spec/admin-api.md §D.3, §D.7``). The tenant is one value for configuration and
``_system``: request config, else request, else template, else the default (decision H-4). Sans-IO.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from appliance.wire.errors import Damaged, Invalid
from appliance.wire.identity import tenant_id as canonical_tenant

from .names import NodeName

__all__ = [
    "SYSTEM_KEY",
    "SYSTEM_PATCHES",
    "SpawnFacts",
    "SystemPart",
    "check_patch",
    "config_version",
    "identity_tenant",
    "launch_part",
    "patched_config",
    "spawn_config",
    "system_part",
]

SYSTEM_KEY = "_system"
_MANAGER = "SY.orchestrator"

SYSTEM_PATCHES = ("runtime", "runtime_version", "requested_runtime_version", "runtime_base", "package_path")
"""Siblings of ``config`` in NODE_CONFIG_SET that change ``_system``."""

Document = dict[str, object]


class SystemPart(msgspec.Struct, frozen=True, kw_only=True):
    """``_system`` as it is read back; what is missing or has another type is ``None``."""

    runtime: str | None = None
    runtime_version: str | None = None
    requested_version: str | None = None
    relaunch_on_boot: bool = False
    config_version: int = 0
    unit: str | None = None
    ilk_id: str | None = None
    tenant_id: str | None = None


class SpawnFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a spawn knows when it writes the configuration.

    ``unit`` only when the request chose one; ``runtime_base``, ``package_path`` only of packages with a base.
    """

    name: NodeName
    runtime: str
    runtime_version: str
    runtime_base: str | None
    package_path: Path | None
    ilk_id: str | None
    now_ms: int
    unit: str | None = None


def check_patch(config: object, field: str = "config") -> Document:
    """``config`` of a request as an object without ``_system``; an absent one is empty.

    Raises:
        Invalid: it is neither.
    """
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise Invalid(f"{field} must be a JSON object", field=field)
    if SYSTEM_KEY in config:
        raise Invalid(f"{field} must not contain {SYSTEM_KEY}", field=f"{field}.{SYSTEM_KEY}")
    return config


def identity_tenant(requested: object, config: Mapping[str, object], default: str | None) -> str | None:
    """The tenant that a node is registered with: request, else request config, else default.

    Raises:
        Invalid: it is no ``tnt:<uuid>``.
    """
    for value in (requested, config.get("tenant_id"), default):
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise Invalid("tenant_id: expected tnt:<uuid>", field="tenant_id")
        return canonical_tenant(value)
    return None


def spawn_config(
    facts: SpawnFacts,
    *,
    template: Mapping[str, object],
    config: Mapping[str, object],
    requested_tenant: str | None,
    default_tenant: str | None,
) -> Document:
    """The first configuration of a node."""
    tenant = config.get("tenant_id") or requested_tenant or template.get("tenant_id") or default_tenant
    merged: Document = {**template, **config}
    if tenant:
        merged["tenant_id"] = tenant
    system: Document = {
        "managed_by": _MANAGER,
        "node_name": facts.name.full,
        "hive_id": facts.name.hive,
        "relaunch_on_boot": True,
        "config_version": 1,
        "created_at_ms": facts.now_ms,
        "updated_at_ms": facts.now_ms,
        "runtime": facts.runtime,
        "runtime_version": facts.runtime_version,
    }
    optional = {
        "runtime_base": facts.runtime_base,
        "package_path": None if facts.package_path is None else str(facts.package_path),
        "ilk_id": facts.ilk_id,
        "tenant_id": tenant,
        "unit": facts.unit,
    }
    merged[SYSTEM_KEY] = system | {key: value for key, value in optional.items() if value}
    return merged


def patched_config(
    stored: Mapping[str, object],
    patch: Mapping[str, object],
    *,
    replace: bool,
    system_patch: Mapping[str, object],
    name: NodeName,
    now_ms: int,
) -> Document:
    """The configuration after a change: ``_system`` stays, its version grows by one."""
    before = stored.get(SYSTEM_KEY)
    system: Document = dict(before) if isinstance(before, dict) else {}
    system |= system_patch
    system |= {"managed_by": _MANAGER, "node_name": name.full, "hive_id": name.hive}
    system.setdefault("created_at_ms", now_ms)
    system["config_version"] = config_version(stored) + 1
    system["updated_at_ms"] = now_ms
    merged: Document = dict(patch) if replace else {**stored, **patch}
    merged[SYSTEM_KEY] = system
    return merged


def config_version(config: Mapping[str, object]) -> int:
    """``_system.config_version``; 0 when absent."""
    return system_part(config).config_version


def system_part(config: Mapping[str, object] | None) -> SystemPart:
    """``_system`` of a stored configuration; the tenant falls back to the top-level one."""
    found = (config or {}).get(SYSTEM_KEY)
    system: Mapping[str, object] = found if isinstance(found, dict) else {}
    version = system.get("config_version")
    return SystemPart(
        runtime=_text(system, "runtime"),
        runtime_version=_text(system, "runtime_version"),
        requested_version=_text(system, "requested_runtime_version") or _text(system, "requested_version"),
        relaunch_on_boot=system.get("relaunch_on_boot") is True,
        config_version=version if isinstance(version, int) and version >= 0 else 0,
        unit=_text(system, "unit"),
        ilk_id=_text(system, "ilk_id"),
        tenant_id=_text(system, "tenant_id") or _text(config or {}, "tenant_id"),
    )


def launch_part(config: Mapping[str, object], name: str) -> tuple[str, str]:
    """Runtime and version that a stored node is pinned to.

    Raises:
        Damaged: ``NODE_CONFIG_INVALID``, it names none.
    """
    system = system_part(config)
    if not system.runtime or not system.runtime_version:
        raise Damaged(
            f"config.json of {name} names no _system.runtime and runtime_version",
            code="NODE_CONFIG_INVALID",
        )
    return system.runtime, system.runtime_version


def _text(place: Mapping[str, object], key: str) -> str | None:
    value = place.get(key)
    return value if isinstance(value, str) and value else None
