"""Which regions exist and what their rows are (``spec/routing-and-regions.md §2.8``).

One place, so that the writer of a region, the planes that read it and the tools that show it agree. A room
that adds a region adds its tables here and its slot in :mod:`.generations`.
"""

from __future__ import annotations

import msgspec

from appliance.wire.identity import IdentityMeta, IlkRecord, TenantRecord
from appliance.wire.routes import Route, VpnRule

from .region_codec import JSON_BYTES, RAW, U64, UTF8, UUID_TEXT, cbor_record, pair
from .region_table import RegionSpec, Table

__all__ = [
    "CFG_META",
    "CFG_ROUTE",
    "CFG_VPN",
    "CONFIG",
    "IDENTITY",
    "IDENTITY_CHANNEL",
    "IDENTITY_META",
    "IDENTITY_NODE_NAME",
    "ILK",
    "NODE",
    "NODES",
    "NODE_NAME",
    "ROUTER",
    "ROUTERS",
    "TENANT",
    "THREADS",
    "THREAD_SEQ",
    "WORLD_ENTITY",
    "WORLD_META",
    "WORLD_NAMESPACE",
    "WORLD_REGION",
    "ConfigMeta",
    "NodeRow",
    "RouterRow",
]


class RouterRow(msgspec.Struct, frozen=True):
    """A router of this hive. ``opa_status``: 0 OK, 1 ERROR, 2 LOADING; version 0 means no policy."""

    name: str
    hive_id: str
    is_gateway: bool
    started_at_ms: int
    opa_version: int = 0
    opa_status: int = 0


class NodeRow(msgspec.Struct, frozen=True):
    """A connected node. ``link_epoch`` is the generation of its connection, new with every reconnect."""

    name: str
    router_uuid: str
    vpn_id: int
    connected_at_ms: int
    link_epoch: int


class ConfigMeta(msgspec.Struct, frozen=True):
    """Header of the route document."""

    doc_version: int
    updated_at_ms: int
    hive_id: str


ROUTER: Table[str, RouterRow] = Table("router", UUID_TEXT, cbor_record(RouterRow))
NODE: Table[str, NodeRow] = Table("node", UUID_TEXT, cbor_record(NodeRow))
NODE_NAME: Table[str, tuple[int, str]] = Table("node_name", UTF8, pair(U64, UUID_TEXT), dupsort=True)
"""Full name → (connected_at_ms, uuid); the first value serves, the others stand by."""

CFG_META: Table[str, ConfigMeta] = Table("cfg_meta", UTF8, cbor_record(ConfigMeta))
"""One row, key ``v``."""
CFG_ROUTE: Table[int, Route] = Table("cfg_route", U64, cbor_record(Route))
CFG_VPN: Table[int, VpnRule] = Table("cfg_vpn", U64, cbor_record(VpnRule))

IDENTITY_META: Table[str, IdentityMeta] = Table("identity_meta", UTF8, cbor_record(IdentityMeta))
"""One row, key ``v``."""
TENANT: Table[str, TenantRecord] = Table("tenant", UUID_TEXT, cbor_record(TenantRecord))
ILK: Table[str, IlkRecord] = Table("ilk", UUID_TEXT, cbor_record(IlkRecord))
"""Interlocutors, also deleted ones; keys are the uuids behind ``ilk:`` and ``tnt:``."""
IDENTITY_NODE_NAME: Table[str, str] = Table("identity_node", UTF8, UUID_TEXT)
"""``identification.node_name`` of an ILK that is not deleted → its uuid."""
IDENTITY_CHANNEL: Table[bytes, tuple[str, str]] = Table("identity_channel", RAW, pair(UUID_TEXT, UUID_TEXT))
"""SHA-256 of realm 0x1f channel type 0x1f address key → (channel, ILK): who is at the other end."""

THREAD_SEQ: Table[bytes, int] = Table("thread_seq", RAW, U64)
"""16-byte thread key → highest sequence number that may have been given out."""

WORLD_ENTITY: Table[bytes, tuple[int, bytes]] = Table("world_entity", RAW, pair(U64, JSON_BYTES))
"""Entity id (long ones shortened, ``appliance.world.entities``) → (newest event, JSON text); an empty text is
an entity that does not exist and has a history."""
WORLD_NAMESPACE: Table[str, bytes] = Table("world_namespace", UTF8, JSON_BYTES)
WORLD_META: Table[str, bytes] = Table("world_meta", UTF8, JSON_BYTES)
"""``config``: runtime configuration; ``view``: of which journal, and how many entities."""

ROUTERS = RegionSpec(name="router", schema=1, tables=(ROUTER,))
NODES = RegionSpec(name="node", schema=1, tables=(NODE, NODE_NAME))
CONFIG = RegionSpec(name="config", schema=1, tables=(CFG_META, CFG_ROUTE, CFG_VPN))
IDENTITY = RegionSpec(
    name="identity",
    schema=1,
    tables=(IDENTITY_META, TENANT, ILK, IDENTITY_NODE_NAME, IDENTITY_CHANNEL),
)
WORLD_REGION = RegionSpec(name="world", schema=1, tables=(WORLD_ENTITY, WORLD_NAMESPACE, WORLD_META))
THREADS = RegionSpec(name="thread", schema=1, tables=(THREAD_SEQ,))
