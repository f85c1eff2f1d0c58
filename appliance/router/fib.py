"""The forwarding table: which entry decides about a destination.

Order of entries (``spec/routing-and-regions.md §3.5``): longer specificity, then EXACT > PREFIX > GLOB, then
distance local 0 < static 1 < learned 2, lower priority, lower metric, older. A connected node's full name is
EXACT and as long as any match can be, so a dictionary of names answers first and only a miss walks the
(sorted once, on change) patterns. ``static_override`` puts static routes before live nodes, as the
reference's documents promise and its code does not. Sans-IO; changed only between frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from ..wire.names import (
    MAX_NAME_BYTES,
    MatchKind,
    base_name,
    glob_matcher,
    is_system_name,
    matcher,
    specificity,
)
from ..wire.routes import Route, RouteAction, VpnRule
from .connection import Connection

__all__ = ["Decision", "Fib", "Hop", "LearnedRoute", "RemoteNode", "allowed", "assign_vpn"]


class LearnedRoute(Route, frozen=True, kw_only=True):
    """A route that hive ``learned_from`` advertised at ``updated_at``."""

    learned_from: str
    updated_at: int = 0


class RemoteNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of another hive, as that hive advertised it."""

    uuid: str
    name: str
    vpn_id: int
    hive: str
    updated_at: int = 0


class Hop(Enum):
    """Kinds of decision."""

    LOCAL = "local"
    HIVE = "hive"
    DROP = "drop"
    BLOCKED = "blocked"
    NONE = "none"


class Decision(NamedTuple):
    """Where a frame goes. ``why`` is for people (``fluxbee`` explain)."""

    hop: Hop
    connection: Connection | None = None
    hive: str | None = None
    why: str = ""


_NOWHERE = Decision(Hop.NONE, why="no entry matches")
_Entry = Connection | RemoteNode | Route
_SortKey = tuple[int, int, int, int, int, int]
_HITS_CACHED = 1024


def assign_vpn(name: str, rules: Sequence[tuple[Callable[[str], bool], int]]) -> int:
    """VPN of ``name``: 0 for the appliance's own names, else the first matching rule, else 0 (§3.10)."""
    if is_system_name(name):
        return 0
    for matches, vpn_id in rules:
        if matches(name):
            return vpn_id
    return 0


def allowed(source: Connection, name: str, vpn: int) -> bool:
    """Whether ``source`` may reach a node: one end is the appliance's own, or both are in one VPN.

    ``system`` + ``scope: global`` bypasses VPNs only for SY sources (``design.md §5``), and those pass here.
    """
    return source.system or source.vpn == vpn or is_system_name(name)


class Fib:
    """Tables and lookups. ``generation`` moves with every change; senders' route caches hang on it."""

    def __init__(self, *, static_override: bool = False) -> None:
        self.generation = 0
        self.static_override = static_override
        self.by_uuid: dict[str, Connection] = {}
        self.by_name: dict[str, list[Connection]] = {}
        self.remote_by_uuid: dict[str, RemoteNode] = {}
        self._remote_by_name: dict[str, list[RemoteNode]] = {}
        self._exact: dict[str, list[Route]] = {}
        self._patterns: list[tuple[Callable[[str], bool], Route]] = []
        self._static: list[tuple[Callable[[str], bool], Route]] = []
        self._vpn_rules: list[tuple[Callable[[str], bool], int]] = []
        self._configured: tuple[Route, ...] = ()
        self._learned: tuple[LearnedRoute, ...] = ()
        # Walking all entries for `base@*` takes half a millisecond; the hit is the same for every sender.
        self._any_hive_hits: dict[str, _Entry | None] = {}

    # --- changes ---------------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """A node registered. Among equal names the oldest serves, the others stand by."""
        self.by_uuid[connection.uuid] = connection
        self.by_name.setdefault(connection.name, []).append(connection)
        self._changed()

    def remove(self, connection: Connection) -> None:
        """A node left; only its own registration goes."""
        if self.by_uuid.get(connection.uuid) is connection:
            del self.by_uuid[connection.uuid]
        same = self.by_name.get(connection.name)
        if same and connection in same:
            same.remove(connection)
            if not same:
                del self.by_name[connection.name]
        self._changed()

    def configure(self, routes: Iterable[Route], vpns: Iterable[VpnRule]) -> list[Connection]:
        """Replace static routes and VPN rules; return the connections whose VPN changed."""
        self._configured = tuple(routes)
        ordered = sorted(vpns, key=lambda rule: rule.priority)  # stable: list order among equals
        self._vpn_rules = [(matcher(rule.pattern, rule.match_kind), rule.vpn_id) for rule in ordered]
        moved: list[Connection] = []
        for connection in self.by_uuid.values():
            vpn = self.vpn_of(connection.name)
            if vpn != connection.vpn:
                connection.vpn = vpn
                moved.append(connection)
        self._compile()
        return moved

    def learn(self, nodes: Iterable[RemoteNode], routes: Iterable[LearnedRoute]) -> None:
        """Replace what other hives advertise. Routes that name this hive must be left out by the caller."""
        self.remote_by_uuid = {node.uuid: node for node in nodes}
        self._remote_by_name = {}
        for node in sorted(self.remote_by_uuid.values(), key=lambda node: node.updated_at):
            self._remote_by_name.setdefault(node.name, []).append(node)
        self._learned = tuple(routes)
        self._compile()

    def vpn_of(self, name: str) -> int:
        """VPN that ``name`` belongs to under the current rules."""
        return assign_vpn(name, self._vpn_rules)

    def _changed(self) -> None:
        self.generation += 1
        self._any_hive_hits.clear()

    def _compile(self) -> None:
        routes = sorted((*self._configured, *self._learned), key=_route_key)
        self._exact = {}
        for route in routes:
            if route.match_kind is MatchKind.EXACT:
                self._exact.setdefault(route.prefix, []).append(route)
        tests = [(matcher(route.prefix, route.match_kind), route) for route in routes]
        self._patterns = [(test, route) for test, route in tests if route.match_kind is not MatchKind.EXACT]
        self._static = [(test, route) for test, route in tests if not isinstance(route, LearnedRoute)]
        self._changed()

    # --- lookups ---------------------------------------------------------------------------------------

    def by_destination_uuid(self, source: Connection, uuid: str) -> Decision:
        """§3.4: local node, else node of another hive; static routes do not apply."""
        local = self.by_uuid.get(uuid)
        if local is not None:
            return _to_node(source, local)
        remote = self.remote_by_uuid.get(uuid)
        return _to_node(source, remote) if remote is not None else _NOWHERE

    def by_destination_name(self, source: Connection, name: str) -> Decision:
        """§3.5 and, for ``base@*``, §3.6."""
        if not name.endswith("@*"):
            return self._lookup(source, name)
        base = name[:-2]
        own_hive = source.name.partition("@")[2]
        near = self._lookup(source, f"{base}@{own_hive}")
        return self._any_hive(source, base) if near.hop is Hop.NONE else near

    def _lookup(self, source: Connection, name: str) -> Decision:
        if self.static_override:
            decision = _first_route(test_route for test, test_route in self._static if test(name))
            if decision is not None:
                return decision
        local = self.by_name.get(name)
        if local:
            return _to_node(source, local[0])
        exact = self._exact.get(name, ())
        decision = _first_route(route for route in exact if not isinstance(route, LearnedRoute))
        if decision is not None:
            return decision
        remote = self._remote_by_name.get(name)
        if remote:
            return _to_node(source, remote[0])
        decision = _first_route(route for route in exact if isinstance(route, LearnedRoute))
        if decision is not None:
            return decision
        return _first_route(route for test, route in self._patterns if test(name)) or _NOWHERE

    def _any_hive(self, source: Connection, base: str) -> Decision:
        """What the first entry whose base is ``base`` (a glob with ``*``), or that matches it, decides."""
        hits = self._any_hive_hits
        if base not in hits:
            if len(hits) >= _HITS_CACHED:
                hits.clear()
            entry = self._first_for_base(base)
            if len(base) <= MAX_NAME_BYTES:
                hits[base] = entry
        else:
            entry = hits[base]
        if isinstance(entry, Route):
            return _through(entry) or _NOWHERE
        return _to_node(source, entry) if entry is not None else _NOWHERE

    def _first_for_base(self, base: str) -> _Entry | None:
        fits = glob_matcher(base)
        serving = [same[0] for same in self.by_name.values() if fits(base_name(same[0].name))]
        far = [node for node in self.remote_by_uuid.values() if fits(base_name(node.name))]
        entries: list[tuple[_SortKey, _Entry]] = [
            *((_node_key(near.name, 0, near.connected_at_ms), near) for near in serving),
            *((_node_key(node.name, 2, node.updated_at), node) for node in far),
            *(
                (_route_key(route), route)
                for route in (*self._configured, *self._learned)
                if matcher(route.prefix, route.match_kind)(f"{base}@*") and _through(route) is not None
            ),
        ]
        return min(entries, key=lambda pair: pair[0])[1] if entries else None


def _node_key(name: str, distance: int, since: int) -> _SortKey:
    return (-len(name.encode()), -MatchKind.EXACT.rank, distance, 0, 0, since)


def _route_key(route: Route) -> _SortKey:
    # Static routes are all as old as the last change: list order decides among equals.
    distance, since = (2, route.updated_at) if isinstance(route, LearnedRoute) else (1, 0)
    return (
        -specificity(route.prefix, route.match_kind),
        -route.match_kind.rank,
        distance,
        route.priority,
        route.metric,
        since,
    )


def _to_node(source: Connection, node: Connection | RemoteNode) -> Decision:
    vpn = node.vpn if isinstance(node, Connection) else node.vpn_id
    if not allowed(source, node.name, vpn):
        return Decision(Hop.BLOCKED, why=f"{node.name} is in VPN {vpn}, {source.name} in VPN {source.vpn}")
    if isinstance(node, Connection):
        return Decision(Hop.LOCAL, connection=node, why=f"connected here as {node.name}")
    return Decision(Hop.HIVE, hive=node.hive, why=f"advertised by hive {node.hive}")


def _through(route: Route) -> Decision | None:
    """What a matching route decides; ``None`` when it is a FORWARD without a hive and is skipped."""
    told = f"{route.match_kind.value} route {route.prefix!r}"
    if route.action is RouteAction.DROP:
        return Decision(Hop.DROP, why=f"dropped by {told}")
    hive = route.next_hop_hive or (route.learned_from if isinstance(route, LearnedRoute) else None)
    return Decision(Hop.HIVE, hive=hive, why=f"{told} forwards to {hive}") if hive else None


def _first_route(routes: Iterator[Route]) -> Decision | None:
    return next((decision for route in routes if (decision := _through(route)) is not None), None)
