"""The table from error codes to HTTP statuses (``spec/admin-api.md §A.5``).

Operators' scripts assert these numbers, also the odd ones: a code that the table does not name is 500. Two
codes for which handlers bypass the table, always in the same way, are in it: ``ACTION_NOT_FOUND`` and
``NOT_PRIMARY``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["DOCUMENTED_STATUSES", "http_status_of"]

_TIMEOUTS: Final = frozenset({"TIMEOUT", "WAN_TIMEOUT", "SSH_TIMEOUT"})

_ROWS: Final = (
    (
        502,
        "SERVICE_FAILED SPAWN_FAILED KILL_FAILED REMOVE_FAILED COPY_FAILED CONFIG_FAILED "
        "CONFIG_BROADCAST_FAILED RUNTIME_ERROR RUNTIME_COMMAND_FAILED RUNTIME_UNAVAILABLE "
        "RUNTIME_REMOVE_FAILED ORCHESTRATOR_ERROR RESTART_FAILED TRANSPORT_ERROR",
    ),
    (
        400,
        "INVALID_REQUEST INVALID_ADDRESS INVALID_ARCHIVE INVALID_HIVE_ID INVALID_ZIP INVALID_WORKFLOW_NAME "
        "INVALID_CONFIG_SET UNSUPPORTED_OPERATION",
    ),
    (
        404,
        "NOT_FOUND NODE_NOT_FOUND BLOB_NOT_FOUND RUNTIME_NOT_AVAILABLE RUNTIME_NOT_FOUND "
        "RUNTIME_VERSION_NOT_FOUND WORKFLOW_NOT_FOUND ACTION_NOT_FOUND",
    ),
    (
        409,
        "HIVE_EXISTS MODULE_EXISTS VERSION_MISMATCH VERSION_CONFLICT WAN_NOT_AUTHORIZED "
        "NODE_INSTANCE_RUNNING NODE_NOT_CONFIGURED NOTHING_STAGED NO_BACKUP INSTANCES_ACTIVE "
        "INSTANCES_UNKNOWN STALE_CONFIG_VERSION RUNTIME_IN_USE RUNTIME_HAS_DEPENDENTS "
        "RUNTIME_CURRENT_CONFLICT BUSY NOT_PRIMARY",
    ),
    (
        422,
        "COMPILE_ERROR INVALID_CONFIG INVALID_PACKAGE_LAYOUT UNSUPPORTED_APPLY_MODE PACKAGE_PUBLISH_FAILED",
    ),
    (501, "NOT_IMPLEMENTED"),
    (503, "SHM_NOT_FOUND RUNTIME_MANIFEST_MISSING MISSING_WAN_LISTEN"),
)


def _pairs() -> Iterator[tuple[str, int]]:
    for status, words in _ROWS:
        for word in words.split():
            yield word, status


_TABLE: Final = dict(_pairs())

DOCUMENTED_STATUSES: Final = (200, 202, 400, 401, 403, 404, 409, 413, 422, 500, 501, 502, 503, 504)
"""What an action may be answered with; 401, 403 and 413 come from the door itself."""


def http_status_of(code: str) -> int:
    """HTTP status of an error code, in any case."""
    word = code.upper()
    if word in _TIMEOUTS:
        return 504
    if word.startswith("SSH_"):
        return 502
    return _TABLE.get(word, 500)
