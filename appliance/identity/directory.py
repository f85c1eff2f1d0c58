"""The directory: every tenant and interlocutor, and who is found by what. Sans-IO.

A view of the identity journal: :meth:`Directory.apply` takes the operations of one committed change. It
decides nothing; :mod:`.registry` does, and the service applies what the journal has taken. Invariants: a node
name, an e-mail of a tenant, a channel id and a channel's lookup key each belong to at most one interlocutor
that is not deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from appliance.wire.identity import (
    ChannelRecord,
    IdentityFigures,
    IdentityMeta,
    IlkRecord,
    IlkSummary,
    TenantRecord,
)

from .ops import Op, UpsertIlk, UpsertMeta, UpsertTenant

__all__ = ["ChannelKey", "Directory", "channel_key", "email_key"]

ChannelKey = tuple[str, str, str]
"""Realm, channel type, address key."""


def channel_key(channel: ChannelRecord) -> ChannelKey:
    """What a channel is looked up by."""
    return channel.realm, channel.channel_type, channel.address_key


def email_key(ilk: IlkRecord) -> tuple[str, str] | None:
    """Tenant and folded e-mail of an interlocutor that has one."""
    email = ilk.named("email")
    return None if email is None else (ilk.tenant_id, email.strip().casefold())


class Directory:
    """All of it, in memory; look-ups take constant time.

    Attributes:
        meta: header; ``None`` before the directory's first change.
        tenants, ilks: records by id, deleted ones included.
    """

    def __init__(self) -> None:
        self.meta: IdentityMeta | None = None
        self.tenants: dict[str, TenantRecord] = {}
        self.ilks: dict[str, IlkRecord] = {}
        self._by_node: dict[str, str] = {}
        self._by_email: dict[tuple[str, str], str] = {}
        self._by_channel: dict[ChannelKey, str] = {}
        self._by_ich: dict[str, str] = {}
        self._live: Counter[str] = Counter()

    # --- changing --------------------------------------------------------------------------------------

    def apply(self, ops: Iterable[Op]) -> None:
        """Take the operations of one change; taking them again changes nothing."""
        for op in ops:
            match op:
                case UpsertMeta(row=meta):
                    self.meta = meta
                case UpsertTenant(row=tenant):
                    self.tenants[tenant.tenant_id] = tenant
                case UpsertIlk(row=ilk):
                    self._forget(self.ilks.get(ilk.ilk_id))
                    self.ilks[ilk.ilk_id] = ilk
                    self._index(ilk)

    def _index(self, ilk: IlkRecord) -> None:
        if ilk.deleted_at_ms is not None:
            return
        self._live[ilk.tenant_id] += 1
        if (node := ilk.named("node_name")) is not None:
            self._by_node[node] = ilk.ilk_id
        if (email := email_key(ilk)) is not None:
            self._by_email[email] = ilk.ilk_id
        for channel in ilk.channels:
            self._by_channel[channel_key(channel)] = ilk.ilk_id
            self._by_ich[channel.ich_id] = ilk.ilk_id

    def _forget(self, ilk: IlkRecord | None) -> None:
        if ilk is None or ilk.deleted_at_ms is not None:
            return
        self._live[ilk.tenant_id] -= 1
        if (node := ilk.named("node_name")) is not None:
            self._by_node.pop(node, None)
        if (email := email_key(ilk)) is not None:
            self._by_email.pop(email, None)
        for channel in ilk.channels:
            self._by_channel.pop(channel_key(channel), None)
            self._by_ich.pop(channel.ich_id, None)

    # --- finding ---------------------------------------------------------------------------------------

    def ilk_of_node(self, node_name: str) -> IlkRecord | None:
        """The live interlocutor with this ``identification.node_name``."""
        found = self._by_node.get(node_name)
        return None if found is None else self.ilks[found]

    def holder_of_email(self, key: tuple[str, str]) -> str | None:
        """Id of the live interlocutor with this tenant and e-mail."""
        return self._by_email.get(key)

    def holder_of_channel(self, channel: ChannelRecord) -> str | None:
        """Id of the live interlocutor that has this channel id or is found by this channel's key."""
        return self._by_ich.get(channel.ich_id) or self._by_channel.get(channel_key(channel))

    def find_tenant(self, name: str, domain: str | None) -> tuple[TenantRecord, str] | None:
        """The tenant with this domain, else this name, and by which; letter case does not count (§2.7)."""
        ordered = [self.tenants[tenant_id] for tenant_id in sorted(self.tenants)]
        if domain:
            for tenant in ordered:
                if tenant.domain is not None and tenant.domain.casefold() == domain.casefold():
                    return tenant, "domain"
        for tenant in ordered:
            if tenant.name.casefold() == name.casefold():
                return tenant, "name"
        return None

    def live_ilks(self, tenant_id: str | None = None) -> int:
        """How many interlocutors are not deleted: of a tenant, or of all."""
        return self._live.total() if tenant_id is None else self._live[tenant_id]

    # --- showing ---------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Op]:
        """Everything, as operations: what a base image holds and a region is filled from."""
        if self.meta is not None:
            yield UpsertMeta(row=self.meta)
        yield from (UpsertTenant(row=tenant) for tenant in self.tenants.values())
        yield from (UpsertIlk(row=ilk) for ilk in self.ilks.values())

    def summary(self, ilk: IlkRecord) -> IlkSummary:
        """An entry of ILK_LIST's answer."""
        tenant = self.tenants.get(ilk.tenant_id)
        return IlkSummary(
            ilk_id=ilk.ilk_id,
            ilk_type=ilk.ilk_type,
            registration_status=ilk.registration_status,
            tenant_id=ilk.tenant_id,
            tenant_name=None if tenant is None else tenant.name,
            display_name=ilk.named("display_name"),
            node_name=ilk.named("node_name"),
            channel_count=len(ilk.channels),
            channels=tuple(
                {"ich_id": one.ich_id, "channel_type": one.channel_type, "address": one.address}
                for one in ilk.channels
            ),
            deleted_at_ms=ilk.deleted_at_ms,
        )

    def figures(self) -> IdentityFigures:
        """Counts for IDENTITY_METRICS."""
        live = self.live_ilks()
        return IdentityFigures(
            tenant_count=len(self.tenants),
            ilk_count=len(self.ilks),
            ich_count=len(self._by_channel),
            alias_count=0,
            deleted_ilk_count=len(self.ilks) - live,
        )
