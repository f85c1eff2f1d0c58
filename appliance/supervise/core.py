"""The program itself and what came with it: ``<dist>/core``, ``<dist>/vendor`` (``spec/admin-api.md §B.3``).

The appliance is one program, so its core manifest has one component, ``fluxbee``; it is written at the
first start and again when the program is another one. A core manifest that somebody else wrote stays as it
is. The vendor manifest belongs to images that bring further tools; without one it is ``missing``. Blocking
calls.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

import appliance
from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Damaged, NotFound

__all__ = [
    "COMPONENT",
    "CoreManifest",
    "VendorState",
    "ensure_core_manifest",
    "normalized",
    "read_core",
    "read_vendor",
]

COMPONENT: Final = "fluxbee"
VENDOR_TOOL: Final = "syncthing"
_AUTHOR: Final = "fluxbee"
_MAX_BYTES: Final = 4 << 20
_NOTHING: Final = hashlib.sha256(b"").hexdigest()


class CoreManifest(msgspec.Struct, frozen=True, kw_only=True):
    """``hash`` is over the bytes of the file; ``components`` by name."""

    schema_version: int
    hash: str
    components: Mapping[str, object]


class VendorState(msgspec.Struct, frozen=True, kw_only=True):
    """What the vendor directory holds; ``hash`` is that of the tool, of nothing when there is none."""

    present: bool
    tool_present: bool
    schema_version: int = 1
    version: int = 0
    updated_at: str | None = None
    hash: str = _NOTHING
    components: Mapping[str, object] = {}


def _read(path: Path) -> tuple[dict[str, object], bytes]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: not JSON: {error}", code="MANIFEST_INVALID") from None
    if not isinstance(value, dict) or not isinstance(value.get("components"), dict):
        raise Damaged(f"{path}: not a manifest with components", code="MANIFEST_INVALID")
    return value, data


def _components(document: Mapping[str, object]) -> dict[str, object]:
    components = document["components"]
    return components if isinstance(components, dict) else {}


def read_core(dist: Path) -> CoreManifest:
    """The core manifest.

    Raises:
        NotFound, Unavailable: it cannot be read.
        Damaged: ``MANIFEST_INVALID``.
    """
    document, data = _read(dist / "core" / "manifest.json")
    schema, components = document.get("schema_version"), _components(document)
    return CoreManifest(
        schema_version=schema if isinstance(schema, int) else 1,
        hash=hashlib.sha256(data).hexdigest(),
        components=components,
    )


def ensure_core_manifest(dist: Path) -> bool:
    """Write the core manifest when there is none, or ours describes another program; whether it did.

    Raises:
        Unavailable: the medium refuses.
    """
    path = dist / "core" / "manifest.json"
    known: object = None
    try:
        document, _ = _read(path)
    except NotFound:
        pass
    except Damaged:
        return False  # somebody's file: an update tells what is wrong with it
    else:
        if document.get("written_by") != _AUTHOR:
            return False
        known = _components(document).get(COMPONENT)
    build_id, files = _build()
    if isinstance(known, dict) and known.get("build_id") == build_id:
        return False
    digest, size_bytes = _digest(files)
    component = {
        "service": COMPONENT,
        "version": appliance.__version__,
        "build_id": build_id,
        "sha256": digest,
        "size": size_bytes,
    }
    manifest = {"schema_version": 1, "written_by": _AUTHOR, "components": {COMPONENT: component}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(path.parent)) from error
    durable_replace(path, json.dumps(manifest, indent=2).encode() + b"\n", 0o644)
    return True


def _build() -> tuple[str, list[Path]]:
    """A short id that changes with the program, and the files that are the program."""
    if getattr(sys, "frozen", False):
        files = [Path(sys.executable)]
    else:
        files = sorted(Path(appliance.__file__).parent.rglob("*.py"))
    marks = hashlib.sha256(appliance.__version__.encode())
    for file in files:
        try:
            seen = file.stat()
        except OSError as error:
            raise storage_error(error, str(file)) from error
        marks.update(f"{file.name}:{seen.st_size}:{seen.st_mtime_ns};".encode())
    return marks.hexdigest()[:12], files


def _digest(files: list[Path]) -> tuple[str, int]:
    """SHA-256 over the files one after the other, and their bytes."""
    digest = hashlib.sha256()
    size_bytes = 0
    for file in files:
        try:
            with file.open("rb") as source:
                while piece := source.read(1 << 20):
                    digest.update(piece)
                    size_bytes += len(piece)
        except OSError as error:
            raise storage_error(error, str(file)) from error
    return digest.hexdigest(), size_bytes


def read_vendor(dist: Path) -> VendorState:
    """What came with the image besides the program.

    Raises:
        Unavailable: the medium does not read.
        Damaged: ``MANIFEST_INVALID``.
    """
    installed = shutil.which(VENDOR_TOOL)
    try:
        document, _ = _read(dist / "vendor" / "manifest.json")
    except NotFound:
        own = _digest([Path(installed)])[0] if installed else _NOTHING
        return VendorState(present=False, tool_present=installed is not None, hash=own)
    components = _components(document)
    tool = components.get(VENDOR_TOOL)
    digest = tool.get("sha256") if isinstance(tool, dict) else None
    schema, version = document.get("schema_version"), document.get("version")
    updated_at = document.get("updated_at")
    return VendorState(
        present=True,
        tool_present=isinstance(tool, dict) or installed is not None,
        schema_version=schema if isinstance(schema, int) else 1,
        version=version if isinstance(version, int) else 0,
        updated_at=updated_at if isinstance(updated_at, str) else None,
        hash=normalized(digest) if isinstance(digest, str) else _NOTHING,
        components=components,
    )


def normalized(digest: str) -> str:
    """A SHA-256 as it is compared: lower case, without ``sha256:`` (``spec/admin-api.md §0``)."""
    return digest.strip().lower().removeprefix("sha256:")
