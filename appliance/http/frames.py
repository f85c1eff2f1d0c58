"""The way around ASGI for who sends the same WebSocket frames to many clients.

One ``websocket.send`` costs an event object, a copy, a frame and three awaits, for every client again. A
handler that has whole server frames ready (unmasked, the same bytes for everybody) finds a
:class:`FrameSocket` in ``scope["extensions"][FRAMES]`` once its WebSocket is accepted, and hands them to the
socket; what comes in, pings and the close frame stay with the protocol (``docs/decisions/0007``).
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["FRAMES", "FrameSocket"]

FRAMES: Final = "fluxbee.frames"
"""Key of the extension in a WebSocket's scope."""


class FrameSocket(Protocol):
    """Where ready frames go. ``data`` is always whole frames; nothing is checked."""

    def write_now(self, data: bytes) -> bool:
        """Hand over ``data`` without waiting.

        Returns:
            ``True``: the connection has it, though a part may wait (``unsent``): then call :meth:`flush`.
            ``False``: nothing was taken, because something is being written or the client is gone.
        """

    async def write(self, data: bytes) -> None:
        """Send ``data`` behind whatever is being written.

        Raises:
            ClientGone: the client left, was cut because it took nothing, or the WebSocket is closed.
        """

    async def flush(self) -> None:
        """Send what :meth:`write_now` left; raises as :meth:`write`."""

    @property
    def unsent(self) -> bool:
        """Whether :meth:`write_now` left a part."""
