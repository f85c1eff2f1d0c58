"""HELLO: from an accepted socket to a registered node (``spec/node-protocol.md §1.4, §1.6``). Sans-IO.

A newcomer is announced before it can receive anything else. While the configuration is unreadable,
business nodes are held — neither refused nor put into VPN 0 (``design.md §4``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from ..wire import verbs
from ..wire.codec import HotMeta
from ..wire.envelope import Message, decode_message
from ..wire.errors import Invalid
from ..wire.frames import MAX_FRAME_BYTES
from ..wire.ids import canonical_uuid
from ..wire.names import MAX_NAME_BYTES, full_name, glob_matcher, is_system_name
from .claims import Claims, token_digest
from .connection import Connection, State

if TYPE_CHECKING:
    from .links import Links

__all__ = ["Greeter"]

_LONGEST_HELLO: Final = MAX_FRAME_BYTES - 1024
"""The answer repeats what a HELLO says and adds two names, a uuid and a few words."""


class _Hello(msgspec.Struct):
    uuid: str
    name: str
    version: str
    launch_token: object = None  # of our SDK; whatever else a foreign one puts there is no token


class Greeter:
    """Registers newcomers; holds them while ``configured`` is false; drops those that stay silent."""

    def __init__(self, engine: Links) -> None:
        self._engine = engine
        self.claims = Claims()
        self.configured = False
        self.waiting: set[Connection] = set()
        self.held: dict[Connection, tuple[Message, str]] = {}
        self._ordinary: set[Connection] = set()

    @property
    def ordinary_nodes(self) -> int:
        """Registered nodes beside the appliance's own."""
        return len(self._ordinary)

    def greet(self, connection: Connection, frame: bytes, meta: HotMeta) -> None:
        """Handle the first frame of a connection."""
        engine = self._engine
        if connection.state is not State.NEW:
            return
        problem = self._introduce(connection, frame, meta)
        if problem is not None:
            engine.reject(connection, f"hello.{problem}")
            engine.close(connection, "bad_hello")

    def _introduce(self, connection: Connection, frame: bytes, meta: HotMeta) -> str | None:
        """Register or hold; return what is wrong, if anything."""
        engine = self._engine
        if meta.type != verbs.SYSTEM or meta.msg != verbs.HELLO:
            return "not_hello"
        try:
            message = decode_message(frame)
            said = message.payload_as(_Hello)
        except Invalid:
            return "payload"
        uuid = canonical_uuid(said.uuid)
        if uuid is None or canonical_uuid(message.routing.src) != uuid:
            return "uuid"
        if len(frame) > _LONGEST_HELLO:
            return "too_long"
        name = full_name(said.name, engine.settings.hive)
        older = self._known(uuid)
        connection.token = token_digest(said.launch_token)
        problem = self._forbidden(connection, uuid, name, older) or self._foreign(connection, name, older)
        if problem is not None:
            return problem
        connection.identify(uuid, name)
        connection.system = is_system_name(name)
        connection.privileged = connection.system or self._is_admin(name)
        self.waiting.discard(connection)
        if older is not None:
            engine.close(older, "superseded")
        if self.configured or connection.system:
            self._register(connection, message, said.uuid)
        else:
            connection.state = State.HELD
            connection.blocked = True
            self.held[connection] = (message, said.uuid)
            engine.counts["hello_held"] += 1
        return None

    def _known(self, uuid: str) -> Connection | None:
        """The connection that this uuid belongs to now, registered or held."""
        known = self._engine.fib.by_uuid.get(uuid)
        return known or next((one for one in self.held if one.uuid == uuid), None)

    def _forbidden(
        self, connection: Connection, uuid: str, name: str, older: Connection | None
    ) -> str | None:
        settings = self._engine.settings
        if len(name.encode()) > MAX_NAME_BYTES or not name.partition("@")[0]:
            return "name"
        if uuid == settings.router_uuid:
            return "reserved_uuid"
        system = is_system_name(name)
        if not settings.open_security:
            if not name.endswith("@" + settings.hive):
                # A hive speaks only for its own names; a foreign one would beat the real remote node.
                return "foreign_hive"
            own = connection.peer.plane is not None or connection.peer.uid in settings.system_uids
            if system and not (own and name != settings.router_name):
                return "reserved_name"
            if older is not None and older.system and not system:
                # Everybody who got a message of the appliance knows its uuid.
                return "reserved_uuid"
        takes_a_place = not system and (older is None or older.system)
        if takes_a_place and self.ordinary_nodes + len(self.held) >= settings.max_nodes:
            return "too_many_nodes"
        return None

    def _foreign(self, connection: Connection, name: str, older: Connection | None) -> str | None:
        """Whether a supervised name, or the uuid of a node that has one, belongs to somebody else."""
        if self._engine.settings.open_security:
            return None
        if not self.claims.allows(name, connection.peer, connection.token):
            return "claimed_name"
        if older is not None and not self.claims.allows(older.name, connection.peer, connection.token):
            return "claimed_uuid"
        return None

    def check_claims(self) -> None:
        """Close whoever spoke for a name before it was claimed for somebody else."""
        names, self.claims.changed = self.claims.changed, set()
        engine = self._engine
        if engine.settings.open_security or not names:
            return
        for connection in [*engine.fib.by_uuid.values(), *self.held]:
            if connection.name in names and not self.claims.allows(
                connection.name, connection.peer, connection.token
            ):
                engine.close(connection, "claimed_name")

    def _is_admin(self, name: str) -> bool:
        hive = self._engine.settings.hive
        patterns = self._engine.settings.admin_nodes
        return any(
            glob_matcher(full_name(pattern, hive) if pattern != "*" else "*")(name) for pattern in patterns
        )

    def _register(self, connection: Connection, hello: Message, said_uuid: str) -> None:
        engine = self._engine
        connection.vpn = engine.fib.vpn_of(connection.name)
        connection.state = State.READY
        connection.connected_at_ms = engine.wall_ms
        # Into its queue before anybody can reach it: ANNOUNCE must be the first frame a node reads.
        engine.tell(connection, engine.replies.announce(connection, hello, said_uuid))
        engine.fib.add(connection)
        engine.changes.append(("up", connection))
        if not connection.system:
            self._ordinary.add(connection)

    def release(self) -> None:
        """The configuration is readable: register everybody who was held."""
        self.configured = True
        held, self.held = self.held, {}
        for connection, (hello, said_uuid) in held.items():
            connection.blocked = False
            self._register(connection, hello, said_uuid)
            self._engine.resumed.append(connection)

    def forget(self, connection: Connection) -> None:
        """``connection`` is being closed."""
        self.waiting.discard(connection)
        self.held.pop(connection, None)
        self._ordinary.discard(connection)

    def expire(self) -> None:
        """Close newcomers that stayed silent, and those whose name has become another's."""
        engine = self._engine
        if self.claims.changed:
            self.check_claims()
        limit = engine.now - engine.settings.hello_timeout_s
        for connection in [one for one in self.waiting if one.accepted_at <= limit]:
            engine.reject(connection, "hello.timeout")
            engine.close(connection, "hello_timeout")

    def next_deadline(self) -> float:
        """When the oldest silent newcomer is due."""
        if not self.waiting:
            return float("inf")
        return min(one.accepted_at for one in self.waiting) + self._engine.settings.hello_timeout_s
