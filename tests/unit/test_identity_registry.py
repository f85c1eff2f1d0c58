"""The rules of changing the directory, case by case."""

from __future__ import annotations

import msgspec
import pytest

from appliance.identity import Decision, Directory, Registry, RegistryLimits, UpsertIlk, UpsertTenant
from appliance.wire.errors import Busy, Conflict, FluxbeeError, Invalid, NotFound
from appliance.wire.identity import (
    GivenChannel,
    IlkRegister,
    IlkUpdate,
    TenantApprove,
    TenantCreate,
)

HOME = "tnt:00000000-0000-4000-8000-000000000001"
OTHER = "tnt:00000000-0000-4000-8000-000000000002"


def ilk(number: int) -> str:
    return f"ilk:00000000-0000-4000-8000-{number:012d}"


def ich(number: int) -> str:
    return f"ich:00000000-0000-4000-8000-{number:012d}"


class Office:
    """A directory with its rules; decisions are applied at once."""

    def __init__(self, **kwargs: object) -> None:
        self.directory = Directory()
        made = iter(f"tnt:00000000-0000-4000-8000-{number:012d}" for number in range(1, 99))
        self.registry = Registry(self.directory, make_tenant_id=lambda: next(made), **kwargs)  # type: ignore[arg-type]
        self.now_ms = 1000
        self.directory.apply(self.registry.begin("fluxbee", self.now_ms))

    def do(self, decision: Decision) -> dict[str, object]:
        self.directory.apply(decision.ops)
        self.now_ms += 1
        return decision.answer

    def register(self, number: int = 1, **keys: object) -> str:
        return str(self.do(self.registry.register(request(number, **keys), self.now_ms))["ilk_id"])

    def update(self, number: int = 1, **keys: object) -> Decision:
        decision = self.registry.update(IlkUpdate(ilk_id=ilk(number), **keys), self.now_ms)  # type: ignore[arg-type]
        self.do(decision)
        return decision

    def tenant(self, name: str, status: str = "active", **keys: object) -> dict[str, object]:
        request = TenantCreate(name=name, **keys)  # type: ignore[arg-type]
        return self.do(self.registry.create_tenant(request, status, self.now_ms))  # type: ignore[arg-type]


def request(number: int = 1, **keys: object) -> IlkRegister:
    given: dict[str, object] = {
        "ilk_id": ilk(number),
        "ilk_type": "agent",
        "tenant_id": HOME,
        "identification": {"node_name": f"AI.n{number}@h"},
    }
    return IlkRegister(**{**given, **keys})  # type: ignore[arg-type]


def refused(call, *args: object, **kwargs: object) -> FluxbeeError:
    with pytest.raises(FluxbeeError) as caught:
        call(*args, **kwargs)
    return caught.value


@pytest.fixture
def office() -> Office:
    return Office()


# --- the beginning -------------------------------------------------------------------------------------


def test_a_directory_begins_once_with_an_active_default_tenant(office: Office) -> None:
    assert office.directory.meta is not None
    assert office.directory.meta.default_tenant_id == HOME
    assert (office.directory.tenants[HOME].name, office.directory.tenants[HOME].status) == (
        "fluxbee",
        "active",
    )
    assert office.registry.begin("other", 5) == ()


# --- registering ---------------------------------------------------------------------------------------


def test_an_unknown_ilk_is_created_complete(office: Office) -> None:
    assert office.register(roles=("B", "a", "b")) == ilk(1)
    row = office.directory.ilks[ilk(1)]
    assert (row.registration_status, row.roles, row.rev) == ("complete", ("b", "a"), 1)
    assert (row.handler_node, row.human_subtype, row.created_at_ms) == ("AI.n1@h", None, 1000)


def test_a_node_keeps_its_ilk_whatever_id_is_proposed(office: Office) -> None:
    office.register(1)
    same = {"identification": {"node_name": " AI.n1@h ", "runtime": "r"}}
    assert office.register(2, **same) == ilk(1)
    assert ilk(2) not in office.directory.ilks
    assert office.directory.ilks[ilk(1)].rev == 2
    assert office.directory.ilks[ilk(1)].created_at_ms == 1000


def test_registering_the_same_again_changes_nothing(office: Office) -> None:
    office.register(1)
    assert office.registry.register(request(9, identification={"node_name": "AI.n1@h"}), 9).ops == ()


def test_registering_again_overwrites_all_but_the_channels(office: Office) -> None:
    office.register(1, roles=("a",), capabilities=("c",))
    office.update(add_channels=(GivenChannel(ich_id=ich(1), type="email", address="a@b.c"),))
    office.register(1, ilk_type="system", identification={"node_name": "AI.new@h"})
    row = office.directory.ilks[ilk(1)]
    assert (row.ilk_type, row.roles, row.capabilities, len(row.channels)) == ("system", (), (), 1)
    assert office.directory.ilk_of_node("AI.n1@h") is None
    assert office.directory.ilk_of_node("AI.new@h") == row


def test_humans_are_external_until_an_admin_says_otherwise(office: Office) -> None:
    office.register(1, ilk_type="human", identification={"email": "a@b.c"})
    assert office.directory.ilks[ilk(1)].human_subtype == "external"
    office.register(1, ilk_type="agent")
    assert office.directory.ilks[ilk(1)].human_subtype is None


@pytest.mark.parametrize(
    ("keys", "code", "text"),
    [
        ({"tenant_id": None}, "INVALID_REQUEST", "tenant_id is missing"),
        ({"tenant_id": " "}, "INVALID_REQUEST", "tenant_id is missing"),
        ({"tenant_id": "tnt:1"}, "INVALID_REQUEST", "tnt:<uuid>"),
        ({"tenant_id": OTHER}, "INVALID_TENANT", "does not exist"),
        ({"ilk_id": "ilk:x"}, "INVALID_REQUEST", "ilk:<uuid>"),
        ({"ilk_type": "robot"}, "INVALID_REQUEST", "ilk_type"),
        ({"roles": ("a b",)}, "VOCABULARY_INVALID", "roles"),
        ({"capabilities": ("é",)}, "VOCABULARY_INVALID", "capabilities"),
        ({"identification": {"node_name": 7}}, "INVALID_REQUEST", "node_name"),
        ({"identification": {"x": "y" * 20_000}}, "INVALID_REQUEST", "16384"),
    ],
)
def test_a_wrong_registration_changes_nothing(
    office: Office, keys: dict[str, object], code: str, text: str
) -> None:
    error = refused(office.registry.register, request(**keys), 0)
    assert (type(error), error.code) == (Invalid, code)
    assert text in error.message


def test_only_active_tenants_take_registrations(office: Office) -> None:
    pending = office.tenant("slow", "pending")["tenant_id"]
    suspended = office.tenant("bad", "suspended")["tenant_id"]
    assert refused(office.register, tenant_id=pending).code == "TENANT_PENDING"
    assert refused(office.register, tenant_id=suspended).code == "TENANT_SUSPENDED"


def test_a_complete_ilk_stays_with_its_tenant_and_a_temporary_one_may_move(office: Office) -> None:
    office.register(1)
    other = str(office.tenant("other")["tenant_id"])
    error = refused(office.register, 1, tenant_id=other)
    assert (type(error), error.code) == (Conflict, "INVALID_TENANT_TRANSITION")
    known = office.directory.ilks[ilk(1)]
    office.directory.apply((UpsertIlk(row=msgspec.structs.replace(known, registration_status="temporary")),))
    office.register(1, tenant_id=other)
    assert office.directory.ilks[ilk(1)].tenant_id == other
    assert (office.directory.live_ilks(HOME), office.directory.live_ilks(other)) == (0, 1)


def test_a_deleted_ilk_is_not_registered_again(office: Office) -> None:
    office.register(1)
    known = office.directory.ilks[ilk(1)]
    office.directory.apply((UpsertIlk(row=msgspec.structs.replace(known, deleted_at_ms=5)),))
    error = refused(office.register, 1)
    assert (type(error), error.code) == (NotFound, "ILK_NOT_FOUND")
    assert office.register(2, identification={"node_name": "AI.n1@h"}) == ilk(2)  # its name is free


def test_an_email_belongs_to_one_interlocutor_of_a_tenant(office: Office) -> None:
    office.register(1, identification={"email": "Ana@b.c"})
    error = refused(office.register, 2, identification={"email": " ana@B.c"})
    assert (type(error), error.code) == (Conflict, "DUPLICATE_EMAIL")
    office.register(1, identification={"email": "ana@b.c"})
    other = office.tenant("other")["tenant_id"]
    office.register(3, tenant_id=other, identification={"email": "ana@b.c"})


# --- tenants that come with a registration --------------------------------------------------------------


def test_a_marked_registration_brings_its_unknown_tenant(office: Office) -> None:
    decision = office.registry.register(request(tenant_id=OTHER, auto_tenant=True), 7)
    assert [type(op) for op in decision.ops] == [UpsertTenant, UpsertIlk]
    assert decision.reason == "auto_tenant"
    office.do(decision)
    assert office.directory.tenants[OTHER].status == "active"
    again = office.registry.register(request(2, tenant_id=OTHER, auto_tenant=True), 8)
    assert (len(again.ops), again.reason) == (1, None)


def test_auto_tenant_can_be_turned_off() -> None:
    office = Office(auto_tenant=False)
    assert refused(office.register, tenant_id=OTHER, auto_tenant=True).code == "INVALID_TENANT"


def test_a_failed_registration_brings_no_tenant(office: Office) -> None:
    office.register(1)
    assert refused(office.register, 1, tenant_id=OTHER, auto_tenant=True).code == "INVALID_TENANT_TRANSITION"
    assert OTHER not in office.directory.tenants


# --- limits --------------------------------------------------------------------------------------------


def test_the_hive_has_room_for_so_many() -> None:
    office = Office(limits=RegistryLimits(ilks=2, tenants=2))
    office.register(1)
    office.register(2)
    error = refused(office.register, 3)
    assert (type(error), error.code) == (Busy, "IDENTITY_LIMIT_REACHED")
    office.register(1, roles=("again",))  # who is there is not new
    office.tenant("second")
    assert refused(office.tenant, "third").code == "IDENTITY_LIMIT_REACHED"
    assert refused(office.register, 1, tenant_id=OTHER.replace("2", "7"), auto_tenant=True).code == (
        "IDENTITY_LIMIT_REACHED"
    )


def test_a_tenant_may_have_fewer(office: Office) -> None:
    small = str(office.tenant("small", settings={"max_ilks": 1})["tenant_id"])
    office.register(1, tenant_id=small)
    assert refused(office.register, 2, tenant_id=small).code == "IDENTITY_LIMIT_REACHED"
    office.register(2)


# --- updating ------------------------------------------------------------------------------------------


def test_an_update_adds_and_then_removes(office: Office) -> None:
    office.register(1, roles=("z", "a"))
    decision = office.update(add_roles=("m", "n"), remove_roles=("n", "z"), change_reason="why")
    assert office.directory.ilks[ilk(1)].roles == ("a", "m")
    assert decision.answer == {"ilk_id": ilk(1), "change_reason": "why"}
    assert decision.reason == "why"
    assert office.update(add_roles=("m",)).ops == ()


def test_channels_are_added_once_and_changed_by_id(office: Office) -> None:
    office.register(1)
    office.update(add_channels=(GivenChannel(ich_id=ich(1), type="email", address="a@b.c"),))
    office.update(add_channels=(GivenChannel(ich_id=ich(2), type="email", address="A@b.c"),))  # the same one
    office.update(add_channels=(GivenChannel(ich_id=ich(1), type="email", address="new@b.c"),))
    (channel,) = office.directory.ilks[ilk(1)].channels
    assert (channel.ich_id, channel.address, channel.added_at_ms) == (ich(1), "new@b.c", 1001)


def test_a_channel_belongs_to_one(office: Office) -> None:
    office.register(1)
    office.register(2)
    office.update(1, add_channels=(GivenChannel(ich_id=ich(1), type="email", address="a@b.c"),))
    for taken in (
        GivenChannel(ich_id=ich(1), type="email", address="x@b.c"),
        GivenChannel(ich_id=ich(2), type="EMAIL", address="A@B.c"),
    ):
        error = refused(office.update, 2, add_channels=(taken,))
        assert (type(error), error.code) == (Conflict, "DUPLICATE_ICH")


def test_an_update_names_an_ilk_and_perhaps_its_revision(office: Office) -> None:
    assert refused(office.update, 5).code == "ILK_NOT_FOUND"
    office.register(1)
    assert refused(office.update, 1, expect_rev=2, add_roles=("a",)).code == "REV_CONFLICT"
    office.update(1, expect_rev=1, add_roles=("a",))
    many = tuple(GivenChannel(ich_id=ich(n), type="x", address=str(n)) for n in range(65))
    assert refused(office.update, 1, add_channels=many).code == "INVALID_REQUEST"


# --- tenants -------------------------------------------------------------------------------------------


def test_a_tenant_is_found_by_domain_before_name_and_else_created(office: Office) -> None:
    acme = office.tenant("Acme", domain="acme.example")
    assert (acme["created"], acme["matched_by"]) == (True, None)
    bolt = office.tenant("Bolt")
    assert office.tenant("BOLT ", domain="ACME.example") == {
        "tenant_id": acme["tenant_id"],
        "created": False,
        "matched_by": "domain",
    }
    assert office.tenant("bolt") == {"tenant_id": bolt["tenant_id"], "created": False, "matched_by": "name"}


def test_a_tenant_needs_a_name(office: Office) -> None:
    for name, domain in ((" ", None), ("x" * 129, None), ("ok", "x" * 129)):
        assert refused(office.tenant, name, domain=domain).code == "INVALID_REQUEST"


def test_approving_makes_a_tenant_active(office: Office) -> None:
    made = str(office.tenant("slow", "pending")["tenant_id"])
    decision = office.registry.approve_tenant(TenantApprove(tenant_id=made, approved_by=ilk(1)), 9)
    assert office.do(decision) == {"tenant_id": made, "approved_by": ilk(1)}
    assert (office.directory.tenants[made].status, office.directory.tenants[made].approved_by) == (
        "active",
        ilk(1),
    )
    assert office.registry.approve_tenant(TenantApprove(tenant_id=made), 9).ops == ()
    missing = TenantApprove(tenant_id=OTHER.replace("2", "9"))
    assert refused(office.registry.approve_tenant, missing, 9).code == "INVALID_TENANT"


def test_figures_and_summaries(office: Office) -> None:
    office.register(1, identification={"node_name": "AI.n1@h", "display_name": "Ann"})
    office.update(add_channels=(GivenChannel(ich_id=ich(1), type="email", address="a@b.c"),))
    shown = office.directory.summary(office.directory.ilks[ilk(1)])
    assert (shown.tenant_name, shown.display_name, shown.node_name, shown.channel_count) == (
        "fluxbee",
        "Ann",
        "AI.n1@h",
        1,
    )
    assert shown.channels == ({"ich_id": ich(1), "channel_type": "email", "address": "a@b.c"},)
    figures = office.directory.figures()
    assert (figures.tenant_count, figures.ilk_count, figures.ich_count, figures.deleted_ilk_count) == (
        1,
        1,
        1,
        0,
    )
