"""What SY.config.routes answers: a message and the document in, an answer and perhaps a new document out.

Sans-IO. Every request gets an answer (``spec/routing-and-regions.md §9.5``), also one that changes nothing.
Reading is open; changing by admin action is for ``SY.*`` and ``security.admin_nodes`` (``design.md §5``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from appliance.wire import verbs
from appliance.wire.envelope import Json, Message, Meta, build_message, encode_message, system_message
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound, Refused
from appliance.wire.frames import MAX_FRAME_BYTES
from appliance.wire.names import full_name, glob_matcher, is_system_name
from appliance.wire.nodeconfig import (
    APPLY_MODE_REPLACE,
    ConfigFault,
    ConfigResponse,
    ConfigSet,
    build_config_response,
    parse_config_changed,
    parse_config_request,
)

from . import book as books
from .book import MUTATING, RouteBook, RouteLimits

__all__ = ["Outcome", "RoutesDesk"]

_SUBSYSTEMS = {"routes": "routes", "vpn": "vpns", "vpns": "vpns"}
_LISTS = {"list_routes": "routes", "list_vpns": "vpns"}
_STAMP_BYTES = 2048
"""What the router may add: the sender's name, in which every byte may be escaped sixfold."""


class Outcome(NamedTuple):
    """``answer`` may be sent once ``book`` (when there is one) is in journal and region."""

    answer: Message | None
    book: RouteBook | None = None


class RoutesDesk:
    """Decides about messages to the route service.

    Args:
        hive: own hive id.
        node_name: full name of the service.
        limits: most entries.
        admin_nodes: names or globs that may change routes besides ``SY.*``.
    """

    def __init__(
        self, hive: str, node_name: str, limits: RouteLimits, admin_nodes: tuple[str, ...] = ()
    ) -> None:
        self.hive = hive
        self.node_name = node_name
        self.limits = limits
        self._admins: list[Callable[[str], bool]] = [
            glob_matcher(name if name == "*" else full_name(name, hive)) for name in admin_nodes
        ]

    def handle(self, message: Message, book: RouteBook, *, src: str, now_ms: int) -> Outcome:
        """Decide about one message; ``src`` is the service's own uuid, ``now_ms`` wall clock for display."""
        meta = message.meta
        if meta.type == verbs.ADMIN:
            return self._admin(message, book, src, now_ms)
        if meta.type != verbs.SYSTEM:
            return Outcome(None)
        if meta.msg == verbs.CONFIG_CHANGED:
            return self._changed(message, book, src, now_ms)
        if meta.msg in (verbs.CONFIG_GET, verbs.CONFIG_SET):
            return self._config(message, book, src, now_ms)
        return Outcome(None)

    def may_change(self, name: str | None) -> bool:
        """Whether the node called ``name`` (as stamped by the router) may change routes."""
        return name is not None and (is_system_name(name) or any(fits(name) for fits in self._admins))

    def not_done(
        self, message: Message, book: RouteBook, *, src: str, error: FluxbeeError, stored: bool
    ) -> Message:
        """The answer when a decided change failed.

        Args:
            message: the request.
            book: what is in force, or will be.
            src: uuid of the service.
            error: what failed.
            stored: False: nothing changed (``PERSIST_FAILED``). True: ``book`` is the change, it is in the
                journal, and it takes effect as soon as the region can be written (``APPLY_FAILED``).
        """
        text = error.message
        if stored:
            text = f"stored as version {book.version}, which takes effect when this is mended: {text}"
        failed = Conflict(text, code="APPLY_FAILED" if stored else "PERSIST_FAILED")
        if message.meta.type == verbs.ADMIN:
            return _admin_answer(message, src, message.meta.action or "", error=failed)
        if message.meta.msg == verbs.CONFIG_CHANGED:
            subsystem = parse_config_changed(message).subsystem
            return self._acknowledge(message, src, subsystem, book.version, failed, failed.code)
        return build_config_response(message, self._refused(failed, True, book), src=src)

    # --- admin actions ---------------------------------------------------------------------------------

    def _admin(self, message: Message, book: RouteBook, src: str, now_ms: int) -> Outcome:
        action = message.meta.action or ""
        try:
            fresh, payload = self._act(action, message, book, now_ms)
        except FluxbeeError as error:
            return Outcome(_admin_answer(message, src, action, error=error))
        shown = {"config_version": (fresh or book).version, **payload}
        answer = _admin_answer(message, src, action, payload=shown)
        if not _travels(answer):
            answer = _admin_answer(message, src, action, error=_too_large(action))
        return Outcome(answer, fresh)

    def _act(
        self, action: str, message: Message, book: RouteBook, now_ms: int
    ) -> tuple[RouteBook | None, dict[str, object]]:
        if action in _LISTS:
            name = _LISTS[action]
            return None, {name: msgspec.to_builtins(getattr(book, name))}
        if action not in MUTATING:
            raise Invalid(f"unknown action {action!r}", code="UNKNOWN_ACTION", field="meta.action")
        if not self.may_change(message.source_l2_name):
            raise Refused(f"{message.source_l2_name} may not change routes")
        value = message.json()
        if not isinstance(value, dict):
            raise Invalid("the payload is not an object", field="payload")
        limits = self.limits
        if action == "add_route":
            fresh, route = books.add_route(book, value, limits, now_ms)
            return fresh, {"route": msgspec.to_builtins(route)}
        if action == "add_vpn":
            fresh, rule = books.add_vpn(book, value, limits, now_ms)
            return fresh, {"vpn": msgspec.to_builtins(rule)}
        if action == "delete_route":
            return books.delete_route(book, value.get("prefix"), limits, now_ms), {}
        return books.delete_vpn(book, value.get("pattern"), limits, now_ms), {}

    # --- CONFIG_CHANGED --------------------------------------------------------------------------------

    def _changed(self, message: Message, book: RouteBook, src: str, now_ms: int) -> Outcome:
        try:
            change = parse_config_changed(message)
        except Invalid as error:
            return Outcome(self._acknowledge(message, src, "unknown", 0, error, "INVALID_PAYLOAD"))
        name = _SUBSYSTEMS.get(change.subsystem)
        if name is None:
            return Outcome(None)  # another service's subsystem
        config = change.config
        wanted = config.get(name) if isinstance(config, dict) else config
        try:
            if wanted is None:
                raise Invalid(f"config.{name} is missing", field=f"config.{name}")
            lists = {name: wanted}
            fresh = books.replace(
                book,
                **lists,
                version=change.version,
                limits=self.limits,
                now_ms=now_ms,
            )
        except FluxbeeError as error:
            code = "INVALID_CONFIG" if isinstance(error, Invalid) else error.code
            return Outcome(self._acknowledge(message, src, change.subsystem, book.version, error, code))
        answer = self._acknowledge(message, src, change.subsystem, fresh.version)
        return Outcome(answer, None if fresh is book else fresh)

    def _acknowledge(
        self,
        message: Message,
        src: str,
        subsystem: str,
        version: int,
        error: FluxbeeError | None = None,
        code: str = "",
    ) -> Message:
        payload: dict[str, object] = {
            "subsystem": subsystem,
            "version": version,
            "status": "ok" if error is None else "error",
            "hive": self.hive,
        }
        if error is not None:
            payload |= {"error_code": code, "error_detail": error.message}
        return system_message(
            src=src,
            dst=message.routing.src,
            verb=verbs.CONFIG_RESPONSE,
            payload=payload,
            trace_id=message.routing.trace_id,
        )

    # --- CONFIG_GET / CONFIG_SET -------------------------------------------------------------------------

    def _config(self, message: Message, book: RouteBook, src: str, now_ms: int) -> Outcome:
        setting = message.meta.msg == verbs.CONFIG_SET
        fresh: RouteBook | None = None
        try:
            request = parse_config_request(message)
            if request.node_name not in (self.node_name, self.node_name.partition("@")[0]):
                raise Invalid(f"this is {self.node_name}, not {request.node_name}", field="node_name")
            if isinstance(request, ConfigSet):
                fresh = self._set(request, message, book, now_ms)
            response = self._in_force(fresh or book)
        except FluxbeeError as error:
            response = self._refused(error, setting, book)
            fresh = None
        answer = build_config_response(message, response, src=src)
        if not _travels(answer):
            answer = build_config_response(message, self._in_force(fresh or book, shown=False), src=src)
        return Outcome(answer, None if fresh is book else fresh)

    def _set(self, request: ConfigSet, message: Message, book: RouteBook, now_ms: int) -> RouteBook:
        if not self.may_change(message.source_l2_name):
            raise Refused(f"{message.source_l2_name} may not change routes")
        if request.apply_mode != APPLY_MODE_REPLACE:
            raise Invalid(
                f"apply mode {request.apply_mode!r} is not supported",
                code="UNSUPPORTED_APPLY_MODE",
                field="apply_mode",
            )
        unknown = sorted(set(request.config) - {"routes", "vpns"})
        if unknown:
            raise Invalid(f"config.{unknown[0]}: unknown key; routes and vpns exist", field="config")
        return books.replace(
            book,
            routes=request.config.get("routes"),
            vpns=request.config.get("vpns"),
            version=request.config_version,
            limits=self.limits,
            now_ms=now_ms,
        )

    def _in_force(self, book: RouteBook, *, shown: bool = True) -> ConfigResponse:
        """What is in force; the lists are left out when they do not fit into a frame."""
        lists = {"routes": msgspec.to_builtins(book.routes), "vpns": msgspec.to_builtins(book.vpns)}
        notes: list[Json] = ["config_version 0 means one more than now"]
        if not shown:
            notes.append("effective_config is too large for a message: ask list_routes and list_vpns")
        return ConfigResponse(
            ok=True,
            node_name=self.node_name,
            state="configured" if book.routes or book.vpns else "empty",
            schema_version=1,
            config_version=book.version,
            effective_config=lists if shown else None,
            contract={
                "supports": [verbs.CONFIG_GET, verbs.CONFIG_SET],
                "target": verbs.NODE_CONTROL_TARGET,
                "schema_version": 1,
                "apply_modes": [APPLY_MODE_REPLACE],
                "config_schema": "sy_config_routes_v1",
                "required_fields": [],
                "optional_fields": ["routes", "vpns"],
                "secrets": [],
                "examples": [],
                "notes": notes,
            },
        )

    def _refused(self, error: FluxbeeError, setting: bool, book: RouteBook) -> ConfigResponse:
        code = error.code
        if type(error) is Invalid and code in (Invalid.code, "invalid_config"):
            code = "INVALID_CONFIG_SET" if setting else "INVALID_CONFIG_GET"
        return ConfigResponse(
            ok=False,
            node_name=self.node_name,
            state="error",
            schema_version=1,
            config_version=book.version,
            error=ConfigFault(code=code, detail=error.message),
        )


def _travels(answer: Message) -> bool:
    """Whether ``answer`` fits into a frame, also after the router stamped it."""
    return len(encode_message(answer)) <= MAX_FRAME_BYTES - _STAMP_BYTES


def _too_large(action: str) -> FluxbeeError:
    return Conflict(
        f"the answer to {action} does not fit into a message of {MAX_FRAME_BYTES} bytes;"
        " sy-config-routes.yaml has the whole document",
        code="RESPONSE_TOO_LARGE",
    )


def _admin_answer(
    message: Message,
    src: str,
    action: str,
    payload: dict[str, object] | None = None,
    error: FluxbeeError | None = None,
) -> Message:
    body: dict[str, object] = {
        "status": "ok" if error is None else "error",
        "action": action,
        "payload": payload,
    }
    if error is not None:
        code = "NOT_FOUND" if isinstance(error, NotFound) else error.code
        body |= {"error_code": code, "error_detail": error.message}
    return build_message(
        src=src,
        dst=message.routing.src,
        payload=body,
        meta=Meta(type=verbs.ADMIN, action=action),
        trace_id=message.routing.trace_id,
    )
