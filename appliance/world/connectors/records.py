"""What is known about sources and credentials, and what is told of them. Plain records.

Records with a tag lie in the journal ``world.connectors``: names and tags are part of its format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from .addresses import Reach
from .vault import Sealed

__all__ = [
    "KNOWN",
    "ConnectorOptions",
    "ConnectorStatistics",
    "Credential",
    "CredentialGone",
    "GenericSource",
    "NamedGone",
    "NamedSource",
    "NewSource",
    "NewTap",
    "Record",
    "SourceGone",
    "SourceKind",
    "SourceReport",
    "Status",
]

KNOWN: Final = {"github": 300, "gmail": 60, "linkedin": 600, "calendar": 300}
"""Connectors that have credentials, in the order of EP-60, with their poll intervals in seconds (EP-61)."""

SourceKind = Literal["builtin", "generic", "named"]
Status = Literal["running", "error", "stopped"]


class Credential(msgspec.Struct, frozen=True, kw_only=True, tag="credential"):
    """A stored token; times are wall-clock milliseconds."""

    owner: str
    connector: str
    access: Sealed
    refresh: Sealed | None = None
    expires_at_ms: int | None = None
    created_at_ms: int
    updated_at_ms: int


class CredentialGone(msgspec.Struct, frozen=True, kw_only=True, tag="credential_gone"):
    """It was removed."""

    owner: str
    connector: str


class GenericSource(msgspec.Struct, frozen=True, kw_only=True, tag="generic"):
    """A JSON document that is asked for again and again (CN-21); its tokens are credentials."""

    source_id: str
    name: str
    url: str
    poll_interval_s: float
    entity_key: str
    namespace: str
    auth: Literal["none", "bearer", "api_key_header"] = "none"
    header: str = ""
    mapping: dict[str, str] | None = None
    created_at_ms: int

    @property
    def entity_id(self) -> str:
        """What it feeds."""
        return f"{self.namespace}/{self.entity_key}"


class SourceGone(msgspec.Struct, frozen=True, kw_only=True, tag="generic_gone"):
    """It was removed."""

    source_id: str


class NamedSource(msgspec.Struct, frozen=True, kw_only=True, tag="named"):
    """An installed tap that is run again and again (CN-23); its configuration and token are credentials."""

    source_id: str
    tap_name: str
    namespace: str
    entity_key_field: str
    poll_interval_s: float
    created_at_ms: int


class NamedGone(msgspec.Struct, frozen=True, kw_only=True, tag="named_gone"):
    """It was removed."""

    source_id: str


Record = Credential | CredentialGone | GenericSource | SourceGone | NamedSource | NamedGone


class NewSource(msgspec.Struct, kw_only=True):
    """Body of CN-21; ``mapping`` is additive."""

    name: str
    url: str
    poll_interval_secs: float
    entity_key: str
    namespace: str
    auth_type: str | dict[str, str] = "none"
    token: str | None = None
    flux_namespace_token: str | None = None
    mapping: dict[str, str] | None = None


class NewTap(msgspec.Struct, kw_only=True):
    """Body of CN-23; ``config_json`` is a text that holds JSON."""

    tap_name: str
    namespace: str
    entity_key_field: str
    config_json: str
    poll_interval_secs: float
    flux_namespace_token: str | None = None


class SourceReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of CN-20 in its wire form; what is not known is left out."""

    name: str
    type: SourceKind
    enabled: bool
    status: Status
    source_id: str | None = None
    last_started: str | None = None
    last_success: str | None = None
    last_error: str | None = None


class ConnectorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What connectors take from the settings ``world.connectors``, ``world.taps`` and ``world.sysinfo``."""

    hive_id: str
    taps: Mapping[str, str] = {}
    tap_timeout_s: float = 900.0
    tap_memory_bytes: int = 256 << 20
    enabled: bool = True
    reach: Reach = "network"
    allowed_hosts: tuple[str, ...] = ()
    at_once: int = 4
    max_sources: int = 256
    answer_bytes: int = 1 << 20
    timeout_s: float = 30.0
    github_url: str = "https://api.github.com"
    sysinfo_enabled: bool = True
    sysinfo_namespace: str = "box"
    sysinfo_interval_s: float = 60.0


class ConnectorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start, and how many there are."""

    sources: int = 0
    credentials: int = 0
    running: int = 0
    failing: int = 0
    polls: int = 0
    failed_polls: int = 0
    events: int = 0
    requests: int = 0
    refused_addresses: int = 0
    read_bytes: int = 0
    undecodable: int = 0
    resealed: int = 0
    journal_bytes: int = 0
    tap_runs: int = 0
    tap_records: int = 0
    tap_refused: int = 0
    tap_noise_lines: int = 0
    tap_collisions: int = 0
    tap_state_bytes: int = 0
