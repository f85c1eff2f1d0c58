"""Tables and environments that several region tests share."""

from __future__ import annotations

import msgspec

from appliance.store.region_admit import EnvironmentSpec
from appliance.store.region_codec import RAW, U64, UTF8, cbor_record, pair
from appliance.store.region_table import RegionSpec, Table


class Route(msgspec.Struct, frozen=True, kw_only=True):
    prefix: str
    metric: int = 0


ROUTE = Table("route", U64, cbor_record(Route))
ALIAS = Table("alias", UTF8, RAW)
MEMBER = Table("member", UTF8, pair(U64, RAW), dupsort=True)
EVENT = Table("event", U64, RAW)

CONFIG = RegionSpec(name="config", schema=1, tables=(ROUTE, ALIAS, MEMBER))
IDENTITY = RegionSpec(name="identity", schema=4, tables=(EVENT,))
REGIONS = (CONFIG, IDENTITY)

MIB = 1 << 20
SYNCED = EnvironmentSpec(name="synced", on_disk=True, sync=True, map_bytes=64 * MIB)
LOOSE = EnvironmentSpec(name="loose", on_disk=True, sync=False, map_bytes=64 * MIB)
SMALL = EnvironmentSpec(name="small", on_disk=False, sync=False, map_bytes=2 * MIB)
