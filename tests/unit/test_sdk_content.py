from __future__ import annotations

import json
from pathlib import Path

import anyio
import msgspec
import pytest

from appliance.sdk.config import NodeConfig, UuidMode
from appliance.sdk.content import ContentDesk
from appliance.sdk.node import connect
from appliance.sdk.replies import text_payload
from appliance.testing.link import FakeRouter
from appliance.wire.blob import BlobRef, ResolveRetry, blob_name_of, content_hash
from appliance.wire.envelope import Message, Meta, build_message, encode_message, raw_json
from appliance.wire.errors import Invalid, NotFound, Unavailable
from appliance.wire.frames import MAX_FRAME_BYTES, FrameTooLarge
from appliance.wire.text import TextPayload, parse_text_payload

pytestmark = pytest.mark.anyio

OTHER = "22222222-2222-4222-8222-222222222222"
LONG = "añb" * 30_000
NOW = ResolveRetry(max_wait_ms=0)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def desk(tmp_path: Path) -> ContentDesk:
    return ContentDesk(tmp_path / "blob")


def text(content: str, **extra: object) -> Message:
    return build_message(src="", dst="AI.x@h", payload={**extra, **text_payload(content)})


async def test_a_long_text_travels_as_a_blob_with_its_other_keys(desk: ContentDesk) -> None:
    message = text(LONG, mine={"a": 1})
    assert desk.may_offload(message)
    sent = await desk.offload(message)
    body = json.loads(bytes(sent.payload))
    assert set(body) == {"type", "content_ref", "attachments", "mine"}
    assert (body["mine"], body["attachments"]) == ({"a": 1}, [])
    ref = parse_text_payload(sent.payload).content_ref
    assert ref is not None
    assert (ref.mime, ref.filename_original, ref.size) == ("text/plain", "content.txt", len(LONG.encode()))
    assert ref.blob_name == blob_name_of("content.txt", content_hash(LONG.encode()))
    assert desk.toolkit.resolve(ref).read_text() == LONG
    assert await desk.text_of(sent) == LONG
    assert desk.offloaded == 1
    assert parse_text_payload(message.payload).content == LONG  # the caller's message is not changed


async def test_short_and_foreign_payloads_are_left_alone(desk: ContentDesk) -> None:
    assert not desk.may_offload(text("short"))
    for payload in (
        {"type": "data", "rows": "x" * 70_000},
        {"type": "text", "content": 5, "filler": "x" * 70_000},
        {"type": "text", "content": "x", "content_ref": None, "attachments": {"x": "y" * 70_000}},
        "x" * 70_000,
    ):
        message = build_message(src="", dst="AI.x@h", payload=payload)
        assert desk.may_offload(message)
        assert (await desk.offload(message)) is message
    assert (desk.offloaded, desk.failures) == (0, 0)


async def test_a_reference_is_not_stored_again(desk: ContentDesk) -> None:
    sent = await desk.offload(text(LONG))
    padded = build_message(
        src="",
        dst="AI.x@h",
        payload={**json.loads(bytes(sent.payload)), "filler": "x" * 70_000},
    )
    assert (await desk.offload(padded)) is padded
    assert desk.offloaded == 1


async def test_a_text_that_cannot_be_stored_goes_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("a file where the directory should be")
    desk = ContentDesk(tmp_path / "blob")
    message = text("x" * 70_000)
    assert (await desk.offload(message)) is message
    assert desk.failures == 1
    with pytest.raises(Unavailable):
        await desk.store(b"x", "a.txt")


async def test_attachments_of_any_size(desk: ContentDesk) -> None:
    data = bytes(range(256)) * 1000
    ref = await desk.store(data, "Bill   March@@2026.PNG")
    assert (ref.mime, ref.size) == ("image/png", len(data))
    assert await desk.read(ref) == data
    with pytest.raises(Invalid):
        await desk.store(b"x", "a..b.txt")


async def test_a_blob_that_the_message_has_overtaken_is_waited_for(desk: ContentDesk) -> None:
    staged = await anyio.to_thread.run_sync(desk.toolkit.put_bytes, b"late", "content.txt", "text/plain")
    message = build_message(src="", dst="AI.x@h", payload=TextPayload(content_ref=staged).to_payload())

    async def arrive() -> None:
        await anyio.sleep(0.01)
        await anyio.to_thread.run_sync(desk.toolkit.promote, staged)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(arrive)
        retry = ResolveRetry(max_wait_ms=5000, initial_delay_ms=1)
        assert await desk.text_of(message, retry) == "late"


async def test_a_blob_that_never_comes(desk: ContentDesk) -> None:
    ref = BlobRef(
        type="blob_ref",
        blob_name="content_0123456789abcdef.txt",
        size=1,
        mime="text/plain",
        filename_original="content.txt",
        spool_day="2026-03-16",
    )
    with pytest.raises(NotFound) as caught:
        await desk.read(ref, NOW)
    assert caught.value.code == "BLOB_NOT_FOUND"
    with pytest.raises(Invalid):
        await desk.fetch(msgspec.structs.replace(ref, blob_name="../x"), NOW)


async def test_what_is_no_text_is_said(desk: ContentDesk) -> None:
    with pytest.raises(Invalid):
        await desk.text_of(build_message(src="", dst=None, payload={"type": "error"}))
    ref = await desk.store(b"\xff\xfe", "content.txt", "text/plain")
    message = build_message(src="", dst=None, payload=TextPayload(content_ref=ref).to_payload())
    with pytest.raises(Invalid, match="UTF-8"):
        await desk.text_of(message)


async def test_a_file_that_cannot_be_read(desk: ContentDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await desk.store(b"x", "content.txt")

    def broken(self: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(Unavailable) as caught:
        await desk.read(ref)
    assert caught.value.code == "BLOB_IO_ERROR"


async def test_text_from_node_to_node(tmp_path: Path) -> None:
    router = FakeRouter(hive="h")

    def settings(name: str) -> NodeConfig:
        return NodeConfig(
            name=name, dial=router.dial, uuid_mode=UuidMode.EPHEMERAL, blob_root=tmp_path / "blob"
        )

    async with connect(settings("IO.a")) as a, connect(settings("AI.b")) as b:
        attachment = await a.content.store(b"%PDF", "bill.pdf")
        for content in ("short", LONG, "x" * 10 * MAX_FRAME_BYTES):
            sent = await a.send_text(
                "AI.b@h",
                content,
                attachments=[attachment],
                meta=Meta(type="user", thread_id="thread:1"),
                extra={"lang": "en"},
            )
            got = await b.receive(timeout_s=5)
            assert got.routing.trace_id == sent.routing.trace_id
            assert got.meta.thread_id == "thread:1"
            assert await b.read_text(got) == content
            payload = parse_text_payload(got.payload)
            assert (payload.attachments, payload.extra) == ((attachment,), {"lang": "en"})
        assert a.statistics().offloaded == 2
        await b.reply(got, text_payload(LONG))  # long replies are off-loaded too
        assert await a.read_text(await a.receive(timeout_s=5)) == LONG


async def test_a_long_text_without_a_blob_store_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("not a directory")
    router = FakeRouter()
    config = NodeConfig(
        name="AI.x", dial=router.dial, uuid_mode=UuidMode.EPHEMERAL, blob_root=tmp_path / "blob"
    )
    async with connect(config) as node:
        with pytest.raises(FrameTooLarge):
            await node.send_text("AI.b@h", "x" * MAX_FRAME_BYTES)
        assert node.statistics().offload_failures == 1


async def test_off_loading_leaves_room_in_the_frame(desk: ContentDesk) -> None:
    just_inline = text("x" * (65_536 - 2_048 - len(bytes(raw_json(text_payload(""))))))
    assert (await desk.offload(just_inline)) is just_inline
    assert len(encode_message(just_inline)) < MAX_FRAME_BYTES
