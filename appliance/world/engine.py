"""The world engine: events in, a durable and readable world out (``spec/flux-state.md §1–3``).

One state journal holds everything that happened; the region ``world`` is its view; an overlay of committed
events that are not projected yet lies between them, so that every read sees every acknowledged event. A
batch is one atomic group of the journal. The decisions are in the sans-IO modules beside this one; here is
the face that doors and services use. One engine per process and place; all methods are called from its trio
loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec
import trio

from appliance.store.generations import GenerationPage
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.clock import Clock
from appliance.system.disk import Disk
from appliance.system.paths import Paths
from appliance.wire.errors import FluxbeeError, Invalid

from .committer import WorldCommitter
from .events import Event, decode_batch, decode_event, entity_id_fault
from .intake import error_of
from .keeping import Keeping
from .listing import Listing, common_prefix
from .namespaces import new_id, new_token, token_hash
from .records import CONFIG, NAMESPACE, NAMESPACE_GONE
from .types import (
    INTERNAL,
    MAX_BODY_BYTES,
    AdminConfig,
    BatchReport,
    Caller,
    DeleteReport,
    EntityAt,
    HistoryPage,
    Namespace,
    NewNamespace,
    Receipt,
    WorldMetrics,
    WorldOptions,
    WorldStatistics,
)
from .updates import Listener

__all__ = ["MAX_BODY_BYTES", "Listing", "WorldEngine"]

_COUNT_PAGE = 2000


class WorldEngine:
    """See the module.

    Args:
        journal_dir: of the world journal.
        region_dir: of the environment ``world``.
        options: settings.
        page: where generations are announced.
        clock: for stamps and buckets; the system's by default.
        disk: where the journal is written; the operating system by default.
        inline: write on the loop instead of in a thread (tests).
        reserve: of the disk; events are refused while it is full, deleting goes on.
    """

    def __init__(
        self,
        journal_dir: Path,
        region_dir: Path,
        options: WorldOptions,
        *,
        page: GenerationPage | None = None,
        clock: Clock | None = None,
        disk: Disk | None = None,
        inline: bool = False,
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self._keeping = Keeping(
            journal_dir,
            region_dir,
            options,
            page=page,
            clock=clock,
            disk=disk,
            inline=inline,
            reserve=reserve,
        )
        self._options = options

    @classmethod
    def at(
        cls,
        paths: Paths,
        options: WorldOptions,
        *,
        page: GenerationPage | None = None,
        reserve: Reserve = NO_RESERVE,
    ) -> Self:
        """The engine of a hive: ``<lib>/journals/world`` and ``<lib>/regions``."""
        return cls(paths.journals / "world", paths.regions_disk, options, page=page, reserve=reserve)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open, catch up, serve until cancelled; started means that reads and writes are answered.

        On the way out what was accepted is synced and projected, so that the next start is fast.

        Raises:
            Conflict: another process has the journal or the region.
            Damaged: a row of the region does not decode; the next start builds it anew.
            Unavailable: the disk cannot be read.
        """
        await self._keeping.run(task_status=task_status)

    async def __aenter__(self) -> Self:
        """Run in a nursery of its own (tests and tools)."""
        self._serving = self._serve()
        await self._serving.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._serving.__aexit__(None, None, None)

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        failure: FluxbeeError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self.run)
            except FluxbeeError as error:  # as it is, not in a group
                failure = error
            else:
                yield
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @property
    def _committer(self) -> WorldCommitter:
        self._keeping.check_ready()
        return self._keeping.committer

    # -- writing -----------------------------------------------------------------------------------------

    async def publish(self, body: bytes, caller: Caller) -> Receipt:
        """EP-01: one event, as the bytes of a request. Returns when it is durable and visible to every read.

        The caller enforces the body limit. A known client-supplied ``eventId`` answers as the first time and
        stores nothing (ST-32).

        Raises:
            Invalid: §1.2; the message is the wire text.
            Unauthorized, Refused: 401 and 403 of EP-01.
            RateLimited: HT-40 (429, ``retry_after_s`` 60).
            OverQuota: entity, namespace or world is full (507).
            Busy: the overlay or the journal is full (503 with ``retry_after_s``).
            Unavailable: the disk failed, or the engine is not ready (503).
        """
        return await self._publish_one(decode_event(body), caller)

    async def _publish_one(self, event: Event, caller: Caller, *, essential: bool = False) -> Receipt:
        flight = await self._committer.commit([event], caller, essential=essential)
        if flight.problems:
            raise error_of(flight.problems[0])
        if flight.duplicates:
            event_id, seq, stream = flight.duplicates[0]
            return Receipt(event_id=event_id, stream=stream, seq=seq)
        assert event.eventId is not None
        return Receipt(event_id=event.eventId, stream=event.stream, seq=flight.first)

    async def publish_batch(self, body: bytes, caller: Caller) -> BatchReport:
        """EP-05: ``{"events":[…]}``. What is wrong with one event is in its result; the accepted ones are one
        atomic group: all durable and visible when this returns, or none.

        Raises:
            Invalid: malformed JSON, no ``events`` array, no or more than 100 000 events.
            Busy, Unavailable: as ``publish``; nothing was stored.
        """
        flight = await self._committer.commit(decode_batch(body), caller)
        failed = len(flight.problems)
        return BatchReport(successful=len(flight.results) - failed, failed=failed, results=flight.results)

    async def delete(self, entity_id: str, caller: Caller) -> Receipt:
        """EP-40: append a tombstone, whether the entity exists or not; raises as ``publish``."""
        if fault := entity_id_fault(entity_id):
            raise Invalid(fault, field="entity_id")
        return await self._publish_one(self._tombstone(entity_id), caller, essential=True)

    def _tombstone(self, entity_id: str) -> Event:
        now_ms = max(self._keeping.clock.wall_ms(), 1)
        properties = {"__deleted__": True, "__deleted_at__": now_ms}
        return Event(
            stream="flux.events.deletions",
            source="api",
            timestamp=now_ms,
            key=entity_id if len(entity_id.encode()) <= 512 else None,
            payload={"entity_id": entity_id, "properties": properties},
        )

    async def delete_many(
        self,
        caller: Caller,
        *,
        namespace: str | None = None,
        prefix: str | None = None,
        entity_ids: Sequence[str] | None = None,
    ) -> DeleteReport:
        """EP-45 with exactly one filter: one atomic group of tombstones for those that exist.

        The caller of this method has checked ``"confirm":"all"`` for an empty filter.

        Raises:
            Invalid: none or several filters; more targets than ``world.max_batch_delete`` (wire text).
            Unauthorized, Refused: with auth on, the first target that the caller may not write.
            Busy, Unavailable: as ``publish``.
        """
        if sum(given is not None for given in (namespace, prefix, entity_ids)) != 1:
            raise Invalid("exactly one of namespace, prefix and entity_ids is needed", field="filter")
        if entity_ids is not None:
            wanted = list(dict.fromkeys(entity_ids))
        else:
            wanted = await self._matching(self.listing(prefix=prefix, namespace=namespace))
        if len(wanted) > self._options.max_batch_delete:
            limit = self._options.max_batch_delete
            raise Invalid(
                f"Batch too large: {len(wanted)} entities requested, max is {limit}", field="filter"
            )
        self._check_rights(wanted, caller)
        existing = [one for one in wanted if not entity_id_fault(one) and self.entity(one) is not None]
        if existing:
            tombstones = [self._tombstone(one) for one in existing]
            await self._committer.commit(tombstones, INTERNAL, essential=True)
        return DeleteReport(deleted=len(existing))

    async def _matching(self, listing: Listing) -> list[str]:
        """All ids of a listing; a count too high is found before anything is deleted."""
        found: list[str] = []
        while rows := listing.rows(_COUNT_PAGE):
            found += [one for one, _ in rows]
            await trio.lowlevel.checkpoint()
        return found

    def _check_rights(self, entity_ids: Sequence[str], caller: Caller) -> None:
        if caller.internal or not self._options.auth_enabled:
            return
        registry = self._keeping.state.registry
        owner = registry.owner(caller.token)
        for one in entity_ids:
            if problem := registry.refusal(one, caller, owner):
                raise error_of(problem)

    # -- reading -----------------------------------------------------------------------------------------

    def entity(self, entity_id: str) -> bytes | None:
        """EP-35: JSON text of an entity, or ``None``. Never waits.

        Raises:
            Damaged: the stored row does not decode.
            Unavailable: not ready yet.
        """
        keeping = self._keeping
        keeping.check_ready()
        if entity_id_fault(entity_id):
            return None
        with keeping.view.rows() as rows:
            try:
                return keeping.state.overlay.text(entity_id, rows.text(entity_id)) or None
            except ValueError as error:
                raise keeping.view.damaged(f"entity {entity_id!r}", error) from error

    def listing(
        self, *, prefix: str | None = None, namespace: str | None = None, after: str | None = None
    ) -> Listing:
        """EP-30: entities in order of id; both filters given mean both hold; ``after`` is exclusive."""
        keeping = self._keeping
        keeping.check_ready()
        return Listing(keeping.view, keeping.state.overlay, common_prefix(prefix, namespace), after)

    def _head(self, entity_id: str) -> int:
        keeping = self._keeping
        keeping.check_ready()
        if entity_id_fault(entity_id):
            return 0
        entry = keeping.state.overlay.find(entity_id)
        if entry is not None:
            return entry.head
        with keeping.view.rows() as rows:
            return rows.value(entity_id) >> 1

    async def history(
        self,
        entity_id: str,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        before_seq: int | None = None,
        limit: int = 100,
    ) -> HistoryPage:
        """EP-20: the newest ``limit`` stored events of an entity, newest first.

        Args:
            entity_id: exact.
            since_ms: arrival time, inclusive.
            until_ms: arrival time, exclusive.
            before_seq: only events with a smaller number.
            limit: 1 to 500 (the caller clamps).

        Raises:
            Busy: more events than one request may walk through.
            Unavailable: the disk cannot be read, or reading took too long.
        """
        head = self._head(entity_id)
        keeping = self._keeping
        call = partial(
            keeping.history.events,
            keeping.journal.snapshot(),
            head,
            since_ms=since_ms,
            until_ms=until_ms,
            before_seq=before_seq,
            limit=limit,
        )
        return await keeping.read_past(call)

    async def entity_at(
        self, entity_id: str, *, seq: int | None = None, at_ms: int | None = None
    ) -> EntityAt:
        """The entity after event ``seq``, or as of arrival time ``at_ms`` (exactly one of them).

        Raises:
            Invalid: none or both given.
            Busy: more events than one request may walk through.
            Unavailable: as ``history``.
        """
        if (seq is None) == (at_ms is None):
            raise Invalid("exactly one of seq and at_ms is needed", field="at")
        head = self._head(entity_id)
        keeping = self._keeping
        snapshot = keeping.journal.snapshot()
        call = partial(keeping.history.at, snapshot, entity_id, head, seq=seq, at_ms=at_ms)
        return await keeping.read_past(call)

    # -- namespaces and administration -------------------------------------------------------------------

    async def create_namespace(self, name: str, *, max_entities: int = 0) -> NewNamespace:
        """EP-50. The caller has checked that auth is on and the admin token.

        Raises:
            Invalid: the name (wire text).
            Conflict: ``Namespace name already exists``.
            Unavailable: the disk failed.
        """
        async with self._committer.administering:
            registry = self._keeping.state.registry
            registry.check_new(name)
            taken = {one.namespace_id for one in registry.all()}
            namespace_id = next(one for one in iter(new_id, "") if one not in taken)
            token = new_token()
            namespace = Namespace(
                namespace_id=namespace_id,
                name=name,
                created_at_ms=self._keeping.clock.wall_ms(),
                token_sha256=token_hash(token),
                max_entities=max_entities,
            )
            await self._committer.control(NAMESPACE, msgspec.json.encode(namespace))
        return NewNamespace(namespace_id=namespace_id, name=name, token=token)

    async def rotate_namespace(self, name: str) -> NewNamespace:
        """A new token for a namespace; the old one ends at once. ``NotFound`` when there is none."""
        async with self._committer.administering:
            found = self._keeping.state.registry.require(name)
            token = new_token()
            changed = msgspec.structs.replace(found, token_sha256=token_hash(token))
            await self._committer.control(NAMESPACE, msgspec.json.encode(changed))
        return NewNamespace(namespace_id=found.namespace_id, name=name, token=token)

    async def set_namespace_quota(self, name: str, max_entities: int) -> None:
        """Most entities that a namespace may hold; 0: any. ``NotFound`` when there is none."""
        if max_entities < 0:
            raise Invalid("a quota is not negative", field="max_entities")
        async with self._committer.administering:
            found = self._keeping.state.registry.require(name)
            changed = msgspec.structs.replace(found, max_entities=max_entities)
            await self._committer.control(NAMESPACE, msgspec.json.encode(changed))

    async def delete_namespace(self, name: str) -> None:
        """EP-52: forget name and token; entities stay. ``NotFound`` when there is none."""
        async with self._committer.administering:
            self._keeping.state.registry.require(name)
            await self._committer.control(NAMESPACE_GONE, name.encode())

    def namespace(self, name: str) -> Namespace | None:
        """EP-51."""
        return self._keeping.state.registry.get(name)

    def namespaces(self) -> list[Namespace]:
        """All, by name."""
        return self._keeping.state.registry.all()

    async def entity_count(self, namespace: str) -> int:
        """How many entities exist whose id starts with ``<namespace>/``."""
        return await self._committer.count(namespace)

    def known_token(self, token: str) -> Namespace | None:
        """The namespace that ``token`` belongs to, compared in constant time."""
        return self._keeping.state.registry.owner(token)

    @property
    def config(self) -> AdminConfig:
        """EP-80."""
        return self._keeping.state.config

    async def set_config(self, config: AdminConfig) -> None:
        """EP-81: replace the runtime configuration; it takes effect at once and survives restarts.

        Raises:
            Invalid: a body limit of 0 or beyond the hard ceiling; ``field`` names the key.
        """
        for field in ("body_size_limit_single_bytes", "body_size_limit_batch_bytes"):
            if not 0 < getattr(config, field) <= MAX_BODY_BYTES:
                raise Invalid(f"{field} must be 1 to {MAX_BODY_BYTES}", field=field)
        if config.rate_limit_per_namespace_per_minute < 0:
            name = "rate_limit_per_namespace_per_minute"
            raise Invalid(f"{name} must not be negative", field=name)
        async with self._committer.administering:
            await self._committer.control(CONFIG, msgspec.json.encode(config))

    # -- feed, figures, upkeep ---------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Hand every committed update to ``listener``, in order, before its publisher is answered.

        Returns:
            A call that ends it.
        """
        return self._keeping.listeners.add(listener)

    @property
    def ready(self) -> bool:
        """Caught up: reads and writes are answered."""
        return self._keeping.ready

    @property
    def failure(self) -> FluxbeeError | None:
        """Why events are not stored at the moment; ``None`` when they are."""
        return self._keeping.failure

    @property
    def last_seq(self) -> int:
        """Newest event that is visible to reads."""
        return self._keeping.state.overlay.front_seq

    def metrics(self) -> WorldMetrics:
        """MX-01 to MX-04, as of now."""
        return self._keeping.metrics()

    def statistics(self) -> WorldStatistics:
        """Counters since the start."""
        return self._keeping.statistics()

    async def settle(self) -> None:
        """Return when everything committed so far is in the region; ``Unavailable`` when that fails."""
        await self._keeping.settle()

    async def compact(self) -> int:
        """Write a base image now (retention does it by itself); returns the sequence that it reaches to.

        Raises:
            Conflict: one is being written, or a restore is under way.
            Unavailable, Damaged: it could not be written; nothing was lost.
        """
        return await self._keeping.compact()

    async def backup(self, stream: BinaryIO) -> int:
        """Write a consistent copy of the world (entities, namespaces, configuration) to ``stream``.

        Checksummed and versioned (``appliance.world.image``). Runs in a worker thread.

        Returns:
            How many entities.
        """
        return await self._keeping.backup(stream)

    async def restore(self, stream: BinaryIO) -> int:
        """Replace the world by a copy made by ``backup``; all of it or nothing. History starts anew.

        Listeners are not told: they read the state again.

        Returns:
            How many entities.

        Raises:
            Damaged: the copy fails its check; nothing changed.
            Invalid: not a copy, or of a newer version.
            Conflict: another restore or image is under way.
        """
        return await self._keeping.restore(stream)
