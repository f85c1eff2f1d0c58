"""Is the hive well? Asked by the doors' ``/health`` and by ``fluxbee status``.

The answer is put together when somebody asks: what the router says about itself and its journals, what the
keeper says about the planes, what this plane's own journals say. Nothing polls, so an idle box stays idle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import trio

from appliance import __version__
from appliance.sdk import Node
from appliance.services.sharing import Shared
from appliance.store.journal_types import JournalStatistics
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.space import rooms
from appliance.wire import verbs
from appliance.wire.envelope import system_message
from appliance.wire.errors import FluxbeeError

__all__ = ["HealthReport", "HealthService", "JournalState", "PlaneState", "journal_states"]

ROUTER_TIMEOUT_S = 0.7
"""A router that is well answers in a millisecond; the whole of ``/health`` has a second."""


class PlaneState(msgspec.Struct, frozen=True):
    """What the keeper knows about one plane."""

    name: str
    state: str
    restarts: int
    why: str | None = None


class JournalState(msgspec.Struct, frozen=True):
    """A journal that may be failed; ``failure`` is the operating system's reason."""

    name: str
    failure: str | None


def journal_states(figures: JournalStatistics, region: str, failure: str | None) -> list[JournalState]:
    """What a journalled service tells: its journal, and ``region`` when ``failure`` keeps it behind."""
    states = [JournalState(f"journal {figures.name}", figures.failure)]
    if failure is not None:
        states.append(JournalState(f"region {region}", failure))
    return states


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """``reasons`` is empty when the hive is well; ``facts`` are plain figures for people and monitors.

    ``notices`` ask for somebody's eye and leave the hive well: a node that is parked, a disk that fills up.
    """

    reasons: tuple[str, ...]
    notices: tuple[str, ...] = ()
    facts: dict[str, str | int | float | bool]
    planes: tuple[PlaneState, ...] = ()


class _RouterStatus(msgspec.Struct):
    router_name: str
    nodes: int
    held: int
    configured: bool
    journals: list[JournalState] = []
    regions: list[JournalState] = []


class HealthService:
    """Collects the report.

    Args:
        hive: hive id.
        role: ``motherbee`` or ``worker``.
        planes: asks the keeper; ``None`` without one (a harness).
        journals: this plane's journals.
        notices: further things that people should see.
        places: directories whose file systems must have room.
        reserve: of the disk.
    """

    def __init__(
        self,
        hive: str,
        role: str,
        *,
        planes: Callable[[], Awaitable[Sequence[PlaneState]]] | None = None,
        journals: Callable[[], Sequence[JournalState]] = tuple,
        notices: Callable[[], Sequence[str]] = tuple,
        places: Sequence[Path] = (),
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self._hive = hive
        self._role = role
        self._planes = planes
        self._journals = journals
        self._notices = notices
        self._places = places
        self._reserve = reserve
        self._shared: Shared[HealthReport] = Shared()
        self.node: Node | None = None

    async def serve(self, node: Node) -> None:
        """Answer HEALTH_GET until the node is closed."""
        self.node = node
        async for message in node.receiver:
            if message.meta.type == verbs.SYSTEM and message.meta.msg == verbs.HEALTH_GET:
                report = await self.report()
                payload = {
                    "status": "ok",
                    "reasons": report.reasons,
                    "notices": report.notices,
                    "planes": report.planes,
                    "facts": report.facts,
                }
                answer = system_message(
                    src=node.uuid,
                    dst=message.routing.src,
                    verb=verbs.response_verb(verbs.HEALTH_GET),
                    payload=payload,
                    trace_id=message.routing.trace_id,
                )
                await node.send(answer)

    async def report(self) -> HealthReport:
        """Ask everybody at once; who does not answer in time is a reason. Many who ask are asked for once."""
        return await self._shared.ask(b"", self._report)

    async def _report(self) -> HealthReport:
        reasons: list[str] = []
        planes: list[PlaneState] = []
        facts: dict[str, str | int | float | bool] = {
            "version": __version__,
            "hive_id": self._hive,
            "role": self._role,
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_router, reasons, facts)
            if self._planes is not None:
                nursery.start_soon(self._ask_keeper, self._planes, reasons, planes)
        reasons += [_failed(journal) for journal in self._journals() if journal.failure]
        reasons += self._reserve.reasons()
        facts |= self._reserve.facts()
        notices = list(self._notices())
        for room in rooms(self._places):
            (reasons if room.full else notices).append(str(room))
        return HealthReport(reasons=tuple(reasons), notices=tuple(notices), facts=facts, planes=tuple(planes))

    async def _ask_router(self, reasons: list[str], facts: dict[str, str | int | float | bool]) -> None:
        node = self.node
        if node is None or not node.is_connected:
            reasons.append("the router is not connected")
            return
        question = system_message(src=node.uuid, dst=node.router_name, verb=verbs.ROUTER_STATUS, payload={})
        try:
            answer = await node.request(question, timeout_s=ROUTER_TIMEOUT_S)
            status = answer.payload_as(_RouterStatus)
        except FluxbeeError as error:
            reasons.append(f"the router does not answer: {error.message}")
            return
        facts |= {"router": status.router_name, "nodes": status.nodes, "configured": status.configured}
        if not status.configured:
            reasons.append(f"the configuration is unreadable; {status.held} nodes are held")
        reasons += [_failed(one) for one in (*status.journals, *status.regions) if one.failure]

    async def _ask_keeper(
        self,
        ask: Callable[[], Awaitable[Sequence[PlaneState]]],
        reasons: list[str],
        planes: list[PlaneState],
    ) -> None:
        try:
            planes += await ask()
        except FluxbeeError as error:
            reasons.append(f"the keeper does not answer: {error.message}")
        reasons += [f"plane {plane.name} is {plane.state}" for plane in planes if plane.state != "ready"]


def _failed(journal: JournalState) -> str:
    return f"{journal.name} does not take writes: {journal.failure}"
