from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.blob import BlobRef
from appliance.wire.envelope import raw_json
from appliance.wire.errors import Invalid
from appliance.wire.text import (
    DirectPair,
    NativeThread,
    PersistentChannel,
    TextPayload,
    compute_thread_id,
    is_text_payload,
    needs_offload,
    parse_text_payload,
)

REF = BlobRef(
    type="blob_ref",
    blob_name="content_0123456789abcdef.txt",
    size=150_000,
    mime="text/plain",
    filename_original="content.txt",
    spool_day="2026-03-16",
)
INVOICE = {
    "type": "blob_ref",
    "blob_name": "invoice_a1b2c3d4e5f6a7b8.png",
    "size": 5242880,
    "mime": "image/png",
    "filename_original": "Invoice.png",
    "spool_day": "2026-02-24",
}


def wire(payload: TextPayload) -> dict[str, object]:
    return json.loads(bytes(raw_json(payload.to_payload())))


def test_documented_examples_round_trip() -> None:
    inline = {"type": "text", "content": "hello", "attachments": [INVOICE]}
    stored = {"type": "text", "content_ref": json.loads(msgspec.json.encode(REF)), "attachments": []}
    for example in (inline, stored):
        assert wire(parse_text_payload(raw_json(example))) == example


def test_attachments_are_always_written_and_default_to_none() -> None:
    payload = parse_text_payload(raw_json({"type": "text", "content": ""}))
    assert payload == TextPayload(content="")
    assert wire(payload) == {"type": "text", "content": "", "attachments": []}


def test_explicit_nulls_are_absent() -> None:
    raw = raw_json({"type": "text", "content": "x", "content_ref": None, "attachments": None})
    assert parse_text_payload(raw) == TextPayload(content="x")


@given(
    content=st.text(max_size=40),
    extra=st.dictionaries(
        st.text(max_size=5).filter(lambda key: key not in ("type", "content", "content_ref", "attachments")),
        st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=5) | st.lists(st.integers(0, 9)),
        max_size=4,
    ),
)
def test_other_keys_survive(content: str, extra: dict[str, object]) -> None:
    payload = TextPayload(content=content, extra=extra)
    assert parse_text_payload(raw_json(payload.to_payload())) == payload
    assert parse_text_payload(raw_json(payload.offloaded(REF).to_payload())).extra == extra


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "text"}, "payload.content"),
        ({"type": "text", "content": "x", "content_ref": INVOICE}, "payload.content"),
        ({"type": "text", "content": 3}, "payload.content"),
        ({"type": "text", "content": "x", "attachments": {}}, "payload.attachments"),
        ({"type": "image", "content": "x"}, "payload.type"),
        ({"content": "x"}, "payload.type"),
        ([], "payload"),
        (None, "payload"),
    ],
)
def test_wrong_payloads_name_the_field(body: object, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_text_payload(raw_json(body))
    assert (caught.value.field, caught.value.code) == (field, "INVALID_PAYLOAD")


@pytest.mark.parametrize(
    "broken",
    [{"blob_name": "../x"}, {"size": -1}, {"mime": " "}, {"spool_day": "today"}, {"type": "blob"}],
)
def test_every_reference_is_checked(broken: dict[str, object]) -> None:
    ref = {**INVOICE, **broken}
    for body in ({"content": "x", "attachments": [ref]}, {"content_ref": ref}):
        with pytest.raises(Invalid) as caught:
            parse_text_payload(raw_json({"type": "text", **body}))
        assert caught.value.code.startswith("BLOB_INVALID_")


@pytest.mark.parametrize(
    "raw", [b'{"type":"text"', b"\xff", b"[" * 5000, b'{"type":"text","content":"\xff"}']
)
def test_garbage_is_invalid_and_no_crash(raw: bytes) -> None:
    with pytest.raises(Invalid):
        parse_text_payload(msgspec.Raw(raw))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"type":"text"}', True),
        (b'{"content":"x","type":"text"}', True),
        (b'{"type":"error"}', False),
        (b'{"type":1}', False),
        (b"{}", False),
        (b"null", False),
        (b"{", False),
        (b'{"type":"text\xff"}', False),
    ],
)
def test_text_payloads_are_recognised(raw: bytes, expected: bool) -> None:
    assert is_text_payload(msgspec.Raw(raw)) is expected


def test_the_budget_is_inclusive() -> None:
    empty = len(bytes(raw_json(TextPayload(content="").to_payload())))
    room = 65_536 - 2_048 - empty
    assert not needs_offload(TextPayload(content="x" * room))
    assert needs_offload(TextPayload(content="x" * (room + 1)))
    assert needs_offload(TextPayload(content="x" * room, extra={"k": 1}))
    assert not needs_offload(TextPayload(content_ref=REF, extra={"k": "x" * 70_000}))
    assert needs_offload(TextPayload(content="x" * 100), budget_bytes=100, allowance_bytes=0)


NATIVE = NativeThread(
    channel_type=" SLACK ", entrypoint_id=" T123 ", conversation_id="C789", native_thread_id="171234.567"
)


@pytest.mark.parametrize(
    ("thread", "suffix"),
    [
        (NATIVE, "19af8f2d874beae6bc654f7b31aa330b4b2b23fef950364aec4a1a83b460392f"),
        (
            PersistentChannel(channel_type="slack", conversation_id="C789"),
            "c6861e30a967b85ceec4044a6fd47bef28114c05f511d326a0a48bfdc24b6e3d",
        ),
        (
            DirectPair(
                channel_type="email",
                entrypoint_id="tenant-a",
                party_a="bob@example.com",
                party_b="alice@example.com",
            ),
            "0329b888a28eb098f2cf39a4ccdf08f25468a960c5647a75520fe9442667b71c",
        ),
        (
            DirectPair(
                channel_type="email",
                entrypoint_id="tenant-a",
                party_a="alice@example.com",
                party_b="bob@example.com",
            ),
            "0329b888a28eb098f2cf39a4ccdf08f25468a960c5647a75520fe9442667b71c",
        ),
    ],
)
def test_thread_id_vectors(thread, suffix: str) -> None:
    assert compute_thread_id(thread) == f"thread:sha256:{suffix}"


def test_a_blank_entrypoint_is_none() -> None:
    thread = PersistentChannel(channel_type="slack", conversation_id="C789", entrypoint_id="  ")
    assert compute_thread_id(thread).endswith("d326a0a48bfdc24b6e3d")


@pytest.mark.parametrize(
    ("thread", "field"),
    [
        (PersistentChannel(channel_type=" ", conversation_id="c"), "channel_type"),
        (PersistentChannel(channel_type="c", conversation_id=""), "conversation_id"),
        (
            NativeThread(channel_type="c", conversation_id="c", native_thread_id="\t"),
            "native_thread_id",
        ),
        (DirectPair(channel_type="c", party_a="", party_b="b"), "party_a"),
        (DirectPair(channel_type="c", party_a="a", party_b=" "), "party_b"),
    ],
)
def test_blank_fields_are_named(thread, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        compute_thread_id(thread)
    assert caught.value.field == field


def test_only_ascii_is_lowered_and_other_values_keep_their_case() -> None:
    def of(channel: str, conversation: str) -> str:
        return compute_thread_id(PersistentChannel(channel_type=channel, conversation_id=conversation))

    assert of("SLACK", "c") == of("slack", "c")
    assert of("É", "c") != of("é", "c")
    assert of("slack", "C") != of("slack", "c")
