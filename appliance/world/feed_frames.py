"""The feed's frames as bytes: WebSocket text frames of a server, ready to be written to a socket.

A server's frames are not masked (RFC 6455 §5.1), so a frame is the same for every client and is made once,
whoever gets it. The texts of updates are those of :class:`~.updates.Update`.
"""

from __future__ import annotations

from .entities import rfc3339_z
from .updates import Update

__all__ = ["frames_of", "lagged_frame", "text_frame"]


def text_frame(payload: bytes) -> bytes:
    """``payload`` (UTF-8) as one unmasked text frame: FIN, opcode 1, length in its shortest form."""
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def frames_of(update: Update) -> bytes:
    """All frames of one update, one after the other."""
    return b"".join([text_frame(frame.data) for frame in update.frames])


def lagged_frame(events: int, *, at_ms: int) -> bytes:
    """Tells a listener that of so many events only last values follow (additive, WS-24)."""
    return text_frame(b'{"type":"lagged","events":%d,"timestamp":"%b"}' % (events, rfc3339_z(at_ms)))
