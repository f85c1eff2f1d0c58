"""Committed changes of entities, as the feed hands them on: encoded at most once, however many listen.

An :class:`Update` is made for every committed event that changes state (one event is one update, ST-07). Its
frames are the texts of ``spec/flux-state.md §4.3``, with the additive member ``seq``; they are encoded when
somebody first asks. Sans-IO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import msgspec

from .entities import rfc3339_z

__all__ = ["Listener", "Update", "UpdateFrame"]

_encode = msgspec.json.encode


class UpdateFrame(msgspec.Struct, frozen=True, gc=False):
    """One text frame.

    Args:
        property: name of the property; ``None``: the entity was deleted.
        data: the JSON text, UTF-8.
    """

    property: str | None
    data: bytes


class Update:
    """One committed event that changed an entity.

    Args:
        seq: of the event in the world journal.
        entity_id: whose.
        at_ms: when the event arrived, wall clock.
        properties: what the event set, decoded; ``None``: the entity existed and was deleted.
    """

    def __init__(self, seq: int, entity_id: str, at_ms: int, properties: Mapping[str, object] | None) -> None:
        self.seq = seq
        self.entity_id = entity_id
        self.at_ms = at_ms
        self.properties = properties

    def __repr__(self) -> str:
        return f"Update({self.seq}, {self.entity_id!r}, {self.properties!r})"

    @cached_property
    def frames(self) -> tuple[UpdateFrame, ...]:
        """One frame per property in byte order of the names (WS-20), or one ``entity_deleted`` (WS-21)."""
        head = b'","timestamp":"' + rfc3339_z(self.at_ms) + b'","seq":%d}' % self.seq
        who = _encode(self.entity_id)
        if self.properties is None:
            text = b'{"type":"entity_deleted","entity_id":' + who + head[1:]
            return (UpdateFrame(None, text),)
        begin = b'{"type":"state_update","entity_id":' + who + b',"property":'
        return tuple(
            UpdateFrame(
                name, begin + _encode(name) + b',"value":' + _encode(self.properties[name]) + head[1:]
            )
            for name in sorted(self.properties, key=str.encode)
        )


Listener = Callable[[Sequence[Update]], None]
"""Takes the updates of one or more commits, in order of ``seq``, on the loop; must neither raise nor wait."""
