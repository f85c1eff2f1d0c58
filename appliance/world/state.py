"""The world as it is known: committed state between journal and region, and what is on its way. Sans-IO.

Live events and replayed ones go through the same steps, so a restart arrives where the running engine was.
Invariant: ``overlay`` and region together show exactly the events up to ``overlay.front_seq``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .dedup import KnownIds
from .flight import Flight
from .heads import Heads
from .namespaces import Registry
from .overlay import DELETE, NOTE, SET, Change, Overlay
from .records import CONFIG, EVENT, EVENT_OF_CLIENT, NAMESPACE, NAMESPACE_GONE, payload_of, unpack
from .types import AdminConfig, Namespace, WorldOptions
from .updates import Updates
from .view import Rows

__all__ = ["WorldState", "act_of"]


def act_of(properties: object) -> int:
    """What an event with these properties does to its entity (ST-03, ST-11, EV-09)."""
    if type(properties) is not dict or not properties:
        return NOTE
    return DELETE if properties.get("__deleted__") is True else SET


class WorldState:
    """See the module.

    Args:
        options: settings.
    """

    def __init__(self, options: WorldOptions) -> None:
        self.options = options
        self.overlay = Overlay()
        self.heads = Heads()
        self.known = KnownIds(options.dedup_events)
        self.registry = Registry()
        self.config = options.defaults
        self.entities = 0
        self.tracked: dict[str, int] = {}
        """Entities of namespaces with a quota, since they were first counted."""
        self.undecodable = 0
        self.changed_control: dict[str, bytes | None] = {}
        """Namespaces (``/`` before the name) and configuration (empty key) that the region does not show."""

    # -- lookups -----------------------------------------------------------------------------------------

    def value(self, entity_id: str, rows: Rows) -> int:
        """Newest event and existence of an entity, with what is on its way."""
        value = self.heads.get(entity_id)
        return self.shown(entity_id, rows) if value is None else value

    def shown(self, entity_id: str, rows: Rows) -> int:
        """The same from overlay and region alone."""
        entry = self.overlay.find(entity_id)
        return rows.value(entity_id) if entry is None else entry.head << 1 | entry.exists

    # -- committing --------------------------------------------------------------------------------------

    def apply(self, flight: Flight) -> None:
        """The records of ``flight`` are durable: from here on every read sees them."""
        overlay = self.overlay
        overlay.take(flight.changes, flight.at_ms)
        overlay.front_seq = flight.last
        self.entities += flight.born - flight.died
        if self.tracked and flight.born + flight.died:
            self._track(flight.changes)
        for kind, text in flight.controls:
            self.control(kind, text)

    def _track(self, changes: list[Change]) -> None:
        for _, entity_id, _, act, existed, _ in changes:
            if (act == SET) != existed and act != NOTE:
                name = entity_id.partition("/")[0]
                if name in self.tracked:
                    self.tracked[name] += 1 if act == SET else -1

    def updates(self, flight: Flight) -> Updates:
        """What listeners are told about ``flight``."""
        return Updates(flight.changes, flight.at_ms)

    def withdraw(self, gone: Flight, left: list[Flight]) -> None:
        """``gone`` never came to be; ``left`` are the others on their way, in order."""
        for event_id, seq in gone.ids:
            self.known.forget(event_id, seq)
        self.heads.clear()
        for flight in left:
            for seq, entity_id, _, act, existed, _ in flight.changes:
                self.heads.new[entity_id] = seq << 1 | (existed if act == NOTE else act == SET)

    def control(self, kind: int, text: bytes) -> None:
        """A configuration or namespace record is durable."""
        if kind == CONFIG:
            self.config = msgspec.json.decode(text, type=AdminConfig)
            self.changed_control[""] = text
        elif kind == NAMESPACE:
            namespace = msgspec.json.decode(text, type=Namespace)
            self.registry.put(namespace)
            self.changed_control["/" + namespace.name] = text
        elif kind == NAMESPACE_GONE:
            name = text.decode()
            self.registry.remove(name)
            self.tracked.pop(name, None)
            self.changed_control["/" + name] = None

    def load_control(self, config: bytes | None, namespaces: list[bytes]) -> None:
        """Take configuration and namespaces from the region or an image."""
        if config is not None:
            self.config = msgspec.json.decode(config, type=AdminConfig)
        for text in namespaces:
            self.registry.put(msgspec.json.decode(text, type=Namespace))

    # -- replaying ---------------------------------------------------------------------------------------

    def replay(self, seq: int, record: bytes, rows: Rows) -> None:
        """Take a durable record at the start; what the rows show already changes nothing."""
        try:
            head, text = unpack(record)
            if head.kind in (EVENT, EVENT_OF_CLIENT):
                self._replay_event(seq, head.kind, head.at_ms, text, rows)
            else:
                self.control(head.kind, text)
        except (ValueError, msgspec.MsgspecError):
            self.undecodable += 1
        self.overlay.front_seq = seq

    def _replay_event(self, seq: int, kind: int, at_ms: int, text: bytes, rows: Rows) -> None:
        event = payload_of(text)
        if kind == EVENT_OF_CLIENT:
            self.known.add(event.eventId, seq, event.stream)
        entity_id, properties = event.payload.entity_id, event.payload.properties
        if type(entity_id) is not str:
            return
        value = self.value(entity_id, rows)
        if seq <= value >> 1:
            return
        act, existed = act_of(properties), bool(value & 1)
        exists = existed if act == NOTE else act == SET
        change = (seq, entity_id, properties if act == SET else None, act, existed, len(text))
        self.overlay.take([change], at_ms)
        self.heads.new[entity_id] = seq << 1 | exists
        self.entities += exists - existed

    def fold(self, first_seq: int, records: Sequence[bytes]) -> None:
        """Take durable records behind a base image, all in ``overlay`` before anybody reads.

        No entity is looked up: its row is older than all of them, and the projection sees whether there is
        one. Until then ``entities`` is not known, and an entry that only notes events says nothing of it.
        """
        changes: list[Change] = []
        stamp = 0
        for seq, record in enumerate(records, first_seq):
            try:
                head, text = unpack(record)
                if head.kind not in (EVENT, EVENT_OF_CLIENT):
                    self.control(head.kind, text)
                    continue
                event = payload_of(text)
            except (ValueError, msgspec.MsgspecError):
                self.undecodable += 1
                continue
            if head.kind == EVENT_OF_CLIENT:
                self.known.add(event.eventId, seq, event.stream)
            entity_id, properties = event.payload.entity_id, event.payload.properties
            if type(entity_id) is not str:
                continue
            if head.at_ms != stamp:
                self.overlay.take(changes, stamp)
                changes, stamp = [], head.at_ms
            act = act_of(properties)
            changes.append((seq, entity_id, properties if act == SET else None, act, True, len(text)))
        self.overlay.take(changes, stamp)
        self.overlay.front_seq = first_seq + len(records) - 1

    def remember(self, seq: int, record: bytes) -> None:
        """Only the client's id of an event that the region shows already."""
        if record[:1] != bytes((EVENT_OF_CLIENT,)):
            return
        try:
            event = payload_of(unpack(record)[1])
        except ValueError:
            self.undecodable += 1
        else:
            self.known.add(event.eventId, seq, event.stream)

    def clear(self) -> None:
        """Forget everything: another world takes this one's place."""
        self.overlay.clear()
        self.heads.clear()
        self.known.clear()
        self.registry.clear()
        self.config = self.options.defaults
        self.entities = 0
        self.tracked.clear()
        self.changed_control.clear()
