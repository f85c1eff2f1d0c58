"""The admin API as the command line sees it: one request, one envelope (``spec/admin-api.md §A.4``).

:class:`AdminApi` speaks HTTP/1.1 with the standard library only, one connection per call, and knows the base
address, the bearer token and deadlines. What the appliance answers, errors included, is an :class:`Envelope`;
what never answered is an error of the tree (``Unreachable``, ``Busy`` for a deadline). No retry, no proxy, no
redirect: what is asked for happens at most once.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

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

from .client import MAX_ANSWER_BYTES, DoorClient, Progress, pieces_of, quoted

__all__ = ["BASE_ENV", "DEFAULT_BASE", "TOKEN_ENV", "AdminApi", "Envelope", "Progress", "quoted"]

DEFAULT_BASE: Final = "http://127.0.0.1:8080"
BASE_ENV: Final = "BASE"
TOKEN_ENV: Final = "FLUXBEE_HTTP_TOKEN"  # noqa: S105 -- the variable's name

_MAX_LINE_BYTES: Final = 4 << 20

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


class AdminApi:
    """A client of one hive's admin API; holds no connection between calls.

    Args:
        base: ``http://host:port``, or ``https``; a path in front of the API's own paths may follow.
        token: bearer token; None sends none.

    Raises:
        Invalid: ``base`` is no such address.
    """

    def __init__(self, base: str = DEFAULT_BASE, token: str | None = None) -> None:
        self._door = DoorClient(base, token, what="admin API", example=DEFAULT_BASE)
        self.base = self._door.base

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
        answer = self._door.exchange(method, path, data, timeout_s=timeout_s)
        return self._envelope(answer.body, answer.status)

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
            answer = self._door.exchange(
                method,
                path,
                pieces_of(source, total, progress),
                content_type=content_type,
                timeout_s=timeout_s,
                size_bytes=total,
            )
        return self._envelope(answer.body, answer.status)

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
        door = self._door
        with door.connected(connect_timeout_s) as connection, door.told(path, "silent for too long"):
            door.send(connection, "GET", path, None, {"Accept": "text/event-stream"})
            line = connection.sock  # http.client forgets it once the answer says that it will close
            answer = connection.getresponse()
            if answer.status != 200 or "event-stream" not in (answer.getheader("content-type") or ""):
                _envelope(answer.read(MAX_ANSWER_BYTES), answer.status).checked()
                raise door.not_ours(f"{path} is no stream")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            line.settimeout(idle_timeout_s)
            yield from _events(answer)

    def _envelope(self, data: bytes, http_status: int) -> Envelope:
        try:
            return _envelope(data, http_status)
        except ValueError as error:
            raise self._door.not_ours(str(error)) from error


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
