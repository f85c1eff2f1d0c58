"""What keeper and planes say to each other: one JSON object with an ``op`` per packet, at most 64 KiB.

A plane asks with an ``id`` above 0 and gets one ``reply`` with that id; id 0 asks for no reply. An op that
the keeper does not know is answered with an error, never with silence. The keeper orders with ``stop`` and
hands over connections with ``link`` and one descriptor. The words about node processes are in
:mod:`appliance.keeper.nodes_protocol`. No I/O in this module.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from appliance.keeper.nodes_protocol import (
    LAUNCH_FAILED,
    NODE_RUNNING,
    UNIT_RUNNING,
    Claims,
    FollowNodes,
    ForgetNode,
    ListNodes,
    NodeEnded,
    NodeStatistics,
    StartNode,
    StopNode,
    Unclaim,
)
from appliance.keeper.numbers import RequestId
from appliance.wire.errors import (
    Busy,
    Conflict,
    FluxbeeError,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
)

__all__ = [
    "Health",
    "KeeperStatistics",
    "KeeperStatus",
    "Link",
    "Order",
    "PlaneStatus",
    "Ready",
    "Reply",
    "Request",
    "Restart",
    "Status",
    "Stop",
    "decode_order",
    "decode_request",
    "encode",
    "error_of",
    "refusal",
]

PlaneName = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
LinkName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
HealthTimeout = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="ready"):
    """Plane → keeper: this plane serves. Saying it again changes nothing."""

    id: RequestId = 0


class Health(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="health"):
    """Plane → keeper: alive; without another one within ``timeout_s`` the plane counts as hung."""

    id: RequestId = 0
    timeout_s: HealthTimeout


class Status(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="status"):
    """Plane → keeper: how are you all? Answered with a :class:`KeeperStatus` in ``result``."""

    id: RequestId = 0


class Restart(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="restart"):
    """Plane → keeper: stop that plane cleanly and start it again; a parked one gets a new chance."""

    id: RequestId = 0
    plane: PlaneName


class Link(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="link"):
    """A connection to the router, its socket in the packet's one descriptor.

    Plane → keeper: ``plane`` is ignored. Keeper → routing plane: ``plane`` names the asker, as the keeper
    knows it by the channel; ``name`` is what the asker called the connection.
    """

    id: RequestId = 0
    name: LinkName
    plane: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="stop"):
    """Keeper → plane: finish what was acknowledged and exit with 0 within ``grace_s`` seconds."""

    reason: str
    grace_s: float


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="op", tag="reply"):
    """Keeper → plane: the answer to the request ``id``; a refusal has ``code`` and ``message``."""

    id: int
    code: str = ""
    message: str = ""
    result: msgspec.Raw = msgspec.Raw()

    @property
    def ok(self) -> bool:
        """Whether the request was carried out."""
        return not self.code


Request = (
    Ready | Health | Status | Restart | Link | StartNode | StopNode | ForgetNode | ListNodes | FollowNodes
)
Order = Stop | Link | Reply | NodeEnded | Claims | Unclaim


class PlaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One plane as the keeper sees it.

    ``state`` is one of ``waiting`` (back-off), ``starting``, ``ready``, ``stopping``, ``parked``,
    ``stopped``. ``restarts`` counts all starts but the first, ``failures`` those exits since the last
    sustained health that nobody asked for. ``start_s`` is the time from fork to ready of the running
    process, ``retry_in_s`` the time to the next attempt.
    """

    name: str
    state: str
    pid: int | None
    restarts: int
    failures: int
    parked: str | None
    last_exit: str | None
    uptime_s: float | None
    start_s: float | None
    retry_in_s: float | None


class KeeperStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of the keeper since its start; ``turns`` of its loop tell a loop that spins."""

    turns: int = 0
    forks: int = 0
    fork_failures: int = 0
    threads_at_fork: int = 0
    kills: int = 0
    orphans_reaped: int = 0
    requests: int = 0
    requests_rejected: int = 0
    links_forwarded: int = 0
    links_refused: int = 0
    sends_dropped: int = 0
    packets_dropped: int = 0
    floods_paused: int = 0


class KeeperStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``status``."""

    pid: int
    uptime_s: float
    stopping: bool
    planes: tuple[PlaneStatus, ...]
    statistics: KeeperStatistics
    nodes: NodeStatistics = NodeStatistics()


class _Head(msgspec.Struct, frozen=True):
    op: str = ""
    id: RequestId = 0


_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_order_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_head_decoder = msgspec.json.Decoder(_Head)
encode = msgspec.json.encode


def decode_request(data: bytes) -> Request | Reply:
    """What a plane asks, or the refusal that it gets when that is not understood.

    The refusal carries the request's id as far as it could be read, else 0 (nobody waits for that).
    """
    try:
        return _request_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = _clip(str(error))
    try:
        head = _head_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return refusal(0, Invalid(f"not a request: {problem}"))
    return refusal(head.id, Invalid(f"request {_clip(head.op)!r} is not understood: {problem}"))


def decode_order(data: bytes) -> Order:
    """What the keeper orders or answers.

    Raises:
        Invalid: keeper and plane come from one program, so this is a defect; count it and go on.
    """
    try:
        return _order_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the keeper sent what is not understood: {error}") from error


def refusal(request_id: int, error: FluxbeeError) -> Reply:
    """The reply that says no; its message is cut, so that it always fits into a packet."""
    return Reply(id=request_id, code=error.code, message=_clip(error.message))


def _clip(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


_BY_CODE: dict[str, type[FluxbeeError]] = {
    **{kind.code: kind for kind in (Busy, Conflict, Invalid, NotFound, Refused, Unavailable)},
    NODE_RUNNING: Conflict,
    UNIT_RUNNING: Conflict,
    LAUNCH_FAILED: Invalid,
}


def error_of(reply: Reply) -> FluxbeeError:
    """The error that a refusing reply stands for, of the class that the keeper raised."""
    return _BY_CODE.get(reply.code, Unavailable)(reply.message, code=reply.code)
