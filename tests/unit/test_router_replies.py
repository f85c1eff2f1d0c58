from __future__ import annotations

import json

import pytest

from appliance.router.replies import Replies, shown_destination
from tests.router_kit import ROUTER_NAME, ROUTER_UUID, numbered_uuid

replies = Replies(ROUTER_UUID, ROUTER_NAME)
TO = numbered_uuid(1)


@pytest.mark.parametrize(
    ("dst", "shown"), [(None, "null"), ("null", "null"), ("broadcast", "broadcast"), ("", "")]
)
def test_the_original_destination_is_text(dst: str | None, shown: str) -> None:
    assert shown_destination(dst) == shown


def test_unreachable_is_the_reference_s_bytes() -> None:
    assert (
        replies.unreachable(TO, "tr", "AI.x@h", "NODE_NOT_FOUND")
        == (
            f'{{"routing":{{"src":"{ROUTER_UUID}","dst":"{TO}","ttl":16,"trace_id":"tr"}},'
            '"meta":{"type":"system","msg":"UNREACHABLE"},'
            '"payload":{"original_dst":"AI.x@h","reason":"NODE_NOT_FOUND"}}'
        ).encode()
    )


def test_ttl_exceeded_is_the_reference_s_bytes() -> None:
    assert (
        replies.ttl_exceeded(TO, "", None)
        == (
            f'{{"routing":{{"src":"{ROUTER_UUID}","dst":"{TO}","ttl":16,"trace_id":""}},'
            '"meta":{"type":"system","msg":"TTL_EXCEEDED"},'
            f'"payload":{{"original_dst":"null","last_hop":"router:{ROUTER_UUID}"}}}}'
        ).encode()
    )


def test_any_text_survives() -> None:
    odd = '"\\\u0000é😀\u2028'
    body = json.loads(replies.unreachable(TO, odd, odd, "NODE_NOT_FOUND"))
    assert (body["routing"]["trace_id"], body["payload"]["original_dst"]) == (odd, odd)
