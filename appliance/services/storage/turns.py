"""How far the turns of this hive are stored, read off the turn journal's own files.

The data plane writes journal ``storage.turns``, perhaps in another process; here it is only read, and only
when somebody asks. The journal is this hive's store of turns, so a turn is *processed* once it is on the
medium: the service's place in the journal follows what the files prove to be synced and needs no file of its
own. Consumers that bring turns elsewhere will have places of theirs, and processed will mean theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from appliance.store.journal_reader import JournalFiles
from appliance.store.journal_segment import Snapshot
from appliance.system.disk import Disk
from appliance.wire.errors import FluxbeeError, NotFound, Unavailable

__all__ = ["METRICS_UNAVAILABLE", "NOT_READY", "TURN_JOURNAL", "StorageFigures", "TurnShelf"]

TURN_JOURNAL: Final = "storage.turns"
NOT_READY: Final = "STORAGE_NOT_READY"
METRICS_UNAVAILABLE: Final = "STORAGE_METRICS_UNAVAILABLE"


class StorageFigures(msgspec.Struct, frozen=True, kw_only=True):
    """``metrics`` of STORAGE_METRICS (§7.1), counted in records of the turn journal.

    A record is a turn, or the note of turns that were left out over budget.

    Attributes:
        pending: written, and not yet known to be on the medium. The newest group counts as pending until the
            next one, or the mark after a second of silence, proves that it was synced.
        pending_with_error: pending after a failed attempt to process; there is no such attempt yet, 0.
        oldest_pending_age_s: since the oldest pending record was written; 0 without one.
        processed_total: on the medium, since the journal began; goes on over restarts.
        max_attempts: most attempts that a pending record has had; 0.
        turns_total: records that the journal still holds (retention trims it).
    """

    pending: int
    pending_with_error: int = 0
    oldest_pending_age_s: int
    processed_total: int
    max_attempts: int = 0
    turns_total: int


class TurnShelf:
    """The turn journal as a reader beside its writer sees it.

    Args:
        journals: directory of all journals.
        disk: where to read; the operating system's by default.
    """

    def __init__(self, journals: Path, disk: Disk | None = None) -> None:
        self._files = JournalFiles(journals / TURN_JOURNAL, disk)

    def figures(self, now_ms: int) -> StorageFigures:
        """Count; blocks while the newest segment is read.

        Args:
            now_ms: wall clock.

        Raises:
            Unavailable: ``STORAGE_NOT_READY``, there is no journal yet; ``STORAGE_METRICS_UNAVAILABLE``, it
                cannot be read.
        """
        try:
            return self._figures(now_ms)
        except NotFound as error:
            raise Unavailable("the turn journal does not exist yet", code=NOT_READY) from error
        except FluxbeeError as error:
            raise Unavailable(error.message, code=METRICS_UNAVAILABLE) from error

    def _figures(self, now_ms: int) -> StorageFigures:
        synced = self._files.snapshot("synced")
        written = self._files.snapshot("written")
        pending = max(0, written.last_seq - synced.last_seq)
        age_ms = now_ms - self._written_at_ms(synced, now_ms) if pending else 0
        return StorageFigures(
            pending=pending,
            oldest_pending_age_s=max(0, age_ms) // 1000,
            processed_total=synced.last_seq,
            turns_total=max(0, written.last_seq - written.first_seq + 1),
        )

    def _written_at_ms(self, synced: Snapshot, now_ms: int) -> int:
        """When the first record behind ``synced`` was written."""
        for batch in self._files.batches(synced.last_seq + 1, limit_records=1):
            if batch.records:
                return batch.at_ms
        return now_ms
