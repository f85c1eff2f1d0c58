"""System messages that a node answers without its author: status, echo, configuration.

Status and echo are answered inside the reader, as they only need a place in the queue; configuration goes
through a bounded queue to a task of its own, because it runs the author's callback. What cannot be answered
is counted, never awaited: nothing here may hold up the reader.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.envelope import Message, encode_message, system_message
from appliance.wire.errors import FluxbeeError
from appliance.wire.frames import FrameTooLarge, pack_frame
from appliance.wire.nodeconfig import build_config_response, is_config_get, is_config_set
from appliance.wire.nodestatus import HealthState, build_status_response, parse_health_state

from .control import NodeControl
from .inbox import Inbox

if TYPE_CHECKING:
    from appliance.wire.envelope import Json

__all__ = ["AnswerDesk", "Health", "status_enabled"]

log = get_logger("sdk")

STATUS_ENABLED_ENV = "NODE_STATUS_DEFAULT_HANDLER_ENABLED"
STATUS_HEALTH_ENV = "NODE_STATUS_DEFAULT_HEALTH_STATE"
CONTROL_LIMIT = 16
_OFF = frozenset({"0", "false", "no", "off"})


def status_enabled() -> bool:
    """Whether the environment leaves the default status handler on (``spec/node-protocol.md §1.1``)."""
    return os.environ.get(STATUS_ENABLED_ENV, "").strip().lower() not in _OFF


class Health:
    """What NODE_STATUS_GET is answered with; change it at any time.

    Attributes:
        state: starts as ``$NODE_STATUS_DEFAULT_HEALTH_STATE``, else HEALTHY.
        last_error, extensions: any JSON; left out while ``None``.
    """

    __slots__ = ("extensions", "last_error", "state")

    def __init__(self) -> None:
        self.state: HealthState = parse_health_state(os.environ.get(STATUS_HEALTH_ENV, ""))
        self.last_error: Json = None
        self.extensions: Json = None


class AnswerDesk:
    """The desk of one node.

    Args:
        uuid: the node's uuid, source of every answer.
        answers_status, answers_echo: which of the two to answer.
        control: answers configuration requests; ``None`` leaves them to the author.
        try_put: queues a packed frame if there is room.
        send: queues a message, waiting for room.
    """

    def __init__(
        self,
        uuid: str,
        *,
        answers_status: bool,
        answers_echo: bool,
        control: NodeControl | None,
        try_put: Callable[[bytes], bool],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.health = Health()
        self.control = control
        self.answered = 0
        self.unanswered = 0
        self._uuid = uuid
        self._answers_status = answers_status
        self._answers_echo = answers_echo
        self._try_put = try_put
        self._send = send
        self._configs = Inbox(limit=CONTROL_LIMIT, wide_limit=CONTROL_LIMIT)

    def handle(self, message: Message) -> bool:
        """Deal with a system message; ``False`` when it is the author's."""
        verb = message.meta.msg
        if verb == verbs.NODE_STATUS_GET and self._answers_status:
            self._answer(self._status(message))
        elif verb == verbs.ECHO and self._answers_echo:
            self._answer(self._echo(message))
        elif self.control is not None and (is_config_get(message) or is_config_set(message)):
            if self._configs.is_full:
                self.unanswered += 1
            else:
                self._configs.put(message)
        else:
            return False
        return True

    def _status(self, request: Message) -> Message:
        health = self.health
        return build_status_response(
            request,
            src=self._uuid,
            health=health.state,
            last_error=health.last_error,
            extensions=health.extensions,
        )

    def _echo(self, request: Message) -> Message:
        return system_message(
            src=self._uuid,
            dst=request.routing.src,
            verb=verbs.ECHO_REPLY,
            payload={},
            ttl=max(request.routing.ttl, 1),  # as far back as it came
            trace_id=request.routing.trace_id,
        )

    def _answer(self, message: Message) -> None:
        try:
            frame = pack_frame(encode_message(message))
        except FrameTooLarge:  # an author's extensions may be any size
            self.unanswered += 1
            log.warning("answer_too_large", code="ANSWER_TOO_LARGE", verb=message.meta.msg)
            return
        if self._try_put(frame):
            self.answered += 1
        else:
            self.unanswered += 1

    async def serve_control(self, control: NodeControl, node_name: Callable[[], str]) -> None:
        """Answer configuration requests, one after another, until cancelled."""
        while True:
            message = await self._configs.get()
            name = node_name()
            try:
                response = await control.answer(message, name)
            except Exception as error:  # noqa: BLE001 - the author's callback; logged, answered, node goes on
                response = control.failed(name, error)
            try:
                await self._send(build_config_response(message, response, src=self._uuid))
                self.answered += 1
            except FluxbeeError as error:
                self.unanswered += 1
                log.warning("config_response_lost", code="CONFIG_RESPONSE_LOST", node=name, reason=str(error))
