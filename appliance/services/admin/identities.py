"""All identities in one answer: the identity service tells them in pages that fit into messages.

Operators' scripts know no pages (``spec/admin-api.md §B.6.9``), so they are put together here, up to a bound;
beyond it the answer says where to go on (``after``), as the service's own does.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from appliance.wire.admin.outcome import AdminOutcome
from appliance.wire.errors import Unreachable

from .fold import fold
from .peers import Peers
from .plan import Plan

__all__ = ["MAX_LISTED", "list_ilks"]

MAX_LISTED: Final = 100_000
"""Identities in one answer, about 40 MB."""


class _Page(msgspec.Struct, frozen=True):
    status: object = None
    ilks: list[msgspec.Raw] = []
    next_after: str | None = None
    total: int = 0


async def list_ilks(peers: Peers, plan: Plan) -> AdminOutcome:
    """Ask for page after page within the plan's time-out.

    Raises:
        Unreachable: ``TIMEOUT``, or the router's reason.
        Unavailable: no router.
    """
    deadline = trio.current_time() + plan.timeout_s
    payload, found = dict(plan.payload), list[msgspec.Raw]()
    while True:
        left_s = deadline - trio.current_time()
        if left_s <= 0:
            raise Unreachable(f"no whole list from {plan.dst} within {plan.timeout_s:g} s", code="TIMEOUT")
        answer = await peers.system(plan.dst, plan.verb, payload, left_s)
        try:
            page = msgspec.json.decode(answer, type=_Page)
        except msgspec.DecodeError:
            return fold(plan.action, answer)
        if page.status != "ok" or (not found and page.next_after is None) or "limit" in plan.payload:
            return fold(plan.action, answer)
        found += page.ilks
        if page.next_after is None or len(found) >= MAX_LISTED or not page.ilks:
            break
        payload["after"] = page.next_after
    whole: dict[str, object] = {"status": "ok", "count": len(found), "ilks": found}
    if page.next_after is not None:
        whole |= {"total": page.total, "next_after": page.next_after}
    return AdminOutcome(http_status=200, status="ok", action=plan.action, payload=whole)
