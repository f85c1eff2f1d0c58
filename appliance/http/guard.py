"""Who may pass a door: decisions about Host, Origin and token. Sans-IO.

Host is checked against DNS rebinding: a page of ``evil.example`` that has its name resolved to 127.0.0.1
sends ``Host: evil.example``. An IP literal cannot be rebound, so literals always pass. Origin is checked
against pages that write through a visitor's browser: a foreign one needs the token. A peer that is not on
loopback needs the token for everything but the public paths (``design.md §5``, row HTTP). Preflights carry
no credentials by definition and change nothing, so they pass.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address

from starlette.types import Scope

from appliance.http.config import DoorConfig, is_loopback, parse_listen
from appliance.wire.errors import Refused

__all__ = ["Guard", "header", "host_of", "is_foreign"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Judges requests of one door by its configuration."""

    __slots__ = ("_config", "_hosts", "_origins", "_token")

    def __init__(self, config: DoorConfig) -> None:
        self._config = config
        names = (*config.allowed_hosts, parse_listen(config.listen, key=config.key).host)
        self._hosts = frozenset(name.rstrip(".").lower() for name in names)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.allowed_origins)
        self._token = config.token.encode() if config.token is not None else None

    def refusal(self, scope: Scope) -> Refused | None:
        """Why the request (``http`` or ``websocket`` scope) may not pass, or ``None`` when it may.

        The error's ``code`` is ``HOST_REFUSED``, ``ORIGIN_REFUSED`` or ``TOKEN_REQUIRED`` (status 401).
        """
        host = header(scope, b"host")
        if host is not None and not self._host_allowed(host):
            return Refused(
                f"this door does not answer for host {host[:200]!r}",
                code="HOST_REFUSED",
                remedy="Use an IP address or localhost, or add the name to the door's allowed hosts.",
            )
        method = scope.get("method", "GET")
        if method == "OPTIONS":
            return None
        if self._needs_token(scope, method):
            if not self._has_token(scope):
                refusal = Refused(
                    "this door asks for a token",
                    code="TOKEN_REQUIRED",
                    remedy="Send `Authorization: Bearer <token>`.",
                )
                refusal.status = 401
                return refusal
            return None
        if scope["type"] == "websocket":
            writes = not self._config.websocket_reads
        else:
            writes = method not in _SAFE
        if writes and is_foreign(scope, self._origins) and not self._has_token(scope):
            return Refused(
                "a page of another origin may not write here",
                code="ORIGIN_REFUSED",
                remedy="Send the token, or add the origin to the door's allowed origins.",
            )
        return None

    def _host_allowed(self, value: str) -> bool:
        name = host_of(value)
        if name is None:
            return False
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _needs_token(self, scope: Scope, method: str) -> bool:
        if self._token is None:
            return False
        if scope["type"] == "http" and method in _SAFE and scope["path"] in self._config.public_paths:
            return False
        if self._config.ask_whom == "all":
            return True
        client = scope.get("client")
        return client is None or not is_loopback(client[0])

    def _has_token(self, scope: Scope) -> bool:
        if self._token is not None:
            given = header(scope, b"x-fluxbee-token")
            authorization = header(scope, b"authorization")
            if given is None and authorization is not None:
                kind, _, rest = authorization.partition(" ")
                given = rest.strip() if kind.lower() == "bearer" else None
            # Compared as bytes in constant time: the position of the first difference must not show.
            if given is not None and hmac.compare_digest(given.encode("latin-1"), self._token):
                return True
        return self._config.credential is not None and self._config.credential(scope)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header called ``name`` (lower case) as Latin-1 text, or ``None``."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def host_of(value: str) -> str | None:
    """The host in a ``Host`` header or an authority: lower case, no port, no brackets, no trailing dot."""
    value = value.strip().lower()
    if value.startswith("["):
        name, bracket, port = value[1:].partition("]")
        if not bracket or (port and not (port.startswith(":") and port[1:].isdigit())):
            return None
    else:
        name, colon, port = value.partition(":")
        if colon and port and not port.isdigit():
            return None
    name = name.rstrip(".")
    return name or None


def is_foreign(scope: Scope, own: frozenset[str]) -> bool:
    """Whether a browser says that a page of another origin made the request.

    Without ``Origin`` (``curl``, SDKs, old browsers) ``Sec-Fetch-Site`` decides when it is there. ``own``
    holds further origins that count as ours, lower case without trailing slash.
    """
    origin = header(scope, b"origin")
    if origin is None:
        return header(scope, b"sec-fetch-site") not in {None, "same-origin", "none"}
    origin = origin.strip().rstrip("/").lower()
    if origin in own:
        return False
    scheme, separator, authority = origin.partition("://")
    host = header(scope, b"host")
    if not separator or host is None:
        return True  # includes the opaque origin "null"
    return _with_port(authority, scheme) != _with_port(host.strip().lower(), scheme)


def _with_port(authority: str, scheme: str) -> str:
    """``authority`` with its port spelled out, so that ``name`` and ``name:80`` compare equal."""
    tail = authority.rpartition("]")[2]
    if ":" in tail:
        return authority
    return f"{authority}:{443 if scheme in {'https', 'wss'} else 80}"
