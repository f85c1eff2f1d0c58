"""How deep a JSON text is nested, without parsing it.

msgspec skips over raw values without a limit of its own below the interpreter's recursion limit, and other
languages' decoders stop at 128 (``spec/node-protocol.md §2.1``). Brackets are counted first, which is cheap
and settles nearly every frame; only a text with more than 128 opening brackets is looked at closely. Sans-IO.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

__all__ = ["MAX_DEPTH", "depth_exceeds"]

MAX_DEPTH: Final = 128
"""Deepest nesting of arrays and objects in a frame, the outermost object included."""

# Possessive, and content with a string that never ends: text that is no JSON must not make it start over.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_OPENING = bytes(set(range(256)) - set(b"[{"))
_STEP = bytes.maketrans(b"[]{}", bytes((1, 0, 1, 0)))


def depth_exceeds(text: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether arrays and objects in ``text`` nest deeper than ``limit``. The text need not be valid JSON."""
    if len(text.translate(None, _NOT_OPENING)) <= limit:
        return False
    brackets = _STRING.sub(b"", text).translate(_STEP, _NOT_BRACKETS)
    return max(accumulate(1 if step else -1 for step in brackets), default=0) > limit
