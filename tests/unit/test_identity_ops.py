"""Changes as the identity journal holds them."""

from __future__ import annotations

import msgspec
import pytest

from appliance.identity import (
    Transaction,
    UpsertIlk,
    UpsertMeta,
    UpsertTenant,
    decode_transaction,
    encode_transaction,
)
from appliance.wire.errors import Damaged
from appliance.wire.identity import IdentityMeta, IlkRecord, TenantRecord

ROWS = (
    UpsertMeta(row=IdentityMeta(epoch="e", default_tenant_id="tnt:1")),
    UpsertTenant(row=TenantRecord(tenant_id="tnt:1", name="Acme", settings={"max_ilks": 3})),
    UpsertIlk(row=IlkRecord(ilk_id="ilk:1", ilk_type="human", tenant_id="tnt:1", roles=("a",))),
)


def test_a_change_comes_back_as_it_was() -> None:
    change = Transaction(at_ms=1, action="X", actor="SY.a@h", trace_id="t", reason="r", ops=ROWS)
    assert decode_transaction(encode_transaction(change)) == change


def test_operations_look_as_the_specification_says() -> None:
    record = msgspec.json.decode(encode_transaction(Transaction(at_ms=1, action="X", ops=ROWS[:1])))
    assert record == {
        "at_ms": 1,
        "action": "X",
        "ops": [{"kind": "meta", "op": "upsert", "row": {"epoch": "e", "default_tenant_id": "tnt:1"}}],
    }


def test_rows_of_an_older_program_take_the_defaults() -> None:
    row = b'{"ilk_id":"i","ilk_type":"agent","tenant_id":"t"}'
    change = decode_transaction(
        b'{"at_ms":1,"action":"X","ops":[{"kind":"ilk","op":"upsert","row":' + row + b"}]}"
    )
    assert change.ops == (UpsertIlk(row=IlkRecord(ilk_id="i", ilk_type="agent", tenant_id="t")),)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b'{"at_ms":1,"action":"X","ops":[{"kind":"degree","op":"upsert","row":{}}]}',
        b'{"v":2,"at_ms":1,"action":"X","ops":[]}',
        b'{"at_ms":1,"action":"\xff","ops":[]}',
    ],
)
def test_what_is_not_understood_is_damage_and_not_guessed(record: bytes) -> None:
    with pytest.raises(Damaged):
        decode_transaction(record)
