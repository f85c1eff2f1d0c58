"""What journals and their users exchange: specification, batches, gaps, damage, figures.

Plain frozen records without behaviour beyond validation. Sequence numbers start at 1; a position "0" means
"before the first record". Sizes are bytes, times of the specification seconds, stamps wall-clock ms.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from appliance.wire.errors import Invalid

__all__ = [
    "BaseInfo",
    "Batch",
    "CursorStatistics",
    "Damage",
    "Durability",
    "Gap",
    "GapReason",
    "JournalSpec",
    "JournalState",
    "JournalStatistics",
    "Kind",
    "Level",
    "Overflow",
    "Record",
    "Repair",
]

Kind = Literal["log", "state"]
Durability = Literal["durable", "relaxed"]
Overflow = Literal["busy", "drop"]
Level = Literal["synced", "written"]
"""How far a reader may see: only what is on the medium (never lost, never renumbered), or also what so far
lies in the page cache (gone after a power cut, and its numbers may be given to other records)."""


class GapReason(StrEnum):
    """Why sequence numbers have no records."""

    TRIMMED = "trimmed"
    """Retention removed them before this reader came."""
    DROPPED = "dropped"
    """The owner, or a full queue, left them out."""
    LOST = "lost"
    """They were accepted in the relaxed class and a failed disk took them before they were synced."""
    DAMAGED = "damaged"
    """The bytes on the medium fail their check."""


class JournalState(StrEnum):
    """What a journal can do now."""

    CLOSED = "closed"
    OPEN = "open"
    FAILED = "failed"
    """The disk refused a write or sync; reading works, writing answers ``Unavailable`` until it resumes."""


class JournalSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of journal this is; numbers are defaults of ``design.md §2`` unless said otherwise.

    Args:
        name: for logs, errors and metrics.
        kind: ``log`` trims freely by ``keep_bytes`` and ``keep_age_s``; ``state`` only behind a base image.
        durability: ``durable`` acknowledges after the sync; ``relaxed`` flushes after ``flush_interval_s``
            or ``flush_bytes`` and syncs at most every ``sync_interval_s``.
        segment_bytes: a segment file is closed beyond this; the unit of trimming.
        group_bytes: several appends share a group (and its checksum) up to this; one append is never split.
        max_append_bytes: largest single append.
        max_pending_bytes: accepted and not yet written; beyond it ``overflow`` decides.
        overflow: ``busy`` raises ``Busy``; ``drop`` counts the records and leaves a gap (logs only).
        keep_bytes: of a log on disk, whole segments; None keeps all.
        keep_age_s: of a log, in seconds of *running* time of the journal (a wall clock may be wrong).
        keep_bases: how many base images of a state journal are kept; 2 survives one that rotted.
        zero_ahead_bytes: small durable writes go into zeros written this far ahead: measured on ext4 at
            400 B per sync, 92 µs instead of 137 and 5.1 kB to the device instead of 8.6, because the file's
            length does not change with every sync. 0 turns it off; 1 MiB at most.
        wait_s: how long an append or sync waits for the disk.
        mark_after_s: idle time after which a mark says that everything before it was synced.
        retry_s: first and largest pause between attempts to resume after a disk failure.
    """

    name: str
    kind: Kind = "log"
    durability: Durability = "durable"
    segment_bytes: int = 16 << 20
    group_bytes: int = 256 << 10
    max_append_bytes: int = 16 << 20
    max_pending_bytes: int = 32 << 20
    overflow: Overflow = "busy"
    flush_interval_s: float = 0.25
    flush_bytes: int = 1 << 20
    sync_interval_s: float = 1.0
    keep_bytes: int | None = None
    keep_age_s: float | None = None
    keep_bases: int = 1
    zero_ahead_bytes: int = 256 << 10
    wait_s: float = 30.0
    mark_after_s: float = 1.0
    retry_s: tuple[float, float] = (1.0, 30.0)

    def __post_init__(self) -> None:
        checks = (
            ("name", bool(self.name)),
            ("segment_bytes", 4096 <= self.segment_bytes <= 1 << 30),
            ("group_bytes", 0 < self.group_bytes <= 1 << 28),
            ("max_append_bytes", 0 < self.max_append_bytes <= 256 << 20),
            ("max_pending_bytes", self.max_pending_bytes >= self.max_append_bytes),
            ("overflow", self.overflow == "busy" or self.kind == "log"),
            ("flush_interval_s", self.flush_interval_s > 0),
            ("sync_interval_s", self.sync_interval_s > 0),
            ("keep_bytes", self.keep_bytes is None or (self.kind == "log" and self.keep_bytes > 0)),
            ("keep_age_s", self.keep_age_s is None or (self.kind == "log" and self.keep_age_s > 0)),
            ("keep_bases", self.keep_bases >= 1),
            ("zero_ahead_bytes", 0 <= self.zero_ahead_bytes <= 1 << 20),
            ("wait_s", self.wait_s > 0),
            ("retry_s", 0 < self.retry_s[0] <= self.retry_s[1]),
        )
        for field, good in checks:
            if not good:
                raise Invalid(f"journal {self.name!r}: {field} is out of range", field=field)


class Gap(msgspec.Struct, frozen=True):
    """Sequence numbers ``first`` to ``last`` that have no records, and why."""

    first: int
    last: int
    reason: GapReason

    @property
    def count(self) -> int:
        """How many numbers."""
        return self.last - self.first + 1

    def follows(self, other: Gap) -> bool:
        """Whether this one goes on where ``other`` ends, for the same reason."""
        return self.first == other.last + 1 and self.reason == other.reason


class Record(msgspec.Struct, frozen=True):
    """One record as a follower sees it; ``at_ms`` is for display only (the box's clock may be wrong)."""

    seq: int
    at_ms: int
    data: bytes


class Batch(msgspec.Struct, frozen=True):
    """What one read returned: first the gap, if one comes first, then contiguous records.

    ``records[i]`` has sequence number ``first_seq + i``; the next read starts at ``next_seq``. A batch with
    neither gap nor records means: nothing more for now.
    """

    gap: Gap | None
    first_seq: int
    records: list[bytes]
    at_ms: int

    @property
    def next_seq(self) -> int:
        """Sequence number behind the last record."""
        return self.first_seq + len(self.records)

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record or of the gap; what a cursor acknowledges."""
        return self.next_seq - 1

    def __bool__(self) -> bool:
        return bool(self.records) or self.gap is not None


class Damage(msgspec.Struct, frozen=True):
    """Stored bytes that fail their check: ``size`` bytes at ``offset`` of ``file``."""

    file: str
    offset: int
    size: int
    what: str


class Repair(msgspec.Struct, frozen=True):
    """A torn tail that was cut at open: unsynced bytes of a crash, kept in ``kept_as`` when that worked."""

    file: str
    offset: int
    size: int
    kept_as: str | None


class BaseInfo(msgspec.Struct, frozen=True):
    """A base image: the state after record ``upto_seq``, as ``count`` records."""

    file: str
    upto_seq: int
    count: int
    size: int


class CursorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Where one named consumer stands; ``lag_bytes`` is an upper bound (whole groups)."""

    name: str
    acked_seq: int
    persisted_seq: int
    lag_records: int
    lag_bytes: int
    gaps: int
    gap_records: int


class JournalStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one journal since it was opened, and where it stands.

    ``bytes_written`` counts everything that went to the disk: groups, headers, zeros, marks, cursors and base
    images. ``failure`` holds the operating system's reason while ``state`` is ``failed``.
    """

    name: str
    state: JournalState
    failure: str | None
    records: int
    groups: int
    writes: int
    syncs: int
    bytes_written: int
    base_bytes_written: int
    cursor_bytes_written: int
    pending_bytes: int
    pending_records: int
    first_seq: int
    last_seq: int
    written_seq: int
    durable_seq: int
    segments: int
    segment_bytes: int
    bytes_since_base: int
    trims: int
    trimmed_segments: int
    dropped: int
    lost: int
    refused_busy: int
    write_errors: int
    trim_errors: int
    cursor_errors: int
    resumes: int
    damages: int
    repairs: int
    cursors: tuple[CursorStatistics, ...]
