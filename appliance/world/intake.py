"""From parsed events to one append: rules, rights, limits, numbers. Sans-IO; the engine's hot loop.

Everything that depends on order happens here, in one go without a wait: the numbers that the events will
have, each entity's previous event, whether it will exist, which client ids are known.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.wire.errors import FluxbeeError, Invalid, Refused

from .events import Event, IdSource, encode_event, fault_of
from .flight import Flight
from .limits import Buckets
from .namespaces import namespace_of
from .overlay import DELETE, NOTE, SET
from .records import EVENT, EVENT_OF_CLIENT, HEAD, FramedHead, pack
from .state import WorldState, act_of
from .types import Caller, Namespace, OverQuota, Problem, RateLimited, Result, Unauthorized
from .view import Rows, WorldView

__all__ = ["Intake", "error_of"]

RATE_RETRY_S = 60.0
"""``Retry-After`` of HT-40."""

_LATEST_MS = (1 << 63) - 1


class Intake:
    """See the module.

    Args:
        state: the world as it is known.
        view: its region.
    """

    def __init__(self, state: WorldState, view: WorldView) -> None:
        self._state = state
        self._view = view
        self._ids = IdSource()
        self._namespace_buckets = Buckets()
        self._source_buckets = Buckets()

    def control(self, kind: int, text: bytes, first: int, now_ms: int) -> Flight:
        """One record of configuration or namespaces."""
        flight = Flight(first, now_ms)
        record = pack(kind, now_ms, 0, text)
        flight.body = len(record).to_bytes(4, "big") + record
        flight.count = 1
        flight.controls.append((kind, text))
        return flight

    def events(
        self, events: Sequence[Event | str], caller: Caller, first: int, now_ms: int, now: float
    ) -> Flight:
        """One append of those ``events`` that may be stored, the first of which gets number ``first``.

        Args:
            events: parsed; text for one that did not parse.
            caller: who sends them.
            first: next number of the journal.
            now_ms: arrival, wall clock.
            now: monotonic seconds, for rate limits.
        """
        flight = Flight(first, min(max(now_ms, 1), _LATEST_MS))
        with self._view.rows() as rows:
            _Loading(self, flight, caller, rows, now).run(events)
        return flight


class _Loading:
    """One call of ``Intake.events``: its parts share much, and a batch should not pay for passing it on."""

    def __init__(self, intake: Intake, flight: Flight, caller: Caller, rows: Rows, now: float) -> None:
        state = intake._state
        self.flight, self.caller, self.rows, self.now = flight, caller, rows, now
        self.state, self.options, self.heavy = state, state.options, intake._view.heavy
        self.ids = intake._ids
        self.namespace_buckets = intake._namespace_buckets
        self.source_buckets = intake._source_buckets
        self.auth = state.options.auth_enabled and not caller.internal
        self.per_source = 0 if caller.internal else state.options.per_source_per_minute
        self.owner: Namespace | None = state.registry.owner(caller.token) if self.auth else None

    def run(self, events: Sequence[Event | str]) -> None:
        state, flight, rows = self.state, self.flight, self.rows
        at_ms, first = flight.at_ms, flight.first
        # The older generation stays where it is: nothing waits while this runs.
        heads, older, shown = state.heads.new, state.heads.old.get, state.shown
        note_source = flight.sources.add
        results, changes = flight.results, flight.changes
        parts: list[bytes] = []
        add, frame, head_size = parts.append, FramedHead.pack, HEAD.size
        guarded = self.auth or self.per_source > 0 or bool(self.heavy) or bool(state.tracked)
        room = self.options.max_entities - state.entities
        prefix, tail = self.ids.take(len(events), at_ms)
        seq = first
        for event in events:
            if type(event) is str:
                self.refuse(None, None, _invalid(event))
                continue
            assert isinstance(event, Event)
            if fault := fault_of(event):
                self.refuse(None, event.stream or None, _invalid(fault))
                continue
            event_id, kind = event.eventId, EVENT_OF_CLIENT
            if not event_id:
                tail += 1
                event_id, kind = f"{prefix}{tail:012x}", EVENT
            elif self.seen(event_id, seq):
                continue
            event.eventId = event_id
            if event.timestamp is None:
                event.timestamp = at_ms
            payload = event.payload
            entity_id, properties = payload.get("entity_id"), payload.get("properties")
            act = act_of(properties)
            if guarded and (problem := self.problem(event, entity_id, act)):
                self.refuse(event_id, event.stream, problem)
                continue
            try:
                text = encode_event(event)
            except Invalid as error:
                self.refuse(None, event.stream, _invalid(error.message))
                continue
            previous = 0
            if type(entity_id) is str:
                value = heads.get(entity_id)
                if value is None and (value := older(entity_id)) is None:
                    value = shown(entity_id, rows)
                previous, existed = value >> 1, value & 1
                exists = existed if act == NOTE else act == SET
                if exists > existed:
                    if flight.born - flight.died >= room:
                        self.refuse(event_id, event.stream, _FULL)
                        continue
                    flight.born += 1
                elif exists < existed:
                    flight.died += 1
                heads[entity_id] = seq << 1 | exists
                changes.append(
                    (seq, entity_id, properties if act == SET else None, act, bool(existed), len(text))
                )
            if kind == EVENT_OF_CLIENT:
                state.known.add(event_id, seq, event.stream)
                flight.ids.append((event_id, seq))
            add(frame(head_size + len(text), kind, at_ms, previous))
            add(text)
            note_source(event.source)
            results.append(Result(event_id, event.stream, None))
            seq += 1
        flight.body = b"".join(parts)
        flight.count = seq - first

    # -- answers -----------------------------------------------------------------------------------------

    def refuse(self, event_id: str | None, stream: str | None, problem: Problem) -> None:
        """This event is not stored."""
        self.flight.problems.append(problem)
        self.flight.results.append(Result(event_id, stream, problem.batch_text))

    def seen(self, event_id: str, next_seq: int) -> bool:
        """Whether the event with this id is stored or on its way already: it is answered as then (ST-32)."""
        found = self.state.known.find(event_id, next_seq)
        if found is None:
            return False
        seq, stream = found
        if seq < self.flight.first:
            self.flight.awaits = max(self.flight.awaits, seq)
        self.flight.duplicates.append((event_id, seq, stream))
        self.flight.results.append(Result(event_id, stream, None))
        return True

    # -- guards ------------------------------------------------------------------------------------------

    def problem(self, event: Event, entity_id: object, act: int) -> Problem | None:
        """Why this event may not be stored."""
        if self.auth:
            problem = self.state.registry.refusal(entity_id, self.caller, self.owner)
            if problem is None and not self.within_rate(event, entity_id):
                problem = _RATE
            if problem is not None:
                return problem
        if self.per_source and not self.source_buckets.take(event.source, self.per_source, self.now):
            return _RATE
        if isinstance(entity_id, str) and act != DELETE:
            return self.too_large(entity_id, act)
        return None

    def within_rate(self, event: Event, entity_id: object) -> bool:
        config = self.state.config
        if not config.rate_limit_enabled:
            return True
        name = namespace_of(entity_id) if isinstance(entity_id, str) else None
        limit = config.rate_limit_per_namespace_per_minute
        return self.namespace_buckets.take(name or event.stream, limit, self.now)

    def too_large(self, entity_id: str, act: int) -> Problem | None:
        if entity_id in self.heavy:
            limit = self.options.entity_bytes
            text = f"entity '{entity_id}' has more than {limit} bytes"
            return Problem("quota", text, f"quota exceeded: {text}")
        if act != SET or not self.state.tracked:
            return None
        name = entity_id.partition("/")[0]
        namespace = self.state.registry.get(name)
        if namespace is None or not namespace.max_entities or name not in self.state.tracked:
            return None
        held = self.state.tracked[name] + self.flight.born - self.flight.died
        if held < namespace.max_entities or self.state.value(entity_id, self.rows) & 1:
            return None
        text = f"namespace '{name}' holds {namespace.max_entities} entities already"
        return Problem("quota", text, f"quota exceeded: {text}")


def _invalid(fault: str) -> Problem:
    return Problem("validation", fault, f"validation failed: {fault}")


_RATE = Problem("rate", "rate limit exceeded", "rate limit exceeded")
_FULL = Problem("quota", "the world is full", "quota exceeded: the world is full")


def error_of(problem: Problem) -> FluxbeeError:
    """What a single event's publisher is told (EP-01)."""
    if problem.kind == "validation":
        return Invalid(problem.text, field="event")
    if problem.kind == "rate":
        return RateLimited(problem.text, retry_after_s=RATE_RETRY_S)
    if problem.kind == "quota":
        return OverQuota(problem.text)
    if problem.kind == "forbidden":
        return Refused(problem.text)
    return Unauthorized(problem.text)
