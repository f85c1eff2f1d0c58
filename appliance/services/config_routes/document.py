"""``sy-config-routes.yaml``: the route document for an operator's eyes (``routing-and-regions §4.1``).

The journal is the truth; the file is written after every change. An edit by hand counts at the next start:
a higher version, or other lists under the version in force, is taken over as a change.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Invalid, Misconfigured
from appliance.wire.routes import parse_routes, parse_vpns

from .book import MAX_VERSION, RouteBook

__all__ = ["edited", "read_document", "write_document"]

_MAX_BYTES = 4 << 20
_MAX_STAMP_DIGITS = 18
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""PyYAML's own errors, and what its constructors let through for tags such as ``!!timestamp x``."""

_LINE_BREAKS = frozenset("\x85\u2028\u2029")


def read_document(path: Path) -> RouteBook | None:
    """The document in ``path``; ``None`` when there is no file.

    Raises:
        Misconfigured: it is not a route document; the message names file and key.
        Unavailable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, str(path)) from error
    if len(text) > _MAX_BYTES:
        raise _wrong(f"{path}: more than {_MAX_BYTES} bytes are no route document")
    try:
        return _book(yaml.safe_load(text))
    except Invalid as error:
        raise _wrong(f"{path}: {error}") from error
    except _NOT_YAML as error:
        raise _wrong(f"{path}: not YAML: {' '.join(str(error).split()) or type(error).__name__}") from error


def _wrong(message: str) -> Misconfigured:
    return Misconfigured(
        message, remedy="Correct the file, or remove it: it is written again from what is in force."
    )


def _book(value: object) -> RouteBook:
    if not isinstance(value, dict):
        raise Invalid("expected version, updated_at, routes and vpns")
    version = value.get("version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
        raise Invalid(f"version: expected a whole number from 1 to {MAX_VERSION}", field="version")
    stamp = str(value.get("updated_at", "0"))
    return RouteBook(
        version=version,
        updated_at_ms=int(stamp) if stamp.isdecimal() and len(stamp) <= _MAX_STAMP_DIGITS else 0,
        routes=parse_routes(value.get("routes") or []),
        vpns=parse_vpns(value.get("vpns") or []),
    )


def write_document(path: Path, book: RouteBook) -> None:
    """Replace the file.

    Raises:
        Unavailable: the storage does not take it.
    """
    value = {
        "version": book.version,
        "updated_at": str(book.updated_at_ms),
        "routes": [_short(route) for route in book.routes],
        "vpns": [_short(rule) for rule in book.vpns],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(path.parent)) from error
    durable_replace(path, _text(value).encode(), 0o644)


def _text(value: object) -> str:
    """``value`` as YAML that reads back the same.

    Letters stay readable; but PyYAML writes Unicode's line breaks as they are and reads them as spaces.
    """
    readable = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if _LINE_BREAKS.isdisjoint(readable):
        return readable
    return yaml.safe_dump(value, sort_keys=False)


def _short(entry: msgspec.Struct) -> dict[str, object]:
    return {key: value for key, value in msgspec.to_builtins(entry).items() if value is not None}


def edited(found: RouteBook | None, book: RouteBook) -> bool:
    """Whether ``found`` (the file) is an edit by hand of ``book`` (the journal's)."""
    if found is None or found.same_lists(book):
        return False
    return found.version >= book.version
