"""What is said to and by SY.identity, and the records it keeps (``spec/identity-and-knowledge.md §1, §2``).

Requests are strict: a key that is not theirs is refused. Records are the JSON of ``ILK_GET`` and of the
identity journal; new fields go to the end and carry a default, so that older journals and regions still read.
Sans-IO: shapes, identifiers and their notation; what may be done with them is decided in
:mod:`appliance.identity`.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec

from .errors import Invalid
from .ids import canonical_uuid, new_uuid

__all__ = [
    "IDENTITY_NODE",
    "ILK_PREFIX",
    "PRIMARY_IDENTITY",
    "TENANT_PREFIX",
    "ChannelRecord",
    "GivenChannel",
    "IdentityFigures",
    "IdentityMeta",
    "IlkGet",
    "IlkList",
    "IlkRecord",
    "IlkRegister",
    "IlkSummary",
    "IlkType",
    "IlkUpdate",
    "RegistrationStatus",
    "TenantApprove",
    "TenantCreate",
    "TenantRecord",
    "TenantStatus",
    "channel_id",
    "id_uuid",
    "ilk_id",
    "new_ilk_id",
    "new_tenant_id",
    "parse_request",
    "tenant_id",
]

T = TypeVar("T", bound=msgspec.Struct)

IDENTITY_NODE: Final = "SY.identity"
PRIMARY_IDENTITY: Final = "SY.identity@motherbee"
"""Registrations always go to the primary, never to a replica (``spec/admin-api.md §D.4``)."""

ILK_PREFIX: Final = "ilk:"
TENANT_PREFIX: Final = "tnt:"
_CHANNEL_PREFIX: Final = "ich:"

IlkType = Literal["human", "agent", "system"]
RegistrationStatus = Literal["temporary", "partial", "complete"]
TenantStatus = Literal["pending", "active", "suspended"]


# --- identifiers ---------------------------------------------------------------------------------------


def _prefixed(text: str, prefix: str, field: str) -> str:
    stripped = text.strip()
    found = canonical_uuid(stripped[len(prefix) :]) if stripped.startswith(prefix) else None
    if found is None:
        raise Invalid(f"{field}: {text!r} is not {prefix}<uuid>", field=field)
    return prefix + found


def ilk_id(text: str, field: str = "ilk_id") -> str:
    """Canonical form of an ILK id: ``ilk:`` and a uuid of any version; ``Invalid`` when it is none."""
    return _prefixed(text, ILK_PREFIX, field)


def tenant_id(text: str, field: str = "tenant_id") -> str:
    """Canonical form of a tenant id, ``tnt:`` and a uuid; ``Invalid`` when it is none."""
    return _prefixed(text, TENANT_PREFIX, field)


def channel_id(text: str, field: str = "ich_id") -> str:
    """Canonical form of a channel id, ``ich:`` and a uuid; ``Invalid`` when it is none."""
    return _prefixed(text, _CHANNEL_PREFIX, field)


def id_uuid(identifier: str) -> str:
    """The uuid of a canonical identifier, as text: the key of region tables."""
    return identifier.partition(":")[2]


def new_ilk_id() -> str:
    """A fresh random ILK id."""
    return ILK_PREFIX + new_uuid()


def new_tenant_id() -> str:
    """A fresh random tenant id."""
    return TENANT_PREFIX + new_uuid()


# --- records -------------------------------------------------------------------------------------------


class ChannelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A way to reach somebody. ``(realm, channel_type, address_key)`` names one holder in the hive.

    ``realm`` is ``"*"``, or the tenant of an IO node that is bound to one; it never changes. ``address_key``
    is the address as it is compared.
    """

    ich_id: str
    realm: str = "*"
    channel_type: str
    address: str
    address_key: str
    added_at_ms: int = 0


class IlkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An interlocutor. The first channel is its primary one; ``rev`` grows with every change."""

    ilk_id: str
    rev: int = 1
    ilk_type: IlkType
    human_subtype: Literal["internal", "external"] | None = None
    registration_status: RegistrationStatus = "complete"
    tenant_id: str
    identification: dict[str, object] = {}
    roles: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    channels: tuple[ChannelRecord, ...] = ()
    handler_node: str | None = None
    created_at_ms: int = 0
    updated_at_ms: int = 0
    deleted_at_ms: int | None = None

    def named(self, key: str) -> str | None:
        """A text of ``identification``, or ``None``: ``display_name``, ``node_name``, ``email``."""
        value = self.identification.get(key)
        return value.strip() or None if isinstance(value, str) else None


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant. Every ILK belongs to exactly one; ``settings`` is opaque but for ``max_ilks``."""

    tenant_id: str
    rev: int = 1
    name: str
    domain: str | None = None
    status: TenantStatus = "pending"
    settings: dict[str, object] = {}
    approved_by: str | None = None
    created_at_ms: int = 0
    updated_at_ms: int = 0


class IdentityMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Header of the directory: which making of it this is, and the tenant of who names none."""

    epoch: str
    default_tenant_id: str


# --- requests ------------------------------------------------------------------------------------------


class GivenChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel in a request; both key names of the reference are taken (§2.12)."""

    ich_id: str
    type: str | None = None
    channel_type: str | None = None
    address: str


class IlkRegister(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """ILK_REGISTER (§2.4), answered ``{"status":"ok","ilk_id"}``: adopt the id of the answer.

    Attributes:
        ilk_id: proposed; a live ILK of the same ``identification.node_name`` is used instead.
        auto_tenant: our own key, from SY.orchestrator only: the spawn came through the admin API, so a
            well-formed tenant that does not exist is created (``design.md §5`` *Unknown tenant*) unless
            ``identity.auto_tenant`` is off. Left out on the wire when false.
    """

    ilk_id: str
    ilk_type: str
    tenant_id: str | None = None
    identification: dict[str, object]
    roles: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    auto_tenant: bool = False


class IlkUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """ILK_UPDATE (§2.6): add, then remove. Answered ``{"status":"ok","ilk_id","change_reason"}``."""

    ilk_id: str
    add_channels: tuple[GivenChannel, ...] = ()
    add_roles: tuple[str, ...] = ()
    remove_roles: tuple[str, ...] = ()
    add_capabilities: tuple[str, ...] = ()
    remove_capabilities: tuple[str, ...] = ()
    change_reason: str | None = None
    expect_rev: int | None = None


class IlkList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """ILK_LIST (§2.8). Our own keys page through a list that no frame holds.

    Attributes:
        after: continue behind this ILK; the ``next_after`` of the answer before.
        limit: most entries of one answer; an answer holds no more than fit into a frame.
    """

    after: str | None = None
    limit: int | None = None


class IlkGet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ILK_GET (§2.8)."""

    ilk_id: str


class TenantCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """TNT_CREATE (§2.7): find by domain, then by name, or create."""

    name: str
    domain: str | None = None
    status: TenantStatus = "pending"
    settings: dict[str, object] = {}


class TenantApprove(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """TNT_APPROVE (§2.7): the tenant becomes ``active``."""

    tenant_id: str
    approved_by: str | None = None


def parse_request(payload: bytes | msgspec.Raw, shape: type[T]) -> T:
    """A request's payload as ``shape``; ``{}`` and ``null`` alike are an empty object.

    Raises:
        Invalid: ``INVALID_REQUEST``; unknown or missing keys, wrong types; the message names where.
    """
    try:
        return msgspec.json.decode(b"{}" if bytes(payload) == b"null" else payload, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"payload: {error}", field="payload") from error


# --- answers -------------------------------------------------------------------------------------------


class IlkSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ILK_LIST's answer; ``channels`` have ``ich_id``, ``channel_type``, ``address``."""

    ilk_id: str
    ilk_type: str
    registration_status: str
    tenant_id: str
    tenant_name: str | None
    display_name: str | None
    node_name: str | None
    channel_count: int
    channels: tuple[dict[str, str], ...]
    deleted_at_ms: int | None


class IdentityFigures(msgspec.Struct, frozen=True, kw_only=True):
    """``metrics`` of IDENTITY_METRICS (§2.9); ``ich_count`` counts lookup keys."""

    tenant_count: int
    ilk_count: int
    ich_count: int
    alias_count: int
    deleted_ilk_count: int
