"""Sources and credentials over HTTP (``spec/flux-state.md §2.6, §5.4``, CN-30, CN-31).

``/api/connectors`` keeps the core's object; the manager's array is at ``/api/connector-manager/connectors``;
everything else answers under both. Credentials belong to a namespace (``default`` with auth off). Sources are
the box's: with auth off anybody who may write may add one, with auth on the administrator only. What
a request names is executed only when the setting ``world.taps`` lists it.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from appliance.wire.errors import FluxbeeError, Invalid, NotFound
from appliance.world.connectors import KNOWN, Connectors, NewSource, NewTap, Secrets

from .call import Call, Reply, json_reply
from .credentials import Credentials
from .oauth import OAuthDesk

__all__ = ["SourcesDesk"]

_DEFAULT_OWNER: Final = "default"


class _Token(msgspec.Struct):
    token: str


class _Detail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """EP-61; what is not known is left out."""

    name: str
    enabled: bool
    status: str
    poll_interval_seconds: int
    last_poll: str | None = None
    last_error: str | None = None


_token = msgspec.json.Decoder(_Token)
_new_source = msgspec.json.Decoder(NewSource)
_new_tap = msgspec.json.Decoder(NewTap)


class SourcesDesk:
    """Answers below the two mounting points (``ConnectorDesk``).

    Args:
        connectors: what feeds the world.
        credentials: who is who.
        callback_base: prefix of redirect addresses (``world.oauth.callback_base_url``).
    """

    def __init__(self, connectors: Connectors, credentials: Credentials, *, callback_base: str) -> None:
        self._connectors = connectors
        self._credentials = credentials
        self._oauth = OAuthDesk(connectors, self.owner, callback_base)

    def owner(self, call: Call) -> str:
        """Whose credentials are meant: a namespace's id, never its token (CN-04).

        Raises:
            Unauthorized, RateLimited: with auth on, when no token of ours came.
        """
        return self._credentials.demand_bearer(call.scope, trio.current_time()) or _DEFAULT_OWNER

    async def answer(self, call: Call, parts: tuple[str, ...], *, manager: bool) -> Reply | None:
        """See ``ConnectorDesk``."""
        if not parts:
            if call.method != "GET":
                return None
            return self._sources(call) if manager else self._list(call)
        if parts[0] in ("generic", "named", "taps"):
            return await self._managed(call, parts)
        name = parts[0]
        if name not in KNOWN:
            raise NotFound(f"Connector '{name}' not found")
        if len(parts) == 1 and call.method == "GET":
            return self._show(call, name)
        if parts[1:] == ("token",) and call.method in ("POST", "DELETE"):
            return await self._change_token(call, name)
        if parts[1:2] == ("oauth",):
            return await self._oauth.answer(call, name, parts[2:])
        return None

    # --- credentials -----------------------------------------------------------------------------------

    def _status(self, owner: str, name: str) -> str:
        try:
            return "configured" if self._connectors.has_token(owner, name) else "not_configured"
        except FluxbeeError:
            return "error"

    def _list(self, call: Call) -> Reply:
        owner = self.owner(call)
        rows = []
        for name in KNOWN:
            status = self._status(owner, name)
            rows.append({"name": name, "enabled": status == "configured", "status": status})
        return json_reply({"connectors": rows})

    def _show(self, call: Call, name: str) -> Reply:
        owner = self.owner(call)
        status = self._status(owner, name)
        runner = self._connectors.runner(owner, name)
        return json_reply(
            _Detail(
                name=name,
                enabled=status == "configured",
                status=status,
                poll_interval_seconds=KNOWN[name],
                last_poll=None if runner is None else runner.stamp(runner.polled_ms),
                last_error=None if runner is None else runner.schedule.error,
            )
        )

    async def _change_token(self, call: Call, name: str) -> Reply:
        owner = self.owner(call)
        if call.method == "POST":
            token = (await call.json(_token)).token.strip()
            if not token:
                raise Invalid("token must not be blank", field="token")
            await self._connectors.store_token(owner, name, Secrets(token))
        elif not await self._connectors.drop_token(owner, name):
            raise NotFound(f"No credentials found for connector '{name}'")
        return json_reply({"success": True})

    # --- sources ---------------------------------------------------------------------------------------

    def _sources(self, call: Call) -> Reply:
        """CN-20; open as every read is, but whose GitHub is shown depends on who asks."""
        owner = _DEFAULT_OWNER
        if self._credentials.auth_enabled and call.header(b"authorization") is not None:
            owner = self.owner(call)
        return json_reply(self._connectors.reports(owner))

    def _demand_operator(self, call: Call) -> None:
        if self._credentials.auth_enabled:
            self._credentials.demand_admin(call.scope, trio.current_time(), "Admin token required")

    async def _managed(self, call: Call, parts: tuple[str, ...]) -> Reply | None:
        if parts == ("taps",):
            return json_reply(self._connectors.taps()) if call.method == "GET" else None
        self._demand_operator(call)
        if parts == ("generic",) and call.method == "POST":
            source_id = await self._connectors.add_source(await call.json(_new_source))
            return json_reply({"source_id": source_id}, status=201)
        if len(parts) == 2 and call.method == "DELETE":
            if parts[0] == "generic":
                await self._connectors.remove_source(parts[1])
            else:
                await self._connectors.remove_tap(parts[1])
            return Reply(status=204, headers=())
        if parts == ("named",) and call.method == "POST":
            source_id = await self._connectors.add_tap(await call.json(_new_tap))
            return json_reply({"source_id": source_id}, status=201)
        if len(parts) == 3 and parts[0] == "named" and parts[2] == "sync" and call.method == "POST":
            self._connectors.sync_tap(parts[1])
            return Reply(status=202, headers=())
        return None
