"""``hive.yaml`` as one frozen Struct, and what follows from it.

``Settings()`` is the empty file: an unclaimed worker on the reference's paths. Values that follow others
(``<lib>/blob`` when ``blob.path`` is absent) are properties here, so that a consumer never repeats the rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NewType

from msgspec import field

from appliance.system.paths import ROOT_ENV, Paths
from appliance.wire.names import full_name

from .hive import (
    Admin,
    AiProviders,
    Architect,
    Blob,
    Database,
    Dist,
    Government,
    Identity,
    Nats,
    Storage,
    Wan,
)
from .keys import Section, key
from .own import (
    Http,
    Journals,
    Limits,
    Log,
    Orchestrator,
    Packages,
    Queues,
    Regions,
    Routing,
    Security,
    Turns,
    World,
)

__all__ = ["MOTHERBEE", "HiveId", "Settings"]

HiveId = NewType("HiveId", str)
"""A name that fits ``[A-Za-z0-9_-]{1,64}``."""

MOTHERBEE = HiveId("motherbee")
"""The motherbee's hive id; no other hive may have it (``spec/admin-api.md §A.1``)."""


class Settings(Section, frozen=True, kw_only=True):
    """One box."""

    hive_id: Annotated[
        HiveId | None,
        key(
            "Name of this hive. A motherbee is always called `motherbee`.",
            form="hive_id",
            derived="motherbee for a motherbee, else unclaimed-<first 8 hex digits of the box's key>",
        ),
    ] = None
    role: Annotated[
        Literal["worker", "motherbee"], key("`motherbee` makes this box the mother of its hives.")
    ] = "worker"
    root: Annotated[
        str | None,
        key(
            "Directory of `etc`, `lib` and `run`; relative to the working directory.",
            form="path",
            env=(ROOT_ENV,),
            derived="/etc/fluxbee, /var/lib/fluxbee and /var/run/fluxbee",
        ),
    ] = None
    planes: Annotated[
        Literal["auto", "together", "apart"],
        key("Whether data, control and world share a process; `auto`: apart from two cores on."),
    ] = "auto"
    wan: Wan = field(default_factory=Wan)
    nats: Nats = field(default_factory=Nats)
    government: Government = field(default_factory=Government)
    identity: Identity = field(default_factory=Identity)
    admin: Admin = field(default_factory=Admin)
    architect: Architect = field(default_factory=Architect)
    storage: Storage = field(default_factory=Storage)
    database: Database = field(default_factory=Database)
    blob: Blob = field(default_factory=Blob)
    dist: Dist = field(default_factory=Dist)
    ai_providers: AiProviders = field(default_factory=AiProviders)
    security: Security = field(default_factory=Security)
    routing: Routing = field(default_factory=Routing)
    orchestrator: Orchestrator = field(default_factory=Orchestrator)
    packages: Packages = field(default_factory=Packages)
    world: World = field(default_factory=World)
    http: Http = field(default_factory=Http)
    queues: Queues = field(default_factory=Queues)
    limits: Limits = field(default_factory=Limits)
    journals: Journals = field(default_factory=Journals)
    turns: Turns = field(default_factory=Turns)
    regions: Regions = field(default_factory=Regions)
    log: Log = field(default_factory=Log)

    @property
    def paths(self) -> Paths:
        """Where everything lies."""
        return Paths(self.root)

    @property
    def storage_dir(self) -> Path:
        """Root of managed nodes and modules."""
        return Path(self.storage.path) if self.storage.path else self.paths.lib

    @property
    def blob_dir(self) -> Path:
        """Root of the blob store."""
        return Path(self.blob.path) if self.blob.path else self.paths.blob

    @property
    def dist_dir(self) -> Path:
        """Root of runtimes and packages."""
        return Path(self.dist.path) if self.dist.path else self.paths.lib / "dist"

    @property
    def nats_url(self) -> str:
        """Where local streams are served."""
        return self.nats.url or f"nats://127.0.0.1:{self.nats.port}"

    @property
    def router_name(self) -> str:
        """Name of this router as configured; normally without the hive."""
        return self.routing.router_name or self.wan.gateway_name

    @property
    def max_ilk_aliases(self) -> int:
        """Most aliases of the hive."""
        return self.identity.max_ilk_aliases or self.identity.max_ilks

    def frontdesk_name(self, hive_id: str) -> str:
        """Full name of the front desk on hive ``hive_id``."""
        return full_name(self.government.identity_frontdesk or "SY.frontdesk.gov", hive_id)
