"""The router's tables as regions: who is connected, for other planes and for tools.

The router's own dictionaries are the truth; a failed write is counted and never holds up a HELLO
(``design.md §5``). Afterwards the table is behind until it is written anew from the truth. Rows of an earlier
run are dropped at start: nobody is connected then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from appliance.store.layouts import NODE, NODE_NAME, ROUTER, NodeRow, RouterRow
from appliance.store.region import SLICE_PUTS, Environment
from appliance.store.region_txn import WriteTxn
from appliance.wire.errors import FluxbeeError

from .connection import Connection

__all__ = ["LiveRegions", "LiveStatistics"]

_SLICE: Final = SLICE_PUTS // 2


class LiveStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """``failures`` counts changes that did not reach the region; ``failure`` says why it is behind now."""

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
        self._error: FluxbeeError | None = None
        self._row_of_router = RouterRow("", "", False, 0)
        self._introduced = False

    def begin(self, row: RouterRow) -> None:
        """Drop what an earlier run left and introduce this router.

        Raises:
            Unavailable, Busy: the environment takes no writes; then it is :attr:`behind`.
        """
        self._row_of_router = row
        self._introduced = False
        self.rewrite(())
        if self._error is not None:
            raise self._error

    @property
    def behind(self) -> bool:
        """Whether a write failed, so that the table has to be written anew."""
        return self._error is not None

    def apply(self, changes: list[tuple[str, Connection]]) -> None:
        """Write one turn's changes (``up``, ``down``, ``vpn``) in slices that the loop can afford."""
        for start in range(0, len(changes), _SLICE):
            part = changes[start : start + _SLICE]
            try:
                with self._environment.change("node") as txn:
                    for what, connection in part:
                        if what == "down":
                            self._drop(txn, connection)
                        else:
                            self._put(txn, connection)
                self._writes += len(part)
            except FluxbeeError as error:
                self._failures += len(part)
                self._error = error

    def rewrite(self, connections: Iterable[Connection]) -> None:
        """Write the table anew: ``connections`` are all that are registered. A failure leaves it behind."""
        environment, everybody = self._environment, list(connections)
        try:
            if not self._introduced:
                environment.reset("router")
                with environment.change("router") as txn:
                    ROUTER.put(txn, self._router_uuid, self._row_of_router)
                environment.finish_rebuild("router")
                self._introduced = True
            environment.reset("node")
            for start in range(0, len(everybody), _SLICE):
                with environment.change("node") as txn:
                    for connection in everybody[start : start + _SLICE]:
                        self._put(txn, connection)
            environment.finish_rebuild("node")
        except FluxbeeError as error:
            self._failures += 1
            self._error = error
            return
        self._writes += len(everybody)
        self._error = None

    def _put(self, txn: WriteTxn, connection: Connection) -> None:
        row = NodeRow(
            connection.name,
            self._router_uuid,
            connection.vpn,
            connection.connected_at_ms,
            connection.generation,
        )
        NODE.put(txn, connection.uuid, row)
        NODE_NAME.put(txn, connection.name, (connection.connected_at_ms, connection.uuid))

    @staticmethod
    def _drop(txn: WriteTxn, connection: Connection) -> None:
        row = NODE.get(txn, connection.uuid)
        # A newer connection with this uuid may have written its row already.
        if row is not None and row.link_epoch == connection.generation:
            NODE.delete(txn, connection.uuid)
            NODE_NAME.delete(txn, connection.name, (connection.connected_at_ms, connection.uuid))

    def statistics(self) -> LiveStatistics:
        """A snapshot."""
        failure = None if self._error is None else self._error.message
        return LiveStatistics(writes=self._writes, failures=self._failures, failure=failure)
