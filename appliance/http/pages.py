"""The static files of a door's page, read once and served from memory.

A page is a folder with ``index.html`` and the modules that it names as ``/page/<file>``; what several pages
share lies in ``appliance/http/page``. Everything works offline and under the door's content security policy:
no inline script, nothing from elsewhere. A page's files are part of the program, so a missing one is a defect
that shows when the door is made, not when somebody looks.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["PAGE_PREFIX", "Page", "wants_html"]

PAGE_PREFIX: Final = "/page/"
"""Where a page's files are, below its door."""

_SHARED: Final = Path(__file__).parent / "page"
_TYPES: Final = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)


class _File(msgspec.Struct, frozen=True):
    body: bytes
    media_type: str
    etag: str


def wants_html(accept: str) -> bool:
    """Whether an ``Accept`` header asks for a page before JSON, as browsers do and ``curl`` does not."""
    kinds = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    return "text/html" in kinds and kinds.index("text/html") <= min(
        (kinds.index(kind) for kind in kinds if kind == "application/json"), default=len(kinds)
    )


class Page:
    """One page and its files.

    Args:
        folder: holds ``index.html``; its files go before shared ones of the same name.

    Raises:
        OSError: the folder or its ``index.html`` is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {
            path.name: _read(path)
            for place in (_SHARED, folder)
            for path in sorted(place.iterdir())
            if path.suffix in _TYPES
        }
        self._index = _read(folder / "index.html")

    @property
    def names(self) -> frozenset[str]:
        """Names below :data:`PAGE_PREFIX`."""
        return frozenset(self._files)

    def index(self, request: Request) -> Response:
        """The page itself."""
        return _response(self._index, request)

    def file(self, name: str, request: Request) -> Response | None:
        """One file; ``None`` when the page has no such file."""
        found = self._files.get(name)
        return None if found is None else _response(found, request)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, _TYPES[path.suffix], f'"{sha256(body).hexdigest()[:20]}"')


def _response(file: _File, request: Request) -> Response:
    # Always asked again, seldom sent again: an update of the box must not meet yesterday's script.
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
