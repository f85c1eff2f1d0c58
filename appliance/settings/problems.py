"""Where a value came from, what is wrong with it, and what is worth saying about it.

Problems stop a start, notices do not. Both name the key and the place, and neither ever shows a secret.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from appliance.wire.errors import Misconfigured

__all__ = ["DEFAULT", "MAX_SHOWN_PROBLEMS", "Notice", "Problem", "SettingsError", "Source"]

MAX_SHOWN_PROBLEMS = 50
"""Problems that are kept; a file with more is not a configuration with mistakes but another file."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a value came from.

    ``name`` is the file, the variable, or what a derived value follows; ``line`` is 0 outside files.
    """

    kind: Literal["default", "derived", "file", "environment", "command line"]
    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.name}:{self.line}" if self.line else self.name
        if self.kind == "derived":
            return f"default ({self.name})"
        return f"{self.kind} {self.name}".rstrip()


DEFAULT = Source(kind="default")
"""Source of a value that nobody gave."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a configuration is refused; ``key`` is empty when the file as a whole is meant."""

    source: Source
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.message}" if self.key else f"{self.source}: {self.message}"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something worth knowing about an accepted configuration; ``code`` is explained in the reference."""

    code: str
    level: Literal["notice", "warning"]
    source: Source
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.level} {self.code}: {self.source}: {self.key}: {self.message}"


class SettingsError(Misconfigured):
    """A configuration was refused; ``problems`` holds every reason that was found, in order.

    Args:
        problems: at least one.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        lines = [str(problem) for problem in problems[:MAX_SHOWN_PROBLEMS]]
        if len(problems) > MAX_SHOWN_PROBLEMS:
            lines.append("and more")
        super().__init__("\n".join(lines), field=problems[0].key or None)
        self.problems = problems[:MAX_SHOWN_PROBLEMS]
