"""What a Singer tap says, line by line, and what that means (``spec/flux-state.md`` CN-51). Sans-IO.

A record becomes an event; a state counts only when every event before it was taken by the world, so a tap
that starts again repeats records but never misses one. What cannot be read is counted: words between the
messages are noise, a broken or too long message is a refusal, and no state is kept after one.

All streams of a tap share one space of ids, ``<namespace>/<key>``, as in the reference: who has a tap with
several streams adds it once per stream, each in a namespace of its own. Keys that two streams have are
counted.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from appliance.wire.depth import MAX_DEPTH, depth_exceeds
from appliance.wire.errors import Invalid
from appliance.world.events import entity_id_fault

from .publishing import SourceEvent

__all__ = ["LONGEST_LINE", "Batch", "Singer", "catalog_of", "key_text", "stream_of"]

LONGEST_LINE: Final = 1 << 20
"""Bytes of the longest message; an entity has no more either (``world.entity_bytes``)."""

_BATCH_EVENTS: Final = 500
_BATCH_BYTES: Final = 1 << 20
_KNOWN_KEYS: Final = 20_000
_LONGEST_STREAM: Final = 100
_NOT_STREAM: Final = re.compile(r"[^a-z0-9]+")
_STATE_BYTES: Final = 1 << 20


class _Message(msgspec.Struct):
    type: str
    stream: str = ""
    record: dict[str, msgspec.Raw] | None = None
    value: msgspec.Raw = msgspec.Raw()


_message = msgspec.json.Decoder(_Message)
_any = msgspec.json.Decoder()


class Batch(msgspec.Struct, frozen=True):
    """Events to publish in order, and the state that holds when all of them were taken."""

    events: list[SourceEvent]
    state: bytes | None


class Singer:
    """Turns the output of one run into batches.

    Args:
        tap: its name, such as ``tap-csv``.
        namespace: first segment of every id.
        key_field: whose value is the key; the record's first field where it has none of that name.

    Attributes:
        records: records that became events.
        noise: lines that are no messages.
        refused: messages that could not be used.
        refusal: why the first of them could not.
        collisions: keys that two streams have.
    """

    def __init__(self, tap: str, namespace: str, key_field: str) -> None:
        self._tap = tap
        self._namespace = namespace
        self._key_field = key_field
        self._rest = bytearray()
        self._skipping = False
        self._events: list[SourceEvent] = []
        self._bytes = 0
        self._state: bytes | None = None
        self._stream_of_key: dict[str, str] = {}
        self.records = self.noise = self.refused = self.collisions = 0
        self.refusal = ""

    def feed(self, data: bytes) -> list[Batch]:
        """What was read; batches that are full."""
        full: list[Batch] = []
        lines = data.split(b"\n")
        for number, part in enumerate(lines):
            ended = number < len(lines) - 1
            if not self._skipping:
                self._rest += part
                if len(self._rest) > LONGEST_LINE:
                    self._skipping = True
                    self._rest.clear()
                    self.refuse(f"a message is longer than {LONGEST_LINE} bytes")
            if not ended:
                break
            if self._skipping:
                self._skipping = False
                continue
            line = bytes(self._rest)
            self._rest.clear()
            self._take(line)
            if len(self._events) >= _BATCH_EVENTS or self._bytes >= _BATCH_BYTES:
                full.append(self.take())
        return full

    def end(self) -> Batch:
        """The tap ended; what is left. A last line without its end is a message too."""
        if self._rest and not self._skipping:
            self._take(bytes(self._rest))
        self._rest.clear()
        return self.take()

    def take(self) -> Batch:
        """What waits, full or not."""
        batch = Batch(self._events, None if self.refused else self._state)
        self._events, self._bytes = [], 0
        return batch

    def refuse(self, why: str) -> None:
        """Something is lost, here or with the world: from now on no state is kept."""
        self.refused += 1
        self.refusal = self.refusal or why

    def _take(self, line: bytes) -> None:
        text = line.strip()
        if not text.startswith(b"{"):
            self.noise += bool(text)
            return
        try:
            self._act(_parsed(text), len(text))
        except Invalid as error:
            self.refuse(error.message)

    def _act(self, message: _Message, size_bytes: int) -> None:
        if message.type == "RECORD":
            self._events.append(self._event(message))
            self._bytes += size_bytes
            self.records += 1
        elif message.type == "STATE":
            if len(message.value) > _STATE_BYTES:
                raise Invalid(f"a state is longer than {_STATE_BYTES} bytes", field="state")
            self._state = bytes(message.value) or None

    def _event(self, message: _Message) -> SourceEvent:
        record = message.record
        if not record or not message.stream:
            raise Invalid("a record has no stream or no fields", field="record")
        raw = record.get(self._key_field)
        key = key_text(_any.decode(next(iter(record.values())) if raw is None else raw))
        entity_id = f"{self._namespace}/{key}"
        if not key or (fault := entity_id_fault(entity_id)):
            raise Invalid(f"a key is no id: {fault if key else 'it is empty'}", field="record")
        self._note(key, message.stream)
        return SourceEvent(
            stream=stream_of(self._tap, message.stream),
            source=f"tap.{self._tap}",
            entity_id=entity_id,
            # A source may not delete entities (ST-11).
            properties={name: value for name, value in record.items() if name != "__deleted__"},
        )

    def _note(self, key: str, stream: str) -> None:
        known = self._stream_of_key
        if len(known) < _KNOWN_KEYS:
            self.collisions += known.setdefault(key, stream) != stream
        elif key in known:
            self.collisions += known[key] != stream


def _parsed(text: bytes) -> _Message:
    try:
        text.decode()  # raw values are passed over unread
        if depth_exceeds(text, MAX_DEPTH):
            raise Invalid("a message is nested too deeply", field="message")
        if b"\\u" in text:  # half a pair of surrogates would spoil the whole batch
            _any.decode(text)
        return _message.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"a message cannot be read: {str(error)[:120]}", field="message") from None


def key_text(value: object) -> str:
    """A key as part of an id: text as it is, all else as JSON (``42``, ``3.14``, ``true``, ``null``)."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def stream_of(tap: str, stream: str) -> str:
    """``taps.<tap>.<stream>`` in letters that a stream may have (EV-02): every other becomes a dot."""
    words = [_NOT_STREAM.sub(".", part.lower()).strip(".") for part in (tap, stream)]
    return ".".join(("taps", words[0], words[1][:_LONGEST_STREAM].strip(".") or "stream"))


def catalog_of(discovered: bytes) -> bytes | None:
    """The catalogue to run with: what ``--discover`` printed, all of it selected in each way that taps know.

    ``None`` when it is no catalogue: the tap does not know ``--discover``.
    """
    try:
        discovered.decode()
        if depth_exceeds(discovered, MAX_DEPTH):
            return None
        found = _any.decode(discovered)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    streams = found.get("streams") if isinstance(found, dict) else None
    if not isinstance(streams, list) or not all(isinstance(one, dict) for one in streams):
        return None
    for stream in streams:
        _select(stream)
    return msgspec.json.encode(found)


def _select(stream: dict[str, object]) -> None:
    stream["selected"] = True
    schema = stream.get("schema")
    if isinstance(schema, dict):
        schema["selected"] = True
    rows = stream.get("metadata")
    kept = [one for one in rows if isinstance(one, dict)] if isinstance(rows, list) else []
    if not any(one.get("breadcrumb") == [] for one in kept):
        kept.append({"breadcrumb": [], "metadata": {}})
    for row in kept:
        facts = row.get("metadata")
        row["metadata"] = facts = facts if isinstance(facts, dict) else {}
        if facts.get("inclusion") != "unsupported":
            facts["selected"] = True
    stream["metadata"] = kept
