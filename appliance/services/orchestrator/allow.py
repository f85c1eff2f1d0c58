"""Who may change nodes by system message (``spec/admin-api.md §A.8``, sender allow-list).

The router stamps the sender's name, so a name is proof. Every changing verb is guarded, START_NODE and
RESTART_NODE included, which the reference leaves open. Reads are open to all local peers.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.wire.envelope import Message
from appliance.wire.names import full_name, glob_matcher

__all__ = ["Allowed", "forbidden"]

_PREFIXES = ("SY.admin@", "SY.orchestrator@", "SY.orchestrator.", "SY.wf-rules@", "WF.orch.diag@")


class Allowed:
    """The list of one hive.

    Args:
        hive: completes bare names.
        origins: ``orchestrator.allowed_origins``.
        everybody: ``security.local: open``; every local peer may.
    """

    def __init__(self, hive: str, origins: Iterable[str], *, everybody: bool = False) -> None:
        self._everybody = everybody
        self._fits = [glob_matcher(full_name(name, hive) if name != "*" else name) for name in origins]

    def may_change(self, name: str | None) -> bool:
        """Whether the node that the router calls ``name`` may change things."""
        if self._everybody:
            return True
        return name is not None and (name.startswith(_PREFIXES) or any(fits(name) for fits in self._fits))


def forbidden(message: Message) -> dict[str, object]:
    """The refusal that the spec prescribes."""
    name = message.source_l2_name
    return {
        "status": "error",
        "error_code": "FORBIDDEN",
        "message": f"{name or 'an unnamed sender'} may not change nodes",
        "src_uuid": message.routing.src,
        "src_l2_name": name,
    }
