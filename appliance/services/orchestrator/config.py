"""What the composition root gives to the orchestrator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from appliance.settings.own import Orchestrator
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.paths import Paths

__all__ = ["OrchestratorConfig"]


class OrchestratorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    hive, role: of this box.
    paths: where everything lies.
    settings: ``orchestrator.*``.
    admin_nodes: ``security.admin_nodes``; they may do what the allow-list may.
    open_security: ``security.local: open``.
    restart_plane: restarts a plane by name, for ``restart_node`` of the router; ``None`` without a keeper.
    reserve: of the disk; packages are refused while it is full, everything else makes way.
    """

    hive: str
    role: Literal["motherbee", "worker"]
    paths: Paths
    settings: Orchestrator
    admin_nodes: tuple[str, ...] = ()
    open_security: bool = False
    restart_plane: Callable[[str], Awaitable[None]] | None = None
    reserve: Reserve = NO_RESERVE
