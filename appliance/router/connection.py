"""One accepted socket as the engine sees it: who it is, what it sent, what waits for it.

Identity is the object itself (and its ever-growing ``generation``), never a uuid or a timestamp: cleanup
of an old connection cannot hurt a newer one with the same uuid (``spec/node-protocol.md §1.6``). Sans-IO.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from .outbox import Limits, Outbox

__all__ = ["Connection", "Peer", "State"]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end, as the kernel or the keeper says.

    ``plane`` is the plane's name when the connection came over an inherited socketpair: those are the
    appliance itself. ``pid`` and ``uid`` are of the connecting process (SO_PEERCRED), -1 when unknown.
    """

    pid: int = -1
    uid: int = -1
    gid: int = -1
    plane: str | None = None


class State(Enum):
    """Life of a connection."""

    NEW = "new"
    """Accepted; HELLO has not come yet."""
    HELD = "held"
    """Said HELLO while the configuration is unreadable; not announced, not routable."""
    READY = "ready"
    CLOSED = "closed"


class Connection:
    """State of one link. Slots are public to the router's own modules."""

    __slots__ = (
        "accepted_at",
        "blocked",
        "claim",
        "closing",
        "connected_at_ms",
        "deaf",
        "dirty",
        "generation",
        "name",
        "outbox",
        "pause_until",
        "paused_on",
        "peer",
        "privileged",
        "rejected",
        "rest",
        "route_generation",
        "routes",
        "stamp",
        "state",
        "system",
        "token",
        "uuid",
        "vpn",
    )

    def __init__(self, generation: int, peer: Peer, limits: Limits, now: float) -> None:
        self.generation = generation
        self.peer = peer
        self.outbox = Outbox(limits)
        self.state = State.NEW
        self.uuid = ""
        self.name = ""
        self.vpn = 0
        self.token = ""  # digest of the launch token in HELLO, empty without one
        # How a frame of this sender begins, and how it begins when it leaves.
        self.claim = b"\0"
        self.stamp = b""
        self.system = False
        self.privileged = False
        self.accepted_at = now
        self.connected_at_ms = 0
        self.rest = b""
        self.closing: str | None = None
        self.blocked = False  # paused, held or closed: stop in the middle of what was read
        self.deaf = False  # takes nothing any more, and is read to its end
        self.dirty = False
        self.pause_until = 0.0
        self.paused_on: Connection | None = None
        self.rejected = 0
        # Where this sender's destinations lead, valid for one generation of the forwarding table.
        self.routes: dict[str | None, Connection] = {}
        self.route_generation = -1

    def identify(self, uuid: str, name: str) -> None:
        """HELLO said who this is; ``uuid`` is canonical text."""
        self.uuid = uuid
        self.name = name
        self.claim = b'{"routing":{"src":"%b",' % uuid.encode()
        self.stamp = b'{"routing":{"src":"%b","src_l2_name":%b' % (uuid.encode(), msgspec.json.encode(name))

    def __repr__(self) -> str:
        return f"<Connection {self.generation} {self.name or '?'} {self.state.value}>"
