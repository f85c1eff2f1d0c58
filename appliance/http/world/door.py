"""Puts the world door together: application, limits, origins, figures.

The only module here that knows settings. Off loopback the door opens with ``world.auth_enabled`` (its
application then asks for namespace tokens) or with ``http.token`` (the door asks).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import trio
from starlette.types import Scope

from appliance.http.admin.metrics import render
from appliance.http.config import DoorConfig
from appliance.http.counters import DoorStatistics
from appliance.http.guard import header
from appliance.http.health import HealthSource
from appliance.http.pages import Page
from appliance.settings import Settings
from appliance.world import WorldEngine
from appliance.world.feed import Feed

from .administration import Administration
from .app import CORS_HEADERS, WorldApp
from .call import world_error
from .connectors import ConnectorDesk, NoConnectors
from .copies import Copies
from .credentials import Credentials
from .hub import FeedHub
from .stream import is_ndjson

__all__ = ["WorldDoor"]

_OTHER_BODY: Final = 2 << 20
"""Bodies that are no events (HT-20)."""

_ENDLESS: Final = 1 << 62
_CONNECTIONS: Final = 1280
_MESSAGE_BYTES: Final = 1 << 20
_STALLED_S: Final = 90.0
"""A client that took nothing for so long is cut; till then it costs the feed two numbers (AT-NEW-17)."""

_EVENT_PATHS: Final = frozenset({"/api/events", "/api/events/batch"})


class WorldDoor:
    """What the world plane serves.

    Args:
        engine: the world, which runs already or soon.
        settings: of the hive.
        admin_token: of the administration.
        health: how the world is.
        connectors: what is behind the mounting points; by default a desk without a credential store.

    Attributes:
        hub: run it beside the door: ``await nursery.start(door.hub.run)``.
        app: the ASGI application.
        config: of the door that it is served behind.
    """

    def __init__(
        self,
        engine: WorldEngine,
        settings: Settings,
        *,
        admin_token: str | None,
        health: HealthSource,
        connectors: Callable[[Credentials], ConnectorDesk] = NoConnectors,
    ) -> None:
        world = settings.world
        self._engine = engine
        self.hub = FeedHub(engine, Feed(), metrics_interval_s=world.metrics_interval_s)
        self.credentials = Credentials(engine, auth_enabled=world.auth_enabled, admin_token=admin_token)
        self.statistics: Callable[[], DoorStatistics] | None = None
        self.connector_statistics: Callable[[], msgspec.Struct] | None = None
        own = frozenset(origin.rstrip("/").lower() for origin in settings.http.origins)
        self.app = WorldApp(
            self.hub,
            self.credentials,
            Administration(engine, self.credentials, open_registration=world.open_registration),
            connectors=connectors(self.credentials),
            copies=Copies(engine, self.credentials, settings.paths.spool),
            health=health,
            figures=self._figures,
            own_origins=own,
            page=Page(Path(__file__).parent / "page"),
        )
        self.config = DoorConfig(
            name="world",
            listen=world.listen,
            key="world.listen",
            # One header cannot hold two tokens: with namespaces' tokens the door asks for none of its own.
            token=None if world.auth_enabled else settings.http.token,
            own_auth=world.auth_enabled,
            credential=lambda scope: self.credentials.is_known(scope, trio.current_time()),
            websocket_reads=True,
            allowed_hosts=frozenset(settings.http.hosts),
            allowed_origins=own,
            max_body_bytes=self._body_limit,
            max_connections=_CONNECTIONS,
            write_timeout_s=_STALLED_S,
            websocket_max_bytes=_MESSAGE_BYTES,
            headers=CORS_HEADERS,
            error_shape=world_error,
        )

    def _body_limit(self, scope: Scope) -> int:
        path = scope["path"]
        if path == "/api/admin/restore":
            return _ENDLESS  # the administrator's own; the disk is the bound
        if path not in _EVENT_PATHS:
            return _OTHER_BODY
        if is_ndjson(header(scope, b"content-type")):
            return _ENDLESS  # each line has the limit of a single event
        config = self._engine.config
        if path == "/api/events":
            return config.body_size_limit_single_bytes
        return config.body_size_limit_batch_bytes

    def figures(self) -> dict[str, msgspec.Struct | None]:
        """Statistics by source; ``None`` for what does not run."""
        door, connectors = self.statistics, self.connector_statistics
        return {
            "world": self._engine.statistics(),
            "world_feed": self.hub.feed.statistics(),
            "world_sockets": self.hub.statistics(),
            "world_door": None if door is None else door(),
            "world_connectors": None if connectors is None else connectors(),
        }

    def _figures(self) -> bytes:
        return render(self.figures().items())
