"""The sections of ``hive.yaml`` that are this appliance's own (``design.md §5``).

Numbers are that table's defaults. Bounds keep a value within what the machine can honour: a queue of zero
frames delivers nothing, a map below a few pages opens no region.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import field

from .keys import Section, key

__all__ = [
    "Http",
    "Journals",
    "Limits",
    "Log",
    "NodeLimits",
    "OAuthClient",
    "Orchestrator",
    "Packages",
    "Queues",
    "RateLimit",
    "Regions",
    "Routing",
    "Security",
    "Turns",
    "World",
    "WorldConnectors",
    "WorldOAuth",
    "WorldSysinfo",
]

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


class Security(Section, frozen=True, kw_only=True):
    """Who may do what on this box."""

    local: Annotated[
        Literal["bound", "open"],
        key(
            "`bound`: a connection speaks only for the uuid and name of its HELLO, and `SY.`/`RT.` names are"
            " reserved; `open`: the reference's behaviour, any local process may claim anything."
        ),
    ] = "bound"
    admin_nodes: Annotated[
        tuple[str, ...],
        key(
            "Names whose messages may change things (routes, ADMIN_COMMAND, tap) besides `SY.*`;"
            " `*` allows every local peer.",
            form="node_pattern",
        ),
    ] = ()
    socket_group: Annotated[str, key("Group that owns the node socket.", form="name")] = "fluxbee"
    socket_mode: Annotated[str, key("Permissions of the node socket.", form="mode")] = "0660"
    system_uids: Annotated[
        tuple[int, ...],
        key("Accounts (uid) whose processes may take `SY.` and `RT.` names.", ge=0, le=4_294_967_294),
    ] = ()

    @property
    def socket_mode_bits(self) -> int:
        """``socket_mode`` as a number for chmod."""
        return int(self.socket_mode, 8)


class Routing(Section, frozen=True, kw_only=True):
    """How the router decides."""

    router_name: Annotated[
        str | None,
        key(
            "Name of this router; a name that differs from the gateway's makes a plain router.",
            form="router_name",
            env=("JSR_ROUTER_NAME",),
            derived="wan.gateway_name",
        ),
    ] = None
    static_override: Annotated[bool, key("A static route wins over a live node of that name.")] = False


class NodeLimits(Section, frozen=True, kw_only=True):
    """What a node may use when its package's `limits` do not say; enforced where cgroups are."""

    memory_bytes: Annotated[
        int | None, key("Most memory of a node.", ge=_MIB, le=1 << 50, derived="no limit")
    ] = None
    pids: Annotated[
        int | None, key("Most processes and threads of a node.", ge=1, le=4_194_304, derived="no limit")
    ] = None
    cpu_weight: Annotated[
        int | None,
        key("Share of the processor against other nodes.", ge=1, le=10_000, derived="the kernel's 100"),
    ] = None


class Orchestrator(Section, frozen=True, kw_only=True):
    """How nodes are started and stopped."""

    allowed_origins: Annotated[
        tuple[str, ...],
        key(
            "Names besides the built-in ones whose system messages may change nodes;"
            " a bare name gets `@<hive_id>`.",
            form="node_pattern",
            env=("ORCH_SYSTEM_ALLOWED_ORIGINS",),
        ),
    ] = ("SY.admin", "WF.orch.diag")
    default_tenant_id: Annotated[
        str | None,
        key("Tenant of a spawned node that names none.", form="tenant_id", env=("ORCH_DEFAULT_TENANT_ID",)),
    ] = None
    kill_grace_s: Annotated[int, key("Seconds between SIGTERM and SIGKILL.", ge=1, le=90)] = 10
    forward_timeout_s: Annotated[
        int,
        key(
            "Seconds to wait for another hive's orchestrator.",
            ge=1,
            le=600,
            env=("JSR_ORCH_SYSTEM_FORWARD_TIMEOUT_SECS",),
        ),
    ] = 45
    restart_first_ms: Annotated[
        int, key("Wait before a node that ended is started again; doubles.", ge=10, le=600_000)
    ] = 1_000
    restart_cap_s: Annotated[int, key("Longest wait before a restart.", ge=1, le=86_400)] = 60
    healthy_after_s: Annotated[
        int, key("A node that lived so long starts the row of waits again.", ge=1, le=86_400)
    ] = 60
    park_after: Annotated[
        int,
        key(
            "Ends without health between them after which a node is parked until somebody starts it.",
            ge=1,
            le=1000,
        ),
    ] = 10
    requests: Annotated[
        int,
        key(
            "Most requests that the orchestrator works on at once; one more is answered `BUSY`.",
            ge=4,
            le=1024,
        ),
    ] = 64
    node_user: Annotated[str, key("Account that nodes run as; empty: the appliance's own.")] = ""
    limits: NodeLimits = field(default_factory=NodeLimits)


class Packages(Section, frozen=True, kw_only=True):
    """Most that a published package may be; counted while it is unpacked."""

    max_bytes: Annotated[
        int, key("Bytes of a package, and of the bundle that it comes in.", ge=_MIB, le=16 * _GIB)
    ] = 512 * _MIB
    max_entries: Annotated[int, key("Files and directories of a package.", ge=16, le=65_534)] = 16_384


class Queues(Section, frozen=True, kw_only=True):
    """What the router holds for one recipient before it gives up."""

    frames: Annotated[int, key("Most frames per recipient.", ge=16, le=1_000_000)] = 4096
    bytes: Annotated[int, key("Most bytes per recipient.", ge=256 * _KIB, le=_GIB)] = 4 * _MIB
    pause_ms: Annotated[
        int, key("Longest time that a sender is not read because its recipient is slow.", ge=1, le=10_000)
    ] = 250
    stall_ms: Annotated[
        int, key("A recipient that took nothing for so long is congested.", ge=1, le=10_000)
    ] = 50


class Limits(Section, frozen=True, kw_only=True):
    """Sizes of tables; over a limit a request is refused and counted."""

    nodes: Annotated[int, key("Most connected nodes.", ge=16, le=65_536)] = 1024
    static_routes: Annotated[int, key("Most static routes of the hive.", ge=1, le=65_536)] = 256
    vpn_rules: Annotated[int, key("Most VPN rules of the hive.", ge=1, le=65_536)] = 256
    hives: Annotated[int, key("Most hives in the topology, with this one.", ge=1, le=4096)] = 256
    hive_nodes: Annotated[int, key("Most nodes that one other hive may advertise.", ge=16, le=65_536)] = 1024
    threads: Annotated[
        int, key("Threads whose counters and memory are kept at once.", ge=1024, le=10_000_000)
    ] = 65_536


class Journals(Section, frozen=True, kw_only=True):
    """How journals of the relaxed class are written, and what is kept free."""

    flush_ms: Annotated[
        int, key("Longest time before a record is handed to the system.", ge=1, le=10_000)
    ] = 250
    flush_bytes: Annotated[int, key("Bytes that are handed over at once.", ge=4 * _KIB, le=64 * _MIB)] = _MIB
    sync_ms: Annotated[int, key("Shortest time between two syncs to disk.", ge=10, le=60_000)] = 1000
    reserve_bytes: Annotated[
        int, key("Space held back for administration, removal and retention.", ge=0, le=_GIB)
    ] = 8 * _MIB


class Turns(Section, frozen=True, kw_only=True):
    """Budget of the turn journal; every turn over it is counted in a gap record."""

    rate_bytes_per_s: Annotated[
        int, key("Bytes per second over a longer time.", ge=_KIB, le=10_000_000_000)
    ] = 4_000_000
    burst_bytes: Annotated[int, key("Bytes that a burst may take at once.", ge=128 * _KIB, le=4 * _GIB)] = (
        64 * _MIB
    )
    daily_bytes: Annotated[int, key("Bytes per day.", ge=_MIB, le=1_000_000_000_000)] = 2_000_000_000
    keep_bytes: Annotated[
        int, key("Size at which the oldest turns are removed.", ge=16 * _MIB, le=1_000_000_000_000)
    ] = 2_000_000_000
    keep_days: Annotated[int, key("Age at which turns are removed.", ge=1, le=3650)] = 7


class Regions(Section, frozen=True, kw_only=True):
    """Address space of the region environments; an environment takes what it uses, not its map size."""

    disk_map_bytes: Annotated[int, key("Map of an environment on disk.", ge=_MIB, le=1 << 46)] = 16 * _GIB
    tmpfs_map_bytes: Annotated[int, key("Map of an environment in memory.", ge=_MIB, le=1 << 40)] = 256 * _MIB


class Http(Section, frozen=True, kw_only=True):
    """What all HTTP doors have in common."""

    token: Annotated[
        str | None,
        key(
            "Bearer token of the admin API; needed off loopback.",
            form="token",
            env=("FLUXBEE_HTTP_TOKEN",),
            secret=True,
        ),
    ] = None
    hosts: Annotated[
        tuple[str, ...],
        key(
            "Host names, besides loopback and the listen address, under which the doors answer.", form="host"
        ),
    ] = ()
    origins: Annotated[
        tuple[str, ...],
        key(
            "Web origins whose pages may write to the world without a token; every page may read it, and"
            " every other page needs a token to write.",
            form="origin",
        ),
    ] = ()


class OAuthClient(Section, frozen=True, kw_only=True):
    """This appliance as a client of one provider."""

    client_id: Annotated[
        str | None, key("Client id at the provider.", form="bearer", env=("FLUX_OAUTH_{parent}_CLIENT_ID",))
    ] = None
    client_secret: Annotated[
        str | None,
        key(
            "Client secret at the provider.",
            form="bearer",
            env=("FLUX_OAUTH_{parent}_CLIENT_SECRET",),
            secret=True,
        ),
    ] = None
    authorize_url: Annotated[
        str | None,
        key("Where the provider asks its user.", form="http_url", derived="the provider's own address"),
    ] = None
    token_url: Annotated[
        str | None,
        key("Where the provider gives out tokens.", form="http_url", derived="the provider's own address"),
    ] = None


class WorldConnectors(Section, frozen=True, kw_only=True):
    """What may feed the world by itself, and which addresses it may ask."""

    enabled: Annotated[bool, key("Whether sources are asked at all; stored ones are kept.")] = True
    reach: Annotated[
        Literal["network", "public", "listed"],
        key(
            "`network`: any address but this box itself; `public`: no address of a private network either;"
            " `listed`: only `allowed_hosts`. Link-local addresses (cloud metadata) are never asked."
        ),
    ] = "network"
    allowed_hosts: Annotated[
        tuple[str, ...],
        key(
            "Hosts that may be asked whatever `reach` says, this box included: `name`, `name:port` or a"
            " network such as 10.0.0.0/8.",
            form="host_or_network",
        ),
    ] = ()
    at_once: Annotated[int, key("Most sources that are asked at the same moment.", ge=1, le=64)] = 4
    max_sources: Annotated[int, key("Most sources that can be added.", ge=0, le=10_000)] = 256
    answer_bytes: Annotated[int, key("Largest answer of a source.", ge=_KIB, le=16 * _MIB)] = _MIB
    timeout_s: Annotated[int, key("Seconds that a source has for its whole answer.", ge=1, le=300)] = 30
    tap_timeout_s: Annotated[
        int, key("Seconds that one run of a named tap has; then it is killed.", ge=1, le=86_400)
    ] = 900
    tap_memory_bytes: Annotated[
        int, key("Most memory of one process of a named tap.", ge=16 * _MIB, le=16 * _GIB)
    ] = 256 * _MIB
    github_url: Annotated[str, key("GitHub's API; another one for GitHub Enterprise.", form="http_url")] = (
        "https://api.github.com"
    )


class WorldSysinfo(Section, frozen=True, kw_only=True):
    """The box as an entity of its own world: processor, memory, disk, temperature, network."""

    enabled: Annotated[bool, key("Whether the box tells the world about itself.")] = True
    namespace: Annotated[str, key("The entity is `<namespace>/<hive id>`.", form="world_namespace")] = "box"
    interval_s: Annotated[
        int,
        key(
            "Seconds between two looks; only what changed notably is published.",
            ge=5,
            le=86_400,
        ),
    ] = 60


class WorldOAuth(Section, frozen=True, kw_only=True):
    """Logins at the providers of connectors."""

    callback_base_url: Annotated[
        str,
        key("Prefix of redirect addresses.", form="http_url", env=("FLUX_OAUTH_CALLBACK_BASE_URL",)),
    ] = "http://localhost:3000"
    github: OAuthClient = field(default_factory=OAuthClient)
    gmail: OAuthClient = field(default_factory=OAuthClient)
    linkedin: OAuthClient = field(default_factory=OAuthClient)
    calendar: OAuthClient = field(default_factory=OAuthClient)


class RateLimit(Section, frozen=True, kw_only=True):
    """First values of the world's admin configuration; `PUT /api/admin/config` replaces them."""

    enabled: Annotated[bool, key("Whether requests are limited.", env=("FLUX_RATE_LIMIT_ENABLED",))] = True
    per_namespace_per_minute: Annotated[
        int,
        key(
            "Requests per namespace and minute.",
            ge=0,
            le=(1 << 63) - 1,
            env=("FLUX_RATE_LIMIT_PER_NAMESPACE_PER_MINUTE",),
        ),
    ] = 10_000
    per_source_per_minute: Annotated[
        int, key("Events per `source` and minute, also without authentication; 0: any.", ge=0, le=1 << 40)
    ] = 0
    single_bytes: Annotated[
        int,
        key(
            "Largest body with one event.",
            ge=1,
            le=64 * _MIB,
            env=("FLUX_BODY_SIZE_LIMIT_SINGLE_BYTES",),
        ),
    ] = _MIB
    batch_bytes: Annotated[
        int,
        key("Largest body with a batch.", ge=1, le=256 * _MIB, env=("FLUX_BODY_SIZE_LIMIT_BATCH_BYTES",)),
    ] = 10 * _MIB


class World(Section, frozen=True, kw_only=True):
    """The world state and its door (``spec/flux-state.md §0.2``)."""

    listen: Annotated[
        str,
        key("Where the world API listens; off loopback it needs `world.auth_enabled`.", form="listen"),
    ] = "127.0.0.1:3000"
    auth_enabled: Annotated[
        bool, key("Whether publishing needs a namespace token.", env=("FLUX_AUTH_ENABLED",))
    ] = False
    admin_token: Annotated[
        str | None,
        key(
            "Bearer token of the world's administration.",
            form="bearer",
            env=("FLUX_ADMIN_TOKEN",),
            secret=True,
            derived="made at first start and kept in a 0600 file under <lib>/state",
        ),
    ] = None
    open_registration: Annotated[bool, key("Creating a namespace needs no admin token.")] = False
    node_namespaces: Annotated[
        tuple[str, ...],
        key(
            "Nodes that may publish into a namespace by message without its token, as `pattern=namespace`.",
            form="node_namespace",
        ),
    ] = ()
    taps: Annotated[
        tuple[str, ...],
        key(
            "Singer taps that named sources may run, as `name=/path/to/installed/program`; nothing else is"
            " run and nothing is ever installed.",
            form="tap",
        ),
    ] = ()
    encryption_key: Annotated[
        str | None,
        key(
            "Key under which credentials of connectors are stored.",
            form="key32",
            env=("FLUX_ENCRYPTION_KEY",),
            secret=True,
            derived="made at first start and kept in a 0600 file under <lib>/state",
        ),
    ] = None
    max_batch_delete: Annotated[int, key("Most entities that one request removes.", ge=1, le=10_000_000)] = (
        10_000
    )
    max_entities: Annotated[int, key("Most entities that exist at once.", ge=1, le=1_000_000_000)] = 5_000_000
    entity_bytes: Annotated[
        int,
        key(
            "Size of an entity from which on it takes no more events, only its removal.",
            ge=4 * _KIB,
            le=16 * _MIB,
        ),
    ] = _MIB
    overlay_bytes: Annotated[
        int,
        key(
            "Committed events that the region does not show yet; beyond it publishers wait, then get 503.",
            ge=_MIB,
            le=4 * _GIB,
        ),
    ] = 64 * _MIB
    retention_bytes: Annotated[
        int,
        key(
            "Bytes of events after which the state is written as a base image and events before the"
            " previous image are removed; history holds one to two times as much.",
            ge=_MIB,
            le=1_000_000_000_000,
        ),
    ] = 256 * _MIB
    retention_days: Annotated[int, key("Days after which the same is done in any case.", ge=1, le=36_500)] = (
        30
    )
    dedup_events: Annotated[
        int,
        key(
            "Events back to which an `eventId` that a client chose is recognised; 0: never.",
            ge=0,
            le=10_000_000,
        ),
    ] = 100_000
    metrics_interval_s: Annotated[
        int, key("Seconds between two metrics frames to subscribers.", ge=1, le=3600)
    ] = 2
    publisher_window_s: Annotated[
        int, key("Seconds for which a publisher counts as active.", ge=1, le=86_400)
    ] = 10
    limits: RateLimit = field(default_factory=RateLimit)
    connectors: WorldConnectors = field(default_factory=WorldConnectors)
    sysinfo: WorldSysinfo = field(default_factory=WorldSysinfo)
    oauth: WorldOAuth = field(default_factory=WorldOAuth)


class Log(Section, frozen=True, kw_only=True):
    """What is logged, and how it looks."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        key(
            "Least level that is written.",
            env=("JSR_LOG_LEVEL",),
            aliases={"trace": "debug", "warn": "warning"},
        ),
    ] = "info"
    format: Annotated[
        Literal["auto", "terminal", "journald", "json"],
        key("`auto`: journald under systemd, terminal on a terminal, else json."),
    ] = "auto"
