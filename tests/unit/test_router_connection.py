from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.router.connection import Connection, Peer, State
from appliance.router.outbox import Limits
from tests.router_kit import numbered_uuid


def connection(generation: int = 1) -> Connection:
    return Connection(generation, Peer(pid=5, uid=6, gid=7), Limits(), 12.5)


def test_a_new_connection_is_nobody_and_claims_nothing() -> None:
    one = connection()
    assert one.state is State.NEW
    assert (one.uuid, one.name, one.accepted_at) == ("", "", 12.5)
    assert not b'{"routing":{"src":"","dst":null'.startswith(one.claim)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_claim_and_stamp_begin_the_same_head(name: str) -> None:
    one = connection()
    one.identify(numbered_uuid(3), name)
    head = json.loads(one.stamp + b"}}")
    assert head == {"routing": {"src": numbered_uuid(3), "src_l2_name": name}}
    assert one.claim == f'{{"routing":{{"src":"{numbered_uuid(3)}",'.encode()


@pytest.mark.parametrize("state", State)
def test_it_tells_who_it_is(state: State) -> None:
    one = connection(17)
    one.state = state
    assert "17" in repr(one)
    assert state.value in repr(one)


def test_identity_is_the_object() -> None:
    first, second = connection(), connection()
    for one in (first, second):
        one.identify(numbered_uuid(3), "AI.a@north")
    assert first != second
    assert len({first, second}) == 2
