"""The numbers of one node."""

from __future__ import annotations

import msgspec

__all__ = ["NodeStatistics"]


class NodeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot; counters run since the node was connected first.

    Attributes:
        losses: connections lost; ``last_loss`` says why the last one was.
        reconnects: connections made again.
        frames_in, frames_out: whole frames read, and handed to the kernel.
        undecodable: frames that were no message; the connection was kept.
        inbound_held: messages that wait for the author.
        inbound_dropped: messages that came after the receiver was closed.
        outbound_held: messages that wait to be sent.
        outbound_expired: messages dropped because no connection came within their deadline.
        requests_refused: requests that ended with a router-made error.
        late_replies: replies that came after their request had given up.
        answered: status, echo and configuration requests answered without the author.
        unanswered: the same that could not be, because a queue was full.
        offloaded: texts that travelled as a blob.
        offload_failures: texts that should have, but could not be stored.
    """

    is_connected: bool
    losses: int
    reconnects: int
    last_loss: str | None
    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int
    undecodable: int
    last_undecodable: str | None
    inbound_held: int
    inbound_dropped: int
    outbound_held: int
    outbound_held_bytes: int
    outbound_expired: int
    requests_waiting: int
    requests_answered: int
    requests_refused: int
    late_replies: int
    answered: int
    unanswered: int
    offloaded: int
    offload_failures: int
