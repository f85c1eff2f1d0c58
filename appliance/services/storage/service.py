"""SY.storage: answers how the hive's store of turns stands. Nothing runs while nobody asks.

First of its parts: figures of the turn journal (:mod:`.turns`). Queries, and bringing turns into a database
or to the motherbee, are consumers of the same journal and bind here.
"""

from __future__ import annotations

import time

import msgspec
import trio

from appliance.sdk import Node, system_reply
from appliance.system.log import get_logger
from appliance.system.paths import Paths
from appliance.wire import verbs
from appliance.wire.envelope import Message
from appliance.wire.errors import FluxbeeError

from .turns import TurnShelf

__all__ = ["StorageService", "StorageStatistics"]

log = get_logger("storage")


class StorageStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures since the start."""

    asked: int
    failures: int
    answers_lost: int


class StorageService:
    """Run :meth:`serve` with its node.

    Args:
        paths: where the turn journal lies.
    """

    def __init__(self, paths: Paths) -> None:
        self._shelf = TurnShelf(paths.journals)
        self._limiter = trio.CapacityLimiter(1)
        self._asked = self._failures = self._answers_lost = 0

    async def serve(self, node: Node) -> None:
        """Answer STORAGE_METRICS until the node is closed."""
        async for message in node.receiver:
            meta, routing = message.meta, message.routing
            if meta.type != verbs.SYSTEM or meta.msg != verbs.STORAGE_METRICS:
                continue
            if routing.dst != verbs.BROADCAST and routing.src:
                await self._send(node, message, await self.metrics())

    async def metrics(self) -> dict[str, object]:
        """Payload of the answer: ``{status, metrics}``, or an error of :meth:`TurnShelf.figures`."""
        self._asked += 1
        now_ms = time.time_ns() // 1_000_000
        try:
            figures = await trio.to_thread.run_sync(self._shelf.figures, now_ms, limiter=self._limiter)
        except FluxbeeError as error:
            self._failures += 1
            return {"status": "error", "error_code": error.code, "message": error.message}
        return {"status": "ok", "metrics": figures}

    async def _send(self, node: Node, message: Message, payload: dict[str, object]) -> None:
        try:
            await node.send(system_reply(message, payload, src=node.uuid))
        except FluxbeeError as error:
            self._answers_lost += 1
            log.warning(
                "answer_not_sent", code="ANSWER_NOT_SENT", to=message.source_l2_name, error=str(error)
            )

    def statistics(self) -> StorageStatistics:
        """A snapshot."""
        return StorageStatistics(asked=self._asked, failures=self._failures, answers_lost=self._answers_lost)
