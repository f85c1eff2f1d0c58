"""Which process speaks for a supervised name (``design.md §5``).

The keeper claims a name for each node process that it starts. A HELLO for such a name is good from that
process's session or cgroup, as the kernel knows the peer, or with the launch token. The kernel is asked only
about claimed names. Names without a claim are not the matter of this module.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable

from appliance.system.procfs import cgroup_of

from .connection import Peer

__all__ = ["Claims", "token_digest"]


class _Claim:
    __slots__ = ("cgroup", "session", "token_sha256")

    def __init__(self, session: int, token_sha256: str, cgroup: str) -> None:
        self.session = session
        self.token_sha256 = token_sha256
        self.cgroup = cgroup


class Claims:
    """Claims by full L2 name.

    Args:
        session_of: session id of a pid; raises ``OSError`` when there is no such process.
        cgroup_of: cgroup v2 path of a pid, empty when there is none.
    """

    def __init__(
        self,
        *,
        session_of: Callable[[int], int] = os.getsid,
        cgroup_of: Callable[[int], str] = cgroup_of,
    ) -> None:
        self._claims: dict[str, _Claim] = {}
        self._session_of = session_of
        self._cgroup_of = cgroup_of
        self.changed: set[str] = set()
        """Names whose claim is new: who speaks for them already is to be checked again."""
        self.on_change: Callable[[], None] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def __len__(self) -> int:
        return len(self._claims)

    def claim(self, name: str, *, session: int, token_sha256: str, cgroup: str = "") -> None:
        """A name belongs to a process from now on; replaces an older claim on it.

        Args:
            name: full L2 name.
            session: id of the session that the process leads; 0 is nobody's.
            token_sha256: of the launch token, in hex.
            cgroup: path in the cgroup v2 tree; empty without one.
        """
        self._claims[name] = _Claim(session, token_sha256, cgroup)
        self.changed.add(name)
        if self.on_change is not None:
            self.on_change()

    def unclaim(self, name: str) -> None:
        """The name is nobody's any more."""
        self._claims.pop(name, None)
        self.changed.discard(name)

    def allows(self, name: str, peer: Peer, token_sha256: str) -> bool:
        """Whether this peer may speak for ``name``.

        Args:
            name: full L2 name; without a claim everybody may.
            peer: the connecting process, as the kernel says.
            token_sha256: digest of the token in its HELLO; empty when there was none.
        """
        claim = self._claims.get(name)
        if claim is None or peer.plane is not None:
            return True
        meant = bool(token_sha256) and hmac.compare_digest(token_sha256, claim.token_sha256)
        return meant or self._belongs(claim, peer.pid)

    def _belongs(self, claim: _Claim, pid: int) -> bool:
        if pid <= 0:  # from another pid namespace: the kernel cannot say
            return False
        try:
            if claim.session > 0 and self._session_of(pid) == claim.session:
                return True
        except OSError:  # it has ended: its number may be anybody's next
            return False
        if not claim.cgroup:
            return False
        found = self._cgroup_of(pid)
        return found == claim.cgroup or found.startswith(f"{claim.cgroup}/")


def token_digest(token: object) -> str:
    """Digest of what a HELLO carries as ``launch_token``; empty when that is no token."""
    if not isinstance(token, str) or not token:
        return ""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
