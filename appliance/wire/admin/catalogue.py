"""The action catalogue: what ``GET /admin/actions`` lists and what the gateway accepts.

Registry version 6 has 66 entries in a fixed order (``spec/admin-api.md §C``); programs and agents read them
to learn how to call the API. How an action is carried out is the business of SY.admin.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

import msgspec

from .catalogue_rows import ROWS, Row

__all__ = ["ACTIONS", "CATALOGUE", "REGISTRY_VERSION", "ActionEntry", "BodyContract", "FieldSpec"]

REGISTRY_VERSION: Final = "6"
_BASE_URL: Final = "http://127.0.0.1:8080"


class FieldSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter; types are ``string bool u16 u32 u64 i64 object string[] enum(a|b)``."""

    name: str
    type: str
    description: str


class BodyContract(msgspec.Struct, frozen=True, kw_only=True):
    """``kind`` is ``none`` or ``json_object``; query parameters of a GET are described here too."""

    kind: str
    required: bool
    required_fields: tuple[FieldSpec, ...]
    optional_fields: tuple[FieldSpec, ...]


class RequestContract(msgspec.Struct, frozen=True, kw_only=True):
    """How to call the action over HTTP; ``example_curl`` runs as it stands on the box."""

    transport: str
    method: str
    path_patterns: tuple[str, ...]
    path_patterns_are_templates: bool
    execution_preference: str
    path_params: tuple[FieldSpec, ...]
    body: BodyContract
    example_payload: object
    example_scmd: str
    example_curl: str
    notes: tuple[str, ...]


class ActionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalogue (``spec/admin-api.md §C.1``)."""

    action: str
    handler: str
    canonical_action: str | None
    requires_target: bool
    allow_legacy_hive_id: bool
    read_only: bool
    confirmation_required: bool
    summary: str
    path_patterns: tuple[str, ...]
    path_patterns_are_templates: bool
    execution_preference: str
    request_contract: RequestContract


_PATH_PARAMS: Final = {
    "hive": "Target hive id.",
    "node_name": "Fully-qualified node name.",
    "runtime": "Runtime name.",
    "version": "Runtime version.",
    "prefix": "Route prefix, percent-encoded.",
    "pattern": "VPN pattern, percent-encoded.",
    "ilk_id": "Identity, `ilk:<uuid>`.",
    "timer_uuid": "Timer uuid.",
    "action": "Action name.",
}

_EXAMPLES: Final = {
    "hive": "motherbee",
    "node_name": "AI.greeter@motherbee",
    "runtime": "ai.greeter",
    "version": "0.1.0",
    "prefix": "AI.sales.",
    "pattern": "IO.*",
    "ilk_id": "ilk:6a0d4c1e-0000-4000-8000-000000000001",
    "timer_uuid": "6a0d4c1e-0000-4000-8000-000000000002",
    "action": "run_node",
}

_OF_WORKERS: Final = frozenset({"get_hive", "remove_hive"})

_WORDS: Final = {
    "force": "Use SIGKILL, or override a check.",
    "purge_instance": "Also delete the instance directory.",
    "node_name": "Node name, short or with hive.",
    "config": "Configuration object.",
    "hive": "Hive id.",
    "rego": "Policy source.",
    "manifest_hash": "SHA-256 of the manifest's bytes.",
    "test_hold_ms": "Diagnostic: hold the runtime's lock so long.",
}

_PLACE = re.compile(r"{(\w+)}")


def _fields(words: str) -> tuple[FieldSpec, ...]:
    fields = []
    for word in words.split():
        name, _, kind = word.partition(":")
        text = _WORDS.get(name) or f"{name.replace('_', ' ').capitalize()}."
        fields.append(FieldSpec(name=name, type=kind or "string", description=text))
    return tuple(fields)


def _example_path(row: Row) -> str:
    path = row.patterns[0].partition(" ")[2]
    values = _EXAMPLES | ({"hive": "edge-07"} if row.action in _OF_WORKERS else {})
    return _PLACE.sub(lambda found: quote(values[found[1]], safe="@:"), path)


def _command(row: Row, method: str, base: str) -> str:
    path = base + _example_path(row)
    if row.example is None:
        return f"curl -X {method} {path}"
    if method == "GET":
        query = "&".join(f"{name}={quote(str(value), safe='@:')}" for name, value in row.example.items())
        return f"curl -X GET '{path}?{query}'"
    return f"curl -X {method} {path} -d '{msgspec.json.encode(row.example).decode()}'"


def _entry(row: Row) -> ActionEntry:
    method = row.patterns[0].partition(" ")[0]
    required, optional = _fields(row.required), _fields(row.optional)
    has_body = bool(required or optional or row.example is not None)
    needed = has_body and (bool(required) or row.body_required)
    names = tuple(dict.fromkeys(name for pattern in row.patterns for name in _PLACE.findall(pattern)))
    contract = RequestContract(
        transport="http_via_sy_admin",
        method=method,
        path_patterns=row.patterns,
        path_patterns_are_templates=True,
        execution_preference="example_scmd",
        path_params=tuple(
            FieldSpec(name=name, type="string", description=_PATH_PARAMS[name]) for name in names
        ),
        body=BodyContract(
            kind="json_object" if has_body else "none",
            required=needed,
            required_fields=required,
            optional_fields=optional,
        ),
        example_payload=row.example,
        example_scmd=_command(row, method, ""),
        example_curl=_command(row, method, _BASE_URL),
        notes=row.notes or (("The hive comes from the path.",) if "hive" in names else ()),
    )
    return ActionEntry(
        action=row.action,
        handler=row.handler,
        canonical_action=row.canonical,
        requires_target="T" in row.flags,
        allow_legacy_hive_id="L" in row.flags,
        read_only="R" in row.flags,
        confirmation_required="C" in row.flags,
        summary=row.summary,
        path_patterns=row.patterns,
        path_patterns_are_templates=True,
        execution_preference="example_scmd",
        request_contract=contract,
    )


CATALOGUE: Final = tuple(_entry(row) for row in ROWS)
"""All entries in registry order."""

ACTIONS: Final = {entry.action: entry for entry in CATALOGUE}
"""The same by name."""
