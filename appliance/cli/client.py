"""A client of one of the appliance's doors, on the standard library: a request, an answer, a deadline.

One connection per call; no retry, no proxy, no redirect: what is asked for happens at most once. What never
answered is an error of the tree (``Unreachable``, ``Busy`` for a deadline); what an answer means is for who
asked.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Final
from urllib.parse import quote, urlsplit

import msgspec

from appliance.wire.errors import Busy, Invalid, Unreachable

__all__ = ["MAX_ANSWER_BYTES", "Answer", "DoorClient", "Progress", "pieces_of", "quoted"]

MAX_ANSWER_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 64 << 10

Progress = Callable[[int, int], None]
"""Told during an upload: bytes sent so far, and bytes in all."""


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer, whole."""

    status: int
    body: bytes


def quoted(segment: str) -> str:
    """One segment of a path, with everything quoted that has a meaning there."""
    return quote(segment, safe="@")


class DoorClient:
    """A client of one door; holds no connection between calls.

    Args:
        base: ``http://host:port``, or ``https``; a path in front of the door's own paths may follow.
        token: bearer token; None sends none.
        what: what answers there, for messages: ``admin API``.
        example: an address, for the remedy.

    Raises:
        Invalid: ``base`` is no such address.
    """

    def __init__(self, base: str, token: str | None = None, *, what: str, example: str) -> None:
        parts = urlsplit(base)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query:
            raise Invalid(f"{base!r} is no address of the {what}", field="base", remedy=f"Use {example}.")
        if token is not None and not token.isprintable():
            raise Invalid("the token has control characters", field="token")
        self.base = base.rstrip("/")
        self.host, self.port, self.secure = parts.hostname, port, parts.scheme == "https"
        self.prefix = parts.path.rstrip("/")
        self.token = token
        self._what = what

    def exchange(
        self,
        method: str,
        path: str,
        data: bytes | Iterable[bytes] | None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 35.0,
        size_bytes: int | None = None,
    ) -> Answer:
        """Send one request and wait for its whole answer.

        Args:
            method: ``GET``, ``POST``, ``PUT``, ``DELETE``.
            path: with its query; segments from outside go through :func:`quoted`.
            data: the body, or pieces of it.
            content_type: of the body.
            timeout_s: for all of it.
            size_bytes: of the pieces together.

        Raises:
            Unreachable: nobody answers there (``TRANSPORT_ERROR``).
            Busy: no whole answer in time (``TIMEOUT``).
            Invalid: ``path`` has characters that no path has.
        """
        deadline_s = time.monotonic() + timeout_s
        headers = {"Accept": "application/json", "Connection": "close"}
        if data is not None:
            headers["Content-Type"] = content_type
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        with self.connected(_left(deadline_s)) as connection, self.told(path):
            self.send(connection, method, path, data, headers)
            line = connection.sock
            line.settimeout(_left(deadline_s))
            answer = connection.getresponse()
            return Answer(answer.status, _read(answer, line, deadline_s))

    @contextlib.contextmanager
    def told(self, path: str, late: str = "no answer in time") -> Iterator[None]:
        """Turn what sockets and answers raise into errors of the tree."""
        try:
            yield
        except TimeoutError as error:
            raise Busy(f"{self.base}{path}: {late}", code="TIMEOUT") from error
        except (OSError, http.client.HTTPException) as error:
            raise self.unreachable(error) from error
        except ValueError as error:
            raise self.not_ours(str(error)) from error

    @contextlib.contextmanager
    def connected(self, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
        """A connection, closed at the end of the block; it dials with the first request."""
        connection: http.client.HTTPConnection
        if self.secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            yield connection
        finally:
            connection.close()

    def send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | Iterable[bytes] | None,
        headers: dict[str, str],
    ) -> None:
        """Send one request over ``connection``; errors as sockets raise them, and ``Invalid``."""
        if self.token is not None:
            headers = headers | {"Authorization": f"Bearer {self.token}"}
        try:
            connection.request(method, f"{self.prefix}{path}", body=data, headers=headers)
        except (http.client.InvalidURL, UnicodeEncodeError) as error:
            raise Invalid(f"{path!r} is no path: {error}", field="path") from None
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # The door answered before it had the whole body (413, 401): its answer is still to be read.

    def unreachable(self, error: Exception) -> Unreachable:
        """The error that says that nobody answers."""
        what = str(error) or type(error).__name__
        return Unreachable(
            f"the {self._what} at {self.base} does not answer: {what}",
            code="TRANSPORT_ERROR",
            remedy="Check that the hive runs (`fluxbee status`) and that the address is right.",
        )

    def not_ours(self, why: str) -> Unreachable:
        """The error that says that something else answers."""
        return Unreachable(
            f"what answers at {self.base} is no {self._what}: {why}",
            code="TRANSPORT_ERROR",
            remedy="Check the address and the port.",
        )


def _left(deadline_s: float) -> float:
    """Seconds until the deadline, and never 0: that would make a socket non-blocking."""
    return max(deadline_s - time.monotonic(), 0.001)


def pieces_of(source: IO[bytes], total: int, progress: Progress | None) -> Iterator[bytes]:
    """Exactly ``total`` bytes of a file that may grow meanwhile."""
    sent = 0
    while sent < total:
        piece = source.read(min(_CHUNK_BYTES, total - sent))
        if not piece:
            raise OSError(f"the file became shorter than {total} bytes while it was sent")
        sent += len(piece)
        yield piece
        if progress is not None:
            progress(sent, total)


def _read(answer: http.client.HTTPResponse, line: socket.socket, deadline_s: float) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := answer.read1(_CHUNK_BYTES):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        pieces.append(piece)
        line.settimeout(_left(deadline_s))
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(pieces)
