"""Roll-outs and drift alerts, as they are stored and as they are answered (``spec/admin-api.md §B.3``)."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Deployment", "DeploymentsPayload", "DriftAlert", "DriftPayload", "TargetHive", "Worker"]

Optional = msgspec.UnsetType


class TargetHive(msgspec.Struct, frozen=True, kw_only=True):
    """A hive that a deployment was for; ``present`` while it is registered."""

    hive_id: str
    present: bool


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """How it went on one hive."""

    hive_id: str
    status: str
    duration_ms: int
    reason: str | Optional = msgspec.UNSET
    local_hash: str | Optional = msgspec.UNSET
    remote_hash_before: str | Optional = msgspec.UNSET
    remote_hash_after: str | Optional = msgspec.UNSET
    hive_present: bool = True


class Deployment(msgspec.Struct, frozen=True, kw_only=True, tag="deployment", tag_field="record"):
    """One roll-out; times are wall-clock ms."""

    deployment_id: str
    category: str
    trigger: str
    actor: str
    started_at: int
    finished_at: int
    manifest_version: int | Optional = msgspec.UNSET
    manifest_hash: str | Optional = msgspec.UNSET
    target_hives: tuple[str, ...]
    result: str
    history_view: bool = True
    target_hives_detail: tuple[TargetHive, ...] = ()
    workers: tuple[Worker, ...]

    def concerns(self, hive: str) -> bool:
        """Whether it was for ``hive``."""
        return hive in self.target_hives or any(worker.hive_id == hive for worker in self.workers)


class DriftAlert(msgspec.Struct, frozen=True, kw_only=True, tag="drift", tag_field="record"):
    """A manifest that is not what it was when it had converged."""

    alert_id: str
    detected_at: int
    category: str
    trigger: str
    hive_id: str
    severity: str
    kind: str
    message: str
    local_hash: str | Optional = msgspec.UNSET
    remote_hash_before: str | Optional = msgspec.UNSET
    remote_hash_after: str | Optional = msgspec.UNSET
    history_view: bool = True
    hive_present: bool = True
    synthetic: bool = False


class DeploymentsPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /deployments``; ``hive_id`` in the view of one hive."""

    status: Literal["ok"] = "ok"
    view: Literal["history"] = "history"
    hive_id: str | Optional = msgspec.UNSET
    entries: tuple[Deployment, ...]


class DriftPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /drift-alerts``."""

    status: Literal["ok"] = "ok"
    view: Literal["history"] = "history"
    hive_id: str | Optional = msgspec.UNSET
    entries: tuple[DriftAlert, ...]
