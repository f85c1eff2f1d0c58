"""A world door of a real hive, and clients of our own for it: HTTP by httpx, WebSocket by wsproto."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from appliance.testing.hive import HiveHarness

ADMIN = "the-administrators-token"
WAIT_S = 10.0


@contextmanager
def world_hive(**world: object) -> Iterator[HiveHarness]:
    """A hive whose section ``world`` has these keys besides its port."""
    folder = Path(tempfile.mkdtemp(prefix="fluxbee-"))
    try:
        with HiveHarness(folder, settings={"world": {"admin_token": ADMIN, **world}}) as hive:
            yield hive
    finally:
        shutil.rmtree(folder)


def http(hive: HiveHarness, token: str | None = None) -> httpx.Client:
    """A client of the door."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=hive.world_url, headers=headers, trust_env=False, timeout=30)


def event(entity_id: str, /, **properties: object) -> dict[str, object]:
    """An event without a timestamp."""
    return {"stream": "test", "source": "t", "payload": {"entity_id": entity_id, "properties": properties}}


class Feed:
    """A WebSocket client; reads on demand."""

    def __init__(
        self, hive: HiveHarness, path: str = "/api/ws", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        place = urlsplit(hive.world_url)
        self.sock = socket.create_connection((place.hostname, place.port), WAIT_S)
        self.ws = WSConnection(ConnectionType.CLIENT)
        raw = [(name.encode(), value.encode()) for name, value in headers]
        self.sock.sendall(self.ws.send(Request(host=place.netloc, target=path, extra_headers=raw)))
        self.frames: list[dict] = []
        self.closed: int | None = None
        self.rejected: int | None = None
        self.rejection = b""
        self._text = ""
        self.accepted = False
        while not self.accepted and self.rejected is None:
            self._pump(WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.sock.close()

    def send(self, value: object) -> None:
        """Send JSON, or text or bytes as they are."""
        if isinstance(value, bytes):
            self.sock.sendall(self.ws.send(BytesMessage(value)))
        else:
            self.sock.sendall(
                self.ws.send(TextMessage(value if isinstance(value, str) else json.dumps(value)))
            )

    def _pump(self, timeout_s: float) -> bool:
        self.sock.settimeout(timeout_s)
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            return False
        self.ws.receive_data(data or None)
        for found in self.ws.events():
            if isinstance(found, AcceptConnection):
                self.accepted = True
            elif isinstance(found, RejectConnection):
                self.rejected = found.status_code
            elif isinstance(found, RejectData):
                self.rejection += found.data
            elif isinstance(found, TextMessage):
                self._text += found.data
                if found.message_finished:
                    self.frames.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(found, Ping):
                self.sock.sendall(self.ws.send(found.response()))
            elif isinstance(found, CloseConnection):
                self.closed = found.code
        return bool(data)

    def until(self, found: Callable[[list[dict]], bool], timeout_s: float = WAIT_S) -> list[dict]:
        """Read until ``found`` says so of all frames but metrics; returns and forgets them."""
        deadline = time.monotonic() + timeout_s
        while not found(self.news) and self.closed is None:
            left = deadline - time.monotonic()
            assert left > 0, f"did not come; there are {self.news[-5:]}"
            if not self._pump(left) and time.monotonic() < deadline:
                break
        news = self.news
        self.frames.clear()
        return news

    def until_property(self, name: str) -> list[dict]:
        """Read until an update of this property comes: all that were caused before it have come then."""
        return self.until(lambda frames: any(frame.get("property") == name for frame in frames))

    @property
    def news(self) -> list[dict]:
        """What came, without metrics."""
        return [frame for frame in self.frames if frame["type"] != "metrics_update"]
