"""The admin API as the command line sees it: one request, one envelope (``spec/admin-api.md §A.4``).

:class:`AdminApi` speaks HTTP/1.1 with the standard library only, one connection per call, and knows the base
address, the bearer token and deadlines. What the appliance answers, errors included, is an :class:`Envelope`;
what never answered is an error of the tree (``Unreachable``, ``Busy`` for a deadline). No retry, no proxy, no
redirect: what is asked for happens at most once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, urlsplit

import msgspec

from appliance.wire.errors import (
    Busy,
    Conflict,
    FluxbeeError,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    Unreachable,
)

__all__ = ["BASE_ENV", "DEFAULT_BASE", "TOKEN_ENV", "AdminApi", "Envelope", "Progress", "quoted"]

DEFAULT_BASE: Final = "http://127.0.0.1:8080"
BASE_ENV: Final = "BASE"
TOKEN_ENV: Final = "FLUXBEE_HTTP_TOKEN"  # noqa: S105 -- the variable's name

MAX_ANSWER_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 64 << 10
_MAX_LINE_BYTES: Final = 4 << 20

Progress = Callable[[int, int], None]
"""Told during an upload: bytes sent so far, and bytes in all."""

_BY_STATUS: Final[tuple[tuple[int, type[FluxbeeError]], ...]] = (
    (400, Invalid),
    (401, Refused),
    (403, Refused),
    (404, NotFound),
    (409, Conflict),
    (413, Invalid),
    (422, Invalid),
    (429, Busy),
    (502, Unreachable),
    (503, Unavailable),
    (504, Busy),
)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What the admin API answered.

    ``status`` is ``ok``, ``sync_pending`` or ``error``; a body that is no envelope (``/health``) is given as
    ``payload`` whole. ``error_detail`` is text wherever the specification says so.
    """

    status: str
    action: str | None = None
    payload: object = None
    error_code: str | None = None
    error_detail: object = None
    http_status: int

    @property
    def is_error(self) -> bool:
        """Whether it did not work."""
        return self.status == "error"

    def fields(self) -> dict[str, object]:
        """``payload`` when it is an object, else an empty one."""
        return self.payload if isinstance(self.payload, dict) else {}

    def checked(self) -> Envelope:
        """This answer when it is none of failure.

        Raises:
            FluxbeeError: the error that it tells, by what the caller can do about it.
        """
        if not self.is_error:
            return self
        kind = next((kind for status, kind in _BY_STATUS if status == self.http_status), FluxbeeError)
        detail = self.error_detail if isinstance(self.error_detail, str) else json.dumps(self.error_detail)
        code = self.error_code or kind.code
        raise kind(
            f"{code}: {detail}" if self.error_detail else f"{self.action or 'request'}: {code}", code=code
        )


def quoted(segment: str) -> str:
    """One segment of a path, with everything quoted that has a meaning there."""
    return quote(segment, safe="@")


class AdminApi:
    """A client of one hive's admin API; holds no connection between calls.

    Args:
        base: ``http://host:port``, or ``https``; a path in front of the API's own paths may follow.
        token: bearer token; None sends none.

    Raises:
        Invalid: ``base`` is no such address.
    """

    def __init__(self, base: str = DEFAULT_BASE, token: str | None = None) -> None:
        parts = urlsplit(base)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query:
            raise Invalid(
                f"{base!r} is no address of an admin API", field="base", remedy=f"Use {DEFAULT_BASE}."
            )
        if token is not None and not token.isprintable():
            raise Invalid("the token has control characters", field="token")
        self.base = base.rstrip("/")
        self._host, self._port = parts.hostname, port
        self._secure = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._token = token

    @classmethod
    def from_environment(cls, base: str | None = None) -> AdminApi:
        """The API at ``base``, else at ``$BASE``, else on this box; the token of ``$FLUXBEE_HTTP_TOKEN``."""
        return cls(base or os.environ.get(BASE_ENV) or DEFAULT_BASE, os.environ.get(TOKEN_ENV) or None)

    def call(self, method: str, path: str, body: object = None, timeout_s: float = 35.0) -> Envelope:
        """Send one request and wait for its answer.

        Args:
            method: ``GET``, ``POST``, ``PUT``, ``DELETE``.
            path: with its query; segments from outside go through :func:`quoted`.
            body: a JSON value; None sends none.
            timeout_s: for all of it.

        Returns:
            The answer, also when it tells an error.

        Raises:
            Unreachable: nobody answers there, or what answers is no admin API (``TRANSPORT_ERROR``).
            Busy: no whole answer in time (``TIMEOUT``).
            Invalid: ``path`` has characters that no path has.
        """
        data = None if body is None else json.dumps(body).encode()
        return self._exchange(method, path, data, "application/json", time.monotonic() + timeout_s)

    def upload(
        self,
        method: str,
        path: str,
        file: Path,
        *,
        content_type: str = "application/octet-stream",
        progress: Progress | None = None,
        timeout_s: float = 600.0,
    ) -> Envelope:
        """Send the content of ``file`` as the body; errors as :meth:`call`, and ``OSError`` of the file."""
        with file.open("rb") as source:
            total = os.fstat(source.fileno()).st_size
            pieces = _pieces(source, total, progress)
            deadline_s = time.monotonic() + timeout_s
            return self._exchange(method, path, pieces, content_type, deadline_s, size_bytes=total)

    def stream(
        self, path: str, *, connect_timeout_s: float = 10.0, idle_timeout_s: float | None = None
    ) -> Iterator[str]:
        """Data of the events that ``path`` streams (``text/event-stream``), a text per event, until it ends.

        Comments are left out. Closing the iterator closes the connection.

        Args:
            path: as in :meth:`call`.
            connect_timeout_s: until the headers of the answer.
            idle_timeout_s: longest silence; None waits as long as the peer's host answers.

        Raises:
            FluxbeeError: the answer is an error, or as :meth:`call`.
        """
        with self._connected(connect_timeout_s) as connection:
            try:
                self._send(connection, "GET", path, None, {"Accept": "text/event-stream"})
                line = connection.sock  # http.client forgets it once the answer says that it will close
                answer = connection.getresponse()
                if answer.status != 200 or "event-stream" not in (answer.getheader("content-type") or ""):
                    _envelope(answer.read(MAX_ANSWER_BYTES), answer.status).checked()
                    raise self._not_ours(f"{path} is no stream")
                line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                line.settimeout(idle_timeout_s)
                yield from _events(answer)
            except TimeoutError as error:
                raise Busy(f"{self.base}{path}: silent for too long", code="TIMEOUT") from error
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            except ValueError as error:
                raise self._not_ours(str(error)) from error

    # --- one exchange ----------------------------------------------------------------------------------

    def _exchange(
        self,
        method: str,
        path: str,
        data: bytes | Iterable[bytes] | None,
        content_type: str,
        deadline_s: float,
        size_bytes: int | None = None,
    ) -> Envelope:
        headers = {"Accept": "application/json", "Connection": "close"}
        if data is not None:
            headers["Content-Type"] = content_type
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        with self._connected(_left(deadline_s)) as connection:
            try:
                self._send(connection, method, path, data, headers)
                line = connection.sock
                line.settimeout(_left(deadline_s))
                answer = connection.getresponse()
                return _envelope(_read(answer, line, deadline_s), answer.status)
            except TimeoutError as error:
                raise Busy(f"{self.base}{path}: no answer in time", code="TIMEOUT") from error
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            except ValueError as error:
                raise self._not_ours(str(error)) from error

    @contextlib.contextmanager
    def _connected(self, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            yield connection
        finally:
            connection.close()

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | Iterable[bytes] | None,
        headers: dict[str, str],
    ) -> None:
        if self._token is not None:
            headers = headers | {"Authorization": f"Bearer {self._token}"}
        try:
            connection.request(method, f"{self._prefix}{path}", body=data, headers=headers)
        except (http.client.InvalidURL, UnicodeEncodeError) as error:
            raise Invalid(f"{path!r} is no path: {error}", field="path") from None
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # The door answered before it had the whole body (413, 401): its answer is still to be read.

    def _unreachable(self, error: Exception) -> Unreachable:
        what = str(error) or type(error).__name__
        return Unreachable(
            f"the admin API at {self.base} does not answer: {what}",
            code="TRANSPORT_ERROR",
            remedy="Check that the hive runs (`fluxbee status`) and that the address is right.",
        )

    def _not_ours(self, why: str) -> Unreachable:
        return Unreachable(
            f"what answers at {self.base} is no admin API: {why}",
            code="TRANSPORT_ERROR",
            remedy="Check the address and the port.",
        )


def _left(deadline_s: float) -> float:
    """Seconds until the deadline, and never 0: that would make a socket non-blocking."""
    return max(deadline_s - time.monotonic(), 0.001)


def _pieces(source: IO[bytes], total: int, progress: Progress | None) -> Iterator[bytes]:
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


def _envelope(data: bytes, http_status: int) -> Envelope:
    """The envelope in ``data``; ``ValueError`` when it is not even a JSON object."""
    try:
        body = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")
    status, action, code = body.get("status"), body.get("action"), body.get("error_code") or body.get("error")
    known = isinstance(status, str)
    is_envelope = known and "payload" in body
    return Envelope(
        status=str(status) if known else ("error" if http_status >= 400 else "ok"),
        action=action if isinstance(action, str) else None,
        payload=body["payload"] if is_envelope else body,
        error_code=code if isinstance(code, str) else None,
        error_detail=body.get("error_detail"),
        http_status=http_status,
    )


def _events(answer: http.client.HTTPResponse) -> Iterator[str]:
    data: list[str] = []
    while line := answer.readline(_MAX_LINE_BYTES):
        text = line.decode(errors="replace").rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text and data:
            yield "\n".join(data)
            data.clear()
