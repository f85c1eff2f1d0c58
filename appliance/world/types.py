"""What the world engine and its callers exchange: receipts, reports, pages, options, errors.

Plain records without behaviour. Sequence numbers are those of the world journal, from 1, without holes; every
committed event has one. Times are wall-clock milliseconds of the box unless a name says otherwise. JSON that
is forwarded to clients verbatim (entities, stored events) is ``bytes``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from appliance.settings.own import World
from appliance.wire.errors import Busy, Refused

__all__ = [
    "INTERNAL",
    "MAX_BODY_BYTES",
    "AdminConfig",
    "BatchReport",
    "Caller",
    "DeleteReport",
    "EntityAt",
    "HistoryPage",
    "Namespace",
    "NewNamespace",
    "OverQuota",
    "Problem",
    "RateLimited",
    "Receipt",
    "Result",
    "Unauthorized",
    "WorldMetrics",
    "WorldOptions",
    "WorldStatistics",
]


MAX_BODY_BYTES = 32 << 20
"""Hard ceiling of the body limits (EP-81): a batch is one append of the journal."""


class Unauthorized(Refused):
    """No credential, or one that is not known (``spec/flux-state.md §2.1``, 401)."""

    code, status = "UNAUTHORIZED", 401
    remedy = "Send `Authorization: Bearer <token>` of the namespace that owns the entity."


class RateLimited(Busy):
    """More events per minute than the namespace or source may send (HT-40); 429."""

    code, status = "RATE_LIMITED", 429


class OverQuota(Refused):
    """The world, or a namespace, holds as many entities as it may, or the entity is too large (DF-25)."""

    code, status = "QUOTA_EXCEEDED", 507
    remedy = "Delete entities that are not needed, or raise the quota."


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks.

    Args:
        token: bearer token as sent, trimmed; ``None`` without one.
        refusal: text for 401 when there is no usable token (what the door's header parser found).
        internal: the appliance itself (connectors, ``SY.*``): neither authorised nor rate limited.
    """

    token: str | None = None
    refusal: str = "Authorization token not provided"
    internal: bool = False


INTERNAL = Caller(internal=True)
"""The appliance itself."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, rename={"event_id": "eventId"}):
    """Answer of EP-01; encodes to the wire form. ``seq`` is additive (ST-19)."""

    event_id: str
    stream: str
    seq: int


class Result(msgspec.Struct, frozen=True, gc=False, rename={"event_id": "eventId"}):
    """One event of a batch (EP-05); all keys are always present."""

    event_id: str | None
    stream: str | None
    error: str | None


class BatchReport(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of EP-05 in its wire form; one result per input event, in input order."""

    successful: int
    failed: int
    results: list[Result]


ProblemKind = Literal["validation", "authorization", "forbidden", "namespace", "entity", "rate", "quota"]


class Problem(msgspec.Struct, frozen=True):
    """Why one event was not taken.

    Args:
        kind: chooses status and prefix.
        text: message of a single event (EP-01).
        batch_text: message of the same event inside a batch (EP-05).
    """

    kind: ProblemKind
    text: str
    batch_text: str


class DeleteReport(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of EP-45; only entities that existed are counted."""

    deleted: int
    failed: int = 0
    errors: list[str] = []


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Stored events of one entity, newest first, each as its JSON text (EV-12).

    Args:
        events: JSON texts.
        next_before_seq: pass it as ``before_seq`` for older ones; ``None`` at the end.
        complete: False when retention has taken older events of this entity.
    """

    events: list[bytes]
    next_before_seq: int | None
    complete: bool


class EntityAt(msgspec.Struct, frozen=True, kw_only=True):
    """An entity as it was.

    Args:
        entity: its JSON text; ``None``: it did not exist then.
        seq: newest event of the entity that is included; 0 without one.
        complete: False when retention has taken events that may have contributed properties.
    """

    entity: bytes | None
    seq: int
    complete: bool


class AdminConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Runtime configuration in its wire form (EP-80); kept in the world journal (AT-NEW-21)."""

    rate_limit_enabled: bool = True
    rate_limit_per_namespace_per_minute: int = 10_000
    body_size_limit_single_bytes: int = 1 << 20
    body_size_limit_batch_bytes: int = 10 << 20


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """One namespace as stored; the token only as SHA-256.

    ``max_entities`` 0: no quota of its own.
    """

    namespace_id: str
    name: str
    created_at_ms: int
    token_sha256: bytes
    max_entities: int = 0


class NewNamespace(msgspec.Struct, frozen=True, kw_only=True, rename={"namespace_id": "namespaceId"}):
    """Answer of EP-50 in its wire form: the only time that the token is shown."""

    namespace_id: str
    name: str
    token: str


class WorldOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine takes from the settings ``world.*``; bytes, counts, seconds."""

    auth_enabled: bool = False
    defaults: AdminConfig = AdminConfig()
    per_source_per_minute: int = 0
    max_batch_delete: int = 10_000
    max_entities: int = 5_000_000
    entity_bytes: int = 1 << 20
    overlay_bytes: int = 64 << 20
    retention_bytes: int = 256 << 20
    retention_s: float = 30 * 86_400.0
    dedup_events: int = 100_000
    publisher_window_s: float = 10.0
    map_bytes: int = 16 << 30
    segment_bytes: int = 16 << 20

    @classmethod
    def of(cls, world: World, *, map_bytes: int = 16 << 30) -> WorldOptions:
        """Options from the section ``world`` and from ``regions.disk_map_bytes``."""
        limits = world.limits
        return cls(
            auth_enabled=world.auth_enabled,
            defaults=AdminConfig(
                rate_limit_enabled=limits.enabled,
                rate_limit_per_namespace_per_minute=limits.per_namespace_per_minute,
                body_size_limit_single_bytes=min(limits.single_bytes, MAX_BODY_BYTES),
                body_size_limit_batch_bytes=min(limits.batch_bytes, MAX_BODY_BYTES),
            ),
            per_source_per_minute=limits.per_source_per_minute,
            max_batch_delete=world.max_batch_delete,
            max_entities=world.max_entities,
            entity_bytes=world.entity_bytes,
            overlay_bytes=world.overlay_bytes,
            retention_bytes=world.retention_bytes,
            retention_s=world.retention_days * 86_400.0,
            dedup_events=world.dedup_events,
            publisher_window_s=float(world.publisher_window_s),
            map_bytes=map_bytes,
        )


class WorldMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of ``metrics_update`` frames (MX-01 to MX-04), live events only (MX-11)."""

    entities_total: int
    events_total: int
    rate_per_second: float
    publishers_active: int


class WorldStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start, and where the engine stands."""

    events: int = 0
    batches: int = 0
    refused: int = 0
    duplicates: int = 0
    busy: int = 0
    write_failures: int = 0
    entities: int = 0
    namespaces: int = 0
    last_seq: int = 0
    durable_seq: int = 0
    applied_seq: int = 0
    overlay_bytes: int = 0
    overlay_entities: int = 0
    projected_rows: int = 0
    projections: int = 0
    projection_failures: int = 0
    recovered_events: int = 0
    recovery_ms: int = 0
    rebuilt: bool = False
    gaps: int = 0
    gap_records: int = 0
    undecodable: int = 0
    images: int = 0
    image_failures: int = 0
    history_reads: int = 0
    listeners: int = 0
    listener_failures: int = 0
