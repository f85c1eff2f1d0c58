"""SY.world on the wire: reads messages, puts publishers together, answers in order.

A node that sends many ``WORLD_PUBLISH`` without waiting has them committed together: while one commit is
under way the next messages gather. Messages of one node are handled in the order that they came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from appliance.sdk import Node
from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.envelope import Message, system_message
from appliance.wire.errors import FluxbeeError, Refused
from appliance.wire.names import is_system_name
from appliance.world import WorldEngine
from appliance.world.together import Wanted, publish_together

from .desk import WorldDesk, failure_payload, report_payload

__all__ = ["WorldService", "WorldServiceStatistics"]

_GATHER: Final = 64
"""Messages that wait for the worker, and that one commit holds at most."""

_RESPONSE: Final = verbs.response_verb("")

log = get_logger("world")


class WorldServiceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start; ``refused`` includes payloads that were wrong."""

    messages: int
    published: int
    refused: int
    commits: int
    unanswered: int


class WorldService:
    """Run :meth:`serve` with the node ``SY.world``.

    Args:
        engine: the world.
        auth_enabled: whether writes need a credential.
        node_namespaces: ``pattern=namespace`` as in the settings.
        figures: the plane's other statistics by source, for ``WORLD_STATISTICS``.
    """

    def __init__(
        self,
        engine: WorldEngine,
        *,
        auth_enabled: bool,
        node_namespaces: Sequence[str],
        figures: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._engine = engine
        self._figures = figures
        self._desk = WorldDesk(engine, auth_enabled=auth_enabled, node_namespaces=node_namespaces)
        self._messages = self._published = self._refused = self._commits = self._unanswered = 0

    def statistics(self) -> WorldServiceStatistics:
        """Counts since the start."""
        return WorldServiceStatistics(
            messages=self._messages,
            published=self._published,
            refused=self._refused,
            commits=self._commits,
            unanswered=self._unanswered,
        )

    async def serve(self, node: Node) -> None:
        """Answer messages until the node is closed."""
        gathered, waiting = trio.open_memory_channel[Message](_GATHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work, node, waiting)
            async with gathered:
                async for message in node.receiver:
                    if _is_request(message):
                        self._messages += 1
                        await gathered.send(message)

    async def _work(self, node: Node, waiting: trio.MemoryReceiveChannel[Message]) -> None:
        async for message in waiting:
            batch = [message]
            while len(batch) < _GATHER:
                try:
                    batch.append(waiting.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            await self._handle(node, batch)

    async def _handle(self, node: Node, batch: list[Message]) -> None:
        """Answer ``batch`` in order; publishers that follow each other share a commit."""
        wanted: list[Wanted] = []
        senders: list[Message] = []
        for message in batch:
            try:
                if message.meta.msg == verbs.WORLD_PUBLISH:
                    wanted.append(self._desk.wanted(message))
                    senders.append(message)
                    continue
                await self._publish(node, senders, wanted)
                wanted, senders = [], []
                payload = await self._answer(message)
            except FluxbeeError as error:
                self._refused += 1
                payload = failure_payload(error)
            await self._send(node, message, payload)
        await self._publish(node, senders, wanted)

    async def _answer(self, message: Message) -> dict[str, object]:
        if message.meta.msg != verbs.WORLD_STATISTICS:
            return await self._desk.answer(message)
        if not is_system_name(message.source_l2_name or ""):
            raise Refused("the world's figures are for SY.*")
        return {"status": "ok", "figures": {**self._figures(), "world_service": self.statistics()}}

    async def _publish(self, node: Node, senders: list[Message], wanted: list[Wanted]) -> None:
        if not senders:
            return
        self._commits += 1
        for message, outcome in zip(senders, await publish_together(self._engine, wanted), strict=True):
            if isinstance(outcome, FluxbeeError):
                self._refused += 1
            else:
                self._published += outcome.successful
            await self._send(node, message, report_payload(outcome))

    async def _send(self, node: Node, message: Message, payload: dict[str, object]) -> None:
        answer = system_message(
            src=node.uuid,
            dst=message.routing.src,
            verb=verbs.response_verb(message.meta.msg or ""),
            payload=payload,
            trace_id=message.routing.trace_id,
        )
        try:
            await node.send(answer)
        except FluxbeeError as error:
            self._unanswered += 1
            log.warning(
                "answer_not_sent", code="ANSWER_NOT_SENT", to=message.source_l2_name, error=str(error)
            )


def _is_request(message: Message) -> bool:
    """Whether this is for the world: what is not (broadcasts, answers, notices) is never answered."""
    verb = message.meta.msg or ""
    return (
        message.meta.type == verbs.SYSTEM
        and verb.startswith("WORLD_")
        and not verb.endswith(_RESPONSE)
        and bool(message.routing.src)
        and message.routing.dst != verbs.BROADCAST
    )
