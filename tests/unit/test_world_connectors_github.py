"""The GitHub poller against a server that speaks its protocol (AT-IN-16, CN-14 to CN-16)."""

from __future__ import annotations

import json

import pytest
import trio

from appliance.wire.errors import Busy, Refused, Unreachable
from appliance.world.connectors.addresses import ReachPolicy
from appliance.world.connectors.fetch import Fetcher
from appliance.world.connectors.github import GithubPoller
from appliance.world.connectors.publishing import Publisher
from tests.fake_web import serving
from tests.github_fake import GithubFake, issue, repository
from tests.world_kit import engine_in


@pytest.fixture
def github(tmp_path):
    """Run an async function with the fake, a poller and what the world holds."""

    def run(use) -> None:
        async def main() -> None:
            async with engine_in(tmp_path) as engine:
                publisher = Publisher(engine)
                fetcher = Fetcher(ReachPolicy("network", ["127.0.0.1"]), timeout_s=5)

                async def token() -> str:
                    return "ghp_right"

                def world() -> dict[str, dict[str, object]]:
                    rows = engine.listing().rows(1000)
                    return {one: json.loads(text)["properties"] for one, text in rows}

                poller = GithubPoller(web.base, fetcher, publisher, token, lambda: 1000.0)
                world.publisher, world.engine = publisher, engine
                await use(fake, poller, world)

        with serving() as web:
            fake = GithubFake(web)
            fake.web = web
            trio.run(main)

    return run


def test_repositories_issues_and_notifications_become_entities(github):
    async def use(fake, poller, world):
        fake.issues["octo/engine"].append(issue(3, pull_request={"url": "x"}))
        await poller.poll()
        found = world()
        assert set(found) == {
            "github/repo/octo/engine",
            "github/issue/octo/engine/1",
            "github/issue/octo/engine/2",
            "github/notification/77",
        }
        assert found["github/repo/octo/engine"] == {
            "name": "engine",
            "full_name": "octo/engine",
            "description": None,
            "language": "Python",
            "stars": 3,
            "forks": 1,
            "open_issues": 2,
            "private": False,
            "updated_at": "2026-01-01T00:00:00Z",
        }
        assert found["github/issue/octo/engine/1"]["author"] == "cat"
        assert found["github/notification/77"]["subject_title"] == "Hello"
        page = await world.engine.history("github/issue/octo/engine/1")
        event = json.loads(page.events[0])
        assert (event["stream"], event["source"], event["schema"]) == (
            "connectors",
            "connector-manager",
            "github.issue",
        )
        assert event["key"] == "github/issue/octo/engine/1"
        assert fake.web.asked[0].headers["user-agent"] == "flux-connector/1.0"
        assert fake.web.asked[0].query == {"sort": "updated", "per_page": "30"}

    github(use)


def test_what_did_not_change_is_neither_sent_nor_published_again(github):
    async def use(fake, poller, world):
        await poller.poll()
        published = world.publisher.events
        await poller.poll()
        assert fake.not_modified == 3
        assert world.publisher.events == published == 4
        fake.repositories = [repository(stargazers_count=4)]
        await poller.poll()
        assert world.publisher.events == published + 1
        assert world()["github/repo/octo/engine"]["stars"] == 4

    github(use)


def test_an_issue_that_closes_goes(github):
    async def use(fake, poller, world):
        await poller.poll()
        fake.issues["octo/engine"] = [issue(2)]
        await poller.poll()
        assert "github/issue/octo/engine/1" not in world()
        assert "github/issue/octo/engine/2" in world()

    github(use)


def test_with_more_issues_than_a_page_none_is_thought_closed(github):
    async def use(fake, poller, world):
        await poller.poll()
        fake.issues["octo/engine"] = [issue(number) for number in range(10, 110)]
        await poller.poll()
        assert "github/issue/octo/engine/1" in world()

    github(use)


def test_a_repository_without_issues_does_not_stop_the_others(github):
    async def use(fake, poller, world):
        fake.repositories = [repository("gone"), repository()]
        await poller.poll()
        assert "github/issue/octo/engine/1" in world()
        assert "github/notification/77" in world()

    github(use)


def test_a_token_that_is_not_accepted(github):
    async def use(fake, poller, world):
        fake.token = "another"
        with pytest.raises(Refused, match="401"):
            await poller.poll()
        assert not world()

    github(use)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1200"}, 200),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "900"}, 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999"}, 3600),
        ({"retry-after": "90"}, 90),
        ({"x-ratelimit-remaining": "0"}, 60),
    ],
)
def test_a_rate_limit_is_waited_out(github, headers, wait_s):
    async def use(fake, poller, world):
        fake.limited = headers
        with pytest.raises(Busy) as caught:
            await poller.poll()
        assert caught.value.retry_after_s == wait_s

    github(use)


def test_a_refusal_that_is_no_rate_limit(github):
    async def use(fake, poller, world):
        fake.limited = {"x-ratelimit-remaining": "12"}
        with pytest.raises(Refused, match="X-RateLimit-Remaining: 12"):
            await poller.poll()

    github(use)


@pytest.mark.parametrize(
    "value", [{}, [{"name": "x"}], [repository(name="../../etc")], [repository(owner={"login": "a/b"})], 7]
)
def test_answers_in_another_form(github, value):
    async def use(fake, poller, world):
        fake.repositories = value
        with pytest.raises(Unreachable, match="another form"):
            await poller.poll()
        assert not world()

    github(use)
