"""An HTTP client process: one kept connection, one request after the other, the time of each.

``python -S -E -m tests.bench.clients.web``, commanded like ``client``. It reads heads with ``find`` and
bodies by ``Content-Length``, so that what is measured is the door and not an HTTP library. An answer with
another status than 200 is an error and not a fast answer.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import time
from array import array

from .client import Answer, summary

__all__ = ["WebClient", "main"]

_PATIENCE_S = 30.0
_LENGTH = b"content-length:"
_now = time.monotonic_ns


class WebClient:
    """A connection to one door."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None

    def do(self, command: dict[str, object]) -> Answer:
        """Carry out ``command``; what fails comes back as ``{"error": …}``."""
        try:
            if command.pop("do") == "open":
                return self.open(**command)  # type: ignore[arg-type]
            return self.get(**command)  # type: ignore[arg-type]
        except (OSError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def open(self, port: int) -> Answer:
        """Connect to a door on loopback."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return {}

    def get(self, path: str, count: int, warm: int = 0) -> Answer:
        """``count`` requests after ``warm`` that are not timed; their times, and the bytes of one body."""
        assert self.sock is not None
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        times = array("q")
        size = 0
        for number in range(warm + count):
            began = _now()
            size = _exchange(self.sock, request)
            if number >= warm:
                times.append(_now() - began)
        return {**summary(times), "body_bytes": size}


def _exchange(sock: socket.socket, request: bytes) -> int:
    """One request and its whole answer; the size of the body.

    Raises:
        ValueError: the answer is not 200, or its body has no length.
    """
    sock.sendall(request)
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        part = sock.recv(1 << 18)
        if not part:
            raise ValueError("the door closed the connection")
        data += part
    head = bytes(data[:end]).lower()
    at = head.find(_LENGTH)
    if not head.startswith(b"http/1.1 200") or at < 0:
        raise ValueError(f"an answer that begins {bytes(data[:200])!r}")
    size = int(head[at + len(_LENGTH) :].split(b"\r", 1)[0])
    left = size - (len(data) - end - 4)
    while left > 0:
        part = sock.recv(min(left, 1 << 18))
        if not part:
            raise ValueError("the door closed the connection within an answer")
        left -= len(part)
    return size


def main() -> None:
    """Carry out commands until stdin ends."""
    gc.disable()
    client = WebClient()
    for line in sys.stdin:
        print(json.dumps(client.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
