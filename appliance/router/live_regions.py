"""The router's tables as regions: who is connected, for other planes and for tools.

The router's own dictionaries are the truth; a failed write is counted and never holds up a HELLO
(``design.md §5``). Rows of an earlier run are dropped at start: nobody is connected then.
"""

from __future__ import annotations

import msgspec

from appliance.store.layouts import NODE, NODE_NAME, ROUTER, NodeRow, RouterRow
from appliance.store.region import SLICE_PUTS, Environment
from appliance.wire.errors import FluxbeeError

from .connection import Connection

__all__ = ["LiveRegions", "LiveStatistics"]


class LiveStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """``failures`` is the number of changes that did not reach the region, ``failure`` the last reason."""

    writes: int
    failures: int
    failure: str | None


class LiveRegions:
    """Writes regions ``router`` and ``node`` of environment ``live``."""

    def __init__(self, environment: Environment, router_uuid: str) -> None:
        self._environment = environment
        self._router_uuid = router_uuid
        self._writes = 0
        self._failures = 0
        self._failure: str | None = None

    def begin(self, row: RouterRow) -> None:
        """Drop what an earlier run left and introduce this router.

        Raises:
            Unavailable, Busy: the environment takes no writes.
        """
        environment = self._environment
        for region in ("router", "node"):
            environment.reset(region)
        with environment.change("router") as txn:
            ROUTER.put(txn, self._router_uuid, row)
        for region in ("router", "node"):
            environment.finish_rebuild(region)

    def apply(self, changes: list[tuple[str, Connection]]) -> None:
        """Write one turn's changes (``up``, ``down``, ``vpn``) in slices that the loop can afford."""
        for start in range(0, len(changes), SLICE_PUTS // 2):
            part = changes[start : start + SLICE_PUTS // 2]
            try:
                with self._environment.change("node") as txn:
                    for what, connection in part:
                        key = (connection.connected_at_ms, connection.uuid)
                        if what == "down":
                            row = NODE.get(txn, connection.uuid)
                            # A newer connection with this uuid may have written its row already.
                            if row is not None and row.link_epoch == connection.generation:
                                NODE.delete(txn, connection.uuid)
                                NODE_NAME.delete(txn, connection.name, key)
                        else:
                            NODE.put(txn, connection.uuid, self._row(connection))
                            NODE_NAME.put(txn, connection.name, key)
                self._writes += len(part)
            except FluxbeeError as error:
                self._failures += len(part)
                self._failure = error.message

    def _row(self, connection: Connection) -> NodeRow:
        return NodeRow(
            connection.name,
            self._router_uuid,
            connection.vpn,
            connection.connected_at_ms,
            connection.generation,
        )

    def statistics(self) -> LiveStatistics:
        """A snapshot."""
        return LiveStatistics(writes=self._writes, failures=self._failures, failure=self._failure)
