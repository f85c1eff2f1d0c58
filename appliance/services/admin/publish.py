"""Publishing a package: the orchestrator installs it, then hives are told to fetch and to take it over.

What is installed stays installed whatever a follow-up says; the outcome tells about each
(``spec/admin-api.md §B.9.3``). Hives are told at the same time, sync hints before updates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from appliance.wire.admin.outcome import AdminCall, AdminOutcome, failure, from_error
from appliance.wire.admin.requests import PublishPackage
from appliance.wire.errors import FluxbeeError

from .fold import fold
from .peers import Peers
from .plan import Plan
from .planner import Planner

__all__ = ["publish"]

Perform = Callable[[Plan], Awaitable[AdminOutcome]]

_SYNC = {"channel": "dist", "folder_id": "fluxbee-dist", "wait_for_idle": True, "timeout_ms": 30_000}
_AT_ONCE = 8


async def publish(peers: Peers, planner: Planner, perform: Perform, plan: Plan) -> AdminOutcome:
    """Install and follow up; errors of the installation as :meth:`Peers.admin`."""
    wanted = msgspec.convert(dict(plan.payload), PublishPackage)
    request = {key: value for key, value in plan.payload.items() if key not in ("sync_to", "update_to")}
    answer = await peers.admin(plan.dst, plan.verb, request, plan.timeout_s)
    outcome = fold(plan.action, answer, plan.statuses)
    if outcome.status == "error":
        return outcome
    installed = msgspec.json.decode(answer, type=dict[str, object])
    installed.pop("status", None)
    update = {
        "category": "runtime",
        "manifest_version": installed.get("manifest_version"),
        "manifest_hash": installed.get("manifest_hash"),
        "runtime": installed.get("runtime_name"),
        "runtime_version": installed.get("runtime_version"),
    }
    hints = await _tell_all(planner, perform, "sync_hint", wanted.sync_to, _SYNC)
    updates = await _tell_all(planner, perform, "update", wanted.update_to, update)
    installed["follow_up"] = {
        "requested": {"sync_to": wanted.sync_to, "update_to": wanted.update_to},
        "sync_hint": _shown(wanted.sync_to, hints),
        "update": _shown(wanted.update_to, updates),
    }
    return _overall(plan.action, installed, (*hints, *updates))


async def _tell_all(
    planner: Planner, perform: Perform, action: str, hives: Sequence[str], params: dict[str, object]
) -> list[AdminOutcome]:
    outcomes: list[AdminOutcome] = [failure(action, "SERVICE_FAILED", None)] * len(hives)
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def tell(index: int, hive: str) -> None:
        async with limit:
            try:
                step = planner.plan(AdminCall(action=action, target=hive, params=params))
            except FluxbeeError as error:
                outcomes[index] = from_error(action, error)
            else:
                outcomes[index] = await perform(step)

    async with trio.open_nursery() as nursery:
        for index, hive in enumerate(hives):
            nursery.start_soon(tell, index, hive)
    return outcomes


def _shown(hives: Sequence[str], outcomes: Sequence[AdminOutcome]) -> list[dict[str, object]]:
    return [
        {"hive": hive, "http_status": outcome.http_status, "response": outcome.envelope()}
        for hive, outcome in zip(hives, outcomes, strict=True)
    ]


def _overall(action: str, payload: object, steps: Sequence[AdminOutcome]) -> AdminOutcome:
    failed = next((step for step in steps if step.status == "error"), None)
    if failed is not None:
        text = f"the package is published, but {failed.action} failed: {failed.error_detail}"
        return failure(action, "SERVICE_FAILED", text, payload=payload, http_status=failed.http_status)
    if any(step.status == "sync_pending" for step in steps):
        return AdminOutcome(http_status=202, status="sync_pending", action=action, payload=payload)
    return AdminOutcome(http_status=200, status="ok", action=action, payload=payload)
