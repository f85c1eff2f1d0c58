"""What a metric is and what it says, by the name of its field: gauge or counter, and one line of help.

A whole number counts since its source started, unless its name is in :data:`GAUGES`; what is no whole number
is always a gauge. Help comes from :data:`HELP`, or is put together from field and source. Sans-IO.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["GAUGES", "SOURCES", "help_of", "is_gauge"]

SOURCES: Final[Mapping[str, str]] = {
    "admin": "SY.admin",
    "door": "the admin door",
    "history": "the history of deployments",
    "identity": "SY.identity",
    "journals": "a journal of the control plane",
    "keeper": "the keeper",
    "modules": "the module store",
    "orchestrator": "SY.orchestrator",
    "packages": "the publication of packages",
    "regions": "the control plane's regions",
    "router": "the router",
    "storage": "SY.storage",
    "supervisor": "the supervision of nodes",
    "updates": "the update of software",
    "world": "the world state",
    "world_connectors": "the world's connectors",
    "world_door": "the world door",
    "world_feed": "the world's feed",
    "world_service": "SY.world",
}
"""Sources by their name in the metrics."""

_STANDING: Final = (
    "active applied_seq bytes_exact bytes_since_base credentials durable_seq entities events_waiting "
    "failing first_seq ilks lagging last_seq lingering listeners locks_held map_bytes namespaces nodes "
    "open_connections open_websockets overlay_bytes overlay_entities parked pending_bytes pending_records "
    "pid reader_lag_txns readers recent_bytes recent_entities records recovery_ms running segment_bytes "
    "segments sequence sources streams_open tenants threads threads_at_fork used_bytes waiting working "
    "written_seq"
)

GAUGES: Final = frozenset(_STANDING.split())
"""Fields that tell how it stands now."""

HELP: Final[Mapping[str, str]] = {
    "fluxbee_build_info": "Version, hive and role of this program, as labels; always 1.",
    "fluxbee_source_up": "Whether a service told its figures in time.",
    "fluxbee_admin_failed": "Actions that ended in an error.",
    "fluxbee_admin_locks_held": "Resources that are being changed, or waited for.",
    "fluxbee_admin_lock_timeouts": "Changes that gave up waiting for their turn.",
    "fluxbee_admin_mutations": "Changing actions that were executed.",
    "fluxbee_admin_reads": "Reading actions that were executed.",
    "fluxbee_admin_running": "Actions under way.",
    "fluxbee_admin_tap_dropped": "Tap events that a slow watcher missed.",
    "fluxbee_admin_log_dropped": "Log lines that a slow watcher missed.",
    "fluxbee_admin_transport_failures": "Questions to a service that were not answered.",
    "fluxbee_keeper_planes_restarts": "Restarts of a plane after it ended by itself.",
    "fluxbee_keeper_planes_failures": "Failures of a plane in a row that count towards parking it.",
    "fluxbee_keeper_nodes_oom_kills": "Nodes that the kernel killed for memory.",
    "fluxbee_router_counts": "What the router counts, by reason; see the list of its counters.",
    "fluxbee_supervisor_parked": "Nodes that crashed too often and are not started again by themselves.",
    "fluxbee_supervisor_restarts": "Restarts of nodes after they ended.",
    "fluxbee_supervisor_waiting": "Nodes that wait for their next start.",
    "fluxbee_world_events": "Events that were accepted.",
    "fluxbee_world_last_seq": "Sequence of the newest event.",
}
"""Better words than the composed ones, by metric."""


def is_gauge(metric: str, field: str, value: object) -> bool:
    """Whether ``metric``, whose innermost field is ``field``, tells how it stands, not what was counted."""
    if isinstance(value, bool | float) or metric == "fluxbee_keeper_planes_failures":
        return True
    return field in GAUGES


def help_of(metric: str, source: str, field: str, *, gauge: bool) -> str:
    """One line about ``metric``."""
    given = HELP.get(metric)
    if given is not None:
        return given
    whose = SOURCES.get(source, source)
    words = field.replace("_", " ").strip() or "value"
    return f"{whose[:1].upper()}{whose[1:]}: {words}, {'now' if gauge else 'counted since its start'}."
