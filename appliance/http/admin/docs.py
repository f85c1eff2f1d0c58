"""The reading page of the API document: our own HTML and script, works offline, under the door's policy.

``/docs`` lists every path of ``/openapi.json`` with parameters, bodies and answers.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

__all__ = ["DOCS", "Document"]


class Document(msgspec.Struct, frozen=True):
    """One file in memory."""

    body: bytes
    media_type: bytes


_FOLDER: Final = Path(__file__).parents[1] / "docs" / "page"


def _file(name: str, media_type: str) -> Document:
    return Document((_FOLDER / name).read_bytes(), f"{media_type}; charset=utf-8".encode())


DOCS: Final = MappingProxyType(
    {
        "/docs": _file("docs.html", "text/html"),
        "/docs/docs.css": _file("docs.css", "text/css"),
        "/docs/docs.js": _file("docs.js", "text/javascript"),
    }
)
"""By path."""
