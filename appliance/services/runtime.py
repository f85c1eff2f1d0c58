"""How a service lives: connect as its SY.* node, serve, and come back when the router does.

A service is an async function of a connected :class:`~appliance.sdk.Node`. The router may start later than
the service, or restart at any time: the first connection is retried here, later ones by the SDK.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from appliance.sdk import Dial, Node, NodeConfig, UuidMode, connect
from appliance.system.log import get_logger
from appliance.system.paths import Paths
from appliance.wire.errors import Refused, Unavailable, Unreachable

__all__ = ["Serve", "run_service"]

Serve = Callable[[Node], Awaitable[None]]
"""Serves until cancelled, or until the node is closed."""

_FIRST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 1.0
"""The hive is not itself again before its services are: a router that fell often must not be waited out."""

log = get_logger("services")


async def run_service(
    name: str,
    serve: Serve,
    *,
    dial: Dial,
    paths: Paths,
    answer_status: bool | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one service until cancelled; started means connected for the first time.

    Args:
        name: L2 name; the uuid persists beside those of other nodes.
        serve: what it does.
        dial: makes a connection to the router over the planes' own way.
        paths: where uuids and blobs lie.
        answer_status: ``False`` leaves NODE_STATUS_GET to the service, as in ``NodeConfig``.
    """
    config = NodeConfig(
        name=name,
        paths=paths,
        dial=dial,
        uuid_mode=UuidMode.PERSISTENT,
        reconnect_cap_s=_LONGEST_WAIT_S,
        answer_echo=True,
        answer_status=answer_status,
    )
    wait_s = _FIRST_WAIT_S
    noted = False
    while True:
        try:
            async with connect(config) as node:
                log.debug("service_connected", name=node.full_name)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                wait_s = _FIRST_WAIT_S
                await serve(node)
                return
        except (Unreachable, Unavailable, Refused, OSError) as error:
            if not noted and wait_s >= _LONGEST_WAIT_S:
                noted = True
                log.warning(
                    "service_waits_for_router", code="SERVICE_WAITS_FOR_ROUTER", name=name, error=str(error)
                )
        await trio.sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
