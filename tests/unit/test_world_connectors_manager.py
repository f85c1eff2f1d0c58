"""Connectors as a whole: what is asked when, what is told of it, over restarts (AT-IN-18, DF-39)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
import trio.testing

from appliance.testing.clock import FakeClock
from appliance.wire.errors import Busy, Invalid, NotFound, Unavailable, Unreachable
from appliance.world import WorldEngine
from appliance.world.connectors import (
    ConnectorOptions,
    Connectors,
    KeyRing,
    NewSource,
    NewTap,
    OAuthClientOptions,
    Secrets,
)
from appliance.world.connectors.addresses import ReachPolicy
from appliance.world.connectors.fetch import Answer, FetchStatistics
from appliance.world.connectors.sysinfo import BoxReader
from tests.world_kit import engine_in

SOURCE = {
    "name": "meter",
    "url": "http://meter.lan/x",
    "poll_interval_secs": 30,
    "entity_key": "m",
    "namespace": "plant",
}


class FakeFetcher:
    """Answers every URL from a table; what is not there cannot be reached."""

    def __init__(self) -> None:
        self.policy = ReachPolicy()
        self.answers: dict[str, Answer] = {"http://meter.lan/x": Answer(200, {}, b'{"v":1}')}
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    async def fetch(self, url, *, method="GET", headers=None, body=b""):
        await trio.lowlevel.checkpoint()
        self.asked.append((url, dict(headers or {}), body))
        if url not in self.answers:
            raise Unreachable("nobody there")
        return self.answers[url]

    def statistics(self) -> FetchStatistics:
        return FetchStatistics(requests=len(self.asked))


class Place:
    """What survives a restart: files, the fake net and the clock."""

    def __init__(self, home) -> None:
        self.home = home
        self.fetcher = FakeFetcher()
        self.clock = FakeClock()
        self.options = ConnectorOptions(hive_id="h1", sysinfo_enabled=False)
        self.clients = {"github": OAuthClientOptions(client_id="id", client_secret="hush")}

    def run(self, use: Callable[[Connectors, WorldEngine], Awaitable[None]]) -> None:
        async def main() -> None:
            async with engine_in(self.home) as engine:
                connectors = Connectors(
                    engine,
                    self.options,
                    KeyRing([b"k" * 32]),
                    directory=self.home / "connectors",
                    disk=self.home,
                    clients=self.clients,
                    clock=self.clock,
                    fetcher=self.fetcher,
                    box=BoxReader(self.home, self.home / "nothing"),
                )
                async with trio.open_nursery() as nursery:
                    await nursery.start(connectors.run)
                    await use(connectors, engine)
                    nursery.cancel_scope.cancel()

        trio.run(main)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(5):
        while not true():  # noqa: ASYNC110 - files and other tasks have no event to wait for
            await trio.sleep(0.002)


def state(engine: WorldEngine, entity_id: str):
    text = engine.entity(entity_id)
    return None if text is None else json.loads(text)["properties"]


def wanted(**changes: object) -> NewSource:
    return msgspec.convert({**SOURCE, **changes}, NewSource)


def test_a_source_is_asked_at_once_and_after_a_restart_again(place):
    async def add(connectors, engine):
        source_id = await connectors.add_source(wanted())
        await until(lambda: state(engine, "plant/m") == {"v": 1})
        github, row = connectors.reports("default")
        assert (github.name, github.enabled, github.status) == ("github", False, "stopped")
        assert (row.name, row.type, row.source_id) == ("meter", "generic", source_id)
        await until(lambda: connectors.reports("default")[1].last_success)
        assert connectors.reports("default")[1].status == "running"
        assert connectors.statistics().events == 1

    async def again(connectors, engine):
        await until(lambda: len(place.fetcher.asked) == 2)

    place.run(add)
    place.run(again)


def test_an_error_is_told_and_cleared(place):
    place.fetcher.answers.clear()

    async def use(connectors, engine):
        await connectors.add_source(wanted(poll_interval_secs=1))
        await until(lambda: connectors.reports("default")[1].status == "error")
        assert connectors.reports("default")[1].last_error == "nobody there"
        assert connectors.statistics().failing == 1
        place.fetcher.answers["http://meter.lan/x"] = Answer(200, {}, b'{"v":2}')
        await until(lambda: connectors.reports("default")[1].status == "running")
        assert connectors.reports("default")[1].last_error is None

    place.run(use)


def test_a_source_that_is_removed_is_asked_no_more(place):
    async def use(connectors, engine):
        source_id = await connectors.add_source(wanted())
        await until(lambda: place.fetcher.asked)
        assert await connectors.remove_source(source_id)
        assert not await connectors.remove_source(source_id)
        assert len(connectors.reports("default")) == 1
        assert connectors.statistics().polls >= 1
        assert connectors.statistics().running == 0

    async def later(connectors, engine):
        assert len(connectors.reports("default")) == 1

    place.run(use)
    place.run(later)


def test_a_defect_in_a_source_leaves_the_others_and_the_world_alone(place):
    place.fetcher.answers["http://meter.lan/y"] = None  # type: ignore[assignment]

    async def use(connectors, engine):
        await connectors.add_source(wanted(url="http://meter.lan/y", entity_key="broken"))
        await connectors.add_source(wanted())
        await until(lambda: state(engine, "plant/m"))
        await until(lambda: connectors.reports("default")[1].status == "error")
        assert connectors.reports("default")[1].last_error == "internal error: AttributeError"

    place.run(use)


def test_only_so_many_sources(place):
    place.options = msgspec.structs.replace(place.options, max_sources=1)

    async def use(connectors, engine):
        await connectors.add_source(wanted())
        with pytest.raises(Busy, match="max_sources"):
            await connectors.add_source(wanted())

    place.run(use)


def test_switched_off_they_are_kept_and_say_so(place):
    place.options = msgspec.structs.replace(place.options, enabled=False)

    async def use(connectors, engine):
        await connectors.add_source(wanted())
        await connectors.store_token("default", "github", Secrets("ghp"))
        github, row = connectors.reports("default")
        assert (row.enabled, row.status) == (False, "stopped")
        assert github.status == "stopped"
        await trio.testing.wait_all_tasks_blocked()
        assert not place.fetcher.asked

    place.run(use)


def github_answers(place: Place) -> None:
    for path in ("/user/repos?sort=updated&per_page=30", "/notifications?per_page=30"):
        place.fetcher.answers[f"https://api.github.com{path}"] = Answer(200, {}, b"[]")


def test_a_credential_starts_its_connector_and_its_end_stops_it(place):
    github_answers(place)

    async def use(connectors, engine):
        await trio.testing.wait_all_tasks_blocked()
        assert not place.fetcher.asked, "without a credential nobody is asked"
        await connectors.store_token("default", "github", Secrets("ghp_x"))
        await until(lambda: len(place.fetcher.asked) == 2)
        assert place.fetcher.asked[0][1]["Authorization"] == "Bearer ghp_x"
        assert connectors.has_token("default", "github")
        await until(lambda: connectors.reports("default")[0].last_success)
        assert connectors.reports("default")[0].enabled
        assert not connectors.reports("ns_1")[0].enabled
        assert await connectors.drop_token("default", "github")
        assert not await connectors.drop_token("default", "github")
        assert connectors.runner("default", "github") is None

    place.run(use)


def test_connectors_without_a_poller_keep_their_credential(place):
    async def use(connectors, engine):
        await connectors.store_token("default", "gmail", Secrets("ya29"))
        assert connectors.has_token("default", "gmail")
        assert connectors.runner("default", "gmail") is None

    place.run(use)


@pytest.mark.parametrize("token", ["a b", "a\r\nb", "\u00e9", "x" * 9000])
def test_tokens_that_no_header_takes(place, token):
    async def use(connectors, engine):
        with pytest.raises(Invalid):
            await connectors.store_token("default", "github", Secrets(token))
        assert not connectors.has_token("default", "github")

    place.run(use)


TOKEN_URL = "https://github.com/login/oauth/access_token"


def test_a_token_that_ends_soon_is_refreshed_first_and_the_old_refresh_token_stays(place):
    github_answers(place)
    place.fetcher.answers[TOKEN_URL] = Answer(200, {}, b'{"access_token":"new","expires_in":3600}')
    now_ms = place.clock.wall_ms()

    async def use(connectors, engine):
        await connectors.store_token("default", "github", Secrets("old", "again", now_ms + 60_000))
        await until(lambda: len(place.fetcher.asked) == 3)
        url, headers, body = place.fetcher.asked[0]
        assert url == TOKEN_URL
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert b"refresh_token=again" in body
        assert place.fetcher.asked[1][1]["Authorization"] == "Bearer new"
        kept = connectors._book.secrets("default", "github")
        assert kept == Secrets("new", "again", now_ms + 3_600_000)

    place.run(use)


@pytest.mark.parametrize("stored", [Secrets("a"), Secrets("a", None, 0), Secrets("a", "r", 10**15)])
def test_tokens_that_are_not_refreshed(place, stored):
    github_answers(place)

    async def use(connectors, engine):
        await connectors.store_token("default", "github", stored)
        await until(lambda: len(place.fetcher.asked) == 2)
        assert place.fetcher.asked[0][1]["Authorization"] == "Bearer a"

    place.run(use)


def test_a_refresh_that_fails_skips_the_poll_and_keeps_what_is_stored(place):
    place.fetcher.answers[TOKEN_URL] = Answer(400, {}, b'{"error":"bad_refresh_token"}')

    async def use(connectors, engine):
        await connectors.store_token("default", "github", Secrets("old", "again", 0))
        await until(lambda: connectors.reports("default")[0].status == "error")
        told = connectors.reports("default")[0].last_error
        assert told == "Token refresh failed: bad_refresh_token - Unknown error"
        assert connectors._book.secrets("default", "github") == Secrets("old", "again", 0)
        assert len(place.fetcher.asked) == 1

    place.run(use)


def test_a_code_becomes_tokens(place):
    place.clients["github"] = OAuthClientOptions(
        client_id="id", client_secret="hush", token_url="http://p.lan/t"
    )
    place.fetcher.answers["http://p.lan/t"] = Answer(200, {}, b'{"access_token":"a","refresh_token":"r"}')

    async def use(connectors, engine):
        got = await connectors.exchange("github", code="c", redirect_uri="u", verifier="v")
        assert got == Secrets("a", "r", None)
        assert b"code_verifier=v" in place.fetcher.asked[0][2]

    place.run(use)


def test_the_box_tells_of_itself(place):
    place.options = msgspec.structs.replace(place.options, sysinfo_enabled=True, enabled=False)

    async def use(connectors, engine):
        await until(lambda: state(engine, "box/h1"))
        assert set(state(engine, "box/h1")) == {"disk_percent", "disk_mb"}

    place.run(use)


TAP = NewTap(
    tap_name="tap-x", namespace="n", entity_key_field="", config_json='{"a":"secret"}', poll_interval_secs=60
)


def test_named_taps_are_kept_counted_and_forgotten(place):
    program = place.home / "tap-x"
    program.write_text('#!/bin/sh\necho \'{"type":"RECORD","stream":"s","record":{"id":7}}\'\n')
    program.chmod(0o755)
    place.options = msgspec.structs.replace(place.options, taps={"tap-x": str(program)}, max_sources=1)
    ids = []

    async def add(connectors, engine):
        ids.append(await connectors.add_tap(TAP))
        await until(lambda: state(engine, "n/7") == {"id": 7})
        await until(lambda: connectors.reports("default")[1].last_success)
        with pytest.raises(Busy):
            await connectors.add_tap(TAP)
        counts = connectors.statistics()
        assert (counts.sources, counts.tap_runs, counts.tap_records) == (1, 1, 1)

    async def again(connectors, engine):
        await until(lambda: connectors.statistics().tap_runs == 1)
        connectors.sync_tap(ids[0])
        await until(lambda: connectors.statistics().tap_runs == 2)
        with pytest.raises(NotFound):
            connectors.sync_tap("x")
        assert await connectors.remove_tap(ids[0])
        assert not await connectors.remove_tap(ids[0])
        assert connectors.statistics().credentials == 0

    async def switched_off(connectors, engine):
        ids.append(await connectors.add_tap(TAP))
        assert connectors.reports("default")[1].status == "stopped"
        with pytest.raises(Unavailable):
            connectors.sync_tap(ids[1])

    place.run(add)
    place.run(again)
    place.options = msgspec.structs.replace(place.options, enabled=False)
    place.run(switched_off)


def test_stopped_connectors_take_no_changes(place):
    kept = []

    async def use(connectors, engine):
        kept.append(connectors)

    place.run(use)

    async def late():
        for change in (
            kept[0].add_source(wanted()),
            kept[0].remove_source("x"),
            kept[0].add_tap(TAP),
            kept[0].remove_tap("x"),
            kept[0].store_token("default", "github", Secrets("a")),
            kept[0].drop_token("default", "github"),
        ):
            with pytest.raises(Unavailable):
                await change

    trio.run(late)
