"""Who sits at the other end of a Unix socket, as the kernel says it.

The kernel notes pid, uid and gid at ``connect`` (or at ``socketpair``) and they do not change afterwards,
whatever the peer does later. So a pid from here may name a process that has gone: whoever decides by pid
also checks that the process still lives and belongs where it should (``design.md §5``, supervised names).
"""

from __future__ import annotations

import socket
import struct

import msgspec

__all__ = ["PeerCredentials", "peer_credentials"]

_UCRED = struct.Struct("=iII")
"""``struct ucred`` of Linux: pid_t, uid_t, gid_t in native byte order."""


class PeerCredentials(msgspec.Struct, frozen=True):
    """What SO_PEERCRED told.

    ``pid`` is 0 when the peer lives in a pid namespace that cannot be seen from here.
    """

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Credentials of the peer of a connected ``AF_UNIX`` stream or seqpacket socket.

    Raises:
        ValueError: ``sock`` is not a Unix socket; the kernel would answer with meaningless ids.
        OSError: the socket is closed.
    """
    if sock.family != socket.AF_UNIX:
        raise ValueError(f"peer credentials exist on Unix sockets only, not on {sock.family!r}")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return PeerCredentials(pid, uid, gid)
