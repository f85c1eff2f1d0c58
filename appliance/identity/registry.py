"""The rules of changing the directory: a request and the directory in, operations or an error out. Sans-IO.

Nothing is changed here: a :class:`Decision` is applied once the journal has it. A request that would change
nothing decides on no operations, so asking again costs no write. Source: ``spec/identity-and-knowledge.md
§1, §2``; errors carry that document's closed set of codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, get_args

import msgspec

from appliance.wire.errors import Busy, Conflict, FluxbeeError, Invalid, NotFound
from appliance.wire.identity import (
    ChannelRecord,
    IdentityMeta,
    IlkRecord,
    IlkRegister,
    IlkType,
    IlkUpdate,
    TenantApprove,
    TenantCreate,
    TenantRecord,
    TenantStatus,
    ilk_id,
    new_tenant_id,
    tenant_id,
)
from appliance.wire.ids import new_uuid

from .directory import Directory, channel_key, email_key
from .ops import Op, UpsertIlk, UpsertMeta, UpsertTenant
from .rules import new_channel, plain_tags, text_of

__all__ = ["Decision", "Registry", "RegistryLimits"]

_MAX_OBJECT_BYTES = 16 << 10
_MAX_CHANNELS = 64
_MAX_NAME_CHARACTERS = 128
_ILK_TYPES: tuple[IlkType, ...] = get_args(IlkType)


class RegistryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Most rows that count: interlocutors that are not deleted, tenants (``identity.max_*``)."""

    ilks: int = 8192
    tenants: int = 1024


class Decision(NamedTuple):
    """``answer`` (keys beside ``status``) may be sent once ``ops`` are in journal and region."""

    answer: dict[str, object]
    ops: tuple[Op, ...] = ()
    reason: str | None = None


class Registry:
    """Decides about changes of one directory.

    Args:
        directory: what is in force.
        limits: most rows.
        auto_tenant: whether a marked registration may create its tenant.
        make_tenant_id: gives an unused tenant id; replaced by tests.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        limits: RegistryLimits | None = None,
        auto_tenant: bool = True,
        make_tenant_id: Callable[[], str] = new_tenant_id,
    ) -> None:
        self._directory = directory
        self._limits = limits or RegistryLimits()
        self._auto_tenant = auto_tenant
        self._make_tenant_id = make_tenant_id

    # --- the beginning ---------------------------------------------------------------------------------

    def begin(self, default_tenant: str, now_ms: int) -> tuple[Op, ...]:
        """What a new directory starts with: its epoch and its default tenant; nothing for one that began."""
        if self._directory.meta is not None:
            return ()
        tenant = TenantRecord(
            tenant_id=self._make_tenant_id(),
            name=default_tenant,
            status="active",
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        meta = IdentityMeta(epoch=new_uuid(), default_tenant_id=tenant.tenant_id)
        return (UpsertMeta(row=meta), UpsertTenant(row=tenant))

    # --- interlocutors ---------------------------------------------------------------------------------

    def register(self, request: IlkRegister, now_ms: int) -> Decision:
        """ILK_REGISTER (§2.4): create, or overwrite all but the channels; a node keeps its ILK by its name.

        Raises:
            Invalid: ``INVALID_REQUEST``, ``INVALID_TENANT``, ``VOCABULARY_INVALID``.
            Conflict: ``TENANT_PENDING``, ``TENANT_SUSPENDED``, ``INVALID_TENANT_TRANSITION``,
                ``DUPLICATE_EMAIL``.
            NotFound: ``ILK_NOT_FOUND``; the ILK is deleted.
            Busy: ``IDENTITY_LIMIT_REACHED``.
        """
        wanted = self._wanted(request, now_ms)
        ops: list[Op] = []
        tenant, reason = self._tenant_of(wanted.tenant_id, request.auto_tenant, now_ms)
        if reason is not None:
            ops.append(UpsertTenant(row=tenant))
        known = self._known(wanted)
        if known is None:
            self._check_room(tenant)
            row = wanted
        else:
            row = self._overwritten(known, wanted, now_ms)
        self._check_email(row)
        if row != known:
            ops.append(UpsertIlk(row=row))
        return Decision({"ilk_id": row.ilk_id}, tuple(ops), reason)

    def _wanted(self, request: IlkRegister, now_ms: int) -> IlkRecord:
        kind = next((one for one in _ILK_TYPES if one == request.ilk_type), None)
        if kind is None:
            raise Invalid(
                f"ilk_type: {request.ilk_type!r} is none of {', '.join(_ILK_TYPES)}", field="ilk_type"
            )
        if request.tenant_id is None or not request.tenant_id.strip():
            raise Invalid("tenant_id is missing", field="tenant_id")
        given = request.identification
        _check_size(given, "identification")
        for key, most in (("email", 256), ("node_name", 128), ("display_name", 512)):
            text_of(given, key, most)
        return IlkRecord(
            ilk_id=ilk_id(request.ilk_id),
            ilk_type=kind,
            human_subtype="external" if kind == "human" else None,
            tenant_id=tenant_id(request.tenant_id),
            identification=dict(given),
            roles=plain_tags(request.roles, "roles"),
            capabilities=plain_tags(request.capabilities, "capabilities"),
            handler_node=text_of(given, "node_name", 128),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )

    def _tenant_of(self, wanted: str, auto: bool, now_ms: int) -> tuple[TenantRecord, str | None]:
        """The tenant of a registration; with a reason when it is to be created with it."""
        tenant = self._directory.tenants.get(wanted)
        if tenant is None and auto and self._auto_tenant:
            self._check_tenant_room()
            made = TenantRecord(
                tenant_id=wanted, name=wanted, status="active", created_at_ms=now_ms, updated_at_ms=now_ms
            )
            return made, "auto_tenant"
        if tenant is None:
            raise Invalid(f"tenant {wanted} does not exist", code="INVALID_TENANT", field="tenant_id")
        if tenant.status != "active":
            code = "TENANT_PENDING" if tenant.status == "pending" else "TENANT_SUSPENDED"
            raise Conflict(f"tenant {wanted} is {tenant.status}", code=code, field="tenant_id")
        return tenant, None

    def _known(self, wanted: IlkRecord) -> IlkRecord | None:
        node = wanted.named("node_name")
        known = None if node is None else self._directory.ilk_of_node(node)
        known = known or self._directory.ilks.get(wanted.ilk_id)
        if known is not None and known.deleted_at_ms is not None:
            raise NotFound(f"{known.ilk_id} is deleted", code="ILK_NOT_FOUND", field="ilk_id")
        return known

    def _overwritten(self, known: IlkRecord, wanted: IlkRecord, now_ms: int) -> IlkRecord:
        if known.tenant_id != wanted.tenant_id and known.registration_status != "temporary":
            raise Conflict(
                f"{known.ilk_id} belongs to {known.tenant_id}; only a temporary ILK changes its tenant",
                code="INVALID_TENANT_TRANSITION",
                field="tenant_id",
            )
        row = msgspec.structs.replace(
            known,
            ilk_type=wanted.ilk_type,
            human_subtype=known.human_subtype or wanted.human_subtype if wanted.ilk_type == "human" else None,
            registration_status="complete",
            tenant_id=wanted.tenant_id,
            identification=wanted.identification,
            roles=wanted.roles,
            capabilities=wanted.capabilities,
            handler_node=wanted.handler_node,
        )
        return _revised(known, row, now_ms)

    def update(self, request: IlkUpdate, now_ms: int) -> Decision:
        """ILK_UPDATE (§2.6): add channels and tags, then remove tags.

        Raises:
            Invalid: ``INVALID_REQUEST``, ``VOCABULARY_INVALID``.
            NotFound: ``ILK_NOT_FOUND``.
            Conflict: ``DUPLICATE_ICH``; ``REV_CONFLICT``, it is not at ``expect_rev``.
        """
        wanted = ilk_id(request.ilk_id)
        known = self._directory.ilks.get(wanted)
        if known is None or known.deleted_at_ms is not None:
            raise NotFound(f"{wanted} does not exist", code="ILK_NOT_FOUND", field="ilk_id")
        if request.expect_rev is not None and request.expect_rev != known.rev:
            text = f"{wanted} is at revision {known.rev}, not {request.expect_rev}"
            raise Conflict(text, code="REV_CONFLICT", field="expect_rev")
        row = msgspec.structs.replace(
            known,
            roles=_tags(known.roles, request.add_roles, request.remove_roles, "roles"),
            capabilities=_tags(
                known.capabilities, request.add_capabilities, request.remove_capabilities, "capabilities"
            ),
            channels=self._with_channels(known, request, now_ms),
        )
        revised = _revised(known, row, now_ms)
        answer: dict[str, object] = {"ilk_id": wanted, "change_reason": request.change_reason}
        ops = () if revised is known else (UpsertIlk(row=revised),)
        return Decision(answer, ops, request.change_reason)

    def _with_channels(self, known: IlkRecord, request: IlkUpdate, now_ms: int) -> tuple[ChannelRecord, ...]:
        channels = {channel.ich_id: channel for channel in known.channels}
        for index, given in enumerate(request.add_channels):
            channel = new_channel(given, f"add_channels[{index}]", now_ms)
            if self._directory.holder_of_channel(channel) not in (None, known.ilk_id):
                text = f"channel {channel.channel_type}:{channel.address} belongs to another ILK"
                raise Conflict(text, code="DUPLICATE_ICH", field="add_channels")
            held = channels.get(channel.ich_id)
            if held is not None:
                channel = msgspec.structs.replace(channel, realm=held.realm, added_at_ms=held.added_at_ms)
            key = channel_key(channel)
            twin = next((one for one in channels.values() if channel_key(one) == key), None)
            if twin is None or twin.ich_id == channel.ich_id:
                channels[channel.ich_id] = channel
        if len(channels) > _MAX_CHANNELS:
            raise Invalid(f"{len(channels)} channels, at most {_MAX_CHANNELS}", field="add_channels")
        return tuple(channels.values())

    # --- tenants ---------------------------------------------------------------------------------------

    def create_tenant(self, request: TenantCreate, status: TenantStatus, now_ms: int) -> Decision:
        """TNT_CREATE (§2.7): find by domain, then by name, or create with ``status``.

        Raises:
            Invalid: no name, or something is too long.
            Busy: ``IDENTITY_LIMIT_REACHED``.
        """
        name, domain = request.name.strip(), (request.domain or "").strip() or None
        for field, value in (("name", name), ("domain", domain or "-")):
            if not 0 < len(value) <= _MAX_NAME_CHARACTERS:
                raise Invalid(f"{field} has 1 to {_MAX_NAME_CHARACTERS} characters", field=field)
        _check_size(request.settings, "settings")
        found = self._directory.find_tenant(name, domain)
        if found is not None:
            tenant, by = found
            return Decision({"tenant_id": tenant.tenant_id, "created": False, "matched_by": by})
        self._check_tenant_room()
        row = TenantRecord(
            tenant_id=self._make_tenant_id(),
            name=name,
            domain=domain,
            status=status,
            settings=dict(request.settings),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        answer: dict[str, object] = {"tenant_id": row.tenant_id, "created": True, "matched_by": None}
        return Decision(answer, (UpsertTenant(row=row),))

    def approve_tenant(self, request: TenantApprove, now_ms: int) -> Decision:
        """TNT_APPROVE (§2.7): the tenant becomes active; ``INVALID_TENANT`` when there is none."""
        wanted = tenant_id(request.tenant_id)
        by = None if request.approved_by is None else ilk_id(request.approved_by, "approved_by")
        known = self._directory.tenants.get(wanted)
        if known is None:
            raise Invalid(f"tenant {wanted} does not exist", code="INVALID_TENANT", field="tenant_id")
        answer: dict[str, object] = {"tenant_id": wanted, "approved_by": by}
        if known.status == "active":
            return Decision(answer)
        row = msgspec.structs.replace(
            known, status="active", approved_by=by, rev=known.rev + 1, updated_at_ms=now_ms
        )
        return Decision(answer, (UpsertTenant(row=row),))

    # --- bounds ----------------------------------------------------------------------------------------

    def _check_room(self, tenant: TenantRecord) -> None:
        most = tenant.settings.get("max_ilks")
        own = self._directory.live_ilks(tenant.tenant_id)
        if isinstance(most, int) and not isinstance(most, bool) and own >= most:
            raise _full(f"tenant {tenant.tenant_id} has {own} interlocutors, at most {most}")
        if self._directory.live_ilks() >= self._limits.ilks:
            raise _full(f"the hive has {self._limits.ilks} interlocutors, which is identity.max_ilks")

    def _check_tenant_room(self) -> None:
        if len(self._directory.tenants) >= self._limits.tenants:
            raise _full(f"the hive has {self._limits.tenants} tenants, which is identity.max_tenants")

    def _check_email(self, row: IlkRecord) -> None:
        key = email_key(row)
        if key is not None and self._directory.holder_of_email(key) not in (None, row.ilk_id):
            text = f"{key[1]} belongs to another interlocutor of {row.tenant_id}"
            raise Conflict(text, code="DUPLICATE_EMAIL", field="identification.email")


def _tags(
    known: tuple[str, ...], add: tuple[str, ...], remove: tuple[str, ...], field: str
) -> tuple[str, ...]:
    added, removed = plain_tags(add, f"add_{field}"), plain_tags(remove, f"remove_{field}")
    if not added and not removed:
        return known
    return plain_tags(tuple(sorted({*known, *added} - {*removed})), field)


def _revised(known: IlkRecord, row: IlkRecord, now_ms: int) -> IlkRecord:
    """``row`` with its next revision, or ``known`` itself when nothing differs."""
    if row == known:
        return known
    return msgspec.structs.replace(row, rev=known.rev + 1, updated_at_ms=now_ms)


def _check_size(value: dict[str, object], field: str) -> None:
    if len(msgspec.json.encode(value)) > _MAX_OBJECT_BYTES:
        raise Invalid(f"{field} has more than {_MAX_OBJECT_BYTES} bytes", field=field)


def _full(text: str) -> FluxbeeError:
    return Busy(text, code="IDENTITY_LIMIT_REACHED", remedy="Raise the limit, or delete what is not used.")
