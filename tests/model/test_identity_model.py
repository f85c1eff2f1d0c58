"""The identity directory under any sequence of requests: its invariants hold, and its journal rebuilds it."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.identity import (
    Decision,
    Directory,
    Registry,
    RegistryLimits,
    Transaction,
    UpsertIlk,
    decode_transaction,
    encode_transaction,
)
from appliance.wire.errors import FluxbeeError
from appliance.wire.identity import (
    GivenChannel,
    IlkRecord,
    IlkRegister,
    IlkUpdate,
    TenantApprove,
    TenantCreate,
)

LIMITS = RegistryLimits(ilks=5, tenants=4)


def identifier(prefix: str) -> st.SearchStrategy[str]:
    return st.integers(1, 6).map(lambda number: f"{prefix}:00000000-0000-4000-8000-{number:012d}")


NODES = st.sampled_from([None, "AI.a@h", "AI.b@h", " AI.a@h "])
EMAILS = st.sampled_from([None, "a@b.c", "A@b.c", "x@y.z"])
TAGS = st.lists(st.sampled_from(["a", "B", "c", "not a tag"]), max_size=3).map(tuple)
CHANNELS = st.lists(
    st.builds(
        GivenChannel,
        ich_id=identifier("ich"),
        type=st.sampled_from(["email", "slack", None]),
        address=st.sampled_from(["a@b.c", "A@b.c", "T1:U1", "t1:u1", " "]),
    ),
    max_size=2,
).map(tuple)


def by_hand(directory: Directory) -> dict[str, object]:
    """Everything that look-ups answer, found by looking at every row."""
    live = [ilk for ilk in directory.ilks.values() if ilk.deleted_at_ms is None]
    nodes = [(ilk.named("node_name"), ilk.ilk_id) for ilk in live if ilk.named("node_name")]
    emails = [((i.tenant_id, str(i.named("email")).casefold()), i.ilk_id) for i in live if i.named("email")]
    channels = [(channel, ilk.ilk_id) for ilk in live for channel in ilk.channels]
    keys = [(c.realm, c.channel_type, c.address_key) for c, _ in channels]
    ids = [channel.ich_id for channel, _ in channels]
    for claimed in ([name for name, _ in nodes], [key for key, _ in emails], keys, ids):
        assert max(Counter(claimed).values(), default=1) == 1, claimed
    return {"nodes": dict(nodes), "emails": dict(emails), "channels": channels, "live": live}


class IdentityMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()
        made = iter(f"tnt:00000000-0000-4000-8000-{number:012d}" for number in range(1, 1000))
        self.registry = Registry(self.directory, limits=LIMITS, make_tenant_id=lambda: next(made))
        self.journal: list[bytes] = []
        self.now_ms = 0
        self._take(Decision({}, self.registry.begin("fluxbee", 0)))

    def _take(self, decision: Decision) -> None:
        self.now_ms += 1
        if decision.ops:
            record = encode_transaction(Transaction(at_ms=self.now_ms, action="X", ops=decision.ops))
            self.journal.append(record)
            self.directory.apply(decode_transaction(record).ops)

    def _try(self, call, *args: object) -> Decision | None:
        before = list(self.directory.rows())
        try:
            decision = call(*args, self.now_ms)
        except FluxbeeError:
            decision = None
        assert list(self.directory.rows()) == before  # deciding changes nothing
        if decision is not None:
            self._take(decision)
            assert call(*args, self.now_ms).ops == ()  # the same again is nothing new
        return decision

    @rule(
        wanted=identifier("ilk"),
        kind=st.sampled_from(["human", "agent", "system", "robot"]),
        tenant=identifier("tnt"),
        node=NODES,
        email=EMAILS,
        roles=TAGS,
        auto=st.booleans(),
    )
    def register(
        self, wanted: str, kind: str, tenant: str, node: str | None, email: str | None, roles, auto: bool
    ) -> None:
        given = {"node_name": node, "email": email}
        request = IlkRegister(
            ilk_id=wanted,
            ilk_type=kind,
            tenant_id=tenant,
            identification={key: value for key, value in given.items() if value is not None},
            roles=roles,
            auto_tenant=auto,
        )
        holder = None if node is None else self.directory.ilk_of_node(node.strip())
        decision = self._try(self.registry.register, request)
        if decision is not None:
            assert decision.answer["ilk_id"] == (wanted if holder is None else holder.ilk_id)

    @rule(wanted=identifier("ilk"), channels=CHANNELS, add=TAGS, remove=TAGS)
    def update(self, wanted: str, channels, add, remove) -> None:
        request = IlkUpdate(ilk_id=wanted, add_channels=channels, add_roles=add, remove_roles=remove)
        self._try(self.registry.update, request)

    @rule(name=st.sampled_from(["Acme", "acme", "Bolt"]), domain=st.sampled_from([None, "a.example"]))
    def create_tenant(self, name: str, domain: str | None) -> None:
        request = TenantCreate(name=name, domain=domain)
        self._try(lambda asked, now: self.registry.create_tenant(asked, "pending", now), request)

    @rule(wanted=identifier("tnt"))
    def approve_tenant(self, wanted: str) -> None:
        self._try(self.registry.approve_tenant, TenantApprove(tenant_id=wanted))

    @rule(wanted=identifier("ilk"))
    def delete(self, wanted: str) -> None:
        """No request does it yet; merges will."""
        known = self.directory.ilks.get(wanted)
        if known is not None and known.deleted_at_ms is None:
            gone = msgspec.structs.replace(known, deleted_at_ms=self.now_ms, rev=known.rev + 1)
            self._take(Decision({}, (UpsertIlk(row=gone),)))

    @invariant()
    def lookups_agree_with_the_rows(self) -> None:
        seen = by_hand(self.directory)
        for name, owner in seen["nodes"].items():  # type: ignore[attr-defined]
            found = self.directory.ilk_of_node(name)
            assert found is not None
            assert found.ilk_id == owner
        for key, owner in seen["emails"].items():  # type: ignore[attr-defined]
            assert self.directory.holder_of_email(key) == owner
        for channel, owner in seen["channels"]:  # type: ignore[attr-defined]
            assert self.directory.holder_of_channel(channel) == owner
        live: list[IlkRecord] = seen["live"]  # type: ignore[assignment]
        assert self.directory.live_ilks() == len(live) <= LIMITS.ilks
        assert len(self.directory.tenants) <= LIMITS.tenants
        assert all(ilk.tenant_id in self.directory.tenants for ilk in live)

    @invariant()
    def the_journal_and_a_base_image_rebuild_it(self) -> None:
        replayed, imaged = Directory(), Directory()
        for record in self.journal:
            replayed.apply(decode_transaction(record).ops)
        imaged.apply(self.directory.rows())
        for other in (replayed, imaged):
            assert set(map(repr, other.rows())) == set(map(repr, self.directory.rows()))
            assert other._by_node == self.directory._by_node
            assert other._by_email == self.directory._by_email
            assert other._by_channel == self.directory._by_channel
            assert +other._live == +self.directory._live


IdentityMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestIdentity = IdentityMachine.TestCase
