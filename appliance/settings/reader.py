"""Nodes and texts to typed values, directed by the Structs, with every problem and every source collected.

The reader never stops at the first mistake and never raises: what is wrong becomes a :class:`Problem` and the
key keeps its default. An unknown key is answered with the nearest one. It knows no rule that spans two keys.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from msgspec import inspect

from .forms import FORMS
from .keys import KeyFacts, Leaf, Section, expectation, facts_of, leaves, section_names, strip, struct_type
from .problems import MAX_SHOWN_PROBLEMS, Problem, Source
from .yamlnodes import ListNode, Node, ScalarNode, SectionNode, found

__all__ = ["Reading", "Value", "nearest_key"]

Value = str | int | float | bool | tuple["Value", ...] | dict[str, "Value"]

_INT = re.compile(r"[+-]?(?:0|[1-9][0-9_]{0,25})\Z")
_FLOAT = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?\Z")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_ENV_BOOLS = _BOOLS | {"1": True, "0": False}


class _Wrong(Exception):
    """A text is not the value that it should be; the message continues "found …"."""


class Reading:
    """Values, sources and problems gathered for one schema.

    Args:
        schema: the Struct that describes the whole document.
    """

    def __init__(self, schema: type[Section]) -> None:
        self.schema = schema
        self.values: dict[str, Value] = {}
        self.sources: dict[str, Source] = {}
        self.problems: list[Problem] = []
        self.broken: set[str] = set()

    def read_document(self, root: Node) -> None:
        """Take every value of a file."""
        if isinstance(root, ScalarNode) and root.is_null:
            return
        if not isinstance(root, SectionNode):
            self._problem(root.source, "", f"found {found(root)}; expected keys and values")
            return
        self._section(root, struct_type(self.schema), "", self.values)

    def read_text(self, leaf: Leaf, text: str, source: Source) -> None:
        """Take one value from an environment variable or the command line; it replaces the file's.

        Booleans are 1/true/yes/on and 0/false/no/off in any case, lists are separated by commas
        (``spec/flux-state.md §0.2``).
        """
        bare = strip(leaf.type)
        node: Node = ScalarNode(text=text.strip(), source=source)
        if isinstance(bare, inspect.VarTupleType):
            parts = (part.strip() for part in text.split(","))
            node = ListNode(
                items=tuple(ScalarNode(text=part, source=source) for part in parts if part), source=source
            )
        elif isinstance(bare, inspect.BoolType) and text.strip().casefold() in _ENV_BOOLS:
            node = ScalarNode(text=str(_ENV_BOOLS[text.strip().casefold()]), source=source)
        *sections, name = leaf.name.split(".")
        into = self.values
        for section in sections:
            inner = into.setdefault(section, {})
            assert isinstance(inner, dict)
            into = inner
        self._leaf(node, leaf.type, leaf.name, name, into)

    def _problem(self, source: Source, key: str, message: str) -> None:
        self.problems.append(Problem(source=source, key=key, message=message))
        self.broken.add(key)

    def _section(
        self, node: SectionNode, struct: inspect.StructType, prefix: str, into: dict[str, Value]
    ) -> None:
        fields = {field.name: field for field in struct.fields}
        for key, value in node.entries:
            dotted = prefix + key.text
            field = fields.get(key.text)
            if field is None:
                self._unknown(key.source, dotted, prefix, struct)
                continue
            if isinstance(value, ScalarNode) and value.is_null:
                continue
            inner = strip(field.type)
            if not isinstance(inner, inspect.StructType):
                self._leaf(value, field.type, dotted, key.text, into)
            elif isinstance(value, SectionNode):
                below: dict[str, Value] = {}
                into[key.text] = below
                self._section(value, inner, dotted + ".", below)
            else:
                self._problem(
                    value.source,
                    dotted,
                    f"found {found(value)}; expected {expectation(inner, facts_of(field.type))}",
                )
        for name, field in fields.items():
            if field.required and name not in into and (prefix + name) not in self.broken:
                self._problem(node.source, prefix + name, f"is missing; expected {_expects(field)}")

    def _unknown(self, source: Source, dotted: str, prefix: str, struct: inspect.StructType) -> None:
        shown = dotted if len(dotted) <= 80 else dotted[:80] + "…"
        if len(self.problems) >= MAX_SHOWN_PROBLEMS:  # the search below is too dear for what nobody will read
            self._problem(source, shown, "unknown key")
            return
        near = nearest_key(dotted, self.schema, [prefix + field.name for field in struct.fields])
        self._problem(source, shown, f"unknown key; the nearest key is {near}")

    def _leaf(self, node: Node, of: inspect.Type, dotted: str, name: str, into: dict[str, Value]) -> None:
        """Store one value; the caller has left out the nulls, which mean the default."""
        facts = facts_of(of)
        before = len(self.problems)
        value = self._value(node, strip(of), facts, dotted)
        if len(self.problems) > before:
            self.broken.add(dotted)
        elif value is not None:
            into[name] = value
            if "[" not in dotted:  # a list is given as a whole
                self.sources[dotted] = node.source

    def _value(self, node: Node, bare: inspect.Type, facts: KeyFacts, dotted: str) -> Value | None:
        if isinstance(bare, inspect.VarTupleType):
            return self._list(node, bare, facts, dotted)
        if isinstance(bare, inspect.StructType):
            if not isinstance(node, SectionNode):
                self._mismatch(node, bare, facts, dotted)
                return None
            below: dict[str, Value] = {}
            self._section(node, bare, dotted + ".", below)
            return below
        if not isinstance(node, ScalarNode):
            self._mismatch(node, bare, facts, dotted)
            return None
        try:
            return _scalar(node, bare, facts)
        except _Wrong as wrong:
            self._mismatch(node, bare, facts, dotted, str(wrong))
            return None

    def _list(self, node: Node, bare: inspect.VarTupleType, facts: KeyFacts, dotted: str) -> Value | None:
        if not isinstance(node, ListNode):
            self._mismatch(node, bare, facts, dotted)
            return None
        items = (
            self._value(item, strip(bare.item_type), facts, f"{dotted}[{index}]")
            for index, item in enumerate(node.items)
        )
        return tuple(item for item in items if item is not None)

    def _mismatch(self, node: Node, bare: inspect.Type, facts: KeyFacts, dotted: str, more: str = "") -> None:
        message = f"found {found(node, secret=facts.secret)}{more}; expected {expectation(bare, facts)}"
        self._problem(node.source, dotted, message)


def _expects(field: inspect.Field) -> str:
    return expectation(field.type, facts_of(field.type))


def _scalar(node: ScalarNode, bare: inspect.Type, facts: KeyFacts) -> Value:
    if isinstance(bare, inspect.IntType):
        if node.quoted:
            raise _Wrong(", a text in quotes")
        if not _INT.match(node.text):
            raise _Wrong(_octal_hint(node.text))
        return _bounded(int(node.text.replace("_", "")), facts)
    if isinstance(bare, inspect.FloatType):
        if node.quoted or not _FLOAT.match(node.text):
            raise _Wrong
        return _bounded(float(node.text), facts)
    if isinstance(bare, inspect.BoolType):
        if node.quoted or node.text.casefold() not in _BOOLS:
            raise _Wrong
        return _BOOLS[node.text.casefold()]
    if isinstance(bare, inspect.LiteralType):
        word = node.text.strip().casefold()
        word = facts.aliases.get(word, word)
        if word not in bare.values:
            raise _Wrong
        return word
    if not node.text or any(_unwanted(c) for c in node.text):
        raise _Wrong
    if facts.form is not None and not FORMS[facts.form].fits(node.text):
        raise _Wrong
    return node.text


def _unwanted(char: str) -> bool:
    return ord(char) < 0x20 or ord(char) == 0x7F or 0xD800 <= ord(char) <= 0xDFFF


def _bounded(value: float, facts: KeyFacts) -> float:
    if facts.ge is not None and value < facts.ge:
        raise _Wrong
    if facts.le is not None and value > facts.le:
        raise _Wrong
    return value


def _octal_hint(text: str) -> str:
    if text.startswith("0") and text.isdigit():
        return ", which YAML programs read differently because of its leading zero"
    return ""


def nearest_key(dotted: str, schema: type[Section], siblings: Sequence[str] = ()) -> str:
    """The key that was probably meant by ``dotted``; there is always an answer.

    Looked for by its last word among its siblings, then as a whole and by its last word among all keys.

    Args:
        dotted: the unknown key; only its first 128 characters count.
        schema: the Struct that describes the whole document.
        siblings: dotted names of the section in which it stands.
    """
    wanted = dotted[:128].casefold().replace("-", "_")
    word = wanted.rpartition(".")[2]
    every = [*leaves(schema), *section_names(schema)]
    return (
        _closest_word(word, siblings, 0.6)
        or next(iter(difflib.get_close_matches(wanted, every, n=1, cutoff=0.8)), None)
        or _closest_word(word, every, 0.75)
        or difflib.get_close_matches(wanted, siblings or every, n=1, cutoff=0.0)[0]
    )


def _closest_word(word: str, names: Sequence[str], cutoff: float) -> str | None:
    by_word = {name.rpartition(".")[2]: name for name in reversed(names)}
    close = difflib.get_close_matches(word, by_word, n=1, cutoff=cutoff)
    return by_word[close[0]] if close else None
