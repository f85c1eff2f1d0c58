"""What a door needs to know before it opens.

A door is one listening address with the rules for whom it lets in. The defaults are the strict ones:
loopback, no foreign origin, small limits. This module judges a configuration; it binds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal

import msgspec
from starlette.types import Scope

from appliance.http.errors import ErrorShape, plain_shape
from appliance.wire.errors import Misconfigured

__all__ = ["DEFAULT_CSP", "DoorConfig", "Listen", "is_loopback", "parse_listen"]

DEFAULT_CSP = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_KIB = 1024


class Listen(msgspec.Struct, frozen=True):
    """A host (IP literal or name) and a TCP port; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class DoorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One door.

    Args:
        name: what logs and statistics call it: ``admin``, ``world``.
        listen: ``host:port``, ``[v6]:port``; loopback unless ``token`` is given.
        key: the ``hive.yaml`` key that ``listen`` came from; errors name it.
        token: bearer token (``Authorization: Bearer …`` or ``X-Fluxbee-Token: …``).
        ask_whom: who must show the token: ``remote`` peers that are not on loopback, or ``all``.
        public_paths: paths that are read without a token by anybody (``GET`` and ``HEAD`` only).
        credential: further proof than the token, asked when the token is missing; gets the ASGI scope.
        own_auth: the application asks for credentials itself where they are needed; lets ``listen`` be off
            loopback without ``token``.
        websocket_reads: a page of another origin may open a WebSocket (the application then takes no writes
            from it).
        allowed_hosts: names that ``Host`` may say, without port, besides loopback names, IP literals and the
            host of ``listen``.
        allowed_origins: origins (``https://name:port``) that count as our own.
        max_body_bytes: longest request body, or a function of the scope that says it per path.
        max_header_bytes: longest request head.
        max_connections: more are answered 503 and closed.
        header_timeout_s: a request head must be complete so long after its first byte (or after accept).
        keep_alive_s: idle connections are closed after this.
        request_timeout_s: a handler must have begun its answer by then (``extend_deadline`` moves it).
        write_timeout_s: a client must take 64 KiB within this, or is cut.
        linger_s: how long unread request bytes are drained after an early answer, so that it is seen.
        stop_s: grace for running requests when the door closes; then everything is cut.
        websocket_ping_s: interval of pings.
        websocket_max_bytes: longest WebSocket message.
        headers: added to every response that does not set them itself.
        csp: Content-Security-Policy of responses that set none.
        error_shape: keys of error bodies.
    """

    name: str
    listen: str = "127.0.0.1:0"
    key: str = "listen"
    token: str | None = None
    ask_whom: Literal["remote", "all"] = "remote"
    public_paths: frozenset[str] = frozenset({"/health"})
    credential: Callable[[Scope], bool] | None = None
    own_auth: bool = False
    websocket_reads: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    max_body_bytes: int | Callable[[Scope], int] = 64 * _KIB * _KIB
    max_header_bytes: int = 16 * _KIB
    max_connections: int = 256
    header_timeout_s: float = 10.0
    keep_alive_s: float = 15.0
    request_timeout_s: float = 60.0
    write_timeout_s: float = 30.0
    linger_s: float = 1.0
    stop_s: float = 2.0
    websocket_ping_s: float | None = 20.0
    websocket_max_bytes: int = 16 * _KIB * _KIB
    headers: tuple[tuple[bytes, bytes], ...] = ()
    csp: str = DEFAULT_CSP
    error_shape: ErrorShape = plain_shape

    def address(self) -> Listen:
        """Where to bind.

        Raises:
            Misconfigured: ``listen`` is not an address, or is off loopback without a token.
        """
        listen = parse_listen(self.listen, key=self.key)
        if self.token is not None and not self.token.strip():
            raise Misconfigured(f"the token of door {self.name!r} is empty", field=self.key)
        if self.token is None and not self.own_auth and not is_loopback(listen.host):
            raise Misconfigured(
                f"{self.key}: {self.listen} is reachable from outside this machine and no token is set",
                remedy=f"Set a token for the {self.name} door, or listen on 127.0.0.1:{listen.port}.",
                field=self.key,
            )
        return listen

    def body_limit(self, scope: Scope) -> int:
        """Longest body in bytes that the request of ``scope`` may have."""
        return self.max_body_bytes(scope) if callable(self.max_body_bytes) else self.max_body_bytes


def parse_listen(text: str, *, key: str = "listen") -> Listen:
    """Read ``host:port`` or ``[v6]:port``.

    Raises:
        Misconfigured: naming ``key``, when it is neither.
    """
    host, colon, port = text.strip().rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    unclear = ":" in bare and bare == host  # an IPv6 address without brackets: which colon is the port's?
    if not colon or not bare or unclear or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Misconfigured(
            f"{key}: {text!r} is not an address",
            remedy="Write host:port, for example 127.0.0.1:8080 or [::1]:8080.",
            field=key,
        )
    return Listen(bare, int(port))


def is_loopback(host: str) -> bool:
    """Whether ``host`` (an IP literal or a name) can only be this machine."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
