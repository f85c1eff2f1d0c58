"""L1 identifiers: uuids as text.

The wire accepts every usual uuid notation (hyphenated, 32 hex digits, braced, ``urn:uuid:``) and always
writes the lower-case hyphenated one. The router compares canonical text, so parsing happens only when a
string is not canonical already.
"""

from __future__ import annotations

import re
import uuid
from typing import NewType

__all__ = ["NodeUuid", "TraceId", "canonical_uuid", "new_uuid"]

NodeUuid = NewType("NodeUuid", str)
"""Canonical text of a connection's (L1) uuid."""

TraceId = NewType("TraceId", str)
"""Correlation id of a message; any string for unicast, a uuid for broadcast."""

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_NOTATIONS = re.compile(
    r"(?:urn:uuid:)?(?P<brace>\{)?(?:[0-9a-f]{32}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})(?(brace)\})\Z",
    re.IGNORECASE,
)


def canonical_uuid(text: str) -> NodeUuid | None:
    """Canonical form of ``text`` when it is a uuid in any usual notation, else ``None``.

    Stricter than ``uuid.UUID``, which strips hyphens anywhere: only the four notations of
    ``spec/node-protocol.md §2.2`` count, so that an L2 name can never be taken for a uuid.
    """
    if _CANONICAL.match(text):
        return NodeUuid(text)
    if _NOTATIONS.match(text):
        # The library knows `urn:uuid:` in lower case only.
        return NodeUuid(str(uuid.UUID(text.lower())))
    return None


def new_uuid() -> NodeUuid:
    """A fresh random (version 4) uuid as canonical text."""
    return NodeUuid(str(uuid.uuid4()))
