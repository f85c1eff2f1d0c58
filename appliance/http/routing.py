"""A Starlette router that speaks JSON where Starlette speaks plain text.

For doors with few plain routes. The admin door resolves its paths itself (``spec/admin-api.md §A.11``).
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from appliance.http.errors import not_found

__all__ = ["json_router"]


def json_router(routes: Sequence[BaseRoute], *, fallback: ASGIApp = not_found) -> ASGIApp:
    """An application that serves ``routes``; what none of them matches goes to ``fallback``.

    A known path with another method raises Starlette's 405, which the gate turns into JSON; slashes are never
    redirected.
    """
    router = Router(list(routes), redirect_slashes=False, default=fallback)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # The key tells Starlette's routes that somebody above handles their HTTPException.
        scope.setdefault("app", app)
        await router(scope, receive, send)

    return app
