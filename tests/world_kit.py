"""A world in plain Python, to compare the engine with, and shorthand for requests and engines under test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from appliance.store.journal_reader import JournalFiles
from appliance.world import WorldEngine, WorldOptions
from appliance.world.records import EVENT, EVENT_OF_CLIENT, unpack

__all__ = ["Model", "batch", "engine_in", "event", "read_journal", "shown"]


def event(entity_id: object = "plant/pump", **properties: object) -> dict[str, Any]:
    """An event without a timestamp; the stream and the source are always the same."""
    return {
        "stream": "plant.line2",
        "source": "plc-7",
        "payload": {"entity_id": entity_id, "properties": properties},
    }


def batch(*events: Mapping[str, object]) -> bytes:
    """A request body."""
    return json.dumps({"events": events}).encode()


def engine_in(home: Path, **options: Any) -> WorldEngine:
    """An engine below ``home``."""
    more = {key: options.pop(key) for key in ("clock", "disk", "inline", "page") if key in options}
    return WorldEngine(home / "journal", home / "regions", WorldOptions(**options), **more)


class Model:
    """State by the rules of ``spec/flux-state.md §3``, one event after the other, nothing clever."""

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, object]] = {}
        self.changed: dict[str, int] = {}
        self.past: dict[str, list[int]] = {}
        self.gone: set[int] = set()
        """Events after which their entity did not exist."""

    def apply(self, seq: int, payload: object) -> None:
        """Event number ``seq``."""
        if not isinstance(payload, dict) or not isinstance(payload.get("entity_id"), str):
            return
        one, properties = payload["entity_id"], payload.get("properties")
        self.past.setdefault(one, []).append(seq)
        if isinstance(properties, dict) and properties.get("__deleted__") is True:
            self.entities.pop(one, None)
        elif isinstance(properties, dict) and properties:
            self.entities.setdefault(one, {}).update(properties)
            self.changed[one] = seq
        if one not in self.entities:
            self.gone.add(seq)


def read_journal(directory: Path, from_seq: int = 1) -> dict[int, dict[str, Any]]:
    """Stored events by number; records that are no events are left out. Raises when a number is missing."""
    found: dict[int, dict[str, Any]] = {}
    expected = from_seq
    for part in JournalFiles(directory).batches(from_seq):
        assert part.gap is None
        assert part.first_seq == expected
        expected = part.next_seq
        for seq, record in enumerate(part.records, part.first_seq):
            head, text = unpack(record)
            if head.kind in (EVENT, EVENT_OF_CLIENT):
                found[seq] = json.loads(text)
    return found


def shown(texts: Iterable[bytes]) -> dict[str, tuple[dict[str, object], int]]:
    """Properties and number of the last change by id, out of entity texts; ids must ascend."""
    found: dict[str, tuple[dict[str, object], int]] = {}
    last = None
    for text in texts:
        one = json.loads(text)
        assert last is None or last < one["id"].encode()
        last = one["id"].encode()
        found[one["id"]] = (one["properties"], one["seq"])
    return found
