"""The route document and the rules of changing it. Sans-IO: a change is a new document or an error.

Every way in — admin actions, CONFIG_CHANGED, CONFIG_SET, the operator's file — validates the whole result
first; nothing half-applied exists (``spec/routing-and-regions.md §4.2`` FIX). There is one version number,
the document's; it only grows.
"""

from __future__ import annotations

import msgspec

from appliance.wire.errors import Conflict, Invalid, NotFound
from appliance.wire.routes import RouteEntry, VpnEntry, parse_routes, parse_vpns

__all__ = [
    "MAX_VERSION",
    "MUTATING",
    "RouteBook",
    "RouteLimits",
    "add_route",
    "add_vpn",
    "delete_route",
    "delete_vpn",
    "replace",
]

MAX_VERSION = 2**63 - 1
"""Every JSON, YAML and CBOR library agrees up to here."""

MUTATING = frozenset({"add_route", "add_vpn", "delete_route", "delete_vpn"})
"""Admin actions that change the document."""


class RouteLimits(msgspec.Struct, frozen=True):
    """Most entries per hive (``routing-and-regions §8``)."""

    routes: int = 256
    vpns: int = 256


class RouteBook(msgspec.Struct, frozen=True, kw_only=True):
    """Routes and VPN rules of a hive at one version; version 1 with empty lists is where a hive begins."""

    version: int = 1
    updated_at_ms: int = 0
    routes: tuple[RouteEntry, ...] = ()
    vpns: tuple[VpnEntry, ...] = ()

    def same_lists(self, other: RouteBook) -> bool:
        """Whether only version or time differ."""
        return self.routes == other.routes and self.vpns == other.vpns


def _next(book: RouteBook, limits: RouteLimits, now_ms: int, **lists: object) -> RouteBook:
    if book.version >= MAX_VERSION:
        raise Conflict(
            f"version {book.version} has no successor",
            code="VERSION_MISMATCH",
            field="version",
            remedy="Set a smaller version in sy-config-routes.yaml, remove the journal, and restart.",
        )
    fresh = msgspec.structs.replace(book, version=book.version + 1, updated_at_ms=now_ms, **lists)
    for field, count, most in (
        ("routes", len(fresh.routes), limits.routes),
        ("vpns", len(fresh.vpns), limits.vpns),
    ):
        if count > most:
            raise Invalid(f"{field}: {count} entries, at most {most}", field=field)
    return fresh


def add_route(
    book: RouteBook, value: object, limits: RouteLimits, now_ms: int
) -> tuple[RouteBook, RouteEntry]:
    """Append one route.

    Raises:
        Invalid: the document is wrong, or the list is full.
        Conflict: ``DUPLICATE_PREFIX``.
    """
    (route,) = parse_routes([value], "route")
    if any(known.prefix == route.prefix for known in book.routes):
        raise Conflict(f"a route for {route.prefix!r} exists", code="DUPLICATE_PREFIX", field="prefix")
    return _next(book, limits, now_ms, routes=(*book.routes, route)), route


def add_vpn(book: RouteBook, value: object, limits: RouteLimits, now_ms: int) -> tuple[RouteBook, VpnEntry]:
    """Append one VPN rule; errors as :func:`add_route`, with ``DUPLICATE_PATTERN``."""
    (rule,) = parse_vpns([value], "vpn")
    if any(known.pattern == rule.pattern for known in book.vpns):
        raise Conflict(f"a rule for {rule.pattern!r} exists", code="DUPLICATE_PATTERN", field="pattern")
    return _next(book, limits, now_ms, vpns=(*book.vpns, rule)), rule


def delete_route(book: RouteBook, prefix: object, limits: RouteLimits, now_ms: int) -> RouteBook:
    """Remove the route for ``prefix``; ``NotFound`` when there is none."""
    left = tuple(route for route in book.routes if route.prefix != prefix)
    if len(left) == len(book.routes):
        raise NotFound(f"no route for {prefix!r}", field="prefix")
    return _next(book, limits, now_ms, routes=left)


def delete_vpn(book: RouteBook, pattern: object, limits: RouteLimits, now_ms: int) -> RouteBook:
    """Remove the rule for ``pattern``; ``NotFound`` when there is none."""
    left = tuple(rule for rule in book.vpns if rule.pattern != pattern)
    if len(left) == len(book.vpns):
        raise NotFound(f"no rule for {pattern!r}", field="pattern")
    return _next(book, limits, now_ms, vpns=left)


def replace(
    book: RouteBook,
    *,
    routes: object = None,
    vpns: object = None,
    version: int = 0,
    limits: RouteLimits,
    now_ms: int,
) -> RouteBook:
    """Replace one list or both; ``None`` leaves a list as it is.

    Args:
        book: what is in force.
        routes: list of route documents.
        vpns: list of VPN rule documents.
        version: version of the result; 0 means one more than now.
        limits: most entries.
        now_ms: wall clock, for display.

    Returns:
        ``book`` itself when the lists would not change.

    Raises:
        Invalid: an entry is wrong, or ``version`` is above ``MAX_VERSION``.
        Conflict: ``VERSION_MISMATCH``; ``version`` is not above the one in force.
    """
    if version > MAX_VERSION:
        raise Invalid(f"version: {version} is above {MAX_VERSION}", field="version")
    lists: dict[str, object] = {}
    if routes is not None:
        lists["routes"] = parse_routes(routes)
    if vpns is not None:
        lists["vpns"] = parse_vpns(vpns)
    fresh = _next(book, limits, now_ms, **lists)
    if fresh.same_lists(book):
        return book
    if version and version <= book.version:
        raise Conflict(
            f"version {version} is not above {book.version}, which is in force",
            code="VERSION_MISMATCH",
            field="version",
        )
    return msgspec.structs.replace(fresh, version=version) if version else fresh
