"""Worked routing cases and wire examples (``spec/routing-and-regions.md`` Appendix A, B).

Hive ``north``, a link to ``south``. Where our decisions (``design.md §5``) differ from the reference's
result, the case says so; what ``south`` does with a forwarded frame is ``south``'s to test.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from appliance.router.fib import RemoteNode
from appliance.wire.seams import Resolution
from tests.router_kit import ROUTER_NAME, ROUTER_UUID, Node, Oracle, Packages, Rig, numbered_uuid

AI_C = numbered_uuid(300)
TRACE = numbered_uuid(400)
ROUTES = [
    {"prefix": "AI.a*@north", "match_kind": "GLOB", "action": "DROP", "priority": 1},
    {"prefix": "AI.c@south", "match_kind": "EXACT", "action": "DROP", "priority": 100},
    {"prefix": "AI.*", "match_kind": "PREFIX", "action": "FORWARD", "next_hop_hive": "south", "priority": 10},
    {"prefix": "WF.*", "match_kind": "PREFIX", "action": "FORWARD"},
]
VPNS = [{"pattern": "AI.b@north", "match_kind": "EXACT", "vpn_id": 7}]
LOCAL = ("AI.a", "AI.b", "SY.timer")


class North:
    """The hive of Appendix B."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        self.rig = Rig(resolver=self.oracle)
        self.rig.configure(routes=ROUTES, vpns=VPNS)
        self.rig.learn(RemoteNode(uuid=AI_C, name="AI.c@south", vpn_id=7, hive="south"))
        self.nodes: dict[str, Node] = {name: self.rig.connect(name) for name in LOCAL}

    def outcome(self, sender: str) -> set[object]:
        """Who got it, which error came back, where it was forwarded with which ttl, what was counted."""
        seen: set[object] = set()
        for name, node in self.nodes.items():
            for got in node.read():
                if name == sender and got["routing"]["src"] == ROUTER_UUID:
                    seen.add(got["payload"].get("reason", got["meta"]["msg"]))
                else:
                    seen.add(name)
        seen |= {(hive, ttl) for hive, _, ttl in self.rig.link.forwarded}
        seen |= {("every neighbour", ttl) for _, ttl in self.rig.link.broadcasts}
        seen |= {"dropped"} if self.rig.counts["route_drop"] else set()
        seen |= {"rejected"} if self.rig.counts["foreign_src"] else set()
        return seen


@dataclass
class Case:
    """One line of the table; ``why`` is set where we decided otherwise."""

    sender: str
    dst: str | None
    ttl: int
    expected: set[object]
    parts: dict[str, Any] = field(default_factory=dict)
    target: str | None = None
    why: str = ""


GLOBAL = {"type": "system", "scope": "global", "target": "AI.*"}
CASES = {
    "1 node beats an equally long glob": Case("AI.b", "AI.a@north", 16, {"VPN_BLOCKED"}),
    "2 SY crosses VPNs": Case("SY.timer", "AI.a@north", 16, {"AI.a"}),
    "3 exact static route before a remote node": Case("AI.b", "AI.c@south", 16, {"dropped"}),
    "4 routes do not apply to uuids": Case("AI.b", AI_C, 16, {("south", 15)}),
    "5 unknown name falls to the prefix route": Case("AI.b", "AI.zzz@north", 16, {("south", 15)}),
    "6 forwarding needs two hops": Case("AI.b", "AI.zzz@north", 1, {"TTL_EXCEEDED"}),
    "7 a forward without a hive is skipped": Case("AI.b", "WF.x@north", 16, {"NODE_NOT_FOUND"}),
    "8 a bare name is not completed": Case("AI.b", "AI.a", 16, {("south", 15)}),
    "9 broadcast within the VPN": Case("AI.b", "broadcast", 1, {"SY.timer"}),
    "10 system and global of a business node": Case(
        "AI.b",
        "broadcast",
        3,
        {("every neighbour", 2)},
        GLOBAL,
        why="the reference lets any node cross VPNs by saying so; here only SY sources do, so AI.a is spared",
    ),
    "10 the same of a SY node": Case(
        "SY.timer", "broadcast", 3, {"AI.a", "AI.b", ("every neighbour", 2)}, GLOBAL
    ),
    "12 VPN applies to what policy says": Case("AI.a", None, 16, {"VPN_BLOCKED"}, target="AI.b@north"),
    "13 a temporary identity goes to the front desk": Case(
        "AI.a",
        None,
        16,
        {"SY.timer"},
        target="SY.timer@north",
        why="which target that is, the resolver says; the router only follows",
    ),
    "14 the own hive of a wildcard is tried first": Case("AI.a", "AI.c@*", 16, {("south", 15)}),
    "15 somebody else's uuid as source": Case(
        "AI.a",
        "AI.a@north",
        16,
        {"rejected"},
        {"src": "SY.timer"},
        why="the reference trusts the claim and stamps SY.timer; here the connection is the identity",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_appendix_b(case: Case) -> None:
    north = North()
    north.oracle.answer = Resolution(case.target)
    parts = dict(case.parts)
    if "src" in parts:
        parts["src"] = north.nodes[parts["src"]].uuid
    north.nodes[case.sender].send(case.dst, ttl=case.ttl, trace=TRACE, **parts)
    assert north.outcome(case.sender) == case.expected, case.why


def test_appendix_b_11_the_same_trace_again() -> None:
    north = North()
    north.nodes["SY.timer"].send("broadcast", ttl=3, trace=TRACE, **GLOBAL)
    north.outcome("SY.timer")
    north.rig.link.broadcasts.clear()
    north.rig.wait(29)
    north.nodes["SY.timer"].send("broadcast", ttl=3, trace=TRACE, **GLOBAL)
    assert north.outcome("SY.timer") == set()
    north.rig.wait(1)
    north.nodes["SY.timer"].send("broadcast", ttl=3, trace=TRACE, **GLOBAL)
    assert north.outcome("SY.timer") == {"AI.a", "AI.b", ("every neighbour", 2)}


def test_appendix_b_with_the_documented_precedence_of_static_routes() -> None:
    rig = Rig(static_override=True)
    rig.configure(routes=ROUTES, vpns=VPNS)
    a, timer = rig.connect("AI.a"), rig.connect("SY.timer")
    timer.send("AI.a@north")
    assert (a.read(), timer.read(), rig.counts["route_drop"]) == ([], [], 1)


# --- Appendix A ---------------------------------------------------------------------------------------------

NODE = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
WEB = "77aa1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
THREAD = "thread:sha256:ab"
PACKAGE = {
    "package_version": 2,
    "thread_id": THREAD,
    "contexts": [{"context_id": "context:1", "label": "invoice", "weight": 2.5}],
}


def test_hello_and_announce_as_printed() -> None:
    rig = Rig()
    rig.configure(vpns=[{"pattern": "AI.billing.*", "vpn_id": 7}])
    node = rig.connect("AI.billing.tier1@north", uuid=NODE, trace="e1")
    assert node.announced == {
        "routing": {"src": ROUTER_UUID, "dst": NODE, "ttl": 1, "trace_id": "e1"},
        "meta": {"type": "system", "msg": "ANNOUNCE"},
        "payload": {
            "uuid": NODE,
            "name": "AI.billing.tier1@north",
            "status": "registered",
            "vpn_id": 7,
            "router_name": ROUTER_NAME,
        },
    }


def test_a_resolved_message_as_printed() -> None:
    rig = Rig(
        resolver=Oracle("AI.billing.tier1@north"), memory=Packages(**{THREAD: json.dumps(PACKAGE).encode()})
    )
    web, node = rig.connect("IO.chat.web", uuid=WEB), rig.connect("AI.billing.tier1", uuid=NODE)
    payload = {"type": "text", "content": "hello", "attachments": []}
    meta = {"src_ilk": "ilk:0f", "ich": "ich:9a", "thread_id": THREAD, "context": {"lang": "de"}}
    for _ in range(3):
        web.send(None, trace="c4", payload=payload, **meta)
    assert node.read()[2] == {
        "routing": {"src": WEB, "src_l2_name": "IO.chat.web@north", "dst": None, "ttl": 16, "trace_id": "c4"},
        "meta": {
            "type": "user",
            **meta,
            "thread_seq": 3,
            "memory_package": PACKAGE,
            "action_class": "send_message",
        },
        "payload": payload,
    }


def test_a_routing_failure_as_printed() -> None:
    rig = Rig(resolver=Oracle(None))
    web = rig.connect("IO.chat.web", uuid=WEB)
    web.send(None, trace="c4")
    assert web.read_one() == {
        "routing": {"src": ROUTER_UUID, "dst": WEB, "ttl": 16, "trace_id": "c4"},
        "meta": {"type": "system", "msg": "UNREACHABLE"},
        "payload": {"original_dst": "null", "reason": "OPA_NO_TARGET"},
    }


@pytest.mark.parametrize(
    ("verb", "ttl", "payload"),
    [
        ("CONFIG_CHANGED", 16, {"subsystem": "vpn", "action": None, "auto_apply": None, "version": 12}),
        ("OPA_RELOAD", 2, {"version": 8, "hash": "sha256:00"}),
    ],
)
def test_configuration_and_policy_changes_as_printed(verb: str, ttl: int, payload: dict[str, Any]) -> None:
    rig = Rig()
    admin, node = rig.connect("SY.admin"), rig.connect("AI.billing.tier1")
    admin.send("broadcast", type="system", msg=verb, scope="global", ttl=ttl, trace="d0", payload=payload)
    assert node.read_one() == {
        "routing": {
            "src": admin.uuid,
            "src_l2_name": "SY.admin@north",
            "dst": "broadcast",
            "ttl": ttl,
            "trace_id": "d0",
        },
        "meta": {"type": "system", "msg": verb, "scope": "global"},
        "payload": payload,
    }
