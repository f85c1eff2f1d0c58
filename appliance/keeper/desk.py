"""Answers what planes ask over their channels; no waiting, every refusal counted.

Every send is tried once: a plane that does not read loses its own answers, nobody else's. Descriptors that
arrive are closed here in every case; the routing plane gets a duplicate. What is asked about nodes goes on to
the keeper's :class:`NodeHouse`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from appliance.keeper.nodes import NodeHouse
from appliance.keeper.nodes_protocol import FollowNodes, ForgetNode, ListNodes, StartNode, StopNode
from appliance.keeper.plan import KeeperPlan, PlaneState
from appliance.keeper.protocol import (
    Health,
    KeeperStatistics,
    KeeperStatus,
    Link,
    Ready,
    Reply,
    Request,
    Restart,
    Status,
    decode_request,
    encode,
    refusal,
)
from appliance.system.channel import Channel, Packet, close_all
from appliance.wire.errors import Busy, FluxbeeError, Invalid, Unavailable

__all__ = ["Counters", "Desk"]


class Counters(msgspec.Struct):
    """The keeper's own counters while they count; ``KeeperStatistics`` is their frozen picture."""

    turns: int = 0
    forks: int = 0
    fork_failures: int = 0
    threads_at_fork: int = 0
    orphans_reaped: int = 0
    requests: int = 0
    requests_rejected: int = 0
    links_forwarded: int = 0
    links_refused: int = 0
    sends_dropped: int = 0
    packets_dropped: int = 0
    floods_paused: int = 0


class Desk:
    """Carries out requests on the plan and between channels.

    Args:
        plan: decides.
        channels: the keeper's ends by plane; the keeper's loop keeps it current.
        counters: shared with the loop.
        started_at: monotonic seconds at the keeper's start.
        nodes: starts and ends node processes.
    """

    def __init__(
        self,
        plan: KeeperPlan,
        channels: Mapping[str, Channel],
        counters: Counters,
        *,
        started_at: float,
        nodes: NodeHouse,
    ) -> None:
        self._nodes = nodes
        self._plan = plan
        self._channels = channels
        self._counters = counters
        self._started_at = started_at

    def serve(self, plane: str, packet: Packet, now: float) -> None:
        """Carry out and answer one packet of ``plane``."""
        self._counters.requests += 1
        try:
            request = decode_request(packet.data)
            reply = request if isinstance(request, Reply) else self._answer(plane, request, packet.fds, now)
        finally:
            close_all(packet.fds)
        if not reply.ok:
            self._counters.requests_rejected += 1
        if reply.id > 0:
            self.send(plane, encode(reply))

    def send(self, plane: str, data: bytes, fds: tuple[int, ...] = ()) -> bool:
        """Try once to send to a plane; a failure is counted."""
        channel = self._channels.get(plane)
        sent = channel is not None and channel.send(data, fds)
        self._counters.sends_dropped += not sent
        return sent

    def statistics(self) -> KeeperStatistics:
        """All counters of the keeper."""
        truncated = sum(channel.statistics().dropped_truncated for channel in self._channels.values())
        picture = KeeperStatistics(kills=self._plan.kills, **msgspec.structs.asdict(self._counters))
        return msgspec.structs.replace(picture, packets_dropped=picture.packets_dropped + truncated)

    def status(self, now: float) -> KeeperStatus:
        """The keeper and all planes."""
        return KeeperStatus(
            pid=os.getpid(),
            uptime_s=round(now - self._started_at, 3),
            stopping=self._plan.stopping,
            planes=self._plan.status(now),
            statistics=self.statistics(),
            nodes=self._nodes.statistics(),
        )

    def _answer(self, plane: str, request: Request, fds: tuple[int, ...], now: float) -> Reply:
        try:
            result = self._carry_out(plane, request, fds, now)
        except FluxbeeError as error:
            return refusal(request.id, error)
        return Reply(id=request.id, result=msgspec.Raw(result))

    def _carry_out(self, plane: str, request: Request, fds: tuple[int, ...], now: float) -> bytes:
        match request:
            case Ready():
                self._plan.ready(plane, now)
            case Health(timeout_s=timeout_s):
                self._plan.health(plane, timeout_s, now)
            case Restart(plane=name):
                self._plan.request_restart(name, now)
            case Link():
                self._forward(plane, request, fds)
            case Status():
                return encode(self.status(now))
            case StartNode(launch=launch):
                return encode(self._nodes.start(launch, now))
            case StopNode(name=name, signal=signal, grace_s=grace_s):
                return encode(self._nodes.stop(name, signal, grace_s, now))
            case ForgetNode(name=name):
                self._nodes.forget(name, now)
            case ListNodes(after=after):
                return encode(self._nodes.page(after))
            case FollowNodes():
                self._nodes.voice.follow(plane)
        return b"null"

    def _forward(self, plane: str, request: Link, fds: tuple[int, ...]) -> None:
        try:
            self._try_forward(plane, request, fds)
        except FluxbeeError:
            self._counters.links_refused += 1
            raise
        self._counters.links_forwarded += 1

    def _try_forward(self, plane: str, request: Link, fds: tuple[int, ...]) -> None:
        if len(fds) != 1:
            raise Invalid(f"a link needs one descriptor, not {len(fds)}", field="fds")
        target = self._plan.routing
        state = self._plan.state(target)
        if state not in (PlaneState.STARTING, PlaneState.READY) or target not in self._channels:
            raise Unavailable(f"the plane {target} is {state}; try again")
        # A starting plane finds the link in its channel; what the asker writes meanwhile waits in the link.
        if not self.send(target, encode(Link(name=request.name, plane=plane)), fds):
            raise Busy(f"the plane {target} has too many links waiting")
