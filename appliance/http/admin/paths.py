"""How the admin API reads a request's path and query (``spec/admin-api.md §A.2, §A.11``). Sans-IO.

Segments are split on the bytes of ``raw_path``, so that an encoded slash stays inside its segment. ``+`` in a
segment is a space. In a query the last of several equal names wins.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_plus

from appliance.wire.errors import Invalid

__all__ = ["decoded", "query_of", "segments"]

_TOLERANT = ("hives", "modules")
"""First segments whose paths may begin and end with further slashes."""

MAX_QUERY_FIELDS = 64


def segments(raw_path: bytes) -> tuple[str, ...] | None:
    """The path's segments, still encoded; ``None`` for a path that cannot be one of ours."""
    try:
        text = raw_path.partition(b"?")[0].decode("ascii")
    except UnicodeDecodeError:
        return None
    inner = text.strip("/")
    parts = tuple(inner.split("/")) if inner else ()
    if parts and parts[0] in _TOLERANT:
        return parts
    return parts if text == f"/{inner}" else None


def decoded(segment: str) -> str:
    """A segment's text.

    Raises:
        Invalid: it is not UTF-8.
    """
    try:
        return unquote_plus(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise Invalid(f"the path segment {segment!r} is not UTF-8") from error


def query_of(raw: bytes) -> dict[str, str]:
    """The query's fields; the last of equal names wins, a name without ``=`` is empty.

    Raises:
        Invalid: it is not UTF-8, or has too many fields.
    """
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise Invalid(f"the query cannot be read: {error}") from error
    return dict(pairs)
