from __future__ import annotations

import json

import msgspec
import pytest

from appliance.sdk.replies import (
    deserves_answer,
    error_payload,
    payload_of_error,
    reply,
    system_reply,
    text_payload,
)
from appliance.wire.envelope import CtxTurn, Message, Meta, build_message, encode_message, raw_json
from appliance.wire.errors import Busy, Invalid, Unavailable

PEER = "22222222-2222-4222-8222-222222222222"
ME = "11111111-1111-4111-8111-111111111111"


def wire(message: Message) -> dict:
    return json.loads(encode_message(message))


def asked(**meta: object) -> Message:
    return build_message(src=PEER, dst="AI.x@h", payload="?", meta=Meta(**{"type": "user", **meta}), ttl=3)


def test_meta_is_copied_without_what_belongs_to_one_turn() -> None:
    context = {
        "io": {"reply_target": {"kind": "slack"}},
        "thread_id": "t",
        "src_ilk": "ilk:1",
        "response_envelope": {"kind": "json_object_v1"},
        "final_response_contract": {"kind": "json_object_v1"},
        "mine": 1,
    }
    request = asked(
        src_ilk="ilk:1",
        dst_ilk="ilk:2",
        ich="slack://U1",
        thread_id="thread:1",
        thread_seq=4,
        ctx="c",
        ctx_seq=1,
        ctx_window=[CtxTurn(seq=1, ts="t", sender="a", type="user", text="x")],
        memory_package=raw_json({"package_version": 2}),
        action_class="send_message",
        priority="high",
        context=raw_json(context),
    )
    answer = wire(reply(request, {"ok": True}, src=ME))
    assert answer["meta"] == {
        "type": "user",
        "src_ilk": "ilk:1",
        "dst_ilk": "ilk:2",
        "ich": "slack://U1",
        "thread_id": "thread:1",
        "action_class": "send_message",
        "priority": "high",
        "context": {"io": {"reply_target": {"kind": "slack"}}, "mine": 1},
    }
    assert answer["routing"] == {
        "src": ME,
        "dst": PEER,
        "ttl": 16,
        "trace_id": request.routing.trace_id,
    }
    assert answer["payload"] == {"ok": True}
    kept = reply(request, None, keep_contract=True).meta.context
    assert kept is not None
    assert "final_response_contract" in msgspec.json.decode(kept)
    assert request.meta.thread_seq == 4


@pytest.mark.parametrize("context", [None, [1], "text", {"io": 1}])
def test_any_context_is_survived(context: object) -> None:
    request = asked(context=None if context is None else raw_json(context))
    assert wire(reply(request, None))["meta"].get("context") == context


@pytest.mark.parametrize(
    ("kind", "expected"), [("command", "command_response"), ("query", "query_response"), ("user", "user")]
)
def test_response_types(kind: str, expected: str) -> None:
    request = asked(type=kind, action="do", target="SY.x@h")
    meta = wire(reply(request, {}))["meta"]
    assert (meta["type"], meta["action"]) == (expected, "do")
    assert ("target" in meta) == (kind == "user")


def test_system_requests_get_the_response_verb() -> None:
    request = asked(type="system", msg="WF_HELP", thread_id="t")
    answer = wire(reply(request, {}))
    assert answer["meta"] == {"type": "system", "msg": "WF_HELP_RESPONSE", "action": "WF_HELP"}
    assert system_reply(request, {}, verb="TIMER_RESPONSE").meta.msg == "TIMER_RESPONSE"
    assert system_reply(request, {}, ttl=1).routing.ttl == 1


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (asked(), True),
        (asked(type="command"), True),
        (asked(type="query"), True),
        (asked(type="admin"), True),
        (asked(type="system", msg="UNREACHABLE"), False),
        (asked(type="system", msg="TTL_EXCEEDED"), False),
        (asked(type="system", msg="CONFIG_CHANGED"), False),
        (asked(type="command_response"), False),
        (asked(type="query_response"), False),
        (build_message(src=PEER, dst="broadcast"), False),
        (build_message(src="", dst="AI.x@h"), False),
        (build_message(src=PEER, dst="AI.x@h", payload=error_payload("X", "y")), False),
        (build_message(src=PEER, dst="AI.x@h", payload={"type": 5}), True),
    ],
)
def test_who_gets_an_answer(message: Message, expected: bool) -> None:
    assert deserves_answer(message) is expected


def test_error_payloads() -> None:
    assert error_payload("node_not_configured", "m") == {
        "type": "error",
        "code": "node_not_configured",
        "message": "m",
        "retryable": False,
    }
    assert error_payload("X", "m", retryable=True, details=[1])["details"] == [1]
    assert payload_of_error(Busy("full"))["retryable"] is True
    assert payload_of_error(Unavailable("down"))["retryable"] is True
    assert payload_of_error(Invalid("bad", code="invalid_payload")) == error_payload("invalid_payload", "bad")
    assert payload_of_error(KeyError("secret"))["message"] == "the handler failed: KeyError"


def test_text_payload() -> None:
    assert json.loads(bytes(raw_json(text_payload("hi")))) == {
        "type": "text",
        "content": "hi",
        "attachments": [],
    }
