"""The configuration of a managed node: from its files at start, and live while it runs.

Layers, later wins, top-level key by top-level key: the package's own defaults, ``config.json`` of the
instance (the orchestrator writes it), what CONFIG_SET stored in ``state.json``. Secrets lie apart in
``secrets.json`` and are put in their places when the configuration is read; they never go back into another
file. A change that does not parse is refused or reported as DEGRADED, and the configuration in force stays.
A node started by hand has no instance directory: then CONFIG_SET holds until it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio
import msgspec

from appliance.store.files import durable_replace, storage_error
from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.envelope import Message
from appliance.wire.errors import Damaged, FluxbeeError, Invalid, NotFound
from appliance.wire.nodeconfig import ConfigSet, VersionDecision, decide_change_version, parse_config_changed
from appliance.wire.nodestatus import HealthState

from .control import ConfigContract, ConfigInForce, NodeControl
from .managed import managed_node_config_path, managed_node_instance_dir, managed_node_name
from .secrets import (
    SecretDescriptor,
    build_secret_record,
    ensure_secret_dir,
    load_secrets,
    save_secrets,
    split_secrets,
)
from .secrets import secret_path as secrets_place

if TYPE_CHECKING:
    from appliance.wire.envelope import Json

    from .node import Node

__all__ = ["ManagedConfig"]

log = get_logger("sdk")
T = TypeVar("T", bound=msgspec.Struct)

_SYSTEM_KEY = "_system"
"""The orchestrator's own part of ``config.json`` (``spec/admin-api.md §D.3``)."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``state.json``: what CONFIG_SET left."""

    config_version: int
    config: dict[str, object]
    schema_version: int = 1


class ManagedConfig(Generic[T]):
    """One node's configuration as a Struct of its author's.

    Args:
        shape: what the configuration is read as; keys that it does not name are left alone.
        name: full name; default ``$FLUXBEE_NODE_NAME``. Without a hive in it there is no instance directory.
        defaults: a JSON file of the package that counts below everything else.
        secrets: which fields go into ``secrets.json``.
        config_schema: what CONFIG_GET calls this shape.
        root: default the hive's ``nodes`` directory.

    Raises:
        Invalid: a file is no JSON object, or does not have the shape; the message names the file or the key.
        Damaged: ``secrets.json`` is no secrets file.
        Unavailable: a file cannot be read.
    """

    def __init__(
        self,
        shape: type[T],
        *,
        name: str | None = None,
        defaults: Path | None = None,
        secrets: Sequence[SecretDescriptor] = (),
        config_schema: str = "",
        root: Path | None = None,
    ) -> None:
        self.name = managed_node_name("") if name is None else name
        self._root = root
        self._shape = shape
        self._descriptors = tuple(secrets)
        self._config_schema = config_schema
        self._changed = anyio.Event()
        self._version_seen: int | None = None
        self._defaults = _read_object(defaults) if defaults else {}
        self._file = self._read_file()
        self._stored = self._read_stored()
        self._secrets = self._read_secrets()
        self.values: T = self._parsed(self._file, self._stored_config(), self._secrets)

    @property
    def directory(self) -> Path | None:
        """The instance directory; ``None`` for a node started by hand."""
        return managed_node_instance_dir(self.name, self._root) if "@" in self.name else None

    async def wait_change(self) -> T:
        """Wait for the next change and return the new configuration."""
        await self._changed.wait()
        return self.values

    def control(self) -> NodeControl:
        """What answers CONFIG_GET and CONFIG_SET, for ``run_node(control=…)``."""
        required: list[str] = []
        optional: list[str] = []
        for field in msgspec.structs.fields(self._shape):
            (required if field.required else optional).append(field.encode_name)
        contract = ConfigContract(
            config_schema=self._config_schema,
            required_fields=tuple(required),
            optional_fields=tuple(optional),
            secrets=tuple(
                msgspec.structs.replace(one, configured=one.storage_key in self._secrets)
                for one in self._descriptors
            ),
        )
        stored = self._stored
        version = 0 if stored is None else stored.config_version
        return NodeControl(
            self._set,
            contract=contract,
            in_force=ConfigInForce(config_version=version, config=self._effective()),
            zero_is_next=True,
        )

    async def on_system(self, message: Message, node: Node) -> None:
        """Follow CONFIG_CHANGED floods that mean this node, for ``run_node(on_system=…)``."""
        if message.meta.type != verbs.SYSTEM or message.meta.msg != verbs.CONFIG_CHANGED:
            return
        change = parse_config_changed(message)
        patch = change.node_patch(node.full_name)
        if not isinstance(patch, dict):
            return
        if decide_change_version(change.version, self._version_seen) is VersionDecision.STALE:
            return
        self._version_seen = change.version or self._version_seen
        try:
            # The file is the truth, as a patch does not tell whether it replaces or adds.
            file = (
                await anyio.to_thread.run_sync(self._read_file) if self.directory else {**self._file, **patch}
            )
            self._adopt(file, self._stored_config(), self._secrets)
        except FluxbeeError as error:
            node.health.state = HealthState.DEGRADED
            node.health.last_error = {"code": error.code, "message": error.message}
            log.warning(
                "node_config_refused", code="NODE_CONFIG_REFUSED", node=node.full_name, reason=error.message
            )
            return
        if node.control is not None and node.control.in_force is not None:
            node.control.in_force = msgspec.structs.replace(node.control.in_force, config=self._effective())
        node.health.state, node.health.last_error = HealthState.HEALTHY, None
        log.info("node_config_changed", node=node.full_name, version=change.version)

    # -- one change ------------------------------------------------------------------------------------------

    async def _set(self, request: ConfigSet) -> dict[str, Json]:
        rest, found = split_secrets(request.config, self._descriptors)
        secrets = {**self._secrets, **found}
        stored = _Stored(
            config_version=request.config_version, config=dict(rest), schema_version=request.schema_version
        )
        self._parsed(self._file, rest, secrets)
        await anyio.to_thread.run_sync(self._write, stored, secrets if found else None)
        self._stored, self._secrets = stored, secrets
        self._adopt(self._file, rest, secrets)
        return self._effective()

    def _write(self, stored: _Stored, secrets: Mapping[str, str] | None) -> None:
        directory = self.directory
        if directory is None:
            return
        ensure_secret_dir(self.name, self._root)
        if secrets is not None:
            save_secrets(secrets_place(self.name, self._root), build_secret_record(secrets))
        durable_replace(directory / "state.json", msgspec.json.format(msgspec.json.encode(stored), indent=2))

    def _adopt(self, file: dict[str, Json], config: dict[str, Json], secrets: Mapping[str, str]) -> None:
        self.values = self._parsed(file, config, secrets)
        self._file = file
        self._changed.set()
        self._changed = anyio.Event()

    def _effective(self) -> dict[str, Json]:
        """What counts, secrets included: only for :class:`NodeControl`, which redacts them."""
        return self._merged(self._file, self._stored_config(), self._secrets)

    def _merged(
        self, file: dict[str, Json], config: dict[str, Json], secrets: Mapping[str, str]
    ) -> dict[str, Json]:
        merged = {**self._defaults, **file, **config}
        for descriptor in self._descriptors:
            if descriptor.storage_key in secrets:
                _place(merged, descriptor.field.split("."), secrets[descriptor.storage_key])
        return merged

    def _parsed(self, file: dict[str, Json], config: dict[str, Json], secrets: Mapping[str, str]) -> T:
        try:
            return msgspec.convert(self._merged(file, config, secrets), self._shape)
        except msgspec.ValidationError as error:
            # The decoder quotes keys and types, never values.
            raise Invalid(
                f"configuration of {self.name or 'this node'}: {error}", code="invalid_config"
            ) from None

    # -- files -----------------------------------------------------------------------------------------------

    def _stored_config(self) -> dict[str, Json]:
        return {} if self._stored is None else dict(self._stored.config)  # type: ignore[arg-type]

    def _read_file(self) -> dict[str, Json]:
        if self.directory is None:
            return {}
        with contextlib.suppress(NotFound):
            found = _read_object(managed_node_config_path(self.name, self._root))
            found.pop(_SYSTEM_KEY, None)
            return found
        return {}

    def _read_stored(self) -> _Stored | None:
        if self.directory is None:
            return None
        path = self.directory / "state.json"
        with contextlib.suppress(NotFound):
            found = _read_object(path)
            if "config_version" not in found:
                return None  # another writer's state, without a configuration
            try:
                return msgspec.convert(found, _Stored)
            except msgspec.ValidationError as error:
                raise Invalid(f"{path}: {error}", code="invalid_config") from error
        return None

    def _read_secrets(self) -> dict[str, str]:
        if self.directory is None or not self._descriptors:
            return {}
        with contextlib.suppress(NotFound):
            return dict(load_secrets(secrets_place(self.name, self._root)).secrets)
        return {}


def _read_object(path: Path) -> dict[str, Json]:
    try:
        value = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"there is no {path}") from error
    except OSError as error:
        raise storage_error(error, str(path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Damaged(f"{path} is no JSON", code="invalid_config", remedy="Correct the file.") from None
    if not isinstance(value, dict):
        raise Invalid(f"{path} is no JSON object", code="invalid_config", remedy="Correct the file.")
    return value


def _place(holder: dict[str, Json], path: list[str], value: str) -> None:
    """Put ``value`` at a dotted path, copying the objects on the way."""
    key, *more = path
    if not more:
        holder[key] = value
        return
    below = holder.get(key)
    inner: dict[str, Json] = dict(below) if isinstance(below, dict) else {}
    holder[key] = inner
    _place(inner, more, value)
