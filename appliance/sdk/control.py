"""A node's configuration by message: CONFIG_GET and CONFIG_SET answered around one callback.

The version rule, the placeholder of redacted values, the error codes and the contract are kept here
(``spec/node-protocol.md §5.2``); what a configuration means, and storing it, is the node's callback. Requests
are handled one after another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import msgspec

from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.envelope import Message
from appliance.wire.errors import FluxbeeError, Invalid
from appliance.wire.names import base_name
from appliance.wire.nodeconfig import (
    APPLY_MODE_REPLACE,
    ConfigFault,
    ConfigResponse,
    ConfigSet,
    VersionDecision,
    decide_config_version,
    parse_config_request,
)

from .secrets import SecretDescriptor, redact_fields, restore_redacted

if TYPE_CHECKING:
    from appliance.wire.envelope import Json

__all__ = ["ConfigContract", "ConfigInForce", "NodeControl", "OnConfigSet"]

log = get_logger("sdk")

OnConfigSet = Callable[[ConfigSet], Awaitable["dict[str, Json] | None"]]
"""Applies and stores a configuration; returns the effective one when it differs from what was asked."""

UNCONFIGURED = "UNCONFIGURED"
CONFIGURED = "CONFIGURED"
FAILED_CONFIG = "FAILED_CONFIG"


class ConfigContract(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says about its configuration; ``secrets`` are also what is redacted in its answers."""

    schema_version: int = 1
    config_schema: str = ""
    required_fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ()
    secrets: tuple[SecretDescriptor, ...] = ()
    examples: tuple[object, ...] = ()
    notes: tuple[str, ...] = ()

    def to_payload(self) -> dict[str, Json]:
        """The ``contract`` object of a CONFIG_RESPONSE, as plain JSON values."""
        own: dict[str, Json] = msgspec.json.decode(msgspec.json.encode(self))
        return {
            "supports": [verbs.CONFIG_GET, verbs.CONFIG_SET],
            "target": verbs.NODE_CONTROL_TARGET,
            "apply_modes": [APPLY_MODE_REPLACE],
            **own,
        }


class ConfigInForce(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration a node works with; give the stored one to :class:`NodeControl` at start."""

    config_version: int
    config: dict[str, Json] = {}
    schema_version: int = 1


class NodeControl:
    """Answers configuration requests.

    Args:
        on_set: applies a new configuration. An error of the tree refuses it under the error's code, an
            ``OSError`` as ``config_persist_error``; the one before stays in force.
        contract: what CONFIG_GET tells about the configuration.
        in_force: the configuration stored by an earlier run.
        zero_is_next: accept version 0 as "one more than now", as SY services do.
        timeout_s: how long ``on_set`` may take.
    """

    def __init__(
        self,
        on_set: OnConfigSet,
        *,
        contract: ConfigContract | None = None,
        in_force: ConfigInForce | None = None,
        zero_is_next: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        self.contract = contract or ConfigContract()
        self.in_force = in_force
        self.state = UNCONFIGURED if in_force is None else CONFIGURED
        self._on_set = on_set
        self._zero_is_next = zero_is_next
        self._timeout_s = timeout_s

    async def answer(self, message: Message, node_name: str) -> ConfigResponse:
        """Handle one CONFIG_GET or CONFIG_SET addressed to the node with the full name ``node_name``."""
        try:
            request = parse_config_request(message)
            if request.node_name not in (node_name, base_name(node_name)):
                raise Invalid(
                    f"this is {node_name}, not {request.node_name}",
                    code="invalid_config",
                    field="payload.node_name",
                )
            if isinstance(request, ConfigSet):
                await self._set(request)
            return self._response(node_name)
        except FluxbeeError as error:
            code = "invalid_config" if error.code == Invalid.code else error.code
            return self._refusal(node_name, code, error.message)

    async def _set(self, request: ConfigSet) -> None:
        if request.apply_mode != APPLY_MODE_REPLACE:
            raise Invalid(
                f"apply mode {request.apply_mode!r} is not supported",
                code="unsupported_apply_mode",
                field="payload.apply_mode",
            )
        current = None if self.in_force is None else self.in_force.config_version
        decision = decide_config_version(request.config_version, current, zero_is_next=self._zero_is_next)
        if decision is VersionDecision.STALE:
            raise Invalid(
                f"version {request.config_version} is older than {current}",
                code="stale_config_version",
                field="payload.config_version",
            )
        if decision is VersionDecision.APPLY:
            await self._apply(self._completed(request, current))

    def _completed(self, request: ConfigSet, current: int | None) -> ConfigSet:
        """The request with placeholders resolved and version 0 made a number."""
        version = request.config_version
        if self._zero_is_next and version == 0:
            version = (current or 0) + 1
        known = {} if self.in_force is None else self.in_force.config
        return msgspec.structs.replace(
            request, config=restore_redacted(request.config, known), config_version=version
        )

    async def _apply(self, request: ConfigSet) -> None:
        if self.state == UNCONFIGURED:
            self.state = FAILED_CONFIG  # until it has worked
        try:
            with anyio.fail_after(self._timeout_s):
                effective = await self._on_set(request)
        except TimeoutError as error:
            raise Invalid(
                f"the node did not apply it within {self._timeout_s:g} s", code="config_timeout"
            ) from error
        except OSError as error:
            raise Invalid(f"the node could not store it: {error}", code="config_persist_error") from error
        self.in_force = ConfigInForce(
            config_version=request.config_version,
            schema_version=request.schema_version,
            config=request.config if effective is None else effective,
        )
        self.state = CONFIGURED

    def _response(self, node_name: str) -> ConfigResponse:
        in_force = self.in_force
        fields = [secret.field for secret in self.contract.secrets]
        return ConfigResponse(
            ok=True,
            node_name=node_name,
            state=self.state,
            schema_version=None if in_force is None else in_force.schema_version,
            config_version=None if in_force is None else in_force.config_version,
            effective_config=None if in_force is None else redact_fields(in_force.config, fields),
            contract=self.contract.to_payload(),
        )

    def _refusal(self, node_name: str, code: str, text: str) -> ConfigResponse:
        in_force = self.in_force
        return ConfigResponse(
            ok=False,
            node_name=node_name,
            state=FAILED_CONFIG,
            schema_version=None if in_force is None else in_force.schema_version,
            config_version=None if in_force is None else in_force.config_version,
            error=ConfigFault(code=code, message=text),
        )

    def failed(self, node_name: str, error: Exception) -> ConfigResponse:
        """The answer when :meth:`answer` itself has raised what it does not know."""
        log.exception("config_handler_failed", error, code="CONFIG_HANDLER_FAILED", node=node_name)
        return self._refusal(node_name, "INTERNAL", f"the handler failed: {type(error).__name__}")
