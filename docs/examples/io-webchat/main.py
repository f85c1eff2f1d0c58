"""io.webchat: people talk with a node of the hive in their browser.

This file puts the parts together; they are in ``chat/``. The node connects first, then the door opens; a new
``listen`` moves the door while the node runs.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import trio
from chat.door import application, door_config
from chat.hub import Hub
from chat.settings import Settings

from appliance.http import serve
from appliance.sdk import HealthState, ManagedConfig, run_node
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError

PACKAGE = Path(__file__).resolve().parent
log = get_logger("io.webchat")


async def main(config_file: Path) -> None:
    """Run until SIGTERM or Ctrl-C, with ``config_file`` below what the hive configures."""
    config = ManagedConfig(Settings, defaults=config_file, config_schema="webchat_v1")
    async with trio.open_nursery() as nursery:
        hub = Hub(config, nursery)

        async def node(task_status: trio.TaskStatus[object]) -> None:
            await run_node(
                "IO.webchat",
                hub.handle,
                control=config.control(),
                on_system=config.on_system,
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()  # SIGTERM ends the node, and the node the rest

        hub.node = await nursery.start(node)
        await _keep_door_open(hub, config)


async def _keep_door_open(hub: Hub, config: ManagedConfig[Settings]) -> None:
    """Serve where the configuration says, for as long as it says so."""
    app = application(hub)
    while True:
        wanted = door_config(config.values)
        try:
            async with trio.open_nursery() as serving:
                door = await serving.start(partial(serve, app, wanted))
                log.info("chat_open", url=f"http://{door.addresses[0]}/")
                _healthy(hub, None)
                while door_config(config.values) == wanted:
                    await config.wait_change()
                serving.cancel_scope.cancel()
        except* FluxbeeError as group:
            # Where the door cannot open, the node stays: a better configuration may come.
            error = group.exceptions[0]
            _healthy(hub, error)
            log.warning("chat_not_open", code="CHAT_NOT_OPEN", reason=str(error))
            await config.wait_change()


def _healthy(hub: Hub, error: BaseException | None) -> None:
    assert hub.node is not None
    hub.node.health.state = HealthState.HEALTHY if error is None else HealthState.ERROR
    hub.node.health.last_error = None if error is None else {"message": str(error)}


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE / "config" / "default-config.json"
    trio.run(main, given)
