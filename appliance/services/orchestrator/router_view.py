"""Which nodes the router sees: asked when somebody wants to know, never polled.

Callers at the same time share one question. One name costs one small question (``ROUTER_EXPLAIN``), all names
as many pages as they need (``ROUTER_NODES``, see ``appliance/router/control.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import trio

from appliance.sdk import Node
from appliance.wire import verbs
from appliance.wire.envelope import system_message
from appliance.wire.errors import FluxbeeError, Unavailable

__all__ = ["RouterView", "SeenNode"]

_TIMEOUT_S = 2.0


class SeenNode(msgspec.Struct, frozen=True):
    """A node that is connected: ``connected_at_ms`` is wall clock."""

    name: str
    uuid: str
    vpn_id: int
    connected_at_ms: int
    serving: bool = True


class _Page(msgspec.Struct):
    nodes: list[SeenNode]
    next: str | None = None


class _Explained(msgspec.Struct):
    node: str | None = None
    status: str = ""


class RouterView:
    """The view through one node's connection.

    Args:
        node: gives the connection; raises ``Unavailable`` without one.
        on_nodes: told every complete view.
    """

    def __init__(
        self, node: Callable[[], Node], on_nodes: Callable[[Mapping[str, SeenNode]], None] | None = None
    ) -> None:
        self._node = node
        self._on_nodes = on_nodes
        self._asking: trio.Event | None = None
        self._answer: dict[str, SeenNode] | FluxbeeError | None = None

    async def nodes(self) -> Mapping[str, SeenNode]:
        """All connected nodes by full name; of standbys of one name, the one that serves.

        Raises:
            Unavailable, Unreachable: the router does not answer.
        """
        if self._asking is not None:
            asking = self._asking
            await asking.wait()
            answer = self._answer
            if isinstance(answer, dict):
                return answer
            # The one who asked failed or was cancelled: ask for oneself.
        self._asking, self._answer = trio.Event(), None
        mine = self._asking
        try:
            answer = await self._pages()
            self._answer = answer
        finally:
            mine.set()
            if self._asking is mine:
                self._asking = None
        if self._on_nodes is not None:
            self._on_nodes(answer)
        return answer

    async def _pages(self) -> dict[str, SeenNode]:
        node = self._node()
        found: dict[str, SeenNode] = {}
        after = ""
        while True:
            question = system_message(
                src=node.uuid, dst=node.router_name, verb=verbs.ROUTER_NODES, payload={"after": after}
            )
            page = (await node.request(question, timeout_s=_TIMEOUT_S)).payload_as(_Page)
            for seen in page.nodes:
                if seen.serving or seen.name not in found:
                    found[seen.name] = seen
            if not page.next:
                return found
            after = page.next

    async def sees(self, name: str) -> bool:
        """Whether a node called ``name`` (full L2 name) is connected here.

        Raises:
            Unavailable, Unreachable: the router does not answer.
        """
        node = self._node()
        if not node.router_name:
            raise Unavailable("the router is not connected")
        question = system_message(
            src=node.uuid, dst=node.router_name, verb=verbs.ROUTER_EXPLAIN, payload={"dst": name}
        )
        answer = await node.request(question, timeout_s=_TIMEOUT_S)
        return answer.payload_as(_Explained).node == name
