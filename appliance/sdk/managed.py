"""A managed node's name and directories (``spec/node-protocol.md §1.1``, §8.1).

The supervisor gives a spawned node its name in ``FLUXBEE_NODE_NAME`` and nothing else; a node started by hand
falls back to its own default. Names and places only; nothing here touches the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.system.paths import Paths
from appliance.wire.errors import Invalid

__all__ = [
    "LAUNCH_TOKEN_ENV",
    "NODE_NAME_ENV",
    "managed_node_config_path",
    "managed_node_instance_dir",
    "managed_node_name",
    "managed_node_state_path",
]

NODE_NAME_ENV = "FLUXBEE_NODE_NAME"
LAUNCH_TOKEN_ENV = "FLUXBEE_LAUNCH_TOKEN"  # noqa: S105 - the name of a variable
"""Set by our supervisor; carried in HELLO as ``launch_token``, which other routers ignore."""


def managed_node_name(
    default: str, legacy_keys: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> str:
    """The node's name: ``FLUXBEE_NODE_NAME``, else the first set of ``legacy_keys``, else ``default``.

    Args:
        default: used when no variable is set to more than blanks.
        legacy_keys: older variables of this node, in order.
        environment: default ``os.environ``.
    """
    values = os.environ if environment is None else environment
    for key in (NODE_NAME_ENV, *legacy_keys):
        if name := values.get(key, "").strip():
            return name
    return default


def managed_node_instance_dir(node_name: str, root: Path | None = None) -> Path:
    """``<root>/<KIND>/<name@hive>`` of a managed node.

    Args:
        node_name: full L2 name; its kind is the text before the first ``.``.
        root: default the hive's ``nodes`` directory.

    Raises:
        Invalid: no ``@``, an empty part, or characters that would leave the directory.
    """
    local, at, hive = node_name.partition("@")
    kind = local.partition(".")[0]
    parts_fine = at and kind and hive and kind not in (".", "..")
    if not parts_fine or "/" in node_name or "\0" in node_name:
        raise Invalid(
            f"{node_name!r} is no full node name",
            field="node_name",
            remedy="Use a full name such as AI.echo@hive.",
        )
    return (root or Paths.from_environment().nodes) / kind / node_name


def managed_node_config_path(node_name: str, root: Path | None = None) -> Path:
    """``config.json`` of a managed node: bootstrap configuration, written by the orchestrator."""
    return managed_node_instance_dir(node_name, root) / "config.json"


def managed_node_state_path(node_name: str, root: Path | None = None) -> Path:
    """``state.json`` of a managed node: written by the node itself."""
    return managed_node_instance_dir(node_name, root) / "state.json"
