"""What ``config.json`` of this node may say."""

from __future__ import annotations

from typing import Annotated

import msgspec

from appliance.http import parse_listen
from appliance.wire.errors import Misconfigured

__all__ = ["Settings"]

Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``config.json``.

    Attributes:
        listen: ``host:port`` of the page. Off loopback it needs ``token``, which a proxy in front adds.
        target: who is talked to: a node (``AI.echo`` means this hive's), or ``policy`` to let policy decide.
        title: of the page.
        token: bearer token that requests must carry; see ``listen``.
        allowed_hosts, allowed_origins: names that a proxy in front is called by.
        answer_s: how long an answer may take before the page says that there was none.
        max_sessions: conversations held; the one unused for longest goes.
        max_waiting: questions of one session without an answer; more are refused.
        max_chars: of one message.
        history: messages of a session that a page finds again when it comes back.
    """

    listen: str = "127.0.0.1:8090"
    target: str = "AI.echo"
    title: str = "Fluxbee chat"
    token: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    answer_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 120.0
    max_sessions: Count = 200
    max_waiting: Count = 4
    max_chars: Count = 8000
    history: Count = 100

    def __post_init__(self) -> None:
        try:
            parse_listen(self.listen)
        except Misconfigured as error:
            raise ValueError(error.message) from None  # which the decoder reports with the other mistakes

    def destination(self, hive: str) -> str | None:
        """``routing.dst`` for the people's messages: a full name, or ``None`` for policy."""
        if self.target == "policy":
            return None
        return self.target if "@" in self.target else f"{self.target}@{hive}"
