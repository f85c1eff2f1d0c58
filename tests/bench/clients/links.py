"""How a client program reaches what it measures: a router, nothing at all, or a NATS server.

One ``Link`` is one connected socket and the way messages are dressed for it. Sockets block, with kernel
time-outs: a Python-level time-out would cost a ``poll`` before every call.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from . import frames
from .counting import FrameCounter, MessageCounter, NatsCounter

__all__ = ["FluxLink", "Link", "NatsLink", "RawLink", "open_link"]

_BUFFER_BYTES = 212_992
"""Socket buffers of every client: Linux's own default, written down so that all transports have the same."""


def _patience(sock: socket.socket, seconds: float) -> None:
    timeout = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)


class Link:
    """A connected socket; ``name`` is what others send to, ``source`` what it calls itself in messages."""

    def __init__(self, sock: socket.socket, name: str, source: str) -> None:
        self.sock = sock
        self.name = name
        self.source = source

    def counter(self) -> MessageCounter:
        """A fresh counter for what arrives here."""
        return FrameCounter()

    def dress(self, bodies: Iterator[bytes], per_write: int, to: list[str]) -> list[bytes]:
        """The writes that send ``bodies`` to the names of ``to`` in turn."""
        return frames.in_batches(bodies, per_write)

    def chatter(self, data: bytes) -> bool:
        """Whether ``data`` between two messages is only the protocol's small talk (answered here)."""
        return False

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class RawLink(Link):
    """A socket straight to another client: the baseline without anything between."""


class FluxLink(Link):
    """A registered node on a router's socket."""


class NatsLink(Link):
    """A subscriber and publisher of the NATS text protocol."""

    def chatter(self, data: bytes) -> bool:
        """The server's PING, which it sends two seconds after a client has connected, and later."""
        if data != b"PING\r\n":
            return False
        self.sock.sendall(b"PONG\r\n")
        return True

    def counter(self) -> MessageCounter:
        """Counts MSG lines."""
        return NatsCounter()

    def dress(self, bodies: Iterator[bytes], per_write: int, to: list[str]) -> list[bytes]:
        """PUB lines; the subject is the recipient's name."""
        batches: list[bytes] = []
        batch: list[bytes] = []
        for number, body in enumerate(bodies):
            batch.append(b"PUB %b %d\r\n%b\r\n" % (to[number % len(to)].encode(), len(body), body))
            if len(batch) == per_write:
                batches.append(b"".join(batch))
                batch.clear()
        if batch:
            batches.append(b"".join(batch))
        return batches


def open_link(
    kind: str, address: str, *, uuid: str, name: str, subjects: list[str], patience_s: float
) -> Link:
    """Connect; ``kind`` is ``flux``, ``raw-listen``, ``raw-connect`` or ``nats``.

    Raises:
        OSError: nobody answers at ``address``.
        ValueError: what answers does not speak the protocol.
    """
    if kind == "flux":
        return _open_flux(address, uuid, name, patience_s)
    if kind == "nats":
        return _open_nats(address, uuid, name, subjects, patience_s)
    sock = _accept_one(address, patience_s) if kind == "raw-listen" else _connect_unix(address, patience_s)
    return RawLink(sock, name, uuid)


def _connect_unix(address: str, patience_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    _patience(sock, patience_s)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    sock.connect(address)
    return sock


def _accept_one(address: str, patience_s: float) -> socket.socket:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        Path(address).unlink(missing_ok=True)
        listener.bind(address)
        listener.listen(1)
        listener.settimeout(patience_s)
        # The parent starts the other end when it reads this.
        print(json.dumps({"listening": address}), flush=True)
        sock, _ = listener.accept()
    sock.setblocking(True)
    _patience(sock, patience_s)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return sock


def _open_flux(address: str, uuid: str, name: str, patience_s: float) -> FluxLink:
    sock = _connect_unix(address, patience_s)
    sock.sendall(frames.hello(uuid, name))
    body = _exactly(sock, int.from_bytes(_exactly(sock, 4), "big"))
    answer = json.loads(body)
    if answer["meta"].get("msg") != "ANNOUNCE":
        raise ValueError(f"expected ANNOUNCE, got {answer['meta']}")
    return FluxLink(sock, answer["payload"]["name"], uuid)


def _open_nats(address: str, uuid: str, name: str, subjects: list[str], patience_s: float) -> NatsLink:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=patience_s)
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _patience(sock, patience_s)
    lines = [b'CONNECT {"verbose":false,"pedantic":false,"echo":false,"lang":"raw","version":"0"}']
    lines += [
        b"SUB %b %d" % (subject.encode(), number) for number, subject in enumerate([name, *subjects], 1)
    ]
    sock.sendall(b"\r\n".join([*lines, b"PING", b""]))
    received = b""
    while b"PONG\r\n" not in received:
        part = sock.recv(65536)
        if not part or b"-ERR" in received:
            raise ValueError(f"the NATS server said {received[-200:]!r}")
        received += part
    return NatsLink(sock, name, uuid)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ValueError("the connection was closed during the handshake")
        data += part
    return data
