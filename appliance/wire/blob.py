"""Blobs as the wire knows them: names, references, limits, retry schedule, reports and error codes.

A blob is immutable content of any size that travels beside messages; a message carries a :class:`BlobRef`.
The name is derived from the content (``spec/node-protocol.md §6.3``), so equal content under an equal
sanitized name is the same blob. Sans-IO: ``appliance.store.blobs`` does the file work.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import msgspec

from .errors import Busy, FluxbeeError, Invalid, NotFound, Unavailable, Unreachable

__all__ = [
    "ACTIVE_DIR",
    "BLOB_ERROR_CODES",
    "BLOB_FOLDER_ID",
    "BLOB_INVALID_NAME",
    "BLOB_INVALID_REF",
    "BLOB_IO_ERROR",
    "BLOB_NOT_FOUND",
    "BLOB_NOT_IMPLEMENTED",
    "BLOB_REF_TYPE",
    "BLOB_SYNC_HINT_FAILED",
    "BLOB_SYNC_HINT_TIMEOUT",
    "BLOB_SYNC_HINT_TRANSPORT",
    "BLOB_TOO_LARGE",
    "DIRECTORY_MODE",
    "EXTENSION_MAX_CHARS",
    "FILE_MODE",
    "HASH_CHARS",
    "MAX_BLOB_BYTES",
    "NAME_MAX_CHARS",
    "STAGING_DIR",
    "BlobGcOptions",
    "BlobGcPassReport",
    "BlobGcReport",
    "BlobMetrics",
    "BlobName",
    "BlobRef",
    "BlobStat",
    "ResolveRetry",
    "blob_error",
    "blob_name_of",
    "blob_prefix",
    "blob_ref_from",
    "content_hash",
    "guess_mime",
    "make_blob_ref",
    "parse_blob_name",
    "sanitize_name",
    "spool_day",
    "validate_blob_name",
    "validate_blob_ref",
]

BLOB_REF_TYPE = "blob_ref"
STAGING_DIR = "staging"
ACTIVE_DIR = "active"
BLOB_FOLDER_ID = "fluxbee-blob"
DIRECTORY_MODE = 0o750
FILE_MODE = 0o640
NAME_MAX_CHARS = 128
EXTENSION_MAX_CHARS = 10
HASH_CHARS = 16
MAX_BLOB_BYTES = 104_857_600
"""Default limit of one blob, in bytes; ``None`` in a configuration means no limit."""

_U64_MAX = (1 << 64) - 1

BLOB_NOT_FOUND = "BLOB_NOT_FOUND"
BLOB_IO_ERROR = "BLOB_IO_ERROR"
BLOB_INVALID_NAME = "BLOB_INVALID_NAME"
BLOB_INVALID_REF = "BLOB_INVALID_REF"
BLOB_TOO_LARGE = "BLOB_TOO_LARGE"
BLOB_SYNC_HINT_TIMEOUT = "BLOB_SYNC_HINT_TIMEOUT"
BLOB_SYNC_HINT_FAILED = "BLOB_SYNC_HINT_FAILED"
BLOB_SYNC_HINT_TRANSPORT = "BLOB_SYNC_HINT_TRANSPORT"
BLOB_NOT_IMPLEMENTED = "BLOB_NOT_IMPLEMENTED"

_MAKE: dict[str, Callable[..., FluxbeeError]] = {
    BLOB_NOT_FOUND: partial(NotFound, remedy="Promote the blob first, or wait until it is replicated here."),
    BLOB_IO_ERROR: partial(Unavailable, remedy="Check free space and rights of the blob directory."),
    BLOB_INVALID_NAME: partial(Invalid, field="blob_name"),
    BLOB_INVALID_REF: partial(Invalid, field="blob_ref"),
    BLOB_TOO_LARGE: partial(Invalid, field="size", remedy="Send less, or raise the blob size limit."),
    BLOB_SYNC_HINT_TIMEOUT: Busy,
    BLOB_SYNC_HINT_FAILED: Unavailable,
    BLOB_SYNC_HINT_TRANSPORT: Unreachable,
    BLOB_NOT_IMPLEMENTED: Unavailable,
}

BLOB_ERROR_CODES = tuple(_MAKE)


def blob_error(code: str, detail: str) -> FluxbeeError:
    """The error for ``code``; its text starts with the code (``spec/node-protocol.md §6.4``)."""
    return _MAKE[code](f"{code}: {detail}", code=code)


class BlobName(NamedTuple):
    """The three parts of ``<stem>_<hash16>.<extension>``."""

    stem: str
    hash16: str
    extension: str

    def __str__(self) -> str:
        return f"{self.stem}_{self.hash16}.{self.extension}"


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a message carries in place of the content; encodes in the reference's key order.

    ``size`` is in bytes (u64) and is not checked against the file; ``spool_day`` is the UTC day of creation.
    """

    type: str
    blob_name: str
    size: int
    mime: str
    filename_original: str
    spool_day: str

    def validate(self) -> None:
        """Raise ``BLOB_INVALID_REF`` or ``BLOB_INVALID_NAME`` unless every field is well formed."""
        validate_blob_ref(self)


class BlobStat(msgspec.Struct, frozen=True, kw_only=True):
    """What is on disk for a reference; ``size_on_disk`` is in bytes, 0 when nothing is there."""

    size_on_disk: int
    exists: bool
    path: str


class BlobGcOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to collect. Without ``apply`` nothing is deleted (dry run)."""

    staging_ttl_hours: int = 24
    active_retain_days: int = 30
    apply: bool = False


class BlobGcPassReport(msgspec.Struct, frozen=True, kw_only=True):
    """One pass over ``staging`` or ``active``."""

    apply: bool
    scanned_files: int = 0
    candidate_files: int = 0
    deleted_files: int = 0
    deleted_bytes: int = 0
    skipped_non_blob_files: int = 0
    errors: tuple[str, ...] = ()


class BlobGcReport(msgspec.Struct, frozen=True, kw_only=True):
    """Both passes."""

    apply: bool
    staging_ttl_hours: int
    active_retain_days: int
    staging: BlobGcPassReport
    active: BlobGcPassReport


class BlobMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of this process since its start."""

    blob_put_total: int = 0
    blob_put_bytes_total: int = 0
    blob_resolve_total: int = 0
    blob_resolve_retry_total: int = 0
    blob_errors_total: int = 0


class ResolveRetry(msgspec.Struct, frozen=True, kw_only=True):
    """How long a consumer waits for a blob that may still be on its way (a message can be faster)."""

    max_wait_ms: int = 5000
    initial_delay_ms: int = 100
    backoff_factor: float = 2.0

    def delay_s(self, attempt: int, elapsed_s: float) -> float | None:
        """Seconds to sleep after the failed ``attempt`` (0, 1, …), or ``None`` when the time is used up."""
        left_s = self.max_wait_ms / 1000 - elapsed_s
        if left_s <= 0:
            return None
        # The exponent is capped because a float overflows; the time left is the shorter bound long before.
        return min(self.initial_delay_ms / 1000 * self.backoff_factor ** min(attempt, 32), left_s)


# --- names ------------------------------------------------------------------------------------------

_FORBIDDEN = ("/", "\\", "..")
_STEM = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HASH = re.compile(r"[0-9A-Fa-f]{16}")
_EXTENSION = re.compile(r"[a-z0-9]{1,10}")
_NOT_STEM = re.compile(r"[^A-Za-z0-9._-]")
_UNDERSCORES = re.compile(r"_+")


def content_hash(data: bytes | bytearray | memoryview) -> str:
    """First 16 hex digits of the SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()[:HASH_CHARS]


def _last_component(original: str) -> str:
    parts = [part for part in original.split("/") if part not in ("", ".")]
    return "" if not parts or parts[-1] == ".." else parts[-1]


def _split_extension(component: str) -> tuple[str, str]:
    dot = component.rfind(".")
    return (component, "") if dot <= 0 else (component[:dot], component[dot + 1 :])


def sanitize_name(original: str, *, name_max_chars: int = NAME_MAX_CHARS) -> tuple[str, str]:
    """Stem and extension that a blob made from a file called ``original`` gets.

    Rules of ``spec/node-protocol.md §6.3``. The result is always within the allowed characters, but may
    still hold ``..``, which :func:`blob_name_of` refuses.
    """
    stem, extension = _split_extension(_last_component(original.strip()))
    stem = _UNDERSCORES.sub("_", _NOT_STEM.sub("_", stem)).strip("_")[:name_max_chars] or "blob"
    extension = "".join(c.lower() if c.isascii() else c for c in extension)[:EXTENSION_MAX_CHARS]
    return stem, extension if _EXTENSION.fullmatch(extension) else "bin"


def blob_name_of(original: str, hash16: str, *, name_max_chars: int = NAME_MAX_CHARS) -> str:
    """Blob name for content with ``hash16`` that came as ``original``.

    Raises:
        Invalid: ``BLOB_INVALID_NAME``; the original cannot be stored (``a..b.txt``).
    """
    stem, extension = sanitize_name(original, name_max_chars=name_max_chars)
    name = str(BlobName(stem, hash16, extension))
    validate_blob_name(name)
    return name


def _parse(name: str) -> BlobName | None:
    head, dot, extension = name.rpartition(".")
    stem, underscore, hash16 = head.rpartition("_")
    well_formed = (
        dot
        and underscore
        and _STEM.fullmatch(stem)
        and _HASH.fullmatch(hash16)
        and _EXTENSION.fullmatch(extension)
        and not any(word in name for word in _FORBIDDEN)
    )
    return BlobName(stem, hash16, extension) if well_formed else None


def parse_blob_name(name: str) -> BlobName:
    """The parts of a blob name; raises ``BLOB_INVALID_NAME`` when it is not one."""
    parsed = _parse(name)
    if parsed is None:
        raise blob_error(BLOB_INVALID_NAME, f"{name!r} is not <name>_<16 hex>.<extension>")
    return parsed


def validate_blob_name(name: str) -> None:
    """Raise ``BLOB_INVALID_NAME`` unless ``name`` is a well-formed blob name."""
    parse_blob_name(name)


def blob_prefix(name: str) -> str:
    """Directory below ``staging`` and ``active``: the first two characters of the hash, else ``00``."""
    parsed = _parse(name)
    return parsed.hash16[:2] if parsed else "00"


# --- references ---------------------------------------------------------------------------------------

_SPOOL_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

# The interpreter's own table without the system's files, so that every box guesses alike; a few types that
# the table of some supported Python version lacks or names in an outdated way.
_MIME = mimetypes.MimeTypes().types_map[True] | {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".gz": "application/gzip",
    ".js": "text/javascript",
    ".log": "text/plain",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".ogg": "audio/ogg",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rtf": "application/rtf",
    ".toml": "application/toml",
    ".wav": "audio/wav",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}


def guess_mime(original: str, given: str | None = None) -> str:
    """MIME type: ``given`` unless blank, else by the extension of ``original``, else octet-stream."""
    if given is not None and given.strip():
        return given.strip()
    extension = _split_extension(_last_component(original.strip()))[1].lower()
    return _MIME.get(f".{extension}", "application/octet-stream")


def spool_day(wall_s: float) -> str:
    """UTC day of a wall-clock time in seconds, as ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%d")


def make_blob_ref(
    *, blob_name: str, size_bytes: int, original: str, mime: str | None, wall_s: float
) -> BlobRef:
    """Reference to a blob just written; a blank ``original`` reads ``blob.bin``."""
    return BlobRef(
        type=BLOB_REF_TYPE,
        blob_name=blob_name,
        size=size_bytes,
        mime=guess_mime(original, mime),
        filename_original=original.strip() or "blob.bin",
        spool_day=spool_day(wall_s),
    )


def validate_blob_ref(ref: BlobRef) -> None:
    """Raise unless every field is well formed (``spec/node-protocol.md §6.1``).

    Raises:
        Invalid: ``BLOB_INVALID_REF``, or ``BLOB_INVALID_NAME`` when it is the name.
    """
    validate_blob_name(ref.blob_name)
    complaints = (
        ("type", ref.type == BLOB_REF_TYPE),
        ("size", 0 <= ref.size <= _U64_MAX),
        ("mime", bool(ref.mime.strip())),
        ("filename_original", bool(ref.filename_original.strip())),
        ("spool_day", _SPOOL_DAY.fullmatch(ref.spool_day) is not None),
    )
    for field, fine in complaints:
        if not fine:
            raise blob_error(BLOB_INVALID_REF, f"{field} of {ref.blob_name} is {getattr(ref, field)!r}")


def blob_ref_from(value: object) -> BlobRef:
    """Checked reference from decoded JSON; unknown keys are ignored.

    Raises:
        Invalid: ``BLOB_INVALID_REF`` or ``BLOB_INVALID_NAME``.
    """
    try:
        ref = msgspec.convert(value, BlobRef)
    except msgspec.ValidationError as error:
        raise blob_error(BLOB_INVALID_REF, str(error)) from error
    validate_blob_ref(ref)
    return ref
