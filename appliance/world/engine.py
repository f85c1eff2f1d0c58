"""The world engine: events in, a durable and readable world out (``spec/flux-state.md §1–3``, ``design.md §5``).

One state journal holds everything that happened; the region ``world`` is its view; an overlay of committed
events that are not projected yet lies between them, so that every read sees every acknowledged event. A
batch is one atomic group of the journal. The decisions are in the sans-IO modules beside this one; here is
the trio shell: it waits for the disk, keeps the order of commits and runs the projection.

One engine per process and place; all methods are called from its trio loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import trio

from appliance.store.generations import GenerationPage
from appliance.system.clock import Clock
from appliance.system.disk import Disk
from appliance.system.paths import Paths

from .types import (
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

__all__ = ["Listing", "WorldEngine"]


class Listing:
    """Entities in order of id, page by page; made by ``WorldEngine.listing``.

    Every entity that exists from the first page to the last comes exactly once; one page is a consistent cut.
    """

    def page(self, limit: int = 500) -> list[bytes]:
        """The next entities as JSON texts, at most ``limit``; empty at the end. Never waits.

        Give other tasks a turn between pages (``trio.lowlevel.checkpoint``).
        """
        raise NotImplementedError


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
    ) -> None:
        raise NotImplementedError

    @classmethod
    def at(cls, paths: Paths, options: WorldOptions, *, page: GenerationPage | None = None) -> Self:
        """The engine of a hive: ``<lib>/journals/world`` and ``<lib>/regions``."""
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open, catch up, serve until cancelled; started means that reads and writes are answered.

        On the way out what was accepted is synced and projected, so that the next start is fast.

        Raises:
            Conflict: another process has the journal or the region.
            Unavailable: the disk cannot be read.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        """Run in a nursery of its own (tests and tools)."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def publish_batch(self, body: bytes, caller: Caller) -> BatchReport:
        """EP-05: ``{"events":[…]}``. What is wrong with one event is in its result; the accepted ones are one
        atomic group: all durable and visible when this returns, or none.

        Raises:
            Invalid: malformed JSON, no ``events`` array, no or more than 100 000 events.
            Busy, Unavailable: as ``publish``; nothing was stored.
        """
        raise NotImplementedError

    async def delete(self, entity_id: str, caller: Caller) -> Receipt:
        """EP-40: append a tombstone, whether the entity exists or not; raises as ``publish``."""
        raise NotImplementedError

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
        raise NotImplementedError

    # -- reading -----------------------------------------------------------------------------------------

    def entity(self, entity_id: str) -> bytes | None:
        """EP-35: JSON text of an entity, or ``None``. Never waits.

        Raises:
            Unavailable: not ready yet.
        """
        raise NotImplementedError

    def listing(
        self, *, prefix: str | None = None, namespace: str | None = None, after: str | None = None
    ) -> Listing:
        """EP-30: entities in order of id; both filters given mean both hold; ``after`` is exclusive."""
        raise NotImplementedError

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
            Unavailable: the disk cannot be read, or reading took too long.
        """
        raise NotImplementedError

    async def entity_at(
        self, entity_id: str, *, seq: int | None = None, at_ms: int | None = None
    ) -> EntityAt:
        """The entity after event ``seq``, or as of arrival time ``at_ms`` (exactly one of them).

        Raises:
            Invalid: none or both given.
            Busy: more events than one request may walk through.
            Unavailable: as ``history``.
        """
        raise NotImplementedError

    # -- namespaces and administration -------------------------------------------------------------------

    async def create_namespace(self, name: str, *, max_entities: int = 0) -> NewNamespace:
        """EP-50. The caller has checked that auth is on and the admin token.

        Raises:
            Invalid: the name (wire text).
            Conflict: ``Namespace name already exists``.
            Unavailable: the disk failed.
        """
        raise NotImplementedError

    async def rotate_namespace(self, name: str) -> NewNamespace:
        """A new token for a namespace; the old one ends at once. ``NotFound`` when there is none."""
        raise NotImplementedError

    async def delete_namespace(self, name: str) -> None:
        """EP-52: forget name and token; entities stay. ``NotFound`` when there is none."""
        raise NotImplementedError

    def namespace(self, name: str) -> Namespace | None:
        """EP-51."""
        raise NotImplementedError

    def namespaces(self) -> list[Namespace]:
        """All, by name."""
        raise NotImplementedError

    async def entity_count(self, namespace: str) -> int:
        """How many entities exist whose id starts with ``<namespace>/``."""
        raise NotImplementedError

    def known_token(self, token: str) -> Namespace | None:
        """The namespace that ``token`` belongs to, compared in constant time."""
        raise NotImplementedError

    @property
    def config(self) -> AdminConfig:
        """EP-80."""
        raise NotImplementedError

    async def set_config(self, config: AdminConfig) -> None:
        """EP-81: replace the runtime configuration; it takes effect at once and survives restarts.

        Raises:
            Invalid: a body limit of 0 or beyond the hard ceiling; ``field`` names the key.
        """
        raise NotImplementedError

    # -- feed, figures, upkeep ---------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Hand every committed update to ``listener``, in order, before its publisher is answered.

        Returns:
            A call that ends it.
        """
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Caught up: reads and writes are answered."""
        raise NotImplementedError

    @property
    def last_seq(self) -> int:
        """Newest event that is visible to reads."""
        raise NotImplementedError

    def metrics(self) -> WorldMetrics:
        """MX-01 to MX-04, as of now."""
        raise NotImplementedError

    def statistics(self) -> WorldStatistics:
        """Counters since the start."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Return when everything committed so far is in the region."""
        raise NotImplementedError

    async def compact(self) -> int:
        """Write a base image now (retention does it by itself); returns the sequence that it reaches to.

        Raises:
            Conflict: one is being written. Unavailable, Damaged: it could not be written; nothing was lost.
        """
        raise NotImplementedError

    async def backup(self, stream: BinaryIO) -> int:
        """Write a consistent copy of the world (entities, namespaces, configuration) to ``stream``.

        Checksummed and versioned (``appliance.world.backup``). Runs in a worker thread.

        Returns:
            How many entities.
        """
        raise NotImplementedError

    async def restore(self, stream: BinaryIO) -> int:
        """Replace the world by a copy made by ``backup``; all of it or nothing. History starts anew.

        Returns:
            How many entities.

        Raises:
            Damaged: the copy fails its check; nothing changed.
            Invalid: not a copy, or of a newer version.
            Busy: another restore or image is under way.
        """
        raise NotImplementedError
