"""YAML text as a tree of scalars, lists and sections that remember their lines.

No value is interpreted here: a plain scalar stays text, and the key's type decides later what it means.
That removes the traps of YAML 1.1 (``no`` is a text where a text is expected, ``0660`` keeps its zero,
``12:30`` is not a number). Tags, duplicate keys, keys that are not text and documents over 1 MiB are refused.
"""

from __future__ import annotations

import msgspec
import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from .problems import Problem, Source

__all__ = ["MAX_DOCUMENT_BYTES", "ListNode", "Node", "ScalarNode", "SectionNode", "compose", "found", "parse"]

MAX_DOCUMENT_BYTES = 1 << 20
"""A hive.yaml has a few KiB; what is larger is not one."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_PLAIN_TAGS = frozenset(
    {"tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map", "tag:yaml.org,2002:null"}
)


class ScalarNode(msgspec.Struct, frozen=True, kw_only=True):
    """One text; ``quoted`` tells ``"12"`` from ``12``."""

    text: str
    source: Source
    quoted: bool = False

    @property
    def is_null(self) -> bool:
        """Whether the value was left out (``key:``) or is null."""
        return not self.quoted and self.text in _NULL


class ListNode(msgspec.Struct, frozen=True, kw_only=True):
    """A list."""

    items: tuple[Node, ...]
    source: Source


class SectionNode(msgspec.Struct, frozen=True, kw_only=True):
    """Keys and values in the order of the file."""

    entries: tuple[tuple[ScalarNode, Node], ...]
    source: Source


Node = ScalarNode | ListNode | SectionNode


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to the node tree, with no implicit tags at all."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


class _Converter:
    """Our nodes from PyYAML's; collects problems instead of stopping at the first."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._done: dict[int, Node] = {}

    def source(self, node: yaml.Node) -> Source:
        return Source(kind="file", name=self.file, line=node.start_mark.line + 1)

    def problem(self, node: yaml.Node, key: str, message: str) -> None:
        self.problems.append(Problem(source=self.source(node), key=key, message=message))

    def convert(self, node: yaml.Node, path: str) -> Node:
        source = self.source(node)
        if node.tag not in _PLAIN_TAGS:
            self.problem(node, path, f"tags such as {_short_tag(node.tag)} have no meaning here")
        if isinstance(node, yaml.ScalarNode):
            return ScalarNode(text=node.value, source=source, quoted=node.style is not None)
        if id(node) in self._open:
            self.problem(node, path, "the value contains itself through an alias")
            return ScalarNode(text="", source=source)
        if id(node) in self._done:  # an alias: shared, so that a few lines cannot unfold into gigabytes
            return self._done[id(node)]
        self._open.add(id(node))
        done: Node
        if isinstance(node, yaml.SequenceNode):
            items = tuple(self.convert(item, f"{path}[{i}]") for i, item in enumerate(node.value))
            done = ListNode(items=items, source=source)
        else:
            done = SectionNode(entries=self._entries(node, path), source=source)
        self._open.discard(id(node))
        self._done[id(node)] = done
        return done

    def _entries(self, node: yaml.Node, path: str) -> tuple[tuple[ScalarNode, Node], ...]:
        lines: dict[str, int] = {}
        entries = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, path, "a key must be a plain word")
                continue
            name = key_node.value
            dotted = f"{path}.{name}" if path else name
            if name in lines:
                self.problem(key_node, dotted, f"the key stands twice; first in line {lines[name]}")
                continue
            lines[name] = key_node.start_mark.line + 1
            key = ScalarNode(text=name, source=self.source(key_node))
            entries.append((key, self.convert(value_node, dotted)))
        return tuple(entries)


def _short_tag(tag: str | None) -> str:
    return (tag or "!").replace("tag:yaml.org,2002:", "!!")


def compose(text: str) -> yaml.Node | None:
    """PyYAML's own tree of ``text``, whose nodes know their characters; ``parse`` must have accepted it."""
    root: yaml.Node | None = _Loader(text).get_single_node()
    return root


def parse(data: bytes, file: str) -> tuple[Node | None, list[Problem]]:
    """The document in ``data`` and what is wrong with it as YAML.

    Args:
        data: the file's bytes; UTF-8, with or without a byte order mark.
        file: its name for messages.

    Returns:
        The root node (``None``: empty, or unreadable) and the problems.
    """
    whole = Source(kind="file", name=file)
    if len(data) > MAX_DOCUMENT_BYTES:
        return None, [
            Problem(source=whole, key="", message=f"the file is larger than {MAX_DOCUMENT_BYTES} bytes")
        ]
    try:
        root = compose(data.decode("utf-8-sig"))
        if root is None:
            return None, []
        converter = _Converter(file)
        return converter.convert(root, ""), converter.problems
    except UnicodeDecodeError as error:
        return None, [_broken(file, data[: error.start].count(b"\n") + 1, "the file is not UTF-8")]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(part for part in (error.context, error.problem) if part)
        return None, [_broken(file, mark.line + 1 if mark else 0, f"not YAML: {words}")]
    except yaml.YAMLError as error:
        return None, [Problem(source=whole, key="", message=f"not YAML: {' '.join(str(error).split())}")]
    except RecursionError:
        return None, [Problem(source=whole, key="", message="not a configuration: nested too deeply")]
    except (ValueError, OverflowError) as error:
        # PyYAML lets chr() complain about escapes such as "\U00110000".
        return None, [Problem(source=whole, key="", message=f"not YAML: {error}")]


def _broken(file: str, line: int, message: str) -> Problem:
    return Problem(source=Source(kind="file", name=file, line=line), key="", message=message)


def found(node: Node, *, secret: bool = False) -> str:
    """What stands there, in words for a message; a secret only by its length."""
    if isinstance(node, ListNode):
        return f"a list of {len(node.items)}"
    if isinstance(node, SectionNode):
        return "a section"
    if secret:
        return f"{len(node.text)} characters"
    text = node.text if len(node.text) <= 40 else node.text[:40] + "…"
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return f'"{shown}"' if node.quoted or not shown else shown
