"""Packets and file descriptors between two processes of one program, over a seqpacket socket pair.

A packet arrives whole or not at all, in order, at most ``MAX_PACKET_BYTES`` long and with at most
``MAX_PACKET_FDS`` descriptors. ``send`` and ``receive`` never block: a full channel refuses the packet and
counts it; the kernel's socket buffer is the only queue, so the bound is the kernel's. The end of the other
side reads as ``EOFError``. What the bytes mean is not known here.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import msgspec

__all__ = [
    "MAX_PACKET_BYTES",
    "MAX_PACKET_FDS",
    "Channel",
    "ChannelStatistics",
    "Packet",
    "close_all",
]

MAX_PACKET_BYTES = 64 * 1024
MAX_PACKET_FDS = 4

_BUFFER_BYTES = 256 * 1024
_FD_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_PACKET_FDS * _FD_BYTES)
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})


class Packet(msgspec.Struct, frozen=True):
    """One received packet. Whoever takes it owns ``fds`` and closes them."""

    data: bytes
    fds: tuple[int, ...] = ()


class ChannelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What went through one end of a channel, and what did not."""

    sent: int
    received: int
    refused_full: int
    refused_gone: int
    dropped_truncated: int
    closed: bool


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that came with a packet nobody wants."""
    for fd in fds:
        os.close(fd)


class Channel:
    """One end of a packet channel; not thread safe, may be passed through ``fork``.

    Args:
        sock: a connected ``AF_UNIX`` ``SOCK_SEQPACKET`` socket; the channel owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
            raise ValueError(f"a channel needs a Unix seqpacket socket, not {sock!r}")
        sock.setblocking(False)
        # What the kernel grants may be less (net.core.wmem_max); any size holds one whole packet.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._sock = sock
        self._sent = 0
        self._received = 0
        self._refused_full = 0
        self._refused_gone = 0
        self._dropped_truncated = 0
        self.peer_gone = False
        """Whether a send or a receive has found the other end closed; it stays so."""

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Both ends of a new channel; neither survives ``exec``."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor to wait on; -1 after ``close``."""
        return self._sock.fileno()

    @property
    def closed(self) -> bool:
        """Whether this end was closed by us."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Close this end; the other one reads the end. Closing twice is fine."""
        self._sock.close()

    def forget(self) -> None:
        """Let go of the descriptor without closing it (after ``fork``, in the process that closed it)."""
        self._sock.detach()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> bool:
        """Send one packet without waiting. The descriptors are duplicated; the caller still owns its own.

        Args:
            data: 1 to ``MAX_PACKET_BYTES`` bytes.
            fds: up to ``MAX_PACKET_FDS`` open descriptors.

        Returns:
            ``True`` when the kernel has it, ``False`` when the channel is full or the other end is gone
            (counted apart); nothing was sent then.

        Raises:
            ValueError: too long, too many descriptors, or empty (that would read as the end).
        """
        size = len(data)
        if not 0 < size <= MAX_PACKET_BYTES or len(fds) > MAX_PACKET_FDS:
            raise ValueError(f"not a packet: {size} bytes, {len(fds)} descriptors")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], ancillary, _SEND_FLAGS)
        except OSError as error:
            if error.errno in _FULL:
                self._refused_full += 1
            elif error.errno in _GONE:
                self._refused_gone += 1
                self.peer_gone = True
            else:
                raise
            return False
        self._sent += 1
        return True

    def receive(self) -> Packet | None:
        """Take the next packet without waiting; ``None`` when there is none now, or it had to be dropped.

        A packet that is longer than the bound, or whose descriptors did not fit (too many, or this
        process may open no more), is dropped with its descriptors closed, and counted. One call reads at
        most one packet, so a sender of such packets cannot hold its reader.

        Raises:
            EOFError: the other end is closed and everything it sent has been read.
        """
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_PACKET_BYTES, _ANCILLARY_BYTES, _RECEIVE_FLAGS)
        except BlockingIOError:
            return None
        except (ConnectionResetError, BrokenPipeError) as error:
            self.peer_gone = True
            raise EOFError("the other end of the channel is gone") from error
        fds = _descriptors(ancillary)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            close_all(fds)
            self._dropped_truncated += 1
            return None
        if not data:
            close_all(fds)
            self.peer_gone = True
            raise EOFError("the other end of the channel is closed")
        self._received += 1
        return Packet(data, fds)

    def wait_readable(self, timeout_s: float) -> bool:
        """Block until a packet or the end can be read, at most ``timeout_s`` seconds."""
        return self._wait(select.POLLIN, timeout_s)

    def wait_writable(self, timeout_s: float) -> bool:
        """Block until a refused ``send`` is worth another try, at most ``timeout_s`` seconds."""
        return self._wait(select.POLLOUT, timeout_s)

    def _wait(self, events: int, timeout_s: float) -> bool:
        poller = select.poll()
        poller.register(self._sock, events)
        return bool(poller.poll(max(0.0, timeout_s) * 1000))

    def statistics(self) -> ChannelStatistics:
        """Counters since this end was made (a fork carries them over)."""
        return ChannelStatistics(
            sent=self._sent,
            received=self._received,
            refused_full=self._refused_full,
            refused_gone=self._refused_gone,
            dropped_truncated=self._dropped_truncated,
            closed=self.closed,
        )


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            # The kernel may cut the list inside the last entry.
            fds.frombytes(raw[: len(raw) - len(raw) % _FD_BYTES])
    return tuple(fds)
