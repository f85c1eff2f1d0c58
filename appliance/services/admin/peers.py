"""How SY.admin asks others: admin messages, system verbs, announcements of changed configuration.

Every question has a deadline. A peer in this process may also be asked by hand, for questions and answers
that do not fit into a frame; whoever binds the parts says which ones (:attr:`Peers.direct`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
import trio

from appliance.sdk import Node
from appliance.wire import verbs
from appliance.wire.actions import classify_admin_action, classify_system_message
from appliance.wire.depth import MAX_DEPTH, depth_exceeds
from appliance.wire.envelope import Message, Meta, build_message, raw_json, system_message
from appliance.wire.errors import FluxbeeError, Invalid, Unavailable
from appliance.wire.frames import FrameTooLarge

__all__ = ["RESPONSE_TOO_LARGE", "ConfigAck", "Direct", "Peers"]

Direct = Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, object]]]
"""Answers an admin action with its payload, as the service's message would."""

RESPONSE_TOO_LARGE = "RESPONSE_TOO_LARGE"
"""Code of an answer that says that the real one does not fit into a frame."""

MAX_NESTING = MAX_DEPTH - 8
"""Deepest nesting of what is passed on: the router takes 128, and services wrap what they got once more."""

CONNECT_PATIENCE_S = 2.0
"""A router that restarts is back within a second; nobody should wait 30 s for one that is down."""


class ConfigAck(msgspec.Struct, frozen=True):
    """What the owner of a subsystem answers to CONFIG_CHANGED (``spec/node-protocol.md §5.3``)."""

    status: str = ""
    version: int = 0
    error_code: str | None = None
    error_detail: str | None = None


class _Code(msgspec.Struct, frozen=True):
    error_code: object = None


class Peers:
    """Asks with SY.admin's node.

    Attributes:
        node: SY.admin's connection, while it serves.
        direct: services of this process by full name.
    """

    def __init__(self) -> None:
        self.node: Node | None = None
        self.direct: dict[str, Direct] = {}

    @property
    def last_hop(self) -> str:
        """The router that a refusal comes from."""
        return self.node.router_name if self.node is not None else ""

    async def connected(self) -> Node:
        """The node, once it is connected.

        Raises:
            Unavailable: it is not within two seconds.
        """
        node = self.node
        if node is None:
            raise Unavailable("SY.admin is not connected to the router")
        if not node.is_connected:
            try:
                await node.wait_connected(CONNECT_PATIENCE_S)
            except TimeoutError as error:
                raise Unavailable("SY.admin is not connected to the router") from error
        return node

    async def ask(self, message: Message, timeout_s: float, *, reply_verb: str | None = None) -> bytes:
        """Send and wait; the payload of the answer.

        Raises:
            Unreachable: nobody answered (``TIMEOUT``), or the router's reason.
            Unavailable: no router.
            FrameTooLarge: the question does not fit.
            Invalid: it is nested too deeply.
        """
        _check_nesting(message)
        node = await self.connected()
        answer = await node.request(message, timeout_s=timeout_s, reply_verbs=reply_verb)
        return bytes(answer.payload)

    async def admin(self, dst: str, action: str, payload: Mapping[str, object], timeout_s: float) -> bytes:
        """Ask a service for an admin action (``node-protocol §5.7``, third form); errors as :meth:`ask`."""
        meta = Meta(type=verbs.ADMIN, action=action, action_class=classify_admin_action(action))
        message = build_message(src=self._uuid, dst=dst, payload=dict(payload), meta=meta)
        return await self._ask_or_fetch(message, action, payload, timeout_s)

    async def _ask_or_fetch(
        self,
        message: Message,
        action: str,
        payload: Mapping[str, object],
        timeout_s: float,
        *,
        reply_verb: str | None = None,
    ) -> bytes:
        """Ask by message, and by hand where question or answer do not fit into one."""
        direct = self.direct.get(message.routing.dst or "")
        try:
            answer = await self.ask(message, timeout_s, reply_verb=reply_verb)
        except FrameTooLarge:
            if direct is None:
                raise
            return await self._by_hand(direct, action, payload, timeout_s)
        if direct is not None and len(answer) < 4096 and _code(answer) == RESPONSE_TOO_LARGE:
            return await self._by_hand(direct, action, payload, timeout_s)
        return answer

    async def _by_hand(
        self, direct: Direct, action: str, payload: Mapping[str, object], timeout_s: float
    ) -> bytes:
        with trio.move_on_after(timeout_s):
            return bytes(raw_json(dict(await direct(action, payload))))
        raise Unavailable(f"no reply to {action} within {timeout_s:g} s", code="TIMEOUT")

    async def system(
        self, dst: str, verb: str, payload: Mapping[str, object], timeout_s: float, *, action: str = ""
    ) -> bytes:
        """Ask with a system verb, which is ``action`` when it is asked by hand; errors as :meth:`ask`."""
        meta = Meta(type=verbs.SYSTEM, msg=verb, action_class=classify_system_message(verb))
        message = build_message(src=self._uuid, dst=dst, payload=dict(payload), meta=meta)
        answer = verbs.INVENTORY_RESPONSE if verb == verbs.INVENTORY_REQUEST else verbs.response_verb(verb)
        return await self._ask_or_fetch(message, action or verb, payload, timeout_s, reply_verb=answer)

    def config_changed(self, subsystem: str, version: int, config: object) -> Message:
        """CONFIG_CHANGED for every node of this hive; it never leaves the hive (``node-protocol §5.3``)."""
        return system_message(
            src=self._uuid,
            dst=verbs.BROADCAST,
            verb=verbs.CONFIG_CHANGED,
            payload={
                "subsystem": subsystem,
                "action": None,
                "auto_apply": None,
                "version": version,
                "config": config,
            },
            scope=verbs.SCOPE_GLOBAL,
        )

    async def announce_change(
        self, subsystem: str, version: int, config: object, timeout_s: float
    ) -> ConfigAck:
        """Tell everybody, and wait until the owner has taken it over; errors as :meth:`ask`."""
        message = self.config_changed(subsystem, version, config)
        answer = await self.ask(message, timeout_s, reply_verb=verbs.CONFIG_RESPONSE)
        try:
            return msgspec.json.decode(answer, type=ConfigAck)
        except msgspec.DecodeError as error:
            raise Unavailable(f"the acknowledgement is not one: {error}") from error

    async def tell(self, message: Message) -> None:
        """Send and do not wait for an answer; ``Invalid`` when it is nested too deeply."""
        _check_nesting(message)
        node = await self.connected()
        await node.send(message)

    @property
    def _uuid(self) -> str:
        return self.node.uuid if self.node is not None else ""


def _check_nesting(message: Message) -> None:
    """Refuse what the router would drop without a word, and the caller would wait for in vain."""
    context = message.meta.context
    if depth_exceeds(bytes(message.payload), MAX_NESTING) or (
        context is not None and depth_exceeds(bytes(context), MAX_NESTING)
    ):
        raise Invalid(f"nested deeper than {MAX_NESTING} levels", field="body")


def _code(answer: bytes) -> object:
    try:
        return msgspec.json.decode(answer, type=_Code).error_code
    except (msgspec.DecodeError, FluxbeeError):
        return None
