"""GitHub by token: repositories, open issues and notifications as entities (``spec/flux-state.md`` CN-14).

Asks conditionally (a 304 costs nothing of the rate limit), publishes only what changed, and ends the entities
of issues that are no longer open (CN-16, DF-40). Pull requests are no issues.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar
from urllib.parse import quote

import msgspec

from appliance.wire.errors import Busy, Refused, Unreachable

from .fetch import Answer, Fetcher
from .publishing import Publisher, SourceEvent

__all__ = ["GithubPoller"]

_STREAM: Final = "connectors"
_SOURCE: Final = "connector-manager"
_ISSUES: Final = 100
_STATUS: Final = "GITHUB_STATUS"
_REMEMBERED: Final = 256
_LONGEST_WAIT_S: Final = 3600.0
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,100}$")]


class _Login(msgspec.Struct):
    login: str


class _Owner(msgspec.Struct):
    login: _Name


class _Repo(msgspec.Struct):
    name: _Name
    full_name: str
    owner: _Owner
    description: str | None = None
    language: str | None = None
    stargazers_count: int = 0
    forks_count: int = 0
    open_issues_count: int = 0
    private: bool = False
    updated_at: str | None = None


class _Issue(msgspec.Struct):
    number: int
    title: str
    state: str
    created_at: str
    updated_at: str
    user: _Login | None = None
    pull_request: dict[str, object] | None = None


class _Subject(msgspec.Struct):
    title: str
    type: str
    url: str | None = None


class _Notification(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
    reason: str
    unread: bool
    updated_at: str
    subject: _Subject


T = TypeVar("T")
_repos = msgspec.json.Decoder(list[_Repo])
_issues = msgspec.json.Decoder(list[_Issue])
_notifications = msgspec.json.Decoder(list[_Notification])


class GithubPoller:
    """Asks GitHub for one owner.

    Args:
        base: of the API.
        fetcher: asks.
        publisher: takes events.
        token: the token to use now (refreshed when it must be).
        wall_s: seconds since 1970, for the time at which a rate limit ends.
    """

    def __init__(
        self,
        base: str,
        fetcher: Fetcher,
        publisher: Publisher,
        token: Callable[[], Awaitable[str]],
        wall_s: Callable[[], float],
    ) -> None:
        self._base = base.rstrip("/")
        self._fetcher = fetcher
        self._publisher = publisher
        self._token = token
        self._wall_s = wall_s
        self._known: OrderedDict[str, tuple[str, bytes]] = OrderedDict()

    async def poll(self) -> None:
        """Ask for everything once.

        Raises:
            Refused: the token is not accepted (401).
            Busy: the rate limit is used up; ``retry_after_s`` says for how long.
            Unreachable: no or a strange answer.
        """
        token = await self._token()
        repos = _decoded(_repos, await self._get("/user/repos?sort=updated&per_page=30", token))
        await self._publisher.publish_changed([_repo_event(repo) for repo in repos])
        for repo in repos:
            try:
                await self._issues_of(repo, token)
            except Unreachable as error:  # one repository may have its issues switched off (CN-14)
                if error.code != _STATUS:
                    raise
        found = _decoded(_notifications, await self._get("/notifications?per_page=30", token))
        await self._publisher.publish_changed([_notification_event(one) for one in found])

    async def _issues_of(self, repo: _Repo, token: str) -> None:
        place = f"{repo.owner.login}/{repo.name}"
        text = await self._get(f"/repos/{quote(place)}/issues?state=open&per_page={_ISSUES}", token)
        issues = _decoded(_issues, text)
        events = [_issue_event(place, issue) for issue in issues if issue.pull_request is None]
        await self._publisher.publish_changed(events)
        if len(issues) < _ISSUES:  # all there are: what is not among them is closed
            open_ids = {event.entity_id for event in events}
            for entity_id in self._publisher.ids(f"github/issue/{place}/"):
                if entity_id not in open_ids:
                    await self._publisher.remove(entity_id)

    async def _get(self, path: str, token: str) -> bytes:
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "User-Agent": "flux-connector/1.0",
        }
        known = self._known.get(path)
        if known is not None:
            headers["If-None-Match"] = known[0]
        answer = await self._fetcher.fetch(self._base + path, headers=headers)
        if answer.status == 304 and known is not None:
            return known[1]
        self._check(answer)
        if etag := answer.headers.get("etag"):
            self._known[path] = (etag, answer.body)
            self._known.move_to_end(path)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return answer.body

    def _check(self, answer: Answer) -> None:
        if answer.status == 200:
            return
        if answer.status == 401:
            raise Refused("GitHub does not accept the token (401)")
        left = answer.headers.get("x-ratelimit-remaining")
        if answer.status == 429 or (
            answer.status == 403 and (left == "0" or "retry-after" in answer.headers)
        ):
            raise Busy(
                f"GitHub's rate limit is used up (X-RateLimit-Remaining: {left})",
                retry_after_s=self._wait_s(answer),
            )
        if answer.status == 403:
            raise Refused(f"GitHub refuses ({answer.status}; X-RateLimit-Remaining: {left})")
        raise Unreachable(f"GitHub answered {answer.status}", code=_STATUS)

    def _wait_s(self, answer: Answer) -> float:
        after, reset = answer.headers.get("retry-after", ""), answer.headers.get("x-ratelimit-reset", "")
        if after.isascii() and after.isdigit() and len(after) < 9:
            return min(float(after), _LONGEST_WAIT_S)
        if reset.isascii() and reset.isdigit() and len(reset) < 13:
            return min(max(float(reset) - self._wall_s(), 60.0), _LONGEST_WAIT_S)
        return 60.0


def _decoded(decoder: msgspec.json.Decoder[list[T]], text: bytes) -> list[T]:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreachable(f"GitHub answers in another form: {error}") from error


def _event(entity_id: str, schema: str, properties: dict[str, object]) -> SourceEvent:
    return SourceEvent(
        stream=_STREAM, source=_SOURCE, entity_id=entity_id, schema=schema, properties=properties
    )


def _repo_event(repo: _Repo) -> SourceEvent:
    properties: dict[str, object] = {
        "name": repo.name,
        "full_name": repo.full_name,
        "description": repo.description,
        "language": repo.language,
        "stars": repo.stargazers_count,
        "forks": repo.forks_count,
        "open_issues": repo.open_issues_count,
        "private": repo.private,
        "updated_at": repo.updated_at,
    }
    return _event(f"github/repo/{repo.owner.login}/{repo.name}", "github.repository", properties)


def _issue_event(place: str, issue: _Issue) -> SourceEvent:
    properties: dict[str, object] = {
        "number": issue.number,
        "title": issue.title,
        "state": issue.state,
        "author": None if issue.user is None else issue.user.login,
        "created_at": issue.created_at,
        "updated_at": issue.updated_at,
    }
    return _event(f"github/issue/{place}/{issue.number}", "github.issue", properties)


def _notification_event(one: _Notification) -> SourceEvent:
    properties: dict[str, object] = {
        "id": one.id,
        "reason": one.reason,
        "unread": one.unread,
        "updated_at": one.updated_at,
        "subject_title": one.subject.title,
        "subject_type": one.subject.type,
        "subject_url": one.subject.url,
    }
    return _event(f"github/notification/{one.id}", "github.notification", properties)
