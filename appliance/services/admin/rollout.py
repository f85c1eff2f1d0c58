"""Rules of ``update`` and ``sync_hint``: what SY.admin refuses before anybody is asked. Sans-IO.

The order of the checks is asserted by operators' scripts (``spec/admin-api.md §B.6.10, §B.6.11``).
"""

from __future__ import annotations

from appliance.wire import verbs
from appliance.wire.errors import Invalid
from appliance.wire.names import full_name

from .asked import Asked
from .plan import Kind, Plan

__all__ = ["plan_sync_hint", "plan_update"]

_CATEGORIES = ("runtime", "core", "vendor")
_CHANNELS = ("blob", "dist")


def plan_update(asked: Asked, timeout_s: float) -> Plan:
    """SYSTEM_UPDATE to the target's orchestrator.

    Raises:
        Invalid: by the rules of §B.6.10, the first that is broken.
    """
    params, target = asked.params, asked.target()
    category = "runtime"
    if "category" in params:
        given = params["category"]
        category = given.strip().lower() if isinstance(given, str) else ""
        if category not in _CATEGORIES:
            raise Invalid(f"category must be one of {', '.join(_CATEGORIES)}", field="category")
    version = params.get("manifest_version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise Invalid("manifest_version must be an unsigned integer", field="manifest_version")
    asked.refuse("version", use="manifest_version")
    digest = params.get("manifest_hash")
    if not isinstance(digest, str) or not digest.strip():
        raise Invalid("missing manifest_hash", field="manifest_hash")
    asked.refuse("hash", use="manifest_hash")
    payload: dict[str, object] = {
        "category": category,
        "manifest_version": version,
        "manifest_hash": digest.strip(),
    }
    runtime, wanted = asked.optional_text("runtime"), asked.optional_text("runtime_version")
    if category != "runtime" and (runtime or wanted):
        raise Invalid("runtime and runtime_version are for category runtime only", field="runtime")
    if wanted is not None and runtime is None:
        raise Invalid("runtime_version needs runtime", field="runtime_version")
    if runtime is not None:
        payload["runtime"] = runtime
    if wanted is not None:
        payload["runtime_version"] = wanted
    return Plan(
        action=asked.action,
        kind=Kind.SYSTEM,
        dst=full_name("SY.orchestrator", target),
        verb=verbs.SYSTEM_UPDATE,
        payload=payload,
        target=target,
        timeout_s=timeout_s,
        turn=f"update:{target}",
    )


def plan_sync_hint(asked: Asked, timeout_s: float) -> Plan:
    """SYSTEM_SYNC_HINT to the target's orchestrator.

    Raises:
        Invalid: by the rules of §B.6.11.
    """
    params, target = asked.params, asked.target()
    channel = params.get("channel", "blob")
    if channel not in _CHANNELS:
        raise Invalid(f"channel must be one of {', '.join(_CHANNELS)}", field="channel")
    folder = params.get("folder_id", f"fluxbee-{channel}")
    if not isinstance(folder, str) or not folder.strip():
        raise Invalid("folder_id must not be empty", field="folder_id")
    wait = params.get("wait_for_idle", True)
    if not isinstance(wait, bool):
        raise Invalid("wait_for_idle must be true or false", field="wait_for_idle")
    timeout_ms = params.get("timeout_ms", 30_000)
    if not isinstance(timeout_ms, int) or isinstance(timeout_ms, bool) or timeout_ms <= 0:
        raise Invalid("timeout_ms must be greater than 0", field="timeout_ms")
    payload: dict[str, object] = {
        "channel": channel,
        "folder_id": folder.strip(),
        "wait_for_idle": wait,
        "timeout_ms": timeout_ms,
    }
    return Plan(
        action=asked.action,
        kind=Kind.SYSTEM,
        dst=full_name("SY.orchestrator", target),
        verb=verbs.SYSTEM_SYNC_HINT,
        payload=payload,
        target=target,
        timeout_s=timeout_s,
        turn=f"sync:{channel}:{target}",
    )
