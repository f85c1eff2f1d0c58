"""``GET /health``: is this hive well, in one cheap question.

200 ``{"status":"ok"}`` or 503 with reasons (``spec/admin-api.md §B.1``). It never locks and never asks a
peer: the source answers from memory, and one that does not answer within a second is itself the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["Health", "HealthSource", "health_response", "health_routes"]

_PATIENCE_S = 1.0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the hive is.

    ``reasons`` says what is wrong, one sentence each; empty means well. ``notices`` want somebody to look and
    leave the hive well; the key is there when there are any. ``facts`` are further keys of the
    body (versions, roles, durability), never ``status`` or ``reasons``.
    """

    reasons: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    facts: dict[str, str | int | float | bool] = {}

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons


HealthSource = Callable[[], Awaitable[Health]]


async def health_response(source: HealthSource) -> Response:
    """The response to ``/health`` from what ``source`` says within a second."""
    health = Health(reasons=("the health check itself did not answer",))
    with trio.move_on_after(_PATIENCE_S):
        health = await source()
    body: dict[str, object] = {"status": "ok" if health.ok else "error"}
    body.update(health.facts)
    if not health.ok:
        body["reasons"] = health.reasons
    if health.notices:
        body["notices"] = health.notices
    return Response(
        msgspec.json.encode(body),
        status_code=200 if health.ok else 503,
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )


def health_routes(source: HealthSource, path: str = "/health") -> list[Route]:
    """The route that answers ``GET`` and ``HEAD`` on ``path``."""

    async def endpoint(request: Request) -> Response:
        return await health_response(source)

    return [Route(path, endpoint, methods=["GET"], name="health")]
