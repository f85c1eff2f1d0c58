"""The engine against a simple model, over random lives of nodes.

The model knows names, uuids and VPNs and nothing of queues. Every frame has a number; after every step the
whole engine is searched, and each number must be in exactly one place — still unread at its sender, in one
recipient's queue, read by it, or answered — or be covered by a counter. Who got it must be whom the model
names, numbers of one sender must arrive in order, and no queue may exceed its bound.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.router.connection import State
from appliance.router.outbox import Limits
from appliance.wire.frames import FrameSplitter
from tests.router_kit import Node, Rig, frame_bytes, message, numbered_uuid, pack

NAMES = ["AI.a", "AI.b", "IO.c", "SY.d"]
UUIDS = [numbered_uuid(100 + number) for number in range(5)]
LIMITS = Limits(frames=8, size_bytes=6000, control_frames=12, control_bytes=10_000)
MAX_NODES = 3
VPNS: list[list[dict[str, Any]]] = [
    [],
    [{"pattern": "AI.b", "vpn_id": 7}],
    [{"pattern": "AI.", "vpn_id": 7}, {"pattern": "IO.", "vpn_id": 7}],
    [{"pattern": "IO.c", "vpn_id": 7, "priority": 1}, {"pattern": "*", "match_kind": "GLOB", "vpn_id": 3}],
]
DESTINATIONS = [*(f"{name}@north" for name in NAMES), *UUIDS, "AI.b@*", "AI.gone@north"]


@dataclass(eq=False)
class Client:
    """A node as the model sees it."""

    node: Node
    name: str
    uuid: str
    tail: bytes = b""
    tail_ends: list[tuple[int, int]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    answered: dict[int, str] = field(default_factory=dict)
    copies: list[int] = field(default_factory=list)

    @property
    def system(self) -> bool:
        return self.name.startswith("SY.")


@dataclass
class Sent:
    """A unicast frame and what may legally become of it."""

    sender: Client
    dst: str
    ttl: int
    whole: bool = False
    targets: list[Client] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)


class RouterMachine(RuleBasedStateMachine):
    @initialize(vpns=st.sampled_from(VPNS))
    def start(self, vpns: list[dict[str, Any]]) -> None:
        self.rig = Rig(queues=LIMITS, max_nodes=MAX_NODES)
        self.clients: list[Client] = []  # open ones, in the order of registration
        self.everybody: list[Client] = []
        self.sent: dict[int, Sent] = {}
        self.vpns = vpns
        self.number = 0
        self.lost: set[int] = set()
        self.lost_unsent = 0
        self.lost_unread = 0
        self.rig.configure(vpns=vpns)

    # --- the model ---------------------------------------------------------------------------------------

    def vpn(self, client: Client) -> int:
        if client.system:
            return 0
        for one in sorted(self.vpns, key=lambda one: one.get("priority", 100)):
            if one["pattern"] == "*" or client.name.startswith(one["pattern"]):
                return int(one["vpn_id"])
        return 0

    def may(self, source: Client, target: Client) -> bool:
        return source.system or target.system or self.vpn(source) == self.vpn(target)

    def note_what_is_legal(self) -> None:
        """Add what the model would do now with every frame of which nothing is known yet."""
        known = self.known()
        for number, one in self.sent.items():
            if number in known:
                continue
            if one.ttl == 0:
                one.reasons.add("TTL_EXCEEDED")
                continue
            name = one.dst.replace("@*", "@north")
            found = next((other for other in self.clients if one.dst == other.uuid), None) or next(
                (other for other in self.clients if name == f"{other.name}@north"), None
            )
            if found is None:
                one.reasons.add("NODE_NOT_FOUND")
            elif not self.may(one.sender, found):
                one.reasons.add("VPN_BLOCKED")
            else:
                one.targets.append(found)
                one.reasons.add("NODE_CONGESTED")

    # --- looking everywhere ------------------------------------------------------------------------------

    def known(self) -> set[int]:
        return {number for one in self.everybody for number in (*one.read, *one.answered)}

    def waiting(self, client: Client) -> list[dict[str, Any]]:
        """Frames in this client's queue, control lane and data."""
        outbox = client.node.connection.outbox
        splitter: FrameSplitter = copy.deepcopy(client.node._splitter)
        stream = bytes(outbox.pending()) + b"".join(outbox._control) + b"".join(outbox.frames)
        return [json.loads(body) for body in splitter.feed(stream)]

    def unread(self, client: Client) -> list[int]:
        """Numbers of the whole frames that this client has sent and nobody has looked at; 0 for garbage."""
        bodies = map(json.loads, FrameSplitter().feed(client.node.connection.rest))
        return [body["payload"]["n"] if body else 0 for body in bodies]

    def take_note(self, client: Client, got: dict[str, Any], place: list[int]) -> None:
        if got["meta"].get("msg") in ("UNREACHABLE", "TTL_EXCEEDED"):
            number = int(got["routing"]["trace_id"])
            client.answered[number] = got["payload"].get("reason", "TTL_EXCEEDED")
        elif got["routing"]["dst"] == "broadcast":
            client.copies.append(got["payload"]["n"])
        else:
            place.append(got["payload"]["n"])

    def gone(self, client: Client) -> None:
        """This client's connection ends now: what waits for it, and what it sent and nobody read, is lost."""
        lost: list[int] = []
        copies = len(client.copies)
        for got in self.waiting(client):
            self.take_note(client, got, lost)
        self.lost_unsent += len(lost) + len(client.copies) - copies
        unread = self.unread(client)
        self.lost_unread += len(unread)
        self.lost |= {*lost, *unread}
        self.clients.remove(client)

    def after(self) -> None:
        self.rig.begin()
        self.rig.end()
        self.note_what_is_legal()

    # --- acts ----------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), uuid=st.sampled_from(UUIDS))
    def connect(self, name: str, uuid: str) -> None:
        older = next((one for one in self.clients if one.uuid == uuid), None)
        places = sum(not one.system for one in self.clients)
        fits = name.startswith("SY.") or places < MAX_NODES or (older is not None and not older.system)
        steals = older is not None and older.system and not name.startswith("SY.")
        node = self.rig.accept(plane="control" if name.startswith("SY.") else None)
        node.uuid = uuid
        if fits and not steals and older is not None:
            self.gone(older)
        self.rig.hello(node, name)
        assert (node.connection.state is State.READY) == (fits and not steals)
        if node.open:
            # A sender that waited for the older connection may go on at once, and reach the newer one.
            announce, *more = node.read()
            assert announce["meta"]["msg"] == "ANNOUNCE"
            client = Client(node, name, uuid)
            assert announce["payload"]["vpn_id"] == self.vpn(client)
            self.clients.append(client)
            self.everybody.append(client)
            self.note_what_is_legal()
            for got in more:
                self.take_note(client, got, client.read)
        if older is not None:
            assert older.node.open == (not (fits and not steals))
        self.after()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), withdraw=st.booleans())
    def leave(self, data: st.DataObject, withdraw: bool) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if withdraw and not client.node.connection.blocked and not client.tail:
            self.gone(client)
            client.node.send_bytes(frame_bytes(message(client.uuid, None, type="system", msg="WITHDRAW")))
        else:
            self.gone(client)
            client.node.close()
        assert not client.node.open
        self.after()

    @precondition(lambda self: any(not one.node.connection.blocked for one in self.clients))
    @rule(
        data=st.data(),
        dst=st.sampled_from(DESTINATIONS),
        count=st.integers(1, 7),
        ttl=st.sampled_from([0, 1, 16, 16, 16]),
        cut=st.integers(0, 400) | st.just(0),
        garbage=st.booleans(),
        loose=st.booleans(),
        size=st.sampled_from([0, 0, 0, 900]),
    )
    def send(
        self,
        data: st.DataObject,
        dst: str,
        count: int,
        ttl: int,
        cut: int,
        garbage: bool,
        loose: bool,
        size: int,
    ) -> None:
        free = [one for one in self.clients if not one.node.connection.blocked]
        client = data.draw(st.sampled_from(free))
        stream, ends = client.tail, client.tail_ends
        for _ in range(count):
            self.number += 1
            payload = {"n": self.number, "x": "." * size}
            extra: dict[str, Any] = {"unknown": None} if loose else {}
            body = message(
                client.uuid, dst, ttl=ttl, trace=str(self.number), payload=payload, thread_id="one", **extra
            )
            stream += pack(frame_bytes(body))
            ends = [*ends, (len(stream), self.number)]
            self.sent[self.number] = Sent(client, dst, ttl)
            if garbage:
                stream += pack(b"{}")
        self.note_what_is_legal()
        fed = max(len(stream) - cut, 1)
        client.tail = stream[fed:]
        client.tail_ends = [(end - fed, number) for end, number in ends if end > fed]
        for end, number in ends:
            self.sent[number].whole = end <= fed
        self.rig.begin()
        client.node.feed(stream[:fed])
        self.rig.end()
        self.after()

    @precondition(lambda self: any(not one.node.connection.blocked and not one.tail for one in self.clients))
    @rule(data=st.data())
    def broadcast(self, data: st.DataObject) -> None:
        free = [one for one in self.clients if not one.node.connection.blocked and not one.tail]
        client = data.draw(st.sampled_from(free))
        self.number += 1
        before = {one: one.node.connection.outbox.queued_frames for one in self.clients}
        refused = self.rig.counts.get("broadcast_congested", 0)
        client.node.send("broadcast", trace=numbered_uuid(self.number), payload={"n": self.number})
        heard = [one for one in self.clients if one.node.connection.outbox.queued_frames > before[one]]
        legal = [one for one in self.clients if one is not client and self.may(client, one)]
        assert len(heard) == len(legal) - (self.rig.counts.get("broadcast_congested", 0) - refused)
        assert set(heard) <= set(legal)
        self.after()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), limit=st.none() | st.integers(1, 2000))
    def drain(self, data: st.DataObject, limit: int | None) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.rig.begin()
        for got in client.node.read(limit):
            self.take_note(client, got, client.read)
        self.after()

    @rule(seconds=st.sampled_from([0.01, 0.04, 0.06, 0.3, 40.0]))
    def wait(self, seconds: float) -> None:
        self.rig.wait(seconds)
        self.after()

    @rule(vpns=st.sampled_from(VPNS))
    def configure(self, vpns: list[dict[str, Any]]) -> None:
        self.vpns = vpns
        self.rig.configure(vpns=vpns)
        self.after()

    # --- what always holds ---------------------------------------------------------------------------------

    @invariant()
    def everything_is_somewhere(self) -> None:
        places: dict[int, list[str]] = {number: [] for number in self.sent}
        for client in self.everybody:
            arrived = list(client.read)
            answers = dict(client.answered)
            if client in self.clients:
                found: list[int] = []
                probe = Client(client.node, client.name, client.uuid)
                for got in self.waiting(client):
                    self.take_note(probe, got, found)
                arrived += found
                answers |= probe.answered
                for number in self.unread(client):
                    if number:
                        places[number].append("unread")
            for number in arrived:
                places[number].append(f"with {client.name}")
                assert client in self.sent[number].targets, f"{number} reached {client.name}"
            for number, reason in answers.items():
                places[number].append(reason)
                assert self.sent[number].sender is client
                assert reason in self.sent[number].reasons, f"{number}: {reason}"
            for sender in self.everybody:
                theirs = [number for number in arrived if self.sent[number].sender is sender]
                assert theirs == sorted(theirs)
        assert all(len(where) <= 1 for where in places.values()), places
        nowhere = {number for number, where in places.items() if not where and self.sent[number].whole}
        counts = self.rig.counts
        assert self.lost <= nowhere | {0}
        assert len(nowhere - self.lost) == counts["control_dropped"]
        assert (counts["lost_unsent"], counts["lost_unread"]) == (self.lost_unsent, self.lost_unread)

    @invariant()
    def bounds_hold(self) -> None:
        for client in self.clients:
            outbox = client.node.connection.outbox
            assert 0 <= outbox.queued_frames <= LIMITS.frames
            assert 0 <= outbox.queued_bytes <= LIMITS.size_bytes
            assert not outbox.empty or (outbox.queued_frames, outbox.queued_bytes) == (0, 0)
            assert outbox._control_bytes <= LIMITS.control_bytes
            assert len(client.node.connection.rest) < 20_000
        paused = {client.node.connection for client in self.clients if client.node.connection.blocked}
        assert paused == self.rig.engine.paused
        assert self.rig.engine.resumed == []

    @invariant()
    def tables_are_what_the_model_knows(self) -> None:
        engine = self.rig.engine
        assert {one.uuid: one.node.connection for one in self.clients} == engine.fib.by_uuid
        for name in NAMES:
            same = [one.node.connection for one in self.clients if one.name == name]
            assert engine.fib.by_name.get(f"{name}@north", []) == same
        assert {one.node.connection for one in self.clients} == engine.connections
        assert engine.greeter.ordinary_nodes == sum(not one.system for one in self.clients)
        assert not engine.greeter.waiting

    def teardown(self) -> None:
        """In the end everybody reads: nothing stays behind, and numbers within the thread never repeat."""
        if not hasattr(self, "rig"):
            return
        while not all(client.node.connection.outbox.empty for client in self.clients):
            for client in list(self.clients):
                for got in client.node.read():
                    self.take_note(client, got, client.read)
            self.note_what_is_legal()
        assert not self.rig.engine.paused
        self.everything_is_somewhere()


RouterMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestRouterModel = RouterMachine.TestCase


@pytest.mark.slow
class TestRouterModelLong(RouterMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=400, stateful_step_count=60, deadline=None)
