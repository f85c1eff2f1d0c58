"""The figures of an open journal, gathered from its parts. Reads only; see ``JournalStatistics``."""

from __future__ import annotations

from appliance.store.journal_consume import Consumers
from appliance.store.journal_engine import Engine
from appliance.store.journal_images import Images
from appliance.store.journal_types import JournalStatistics

__all__ = ["gather"]


def gather(engine: Engine, consumers: Consumers, images: Images, repairs: int) -> JournalStatistics:
    """All figures now; ``repairs`` were made when it was opened."""
    committer, positions = engine.committer, engine.positions
    counters, shelf = committer.counters, committer.shelf
    segments = shelf.snapshot("written").segments
    return JournalStatistics(
        name=engine.spec.name,
        state=engine.state,
        failure=None if committer.failure is None else str(committer.failure),
        records=counters.records,
        groups=counters.groups,
        writes=counters.writes,
        syncs=counters.syncs,
        bytes_written=counters.bytes_written + images.bytes_written + positions.bytes_written,
        base_bytes_written=images.bytes_written,
        cursor_bytes_written=positions.bytes_written,
        pending_bytes=committer.pending_bytes,
        pending_records=committer.pending_records,
        first_seq=segments[0].first_seq if segments else 1,
        last_seq=committer.last_seq,
        written_seq=committer.written_seq,
        durable_seq=committer.durable_seq,
        segments=len(segments),
        segment_bytes=sum(s.end for s in segments),
        bytes_since_base=sum(s.end for s in segments if s.last_seq > images.upto_seq),
        trims=shelf.trims,
        trimmed_segments=shelf.trimmed,
        dropped=counters.dropped,
        lost=counters.lost,
        refused_busy=counters.refused_busy,
        write_errors=counters.write_errors,
        trim_errors=counters.trim_errors,
        cursor_errors=positions.errors,
        resumes=counters.resumes,
        damages=consumers.damage_count,
        repairs=repairs,
        cursors=consumers.statistics(),
    )
