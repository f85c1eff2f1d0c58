"""Static routes and VPN rules: as somebody wrote them, and as they are in force.

Files, journals and answers hold entries, in which what was left out stays left out
(``spec/admin-api.md §B.4``); regions and the router hold the whole thing. Field limits are checked here,
once, so that nothing half-valid ever enters a journal (``spec/routing-and-regions.md §2.3, §4.1``). Sans-IO.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

import msgspec

from .errors import Invalid
from .names import MAX_NAME_BYTES, MatchKind, check_hive_id

__all__ = [
    "MAX_ROUTES",
    "MAX_VPN_RULES",
    "Route",
    "RouteAction",
    "RouteEntry",
    "VpnEntry",
    "VpnRule",
    "parse_routes",
    "parse_vpns",
]

MAX_ROUTES = 256
MAX_VPN_RULES = 256
"""Entries per hive (``routing-and-regions §8``)."""

_U32 = 2**32 - 1
_U16 = 2**16 - 1
T = TypeVar("T", "RouteEntry", "VpnEntry")


class RouteAction(Enum):
    """What a route does with a frame."""

    FORWARD = "FORWARD"
    DROP = "DROP"


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A static route. ``FORWARD`` without ``next_hop_hive`` is legal and skipped when routing."""

    prefix: str
    match_kind: MatchKind = MatchKind.PREFIX
    action: RouteAction
    next_hop_hive: str | None = None
    metric: int = 0
    priority: int = 100


class VpnRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names that match ``pattern`` are in zone ``vpn_id``; the lowest ``priority`` number decides first."""

    pattern: str
    match_kind: MatchKind = MatchKind.PREFIX
    vpn_id: int
    priority: int = 100


class RouteEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A static route as it was written; JSON leaves ``match_kind`` out and shows the others as null."""

    prefix: str
    match_kind: MatchKind | msgspec.UnsetType = msgspec.UNSET
    action: RouteAction
    next_hop_hive: str | None = None
    metric: int | None = None
    priority: int | None = None

    def in_force(self) -> Route:
        """With the defaults for what was left out."""
        return Route(**_given(self))


class VpnEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A VPN rule as it was written."""

    pattern: str
    match_kind: MatchKind | msgspec.UnsetType = msgspec.UNSET
    vpn_id: int
    priority: int | None = None

    def in_force(self) -> VpnRule:
        """With the defaults for what was left out."""
        return VpnRule(**_given(self))


def _given(entry: msgspec.Struct) -> dict[str, Any]:
    fields = msgspec.structs.asdict(entry)
    return {key: value for key, value in fields.items() if value is not None and value is not msgspec.UNSET}


def _bounded(value: int | None, top: int, field: str) -> None:
    if value is not None and not 0 <= value <= top:
        raise Invalid(f"{field}: {value} is outside 0 to {top}", field=field)


def _pattern(text: str, field: str) -> None:
    if not text:
        raise Invalid(f"{field}: must not be empty", field=field)
    if len(text.encode()) > MAX_NAME_BYTES:
        raise Invalid(f"{field}: at most {MAX_NAME_BYTES} bytes", field=field)


def _check_route(route: RouteEntry, field: str) -> None:
    _pattern(route.prefix, f"{field}.prefix")
    _bounded(route.metric, _U32, f"{field}.metric")
    _bounded(route.priority, _U16, f"{field}.priority")
    if route.next_hop_hive:
        check_hive_id(route.next_hop_hive, f"{field}.next_hop_hive")


def _check_vpn(rule: VpnEntry, field: str) -> None:
    _pattern(rule.pattern, f"{field}.pattern")
    _bounded(rule.vpn_id, _U32, f"{field}.vpn_id")
    _bounded(rule.priority, _U16, f"{field}.priority")


def _convert(value: object, shape: type[T], field: str) -> T:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise Invalid(f"{field}: {error}", field=field) from error


def parse_routes(values: object, field: str = "routes") -> tuple[RouteEntry, ...]:
    """Validate a list of route documents (plain JSON values).

    Raises:
        Invalid: names the entry and the key; nothing is taken over then.
    """
    routes = tuple(
        _convert(value, RouteEntry, f"{field}[{i}]") for i, value in enumerate(_items(values, field))
    )
    for i, route in enumerate(routes):
        _check_route(route, f"{field}[{i}]")
    if len(routes) > MAX_ROUTES:
        raise Invalid(f"{field}: {len(routes)} entries, at most {MAX_ROUTES}", field=field)
    return routes


def parse_vpns(values: object, field: str = "vpns") -> tuple[VpnEntry, ...]:
    """Validate a list of VPN rule documents (plain JSON values).

    Raises:
        Invalid: names the entry and the key; nothing is taken over then.
    """
    rules = tuple(_convert(value, VpnEntry, f"{field}[{i}]") for i, value in enumerate(_items(values, field)))
    for i, rule in enumerate(rules):
        _check_vpn(rule, f"{field}[{i}]")
    if len(rules) > MAX_VPN_RULES:
        raise Invalid(f"{field}: {len(rules)} entries, at most {MAX_VPN_RULES}", field=field)
    return rules


def _items(values: object, field: str) -> list[object]:
    if not isinstance(values, list):
        raise Invalid(f"{field}: expected a list", field=field)
    return values
