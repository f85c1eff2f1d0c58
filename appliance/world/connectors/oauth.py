"""OAuth 2 with PKCE as a client: where the browser goes, what comes back, what the token endpoint is asked.

Sans-IO (``spec/flux-state.md §2.7``, DF-36). A state belongs to one start: it is signed, used once and ends
after ten minutes; the verifier never leaves the box before the exchange. A start link is the same for a
browser that cannot send a header: who has a token asks for a link, the browser follows it.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Final
from urllib.parse import quote, urlencode

import msgspec

from appliance.wire.errors import Invalid, Unreachable

__all__ = [
    "PROVIDERS",
    "STATE_S",
    "OAuthBook",
    "OAuthClientOptions",
    "Pending",
    "Provider",
    "Tokens",
    "authorize_url",
    "exchange_form",
    "read_tokens",
    "refresh_form",
]

STATE_S: Final = 600.0
_MOST: Final = 1000
_GOOGLE: Final = "https://accounts.google.com/o/oauth2/v2/auth"
_GOOGLE_TOKEN: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address


class Provider(msgspec.Struct, frozen=True):
    """Where a provider asks its user and gives out tokens, and what we ask for."""

    authorize_url: str
    token_url: str
    scope: str


PROVIDERS: Final = {
    "github": Provider(
        "https://github.com/login/oauth/authorize",
        "https://github.com/login/oauth/access_token",
        "repo read:user notifications",
    ),
    "gmail": Provider(_GOOGLE, _GOOGLE_TOKEN, "https://www.googleapis.com/auth/gmail.readonly"),
    "linkedin": Provider(
        "https://www.linkedin.com/oauth/v2/authorization",
        "https://www.linkedin.com/oauth/v2/accessToken",
        "r_liteprofile r_emailaddress",
    ),
    "calendar": Provider(_GOOGLE, _GOOGLE_TOKEN, "https://www.googleapis.com/auth/calendar.readonly"),
}


class OAuthClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """This box as a client of one provider; ``None`` addresses are the provider's own."""

    client_id: str | None = None
    client_secret: str | None = None
    authorize_url: str | None = None
    token_url: str | None = None

    def __repr__(self) -> str:
        return f"OAuthClientOptions(client_id={self.client_id!r})"


class Pending(msgspec.Struct, frozen=True):
    """A start that waits for its callback."""

    owner: str
    connector: str
    verifier: str
    until: float


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What the token endpoint gives; ``expires_in`` in seconds."""

    access_token: Annotated[str, msgspec.Meta(min_length=1)]
    refresh_token: str | None = None
    expires_in: float | None = None

    def __repr__(self) -> str:
        return "Tokens(…)"


class _Denial(msgspec.Struct, frozen=True):
    error: str
    error_description: str | None = None


_tokens = msgspec.json.Decoder(Tokens)
_denial = msgspec.json.Decoder(_Denial)


class OAuthBook:
    """States and start links of this process; bounded, the oldest go first. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._states: OrderedDict[str, Pending] = OrderedDict()
        self._links: OrderedDict[str, Pending] = OrderedDict()

    def begin(self, owner: str, connector: str, now: float) -> tuple[str, str]:
        """A fresh state and its PKCE challenge (S256)."""
        verifier = secrets.token_urlsafe(48)
        challenge = _base64url(sha256(verifier.encode()).digest())
        return self._put(self._states, "state", Pending(owner, connector, verifier, now + STATE_S)), challenge

    def finish(self, state: str, now: float) -> Pending | None:
        """What ``state`` was begun for, once; ``None``: unknown, used, expired or not ours."""
        return self._take(self._states, "state", state, now)

    def link(self, owner: str, connector: str, now: float) -> str:
        """A ticket with which a browser may start for ``owner``."""
        return self._put(self._links, "link", Pending(owner, connector, "", now + STATE_S))

    def redeem(self, ticket: str, connector: str, now: float) -> str | None:
        """The owner that a ticket was made for, once; ``None`` as :meth:`finish`."""
        found = self._take(self._links, "link", ticket, now)
        return found.owner if found is not None and found.connector == connector else None

    def _put(self, table: OrderedDict[str, Pending], use: str, pending: Pending) -> str:
        nonce = secrets.token_urlsafe(24)
        table[nonce] = pending
        while len(table) > _MOST:
            table.popitem(last=False)
        return f"{nonce}.{self._signature(use, nonce)}"

    def _take(self, table: OrderedDict[str, Pending], use: str, text: str, now: float) -> Pending | None:
        nonce, _, signature = text.partition(".")
        expected = self._signature(use, nonce)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            return None
        found = table.pop(nonce, None)
        return found if found is not None and now < found.until else None

    def _signature(self, use: str, nonce: str) -> str:
        return _base64url(hmac.digest(self._key, f"{use}\0{nonce}".encode(), "sha256"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def authorize_url(
    address: str, *, client_id: str, redirect_uri: str, scope: str, state: str, challenge: str
) -> str:
    """Where the browser is sent (EP-70); blanks are ``%20``."""
    query = {
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": state,
        "response_type": "code",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    joint = "&" if "?" in address else "?"
    return f"{address}{joint}{urlencode(query, quote_via=quote, safe='')}"


def exchange_form(client: OAuthClientOptions, *, code: str, redirect_uri: str, verifier: str) -> bytes:
    """Body that turns a code into tokens."""
    return _form(
        {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri},
        client,
        code_verifier=verifier,
    )


def refresh_form(client: OAuthClientOptions, refresh_token: str) -> bytes:
    """Body that turns a refresh token into tokens (CN-12)."""
    return _form({"grant_type": "refresh_token", "refresh_token": refresh_token}, client)


def _form(fields: Mapping[str, str], client: OAuthClientOptions, **more: str) -> bytes:
    given = {"client_id": client.client_id, "client_secret": client.client_secret}
    return urlencode({**fields, **more, **{name: text for name, text in given.items() if text}}).encode()


def read_tokens(status: int, body: bytes) -> Tokens:
    """What the token endpoint answered.

    Raises:
        Invalid: the provider said no, in whichever status it says so (GitHub uses 200).
        Unreachable: it said something else.
    """
    try:
        if 200 <= status < 300:
            return _tokens.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # perhaps a denial
    try:
        denial = _denial.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unreachable(f"the provider answered {status} without tokens") from None
    raise Invalid(f"{denial.error[:200]} - {(denial.error_description or 'Unknown error')[:500]}")
