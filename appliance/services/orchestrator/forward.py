"""Passing a request on to the orchestrator of another hive (``spec/admin-api.md §A.8``).

The answer is passed through as it comes. A hive that cannot be reached answers with the action's own code and
a text that holds ``UNREACHABLE``, which operators' scripts look for.
"""

from __future__ import annotations

from typing import Final

from appliance.wire.errors import FluxbeeError, Unreachable

from .house import House, Payload, Request
from .verbs_table import SYSTEM_FORM

__all__ = ["FORWARD_CODES", "forward"]

FORWARD_CODES: Final = {
    "run_node": "SPAWN_FAILED",
    "kill_node": "KILL_FAILED",
    "start_node": "START_FAILED",
    "restart_node": "RESTART_FAILED",
    "list_nodes": "NODE_LIST_FAILED",
    "get_versions": "VERSIONS_FAILED",
    "list_runtimes": "RUNTIMES_FAILED",
    "get_runtime": "RUNTIME_GET_FAILED",
    "get_node_config": "NODE_CONFIG_GET_FAILED",
    "set_node_config": "NODE_CONFIG_SET_FAILED",
    "get_node_state": "NODE_STATE_GET_FAILED",
    "get_node_status": "NODE_STATUS_GET_FAILED",
    "remove_node_instance": "NODE_INSTANCE_REMOVE_FAILED",
}

_LONGEST_S: Final = 28.0
"""Below the admin API's 30 s, so that the code of the failure is seen and not a time-out (§A.6)."""


async def forward(house: House, action: str, request: Request, hive: str) -> Payload:
    """Ask ``SY.orchestrator@<hive>`` to do ``action``.

    Raises:
        Unreachable: with the action's code of :data:`FORWARD_CODES`.
    """
    timeout_s = min(float(house.settings.forward_timeout_s), _LONGEST_S)
    try:
        return await house.ask(
            f"SY.orchestrator@{hive}", SYSTEM_FORM[action], {**request, "target": hive}, timeout_s=timeout_s
        )
    except FluxbeeError as error:
        raise Unreachable(
            f"{action} on {hive}: {error.message}",
            code=FORWARD_CODES[action],
            remedy="Check that the hive is connected.",
            details={"target": hive, "hive": hive},
        ) from error
