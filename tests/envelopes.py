"""Envelopes for tests, written in every way a sender may write them, and independent ways of reading them.

:func:`envelopes` draws an :class:`Envelope`: the frame's bytes together with what they mean. The readers at
the end stand for other people's JSON decoders: Python's (last key wins) and one like Go's (any case, last
wins). What they read from a delivered frame must be what the router checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

__all__ = [
    "ADDED_BY_ROUTER",
    "Envelope",
    "duplicates",
    "envelopes",
    "go_reads",
    "json_texts",
    "python_reads",
]

ADDED_BY_ROUTER = {"thread_seq", "action_class", "memory_package"}
TOP = ("routing", "meta", "payload")
ROUTING = ("src", "src_l2_name", "dst", "ttl", "trace_id")
META = (
    "type",
    "msg",
    "src_ilk",
    "dst_ilk",
    "ich",
    "thread_id",
    "thread_seq",
    "ctx",
    "ctx_seq",
    "ctx_window",
    "memory_package",
    "scope",
    "target",
    "action",
    "action_class",
    "action_result",
    "result_origin",
    "result_detail_code",
    "priority",
    "delivery",
    "context",
)
TEXT_KEYS = ("src_ilk", "dst_ilk", "ich", "ctx", "target", "action", "result_origin", "priority", "delivery")
TYPES = ("user", "command", "command_response", "query", "query_response", "system", "admin", "", "тип")


@dataclass
class Envelope:
    """One frame and what it means.

    ``meta`` is what a recipient must find in ``meta`` beside what the router adds; ``meta_text`` is how the
    sender wrote it. ``plain`` says that no key needs special care and nothing is escaped needlessly, so that
    ``meta`` stays as it is written.
    """

    frame: bytes
    routing: dict[str, Any]
    meta: dict[str, Any]
    meta_text: str
    payload_text: str
    extras: dict[str, Any] = field(default_factory=dict)
    routing_extras: dict[str, Any] = field(default_factory=dict)
    plain: bool = True


@dataclass
class _Pen:
    """How one sender writes: spaces or none, everything escaped or nothing needless."""

    gaps: list[str]
    ascii_only: bool
    used: int = 0

    def gap(self) -> str:
        self.used += 1
        return self.gaps[self.used % len(self.gaps)] if self.gaps else ""

    def text(self, value: str) -> str:
        return json.dumps(value, ensure_ascii=self.ascii_only)

    def value(self, value: Any) -> str:
        if isinstance(value, dict):
            return self.pairs([(key, self.value(inner)) for key, inner in value.items()])
        if isinstance(value, list):
            return "[" + ",".join(self.gap() + self.value(inner) + self.gap() for inner in value) + "]"
        return self.text(value) if isinstance(value, str) else json.dumps(value)

    def pairs(self, pairs: list[tuple[str, str]]) -> str:
        written = [
            f"{self.gap()}{self.text(key)}{self.gap()}:{self.gap()}{value}{self.gap()}"
            for key, value in pairs
        ]
        return "{" + ",".join(written) + "}"


_texts = st.text(st.characters(codec="utf-8"), max_size=8)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_odd_numbers = st.sampled_from(["-0", "1E400", "-0.0", "1.000", "1e-5", "123456789012345678901234567890"])
_strange_keys = _texts.filter(lambda key: key.casefold() not in {*TOP, *ROUTING, *META} and "\0" not in key)
_pens = st.builds(
    _Pen,
    st.just([]) | st.lists(st.sampled_from(["", " ", "\n", "\t ", "\r\n"]), max_size=5),
    st.booleans(),
)
json_texts = st.builds(lambda pen, value: pen.value(value), _pens, _values) | _odd_numbers


@st.composite
def _metas(draw: st.DrawFn, pen: _Pen) -> tuple[dict[str, Any], bool, str]:
    meta: dict[str, Any] = {"type": draw(st.sampled_from(TYPES))}
    for key in draw(st.sets(st.sampled_from(TEXT_KEYS), max_size=3)):
        meta[key] = draw(_texts)
    if draw(st.booleans()):
        meta["thread_id"] = draw(st.sampled_from(["thread:a", "thread:b", "", "  ", "ü"]))
    if draw(st.integers(0, 3)) == 0:
        meta["action_class"] = draw(st.sampled_from(["read", "write", "send_message"]))
    if draw(st.integers(0, 3)) == 0:
        meta["context"] = draw(_values.filter(lambda value: value is not None))
    plain = not pen.ascii_only
    sent: dict[str, Any] = dict(meta)
    if draw(st.integers(0, 2)) == 0:
        plain = False
        unknown = draw(st.dictionaries(_strange_keys, _values, max_size=2))
        meta |= {key: value for key, value in unknown.items() if value is not None}
        sent |= unknown
        for key in draw(st.sets(st.sampled_from(META[1:]), max_size=2)):
            if key not in sent:
                sent[key] = None
        sent |= draw(
            st.fixed_dictionaries({}, optional={"thread_seq": st.just(77), "ctx_seq": st.just(2**64 - 1)})
        )
        if "ctx_seq" in sent and sent["ctx_seq"] is not None:
            meta["ctx_seq"] = sent["ctx_seq"]
        if draw(st.booleans()):
            sent["memory_package"] = {"package_version": 2, "thread_id": "forged"}
    order = draw(st.permutations(list(sent)))
    return meta, plain, pen.pairs([(key, pen.value(sent[key])) for key in order])


@st.composite
def envelopes(draw: st.DrawFn, src: str, destinations: st.SearchStrategy[str | None]) -> Envelope:
    """A legal frame of an ordinary sender ``src`` and its meaning."""
    pen = draw(_pens)
    routing: dict[str, Any] = {
        "src": src,
        "dst": draw(destinations),
        "ttl": draw(st.sampled_from([1, 2, 16, 255])),
        "trace_id": draw(_texts),
    }
    meta, plain, meta_text = draw(_metas(pen))
    sent_routing, extras, routing_extras = dict(routing), {}, {}
    if draw(st.integers(0, 4)) == 0:
        plain = False
        routing_extras = draw(st.dictionaries(_strange_keys, _values, max_size=2))
        extras = draw(st.dictionaries(_strange_keys, _values, max_size=2))
        sent_routing |= routing_extras
        if draw(st.booleans()):
            sent_routing["src_l2_name"] = draw(st.none() | st.just("SY.admin@north"))
    payload_text = draw(json_texts)
    routing_order = draw(st.just(list(sent_routing)) | st.permutations(list(sent_routing)))
    parts = {
        "routing": pen.pairs([(key, pen.value(sent_routing[key])) for key in routing_order]),
        "meta": meta_text,
        "payload": payload_text,
        **{key: pen.value(value) for key, value in extras.items()},
    }
    if payload_text == "null" and draw(st.booleans()):
        del parts["payload"]
        plain = False
    order = draw(st.just(list(parts)) | st.permutations(list(parts)))
    frame = pen.pairs([(key, parts[key]) for key in order]).encode()
    return Envelope(frame, routing, meta, meta_text, payload_text, extras, routing_extras, plain)


def python_reads(body: bytes) -> dict[str, Any]:
    """The message as Python's decoder gives it: of equal keys the last."""
    value = json.loads(body)
    assert isinstance(value, dict)
    return value


def _loosely(pairs: list[tuple[str, Any]], known: tuple[str, ...]) -> dict[str, Any]:
    simple = {"ſ": "s", "\u212a": "k", "ı": "i", "İ": "i"}
    found: dict[str, Any] = {}
    for key, value in pairs:
        folded = "".join(simple.get(letter, letter.lower()) for letter in key.partition("\0")[0])
        found[folded if folded in known else key] = value
    return found


class _Pairs(list[tuple[str, Any]]):
    """An object as its pairs."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(inner) for key, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def duplicates(body: bytes) -> list[str]:
    """Keys that the message, its routing or its meta have twice, in any case."""
    top = json.loads(body, object_pairs_hook=_Pairs)
    inner = [value for key, value in top if key in ("routing", "meta")]
    assert len(inner) == 2
    found: list[str] = []
    for pairs, known in ((top, TOP), (inner[0], ROUTING), (inner[1], META)):
        found += [key for key, _ in pairs if [one for one, _ in pairs].count(key) > 1]
        found += [
            key for key, _ in pairs if key not in known and next(iter(_loosely([(key, 0)], known))) != key
        ]
    return found


def go_reads(body: bytes) -> dict[str, Any]:
    """The message as a decoder gives it that takes keys in any case, the last one winning (Go's)."""
    top = _loosely(json.loads(body, object_pairs_hook=_Pairs), TOP)
    return {
        "routing": {key: _plain(value) for key, value in _loosely(top["routing"], ROUTING).items()},
        "meta": {key: _plain(value) for key, value in _loosely(top["meta"], META).items()},
        **{key: _plain(value) for key, value in top.items() if key not in ("routing", "meta")},
    }
