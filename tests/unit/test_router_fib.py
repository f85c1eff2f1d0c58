from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.router.connection import Connection, Peer
from appliance.router.fib import Decision, Fib, Hop, LearnedRoute, RemoteNode, allowed, assign_vpn
from appliance.router.outbox import Limits
from appliance.wire.names import MatchKind, base_name, is_system_name, matcher, specificity
from appliance.wire.routes import Route, RouteAction, VpnRule
from tests.router_kit import numbered_uuid, routes_in_force, vpns_in_force

serial = itertools.count(1)


def node(fib: Fib, name: str, *, at_ms: int | None = None) -> Connection:
    """A connected node, as the greeter registers it."""
    number = next(serial)
    connection = Connection(number, Peer(), Limits(), 0.0)
    connection.identify(numbered_uuid(number), name)
    connection.system = is_system_name(name)
    connection.vpn = fib.vpn_of(name)
    connection.connected_at_ms = number if at_ms is None else at_ms
    fib.add(connection)
    return connection


def remote(name: str, vpn: int = 0, at: int = 0, hive: str | None = None) -> RemoteNode:
    return RemoteNode(
        uuid=numbered_uuid(next(serial)),
        name=name,
        vpn_id=vpn,
        hive=hive or name.partition("@")[2],
        updated_at=at,
    )


def learned(
    prefix: str, kind: str = "PREFIX", *, hive: str = "south", at: int = 0, **more: Any
) -> LearnedRoute:
    values = {"action": RouteAction.FORWARD, "next_hop_hive": None} | more
    return LearnedRoute(prefix=prefix, match_kind=MatchKind(kind), learned_from=hive, updated_at=at, **values)


def table(*routes: dict[str, Any], static_override: bool = False) -> tuple[Fib, Connection]:
    """A table with these static routes and one asking node."""
    fib = Fib(static_override=static_override)
    fib.configure(routes_in_force(list(routes)), ())
    return fib, node(fib, "AI.me@north")


def forward(prefix: str, hive: str | None = "south", kind: str = "PREFIX", **more: Any) -> dict[str, Any]:
    return {"prefix": prefix, "match_kind": kind, "action": "FORWARD", "next_hop_hive": hive, **more}


def drop(prefix: str, kind: str = "PREFIX", **more: Any) -> dict[str, Any]:
    return {"prefix": prefix, "match_kind": kind, "action": "DROP", **more}


def where(decision: Decision) -> object:
    return decision.connection or decision.hive or decision.hop


# --- names and static routes --------------------------------------------------------------------------------


def test_a_connected_node_beats_every_route() -> None:
    fib, me = table(drop("AI.a@north", "EXACT"), drop("AI.a@north"), drop("*", "GLOB"), forward("AI.*"))
    a = node(fib, "AI.a@north")
    assert where(fib.by_destination_name(me, "AI.a@north")) is a
    assert where(fib.by_destination_uuid(me, a.uuid)) is a


def test_with_static_override_a_route_beats_a_connected_node_but_not_its_uuid() -> None:
    fib, me = table(drop("AI.a@north", "EXACT"), forward("AI.b.*"), static_override=True)
    a, _ = node(fib, "AI.a@north"), node(fib, "AI.b@north")
    assert where(fib.by_destination_name(me, "AI.a@north")) is Hop.DROP
    assert where(fib.by_destination_name(me, "AI.b@north")) == "south"
    assert where(fib.by_destination_name(me, "AI.me@north")) is me
    assert where(fib.by_destination_uuid(me, a.uuid)) is a


@pytest.mark.parametrize(
    ("routes", "winner"),
    [
        ([forward("AI.", "short"), forward("AI.x", "long")], "long"),
        ([forward("AI.x@north", "prefix"), forward("AI.x@north", "exact", "EXACT")], "exact"),
        ([forward("AI.x*@north", "glob", "GLOB"), forward("AI.x@north", "prefix")], "prefix"),
        ([forward("AI.x", "later", priority=100), forward("AI.x", "sooner", priority=5)], "sooner"),
        ([forward("AI.x", "dear", metric=9), forward("AI.x", "cheap", metric=1)], "cheap"),
        ([forward("AI.x", "first"), forward("AI.x", "second")], "first"),
        ([forward("AI.x.*", "dotted"), forward("AI.", "plain")], "dotted"),
        ([forward("AI.x@north", None, "EXACT"), forward("AI.", "next")], "next"),
        ([forward("AI.x", None), drop("AI.")], Hop.DROP),
        ([forward("AI.x", None)], Hop.NONE),
        ([forward("*x*", "stars", "GLOB")], "stars"),
        ([forward("AI.x@north", "glob without star", "GLOB")], "glob without star"),
        ([forward("AI.y", "other")], Hop.NONE),
        ([forward(".*", "everything")], "everything"),
    ],
)
def test_the_order_of_routes(routes: list[dict[str, Any]], winner: object) -> None:
    routes = [
        route | {"next_hop_hive": (route.get("next_hop_hive") or "").replace(" ", "-") or None}
        for route in routes
    ]
    fib, me = table(*routes)
    if isinstance(winner, str):
        winner = winner.replace(" ", "-")
    assert where(fib.by_destination_name(me, "AI.x@north")) == winner


def test_a_bare_name_is_not_completed() -> None:
    fib, me = table()
    node(fib, "AI.a@north")
    assert where(fib.by_destination_name(me, "AI.a")) is Hop.NONE


def test_routes_do_not_apply_to_uuids() -> None:
    fib, me = table(drop(".*"))
    assert where(fib.by_destination_uuid(me, numbered_uuid(99_999))) is Hop.NONE


# --- other hives --------------------------------------------------------------------------------------------


def test_order_of_local_static_and_learned_entries() -> None:
    name = "AI.c@south"
    fib, me = table()
    far = remote(name, at=5)
    fib.learn([far], [learned(name, "EXACT", hive="east"), learned("AI.", hive="west")])
    assert where(fib.by_destination_name(me, name)) == "south"
    fib.learn([], [learned(name, "EXACT", hive="east"), learned("AI.", hive="west")])
    assert where(fib.by_destination_name(me, name)) == "east"
    fib.configure(routes_in_force([forward(name, "static-prefix")]), ())
    assert where(fib.by_destination_name(me, name)) == "east"
    fib.configure(routes_in_force([forward(name, "static-exact", "EXACT")]), ())
    fib.learn([far], [learned(name, "EXACT", hive="east")])
    assert where(fib.by_destination_name(me, name)) == "static-exact"
    here = node(fib, name)
    assert where(fib.by_destination_name(me, name)) is here


def test_among_equal_remote_names_the_oldest_wins() -> None:
    fib, me = table()
    fib.learn([remote("AI.c@x", at=9, hive="late"), remote("AI.c@x", at=3, hive="early")], [])
    assert where(fib.by_destination_name(me, "AI.c@x")) == "early"


def test_a_learned_route_leads_to_its_hive_or_to_the_one_it_names() -> None:
    fib, me = table()
    fib.learn([], [learned("AI.via", hive="west"), learned("AI.hop", hive="west", next_hop_hive="east")])
    assert where(fib.by_destination_name(me, "AI.via@z")) == "west"
    assert where(fib.by_destination_name(me, "AI.hop@z")) == "east"


def test_static_routes_go_before_equally_specific_learned_ones() -> None:
    fib, me = table(forward("AI.x", "static", metric=99, priority=65_535))
    fib.learn([], [learned("AI.x", hive="learned", priority=0)])
    assert where(fib.by_destination_name(me, "AI.x@z")) == "static"
    fib.learn([], [learned("AI.x@", hive="learned")])
    assert where(fib.by_destination_name(me, "AI.x@z")) == "learned"


def test_a_remote_node_is_reached_by_its_uuid_under_its_vpn() -> None:
    fib, me = table()
    far, other = remote("AI.c@south"), remote("AI.d@south", vpn=7)
    fib.learn([far, other], [])
    assert where(fib.by_destination_uuid(me, far.uuid)) == "south"
    assert where(fib.by_destination_uuid(me, other.uuid)) is Hop.BLOCKED
    assert where(fib.by_destination_name(me, "AI.d@south")) is Hop.BLOCKED


def test_a_local_uuid_goes_before_a_remote_one() -> None:
    fib, me = table()
    far = remote("AI.c@south")
    fib.learn([RemoteNode(uuid=me.uuid, name="AI.c@south", vpn_id=0, hive="south"), far], [])
    assert where(fib.by_destination_uuid(me, me.uuid)) is me


# --- base@* -------------------------------------------------------------------------------------------------


def test_the_own_hive_is_tried_first() -> None:
    fib, me = table()
    near = node(fib, "AI.a@north")
    fib.learn([remote("AI.a@a-hive-with-a-long-name")], [])
    assert where(fib.by_destination_name(me, "AI.a@*")) is near


def test_then_any_hive() -> None:
    fib, me = table()
    fib.learn([remote("AI.c@south"), remote("AI.cc@southwest")], [])
    assert where(fib.by_destination_name(me, "AI.c@*")) == "south"
    assert where(fib.by_destination_name(me, "AI.x@*")) is Hop.NONE


def test_a_globbed_base_is_anycast_to_the_longest_name() -> None:
    fib, me = table()
    node(fib, "AI.a@north")
    longest = node(fib, "AI.abc@north")
    fib.learn([remote("AI.ab@east")], [])
    assert where(fib.by_destination_name(me, "AI.*@*")) is longest


def test_one_blocked_hit_ends_the_search() -> None:
    fib, me = table()
    fib.configure((), vpns_in_force([{"pattern": "AI.abc", "vpn_id": 7}]))
    node(fib, "AI.abc@north")
    node(fib, "AI.a@north")
    assert where(fib.by_destination_name(me, "AI.a*@*")) is Hop.BLOCKED
    assert where(fib.by_destination_name(me, "AI.abc@*")) is Hop.BLOCKED


def test_routes_match_the_wildcard_as_text() -> None:
    fib, me = table(forward("AI.x@*", "glob", "GLOB"), drop("AI.y@*", "EXACT"), forward("AI.z", None))
    assert where(fib.by_destination_name(me, "AI.x@*")) == "glob"
    assert where(fib.by_destination_name(me, "AI.y@*")) is Hop.DROP
    assert where(fib.by_destination_name(me, "AI.z@*")) is Hop.NONE


def test_the_hive_of_a_name_is_what_follows_its_first_at_sign() -> None:
    fib, _ = table()
    mail = node(fib, "IO.mail.a@b.c@north")
    there, here = node(fib, "AI.x@b.c@north"), node(fib, "AI.x@north")
    assert where(fib.by_destination_name(mail, "AI.x@*")) is there
    assert where(fib.by_destination_name(here, "AI.x@*")) is here


def test_only_the_serving_one_of_equal_names_is_picked() -> None:
    fib, me = table()
    first = node(fib, "AI.a@north", at_ms=9)
    node(fib, "AI.a@north", at_ms=1)
    assert where(fib.by_destination_name(me, "AI.a*@*")) is first


def test_a_wildcard_is_looked_for_again_after_every_change_and_for_every_sender() -> None:
    fib, me = table()
    assert where(fib.by_destination_name(me, "AI.a@*")) is Hop.NONE
    fib.learn([remote("AI.a@south", vpn=7)], [])
    assert where(fib.by_destination_name(me, "AI.a@*")) is Hop.BLOCKED
    assert where(fib.by_destination_name(node(fib, "SY.a@north"), "AI.a@*")) == "south"
    fib.configure((), vpns_in_force([{"pattern": "AI.me", "vpn_id": 7}]))
    assert where(fib.by_destination_name(me, "AI.a@*")) == "south"
    near = node(fib, "AI.a@north")
    assert where(fib.by_destination_name(me, "AI.a@*")) is Hop.BLOCKED
    fib.remove(near)
    assert where(fib.by_destination_name(me, "AI.a@*")) == "south"


def test_remembered_wildcards_are_bounded() -> None:
    fib, me = table()
    for number in range(3000):
        fib.by_destination_name(me, f"AI.{number}@*")
        fib.by_destination_name(me, "AI." + "*" * number * 10 + "@*")
        assert len(fib._any_hive_hits) <= 1024
    assert max(map(len, fib._any_hive_hits)) <= 256


# --- vpn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "vpn"),
    [
        ("AI.b@h", 7),
        ("AI.bc@h", 7),
        ("AI.c@h", 5),
        ("AI.d@h", 0),
        ("SY.b@h", 0),
        ("RT.b@h", 0),
        ("IO.z@h", 3),
    ],
)
def test_the_lowest_priority_number_decides_and_then_the_order(name: str, vpn: int) -> None:
    fib = Fib()
    fib.configure(
        (),
        vpns_in_force(
            [
                {"pattern": "AI.b", "vpn_id": 8, "priority": 200},
                {"pattern": "AI.b", "vpn_id": 7, "priority": 50},
                {"pattern": "AI.b", "vpn_id": 6, "priority": 50},
                {"pattern": "AI.c@h", "match_kind": "EXACT", "vpn_id": 5},
                {"pattern": "SY.*", "vpn_id": 4},
                {"pattern": "*z*", "match_kind": "GLOB", "vpn_id": 3},
            ]
        ),
    )
    assert fib.vpn_of(name) == vpn


def test_without_rules_everybody_is_in_vpn_zero() -> None:
    assert assign_vpn("AI.a@h", []) == 0


@pytest.mark.parametrize(
    ("source", "target", "vpns", "ok"),
    [
        ("AI.a@h", "AI.b@h", (0, 0), True),
        ("AI.a@h", "AI.b@h", (7, 7), True),
        ("AI.a@h", "AI.b@h", (0, 7), False),
        ("AI.a@h", "AI.b@h", (7, 0), False),
        ("SY.a@h", "AI.b@h", (0, 7), True),
        ("RT.a@h", "AI.b@h", (0, 7), True),
        ("AI.a@h", "SY.b@h", (7, 0), True),
    ],
)
def test_who_may_reach_whom(source: str, target: str, vpns: tuple[int, int], ok: bool) -> None:
    sender = node(Fib(), source)
    sender.vpn = vpns[0]
    assert allowed(sender, target, vpns[1]) is ok


def test_a_change_of_rules_says_who_moved() -> None:
    fib, me = table()
    b = node(fib, "AI.b@north")
    standby = node(fib, "AI.b@north")
    rules = vpns_in_force([{"pattern": "AI.b", "vpn_id": 7}])
    assert fib.configure((), rules) == [b, standby]
    assert fib.configure((), rules) == []
    assert (me.vpn, b.vpn, standby.vpn) == (0, 7, 7)


# --- changes ------------------------------------------------------------------------------------------------


def test_every_change_moves_the_generation() -> None:
    fib, me = table()
    seen = [fib.generation]
    for change in (
        lambda: node(fib, "AI.x@north"),
        lambda: fib.remove(me),
        lambda: fib.configure((), ()),
        lambda: fib.learn((), ()),
    ):
        change()
        seen.append(fib.generation)
    assert len(set(seen)) == len(seen)


def test_removing_removes_only_the_own_registration() -> None:
    fib, _ = table()
    first = node(fib, "AI.a@north")
    second = Connection(0, Peer(), Limits(), 0.0)
    second.identify(first.uuid, "AI.a@north")
    fib.add(second)
    fib.remove(first)
    assert fib.by_uuid[first.uuid] is second
    assert fib.by_name["AI.a@north"] == [second]
    fib.remove(first)
    fib.remove(second)
    assert "AI.a@north" not in fib.by_name


def test_every_decision_explains_itself() -> None:
    fib, me = table(drop("AI.d"), forward("AI.f"))
    fib.configure(
        routes_in_force([drop("AI.d"), forward("AI.f")]), vpns_in_force([{"pattern": "AI.v", "vpn_id": 7}])
    )
    node(fib, "AI.v@north")
    fib.learn([remote("AI.r@south")], [])
    for name, hop, word in (
        ("AI.me@north", Hop.LOCAL, "connected"),
        ("AI.d@x", Hop.DROP, "PREFIX route 'AI.d'"),
        ("AI.f@x", Hop.HIVE, "forwards to south"),
        ("AI.v@north", Hop.BLOCKED, "VPN 7"),
        ("AI.r@south", Hop.HIVE, "advertised by hive south"),
        ("AI.none@x", Hop.NONE, "no entry"),
    ):
        decision = fib.by_destination_name(me, name)
        assert decision.hop is hop
        assert word in decision.why


# --- against a walk over the whole table --------------------------------------------------------------------

LABELS = ["AI.a", "AI.ab", "AI.b", "SY.a", "a"]
HIVES = ["north", "south", "s"]
names = st.builds(lambda label, hive: f"{label}@{hive}", st.sampled_from(LABELS), st.sampled_from(HIVES))
patterns = names | st.sampled_from(
    ["AI.*", ".*", "AI.a*", "*@south", "*a*", "AI.", "AI.a@*", "AI.*@north", "*"]
)
static_routes = st.builds(
    Route,
    prefix=patterns,
    match_kind=st.sampled_from(MatchKind),
    action=st.sampled_from(RouteAction),
    next_hop_hive=st.none() | st.sampled_from(["h1", "h2"]),
    metric=st.integers(0, 1),
    priority=st.integers(0, 1),
)
learned_routes = st.builds(
    LearnedRoute,
    prefix=patterns,
    match_kind=st.sampled_from(MatchKind),
    action=st.sampled_from(RouteAction),
    next_hop_hive=st.none() | st.sampled_from(["h3", "h4"]),
    metric=st.integers(0, 1),
    learned_from=st.sampled_from(["h5", "h6"]),
    updated_at=st.integers(0, 1),
)
vpn_rules = st.builds(
    VpnRule,
    pattern=patterns,
    match_kind=st.sampled_from(MatchKind),
    vpn_id=st.integers(0, 2),
    priority=st.integers(0, 1),
)


def by_the_book(
    source: Connection, dst: str, nodes: list[Connection], far: list[RemoteNode], routes: list[Route]
) -> set[object]:
    """``spec/routing-and-regions.md §3.5, §3.6`` word by word: what the first entries in table order decide.

    Several outcomes are legal where the order leaves it open (equal in every key).
    """

    def keyed() -> list[tuple[tuple[Any, ...], Any]]:
        entries: list[tuple[tuple[Any, ...], Any]] = []
        entries += [((-len(one.name), -3, 0, 0, 0, age), one) for age, one in enumerate(nodes)]
        # Priority below every route's: of a node and an equal EXACT route the node decides (§3.5, last list).
        entries += [((-len(one.name), -3, 2, -1, 0, one.updated_at), one) for one in far]
        for age, route in enumerate(routes):
            distance = 2 if isinstance(route, LearnedRoute) else 1
            since = route.updated_at if isinstance(route, LearnedRoute) else age
            key = (-specificity(route.prefix, route.match_kind), -route.match_kind.rank, distance)
            entries.append(((*key, route.priority, route.metric, since), route))
        return sorted(entries, key=lambda entry: entry[0])

    def first(fits: Any) -> set[object]:
        found: set[object] = set()
        best: tuple[Any, ...] | None = None
        for key, entry in keyed():
            if best is not None and key != best:
                break
            if not fits(entry):
                continue
            if isinstance(entry, Route):
                hive = entry.next_hop_hive or getattr(entry, "learned_from", None)
                if entry.action is RouteAction.DROP:
                    outcome: object = Hop.DROP
                elif hive:
                    outcome = hive
                else:
                    continue
            else:
                vpn = entry.vpn if isinstance(entry, Connection) else entry.vpn_id
                ok = source.vpn == vpn or is_system_name(source.name) or is_system_name(entry.name)
                there: object = entry if isinstance(entry, Connection) else entry.hive
                outcome = there if ok else Hop.BLOCKED
            found.add(outcome)
            best = key
        return found or {Hop.NONE}

    def exact(name: str) -> set[object]:
        return first(
            lambda entry: (
                matcher(entry.prefix, entry.match_kind)(name)
                if isinstance(entry, Route)
                else entry.name == name
            )
        )

    if not dst.endswith("@*"):
        return exact(dst)
    base = dst[:-2]
    near = exact(f"{base}@{source.name.partition('@')[2]}")
    if near != {Hop.NONE}:
        return near
    fits_base = matcher(base, MatchKind.GLOB)
    return first(
        lambda entry: (
            matcher(entry.prefix, entry.match_kind)(dst)
            if isinstance(entry, Route)
            else fits_base(base_name(entry.name))
        )
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(names, min_size=1, max_size=6),
    st.lists(st.tuples(names, st.integers(0, 2), st.integers(0, 1)), max_size=4),
    st.lists(static_routes, max_size=5),
    st.lists(learned_routes, max_size=4),
    st.lists(vpn_rules, max_size=3),
    st.lists(
        names | st.sampled_from(["AI.a@*", "AI.*@*", "*@*", "a@*", "AI.z@north"]), min_size=1, max_size=6
    ),
)
def test_the_table_decides_as_the_specification_walks(
    connected: list[str],
    far: list[tuple[str, int, int]],
    static: list[Route],
    advertised: list[LearnedRoute],
    rules: list[VpnRule],
    asked: list[str],
) -> None:
    fib = Fib()
    fib.configure(static, rules)
    others = [
        RemoteNode(uuid=numbered_uuid(next(serial)), name=name, vpn_id=vpn, hive=f"far{at}", updated_at=at)
        for name, vpn, at in far
    ]
    fib.learn(others, advertised)
    nodes = [node(fib, name) for name in connected]
    for dst in asked:
        legal = by_the_book(nodes[0], dst, nodes, others, [*static, *advertised])
        assert where(fib.by_destination_name(nodes[0], dst)) in legal, (dst, legal)
