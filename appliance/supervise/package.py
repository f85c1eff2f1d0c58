"""What a package says about itself: ``package.json`` and the rules of the three types.

``spec/admin-api.md §E.2``: a *full runtime* brings a program, a *config-only* package gives another runtime
a configuration, a *workflow* gives it a flow. Whether the base exists is not asked here: readiness tells.
Nothing is changed; what a package may contain at all is :mod:`.tree`'s business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from appliance.wire.errors import Invalid

from .manifest import FULL_RUNTIME
from .readiness import PACKAGE_TYPES, START_SCRIPT
from .tree import TreeEntry, TreeLimits, check_relative, scan_tree

__all__ = [
    "DESCRIPTION_FILE",
    "Package",
    "check_package_name",
    "check_package_version",
    "parse_description",
    "validate_package",
]

DESCRIPTION_FILE: Final = "package.json"
MAX_DESCRIPTION_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(\.[a-z0-9]+)*\Z")
_SEMVER: Final = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?\Z"
)
_LONGEST_CHARS: Final = 128


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package that fits the rules.

    ``document`` is its package.json with the effective ``version``; ``content`` the bytes that are installed
    as package.json (the author's, unless the version was given from outside); ``entries`` all that is in it.
    """

    directory: Path
    name: str
    version: str
    package_type: str
    runtime_base: str | None
    description: str | None
    document: Mapping[str, object]
    content: bytes
    entries: list[TreeEntry]

    @property
    def files(self) -> int:
        """How many files it has."""
        return sum(not entry.is_directory for entry in self.entries)

    @property
    def size_bytes(self) -> int:
        """How many bytes they have together, once installed."""
        return sum(
            len(self.content) if entry.path == DESCRIPTION_FILE else entry.size_bytes
            for entry in self.entries
        )


def check_package_name(name: object, field: str = "name") -> str:
    """``name`` when a package may be called so: lower case, parts with dots between them.

    Raises:
        Invalid: it may not.
    """
    if not isinstance(name, str) or not _NAME.match(name) or len(name) > _LONGEST_CHARS:
        raise Invalid(
            f"package.json {field} {_shown(name)} is no package name",
            field=field,
            remedy="Use lower-case letters and digits with dots between parts, for example ai.greeter.",
        )
    return name


def check_package_version(version: object) -> str:
    """``version`` when it is MAJOR.MINOR.PATCH with an optional pre-release and build; else ``Invalid``."""
    if not isinstance(version, str) or not _SEMVER.match(version) or len(version) > _LONGEST_CHARS:
        raise Invalid(
            f"package version {_shown(version)} is not semver",
            field="version",
            remedy="Use MAJOR.MINOR.PATCH, for example 1.0.0.",
        )
    return version


def validate_package(
    directory: Path, *, version: str | None = None, limits: TreeLimits | None = None
) -> Package:
    """Look at the package in ``directory``.

    Args:
        directory: its root, with package.json.
        version: takes the place of the one in package.json.
        limits: most bytes and entries.

    Raises:
        Invalid: a rule is broken; the message names it.
        Unavailable, NotFound: it cannot be read.
    """
    if not directory.is_dir():
        raise Invalid(f"{directory} is not a directory", field="package")
    entries = scan_tree(directory, limits or TreeLimits())
    files = {entry.path: entry for entry in entries if not entry.is_directory}
    described = files.get(DESCRIPTION_FILE)
    if described is None:
        raise Invalid(f"{DESCRIPTION_FILE} is missing in {directory.name}", field="package")
    if described.size_bytes > MAX_DESCRIPTION_BYTES:
        raise Invalid(f"{DESCRIPTION_FILE} is larger than {MAX_DESCRIPTION_BYTES} bytes", field="package")
    content = (directory / DESCRIPTION_FILE).read_bytes()
    document = parse_description(content)
    own = document.get("version")
    effective = check_package_version(own if version is None else version)
    if effective != own:
        document = document | {"version": effective}
        content = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    name = check_package_name(document.get("name"))
    package_type, base = _type_and_base(document)
    _check_files(document, package_type, files, {entry.path for entry in entries if entry.is_directory})
    description = document.get("description")
    return Package(
        directory=directory,
        name=name,
        version=effective,
        package_type=package_type,
        runtime_base=base,
        description=description if isinstance(description, str) else None,
        document=document,
        content=content,
        entries=entries,
    )


def parse_description(content: bytes) -> dict[str, object]:
    """package.json as an object; ``Invalid`` when it is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{DESCRIPTION_FILE} is not JSON: {error}", field="package") from None
    if not isinstance(document, dict):
        raise Invalid(f"{DESCRIPTION_FILE} is not a JSON object", field="package")
    return document


def _type_and_base(document: Mapping[str, object]) -> tuple[str, str | None]:
    package_type, base = document.get("type"), document.get("runtime_base")
    if not isinstance(package_type, str) or package_type not in PACKAGE_TYPES:
        raise Invalid(
            f"package type {_shown(package_type)} is none of {', '.join(PACKAGE_TYPES)}", field="type"
        )
    if package_type == FULL_RUNTIME:
        if base is not None:
            raise Invalid("runtime_base is not allowed for full_runtime", field="runtime_base")
        return package_type, None
    if base is None or base == "":
        raise Invalid(f"runtime_base is required for {package_type}", field="runtime_base")
    return package_type, check_package_name(base, "runtime_base")


def _check_files(
    document: Mapping[str, object], package_type: str, files: Mapping[str, TreeEntry], directories: set[str]
) -> None:
    template = document.get("config_template")
    if template is not None:
        path = _relative(template, "config_template")
        if path not in files:
            raise Invalid(f"config_template {path!r} does not exist", field="config_template")
    if package_type == "workflow" and "flow" not in directories:
        raise Invalid("flow/ directory is required for workflow", field="package")
    if package_type != FULL_RUNTIME:
        return
    given = document.get("entry_point")
    path = START_SCRIPT if given is None else _relative(given, "entry_point")
    entry = files.get(path)
    if entry is None:
        raise Invalid(f"entry point {path!r} does not exist or is not a file", field="entry_point")
    if not entry.mode & 0o111:
        raise Invalid(
            f"entry point {path!r} is not executable",
            field="entry_point",
            remedy=f"chmod +x {path} before packing.",
        )


def _relative(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{field} is not text", field=field)
    return str(check_relative(value.removeprefix("./"), field))


def _shown(value: object) -> str:
    return "is missing and" if value is None else repr(value)[:80]
