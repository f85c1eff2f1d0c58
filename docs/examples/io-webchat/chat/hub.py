"""Between the browsers and the hive: what people say goes out as messages, answers find their browser.

An answer belongs to the request with its trace; whatever else arrives in a session's thread, such as a second
answer or a reminder, is shown there too. What no session knows is counted and dropped.
"""

from __future__ import annotations

import time

import msgspec
import trio

from appliance.sdk import (
    ManagedConfig,
    Message,
    Meta,
    Node,
    build_message,
    is_router_error,
    parse_text_payload,
    text_payload,
)
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError, Invalid, Unreachable
from appliance.wire.names import base_name, hive_of

from .sessions import CHANNEL, Session, Sessions
from .settings import Settings

__all__ = ["Hub", "Waiting"]

log = get_logger("io.webchat")


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """How many questions wait for an answer."""

    count: int


class _Fault(msgspec.Struct):
    """An error payload (``spec/node-protocol.md §6.6``)."""

    type: str
    message: str = ""
    code: str = ""


class Hub:
    """One node's sessions.

    Args:
        config: the node's configuration.
        tasks: where questions wait for their answers, whatever becomes of the page that asked.
    """

    def __init__(self, config: ManagedConfig[Settings], tasks: trio.Nursery) -> None:
        self._config = config
        self.tasks = tasks
        self.sessions = Sessions()
        self.node: Node | None = None
        self.unclaimed = 0

    @property
    def settings(self) -> Settings:
        """The configuration of the moment."""
        return self._config.values

    def open(self, secret: str | None) -> Session:
        """The session of a browser that has just come."""
        name = self.node.full_name if self.node is not None else ""
        return self.sessions.open(
            secret, name, limit=self.settings.max_sessions, history=self.settings.history
        )

    async def say(self, session: Session, text: str, message_id: str) -> None:
        """Send what somebody typed, and show the answer when it comes."""
        if session.is_repeated(message_id):
            return
        text = text[: self.settings.max_chars]
        session.add("you", text, _now_ms(), message_id=message_id)
        if session.waiting >= self.settings.max_waiting:
            self._notice(session, "Not sent: too many questions wait for an answer.")
            return
        self._wait(session, +1)
        try:
            await self._ask(session, text, message_id)
        finally:
            self._wait(session, -1)

    async def _ask(self, session: Session, text: str, message_id: str) -> None:
        node = self.node
        assert node is not None, "the door opens after the node is connected"
        question = build_message(
            src=node.uuid,
            dst=self.settings.destination(hive_of(node.full_name)),
            payload=text_payload(text),
            meta=self._meta(session, node, message_id),
        )
        try:
            answer = await node.request(question, timeout_s=self.settings.answer_s)
            await self._show(session, answer, node)
        except Unreachable as error:
            reason = "there was no answer in time" if error.code == "TIMEOUT" else error.message
            self._notice(session, f"Not answered: {reason}.")
        except FluxbeeError as error:
            self._notice(session, f"Not answered: {error.message}.")

    def _meta(self, session: Session, node: Node, message_id: str) -> Meta:
        io = {
            "channel": CHANNEL,
            "entrypoint": {"kind": "node", "id": node.full_name},
            "sender": {"kind": "session", "id": session.conversation},
            "conversation": {"kind": "session", "id": session.conversation, "thread_id": session.thread_id},
            "message": {"id": message_id, "timestamp": _now_ms()},
            "reply_target": {"kind": "node", "address": node.full_name, "params": {}},
        }
        return Meta(
            type="user",
            ich=f"{CHANNEL}://{session.conversation}",
            thread_id=session.thread_id,
            context=msgspec.Raw(msgspec.json.encode({"io": io})),
        )

    async def handle(self, message: Message, node: Node) -> None:
        """What arrives without being the answer to a request."""
        session = None if is_router_error(message) else self.sessions.of_thread(message.meta.thread_id)
        if session is None:
            self.unclaimed += 1
            log.info("message_unclaimed", source=message.source_l2_name, thread_id=message.meta.thread_id)
            return
        await self._show(session, message, node)

    async def _show(self, session: Session, message: Message, node: Node) -> None:
        name = base_name(message.source_l2_name or "")
        try:
            text = await node.read_text(message)
            attached = parse_text_payload(message.payload).attachments
            text += "".join(f"\n[{one.filename_original}]" for one in attached)
        except Invalid:
            fault = _fault_of(message)
            if fault is not None:
                self._notice(session, f"{name} could not answer: {fault}")
                return
            text = bytes(message.payload).decode(errors="replace")
        session.add("node", text, _now_ms(), name=name)

    def _notice(self, session: Session, text: str) -> None:
        session.add("notice", text, _now_ms())

    def _wait(self, session: Session, change: int) -> None:
        session.waiting += change
        session.show(Waiting(session.waiting))


def _fault_of(message: Message) -> str | None:
    try:
        fault = msgspec.json.decode(message.payload, type=_Fault)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return (fault.message or fault.code) if fault.type == "error" else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
