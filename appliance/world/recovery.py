"""From what lies on the disk to a world that can be read: region or base image, then the journal's tail.

A region is used when its environment was admitted (same boot, or stopped in order) and it belongs to this
journal; otherwise it is emptied and filled from the newest readable image. Then every later record goes
through the same reducer as when it was new. Damage on the way is counted and told, never hidden. Blocking:
run it in a worker thread before anything else touches journal or region.
"""

from __future__ import annotations

import time

import msgspec

from appliance.store.journal import Journal
from appliance.store.journal_types import Batch
from appliance.system.log import get_logger
from appliance.wire.errors import Damaged

from .image import ImageHead, parse
from .state import WorldState
from .view import REGION, WorldView

__all__ = ["Recovered", "load_image", "recover"]

SLICE_PUTS = 5000
"""Rows per commit while nobody waits for the loop."""

log = get_logger("world")


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """How the start went.

    Args:
        rebuilt: the region was filled anew.
        events: records behind region or image.
        gaps: stretches of the journal that could not be read, with ``gap_records`` records.
        took_ms: how long it took.
    """

    rebuilt: bool
    events: int
    gaps: int
    gap_records: int
    took_ms: int


def recover(journal: Journal, view: WorldView, state: WorldState) -> Recovered:
    """Bring ``view`` and ``state`` to the journal's end.

    Raises:
        Unavailable: the disk cannot be read or written.
    """
    begun = time.monotonic()
    rebuilt = _must_rebuild(journal, view)
    if rebuilt:
        upto = load_image(journal, view, state)
    else:
        state.load_control(*view.load_control())
        upto = view.env.applied_seq(REGION)
        _remember(journal, state, upto)
    state.entities = view.meta.entities
    state.overlay.front_seq = upto
    tail = _Tail(journal, view, state)
    if rebuilt:
        tail.fold(upto + 1)
        view.finish(state.overlay.front_seq)
        state.entities = view.meta.entities
    else:
        tail.replay(upto + 1)
    found = Recovered(
        rebuilt=rebuilt,
        events=tail.events,
        gaps=tail.gaps,
        gap_records=tail.gap_records,
        took_ms=int((time.monotonic() - begun) * 1000),
    )
    log.info("world_recovered", **msgspec.structs.asdict(found), entities=state.entities)
    return found


def _must_rebuild(journal: Journal, view: WorldView) -> bool:
    applied = view.env.applied_seq(REGION)
    other = view.meta.journal_id != journal.journal_id.hex()
    replaced = view.meta.restoring > 0 and journal.base is not None
    replaced = replaced and journal.base is not None and journal.base.upto_seq >= view.meta.restoring
    return REGION in view.env.opened.rebuild or other or applied > journal.last_seq or replaced


def load_image(journal: Journal, view: WorldView, state: WorldState) -> int:
    """Empty the region and fill it from the newest image that reads well; returns how far that reaches."""
    while True:
        view.reset(journal.journal_id.hex())
        info = journal.base
        if info is None:
            return 0
        try:
            for records in journal.read_base():
                head, rows = parse(records)
                if head is not None:
                    _take_head(head, view, state)
                for start in range(0, len(rows), SLICE_PUTS):
                    view.load(rows[start : start + SLICE_PUTS])
        except (Damaged, ValueError) as error:
            log.error("world_image_damaged", code="WORLD_IMAGE_DAMAGED", file=info.file, error=str(error))
            state.clear()
            if isinstance(error, ValueError):
                raise Damaged(f"image {info.file} is not one of a world: {error}") from error
        else:
            return info.upto_seq


def _take_head(head: ImageHead, view: WorldView, state: WorldState) -> None:
    config = msgspec.json.encode(head.config)
    namespaces = [msgspec.json.encode(namespace) for namespace in head.namespaces]
    state.load_control(config, namespaces)
    names = [namespace.name for namespace in head.namespaces]
    view.save_control(config, zip(names, namespaces, strict=True))


def _remember(journal: Journal, state: WorldState, upto: int) -> None:
    """Client ids of the window that the region covers already."""
    first = max(journal.last_seq - state.options.dedup_events + 1, 1)
    if state.options.dedup_events <= 0 or first > upto:
        return
    for batch in journal.batches(first):
        for seq, record in enumerate(batch.records, batch.first_seq):
            if seq > upto:
                return
            state.remember(seq, record)


class _Tail:
    """Replays what comes behind region or image."""

    def __init__(self, journal: Journal, view: WorldView, state: WorldState) -> None:
        self._journal = journal
        self._view = view
        self._state = state
        self.events = self.gaps = self.gap_records = 0

    def fold(self, from_seq: int) -> None:
        """Behind an image: nobody reads yet, so the overlay may fill up before its rows are written.

        The more events a projection has, the more of them share a row, and the more rows share a page.
        """
        limit = self._state.options.overlay_bytes
        for batch in self._journal.batches(from_seq):
            self._note_gap(batch)
            self._state.fold(batch.first_seq, batch.records)
            self.events += len(batch.records)
            if self._state.overlay.size_bytes > limit:
                self.project()
        self.project()

    def replay(self, from_seq: int) -> None:
        """Behind a region that is good: the overlay may hold the rest when requests are answered."""
        limit = self._state.options.overlay_bytes // 2
        for batch in self._journal.batches(from_seq):
            self._note_gap(batch)
            with self._view.rows() as rows:
                replay = self._state.replay
                for seq, record in enumerate(batch.records, batch.first_seq):
                    replay(seq, record, rows)
            self.events += len(batch.records)
            self._state.heads.age(batch.last_seq, batch.last_seq)
            if self._state.overlay.size_bytes > limit:
                self.project()

    def _note_gap(self, batch: Batch) -> None:
        gap = batch.gap
        if gap is None:
            return
        self.gaps += 1
        self.gap_records += gap.count
        self._state.overlay.front_seq = gap.last
        log.error(
            "world_events_lost",
            code="WORLD_EVENTS_LOST",
            first=gap.first,
            last=gap.last,
            reason=str(gap.reason),
        )

    def project(self) -> None:
        """Bring everything into the region; controls first, as the running engine does."""
        state = self._state
        while state.overlay.swap():
            self._view.save_changed(state.changed_control)
            for _ in self._view.project(state.overlay, slice_puts=SLICE_PUTS):
                pass
        self._view.save_changed(state.changed_control)
