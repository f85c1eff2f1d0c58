"""CONFIG_GET, CONFIG_SET, CONFIG_RESPONSE and CONFIG_CHANGED: a node's runtime configuration by message.

Types, builders, parsers and the version rule of ``spec/node-protocol.md §5.2`` and ``§5.3``. Keys that no
type names are kept in ``extra`` and written back. CONFIG_RESPONSE has two unrelated payloads on the wire;
:func:`parse_config_response` reads the node's and refuses the acknowledgement of a CONFIG_CHANGED.
Sans-IO; storing a configuration is the node's business.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from . import verbs
from .envelope import Message, Meta, build_message, raw_json
from .errors import Invalid

if TYPE_CHECKING:
    from .envelope import Json
else:  # msgspec decodes no recursive alias; for it, any JSON value is just a value
    Json = object

__all__ = [
    "APPLY_MODE_REPLACE",
    "ConfigChanged",
    "ConfigEnvelope",
    "ConfigFault",
    "ConfigGet",
    "ConfigResponse",
    "ConfigSet",
    "VersionDecision",
    "build_config_get",
    "build_config_response",
    "build_config_set",
    "decide_change_version",
    "decide_config_version",
    "is_config_get",
    "is_config_response",
    "is_config_set",
    "parse_config_changed",
    "parse_config_request",
    "parse_config_response",
]

APPLY_MODE_REPLACE = "replace"
"""The only apply mode that any reference node accepts."""

_U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Schema = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
_U64 = Annotated[int, msgspec.Meta(ge=0)]  # msgspec has no bound beyond a signed 64-bit integer
T = TypeVar("T", bound=msgspec.Struct)


class ConfigGet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Payload of CONFIG_GET; ``node_name`` is the full L2 name of the node asked."""

    node_name: str
    request_id: str | None = None
    contract_version: _U32 | None = None
    requested_by: str | None = None
    extra: dict[str, Json] = {}


class ConfigSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Payload of CONFIG_SET; the caller chooses ``config_version``, growing."""

    node_name: str
    schema_version: _Schema
    config_version: _U64
    apply_mode: str
    config: dict[str, Json] = {}
    request_id: str | None = None
    contract_version: _U32 | None = None
    requested_by: str | None = None
    extra: dict[str, Json] = {}


class ConfigFault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``error`` of a response: AI and IO nodes write ``message``, SY nodes ``detail``."""

    code: str = ""
    message: str | None = None
    detail: str | None = None

    @property
    def text(self) -> str:
        """What went wrong, whichever key it came under."""
        return self.message or self.detail or ""


class ConfigResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Payload of a node's CONFIG_RESPONSE. ``state`` is the node's own word, such as ``configured``."""

    ok: bool = False
    node_name: str = ""
    state: str | None = None
    schema_version: int | None = None
    config_version: int | None = None
    effective_config: Json = None
    contract: Json = None
    error: ConfigFault | None = None
    extra: dict[str, Json] = {}


class ConfigEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """Envelope options of a request.

    The reference's default ttl for these requests is 1, which keeps them on one router; ours is 16, because
    the node may live on another hive.
    """

    ttl: int = verbs.DEFAULT_TTL
    src_ilk: str | None = None
    scope: str | None = None
    context: Json = None


class ConfigChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Payload of CONFIG_CHANGED. It reaches every node whatever its ``dst``: check that it means you."""

    subsystem: str
    version: _U64
    action: str | None = None
    auto_apply: bool | None = None
    config: Json = None

    def node_patch(self, node_name: str) -> Json:
        """The patch for ``node_name`` when this is a ``node_config`` change for it, else ``None``."""
        if self.subsystem != "node_config" or not isinstance(self.config, dict):
            return None
        return self.config.get("patch") if self.config.get("node_name") == node_name else None


class VersionDecision(StrEnum):
    """What to do with an offered configuration version."""

    APPLY = "apply"
    UNCHANGED = "unchanged"
    STALE = "stale"


def decide_config_version(
    offered: int, current: int | None, *, zero_is_next: bool = False
) -> VersionDecision:
    """The rule for CONFIG_SET: higher applies, equal changes nothing and is fine, lower is stale.

    Args:
        offered: ``config_version`` of the request.
        current: version in force, ``None`` when the node was never configured.
        zero_is_next: SY services take 0 as "one more than now".
    """
    if current is None or offered > current or (zero_is_next and offered == 0):
        return VersionDecision.APPLY
    return VersionDecision.UNCHANGED if offered == current else VersionDecision.STALE


def decide_change_version(offered: int, last_seen: int | None) -> VersionDecision:
    """The rule for CONFIG_CHANGED: a version not above the last one seen is stale; 0 forces."""
    newer = offered == 0 or last_seen is None or offered > last_seen
    return VersionDecision.APPLY if newer else VersionDecision.STALE


def _is(message: Message, verb: str) -> bool:
    return message.meta.type == verbs.SYSTEM and message.meta.msg == verb


def is_config_get(message: Message) -> bool:
    """Whether ``message`` asks for the configuration."""
    return _is(message, verbs.CONFIG_GET)


def is_config_set(message: Message) -> bool:
    """Whether ``message`` sets the configuration."""
    return _is(message, verbs.CONFIG_SET)


def is_config_response(message: Message) -> bool:
    """Whether ``message`` is a CONFIG_RESPONSE of either kind."""
    return _is(message, verbs.CONFIG_RESPONSE)


def _read(message: Message, shape: type[T], code: str) -> T:
    """The payload as ``shape``; keys that ``shape`` does not name go under ``extra``; null is absent."""
    body = message.json()
    if not isinstance(body, dict):
        raise Invalid("the payload is not an object", code=code, field="payload")
    named = {name: body.pop(name) for name in shape.__struct_fields__ if name != "extra" and name in body}
    present = {name: value for name, value in named.items() if value is not None}
    try:
        return msgspec.convert({**present, "extra": body}, shape)
    except msgspec.ValidationError as error:
        raise Invalid(f"payload: {error}", code=code, field="payload") from error


def _write(body: ConfigGet | ConfigSet | ConfigResponse) -> dict[str, object]:
    known: dict[str, object] = msgspec.to_builtins(body)
    known.pop("extra", None)
    return {**body.extra, **known}


def parse_config_request(message: Message) -> ConfigGet | ConfigSet:
    """Read a CONFIG_GET or a CONFIG_SET.

    Raises:
        Invalid: ``invalid_envelope`` when it is neither, ``invalid_config`` when a field is missing or wrong.
    """
    if is_config_get(message):
        return _read(message, ConfigGet, "invalid_config")
    if is_config_set(message):
        return _read(message, ConfigSet, "invalid_config")
    raise Invalid("neither CONFIG_GET nor CONFIG_SET", code="invalid_envelope", field="meta.msg")


def parse_config_response(message: Message) -> ConfigResponse:
    """Read a node's CONFIG_RESPONSE; every key is optional.

    Raises:
        Invalid: ``invalid_envelope`` when it is no CONFIG_RESPONSE, or the other kind of one.
    """
    if not is_config_response(message):
        raise Invalid("not a CONFIG_RESPONSE", code="invalid_envelope", field="meta.msg")
    response = _read(message, ConfigResponse, "invalid_config")
    if "subsystem" in response.extra and not response.node_name:
        raise Invalid("acknowledges a CONFIG_CHANGED", code="invalid_envelope", field="payload.subsystem")
    return response


def parse_config_changed(message: Message) -> ConfigChanged:
    """Read a CONFIG_CHANGED.

    Raises:
        Invalid: another verb, or a payload without ``subsystem`` or ``version``.
    """
    if not _is(message, verbs.CONFIG_CHANGED):
        raise Invalid("not a CONFIG_CHANGED", code="invalid_envelope", field="meta.msg")
    return message.payload_as(ConfigChanged)


def _request(src: str, verb: str, body: ConfigGet | ConfigSet, options: ConfigEnvelope) -> Message:
    meta = Meta(
        type=verbs.SYSTEM,
        msg=verb,
        action=verb,
        target=verbs.NODE_CONTROL_TARGET,
        src_ilk=options.src_ilk,
        scope=options.scope,
        context=None if options.context is None else raw_json(options.context),
    )
    return build_message(src=src, dst=body.node_name, meta=meta, payload=_write(body), ttl=options.ttl)


def build_config_get(src: str, body: ConfigGet, options: ConfigEnvelope | None = None) -> Message:
    """A CONFIG_GET to ``body.node_name``."""
    return _request(src, verbs.CONFIG_GET, body, options or ConfigEnvelope())


def build_config_set(src: str, body: ConfigSet, options: ConfigEnvelope | None = None) -> Message:
    """A CONFIG_SET to ``body.node_name``."""
    return _request(src, verbs.CONFIG_SET, body, options or ConfigEnvelope())


def build_config_response(request: Message, body: ConfigResponse, *, src: str = "") -> Message:
    """The answer to ``request``.

    Args:
        request: the CONFIG_GET or CONFIG_SET as received.
        body: what to answer.
        src: uuid of the answering connection; empty when the SDK's sender is to fill it in.
    """
    asked = request.meta
    meta = Meta(
        type=verbs.SYSTEM,
        msg=verbs.CONFIG_RESPONSE,
        action=verbs.CONFIG_RESPONSE,
        target=verbs.NODE_CONTROL_TARGET,
        src_ilk=asked.src_ilk,
        scope=asked.scope,
        priority=asked.priority,
        context=asked.context,
    )
    return build_message(
        src=src,
        dst=request.routing.src.strip() or verbs.BROADCAST,
        meta=meta,
        payload={"ok": body.ok, "node_name": body.node_name, **_write(body)},
        ttl=max(request.routing.ttl, 1),
        trace_id=request.routing.trace_id,
    )
