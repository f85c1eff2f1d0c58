"""OAuth logins over HTTP (``spec/flux-state.md §2.7``, DF-36).

``GET …/oauth/start`` sends the browser to the provider, ``GET …/oauth/callback`` takes what comes back. With
auth on a browser has no way to show a token at the start: ``POST …/oauth/link`` (with the token) answers a
link that is signed, works once and for ten minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import msgspec
import trio

from appliance.wire.errors import FluxbeeError, Invalid, Unavailable, Unreachable
from appliance.world import Unauthorized
from appliance.world.connectors import PROVIDERS, Connectors, OAuthBook, OAuthClientOptions, authorize_url

from .call import Call, Reply, json_reply

__all__ = ["OAuthDesk"]

_CALLBACK_KEYS: Final = ("code", "state", "error", "error_description")
_LONGEST: Final = 500
_LINK_S: Final = 600


class _Connected(msgspec.Struct, frozen=True, kw_only=True):
    """EP-71."""

    success: bool = True
    message: str
    connector: str


class OAuthDesk:
    """Answers below ``…/<connector>/oauth``.

    Args:
        connectors: keeps tokens and talks to providers.
        owner: whose login it is; raises when the caller shows no token of ours.
        callback_base: prefix of redirect addresses.
    """

    def __init__(self, connectors: Connectors, owner: Callable[[Call], str], callback_base: str) -> None:
        self._connectors = connectors
        self._owner = owner
        self._base = callback_base.rstrip("/")
        self._book = OAuthBook()

    async def answer(self, call: Call, name: str, parts: tuple[str, ...]) -> Reply | None:
        """``None`` when nobody serves that path."""
        if parts == ("start",) and call.method == "GET":
            return self._start(call, name)
        if parts == ("callback",) and call.method == "GET":
            return await self._callback(call, name)
        if parts == ("link",) and call.method == "POST":
            return self._link(call, name)
        return None

    def _client(self, name: str) -> OAuthClientOptions:
        client = self._connectors.clients.get(name)
        if client is None or not client.client_id or not client.client_secret:
            upper = name.upper()
            failure = Unavailable(
                f"OAuth not configured for connector '{name}'. Set FLUX_OAUTH_{upper}_CLIENT_ID and"
                f" FLUX_OAUTH_{upper}_CLIENT_SECRET environment variables."
            )
            failure.status = 500
            raise failure
        return client

    def _redirect_uri(self, name: str) -> str:
        return f"{self._base}/api/connectors/{name}/oauth/callback"

    def _link(self, call: Call, name: str) -> Reply:
        owner = self._owner(call)
        self._client(name)
        ticket = self._book.link(owner, name, trio.current_time())
        link = f"/api/connectors/{name}/oauth/start?ticket={quote(ticket, safe='')}"
        return json_reply({"url": link, "expires_in": _LINK_S})

    def _start(self, call: Call, name: str) -> Reply:
        ticket = call.query(("ticket",)).get("ticket")
        now = trio.current_time()
        if ticket is None:
            owner = self._owner(call)
        else:
            redeemed = self._book.redeem(ticket, name, now)
            if redeemed is None:
                raise Unauthorized("the link was used already, or has expired", remedy="Ask for a new link.")
            owner = redeemed
        client, provider = self._client(name), PROVIDERS[name]
        state, challenge = self._book.begin(owner, name, now)
        location = authorize_url(
            client.authorize_url or provider.authorize_url,
            client_id=client.client_id or "",
            redirect_uri=self._redirect_uri(name),
            scope=provider.scope,
            state=state,
            challenge=challenge,
        )
        headers = ((b"location", location.encode()), (b"cache-control", b"no-store"))
        return Reply(status=307, headers=headers)

    async def _callback(self, call: Call, name: str) -> Reply:
        query = call.query(_CALLBACK_KEYS)
        if (error := query.get("error")) is not None:
            told = query.get("error_description") or "Unknown error"
            raise Invalid(f"OAuth authorization failed: {error[:_LONGEST]} - {told[:_LONGEST]}")
        code, state = query.get("code"), query.get("state")
        if not code:
            raise Invalid("Missing 'code' parameter", field="code")
        if not state:
            raise Invalid("Missing 'state' parameter", field="state")
        begun = self._book.finish(state, trio.current_time())
        if begun is None:
            raise Unauthorized("Invalid or expired OAuth state (possible CSRF attack)")
        if begun.connector != name:
            raise Invalid("Connector name mismatch")
        self._client(name)
        try:
            secrets = await self._connectors.exchange(
                name, code=code, redirect_uri=self._redirect_uri(name), verifier=begun.verifier
            )
        except Invalid as denial:
            raise Invalid(f"OAuth authorization failed: {denial.message}") from denial
        except FluxbeeError as failure:
            raise Unreachable(f"Failed to exchange authorization code: {failure.message}") from failure
        await self._connectors.store_token(begun.owner, name, secrets)
        return json_reply(_Connected(message=f"Successfully connected {name}", connector=name))
