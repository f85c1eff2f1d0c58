"""A connected node: what its author holds.

``async with connect(NodeConfig(name="AI.echo")) as node`` gives a :class:`Node` with a sender and a receiver,
which may be used from any number of tasks of one event loop. The router is reconnected behind their back; an
error of the *first* connection is the caller's. Runs on trio and on asyncio. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import anyio
import msgspec

from appliance.wire import verbs
from appliance.wire.blob import BlobRef
from appliance.wire.envelope import (
    Json,
    Message,
    Meta,
    build_message,
    decode_message,
    encode_message,
    withdraw,
)
from appliance.wire.errors import FluxbeeError, Invalid, Unreachable
from appliance.wire.frames import pack_frame
from appliance.wire.ids import NodeUuid, new_uuid
from appliance.wire.text import TextPayload

from .answers import AnswerDesk, status_enabled
from .config import NodeConfig, UuidMode, load_uuid
from .connection import Connection
from .content import ContentDesk
from .control import NodeControl
from .ends import SEND_TIMEOUT_S, NodeReceiver, NodeSender
from .inbox import Inbox, closed_error
from .replies import reply
from .requests import Pending, Requests
from .statistics import NodeStatistics

__all__ = ["Node", "connect"]


class Node:
    """One node; made by :func:`connect`.

    Attributes:
        uuid: L1 uuid, the same over reconnects.
        sender, receiver: the two sides.
        health: what NODE_STATUS_GET is answered with.
        content: long texts and attachments, see :class:`.content.ContentDesk`.
        control: the configuration desk given to :func:`connect`.
    """

    def __init__(self, config: NodeConfig, uuid: NodeUuid, control: NodeControl | None) -> None:
        self.config = config
        self.uuid = uuid
        self.control = control
        self.content = ContentDesk(config.blob_root or config.paths.blob)
        self.sender = NodeSender(self)
        self._inbox = Inbox(limit=config.inbound_limit, wide_limit=config.inbound_limit_waiting)
        self.receiver = NodeReceiver(self._inbox)
        self._requests = Requests()
        self._connection = Connection(config, uuid, self._inbox, self._deliver)
        self._answers = AnswerDesk(
            uuid,
            answers_status=status_enabled() if config.answer_status is None else config.answer_status,
            answers_echo=config.answer_echo,
            control=control,
            try_put=self._connection.try_put,
            send=self.send,
        )
        self.health = self._answers.health
        self._undecodable = 0
        self._last_undecodable: str | None = None

    # -- what the router said --------------------------------------------------------------------------------

    @property
    def full_name(self) -> str:
        """L2 name with hive, as announced."""
        announce = self._connection.announce
        return self.config.name if announce is None else announce.name

    @property
    def vpn_id(self) -> int:
        """VPN id as announced; the router may have moved the node since."""
        announce = self._connection.announce
        return 0 if announce is None else announce.vpn_id

    @property
    def router_name(self) -> str:
        """L2 name of the router."""
        announce = self._connection.announce
        return "" if announce is None else announce.router_name

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up now."""
        return self._connection.is_connected

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Return when the connection is up.

        Raises:
            TimeoutError: it was not within ``timeout_s`` seconds.
            Unavailable: the node is closed.
        """
        with anyio.fail_after(timeout_s):
            await self._connection.wait_connected()

    # -- messages --------------------------------------------------------------------------------------------

    async def send(
        self, message: Message, *, timeout_s: float = SEND_TIMEOUT_S, deadline_s: float | None = None
    ) -> None:
        """See :meth:`NodeSender.send`."""
        await self._send(message, timeout_s, deadline_s)

    async def receive(self, timeout_s: float | None = None) -> Message:
        """See :meth:`NodeReceiver.receive`."""
        return await self._inbox.get(timeout_s)

    async def _send(self, message: Message, timeout_s: float, deadline_s: float | None) -> None:
        if self.content.may_offload(message):
            message = await self.content.offload(message)
        frame = pack_frame(encode_message(self._stamped(message)))
        await self._connection.put(frame, timeout_s=timeout_s, deadline_s=deadline_s)

    def _stamped(self, message: Message) -> Message:
        """``message`` with this node as its source; the router rejects any other."""
        if message.routing.src == self.uuid:
            return message
        routing = msgspec.structs.replace(message.routing, src=self.uuid, src_l2_name=None)
        return msgspec.structs.replace(message, routing=routing)

    async def send_text(
        self,
        dst: str | None,
        text: str,
        *,
        attachments: Iterable[BlobRef] = (),
        meta: Meta | None = None,
        extra: Mapping[str, Json] | None = None,
        ttl: int = verbs.DEFAULT_TTL,
    ) -> Message:
        """Send a ``text/v1`` message; a long text travels as a blob.

        Args:
            dst: uuid, L2 name, ``base@*``, ``"broadcast"``, or ``None`` to let policy decide.
            text: the content.
            attachments: references of :meth:`.content.ContentDesk.store`.
            meta: thread, context and so on; default just ``type: user``.
            extra: further keys of the payload; kept on the way, unlike in the reference.
            ttl: hop budget.

        Returns:
            What was sent before off-loading; its ``routing.trace_id`` names it.
        """
        payload = TextPayload(content=text, attachments=tuple(attachments), extra=dict(extra or {}))
        message = build_message(src=self.uuid, dst=dst, payload=payload.to_payload(), meta=meta, ttl=ttl)
        await self.send(message)
        return message

    async def read_text(self, message: Message) -> str:
        """The text of a ``text/v1`` message; waits up to 5 s for a blob that it has overtaken.

        Raises:
            Invalid: no ``text/v1`` payload.
            NotFound: ``BLOB_NOT_FOUND``, the blob did not arrive in time.
        """
        return await self.content.text_of(message)

    async def reply(self, request: Message, payload: object, *, keep_contract: bool = False) -> None:
        """Answer ``request`` with ``payload`` (rules: :func:`.replies.reply`)."""
        await self.send(reply(request, payload, src=self.uuid, keep_contract=keep_contract))

    async def request(
        self, message: Message, *, timeout_s: float = 5.0, reply_verbs: str | Iterable[str] | None = None
    ) -> Message:
        """Send ``message`` and wait for the reply with its trace id.

        Any number of requests may wait at once; whatever is no reply to one of them goes to the receiver.

        Args:
            message: the request; its trace id must not be waiting already.
            timeout_s: for queueing, sending and the reply together.
            reply_verbs: accept only replies with this ``meta.msg``, or one of these.

        Raises:
            Unreachable: the router could not deliver it (``code`` is its reason, such as ``NODE_NOT_FOUND``,
                or ``TTL_EXCEEDED``), or no reply came in time (``TIMEOUT``).
            Conflict: the trace id waits already.
            FrameTooLarge, Unavailable: as in :meth:`NodeSender.send`.
        """
        accepted = (
            None
            if reply_verbs is None
            else frozenset((reply_verbs,) if isinstance(reply_verbs, str) else reply_verbs)
        )
        arrived = anyio.Event()
        pending = Pending(message, accepted, arrived.set)
        self._requests.add(pending)
        self._inbox.widen(True)
        try:
            with anyio.move_on_after(timeout_s):
                await self._send(message, timeout_s, timeout_s)
                await arrived.wait()
        finally:
            self._requests.remove(pending)
            self._inbox.widen(len(self._requests) > 0)
        if pending.result is None:
            raise self._no_reply(message, timeout_s)
        if isinstance(pending.result, FluxbeeError):
            raise pending.result
        return pending.result

    def _no_reply(self, message: Message, timeout_s: float) -> Unreachable:
        asked = message.meta.msg or message.meta.action or message.meta.type
        why = "" if self.is_connected else "; the router is not connected"
        return Unreachable(
            f"no reply to {asked} from {message.routing.dst or 'policy'} within {timeout_s:g} s{why}",
            code="TIMEOUT",
            remedy="Check that the destination answers this message; some services need longer.",
        )

    # -- what comes in ---------------------------------------------------------------------------------------

    def _deliver(self, body: bytes) -> None:
        try:
            message = decode_message(body)
        except Invalid as error:
            self._undecodable += 1
            self._last_undecodable = error.message
            return
        if self._requests.offer(message, self.uuid):
            return
        if message.meta.type != verbs.SYSTEM or not self._answers.handle(message):
            self._inbox.put(message)

    # -- life ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Leave: send what is queued (at most ``close_timeout_s``), then WITHDRAW. Waiting requests fail."""
        self._requests.abort(closed_error())
        self._inbox.close()
        await self._connection.close(pack_frame(encode_message(withdraw(self.uuid))))

    def statistics(self) -> NodeStatistics:
        """Counters since :func:`connect`, and what is held now."""
        connection, traffic, requests = self._connection, self._connection.traffic, self._requests
        return NodeStatistics(
            is_connected=connection.is_connected,
            losses=traffic.losses,
            reconnects=traffic.reconnects,
            last_loss=connection.last_loss,
            frames_in=traffic.frames_in,
            bytes_in=traffic.bytes_in,
            frames_out=traffic.frames_out,
            bytes_out=traffic.bytes_out,
            undecodable=self._undecodable,
            last_undecodable=self._last_undecodable,
            inbound_held=len(self._inbox),
            inbound_dropped=self._inbox.dropped,
            outbound_held=len(connection.outbox),
            outbound_held_bytes=connection.outbox.size_bytes,
            outbound_expired=connection.outbox.expired,
            requests_waiting=len(requests),
            requests_answered=requests.answered,
            requests_refused=requests.refused,
            late_replies=requests.late,
            answered=self._answers.answered,
            unanswered=self._answers.unanswered,
            offloaded=self.content.offloaded,
            offload_failures=self.content.failures,
        )


class _Connecting(AbstractAsyncContextManager[Node]):
    def __init__(self, config: NodeConfig, control: NodeControl | None) -> None:
        self._config = config
        self._control = control
        self._tasks = anyio.create_task_group()
        self._life = anyio.CancelScope(shield=True)

    async def __aenter__(self) -> Node:
        self._node = node = Node(self._config, await self._uuid(), self._control)
        await node._connection.open()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._live, node)
        if node.control is not None:
            self._tasks.start_soon(node._answers.serve_control, node.control, lambda: node.full_name)
        return node

    async def _live(self, node: Node) -> None:
        # Shielded, so that a cancelled body can still send what is queued and WITHDRAW; __aexit__ ends it.
        with self._life:
            await node._connection.run()

    async def _uuid(self) -> NodeUuid:
        config = self._config
        if config.uuid is not None:
            return NodeUuid(config.uuid)
        if config.uuid_mode is UuidMode.EPHEMERAL:
            return new_uuid()
        directory = config.uuid_dir or config.paths.node_uuids
        return await anyio.to_thread.run_sync(load_uuid, directory, config.name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with anyio.CancelScope(shield=True):  # bounded by close_timeout_s
                await self._node.close()
        finally:
            self._life.cancel()
            self._tasks.cancel_scope.cancel()
            try:
                # The body's error is not shown to the group, which would wrap it in an ExceptionGroup.
                await self._tasks.__aexit__(None, None, None)
            finally:
                self._node._connection.abandon()


def connect(
    config: NodeConfig | str, *, control: NodeControl | None = None
) -> AbstractAsyncContextManager[Node]:
    """Connect to the router; leaving the block sends what is queued, withdraws and closes.

    Args:
        config: how to connect; a string is a name with everything else at its default.
        control: answers CONFIG_GET and CONFIG_SET; without it they are ordinary messages.

    Raises:
        Unreachable: no router there (``NO_ROUTER``), or it does not shake hands (``HANDSHAKE_TIMEOUT``,
            ``HANDSHAKE_FAILED``).
        Refused: the router closed instead of announcing (``HANDSHAKE_REFUSED``).
        Damaged: the uuid file holds no uuid.
    """
    return _Connecting(NodeConfig(name=config) if isinstance(config, str) else config, control)
