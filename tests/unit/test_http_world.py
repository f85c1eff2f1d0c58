"""The parts of the world door that need no hive: tokens, brakes, ids from keys, instants, lines, the hub."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import trio_test

from appliance.http.errors import ClientGone
from appliance.http.world.administration import Administration
from appliance.http.world.admintoken import admin_token
from appliance.http.world.credentials import EMPTY, MALFORMED, MISSING, Brake, Credentials, bearer
from appliance.http.world.events import event_ids, instant_ms
from appliance.http.world.hub import FeedHub, Peer
from appliance.http.world.openapi import OPENAPI
from appliance.http.world.stream import is_ndjson
from appliance.wire.errors import Busy, Damaged, Invalid
from appliance.world import Caller, RateLimited, Unauthorized, Update, WorldMetrics
from appliance.world.feed import Feed, FeedLimits

NOBODY = Caller()


@pytest.mark.parametrize(
    ("value", "token", "reason"),
    [
        ("Bearer abc", "abc", ""),
        ("Bearer   abc  ", "abc", ""),
        ("bearer abc", "abc", ""),
        (None, None, MISSING),
        ("", None, MALFORMED),
        ("abc", None, MALFORMED),
        ("Basic abc", None, MALFORMED),
        ("Bearer", None, MALFORMED),
        ("Bearer  ", None, EMPTY),
    ],
)
def test_bearer(value: str | None, token: str | None, reason: str) -> None:
    """AT-TK-1 to AT-TK-9, AT-TE-1 to AT-TE-3."""
    assert bearer(value) == (token, reason)
    assert (MISSING, MALFORMED, EMPTY) == (
        "Authorization token not provided",
        "Invalid authorization token format",
        "Authorization token is empty",
    )


def test_a_brake_lets_go_with_time() -> None:
    brake = Brake(per_minute=60, burst=2)
    assert [brake.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert brake.take("b", 0.0)
    assert brake.take("a", 1.0)
    assert not brake.take("a", 1.0)
    assert brake.left("a", 100.0) == 2


class Namespaces:
    """As much of an engine as credentials ask."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = set(tokens)

    def known_token(self, token: str) -> object:
        return object() if token in self.tokens else None


def scope(token: str | None, address: str = "10.0.0.1") -> dict[str, object]:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return {"headers": headers, "client": (address, 1), "type": "http"}


def test_guesses_of_an_address_are_braked_and_proven_tokens_are_not() -> None:
    engine = Namespaces("good", "late")
    judge = Credentials(engine, auth_enabled=True, admin_token="admin")  # type: ignore[arg-type]
    assert judge.caller(scope("good"), 0.0) == Caller(token="good")
    for n in range(20):
        judge.caller(scope(f"guess {n}"), 0.0)
    for token in ("another", "late", "admin"):
        with pytest.raises(RateLimited):
            judge.caller(scope(token), 0.0)
    judge.caller(scope("good"), 0.0)
    judge.caller(scope("late", "10.0.0.2"), 0.0)
    judge.caller(scope("late"), 0.0)
    judge.demand_admin(scope("admin"), 60.0, "no")
    assert not judge.is_known(scope(None), 60.0)
    assert (judge.guesses, judge.braked) == (20, 3)


def test_a_token_that_ended_is_no_longer_proven() -> None:
    engine = Namespaces("good")
    judge = Credentials(engine, auth_enabled=True, admin_token=None)  # type: ignore[arg-type]
    assert judge.is_known(scope("good"), 0.0)
    engine.tokens.clear()
    assert not judge.is_known(scope("good"), 0.0)


@pytest.mark.parametrize("configured", [None, ""])
def test_without_an_admin_token_nobody_is_admin(configured: str | None) -> None:
    """DF-22."""
    judge = Credentials(Namespaces(), auth_enabled=False, admin_token=configured)  # type: ignore[arg-type]
    for token in (None, "", "None"):
        with pytest.raises(Unauthorized):
            judge.demand_admin(scope(token), 0.0, "Unauthorized")
    assert judge.demand_bearer(scope(None), 0.0) is None
    Administration(Namespaces(), judge, open_registration=False)  # type: ignore[arg-type]


def test_the_admin_token_is_made_once_for_its_owner_alone(tmp_path) -> None:
    path = tmp_path / "state" / "token"
    assert admin_token("given", path) == "given"
    assert not path.exists()
    made = admin_token(None, path)
    assert (len(made) >= 32, path.stat().st_mode & 0o777) == (True, 0o600)
    assert admin_token(None, path) == made
    for bad in (b"", b"two words\n", b"\xff\n", b"x" * 600):
        path.write_bytes(bad)
        with pytest.raises(Damaged):
            admin_token(None, path)


# --- ids from keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"a":1}', ' {"a":1}', "{}", '{"eventId":null,"a":1}', '{"eventId":"","a":1}']
)
def test_a_key_determines_the_id(text: str) -> None:
    first = json.loads(event_ids(text.encode(), "k", NOBODY, batch=False))
    assert uuid.UUID(first["eventId"])
    assert first == json.loads(event_ids(text.encode(), "k", NOBODY, batch=False))
    other = json.loads(event_ids(text.encode(), "k", Caller(token="t"), batch=False))
    assert other["eventId"] != first["eventId"]
    batch = event_ids(b'{"events":[%b,%b]}' % (text.encode(), text.encode()), "k", NOBODY, batch=True)
    ids = [event["eventId"] for event in json.loads(batch)["events"]]
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    "text", ['{"eventId":"mine"}', "[]", "5", "{", "", '{"events":5}', "[" * 5000, '{"events":[}']
)
def test_what_has_an_id_or_is_no_event_stays_as_it_is(text: str) -> None:
    assert event_ids(text.encode(), "k", NOBODY, batch=False) in (text.encode(),) or "events" in text
    assert event_ids(text.encode(), None, NOBODY, batch=True) == text.encode()


@pytest.mark.parametrize("key", ["", "k" * 257])
def test_keys_have_a_length(key: str) -> None:
    with pytest.raises(Invalid):
        event_ids(b"{}", key, NOBODY, batch=False)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2026-02-22T00:00:00Z", 1771718400000),
        ("2026-02-22T00:00:00.250+00:00", 1771718400250),
        ("2026-02-22T01:00:00 01:00", 1771718400000),
        ("1771718400000", 1771718400000),
        ("0", 0),
    ],
)
def test_instants(text: str, at_ms: int) -> None:
    """EP-20, AT-IN-2."""
    assert instant_ms(text, "since") == at_ms


@pytest.mark.parametrize(
    "text", ["not-a-date", "", "2026-02-22T00:00:00", "2026-02-22", "9" * 30, "0001-01-01T00:00:00+14:00x"]
)
def test_no_instants(text: str) -> None:
    with pytest.raises(Invalid, match="expected ISO 8601"):
        instant_ms(text, "since")


@pytest.mark.parametrize(
    ("kind", "yes"),
    [
        ("application/x-ndjson", True),
        ("Application/X-NDJSON; charset=utf-8", True),
        (None, False),
        ("", False),
    ],
)
def test_ndjson(kind: str | None, yes: bool) -> None:
    assert is_ndjson(kind) is yes


def test_the_document_is_compact_and_whole() -> None:
    document = json.loads(OPENAPI)
    text = OPENAPI.decode()
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]


# --- the hub --------------------------------------------------------------------------------


class Socket:
    """A client's socket that takes ``room`` bytes at once."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.unsent = False
        self.data = b""
        self.gone = False
        self.free = trio.Event()

    def write_now(self, data: bytes) -> bool:
        if len(data) > self.room or self.gone:
            return False
        self.room -= len(data)
        self.data += data
        return True

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if data and self.room < len(data):
            await self.free.wait()
        if self.gone:
            raise ClientGone("gone")
        self.data += data

    async def flush(self) -> None:
        await self.write(b"")


async def until(met: Callable[[], bool]) -> None:
    """Give other tasks turns until ``met``."""
    while not met():
        await trio.lowlevel.checkpoint()


class Engine:
    """As much of an engine as the hub asks."""

    ready = True

    def __init__(self) -> None:
        self.listener: Callable[[Sequence[Update]], None] = lambda updates: None

    def subscribe(self, listener: Callable[[Sequence[Update]], None]) -> Callable[[], None]:
        self.listener = listener
        return lambda: None

    def metrics(self) -> WorldMetrics:
        return WorldMetrics(entities_total=1, events_total=2, rate_per_second=0.5, publishers_active=3)


@trio_test
async def test_a_full_socket_gets_a_task_and_the_last_state() -> None:
    engine = Engine()
    hub = FeedHub(engine, Feed(FeedLimits(queue_bytes=200)), metrics_interval_s=1000)  # type: ignore[arg-type]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            fast, slow = Socket(), Socket(room=300)
            peers = [hub.attach(one) for one in (fast, slow)]
            for peer in peers:
                nursery.start_soon(peer.write)
            for seq in range(1, 41):
                engine.listener([Update(seq, "a", 0, {"x": seq})])
                await until(lambda seq=seq: b'"value":%d,' % seq in fast.data)
            assert hub.feed.statistics().lagging == 1
            assert b'"value":40,' not in slow.data
            slow.room = 1 << 30
            slow.free.set()
            await until(lambda: b'"value":40,' in slow.data)
            assert b'"lagged"' in slow.data
            assert b'"value":20,' not in slow.data
            assert fast.data.count(b"state_update") == 40
            for peer in peers:
                hub.detach(peer)
            assert hub.connections == 0
            nursery.cancel_scope.cancel()


@trio_test
async def test_who_is_given_up_is_told_to_come_again() -> None:
    feed = Feed(FeedLimits(queue_bytes=1, recent_bytes=2000))
    peer = Peer(feed, Socket(room=0))
    for seq in range(1, 60):
        feed.publish([Update(seq, f"e{seq}", 0, {"x": "v" * 50})])
        feed.flush()
        peer.push()
    assert peer.subscriber.given_up
    peer.socket.free.set()  # type: ignore[attr-defined]
    with trio.fail_after(5), pytest.raises(Busy):
        await peer.write()


@trio_test
async def test_jobs_run_behind_what_waits() -> None:
    feed = Feed()
    socket = Socket()
    peer = Peer(feed, socket)
    feed.publish([Update(1, "a", 0, {"x": 1})])
    feed.flush()

    async def job(one: Peer) -> None:
        socket.data += b"JOB"

    peer.do(job)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.write)
            await until(lambda: socket.data.endswith(b"JOB"))
            nursery.cancel_scope.cancel()
    assert socket.data.startswith(b"\x81")
