"""Backup and restore behind the door: pieces, clients that leave, disks that are full."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import pytest
import trio
from starlette.requests import ClientDisconnect

from appliance.http.world.call import Call
from appliance.http.world.copies import Copies
from appliance.http.world.credentials import Credentials
from appliance.wire.errors import Busy, Conflict, Unavailable
from appliance.world import INTERNAL, Unauthorized, WorldEngine
from tests.world_kit import batch, engine_in, event

TOKEN = "admin-token"


class Client:
    """One request as an ASGI server would make it."""

    def __init__(self, *pieces: bytes, token: str = TOKEN) -> None:
        self.pieces = list(pieces)
        self.sent: list[dict] = []
        self.leaves_after: int | None = None
        scope = {"type": "http", "method": "GET", "headers": [(b"authorization", f"Bearer {token}".encode())]}
        self.call = Call(scope, self.receive, self.send)

    async def receive(self) -> dict:
        await trio.lowlevel.checkpoint()
        if self.leaves_after is not None and not self.pieces:
            return {"type": "http.disconnect"}
        more = len(self.pieces) > 1 or self.leaves_after is not None
        return {"type": "http.request", "body": self.pieces.pop(0) if self.pieces else b"", "more_body": more}

    async def send(self, message: dict) -> None:
        await trio.lowlevel.checkpoint()
        if self.leaves_after is not None and len(self.sent) >= self.leaves_after:
            raise ConnectionResetError("gone")
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.fixture
def place(tmp_path):
    """Run an async function with a large world and its copies."""

    def run(use: Callable[[WorldEngine, Copies], Awaitable[None]]) -> None:
        async def main() -> None:
            async with engine_in(tmp_path) as engine:
                for start in range(0, 4000, 1000):
                    events = [event(f"plant/{start + n:06}", text="x" * 600) for n in range(1000)]
                    await engine.publish_batch(batch(*events), INTERNAL)
                credentials = Credentials(engine, auth_enabled=False, admin_token=TOKEN)
                await use(engine, Copies(engine, credentials, tmp_path / "spool"))

        trio.run(main)

    return run


async def backup(copies: Copies) -> bytes:
    client = Client()
    assert await copies.backup(client.call) is None
    assert client.sent[0]["status"] == 200
    assert client.sent[-1] == {"type": "http.response.body", "body": b""}
    assert len(client.sent) > 6, "in pieces"
    return client.body


def test_there_and_back(place, tmp_path):
    async def use(engine, copies):
        copy = await backup(copies)
        await engine.publish_batch(batch(event("later", a=1)), INTERNAL)
        pieces = [copy[start : start + 10_000] for start in range(0, len(copy), 10_000)]
        reply = await copies.restore(Client(*pieces).call)
        assert reply.body == b'{"restored":true,"entities":4000}'
        assert engine.entity("later") is None
        assert engine.entity("plant/003999") is not None
        assert list((tmp_path / "spool").iterdir()) == []

    place(use)


def test_a_client_that_leaves_holds_nothing_up(place):
    async def use(engine, copies):
        leaving = Client()
        leaving.leaves_after = 3
        with pytest.raises(BaseExceptionGroup) as caught:
            await copies.backup(leaving.call)
        assert [type(one) for one in caught.value.exceptions] == [ConnectionResetError]
        await backup(copies)
        half = Client(b"x" * 100)
        half.leaves_after = 0
        with pytest.raises(ClientDisconnect):
            await copies.restore(half.call)
        assert engine.entity("plant/000000") is not None
        await backup(copies)

    place(use)


def test_what_keeps_a_backup_from_beginning_is_an_answer(place, monkeypatch):
    async def use(engine, copies):
        async def refuse(stream) -> int:
            raise Conflict("another one is under way")

        monkeypatch.setattr(engine, "backup", refuse)
        client = Client()
        with pytest.raises(Conflict):
            await copies.backup(client.call)
        assert client.sent == []

    place(use)


def test_a_backup_that_breaks_off_is_not_taken_for_whole(place, monkeypatch):
    async def use(engine, copies):
        async def half(stream) -> int:
            def write() -> None:
                stream.write(b"x" * 600_000)
                raise Unavailable("the disk failed")

            await trio.to_thread.run_sync(write)
            return 0

        monkeypatch.setattr(engine, "backup", half)
        client = Client()
        with pytest.raises(Unavailable):
            await copies.backup(client.call)
        assert client.sent[0]["status"] == 200
        assert all(message.get("more_body", True) for message in client.sent)

    place(use)


def test_one_restore_at_a_time(place):
    async def use(engine, copies):
        copy = await backup(copies)
        refused = []

        async def another() -> None:
            try:
                await copies.restore(Client(copy).call)
            except Busy as error:
                refused.append(error.retry_after_s)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(another)
            nursery.start_soon(another)
        assert refused == [10]

    place(use)


def test_a_full_disk_is_told(place, tmp_path, monkeypatch):
    async def use(engine, copies):
        def full(*args: object, **more: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(copies, "_open", full)
        with pytest.raises(Unavailable) as caught:
            await copies.restore(Client(b"x").call)
        assert caught.value.code == "STORAGE_FULL"

    place(use)


def test_only_the_administrator(place):
    async def use(engine, copies):
        for work in (copies.backup, copies.restore):
            with pytest.raises(Unauthorized):
                await work(Client(token="guess").call)

    place(use)
