"""Changes of configuration that others must hear of: routes, VPN rules, the storage root.

After a route was added or deleted the whole table of that hive is announced on that hive, and nowhere else: a
CONFIG_CHANGED never crosses hives (``spec/node-protocol.md §5.3``), and a remote hive's route service has
announced its change by its region. Versions follow ``spec/admin-api.md §A.10, §B.4``.
"""

from __future__ import annotations

import msgspec

from appliance.system.log import get_logger
from appliance.wire.admin.outcome import AdminOutcome, failure
from appliance.wire.errors import Conflict, FluxbeeError

from .counters import VersionCounters
from .fold import fold
from .peers import ConfigAck, Peers
from .plan import Plan
from .planner import Planner
from .statistics import Counts

__all__ = ["RouteChanges", "change_storage"]

log = get_logger("admin")

_TABLES = {"routes": ("routes", "list_routes"), "vpns": ("vpn", "list_vpns")}
"""Key of a table: its subsystem, and the action that lists it."""

_TABLE_OF = {"add_route": "routes", "delete_route": "routes", "add_vpn": "vpns", "delete_vpn": "vpns"}


class _Table(msgspec.Struct, frozen=True):
    config_version: int
    routes: msgspec.Raw = msgspec.Raw(b"[]")
    vpns: msgspec.Raw = msgspec.Raw(b"[]")


class _Listing(msgspec.Struct, frozen=True):
    status: str
    payload: _Table | None = None


class RouteChanges:
    """Route and VPN tables; callers hold the turn of the table."""

    def __init__(self, peers: Peers, counters: VersionCounters, counts: Counts, planner: Planner) -> None:
        self._peers = peers
        self._counters = counters
        self._counts = counts
        self._hive = planner.hive
        self._patience_s = float(planner.timeouts.broadcast_s)

    async def change(self, plan: Plan) -> AdminOutcome:
        """Add or delete one entry, then announce the table."""
        answer = await self._peers.admin(plan.dst, plan.verb, plan.payload, plan.timeout_s)
        outcome = fold(plan.action, answer)
        if outcome.status != "ok" or plan.target != self._hive:
            return outcome
        try:
            await self._announce(plan.dst, _TABLE_OF[plan.action])
        except FluxbeeError as error:
            self._counts.broadcast_failures += 1
            log.warning(
                "config_broadcast_failed",
                code="CONFIG_BROADCAST_FAILED",
                action=plan.action,
                error=error.message,
            )
            text = f"the change is applied, but the broadcast failed: {error.message}"
            return failure(plan.action, "CONFIG_BROADCAST_FAILED", text, payload=outcome.payload)
        return outcome

    async def _announce(self, service: str, key: str) -> None:
        subsystem, _ = _TABLES[key]
        table = await self._read(service, key)
        # The service's own version, unless the counter is above: this repeats the table, it changes nothing.
        version = await self._counters.raise_to("routes", table.config_version)
        await self._tell(subsystem, version, {key: getattr(table, key)})

    async def _read(self, service: str, key: str) -> _Table:
        answer = await self._peers.admin(service, _TABLES[key][1], {}, self._patience_s)
        try:
            listing = msgspec.json.decode(answer, type=_Listing)
        except msgspec.DecodeError as error:
            raise Conflict(f"{service} answered with something else: {error}") from error
        if listing.payload is None:
            raise Conflict(f"{service} does not tell its {key}")
        return listing.payload

    async def _tell(self, subsystem: str, version: int, config: object) -> ConfigAck:
        self._counts.broadcasts += 1
        ack = await self._peers.announce_change(subsystem, version, config, self._patience_s)
        if ack.status != "ok":
            text = f"{ack.error_code or 'the change was refused'}: {ack.error_detail or ''}"
            raise Conflict(text, code=ack.error_code or "CONFIG_BROADCAST_FAILED")
        return ack

    async def replace(self, plan: Plan) -> AdminOutcome:
        """``PUT /config/routes`` and ``/config/vpns``: replace whole tables."""
        tables, requested = plan.payload["tables"], plan.payload["version"]
        assert isinstance(tables, dict)
        assert requested is None or isinstance(requested, int)
        try:
            for key in ("routes", "vpns"):
                if key not in tables:
                    continue
                in_force = (await self._read(plan.dst, key)).config_version
                await self._counters.raise_to("routes", in_force)
                version = await self._counters.take("routes", requested)
                await self._tell(_TABLES[key][0], version, {key: tables[key]})
                requested = None  # the second table takes the number after the first one's
        except FluxbeeError as error:
            known = error.code in ("VERSION_MISMATCH", "INVALID_CONFIG", "INVALID_REQUEST")
            code = error.code if known else "CONFIG_BROADCAST_FAILED"
            self._counts.broadcast_failures += not known
            return failure(plan.action, code, error.message, form="short")
        finally:
            self._counts.counter_bytes_written = self._counters.bytes_written
        return AdminOutcome(http_status=200, status="ok", action=plan.action, form="short")


async def change_storage(peers: Peers, counters: VersionCounters, counts: Counts, plan: Plan) -> AdminOutcome:
    """``PUT /config/storage``: the orchestrator stores the path, then everybody is told."""
    requested = plan.payload["version"]
    assert requested is None or isinstance(requested, int)
    try:
        version = await counters.take("storage", requested)
    except Conflict as error:
        return failure(plan.action, error.code, error.message, form="short")
    counts.counter_bytes_written = counters.bytes_written
    payload = {"path": plan.payload["path"]}
    answer = await peers.admin(plan.dst, plan.verb, payload, plan.timeout_s)
    outcome = fold(plan.action, answer)
    if outcome.status == "ok":
        counts.broadcasts += 1
        try:
            await peers.tell(peers.config_changed("storage", version, payload))
        except FluxbeeError as error:
            counts.broadcast_failures += 1
            log.warning(
                "config_broadcast_failed",
                code="CONFIG_BROADCAST_FAILED",
                action=plan.action,
                error=error.message,
            )
    return outcome
