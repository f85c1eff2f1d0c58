"""Secrets of a node: a file of its own, and redaction wherever a configuration is shown.

``secrets.json`` lies beside the node's other files, mode 0600 in a directory 0700, and is replaced whole
(``spec/node-protocol.md §5.9``). A value never appears in a ``repr``, in an answer or in a log line; the
placeholder that stands for it means "unchanged" when it comes back in a CONFIG_SET. File functions block:
call them off the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Damaged

from .managed import managed_node_instance_dir

if TYPE_CHECKING:
    from appliance.wire.envelope import Json

__all__ = [
    "REDACTED",
    "SECRET_FILE_NAME",
    "SECRET_SCHEMA_VERSION",
    "SecretDescriptor",
    "SecretRecord",
    "build_secret_record",
    "ensure_secret_dir",
    "load_secrets",
    "redact_fields",
    "redact_secrets",
    "restore_redacted",
    "save_secrets",
    "secret_path",
    "split_secrets",
]

SECRET_FILE_NAME = "secrets.json"  # noqa: S105 - a file name
SECRET_SCHEMA_VERSION = 1
REDACTED = "***REDACTED***"


class SecretDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """One secret of a configuration contract.

    Attributes:
        field: dotted path in the configuration, such as ``behavior.openai.api_key``.
        storage_key: its key in ``secrets.json``.
        required: the node cannot work without it.
        configured: whether a value is stored.
    """

    field: str
    storage_key: str
    required: bool = False
    configured: bool = False
    value_redacted: bool = True
    persistence: str = "local_file"


class SecretRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content of ``secrets.json``; ``updated_at`` is RFC 3339."""

    updated_at: str
    secrets: dict[str, str]
    schema_version: int = SECRET_SCHEMA_VERSION
    updated_by_ilk: str | None = None
    updated_by_label: str | None = None
    trace_id: str | None = None

    def __repr__(self) -> str:
        return f"SecretRecord(updated_at={self.updated_at!r}, secrets={redact_secrets(self.secrets)!r})"

    def redacted(self) -> SecretRecord:
        """The same record with every value replaced by :data:`REDACTED`."""
        return msgspec.structs.replace(self, secrets=redact_secrets(self.secrets))


def redact_secrets(secrets: Mapping[str, str]) -> dict[str, str]:
    """The keys with every value replaced."""
    return dict.fromkeys(secrets, REDACTED)


def secret_path(node_name: str, root: Path | None = None) -> Path:
    """``secrets.json`` of a managed node (errors: :func:`.managed.managed_node_instance_dir`)."""
    return managed_node_instance_dir(node_name, root) / SECRET_FILE_NAME


def ensure_secret_dir(node_name: str, root: Path | None = None) -> Path:
    """The node's directory, made with mode 0700 when it is not there."""
    directory = managed_node_instance_dir(node_name, root)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
    except OSError as error:
        raise storage_error(error, str(directory)) from error
    return directory


def build_secret_record(
    secrets: Mapping[str, str],
    *,
    updated_by_ilk: str | None = None,
    updated_by_label: str | None = None,
    trace_id: str | None = None,
    now: datetime | None = None,
) -> SecretRecord:
    """A record of ``secrets`` as of ``now`` (default: the wall clock)."""
    return SecretRecord(
        updated_at=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        secrets=dict(secrets),
        updated_by_ilk=updated_by_ilk,
        updated_by_label=updated_by_label,
        trace_id=trace_id,
    )


def load_secrets(path: Path) -> SecretRecord:
    """Read ``path``.

    Raises:
        NotFound: there is no such file.
        Damaged: it is not a secrets file, or one of a later schema.
        Unavailable: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise storage_error(error, str(path)) from error
    remedy = "Send the secrets again with CONFIG_SET; keep the file for analysis."
    try:
        record = msgspec.json.decode(data, type=SecretRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The decoder's words may quote the file, and with it a secret: they go no further.
        raise Damaged(f"{path} is not a secrets file", code="SECRETS_DAMAGED", remedy=remedy) from None
    if record.schema_version > SECRET_SCHEMA_VERSION:
        raise Damaged(
            f"{path} has schema {record.schema_version}", code="SECRETS_DAMAGED", remedy="Update this node."
        )
    return record


def save_secrets(path: Path, record: SecretRecord) -> int:
    """Replace ``path`` by ``record``, mode 0600; return the bytes written.

    Raises:
        NotFound: the directory does not exist, see :func:`ensure_secret_dir`.
        Unavailable: the medium is full, read-only or failing; the old file is still there.
    """
    shown = {"schema_version": record.schema_version, **msgspec.to_builtins(record)}
    data = msgspec.json.format(msgspec.json.encode(shown), indent=2)
    return durable_replace(path, data, 0o600)


def split_secrets(
    config: Mapping[str, Json], descriptors: Iterable[SecretDescriptor]
) -> tuple[dict[str, Json], dict[str, str]]:
    """Take the secrets out of a configuration.

    Returns:
        The configuration without them, and ``{storage_key: value}`` of those that carried a new value; a
        placeholder is taken out and stands for no change.
    """
    rest = _copy(config)
    found: dict[str, str] = {}
    for descriptor in descriptors:
        holder, key = _locate(rest, descriptor.field)
        if holder is None or key not in holder:
            continue
        value = holder.pop(key)
        if isinstance(value, str) and value != REDACTED:
            found[descriptor.storage_key] = value
    return rest, found


def redact_fields(config: Mapping[str, Json], fields: Iterable[str]) -> dict[str, Json]:
    """A copy of ``config`` with the values at the dotted paths replaced by :data:`REDACTED`."""
    shown = _copy(config)
    for field in fields:
        holder, key = _locate(shown, field)
        if holder is not None and holder.get(key) is not None:
            holder[key] = REDACTED
    return shown


def restore_redacted(config: Mapping[str, Json], current: Mapping[str, Json]) -> dict[str, Json]:
    """A copy of ``config`` where a placeholder is the value that ``current`` has there, or is gone."""
    restored: dict[str, Json] = {}
    for key, value in config.items():
        old = current.get(key)
        if value == REDACTED:
            if old is not None:
                restored[key] = old
        elif isinstance(value, dict):
            restored[key] = restore_redacted(value, old if isinstance(old, dict) else {})
        else:
            restored[key] = value
    return restored


def _copy(config: Mapping[str, Json]) -> dict[str, Json]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in config.items()}


def _locate(config: dict[str, Json], field: str) -> tuple[dict[str, Json] | None, str]:
    """The object that holds the last part of a dotted path, and that part."""
    *path, last = field.split(".")
    holder: Json = config
    for part in path:
        holder = holder.get(part) if isinstance(holder, dict) else None
    return (holder if isinstance(holder, dict) else None), last
