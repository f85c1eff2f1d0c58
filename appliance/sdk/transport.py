"""The byte stream under a node: the smallest seam, and its Unix-socket form.

A transport hands out what was read, takes as much as fits, and closes. It knows no frames, keeps no queue and
does not retry. ``send_some`` tells exactly how many bytes the kernel took: that is how the layer above knows
which frames are still its own after a loss. Runs on trio and on asyncio.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Protocol

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

__all__ = ["READ_BYTES", "SocketTransport", "Transport", "open_unix"]

READ_BYTES = 65_536
"""How much is read per wake-up (``design.md §5``)."""

_BACKLOG_RETRY_S = 0.02


class Transport(Protocol):
    """What a node needs from a connection."""

    async def receive(self, max_bytes: int) -> bytes:
        """At least one byte and at most ``max_bytes``; ``b""`` when the peer has closed.

        Raises:
            OSError: the connection is broken.
        """
        ...

    async def send_some(self, data: bytes | memoryview) -> int:
        """Wait until something fits, then hand over as much as does; return how many bytes.

        Cancelled, it has handed over nothing.

        Raises:
            OSError: the connection is broken.
        """
        ...

    def close(self) -> None:
        """Close at once; no task may be inside the other two methods."""
        ...


class SocketTransport:
    """A connected stream socket. Takes the socket over and makes it non-blocking."""

    __slots__ = ("_socket",)

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected

    async def receive(self, max_bytes: int) -> bytes:
        """See :class:`Transport`."""
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            else:
                # A peer that never pauses must not starve other tasks; shielded, because what was read
                # would be lost with a cancellation here.
                await cancel_shielded_checkpoint()
                return data

    async def send_some(self, data: bytes | memoryview) -> int:
        """See :class:`Transport`."""
        while True:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            else:
                await cancel_shielded_checkpoint()
                return sent

    def close(self) -> None:
        """See :class:`Transport`."""
        self._socket.close()


async def open_unix(path: Path) -> SocketTransport:
    """Connect to the Unix socket ``path``.

    A full backlog is waited for; bound the call with a deadline.

    Raises:
        OSError: nothing listens there.
    """
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(connecting.close)
        connecting.setblocking(False)
        while True:
            try:
                connecting.connect(str(path))
                break
            except BlockingIOError:  # on AF_UNIX: the listener's backlog is full, nothing is under way
                await anyio.sleep(_BACKLOG_RETRY_S)
        undo.pop_all()
    return SocketTransport(connecting)
