"""Generic sources: what is accepted, what is asked, what becomes of answers (AT-IN-15, CN-41, CN-44)."""

from __future__ import annotations

import msgspec
import pytest
import trio

from appliance.wire.errors import Damaged, Invalid, Refused, Unreachable
from appliance.world import INTERNAL, Caller
from appliance.world.connectors.addresses import ReachPolicy
from appliance.world.connectors.book import Secrets
from appliance.world.connectors.fetch import Answer
from appliance.world.connectors.generic import GenericPoller, checked_source, source_tokens
from appliance.world.connectors.records import NewSource

GOOD = {
    "name": "Line 2 meter",
    "url": "http://10.0.0.9/api/energy",
    "poll_interval_secs": 30,
    "entity_key": "meter-2",
    "namespace": "plant",
}


def wanted(**changes: object) -> NewSource:
    return msgspec.convert({**GOOD, **changes}, NewSource)


def checked(**changes: object):
    return checked_source(wanted(**changes), ReachPolicy(), 7)


def test_a_source_as_the_page_sends_it():
    source = checked(auth_type="none", token=None, flux_namespace_token=None)
    assert source.entity_id == "plant/meter-2"
    assert (source.poll_interval_s, source.auth, source.created_at_ms) == (30.0, "none", 7)
    assert len(source.source_id) == 36
    assert checked().source_id != source.source_id


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"poll_interval_secs": 0.5}, "poll_interval_secs"),
        ({"poll_interval_secs": 1e9}, "poll_interval_secs"),
        ({"namespace": ""}, "namespace"),
        ({"namespace": "a/b"}, "namespace"),
        ({"entity_key": ""}, "entity_key"),
        ({"entity_key": "a\nb"}, "entity_key"),
        ({"entity_key": "x" * 1025}, "entity_key"),
        ({"auth_type": "bearer"}, "token"),
        ({"auth_type": "basic", "token": "t"}, "auth_type"),
        ({"auth_type": {"api_key_header": "Host"}, "token": "t"}, "auth_type"),
        ({"auth_type": {"api_key_header": "a b"}, "token": "t"}, "auth_type"),
        ({"auth_type": {"api_key_header": "A", "b": "c"}, "token": "t"}, "auth_type"),
        ({"auth_type": {}, "token": "t"}, "auth_type"),
        ({"mapping": {}}, "mapping"),
        ({"mapping": {"a": "["}}, "mapping"),
    ],
)
def test_what_is_no_source(change, field):
    with pytest.raises(Invalid) as caught:
        checked(**change)
    assert caught.value.field == field


def test_addresses_are_refused_before_anything_is_kept():
    for url in ("http://127.0.0.1/", "http://localhost/", "http://169.254.169.254/"):
        with pytest.raises(Refused):
            checked(url=url)


def test_tokens_are_kept_apart_and_only_when_they_are_used():
    assert source_tokens(wanted()) == {}
    assert source_tokens(wanted(token="t")) == {}
    both = wanted(auth_type="bearer", token="t", flux_namespace_token="f")
    assert source_tokens(both) == {"generic": "t", "generic.flux": "f"}
    with pytest.raises(Invalid):
        source_tokens(wanted(auth_type="bearer", token="a\r\nb"))


class Fake:
    """Fetcher and publisher."""

    def __init__(self) -> None:
        self.answers: list[Answer | Exception] = []
        self.headers: list[dict[str, str]] = []
        self.events: list[tuple[dict[str, object], Caller]] = []
        self.refusal: Exception | None = None

    async def fetch(self, url, *, headers):
        self.headers.append(dict(headers))
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def publish(self, events, caller):
        if self.refusal:
            raise self.refusal
        for event in events:
            text = msgspec.json.encode(event.properties)
            self.events.append((msgspec.json.decode(text), caller))
            self.last = event


@pytest.fixture
def fake():
    return Fake()


def poller(fake: Fake, now=lambda: 0.0, secrets=lambda owner: None, **changes: object) -> GenericPoller:
    return GenericPoller(checked(**changes), fake, fake, secrets, now)


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, data)


def test_a_document_becomes_an_event(fake):
    fake.answers = [answer(b' {"kwh": 4.20, "deep": {"a": [1, null]}, "__deleted__": true}\n')]
    asking = poller(fake)
    trio.run(asking.poll)
    assert fake.events == [({"kwh": 4.2, "deep": {"a": [1, None]}}, INTERNAL)]
    assert fake.last.stream == "generic"
    assert fake.last.source.startswith("bento.")
    assert fake.last.entity_id == "plant/meter-2"


def test_a_mapping_picks_values(fake):
    fake.answers = [answer([{"v": 1}])]
    trio.run(poller(fake, mapping={"value": "[0].v", "none": "[1]", "__deleted__": "[0].v"}).poll)
    assert fake.events[0][0] == {"value": 1}
    fake.answers = [answer({})]
    with pytest.raises(Invalid, match="mapped"):
        trio.run(poller(fake, mapping={"value": "a"}).poll)


def test_the_same_again_is_told_once_a_minute(fake):
    now = [0.0]
    asking = poller(fake, lambda: now[0])
    fake.answers = [answer({"a": 1})]
    for at, events in ((0, 1), (30, 1), (59, 1), (60, 2), (100, 2)):
        now[0] = at
        trio.run(asking.poll)
        assert len(fake.events) == events
    fake.answers = [answer({"a": 2})]
    trio.run(asking.poll)
    assert fake.events[-1][0] == {"a": 2}


def test_conditional_requests(fake):
    asking = poller(fake)
    fake.answers = [answer({"a": 1}, etag='"1"'), answer(b"", 304), answer({"a": 2}, last_modified="then")]
    for _ in range(3):
        trio.run(asking.poll)
    trio.run(asking.poll)
    assert fake.headers == [
        {},
        {"If-None-Match": '"1"'},
        {"If-None-Match": '"1"'},
        {"If-Modified-Since": "then"},
    ]
    assert [event for event, _ in fake.events] == [{"a": 1}, {"a": 2}]


def test_what_was_not_published_is_not_asked_conditionally(fake):
    asking = poller(fake)
    fake.answers = [answer({"a": 1}, etag='"1"')]
    fake.refusal = Invalid("no")
    with pytest.raises(Invalid):
        trio.run(asking.poll)
    fake.refusal = None
    trio.run(asking.poll)
    assert fake.headers == [{}, {}]
    assert len(fake.events) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{", b'{"a": NaN}', b'{"a":"\xff"}', b"[" * 5000, b'{"a":' * 200 + b"1" + b"}" * 200],
)
def test_what_is_not_json(fake, body):
    fake.answers = [answer(body)]
    with pytest.raises(Unreachable):
        trio.run(poller(fake).poll)
    assert not fake.events


@pytest.mark.parametrize("body", [b"[1]", b"1", b'"text"', b"null"])
def test_what_is_no_object_needs_a_mapping(fake, body):
    fake.answers = [answer(body)]
    with pytest.raises(Invalid, match="mapping"):
        trio.run(poller(fake).poll)


@pytest.mark.parametrize(
    ("status", "words"), [(302, "not followed"), (401, "401"), (500, "500"), (304, "304")]
)
def test_other_statuses_are_errors(fake, status, words):
    fake.answers = [answer({}, status, location="http://169.254.169.254/")]
    with pytest.raises(Unreachable, match=words):
        trio.run(poller(fake).poll)
    assert len(fake.headers) == 1


def test_tokens_go_into_headers(fake):
    fake.answers = [answer({"a": 1})]
    stored = {"generic": Secrets("hush")}
    trio.run(poller(fake, secrets=stored.get, auth_type="bearer", token="hush").poll)
    key = {"auth_type": {"api_key_header": "X-API-Key"}, "token": "hush"}
    trio.run(poller(fake, secrets=stored.get, **key).poll)
    assert fake.headers == [{"Authorization": "Bearer hush"}, {"X-API-Key": "hush"}]
    with pytest.raises(Invalid, match="gone"):
        trio.run(poller(fake, **key).poll)


def test_with_a_namespace_token_it_publishes_as_its_namespace(fake):
    fake.answers = [answer({"a": 1})]
    trio.run(poller(fake, secrets={"generic.flux": Secrets("f")}.get).poll)
    assert fake.events[0][1] == Caller(token="f")


def test_a_secret_that_does_not_open_is_an_error(fake):
    def damaged(owner: str) -> Secrets:
        raise Damaged("it does not open")

    with pytest.raises(Damaged):
        trio.run(poller(fake, secrets=damaged, auth_type="bearer", token="t").poll)
