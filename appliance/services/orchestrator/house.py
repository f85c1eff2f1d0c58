"""What the verbs of SY.orchestrator share: who we are, the node to ask with, locks, the router's view.

A verb handler is ``async (request, source) -> payload``: ``request`` is the payload of the message,
``source`` the sender's L2 name. It may raise any :class:`FluxbeeError`; the dispatcher makes the error
payload of it, with ``details`` beside code and message. While a changing verb runs, its resource is held
(:func:`.verbs_table.resource_of`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import msgspec
import trio

from appliance.sdk import Node
from appliance.settings.own import Orchestrator
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.supervise.supervisor import Supervisor
from appliance.system.clock import Clock
from appliance.system.paths import Paths
from appliance.wire import verbs
from appliance.wire.envelope import Message, Meta, build_message, system_message
from appliance.wire.errors import FluxbeeError, Invalid, Unavailable, Unreachable

from .locks import ResourceLocks
from .router_view import RouterView

__all__ = ["ADMIN_SOURCE", "Handler", "House", "Payload", "Request", "error_payload"]

Request = dict[str, object]
Payload = dict[str, object]
Handler = Callable[[Request, str], Awaitable[Payload]]

ADMIN_SOURCE: Final = "SY.admin@"
"""How the name of a sender begins that speaks for the admin API."""

_FILE_THREADS: Final = 4


class House(msgspec.Struct, kw_only=True):
    """Made once per orchestrator.

    Attributes:
        hive, role: of this box; ``is_mother`` from the role.
        paths, settings, clock: as given.
        supervisor: the processes.
        router: what the router sees.
        locks: by resource.
        files: limiter of threads that touch the disk.
        node, nursery: SY.orchestrator's connection and its tasks, while it serves.
        started_at: monotonic seconds, for the uptime.
        troubles: by node, why its last start was refused before it had a process.
        reserve: of the disk.
    """

    hive: str
    role: Literal["motherbee", "worker"]
    paths: Paths
    settings: Orchestrator
    clock: Clock
    supervisor: Supervisor
    router: RouterView
    started_at: float
    locks: ResourceLocks = msgspec.field(default_factory=ResourceLocks)
    files: trio.CapacityLimiter = msgspec.field(default_factory=lambda: trio.CapacityLimiter(_FILE_THREADS))
    node: Node | None = None
    nursery: trio.Nursery | None = None
    troubles: dict[str, str] = msgspec.field(default_factory=dict)
    reserve: Reserve = NO_RESERVE

    @property
    def is_mother(self) -> bool:
        """Whether this hive is the motherbee."""
        return self.role == "motherbee"

    def connected(self) -> Node:
        """The node to speak with.

        Raises:
            Unavailable: the router is not connected.
        """
        if self.node is None:
            raise Unavailable("the router is not connected", code="SERVICE_FAILED")
        return self.node

    async def sees(self, name: str) -> bool:
        """Whether the router sees the node ``name`` now; the supervisor is told.

        Raises:
            Unavailable, Unreachable: the router does not answer.
        """
        visible = name == self.connected().router_name or await self.router.sees(name)
        self.supervisor.observe_one(name, visible=visible)
        return visible

    async def ask(self, dst: str, verb: str, payload: object, *, timeout_s: float) -> Payload:
        """A system request; the payload of the answer, whatever its ``status``.

        Raises:
            Unreachable: with the words of ``spec/admin-api.md §A.4``, or ``TIMEOUT``.
            Invalid: the answer is not an object.
        """
        node = self.connected()
        message = system_message(src=node.uuid, dst=dst, verb=verb, payload=payload)
        return await self._answer(message_to=dst, message=message, timeout_s=timeout_s)

    async def ask_action(self, dst: str, action: str, payload: object, *, timeout_s: float) -> Payload:
        """An admin action (``type: admin``, no ``msg``); otherwise as :meth:`ask`."""
        node = self.connected()
        meta = Meta(type=verbs.ADMIN, action=action)
        message = build_message(src=node.uuid, dst=dst, payload=payload, meta=meta)
        return await self._answer(message_to=dst, message=message, timeout_s=timeout_s)

    async def _answer(self, *, message_to: str, message: Message, timeout_s: float) -> Payload:
        node = self.connected()
        try:
            answer = await node.request(message, timeout_s=timeout_s)
        except Unreachable as error:
            if error.code == "TIMEOUT":
                raise
            raise Unreachable(
                f"router returned UNREACHABLE for target={message_to} reason={error.code} "
                f"original_dst={message_to} last_hop={node.router_name}",
                code=error.code,
            ) from error
        value = answer.json()
        if not isinstance(value, dict):
            raise Invalid(f"{message_to} answered no object", code="SERVICE_FAILED", field="payload")
        return dict(value)


def error_payload(error: FluxbeeError, extra: Mapping[str, object] | None = None) -> Payload:
    """The inner reply for an error (``spec/admin-api.md §A.4``)."""
    details: Mapping[str, object] = error.details or {}
    return {
        "status": "error",
        "error_code": error.code,
        "message": error.message,
        **details,
        **(extra or {}),
    }
