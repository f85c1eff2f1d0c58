"""What executing an action means: whom to ask, with which message, how long, behind which turn.

A plan is made by :mod:`.planner` from a call, without I/O, and carried out by :mod:`.engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

__all__ = ["MOTHER_ONLY", "Kind", "Plan"]


class Kind(Enum):
    """How a plan is carried out."""

    ADMIN = "admin"  # `type: admin` to a service, payload = parameters
    SYSTEM = "system"  # a system verb
    ILKS = "ilks"  # ILK_LIST, page after page
    CATALOGUE = "catalogue"
    HELP = "help"
    MESSAGE = "message"  # sent and not waited for
    CONTROL = "control"  # CONFIG_GET and CONFIG_SET to a node
    ROUTE_CHANGE = "route_change"  # ADMIN, then the changed table to everybody
    ROUTE_TABLES = "route_tables"  # whole tables to the route service
    STORAGE_SET = "storage_set"
    STORAGE_METRICS = "storage_metrics"
    PUBLISH = "publish"
    LOGS = "logs"
    OVERVIEW = "overview"
    ABSENT = "absent"  # a service that this version does not have


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One action, ready to be carried out.

    Attributes:
        action: for the envelope.
        dst: full name of the peer.
        verb: admin action or system verb.
        payload: JSON values.
        target: hive that the action is about.
        timeout_s: for the peer's answer.
        turn: resource whose turn is needed; empty for a read.
        statuses: HTTP statuses by code that bypass the table.
    """

    action: str
    kind: Kind
    dst: str = ""
    verb: str = ""
    payload: Mapping[str, object] = {}
    target: str = ""
    timeout_s: float = 30.0
    turn: str = ""
    statuses: Mapping[str, int] = {}


MOTHER_ONLY = frozenset(
    {
        "publish_runtime_package",
        "remove_runtime_version",
        "add_hive",
        "remove_hive",
        "opa_compile_apply",
        "opa_compile",
        "opa_apply",
        "opa_rollback",
        "opa_check",
        "wf_rules_compile_apply",
        "wf_rules_compile",
        "wf_rules_apply",
        "wf_rules_rollback",
        "wf_rules_delete",
    }
)
"""Actions that a worker answers with ``NOT_PRIMARY`` (``design.md §4``)."""
