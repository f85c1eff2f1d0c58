"""The records of the world journal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.world.records import EVENT, HEAD, FramedHead, RecordHead, pack, payload_of, unpack


@given(st.integers(0, 255), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1), st.binary())
def test_a_record_comes_back(kind, at_ms, previous, text):
    assert unpack(pack(kind, at_ms, previous, text)) == (RecordHead(kind, at_ms, previous), text)


def test_the_framed_head_is_length_and_record():
    text = b"{}"
    framed = FramedHead.pack(HEAD.size + len(text), EVENT, 5, 3) + text
    assert framed == (HEAD.size + 2).to_bytes(4, "big") + pack(EVENT, 5, 3, text)


def test_what_is_too_short_or_no_event():
    with pytest.raises(ValueError, match="16 bytes"):
        unpack(bytes(16))
    for text in (b"", b"[]", b'{"eventId":1}'):
        with pytest.raises(ValueError):
            payload_of(text)


def test_a_payload_may_be_anything_inside():
    stored = payload_of(b'{"eventId":"i","stream":"s","source":"x","payload":{"entity_id":7}}')
    assert (stored.payload.entity_id, stored.payload.properties) == (7, None)
