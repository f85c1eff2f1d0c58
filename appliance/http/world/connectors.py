"""Where connectors bind to the world door (``spec/flux-state.md §2.6, §2.7, §5.4``, CN-30).

The door resolves the path to the part behind ``connectors`` and says which of the two APIs was meant; a
:class:`ConnectorDesk` answers. :class:`NoConnectors` is the desk of a world without a credential store: it
lists the known names as not configured and says why nothing can be stored.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from appliance.wire.errors import NotFound, Unavailable
from appliance.world.connectors import KNOWN

from .call import Call, Reply, json_reply
from .credentials import Credentials

__all__ = ["ConnectorDesk", "NoConnectors"]

_NO_STORE: Final = "Credential storage not available (FLUX_ENCRYPTION_KEY not set)"


class ConnectorDesk(Protocol):
    """Answers what comes below the two mounting points."""

    async def answer(self, call: Call, parts: tuple[str, ...], *, manager: bool) -> Reply | None:
        """Answer a request.

        Args:
            call: the request.
            parts: segments of the path behind ``connectors``, decoded: ``("github", "token")``; empty for the
                list.
            manager: it came by ``/api/connector-manager/…`` (or ``/connector-manager/api/…``).

        Returns:
            The answer; ``None`` when nobody serves that path. A method that is not served raises through
            :func:`.app.method_not_allowed`.
        """


class NoConnectors:
    """A desk without a credential store."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def answer(self, call: Call, parts: tuple[str, ...], *, manager: bool) -> Reply | None:
        """See :class:`ConnectorDesk`."""
        if manager or parts[:1] in (("generic",), ("named",), ("taps",)):
            return self._managed(call, parts)
        if not parts:
            return self._list(call)
        name = parts[0]
        if name not in KNOWN:
            raise NotFound(f"Connector '{name}' not found")
        if len(parts) == 1:
            return self._show(call, name) if call.method == "GET" else None
        if parts[1:] == ("token",) and call.method in ("POST", "DELETE"):
            failure = Unavailable(_NO_STORE)
            failure.status = 500
            raise failure
        return None

    def _demand_bearer(self, call: Call) -> None:
        self._credentials.demand_bearer(call.scope, trio.current_time())

    def _list(self, call: Call) -> Reply | None:
        if call.method != "GET":
            return None
        self._demand_bearer(call)
        rows = [{"name": name, "enabled": False, "status": "not_configured"} for name in KNOWN]
        return json_reply({"connectors": rows})

    def _show(self, call: Call, name: str) -> Reply:
        self._demand_bearer(call)
        return json_reply(
            {
                "name": name,
                "enabled": False,
                "status": "not_configured",
                "poll_interval_seconds": KNOWN[name],
            }
        )

    def _managed(self, call: Call, parts: tuple[str, ...]) -> Reply | None:
        if call.method != "GET":
            raise Unavailable("connectors are not available on this box")
        if not parts:
            row = {"name": "github", "type": "builtin", "enabled": False, "status": "stopped"}
            return json_reply([row])
        return json_reply([]) if parts == ("taps",) else None
