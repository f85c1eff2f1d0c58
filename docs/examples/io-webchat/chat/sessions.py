"""Sessions: what was said in each browser, and who is looking. Sans-IO.

A session's id is the browser's secret: whoever has it sees the conversation. It never leaves this process;
the hive sees a thread that is computed from a hash of it. A browser that comes back after this node has
restarted brings its secret along and goes on in its thread. All bounds are the settings'. A page that reads
too slowly is dropped, and catches up when it comes back.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict, deque
from typing import Protocol

import msgspec

from appliance.sdk import PersistentChannel, compute_thread_id

__all__ = ["Entry", "Session", "Sessions", "Viewer"]

CHANNEL = "webchat"
_REMEMBERED_IDS = 64
_SECRET_BYTES = 24
_SECRET = re.compile(r"[A-Za-z0-9_-]{32}")
"""What :func:`secrets.token_urlsafe` makes of that many bytes."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag="message", omit_defaults=True):
    """One line of a conversation, as it goes to the page.

    Attributes:
        seq: counts from 1 in its session.
        by: ``you``, ``node``, or ``notice`` for what went wrong.
        text: what was said.
        at_ms: when.
        name: which node.
        id: the page's own id of what it sent.
    """

    seq: int
    by: str
    text: str
    at_ms: int
    name: str = ""
    id: str = ""


class Viewer(Protocol):
    """An open page."""

    def show(self, event: object) -> bool:
        """Queue ``event`` for the page; ``False`` when there is no room."""


class Session:
    """One browser's conversation."""

    def __init__(self, secret: str, node_name: str, history: int) -> None:
        self.secret = secret
        self.conversation = hashlib.sha256(secret.encode()).hexdigest()[:24]
        self.thread_id = compute_thread_id(
            PersistentChannel(
                channel_type=CHANNEL, entrypoint_id=node_name, conversation_id=self.conversation
            )
        )
        self.waiting = 0
        self.viewers: set[Viewer] = set()
        self._entries: deque[Entry] = deque(maxlen=history)
        self._ids: deque[str] = deque(maxlen=_REMEMBERED_IDS)
        self.last_seq = 0

    def since(self, seq: int) -> list[Entry]:
        """What a page that has everything up to ``seq`` has missed; all, if it counts from another life."""
        seq = 0 if seq > self.last_seq else seq
        return [entry for entry in self._entries if entry.seq > seq]

    def is_repeated(self, message_id: str) -> bool:
        """Whether the page sends this again because it missed the receipt; the second time on it is."""
        if message_id in self._ids:
            return True
        self._ids.append(message_id)
        return False

    def add(self, by: str, text: str, at_ms: int, *, name: str = "", message_id: str = "") -> None:
        """Append a line and show it."""
        self.last_seq += 1
        entry = Entry(seq=self.last_seq, by=by, text=text, at_ms=at_ms, name=name, id=message_id)
        self._entries.append(entry)
        self.show(entry)

    def show(self, event: object) -> None:
        """Show ``event`` on every open page; those without room are dropped."""
        self.viewers = {viewer for viewer in self.viewers if viewer.show(event)}


class Sessions:
    """All of them, by the browsers' secrets and by thread."""

    def __init__(self) -> None:
        self._by_secret: OrderedDict[str, Session] = OrderedDict()
        self._by_thread: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_secret)

    def open(self, secret: str | None, node_name: str, *, limit: int, history: int) -> Session:
        """The session with this secret; a new one for a browser without a well-formed one."""
        session = self._by_secret.get(secret or "")
        if session is None:
            known = secret is not None and _SECRET.fullmatch(secret) is not None
            session = Session(
                secret if known and secret else secrets.token_urlsafe(_SECRET_BYTES), node_name, history
            )
            self._by_secret[session.secret] = session
            self._by_thread[session.thread_id] = session
        self._by_secret.move_to_end(session.secret)
        while len(self._by_secret) > limit:
            self._drop_one(session)
        return session

    def _drop_one(self, kept: Session) -> None:
        """Forget the one unused for longest, rather one that nobody looks at."""
        others = [one for one in self._by_secret.values() if one is not kept]
        chosen = next((one for one in others if not one.viewers), others[0])
        del self._by_secret[chosen.secret]
        del self._by_thread[chosen.thread_id]

    def of_thread(self, thread_id: str | None) -> Session | None:
        """The session whose thread this is."""
        return self._by_thread.get(thread_id or "")
