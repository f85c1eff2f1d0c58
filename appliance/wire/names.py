"""L2 names (``TYPE.label@hive``), patterns over them, and the FNV-1a hash that spreads nodes over routers.

The router takes a name as it comes (``spec/node-protocol.md §4``): it appends the hive when there is no
``@`` and checks the length, nothing more. :func:`check_local_name` is the stricter grammar for places where
a person or a program *creates* a name. Sans-IO.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from .errors import Invalid

__all__ = [
    "MAX_NAME_BYTES",
    "MatchKind",
    "base_name",
    "check_hive_id",
    "check_local_name",
    "fnv1a64",
    "full_name",
    "glob_matcher",
    "hive_of",
    "is_system_name",
    "matcher",
    "specificity",
]

MAX_NAME_BYTES = 256
"""Longest full L2 name in UTF-8 bytes (``spec/routing-and-regions.md §8``)."""

_HIVE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_LOCAL = re.compile(r"(?:AI|WF|IO|SY|RT)(?:\.[A-Za-z0-9_-]+)+\Z")


class MatchKind(StrEnum):
    """How a pattern of a route or VPN rule is compared with a full name (``routing-and-regions §3.5``)."""

    EXACT = "EXACT"
    PREFIX = "PREFIX"
    GLOB = "GLOB"

    @property
    def rank(self) -> int:
        """Order among equal specificities: EXACT 3, PREFIX 2, GLOB 1; the higher wins."""
        return _RANK[self]


_RANK = {MatchKind.EXACT: 3, MatchKind.PREFIX: 2, MatchKind.GLOB: 1}


def full_name(name: str, hive: str) -> str:
    """``name`` with ``@hive`` appended when it has no ``@``."""
    return name if "@" in name else f"{name}@{hive}"


def base_name(name: str) -> str:
    """The part before the first ``@``."""
    return name.partition("@")[0]


def hive_of(name: str) -> str:
    """The part after the first ``@``; empty without one (``routing-and-regions §3.6``)."""
    return name.partition("@")[2]


def is_system_name(name: str) -> bool:
    """Whether the name belongs to the appliance: ``SY.`` or ``RT.``; in VPN 0, and crosses VPNs."""
    return name.startswith(("SY.", "RT."))


def check_hive_id(hive: str, field: str = "hive_id") -> str:
    """Return ``hive`` when it fits ``[A-Za-z0-9_-]{1,64}``.

    Raises:
        Invalid: it does not; ``field`` is named.
    """
    if not _HIVE.match(hive):
        raise Invalid(
            f"{field}: {hive!r} is not a hive id",
            field=field,
            remedy="Use 1 to 64 letters, digits, '_' or '-'.",
        )
    return hive


def check_local_name(name: str, field: str = "name") -> str:
    """Return ``name`` when its local part fits ``TYPE.label(.label)*`` and its hive, if any, is one.

    Raises:
        Invalid: it does not; ``field`` is named.
    """
    local, at, hive = name.partition("@")
    if not _LOCAL.match(local):
        raise Invalid(
            f"{field}: {name!r} is not a node name",
            field=field,
            remedy="Use TYPE.label with TYPE one of AI, IO, WF, SY, RT, for example AI.echo or AI.echo@hive.",
        )
    if at:
        check_hive_id(hive, field)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise Invalid(f"{field}: a name has at most {MAX_NAME_BYTES} bytes", field=field)
    return name


def fnv1a64(text: str) -> int:
    """FNV-1a, 64 bit, over the UTF-8 bytes (``spec/node-protocol.md §1.2``)."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def _strip_prefix_pattern(pattern: str) -> str:
    while pattern.endswith(".*"):
        pattern = pattern[:-2]
    return pattern


def specificity(pattern: str, kind: MatchKind) -> int:
    """Length that orders patterns, in bytes: the longer is tried first (``routing-and-regions §3.5``)."""
    if kind is MatchKind.EXACT:
        return len(pattern.encode())
    if kind is MatchKind.PREFIX:
        return len(_strip_prefix_pattern(pattern).encode())
    return len(pattern.replace("*", "").encode())


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """A test for ``pattern`` where ``*`` is any run of characters, including ``.`` and ``@``.

    Greedy segment search, linear in the name for each ``*``: a regular expression with several ``.*`` would
    backtrack exponentially on a hostile pattern.
    """
    parts = pattern.split("*")
    if len(parts) == 1:
        return pattern.__eq__
    head, tail, middle = parts[0], parts[-1], [part for part in parts[1:-1] if part]

    def matches(name: str) -> bool:
        if len(name) < len(head) + len(tail) or not name.startswith(head) or not name.endswith(tail):
            return False
        position, end = len(head), len(name) - len(tail)
        for part in middle:
            position = name.find(part, position, end)
            if position < 0:
                return False
            position += len(part)
        return True

    return matches


def matcher(pattern: str, kind: MatchKind) -> Callable[[str], bool]:
    """A test of full names for one pattern. PREFIX is starts-with after dropping every trailing ``.*``."""
    if kind is MatchKind.EXACT:
        return pattern.__eq__
    if kind is MatchKind.GLOB:
        return glob_matcher(pattern)
    prefix = _strip_prefix_pattern(pattern)

    def starts(name: str) -> bool:
        return name.startswith(prefix)

    return starts
