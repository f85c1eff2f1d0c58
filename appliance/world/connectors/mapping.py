"""Small paths into a JSON document: ``a.b[0].c`` (``$`` is the whole document). Pure.

A mapping gives each property a path; what the document does not have is left out, so a source that omits a
value does not erase it. Nothing is computed: whoever needs more publishes events of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from appliance.wire.errors import Invalid

__all__ = ["MAX_PROPERTIES", "Mapped", "compiled"]

MAX_PROPERTIES: Final = 200
_STEP: Final = re.compile(
    r"""\.?(?P<name>[^.\[\]"'$\s][^.\[\]"']*)|\[(?P<index>[0-9]{1,6})\]|\["(?P<key>[^"]+)"\]"""
)
_LONGEST: Final = 512
_MISSING: Final = object()

Path = tuple[str | int, ...]


class Mapped:
    """A mapping ready for use."""

    __slots__ = ("_paths",)

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def properties(self, document: object) -> dict[str, object]:
        """The properties that ``document`` has."""
        found = {name: _at(document, path) for name, path in self._paths.items()}
        return {name: value for name, value in found.items() if value is not _MISSING}


def compiled(mapping: Mapping[str, str]) -> Mapped:
    """Read a mapping.

    Raises:
        Invalid: a path is none; there are none or too many.
    """
    if not 0 < len(mapping) <= MAX_PROPERTIES:
        raise Invalid(f"mapping must have 1 to {MAX_PROPERTIES} properties", field="mapping")
    return Mapped({name: _path(name, text) for name, text in mapping.items()})


def _path(name: str, text: str) -> Path:
    steps: list[str | int] = []
    place = 1 if text.startswith("$") else 0
    while place < len(text):
        step = _STEP.match(text, place)
        if step is None or len(text) > _LONGEST or (place == 0 and step[0].startswith(".")):
            raise Invalid(f"mapping.{name}: {text[:80]!r} is no path such as a.b[0].c", field="mapping")
        index = step["index"]
        steps.append(int(index) if index is not None else step["name"] or step["key"])
        place = step.end()
    if not text:
        raise Invalid(f"mapping.{name}: the path is empty", field="mapping")
    return tuple(steps)


def _at(value: object, path: Path) -> object:
    for step in path:
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                return _MISSING
            value = value[step]
        elif not isinstance(value, dict) or step not in value:
            return _MISSING
        else:
            value = value[step]
    return value
