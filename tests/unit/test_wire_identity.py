"""Identifiers, records and strict requests of SY.identity."""

from __future__ import annotations

import msgspec
import pytest

from appliance.wire import identity as wire
from appliance.wire.errors import Invalid

UUID = "00000000-0000-4000-8000-00000000000a"


@pytest.mark.parametrize(
    ("parse", "prefix"), [(wire.ilk_id, "ilk"), (wire.tenant_id, "tnt"), (wire.channel_id, "ich")]
)
def test_an_identifier_is_a_prefix_and_a_uuid_of_any_version(parse, prefix: str) -> None:
    assert parse(f" {prefix}:{UUID.upper()} ") == f"{prefix}:{UUID}"
    version_5 = f"{prefix}:fa0509f0-4eaa-5718-b781-e4c4cbe3f073"
    assert parse(version_5) == version_5
    for wrong in (
        "",
        prefix,
        f"{prefix}:",
        f"{prefix.upper()}:{UUID}",
        UUID,
        f"{prefix}:{UUID}x",
        f"{prefix}: ",
    ):
        with pytest.raises(Invalid) as caught:
            parse(wrong)
        assert caught.value.code == "INVALID_REQUEST"


def test_the_uuid_of_an_identifier_is_the_key_of_tables() -> None:
    assert wire.id_uuid(f"ilk:{UUID}") == UUID
    assert wire.ilk_id(wire.new_ilk_id()) != wire.new_ilk_id()
    assert wire.tenant_id(wire.new_tenant_id()).startswith("tnt:")


def test_requests_are_strict() -> None:
    body = {"ilk_id": "x", "ilk_type": "agent", "identification": {}}
    assert wire.parse_request(msgspec.json.encode(body), wire.IlkRegister).tenant_id is None
    for wrong in ({**body, "degree": 1}, {"ilk_id": "x"}, {**body, "roles": "a"}, [], {**body, "roles": [1]}):
        with pytest.raises(Invalid) as caught:
            wire.parse_request(msgspec.json.encode(wrong), wire.IlkRegister)
        assert caught.value.code == "INVALID_REQUEST"
    with pytest.raises(Invalid):
        wire.parse_request(b'{"ilk_id":"\xff"}', wire.IlkGet)


def test_no_payload_is_an_empty_object() -> None:
    assert wire.parse_request(b"null", wire.IlkList) == wire.parse_request(b"{}", wire.IlkList)


def test_a_request_leaves_out_what_it_does_not_say() -> None:
    request = wire.IlkRegister(
        ilk_id="i", ilk_type="agent", tenant_id="t", identification={"node_name": "AI.x"}
    )
    assert msgspec.json.decode(msgspec.json.encode(request)) == {
        "ilk_id": "i",
        "ilk_type": "agent",
        "tenant_id": "t",
        "identification": {"node_name": "AI.x"},
    }


def test_a_name_in_the_identification_is_a_text_without_spaces_around_it() -> None:
    ilk = wire.IlkRecord(
        ilk_id="i", ilk_type="agent", tenant_id="t", identification={"a": " x ", "b": "", "c": 7, "d": " "}
    )
    assert [ilk.named(key) for key in "abcde"] == ["x", None, None, None, None]
