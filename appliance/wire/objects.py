"""One JSON object, key by key, with each value as the text it came in.

Standard decoders either lose duplicate keys or the text of values; the router's loose way needs both.
Values are checked for syntax by the standard library's scanner. Sans-IO.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]

__all__ = ["ObjectSyntaxError", "scan_object"]


class ObjectSyntaxError(ValueError):
    """The text is not one JSON object."""


def _no_constant(word: str) -> object:
    raise ObjectSyntaxError(f"{word} is not JSON")


_WHITE = re.compile(r"[ \t\n\r]*")
# Numbers stay text: converting one of many digits costs quadratic time, and over 4300 digits it is refused.
_value_at = json.JSONDecoder(parse_constant=_no_constant, parse_int=str, parse_float=str).raw_decode


def _skip(text: str, position: int) -> int:
    match = _WHITE.match(text, position)
    return match.end() if match else position


def _expect(text: str, position: int, wanted: str) -> str:
    found = text[position : position + 1]
    if not found or found not in wanted:
        raise ObjectSyntaxError(f"expected one of {' '.join(wanted)} at character {position}")
    return found


def scan_object(text: str) -> list[tuple[str, str]]:
    """Keys (unescaped) and values (raw text, no surrounding white space) of the object that ``text`` is.

    Raises:
        ObjectSyntaxError: ``text`` is not exactly one JSON object.
    """
    items: list[tuple[str, str]] = []
    position = _skip(text, 0)
    _expect(text, position, "{")
    position = _skip(text, position + 1)
    if text[position : position + 1] == "}":
        closing = position
    else:
        closing = -1
    while closing < 0:
        _expect(text, position, '"')
        try:
            key, position = scanstring(text, position + 1)
            position = _skip(text, position)
            _expect(text, position, ":")
            start = _skip(text, position + 1)
            _, end = _value_at(text, start)
        except (ValueError, RecursionError) as error:
            raise ObjectSyntaxError(str(error)) from None
        items.append((key, text[start:end]))
        position = _skip(text, end)
        if _expect(text, position, ",}") == "}":
            closing = position
        else:
            position = _skip(text, position + 1)
    if _skip(text, closing + 1) != len(text):
        raise ObjectSyntaxError(f"trailing text at character {closing + 1}")
    return items
