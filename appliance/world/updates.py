"""Committed changes of entities, as the feed hands them on: encoded at most once, however many listen.

An :class:`Update` is made for every committed event that changes state (one event is one update, ST-07). Its
frames are the texts of ``spec/flux-state.md §4.3``, with the additive member ``seq``; they are encoded when
somebody first asks. Sans-IO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import overload

import msgspec

from .entities import rfc3339_z
from .overlay import DELETE, SET, Change

__all__ = ["Listener", "Update", "UpdateFrame", "Updates"]

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


class Updates(Sequence[Update]):
    """The updates of one commit; they are made when somebody looks, which mostly nobody does.

    Args:
        changes: of the commit, in order of their numbers.
        at_ms: when its events arrived, wall clock.
    """

    def __init__(self, changes: Sequence[Change], at_ms: int) -> None:
        self._changes = changes
        self._at_ms = at_ms

    def __bool__(self) -> bool:
        return next(self._made(self._changes), None) is not None

    def __iter__(self) -> Iterator[Update]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, index: int) -> Update: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Update]: ...
    def __getitem__(self, index: int | slice) -> Update | Sequence[Update]:
        if index == -1 and (last := next(self._made(reversed(self._changes)), None)) is not None:
            return last  # how far a feed without listeners is
        return self._all[index]

    @cached_property
    def _all(self) -> list[Update]:
        return list(self._made(self._changes))

    def _made(self, changes: Iterable[Change]) -> Iterator[Update]:
        for seq, entity_id, properties, act, existed, _ in changes:
            if act == SET or (act == DELETE and existed):
                yield Update(seq, entity_id, self._at_ms, properties)


Listener = Callable[[Sequence[Update]], None]
"""Takes the updates of one or more commits, in order of ``seq``, on the loop; must neither raise nor wait."""
