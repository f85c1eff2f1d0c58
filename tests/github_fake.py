"""GitHub's API as far as the poller asks it: tokens, ETags, rate limits, on a :class:`tests.fake_web.Web`."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from tests.fake_web import Answer, Asked, Web

__all__ = ["GithubFake", "issue", "repository"]


def repository(name: str = "engine", **changes: Any) -> dict[str, Any]:
    """One repository of ``octo``."""
    return {
        "id": 1,
        "name": name,
        "full_name": f"octo/{name}",
        "owner": {"login": "octo", "id": 5},
        "description": None,
        "language": "Python",
        "stargazers_count": 3,
        "forks_count": 1,
        "open_issues_count": 2,
        "private": False,
        "updated_at": "2026-01-01T00:00:00Z",
        **changes,
    }


def issue(number: int, **changes: Any) -> dict[str, Any]:
    """One open issue."""
    return {
        "number": number,
        "title": f"Issue {number}",
        "state": "open",
        "user": {"login": "cat"},
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-02T00:00:00Z",
        **changes,
    }


class GithubFake:
    """Serves what its attributes hold to who shows ``token``."""

    def __init__(self, web: Web, token: str = "ghp_right") -> None:
        self.token = token
        self.repositories = [repository()]
        self.issues: dict[str, list[dict[str, Any]]] = {"octo/engine": [issue(1), issue(2)]}
        self.notifications = [
            {
                "id": "77",
                "reason": "mention",
                "unread": True,
                "updated_at": "2026-01-03T00:00:00Z",
                "subject": {"title": "Hello", "type": "Issue", "url": "https://api.github.com/x"},
                "repository": {},
            }
        ]
        self.limited: dict[str, str] | None = None
        self.not_modified = 0
        web.on("/user/repos", lambda asked: self._answer(asked, self.repositories))
        web.on("/notifications", lambda asked: self._answer(asked, self.notifications))
        self._web = web
        self.publish_issues()

    def publish_issues(self) -> None:
        """Serve the issues of every repository that has some."""
        for place in self.issues:
            path = f"/repos/{place}/issues"
            self._web.on(path, lambda asked, place=place: self._answer(asked, self.issues[place]))

    def _answer(self, asked: Asked, value: Any) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {}, {"message": "Bad credentials"}
        if self.limited is not None:
            return 403, self.limited, {"message": "API rate limit exceeded"}
        etag = 'W/"' + sha256(json.dumps(value).encode()).hexdigest()[:16] + '"'
        if asked.headers.get("if-none-match") == etag:
            self.not_modified += 1
            return 304, {"etag": etag}, b""
        return 200, {"etag": etag, "x-ratelimit-remaining": "4999"}, value
