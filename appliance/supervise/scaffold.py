"""Skeletons of packages, and packing them for an upload (``spec/admin-api.md §E.4``).

A skeleton is a package that publish accepts once its program is there. A bundle has one root directory,
named after the package, and is the same bytes for the same content: entries are sorted and carry no time.
Blocking calls.
"""

from __future__ import annotations

import json
import stat
import uuid
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from appliance.store.files import storage_error
from appliance.wire.errors import Conflict, Invalid

from .manifest import FULL_RUNTIME
from .package import DESCRIPTION_FILE, Package, check_package_name, check_package_version, validate_package
from .readiness import PACKAGE_TYPES, START_SCRIPT
from .tree import FILE_MODE, PROGRAM_MODE, is_program

__all__ = ["PROGRAM", "PackReport", "create_skeleton", "pack_bundle"]

PROGRAM: Final = "bin/node"
"""What a skeleton's start script runs, and where ``--binary`` goes."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3

_START: Final = """#!/bin/sh
# Started by the orchestrator; FLUXBEE_NODE_NAME holds the node's full name.
# exec, so that the node itself gets the signals.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/node" "$@"
"""

_FLOW: Final = {"version": 1, "steps": []}


class PackReport(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that was written: files in it, and its size in bytes."""

    bundle: Path
    name: str
    version: str
    files: int
    size_bytes: int


def create_skeleton(
    directory: Path, *, name: str, package_type: str, version: str = "0.1.0", base: str | None = None
) -> list[str]:
    """Write the skeleton of a package.

    Args:
        directory: is made; may be there when it is empty.
        name, version, package_type: as :func:`~.package.validate_package` wants them.
        base: runtime that a config-only package or a workflow belongs to.

    Returns:
        Paths of the files, below ``directory``.

    Raises:
        Invalid: a value that publish would refuse.
        Conflict: the directory has something in it.
        Unavailable: the medium refuses.
    """
    files = _skeleton(check_package_name(name), package_type, check_package_version(version), base)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if next(directory.iterdir(), None) is not None:
            raise Conflict(f"{directory} is not empty", remedy="Name a directory that does not exist.")
        for path, text in files.items():
            target = directory / path
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
            if is_program(path):
                target.chmod(PROGRAM_MODE)
    except OSError as error:
        raise storage_error(error, str(directory)) from error
    return list(files)


def _skeleton(name: str, package_type: str, version: str, base: str | None) -> dict[str, str]:
    if package_type not in PACKAGE_TYPES:
        raise Invalid(f"type {package_type!r} is none of {', '.join(PACKAGE_TYPES)}", field="type")
    document: dict[str, object] = {"name": name, "version": version, "type": package_type, "description": ""}
    files: dict[str, str] = {}
    if package_type == FULL_RUNTIME:
        if base is not None:
            raise Invalid("runtime_base is not allowed for full_runtime", field="runtime_base")
        files[START_SCRIPT] = _START
    else:
        if base is None:
            raise Invalid(f"runtime_base is required for {package_type}", field="runtime_base")
        document["runtime_base"] = check_package_name(base, "runtime_base")
        if package_type == "workflow":
            files["flow/definition.json"] = _json(_FLOW)
    document["config_template"] = "config/default-config.json"
    return {DESCRIPTION_FILE: _json(document), "config/default-config.json": _json({}), **files}


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2) + "\n"


def pack_bundle(directory: Path, *, binary: Path | None = None, output: Path | None = None) -> PackReport:
    """Pack the package in ``directory`` for an upload.

    Args:
        directory: the package; it is validated first.
        binary: a program that goes into the bundle as :data:`PROGRAM`.
        output: the zip to write; None means ``<name>-<version>.zip`` beside the directory.

    Raises:
        Invalid: the package breaks a rule, or ``binary`` is no file.
        Unavailable, NotFound: the medium refuses.
    """
    package = validate_package(directory)
    target = output or directory.resolve().parent / f"{package.name}-{package.version}.zip"
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        if binary is not None and not stat.S_ISREG(binary.stat().st_mode):
            raise Invalid(f"{binary} is not a file", field="binary")
        files = _write_bundle(package, binary, draft)
        draft.rename(target)
        size_bytes = target.stat().st_size
    except OSError as error:
        raise storage_error(error, error.filename or str(target)) from error
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    return PackReport(
        bundle=target, name=package.name, version=package.version, files=files, size_bytes=size_bytes
    )


def _write_bundle(package: Package, binary: Path | None, draft: Path) -> int:
    sources = {
        entry.path: package.directory / entry.path for entry in package.entries if not entry.is_directory
    }
    modes = {entry.path: entry.mode for entry in package.entries}
    if binary is not None:
        sources[PROGRAM], modes[PROGRAM] = binary, PROGRAM_MODE
    with zipfile.ZipFile(draft, "x", zipfile.ZIP_DEFLATED) as archive:
        for entry in package.entries:
            if entry.is_directory:
                folder = _info(f"{package.name}/{entry.path}/", stat.S_IFDIR | PROGRAM_MODE)
                folder.compress_type = zipfile.ZIP_STORED
                archive.writestr(folder, b"")
        for path, source in sorted(sources.items()):
            mode = PROGRAM_MODE if modes[path] & 0o111 or is_program(path) else FILE_MODE
            with (
                source.open("rb") as reader,
                archive.open(_info(f"{package.name}/{path}", stat.S_IFREG | mode), "w") as writer,
            ):
                while piece := reader.read(1 << 20):
                    writer.write(piece)
    draft.chmod(FILE_MODE)
    return len(sources)


def _info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = _UNIX
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
