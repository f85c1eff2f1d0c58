"""The sections of ``hive.yaml`` that the reference knows too (``spec/routing-and-regions.md §7``).

Every key of that table is here with its default, so that an existing file loads unchanged. A key whose
feature does not exist in this appliance says so in its ``notice``. Times keep the reference's names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import field

from .keys import Section, key

__all__ = [
    "Admin",
    "AdminTimeouts",
    "AiProviders",
    "Architect",
    "Blob",
    "BlobGc",
    "BlobSync",
    "Database",
    "Dist",
    "DistSync",
    "Government",
    "Identity",
    "IdentitySync",
    "Nats",
    "OpenAi",
    "Storage",
    "Uplink",
    "Wan",
]

_NO_SYNCTHING = "Blobs and software travel over the inter-hive link; no other program is started for them."
_NO_ARCHITECT = "The appliance has no architect service; nodes take such values from their own configuration."
_NO_IDENTITY_PORT = (
    "Identity is replicated over the inter-hive link; no port of its own is opened or dialled."
)


class Uplink(Section, frozen=True, kw_only=True):
    """A hive to dial."""

    address: Annotated[str, key("Where the other hive listens.", form="address")]


class Wan(Section, frozen=True, kw_only=True):
    """The link between hives."""

    gateway_name: Annotated[str, key("Name of this hive's router, without the hive.", form="router_name")] = (
        "RT.gateway"
    )
    listen: Annotated[
        str | None,
        key("Where the inter-hive link listens; absent: other hives cannot dial this one.", form="listen"),
    ] = None
    uplinks: Annotated[
        tuple[Uplink, ...], key("Hives to dial; a worker normally has one, its motherbee.")
    ] = ()
    authorized_hives: Annotated[
        tuple[str, ...],
        key("Hives that may join or link; empty: every hive whose key is pinned.", form="hive_id"),
    ] = ()


class Nats(Section, frozen=True, kw_only=True):
    """The door for the NATS text protocol to local streams."""

    mode: Annotated[
        Literal["embedded", "client"],
        key("`embedded`: the appliance serves streams itself; `client`: it uses the server at `nats.url`."),
    ] = "embedded"
    port: Annotated[int, key("Port of the embedded server on 127.0.0.1.", ge=1, le=65535)] = 4222
    url: Annotated[
        str | None,
        key("Address of the stream server.", form="nats_url", derived="nats://127.0.0.1:<nats.port>"),
    ] = None
    storage_dir: Annotated[
        str | None,
        key(
            "Directory of the reference's stream files.",
            form="path",
            derived="<lib>/nats",
            notice="Streams are journals of the appliance and lie under <lib>/journals.",
        ),
    ] = None


class Government(Section, frozen=True, kw_only=True):
    """Who stands at the front desk."""

    identity_frontdesk: Annotated[
        str | None,
        key(
            "Node that receives interlocutors who are not identified yet; a bare name gets `@<hive>`.",
            form="node_name",
            derived="SY.frontdesk.gov@<hive_id>",
        ),
    ] = None


class IdentitySync(Section, frozen=True, kw_only=True):
    """The reference's own identity replication."""

    port: Annotated[int, key("The reference's port.", ge=1, le=65535, notice=_NO_IDENTITY_PORT)] = 9100
    upstream: Annotated[
        str | None, key("The reference's primary.", form="address", notice=_NO_IDENTITY_PORT)
    ] = None


class Identity(Section, frozen=True, kw_only=True):
    """The directory of interlocutors (ILK), channels (ICH) and tenants."""

    default_tenant: Annotated[
        str, key("Name of the tenant that owns what names no other tenant.", form="word")
    ] = "fluxbee"
    auto_tenant: Annotated[
        bool,
        key(
            "Create a well-formed unknown tenant when a spawn through the admin API names it (audited);"
            " never for IO nodes or the front desk."
        ),
    ] = True
    max_ilks: Annotated[int, key("Most interlocutors of the hive.", ge=1, le=10_000_000)] = 8192
    max_tenants: Annotated[int, key("Most tenants of the hive.", ge=1, le=1_000_000)] = 1024
    max_vocabulary: Annotated[int, key("Most tags in the vocabulary.", ge=1, le=1_000_000)] = 4096
    max_ilk_aliases: Annotated[
        int | None, key("Most aliases of the hive.", ge=1, le=10_000_000, derived="identity.max_ilks")
    ] = None
    merge_alias_ttl_secs: Annotated[
        int,
        key("How long an alias of a merged interlocutor still resolves, in seconds.", ge=1, le=31_536_000),
    ] = 3600
    vocabulary_mode: Annotated[
        Literal["warn", "enforce"], key("Whether an unknown tag is refused or only warned about.")
    ] = "warn"
    forward_writes: Annotated[
        bool, key("A worker passes identity changes on to the motherbee instead of refusing them.")
    ] = True
    frontdesk_tenant_status: Annotated[
        Literal["pending", "active"], key("Status of a tenant that the front desk creates.")
    ] = "pending"
    io_fail_open: Annotated[
        bool, key("An IO node whose identity service is away delivers at once instead of queueing.")
    ] = False
    sync: IdentitySync = field(default_factory=IdentitySync)


class AdminTimeouts(Section, frozen=True, kw_only=True):
    """How long the admin API waits, in seconds (``spec/admin-api.md §A.6``)."""

    add_hive_s: Annotated[
        int, key("`add_hive`.", ge=1, le=3600, env=("JSR_ADMIN_ADD_HIVE_TIMEOUT_SECS",))
    ] = 180
    update_s: Annotated[int, key("`update`.", ge=1, le=3600, env=("JSR_ADMIN_UPDATE_TIMEOUT_SECS",))] = 60
    sync_hint_s: Annotated[
        int, key("`sync_hint`.", ge=1, le=3600, env=("JSR_ADMIN_SYNC_HINT_TIMEOUT_SECS",))
    ] = 45
    inventory_s: Annotated[
        int, key("`inventory`.", ge=1, le=3600, env=("JSR_ADMIN_INVENTORY_TIMEOUT_SECS",))
    ] = 10
    light_s: Annotated[
        int,
        key(
            "`hive_status`, the catalogue and the timer conversions.",
            ge=1,
            le=3600,
            env=("JSR_ADMIN_TIMEOUT_SECS",),
        ),
    ] = 5
    action_s: Annotated[
        int, key("Every other action.", ge=1, le=3600, env=("JSR_ADMIN_ORCH_TIMEOUT_SECS",))
    ] = 30
    broadcast_s: Annotated[
        int,
        key("Acknowledgement of CONFIG_CHANGED.", ge=1, le=3600, env=("JSR_ADMIN_BROADCAST_TIMEOUT_SECS",)),
    ] = 5


class Admin(Section, frozen=True, kw_only=True):
    """The HTTP admin API."""

    listen: Annotated[
        str,
        key(
            "Where the admin API listens; off loopback it needs `http.token`.",
            form="listen",
            env=("JSR_ADMIN_LISTEN",),
        ),
    ] = "127.0.0.1:8080"
    timeouts: AdminTimeouts = field(default_factory=AdminTimeouts)


class Architect(Section, frozen=True, kw_only=True):
    """The reference's architect service."""

    listen: Annotated[
        str,
        key(
            "The reference's address.",
            form="listen",
            env=("JSR_ARCHITECT_LISTEN",),
            notice="The appliance has no architect service; port 3000 is the world API (`world.listen`).",
        ),
    ] = "127.0.0.1:3000"


class Storage(Section, frozen=True, kw_only=True):
    """Where managed things lie."""

    path: Annotated[
        str | None,
        key(
            "Root of managed nodes and modules; `PUT /config/storage` rewrites it.",
            form="path",
            derived="<lib>",
        ),
    ] = None


class Database(Section, frozen=True, kw_only=True):
    """PostgreSQL, where a user outgrows the embedded stores."""

    url: Annotated[
        str | None,
        key(
            "PostgreSQL server of the motherbee; `secrets.json` (CONFIG_SET) goes first.",
            form="postgres_url",
            env=("FLUXBEE_DATABASE_URL", "JSR_DATABASE_URL"),
            secret=True,
            warning="A database password in hive.yaml is read, but belongs into secrets.json (CONFIG_SET).",
        ),
    ] = None


class BlobSync(Section, frozen=True, kw_only=True):
    """Replication of blobs between hives."""

    enabled: Annotated[bool, key("Whether sync hints for blobs are served.")] = True
    tool: Annotated[str, key("The reference's tool.", form="name", notice=_NO_SYNCTHING)] = "syncthing"
    api_port: Annotated[int, key("The tool's port.", ge=1, le=65535, notice=_NO_SYNCTHING)] = 8384
    data_dir: Annotated[
        str | None, key("The tool's directory.", form="path", derived="<lib>/syncthing", notice=_NO_SYNCTHING)
    ] = None
    service_user: Annotated[str, key("The tool's account.", form="name", notice=_NO_SYNCTHING)] = "fluxbee"
    allow_root_fallback: Annotated[bool, key("Let the tool run as root.", notice=_NO_SYNCTHING)] = True


class BlobGc(Section, frozen=True, kw_only=True):
    """Removal of old blobs."""

    enabled: Annotated[bool, key("Whether old blobs are looked for.")] = False
    interval_secs: Annotated[int, key("Seconds between two searches.", ge=60, le=604_800)] = 3600
    apply: Annotated[bool, key("Whether what is found is removed, or only counted.")] = False
    staging_ttl_hours: Annotated[int, key("Age at which a staged blob is old.", ge=1, le=8760)] = 24
    active_retain_days: Annotated[int, key("Age at which a published blob is old.", ge=1, le=3650)] = 30


class Blob(Section, frozen=True, kw_only=True):
    """Blobs: what does not fit into a message."""

    enabled: Annotated[bool, key("Whether the blob store is used.")] = True
    path: Annotated[str | None, key("Root of the blob store.", form="path", derived="<lib>/blob")] = None
    sync: BlobSync = field(default_factory=BlobSync)
    gc: BlobGc = field(default_factory=BlobGc)


class DistSync(Section, frozen=True, kw_only=True):
    """Replication of software between hives."""

    enabled: Annotated[bool, key("Whether sync hints for software are served.")] = True
    tool: Annotated[str, key("The reference's tool.", form="name", notice=_NO_SYNCTHING)] = "syncthing"


class Dist(Section, frozen=True, kw_only=True):
    """Software for nodes."""

    path: Annotated[str | None, key("Root of runtimes and packages.", form="path", derived="<lib>/dist")] = (
        None
    )
    sync: DistSync = field(default_factory=DistSync)


class OpenAi(Section, frozen=True, kw_only=True):
    """Settings of the reference's architect for one model provider."""

    api_key: Annotated[
        str | None, key("The provider's key.", form="bearer", secret=True, notice=_NO_ARCHITECT)
    ] = None
    default_model: Annotated[str | None, key("Model name.", form="word", notice=_NO_ARCHITECT)] = None
    max_tokens: Annotated[int | None, key("Longest answer.", ge=1, le=10_000_000, notice=_NO_ARCHITECT)] = (
        None
    )
    temperature: Annotated[float | None, key("Randomness.", ge=0, le=2, notice=_NO_ARCHITECT)] = None
    top_p: Annotated[float | None, key("Nucleus.", ge=0, le=1, notice=_NO_ARCHITECT)] = None


class AiProviders(Section, frozen=True, kw_only=True):
    """Providers of language models."""

    openai: OpenAi = field(default_factory=OpenAi)
