"""A whole node around one function.

:func:`run_node` connects, hands every message to the handler, sends what it returns back to the sender, and
stops cleanly on SIGTERM. A handler that fails or takes too long costs its message and nothing else: the
sender gets an error payload (``spec/node-protocol.md §6.6``). System messages go to ``on_system`` or nowhere,
so that a plain handler never answers a flood; router-made errors are counted and logged.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import anyio
import msgspec
from anyio.abc import TaskStatus

from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.envelope import Message, raw_json
from appliance.wire.errors import FluxbeeError, Invalid

from .config import NodeConfig
from .control import NodeControl
from .managed import managed_node_name
from .node import Node, connect
from .replies import deserves_answer, error_payload, payload_of_error, text_payload
from .requests import is_router_error, router_error

__all__ = ["Handler", "RunStatistics", "run_node"]

log = get_logger("sdk")

Handler = Callable[[Message, Node], Awaitable[object]]
"""Gets a message and the node; returns a payload, a text, a :class:`Message`, or ``None`` for no reply."""

CONCURRENCY = 4
HANDLER_TIMEOUT_S = 60.0
DRAIN_S = 10.0


class RunStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the messages of one run.

    Attributes:
        handled: handlers that returned.
        failed: handlers that raised.
        timed_out: handlers stopped at their deadline.
        ignored: system messages that nobody asked for.
        router_errors: messages of this node that the router could not deliver.
        unsent: replies that could not be queued.
    """

    handled: int = 0
    failed: int = 0
    timed_out: int = 0
    ignored: int = 0
    router_errors: int = 0
    unsent: int = 0


class _Runner:
    def __init__(
        self, node: Node, handler: Handler, on_system: Handler | None, handler_timeout_s: float
    ) -> None:
        self.node = node
        self._handler = handler
        self._on_system = on_system
        self._timeout_s = handler_timeout_s
        self.handled = self.failed = self.timed_out = 0
        self.ignored = self.router_errors = self.unsent = 0

    def statistics(self) -> RunStatistics:
        return RunStatistics(**{name: getattr(self, name) for name in RunStatistics.__struct_fields__})

    async def work(self) -> None:
        """One worker: messages one after another, until the receiver is closed and empty."""
        async for message in self.node.receiver:
            handler = self._choose(message)
            if handler is not None:
                await self._send(message, await self._call(handler, message))

    def _choose(self, message: Message) -> Handler | None:
        if is_router_error(message):
            self.router_errors += 1
            reason = router_error(message)
            log.warning(
                "message_undelivered",
                code="MESSAGE_UNDELIVERED",
                node=self.node.full_name,
                reason=reason.message,
            )
            return None
        if message.meta.type != verbs.SYSTEM:
            return self._handler
        if self._on_system is None:
            self.ignored += 1
        return self._on_system

    async def _call(self, handler: Handler, message: Message) -> object:
        """What the handler returned, or the error payload that stands for its failure."""
        try:
            with anyio.move_on_after(self._timeout_s) as deadline:
                result = await handler(message, self.node)
                self.handled += 1
                return result
        except Exception as error:
            self.failed += 1
            log.exception("handler_failed", error, code="HANDLER_FAILED", node=self.node.full_name)
            failure = payload_of_error(error)
        else:
            assert deadline.cancelled_caught
            self.timed_out += 1
            log.error(
                "handler_timed_out",
                code="HANDLER_TIMED_OUT",
                node=self.node.full_name,
                after_s=self._timeout_s,
            )
            failure = error_payload(
                "HANDLER_TIMEOUT", f"no answer within {self._timeout_s:g} s", retryable=True
            )
        return failure if deserves_answer(message) else None

    async def _send(self, message: Message, result: object) -> None:
        if result is None:
            return
        try:
            try:
                await self._send_result(message, result)
            except Invalid as error:
                self.unsent += 1
                log.error("reply_invalid", code="REPLY_INVALID", node=self.node.full_name, reason=str(error))
                if deserves_answer(message):
                    await self.node.reply(message, payload_of_error(error))
        except FluxbeeError as error:
            self.unsent += 1
            log.warning("reply_lost", code="REPLY_LOST", node=self.node.full_name, reason=str(error))

    async def _send_result(self, message: Message, result: object) -> None:
        if isinstance(result, Message):
            await self.node.send(result)
            return
        try:
            payload = raw_json(text_payload(result) if isinstance(result, str) else result)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise Invalid(f"the handler's result is no JSON: {error}", code="INVALID_REPLY") from error
        await self.node.reply(message, payload)


async def _watch_signals(
    stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("stopping", signal=number.name)
            stop.set()


async def run_node(
    config: NodeConfig | str,
    handler: Handler,
    *,
    control: NodeControl | None = None,
    on_system: Handler | None = None,
    concurrency: int = CONCURRENCY,
    handler_timeout_s: float = HANDLER_TIMEOUT_S,
    drain_s: float = DRAIN_S,
    handle_signals: bool = True,
    stop: anyio.Event | None = None,
    task_status: TaskStatus[Node] = anyio.TASK_STATUS_IGNORED,
) -> RunStatistics:
    """Run a node until SIGTERM, SIGINT or ``stop``.

    Args:
        config: how to connect, or just a name; ``FLUXBEE_NODE_NAME`` overrides the name.
        handler: called for every message that is not a system message.
        control: answers CONFIG_GET and CONFIG_SET.
        on_system: called for system messages that the SDK does not answer; without it they are dropped.
        concurrency: messages handled at once; the order of messages is kept only with 1.
        handler_timeout_s: after it a handler is cancelled and the sender gets ``HANDLER_TIMEOUT``.
        drain_s: how long messages already received may still be worked on after the stop.
        handle_signals: needs the main thread; ``False`` leaves signals to the caller.
        stop: set it to end the node.
        task_status: started with the :class:`.node.Node` when it is connected.

    Returns:
        What became of the messages.

    Raises:
        Unreachable, Refused, Damaged: as :func:`.node.connect`.
    """
    settings = NodeConfig(name=config) if isinstance(config, str) else config
    settings = msgspec.structs.replace(settings, name=managed_node_name(settings.name))
    stop = stop or anyio.Event()
    async with connect(settings, control=control) as node:
        runner = _Runner(node, handler, on_system, handler_timeout_s)
        async with anyio.create_task_group() as around:
            if handle_signals:
                await around.start(_watch_signals, stop)
            async with anyio.create_task_group() as workers:
                for _ in range(concurrency):
                    workers.start_soon(runner.work)
                task_status.started(node)
                await stop.wait()
                node.receiver.close()
                workers.cancel_scope.deadline = anyio.current_time() + drain_s
            around.cancel_scope.cancel()
        log.info("node_stopped", node=node.full_name, **msgspec.structs.asdict(runner.statistics()))
    return runner.statistics()
