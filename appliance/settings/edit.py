"""Change one value in the text of a hive.yaml and leave every other character alone.

For what writes the file at run time (``PUT /config/storage``, a hive that is claimed): comments, order and
keys that this version does not know survive (``spec/admin-api.md``, ``PUT /config/storage``). Text in, text
out; the caller writes the file.
"""

from __future__ import annotations

import json

import yaml

from .keys import leaves
from .problems import Problem, SettingsError, Source
from .reader import nearest_key
from .schema import Settings
from .yamlnodes import ListNode, Node, ScalarNode, SectionNode, compose, parse

__all__ = ["with_value"]

_FILE = "hive.yaml"


def with_value(text: str, key: str, value: str) -> str:
    """``text`` with ``key`` set to ``value``.

    Args:
        text: a hive.yaml; may be empty.
        key: dotted name of a key whose value is one word or text.
        value: the new value; it is written in double quotes.

    Raises:
        SettingsError: ``key`` is none, the text is not YAML, or ``key`` stands in a form that cannot be
            changed without touching more (a list, an alias).
    """
    if key not in leaves(Settings):
        raise _refused(key, f"unknown key; the nearest key is {nearest_key(key, Settings)}")
    before = _parsed(text, key)
    changed = _edited(text, key.split("."), _quoted(value), key)
    after = _parsed(changed, key)
    if _flat(after, "") != {**_without(_flat(before, ""), key), key: value}:
        raise _refused(key, "cannot be changed without touching other keys; edit the file by hand")
    return changed


def _quoted(value: str) -> str:
    # YAML folds U+0085, U+2028 and U+2029 as line breaks, so what is not printable is escaped.
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _edited(text: str, path: list[str], quoted: str, key: str) -> str:
    root = compose(text)
    if root is None or not isinstance(root, yaml.MappingNode):
        return _appended(text, path, quoted, "")
    node: yaml.MappingNode = root
    for depth, name in enumerate(path):
        found = next(((one, value) for one, value in node.value if one.value == name), None)
        if found is None:
            return _inserted(text, node, path[depth:], quoted, top=depth == 0)
        key_node, value_node = found
        if depth == len(path) - 1 or not isinstance(value_node, yaml.MappingNode):
            if (
                not isinstance(value_node, yaml.ScalarNode)
                or value_node.start_mark.index < key_node.end_mark.index
            ):
                raise _refused(key, "is written in a form that cannot be changed; edit the file by hand")
            return _replaced(text, value_node, path[depth + 1 :], quoted)
        node = value_node
    raise AssertionError("a path has at least one part")


def _replaced(text: str, old: yaml.ScalarNode, below: list[str], quoted: str) -> str:
    """``key: old`` becomes ``key: quoted``, or ``key:`` without a value gets its first key below."""
    start, end = old.start_mark.index, old.end_mark.index
    flow = quoted
    for name in reversed(below):
        flow = f"{{{name}: {flow}}}"
    space = "" if start > 0 and text[start - 1] in " \n" else " "
    return text[:start] + space + flow + text[end:]


def _inserted(text: str, section: yaml.MappingNode, path: list[str], quoted: str, *, top: bool) -> str:
    """A key that its section does not have yet, as the section's first one, or at the end of the file."""
    if section.flow_style:
        flow = quoted
        for name in reversed(path):
            flow = f"{name}: {flow}" if name == path[0] else f"{{{name}: {flow}}}"
        at = section.start_mark.index + 1
        return text[:at] + flow + (", " if section.value else "") + text[at:]
    if top:
        return _appended(text, path, quoted, " " * section.start_mark.column)
    indent = " " * section.start_mark.column
    at = section.start_mark.index
    return text[:at] + _block(path, quoted, indent).lstrip(" ") + indent + text[at:]


def _appended(text: str, path: list[str], quoted: str, indent: str) -> str:
    if text and not text.endswith("\n"):
        text += "\n"
    return text + _block(path, quoted, indent)


def _block(path: list[str], quoted: str, indent: str) -> str:
    lines = [f"{indent}{'  ' * depth}{name}:" for depth, name in enumerate(path)]
    return "\n".join(lines) + f" {quoted}\n"


def _parsed(text: str, key: str) -> Node | None:
    node, problems = parse(text.encode("utf-8", "surrogatepass"), _FILE)
    if problems:
        raise SettingsError(tuple(problems))
    if isinstance(node, ListNode) or (isinstance(node, ScalarNode) and not node.is_null):
        raise _refused(key, "the file does not hold keys and values")
    return node


def _flat(node: Node | None, prefix: str) -> dict[str, str]:
    """Every scalar by its dotted path; sections without keys and nulls count as absent."""
    if isinstance(node, SectionNode):
        found: dict[str, str] = {}
        for name, below in node.entries:
            found.update(_flat(below, f"{prefix}.{name.text}" if prefix else name.text))
        return found
    if isinstance(node, ListNode):
        return {
            path: text
            for index, item in enumerate(node.items)
            for path, text in _flat(item, f"{prefix}[{index}]").items()
        }
    return {} if node is None or node.is_null else {prefix: node.text}


def _without(flat: dict[str, str], key: str) -> dict[str, str]:
    return {path: text for path, text in flat.items() if path != key}


def _refused(key: str, message: str) -> SettingsError:
    return SettingsError((Problem(source=Source(kind="file", name=_FILE), key=key, message=message),))
