"""The manifest of runtimes: ``<dist>/runtimes/manifest.json`` (``spec/admin-api.md §D.9``).

It is read anew for every request, because operators' scripts edit it behind our back; its hash is over the
bytes as they lie there. It is written only when something about it means something else: atomically, mode
0644, pretty-printed, with keys that we do not know left as they were. Writers in several processes take
:func:`locked_manifest` around reading, changing and writing. All calls here block on small files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from appliance.store.files import durable_replace, storage_error
from appliance.system.clock import iso_seconds
from appliance.wire.errors import Busy, Conflict, Damaged, Invalid, Unavailable

__all__ = [
    "FULL_RUNTIME",
    "MANIFEST_INVALID",
    "MANIFEST_MISSING",
    "MAX_MANIFEST_BYTES",
    "Manifest",
    "RuntimeEntry",
    "StoredManifest",
    "check_runtime",
    "check_version",
    "create_manifest",
    "find_runtime",
    "is_token",
    "is_version",
    "locked_manifest",
    "manifest_path",
    "next_manifest",
    "read_manifest",
    "runtimes_root",
    "version_directory",
    "write_manifest",
]

MANIFEST_MISSING: Final = "RUNTIME_MANIFEST_MISSING"
MANIFEST_INVALID: Final = "MANIFEST_INVALID"
FULL_RUNTIME: Final = "full_runtime"
MAX_MANIFEST_BYTES: Final = 16 << 20
"""A larger file is refused instead of read; ten thousand runtimes need a tenth of it."""

_SCHEMA_VERSIONS: Final = (1, 2)
_WRITE_V2_ENV: Final = "FLUXBEE_RUNTIME_MANIFEST_WRITE_V2"
_TOKEN: Final = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_VERSION: Final = re.compile(r"[A-Za-z0-9._+-]{1,128}\Z")
_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_RETRY_S: Final = 0.02
_MAX_VERSION: Final = 2**64 - 1


class RuntimeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime of the manifest.

    ``current`` is None when absent or empty; ``package_type`` is ``full_runtime`` when absent; ``extra`` has
    the keys that we do not know.
    """

    available: tuple[str, ...] = ()
    current: str | None = None
    package_type: str = FULL_RUNTIME
    runtime_base: str | None = None
    extra: Mapping[str, object] = {}

    @property
    def versions(self) -> tuple[str, ...]:
        """``available``, and ``current`` when a script left it out there."""
        if self.current is None or self.current in self.available:
            return self.available
        return (*self.available, self.current)

    @property
    def is_base_backed(self) -> bool:
        """Whether its program is that of another runtime (``config_only``, ``workflow``)."""
        return self.package_type in ("config_only", "workflow")

    def document(self) -> dict[str, object]:
        """The entry as it is written."""
        known: dict[str, object] = {"available": list(self.available)}
        if self.current is not None:
            known["current"] = self.current
        known["type"] = self.package_type
        if self.runtime_base is not None:
            known["runtime_base"] = self.runtime_base
        return known | dict(self.extra)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole manifest; ``version`` only grows, ``updated_at`` is text for people."""

    schema_version: int = 1
    version: int = 1
    updated_at: str | None = None
    runtimes: Mapping[str, RuntimeEntry] = {}
    extra: Mapping[str, object] = {}


class StoredManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest as it lay on the disk: ``hash`` is the lower-case SHA-256 of its bytes."""

    manifest: Manifest
    hash: str
    path: Path
    modified_at_ms: int


def runtimes_root(dist: Path) -> Path:
    """Directory of the runtimes below ``Paths.dist``."""
    return dist / "runtimes"


def manifest_path(dist: Path) -> Path:
    """Where the manifest of runtimes lies."""
    return runtimes_root(dist) / "manifest.json"


def version_directory(dist: Path, runtime: str, version: str) -> Path:
    """Where one version of a runtime lies; both must be tokens."""
    return runtimes_root(dist) / runtime / version


def is_token(text: object) -> bool:
    """Whether ``text`` may name a runtime: ``[A-Za-z0-9._-]+`` (``§D.2``), and never ``.`` or ``..``."""
    return isinstance(text, str) and _TOKEN.match(text) is not None and text not in (".", "..")


def is_version(text: object) -> bool:
    """Whether ``text`` may name a version: a token in which ``+`` may stand, as semver's builds have it."""
    return isinstance(text, str) and _VERSION.match(text) is not None and text not in (".", "..")


def check_runtime(text: object, field: str = "runtime") -> str:
    """``text`` when it may name a runtime.

    Raises:
        Invalid: it may not; ``field`` is named.
    """
    if not isinstance(text, str) or not is_token(text):
        raise _no_token(text, field, "'.', '_' or '-'")
    return text


def check_version(text: object, field: str = "runtime_version") -> str:
    """``text`` when it may name a version; errors as :func:`check_runtime`."""
    if not isinstance(text, str) or not is_version(text):
        raise _no_token(text, field, "'.', '_', '-' or '+'")
    return text


def _no_token(text: object, field: str, others: str) -> Invalid:
    return Invalid(
        f"invalid {field}: {str(text)[:80]!r}",
        field=field,
        remedy=f"Use 1 to 128 letters, digits, {others}.",
    )


def read_manifest(dist: Path) -> StoredManifest:
    """What the manifest says now.

    Raises:
        Unavailable: ``RUNTIME_MANIFEST_MISSING``, or the medium does not read.
        Damaged: ``MANIFEST_INVALID``; the message says what is wrong with it.
    """
    path = manifest_path(dist)
    try:
        with path.open("rb") as file:
            at = os.fstat(file.fileno())
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise Unavailable(
            f"no runtime manifest at {path}; initialize dist first",
            code=MANIFEST_MISSING,
            remedy="Start the hive once, which writes an empty manifest, or copy one there.",
        ) from None
    except IsADirectoryError:
        raise _damaged(path, "it is a directory") from None
    except OSError as error:
        raise storage_error(error, str(path)) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise _damaged(path, f"larger than {MAX_MANIFEST_BYTES} bytes")
    return StoredManifest(
        manifest=_parsed(data, path),
        hash=hashlib.sha256(data).hexdigest(),
        path=path,
        modified_at_ms=at.st_mtime_ns // 1_000_000,
    )


def find_runtime(manifest: Manifest, name: str) -> tuple[str, RuntimeEntry] | None:
    """The runtime called ``name``: exactly, else the only one that differs in case (``§D.3`` step 8)."""
    exact = manifest.runtimes.get(name)
    if exact is not None:
        return name, exact
    folded = name.casefold()
    found = [(key, entry) for key, entry in manifest.runtimes.items() if key.casefold() == folded]
    return found[0] if len(found) == 1 else None


@contextmanager
def locked_manifest(dist: Path, *, timeout_s: float = _LOCK_TIMEOUT_S) -> Iterator[None]:
    """Keep other writers of the manifest and of its directories away, those of other processes too.

    Blocks its thread for at most ``timeout_s`` seconds; not for an event loop.

    Raises:
        Busy: another writer does not let go.
        Unavailable: ``RUNTIME_MANIFEST_MISSING``: there is no directory of runtimes; or it takes no writes.
    """
    path = runtimes_root(dist) / ".manifest.lock"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except FileNotFoundError:
        raise Unavailable(
            f"no directory {path.parent}; initialize dist first", code=MANIFEST_MISSING
        ) from None
    except OSError as error:
        raise storage_error(error, str(path)) from error
    try:
        _take(descriptor, path, time.monotonic() + timeout_s)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise Busy(f"another process is changing {path.parent}") from None
            time.sleep(_LOCK_RETRY_S)
        else:
            return


def next_manifest(manifest: Manifest, runtimes: Mapping[str, RuntimeEntry], *, now_ms: int) -> Manifest:
    """``manifest`` with other ``runtimes`` and the next version: max(``now_ms``, previous + 1).

    Raises:
        Conflict: ``VERSION_MISMATCH``; the version has no successor.
    """
    version = max(now_ms, manifest.version + 1)
    if version > _MAX_VERSION:
        raise Conflict(f"manifest version {manifest.version} has no successor", code="VERSION_MISMATCH")
    return msgspec.structs.replace(
        manifest,
        schema_version=2 if os.environ.get(_WRITE_V2_ENV, "").lower() in ("1", "true", "yes", "on") else 1,
        version=version,
        updated_at=iso_seconds(now_ms),
        runtimes=dict(runtimes),
    )


def write_manifest(dist: Path, manifest: Manifest) -> StoredManifest:
    """Replace the manifest; the caller holds :func:`locked_manifest`.

    Raises:
        Unavailable: the medium takes no writes; the manifest before is still there.
    """
    data = _encoded(manifest)
    path = manifest_path(dist)
    durable_replace(path, data, 0o644)
    return StoredManifest(
        manifest=manifest,
        hash=hashlib.sha256(data).hexdigest(),
        path=path,
        modified_at_ms=path.stat().st_mtime_ns // 1_000_000,
    )


def create_manifest(dist: Path, *, now_ms: int) -> bool:
    """Write a valid empty manifest when there is none; whether it did.

    Raises:
        Busy, Unavailable: see :func:`locked_manifest` and :func:`write_manifest`.
    """
    try:
        runtimes_root(dist).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(runtimes_root(dist))) from error
    if manifest_path(dist).exists():
        return False
    with locked_manifest(dist):
        if manifest_path(dist).exists():
            return False
        write_manifest(dist, Manifest(version=max(now_ms, 1), updated_at=iso_seconds(now_ms)))
    return True


# --- the file's form ---------------------------------------------------------------------------------------


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path}: {why}", code=MANIFEST_INVALID, remedy="Correct the file by hand; it is read anew."
    )


def _encoded(manifest: Manifest) -> bytes:
    document: dict[str, object] = {
        "schema_version": manifest.schema_version,
        "version": manifest.version,
        "updated_at": manifest.updated_at,
        "runtimes": {name: entry.document() for name, entry in manifest.runtimes.items()},
    }
    document |= manifest.extra
    document.setdefault("hash", None)
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _parsed(data: bytes, path: Path) -> Manifest:
    try:
        document = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _damaged(path, "not a JSON object")
    rest = dict(document)
    schema, version = rest.pop("schema_version", None), rest.pop("version", None)
    if type(schema) is not int or schema not in _SCHEMA_VERSIONS:
        raise _damaged(path, f"schema_version {schema!r} is not 1 or 2")
    if type(version) is not int or not 0 < version <= _MAX_VERSION:
        raise _damaged(path, f"version {version!r} is not a positive integer")
    updated_at, runtimes = rest.pop("updated_at", None), rest.pop("runtimes", None)
    if updated_at is not None and not isinstance(updated_at, str):
        raise _damaged(path, "updated_at is neither text nor null")
    if not isinstance(runtimes, dict):
        raise _damaged(path, "runtimes is not an object")
    return Manifest(
        schema_version=schema,
        version=version,
        updated_at=updated_at,
        runtimes={name: _entry(name, value, path) for name, value in runtimes.items()},
        extra=rest,
    )


def _entry(name: str, value: object, path: Path) -> RuntimeEntry:
    if not is_token(name):
        raise _damaged(path, f"runtime name {name[:80]!r} is not one")
    if not isinstance(value, dict):
        raise _damaged(path, f"runtime {name} is not an object")
    rest = dict(value)
    available = rest.pop("available", None)
    if available is None:
        available = []
    if not isinstance(available, list) or not all(is_version(version) for version in available):
        raise _damaged(path, f"runtime {name}: available is not a list of versions")
    current = rest.pop("current", None)
    if current is not None and current != "" and not is_version(current):
        raise _damaged(path, f"runtime {name}: current is not a version")
    package_type, base = rest.pop("type", None), rest.pop("runtime_base", None)
    if package_type is not None and not isinstance(package_type, str):
        raise _damaged(path, f"runtime {name}: type is not text")
    if base is not None and base != "" and not is_token(base):
        raise _damaged(path, f"runtime {name}: runtime_base is not a runtime name")
    return RuntimeEntry(
        available=tuple(dict.fromkeys(available)),
        current=current or None,
        package_type=package_type or FULL_RUNTIME,
        runtime_base=base or None,
        extra=rest,
    )
