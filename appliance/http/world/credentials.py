"""Who asks: bearer tokens, the admin token, and a brake on guessing. Sans-IO.

The header is read leniently for every endpoint (``spec/flux-state.md`` HT-31) and compared in constant time.
An address that sent many wrong tokens is refused for a while whatever it sends next, but for tokens that
proved right before: others behind the same address go on working.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from hashlib import sha256
from typing import Final

from starlette.types import Scope

from appliance.http.guard import header
from appliance.world import Caller, RateLimited, Unauthorized, WorldEngine

__all__ = ["Brake", "Credentials", "bearer"]

_GUESSES: Final = 20
_REMEMBERED: Final = 4096

MISSING: Final = "Authorization token not provided"
MALFORMED: Final = "Invalid authorization token format"
EMPTY: Final = "Authorization token is empty"


def bearer(value: str | None) -> tuple[str | None, str]:
    """Token of an ``Authorization`` header, or ``None`` and the reason (AT-TK-1 to AT-TK-9)."""
    if value is None:
        return None, MISSING
    scheme, blank, rest = value.partition(" ")
    if scheme.lower() != "bearer" or not blank:
        return None, MALFORMED
    token = rest.strip()
    return (token, "") if token else (None, EMPTY)


class Brake:
    """A bucket of acts per address: ``per_minute`` refill, ``burst`` at once. Bounded in addresses."""

    __slots__ = ("_buckets", "_burst", "_rate")

    def __init__(self, per_minute: float, burst: float) -> None:
        self._rate = per_minute / 60
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def left(self, address: str, now: float) -> float:
        """How many acts ``address`` has at ``now`` (seconds of any one clock)."""
        left, since = self._buckets.get(address, (self._burst, now))
        return min(self._burst, left + (now - since) * self._rate)

    def take(self, address: str, now: float) -> bool:
        """Use one act up; ``False`` when there is none."""
        left = self.left(address, now)
        if left < 1:
            return False
        self._buckets[address] = (left - 1, now)
        self._buckets.move_to_end(address)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return True


class Credentials:
    """Judges tokens.

    Args:
        engine: knows the namespaces.
        auth_enabled: whether writes need a namespace's token.
        admin_token: of the administration; ``None``: nobody has it.
    """

    def __init__(self, engine: WorldEngine, *, auth_enabled: bool, admin_token: str | None) -> None:
        self.auth_enabled = auth_enabled
        self._engine = engine
        self._admin = sha256(admin_token.encode()).digest() if admin_token else None
        self._wrong = Brake(per_minute=_GUESSES, burst=_GUESSES)
        self._proven: OrderedDict[bytes, None] = OrderedDict()
        self.guesses = 0
        self.braked = 0

    def caller(self, scope: Scope, now: float) -> Caller:
        """Who sent the request.

        Raises:
            RateLimited: its address guessed too often.
        """
        token, refusal = bearer(header(scope, b"authorization"))
        if token is None:
            return Caller(refusal=refusal)
        return self.caller_of(scope, token, now)

    def caller_of(self, scope: Scope, token: str, now: float) -> Caller:
        """Whoever has ``token``; raises as :meth:`caller`."""
        if self.auth_enabled:
            self._check(scope, token, now)
        return Caller(token=token)

    def demand_some(self, caller: Caller) -> None:
        """Raise ``Unauthorized`` when auth is on and no token came: before the body is read (HT-08)."""
        if self.auth_enabled and caller.token is None:
            raise Unauthorized(caller.refusal)

    def is_known(self, scope: Scope, now: float) -> bool:
        """Whether the request has any token of ours; for the door's origin rule."""
        token, _ = bearer(header(scope, b"authorization"))
        try:
            return token is not None and self._check(scope, token, now)
        except RateLimited:
            return False

    def demand_admin(self, scope: Scope, now: float, refusal: str) -> None:
        """Raise ``Unauthorized`` (with ``refusal``) or ``RateLimited`` unless this is the administrator."""
        token, _ = bearer(header(scope, b"authorization"))
        if token is None or not self._check(scope, token, now) or not self._is_admin(token):
            raise Unauthorized(refusal, remedy="Send `Authorization: Bearer <admin token>`.")

    def demand_bearer(self, scope: Scope, now: float) -> str | None:
        """Id of the namespace whose token came with auth on (HT-30, DF-19); ``None`` with auth off.

        Raises:
            Unauthorized: there is no token, or it is not one of ours.
            RateLimited: too many guesses.
        """
        if not self.auth_enabled:
            return None
        token, refusal = bearer(header(scope, b"authorization"))
        if token is None:
            raise Unauthorized(f"Invalid token: {refusal}")
        if not self._check(scope, token, now):
            raise Unauthorized("Invalid token: not a token of this world")
        namespace = self._engine.known_token(token)
        return "admin" if namespace is None else namespace.namespace_id

    def _is_admin(self, token: str) -> bool:
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        return self._admin is not None and hmac.compare_digest(digest, self._admin)

    def _check(self, scope: Scope, token: str, now: float) -> bool:
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        client = scope.get("client")
        address = client[0] if client else ""
        if digest not in self._proven and self._wrong.left(address, now) < 1:
            self.braked += 1
            raise RateLimited("too many wrong tokens from this address", retry_after_s=60)
        if self._is_admin(token) or self._engine.known_token(token) is not None:
            self._proven[digest] = None
            if len(self._proven) > _REMEMBERED:
                self._proven.popitem(last=False)
            return True
        self._proven.pop(digest, None)  # a deleted namespace's, or one that was rotated away
        self._wrong.take(address, now)
        self.guesses += 1
        return False
