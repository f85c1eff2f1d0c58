"""The world's door as the command line sees it: JSON in, JSON out, errors of the tree, and the live feed.

``FLUX_URL`` says where (default ``http://localhost:3000``), ``FLUX_TOKEN`` and ``FLUX_ADMIN_TOKEN`` who asks
(``spec/flux-state.md §6.1``). The feed is a WebSocket over a blocking socket; the door ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

from appliance.system.paths import Paths
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

from .client import MAX_ANSWER_BYTES, Answer, DoorClient, pieces_of

__all__ = [
    "ADMIN_TOKEN_ENV",
    "DEFAULT_URL",
    "TOKEN_ENV",
    "URL_ENV",
    "WorldApi",
    "entity_path",
    "local_access",
]

DEFAULT_URL: Final = "http://localhost:3000"
URL_ENV: Final = "FLUX_URL"
TOKEN_ENV: Final = "FLUX_TOKEN"  # noqa: S105 -- the variable's name
ADMIN_TOKEN_ENV: Final = "FLUX_ADMIN_TOKEN"  # noqa: S105 -- the variable's name

_READ_BYTES: Final = 64 << 10
_KINDS: Final[dict[int, type[FluxbeeError]]] = {
    400: Invalid,
    401: Refused,
    403: Refused,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: Busy,
    503: Unavailable,
}


def entity_path(entity: str) -> str:
    """The path of one entity; slashes of its id are quoted."""
    return f"/api/state/entities/{quote(entity, safe='')}"


def local_access(paths: Paths) -> tuple[str | None, str | None]:
    """Address and admin token of this box's own world, as far as this account may read them.

    Nobody else gets the token: an address that was named is asked with what the environment holds.
    """
    from appliance.settings import load

    base = token = None
    with contextlib.suppress(FluxbeeError, OSError):
        settings = load(paths.hive_yaml, overrides={"root": str(paths.root)} if paths.root else None).settings
        host, _, port = settings.world.listen.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
        base = f"http://{host}:{port}" if port != "0" else None
        token = settings.world.admin_token
    if base is not None and token is None:
        with contextlib.suppress(OSError, ValueError):
            token = paths.world_admin_token.read_text("ascii").strip() or None
    return base, token


class WorldApi:
    """A client of one box's world.

    Args:
        base: ``http://host:port``; ``$FLUX_URL`` or this box by default.
        token: namespace token; ``$FLUX_TOKEN`` by default.
        admin_token: for what changes the box; ``$FLUX_ADMIN_TOKEN`` goes before it.

    Raises:
        Invalid: ``base`` is no address.
    """

    def __init__(
        self, base: str | None = None, token: str | None = None, admin_token: str | None = None
    ) -> None:
        address = base or os.environ.get(URL_ENV) or DEFAULT_URL
        self._token = token or os.environ.get(TOKEN_ENV) or None
        self._admin_token = os.environ.get(ADMIN_TOKEN_ENV) or admin_token
        self._door = DoorClient(address, self._token, what="world", example=DEFAULT_URL)
        self.base = self._door.base

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = 30.0) -> object:
        """One request; the decoded answer, ``None`` for an empty one.

        Raises:
            FluxbeeError: what the world refused, by its status; ``Unreachable``, ``Busy`` as the client says.
        """
        return self._call(self._door, method, path, body, timeout_s)

    def administer(self, method: str, path: str, body: object = None, *, timeout_s: float = 30.0) -> object:
        """One request with the admin token; errors as :meth:`call`.

        Raises:
            Refused: there is no admin token.
        """
        door = self._administration()
        return self._call(door, method, path, body, timeout_s)

    def act(self, method: str, path: str, body: object = None) -> object:
        """One request with the admin token where there is one: what auth asks it for, and otherwise nobody.

        Raises:
            FluxbeeError: as :meth:`call`.
        """
        door = self._door if self._admin_token is None else self._administration()
        return self._call(door, method, path, body, 30.0)

    def download(self, path: str, file: Path, *, timeout_s: float = 3600.0) -> int:
        """Write what ``path`` gives the administration into ``file``; it appears whole or not at all.

        Returns:
            its size in bytes.

        Raises:
            FluxbeeError: as :meth:`administer`; ``OSError`` of the file.
        """
        door = self._administration()
        whole = file.with_name(f".{file.name}.part")
        try:
            with door.connected(timeout_s) as connection, door.told(path), whole.open("wb") as target:
                door.send(connection, "GET", path, None, {})
                answer = connection.getresponse()
                if answer.status != 200:
                    _refuse(answer.status, _decoded(door, answer.read(MAX_ANSWER_BYTES)))
                shutil.copyfileobj(answer, target, _READ_BYTES)
                if answer.length:
                    raise ConnectionError("the answer is cut off")
            whole.replace(file)
        finally:
            whole.unlink(missing_ok=True)
        return file.stat().st_size

    def upload(self, path: str, file: Path, *, timeout_s: float = 3600.0) -> object:
        """Send ``file`` as the administration; the decoded answer. Errors as :meth:`download`."""
        door = self._administration()
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            answer = door.exchange(
                "POST",
                path,
                pieces_of(source, size, None),
                content_type="application/octet-stream",
                timeout_s=timeout_s,
                size_bytes=size,
            )
        return _answered(door, answer)

    def _administration(self) -> DoorClient:
        if self._admin_token is None:
            raise Refused(
                f"{ADMIN_TOKEN_ENV} not set",
                remedy="Set it, or work on the box with an account that may read its token.",
            )
        return DoorClient(self.base, self._admin_token, what="world", example=DEFAULT_URL)

    def _call(self, door: DoorClient, method: str, path: str, body: object, timeout_s: float) -> object:
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        return _answered(door, door.exchange(method, path, data, timeout_s=timeout_s))

    def feed(self, entities: tuple[str, ...] = ("*",)) -> Iterator[dict[str, object]]:
        """Frames of the live feed, until the door ends it.

        Args:
            entities: whose changes; ``*`` means everybody's.

        Raises:
            Unreachable: no connection, or what answers is no world.
        """
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import (
            AcceptConnection,
            CloseConnection,
            Ping,
            RejectConnection,
            Request,
            TextMessage,
        )

        websocket = WSConnection(ConnectionType.CLIENT)
        text = ""
        with self._door.told("/api/ws"), self._dial() as line:
            host = f"{self._door.host}:{line.getpeername()[1]}"
            line.sendall(websocket.send(Request(host=host, target="/api/ws")))
            while data := line.recv(_READ_BYTES):
                websocket.receive_data(data)
                for event in websocket.events():
                    if isinstance(event, AcceptConnection):
                        for entity in entities:
                            wanted = json.dumps({"type": "subscribe", "entity_id": entity})
                            line.sendall(websocket.send(TextMessage(wanted)))
                    elif isinstance(event, Ping):
                        line.sendall(websocket.send(event.response()))
                    elif isinstance(event, TextMessage):
                        text += event.data
                        if event.message_finished:
                            frame, text = json.loads(text), ""
                            yield frame
                    elif isinstance(event, RejectConnection):
                        raise ValueError(f"the feed is refused with status {event.status_code}")
                    elif isinstance(event, CloseConnection):
                        return

    def _dial(self) -> socket.socket:
        door = self._door
        port = door.port or (443 if door.secure else 80)
        try:
            line = socket.create_connection((door.host, port), timeout=10.0)
        except OSError as error:
            raise door.unreachable(error) from error
        if door.secure:
            line = ssl.create_default_context().wrap_socket(line, server_hostname=door.host)
        line.settimeout(None)  # silence is no failure: nothing may happen for hours
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return line

    def reachable(self) -> int:
        """How many entities there are; the cheapest proof that a world answers.

        Raises:
            Unreachable: nobody does.
        """
        entities = self.call("GET", "/api/state/entities")
        if not isinstance(entities, list):
            raise Unreachable(f"what answers at {self.base} is no world", code="TRANSPORT_ERROR")
        return len(entities)


def _decoded(door: DoorClient, body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        raise door.not_ours("the answer is not JSON") from None


def _answered(door: DoorClient, answer: Answer) -> object:
    value = _decoded(door, answer.body)
    if answer.status >= 400:
        _refuse(answer.status, value)
    return value


def _refuse(status: int, value: object) -> NoReturn:
    told = value.get("error") if isinstance(value, dict) else None
    raise _KINDS.get(status, FluxbeeError)(str(told or f"the world answered {status}"))
