"""Who may ask SY.identity for what; tags; addresses."""

from __future__ import annotations

import pytest

from appliance.identity.rules import (
    IDENTITY_CALLERS,
    MUTATING,
    OPEN,
    address_key,
    may_call,
    new_channel,
    plain_tags,
    relayed,
    text_of,
)
from appliance.wire.errors import Invalid
from appliance.wire.identity import GivenChannel

OWN, DESK = "SY.identity@north", "AI.desk@north"
ICH = "ich:00000000-0000-4000-8000-000000000001"

ALLOWED = {
    "ILK_REGISTER": {"SY.frontdesk.gov@w", "SY.orchestrator@w", DESK, OWN, "SY.orchestrator.relay.7@w"},
    "ILK_UPDATE": {"SY.orchestrator@w", OWN, "SY.orchestrator.relay.7@w"},
    "TNT_CREATE": {"SY.frontdesk.gov@w", DESK, "SY.admin@w"},
    "TNT_APPROVE": {"SY.admin@w"},
    "ILK_LIST": {"SY.admin@w"},
    "ILK_GET": {"SY.admin@w"},
}
CALLERS = set().union(*ALLOWED.values()) | {
    "AI.x@north",
    "IO.mail@north",
    "SY.identity@south",
    "SY.orchestrator",
    "SY.orchestratorx@w",
    "SY.frontdesk.government@w",
    "AI.desk@south",
    "",
}


@pytest.mark.parametrize("action", ALLOWED)
def test_only_the_named_callers_may(action: str) -> None:
    may = {name for name in CALLERS if may_call(action, name, own_name=OWN, frontdesk=DESK)}
    assert may == ALLOWED[action]
    assert not may_call(action, None, own_name=OWN, frontdesk=DESK)


def test_every_verb_has_its_callers_or_is_open() -> None:
    assert IDENTITY_CALLERS.keys() == ALLOWED.keys()
    assert IDENTITY_CALLERS.keys() > MUTATING
    assert not OPEN & IDENTITY_CALLERS.keys()


def test_a_relay_counts_as_its_orchestrator() -> None:
    assert relayed("SY.orchestrator.relay.a.b@w") == "SY.orchestrator@w"
    assert relayed("AI.x@w") == "AI.x@w"


def test_tags_are_lower_case_and_each_once() -> None:
    assert plain_tags((" Sales", "b_1", "sales"), "roles") == ("sales", "b_1")
    for wrong in ("", "a b", "é", "a-b", "x" * 65):
        with pytest.raises(Invalid) as caught:
            plain_tags((wrong,), "roles")
        assert caught.value.code == "VOCABULARY_INVALID"
    with pytest.raises(Invalid):
        plain_tags(tuple(f"t{number}" for number in range(129)), "roles")


def test_texts_of_an_identification_are_trimmed_and_bounded() -> None:
    assert text_of({"email": " a@b.c "}, "email", 10) == "a@b.c"
    assert text_of({"email": None}, "email", 10) is None
    assert text_of({"email": " "}, "email", 10) is None
    for wrong in (7, ["a"], "é" * 6):
        with pytest.raises(Invalid) as caught:
            text_of({"email": wrong}, "email", 10)
        assert caught.value.field == "identification.email"


@pytest.mark.parametrize(
    ("kind", "address", "key"),
    [
        ("email", " Ana@Example.COM ", "ana@example.com"),
        ("slack", " T1:U1 ", "T1:U1"),
        ("whatsapp", "+34 600-11.22(33)", "+34600112233"),
        ("phone", "0034 600 112233", "+34600112233"),
    ],
)
def test_addresses_are_compared_by_what_their_channel_means(kind: str, address: str, key: str) -> None:
    assert address_key(kind, address) == key


def test_a_channel_may_say_type_or_channel_type() -> None:
    one = new_channel(GivenChannel(ich_id=ICH, type=" Email ", address="A@b.c"), "c", 5)
    two = new_channel(GivenChannel(ich_id=ICH, channel_type="email", address="A@b.c"), "c", 5)
    assert one == two
    assert (one.channel_type, one.address, one.address_key, one.realm, one.added_at_ms) == (
        "email",
        "A@b.c",
        "a@b.c",
        "*",
        5,
    )


@pytest.mark.parametrize(
    "given",
    [
        GivenChannel(ich_id=ICH, address="a"),
        GivenChannel(ich_id=ICH, type="email", address=" "),
        GivenChannel(ich_id=ICH, type="x" * 33, address="a"),
        GivenChannel(ich_id=ICH, type="email", address="a" * 257),
        GivenChannel(ich_id="ich:1", type="email", address="a"),
    ],
)
def test_half_a_channel_is_none(given: GivenChannel) -> None:
    with pytest.raises(Invalid):
        new_channel(given, "add_channels[0]", 0)
