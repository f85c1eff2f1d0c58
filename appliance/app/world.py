"""The world plane: the world's rooms, its door and the node SY.world, bound together."""

from __future__ import annotations

import trio

from appliance.sdk import Node
from appliance.services.runtime import run_service

from .hive import Hive, Seams

__all__ = ["world_plane"]


async def world_plane(
    hive: Hive, seams: Seams, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Be present as SY.world until cancelled: it answers status and echo; the world's rooms bind here."""
    dial = seams.dial("SY.world")
    await run_service("SY.world", _present, dial=dial, paths=hive.paths, task_status=task_status)


async def _present(node: Node) -> None:
    async for _ in node.receiver:
        pass  # status and echo are answered by the SDK; nothing else is for this node yet
