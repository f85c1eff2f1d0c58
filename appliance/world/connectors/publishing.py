"""How connectors publish: batches of events into the engine, counted, and only what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from appliance.wire.errors import Invalid
from appliance.world.engine import WorldEngine
from appliance.world.entities import entity_properties
from appliance.world.types import INTERNAL, Caller

__all__ = ["Publisher", "SourceEvent"]

_BATCH: Final = 500
_PAGE: Final = 500


class SourceEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a connector has to say of one entity."""

    stream: str
    source: str
    entity_id: str
    properties: Mapping[str, object]
    schema: str | None = None


class Publisher:
    """The engine as connectors see it; ``events`` counts what it took."""

    def __init__(self, engine: WorldEngine) -> None:
        self._engine = engine
        self.events = 0

    async def publish(self, events: Sequence[SourceEvent], caller: Caller = INTERNAL) -> None:
        """Publish in order, in batches; each batch is all or nothing.

        Raises:
            Invalid: the engine refused an event; the message says why.
            Busy, Unavailable: not now.
        """
        for start in range(0, len(events), _BATCH):
            body = _body(events[start : start + _BATCH])
            report = await self._engine.publish_batch(body, caller)
            self.events += report.successful
            if report.failed:
                error = next(result.error for result in report.results if result.error is not None)
                raise Invalid(error, field="events")

    async def publish_changed(self, events: Sequence[SourceEvent]) -> None:
        """Publish those that say something new of their entity; raises as :meth:`publish`."""
        await self.publish([event for event in events if not self._known(event)])

    def _known(self, event: SourceEvent) -> bool:
        text = self._engine.entity(event.entity_id)
        if text is None:
            return False
        stored = entity_properties(text)
        return all(name in stored and stored[name] == value for name, value in event.properties.items())

    async def remove(self, entity_id: str) -> None:
        """Publish the end of an entity."""
        await self._engine.delete(entity_id, INTERNAL)
        self.events += 1

    def ids(self, prefix: str) -> list[str]:
        """Ids that begin with ``prefix``."""
        listing = self._engine.listing(prefix=prefix)
        found: list[str] = []
        while rows := listing.rows(_PAGE):
            found += [one for one, _ in rows]
        return found


def _body(events: Sequence[SourceEvent]) -> bytes:
    try:
        return msgspec.json.encode({"events": [_wire(event) for event in events]})
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise Invalid(f"a value is no JSON: {error}", field="events") from error


def _wire(event: SourceEvent) -> dict[str, object]:
    key = event.entity_id if len(event.entity_id.encode()) <= 512 else None
    payload = {"entity_id": event.entity_id, "properties": event.properties}
    return {
        "stream": event.stream,
        "source": event.source,
        "key": key,
        "schema": event.schema,
        "payload": payload,
    }
