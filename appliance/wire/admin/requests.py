"""Bodies of requests as Structs: what SY.admin checks, and what the API document is generated from.

Unknown keys are ignored, as the reference does. A body that no Struct names is handed on as it came.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = [
    "AddHive",
    "AnyObject",
    "ConfigGetBody",
    "ConfigSetBody",
    "ConfigureRoutes",
    "ConfigureVpns",
    "KillNode",
    "NodeMessage",
    "PackageSource",
    "PublishPackage",
    "RouteBody",
    "RunNode",
    "StorageBody",
    "SyncHint",
    "Update",
    "VpnBody",
]

U16 = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
MatchWord = Literal["EXACT", "PREFIX", "GLOB"]
Word = Annotated[str, msgspec.Meta(min_length=1)]
AnyObject = dict[str, object]


class RouteBody(msgspec.Struct, frozen=True, kw_only=True):
    """A static route (``spec/admin-api.md §B.4``)."""

    prefix: str
    action: Literal["FORWARD", "DROP"]
    match_kind: MatchWord | None = None
    next_hop_hive: str | None = None
    metric: U32 | None = None
    priority: U16 | None = None


class VpnBody(msgspec.Struct, frozen=True, kw_only=True):
    """A VPN rule."""

    pattern: str
    vpn_id: U32
    match_kind: MatchWord | None = None
    priority: U16 | None = None


class ConfigureRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """``PUT /config/routes``: whole tables."""

    routes: list[RouteBody] | None = None
    vpns: list[VpnBody] | None = None
    version: U64 | None = None


class ConfigureVpns(msgspec.Struct, frozen=True, kw_only=True):
    """``PUT /config/vpns``: the whole table."""

    vpns: list[VpnBody] | None = None
    version: U64 | None = None


class StorageBody(msgspec.Struct, frozen=True, kw_only=True):
    """``PUT /config/storage``."""

    path: str
    version: U64 | None = None


class AddHive(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /hives``."""

    hive_id: str
    address: str
    harden_ssh: bool | str = False
    restrict_ssh: bool | str | None = None
    require_dist_sync: bool | str = False
    dist_sync_probe_timeout_secs: U64 | None = None


class RunNode(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /hives/{hive}/nodes``; names, identity and configuration of the node to make."""

    node_name: str
    runtime: str | None = None
    runtime_version: str | None = None
    tenant_id: str | None = None
    config: AnyObject | None = None
    unit: str | None = None
    ilk_id: str | None = None
    roles: list[str] | None = None
    capabilities: list[str] | None = None


class KillNode(msgspec.Struct, frozen=True, kw_only=True):
    """``DELETE /hives/{hive}/nodes/{node_name}``."""

    force: bool = False
    signal: str = "SIGTERM"
    purge_instance: bool = False
    unit: str | None = None


class NodeMessage(msgspec.Struct, frozen=True, kw_only=True):
    """``POST …/messages``: sent once, not waited for."""

    node_name: Word | None = None
    msg_type: Word = "user"
    payload: object = {}
    msg: str | None = None
    src_ilk: str | None = None
    scope: str | None = None
    meta_target: str | None = None
    meta_action: str | None = None
    priority: str | None = None
    context: object = None
    ttl: Annotated[int, msgspec.Meta(ge=1, le=255)] = 16


class ConfigGetBody(msgspec.Struct, frozen=True, kw_only=True):
    """Transport keys of ``…/control/config-get``; the rest is the payload."""

    request_id: str | None = None
    contract_version: U32 | None = None
    requested_by: str | None = None
    src_ilk: str | None = None
    scope: str | None = None
    context: object = None
    ttl: int = 16


class ConfigSetBody(ConfigGetBody, frozen=True, kw_only=True):
    """``…/control/config-set``."""

    schema_version: U32
    config_version: U64
    apply_mode: str
    config: AnyObject = {}


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /hives/{hive}/update``."""

    manifest_hash: str
    category: Literal["runtime", "core", "vendor"] = "runtime"
    manifest_version: U64 = 0
    runtime: str | None = None
    runtime_version: str | None = None


class SyncHint(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /hives/{hive}/sync-hint``."""

    channel: Literal["blob", "dist"] = "blob"
    folder_id: Word | None = None
    wait_for_idle: bool = True
    timeout_ms: Annotated[int, msgspec.Meta(gt=0)] = 30_000


class PackageSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a package comes from: files in the request, or a bundle in the blob store."""

    kind: Literal["inline_package", "bundle_upload"]
    files: dict[str, str] | None = None
    blob_path: str | None = None


class PublishPackage(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /admin/runtime-packages/publish``."""

    source: PackageSource
    set_current: bool = True
    sync_to: list[Word] = []
    update_to: list[Word] = []
