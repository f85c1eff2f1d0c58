"""An entity's past, read backwards from the journal without an index (EP-20).

Every record names the entity's previous event, and the row the newest one, so the walk costs what the entity
has, not what the world has. Where a record lies is found through a sparse list of group offsets per segment,
made when a segment is first asked for. Blocking; for a worker thread, one call at a time.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from appliance.store.files import storage_error
from appliance.store.journal_format import FLAG_GAP, FLAG_MARK, HEADER_SIZE, Group
from appliance.store.journal_scan import Hole, Scan, Window
from appliance.store.journal_segment import Segment, Snapshot
from appliance.system.disk import Disk
from appliance.wire.errors import Busy, Unavailable

from .entities import entity_json
from .overlay import DELETE, SET
from .records import payload_of, unpack
from .state import act_of
from .types import EntityAt, HistoryPage

__all__ = ["History", "Past"]

MAX_STEPS = 50_000
"""Events that one request may walk through."""
TIME_LIMIT_S = 5.0
OLDER_IN_A_ROW = 64
"""Events older than the window after which the rest is taken to be older too: the box's clock may have
jumped back once, so the first one proves nothing."""
_GROUPS_KEPT = 8


class Past(NamedTuple):
    """One event of the entity's past."""

    seq: int
    at_ms: int
    text: bytes


class _Places:
    """Where groups of one segment begin."""

    __slots__ = ("end", "firsts", "offsets", "scanned")

    def __init__(self) -> None:
        self.firsts = array("Q")
        self.offsets = array("Q")
        self.scanned = HEADER_SIZE
        self.end = 0


class History:
    """See the module.

    Args:
        disk: where the journal is.
        directory: of the journal.
    """

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._places: dict[int, _Places] = {}
        self._groups: OrderedDict[tuple[int, int], Group] = OrderedDict()
        self._records: dict[tuple[int, int], list[bytes]] = {}
        self._busy = threading.Lock()

    # -- what is asked -----------------------------------------------------------------------------------

    def events(
        self,
        snapshot: Snapshot,
        head: int,
        *,
        since_ms: int | None,
        until_ms: int | None,
        before_seq: int | None,
        limit: int,
    ) -> HistoryPage:
        """See ``WorldEngine.history``; ``head`` is the entity's newest event, 0 without one."""
        found: list[bytes] = []
        walk = _Walk(self, snapshot, head)
        older, last = 0, 0
        with self._busy:
            for past in walk:
                if before_seq is not None and past.seq >= before_seq:
                    continue
                if since_ms is not None and past.at_ms < since_ms:
                    older += 1
                    if older >= OLDER_IN_A_ROW:
                        return HistoryPage(events=found, next_before_seq=None, complete=True)
                    continue
                older = 0
                if until_ms is not None and past.at_ms >= until_ms:
                    continue
                if len(found) == limit:
                    return HistoryPage(events=found, next_before_seq=last, complete=True)
                found.append(past.text)
                last = past.seq
        return HistoryPage(events=found, next_before_seq=None, complete=walk.complete)

    def at(
        self, snapshot: Snapshot, entity_id: str, head: int, *, seq: int | None, at_ms: int | None
    ) -> EntityAt:
        """See ``WorldEngine.entity_at``."""
        patches: list[dict[str, object]] = []
        walk = _Walk(self, snapshot, head)
        newest, changed, stamp, begun = 0, 0, 0, False
        with self._busy:
            for past in walk:
                if not newest:
                    if (seq is not None and past.seq > seq) or (at_ms is not None and past.at_ms > at_ms):
                        continue
                    newest = past.seq
                properties = payload_of(past.text).payload.properties
                act = act_of(properties)
                if act == DELETE:
                    begun = True
                    break
                if act == SET:
                    if not changed:
                        changed, stamp = past.seq, past.at_ms
                    patches.append(properties)
        merged: dict[str, object] = {}
        for patch in reversed(patches):
            merged.update(patch)
        text = entity_json(entity_id, merged, stamp, changed) if changed else None
        return EntityAt(entity=text, seq=newest, complete=begun or walk.complete)

    # -- finding records ---------------------------------------------------------------------------------

    def record(self, snapshot: Snapshot, seq: int) -> bytes | None:
        """A record of the journal; ``None`` when retention or damage has taken it.

        Raises:
            Unavailable: the disk cannot be read.
        """
        segment = snapshot.holding(seq)
        if segment is None or seq < segment.first_seq or seq < snapshot.first_seq:
            return None
        try:
            return self._find(segment, seq)
        except FileNotFoundError:  # trimmed meanwhile
            return None
        except OSError as error:
            raise storage_error(error, f"journal {self._directory}") from error

    def _find(self, segment: Segment, seq: int) -> bytes | None:
        places = self._places.get(segment.index)
        if places is None or (segment.end > places.end and places.scanned < segment.end):
            places = self._scan(segment)
        at = bisect_right(places.firsts, seq) - 1
        if at < 0:
            return None
        group = self._group(segment, places.offsets[at])
        if group is None or not group.first_seq <= seq <= group.last_seq or group.flags & FLAG_GAP:
            return None
        records = self._records.get((segment.index, group.offset))
        return None if records is None else records[seq - group.first_seq]

    def _scan(self, segment: Segment) -> _Places:
        places = self._places.setdefault(segment.index, _Places())
        fd = self._disk.open_read(self._directory / segment.name)
        try:
            scan = Scan(Window(self._disk, fd), segment.stem, places.scanned, segment.end)
            while (item := scan.next()) is not None:
                if isinstance(item, Hole):
                    if not item.followed:
                        break
                    continue
                places.firsts.append(item.first_seq)
                places.offsets.append(item.offset)
            places.scanned, places.end = scan.offset, segment.end
        finally:
            self._disk.close(fd)
        if len(self._places) > 256:
            del self._places[next(iter(self._places))]
        return places

    def _group(self, segment: Segment, offset: int) -> Group | None:
        key = (segment.index, offset)
        group = self._groups.get(key)
        if group is not None:
            self._groups.move_to_end(key)
            return group
        fd = self._disk.open_read(self._directory / segment.name)
        try:
            found = Scan(Window(self._disk, fd), segment.stem, offset, segment.end).next()
        finally:
            self._disk.close(fd)
        if not isinstance(found, Group) or found.offset != offset or found.flags & FLAG_MARK:
            return None
        self._groups[key] = found
        if not found.flags & FLAG_GAP:
            try:
                self._records[key] = found.records()
            except ValueError:
                return None
        if len(self._groups) > _GROUPS_KEPT:
            gone, _ = self._groups.popitem(last=False)
            self._records.pop(gone, None)
        return found


class _Walk:
    """Iterator over an entity's events, newest first; ``complete`` says whether the first one was reached."""

    def __init__(self, history: History, snapshot: Snapshot, head: int) -> None:
        self._history = history
        self._snapshot = snapshot
        self._head = head
        self.complete = head == 0

    def __iter__(self) -> Iterator[Past]:
        seq, steps, deadline = self._head, 0, time.monotonic() + TIME_LIMIT_S
        while seq:
            record = self._history.record(self._snapshot, seq)
            if record is None:
                return
            steps += 1
            if steps > MAX_STEPS:
                raise Busy(f"the entity has more than {MAX_STEPS} events behind this one", code="TOO_LONG")
            if not steps & 255 and time.monotonic() > deadline:
                raise Unavailable("reading the history took too long", code="TIMEOUT")
            head, text = unpack(record)
            yield Past(seq, head.at_ms, text)
            if head.previous >= seq:  # a chain only goes back
                return
            seq = head.previous
        self.complete = True
