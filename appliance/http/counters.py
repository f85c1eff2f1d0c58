"""What a door counts. The counters are plain integers of the one loop that the door runs on."""

from __future__ import annotations

import msgspec

__all__ = ["Counters", "DoorStatistics"]


class DoorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the door opened, and what is open now.

    ``responses_*`` count begun responses by status class; an accepted WebSocket counts as 1xx.
    ``deadline_hits`` are 504s, ``body_timeouts`` 408s with a request under way, ``clients_gone`` requests
    whose client left before the body was whole, ``slow_heads`` connections cut before their request was
    complete, ``stalled`` connections cut because the client took nothing, ``turned_away`` connections over
    the limit, ``cut_at_stop`` connections still open when the grace ended, ``protocol_errors`` clients that
    did not speak HTTP or WebSocket.
    """

    name: str
    addresses: tuple[str, ...]
    open_connections: int
    open_websockets: int
    connections: int
    turned_away: int
    accept_errors: int
    responses_1xx: int
    responses_2xx: int
    responses_3xx: int
    responses_4xx: int
    responses_5xx: int
    refused_host: int
    refused_origin: int
    refused_token: int
    deadline_hits: int
    body_timeouts: int
    bodies_too_large: int
    internal_errors: int
    protocol_errors: int
    clients_gone: int
    slow_heads: int
    stalled: int
    cut_at_stop: int


class Counters:
    """The mutable side of ``DoorStatistics``."""

    __slots__ = (
        "accept_errors",
        "bodies_too_large",
        "body_timeouts",
        "clients_gone",
        "connections",
        "cut_at_stop",
        "deadline_hits",
        "internal_errors",
        "open_websockets",
        "protocol_errors",
        "refused",
        "responses",
        "slow_heads",
        "stalled",
        "turned_away",
    )

    def __init__(self) -> None:
        self.accept_errors = 0
        self.bodies_too_large = 0
        self.body_timeouts = 0
        self.clients_gone = 0
        self.connections = 0
        self.cut_at_stop = 0
        self.deadline_hits = 0
        self.internal_errors = 0
        self.open_websockets = 0
        self.protocol_errors = 0
        self.refused = {"HOST_REFUSED": 0, "ORIGIN_REFUSED": 0, "TOKEN_REQUIRED": 0}
        self.responses = [0, 0, 0, 0, 0, 0]
        self.slow_heads = 0
        self.stalled = 0
        self.turned_away = 0

    def freeze(self, *, name: str, addresses: tuple[str, ...], open_connections: int) -> DoorStatistics:
        """The counts as they are now."""
        return DoorStatistics(
            name=name,
            addresses=addresses,
            open_connections=open_connections,
            open_websockets=self.open_websockets,
            connections=self.connections,
            turned_away=self.turned_away,
            accept_errors=self.accept_errors,
            responses_1xx=self.responses[1],
            responses_2xx=self.responses[2],
            responses_3xx=self.responses[3],
            responses_4xx=self.responses[4],
            responses_5xx=self.responses[5],
            refused_host=self.refused["HOST_REFUSED"],
            refused_origin=self.refused["ORIGIN_REFUSED"],
            refused_token=self.refused["TOKEN_REQUIRED"],
            deadline_hits=self.deadline_hits,
            body_timeouts=self.body_timeouts,
            bodies_too_large=self.bodies_too_large,
            internal_errors=self.internal_errors,
            protocol_errors=self.protocol_errors,
            clients_gone=self.clients_gone,
            slow_heads=self.slow_heads,
            stalled=self.stalled,
            cut_at_stop=self.cut_at_stop,
        )
