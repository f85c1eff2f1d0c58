"""``/modules``: lists, downloads and uploads of modules (``spec/admin-api.md §B.8``).

These answers are no envelopes: small objects, or the module itself. The files belong to the store; here is
what HTTP makes of them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Final, cast

import msgspec
import trio
from starlette.types import Receive, Send

from appliance.supervise.modules import ModuleStore
from appliance.wire.admin.codes import http_status_of
from appliance.wire.errors import FluxbeeError, NotFound

from .body import read_body
from .paths import decoded
from .replies import send_bytes

__all__ = ["ModuleDoor"]

PATIENCE_S: Final = 120.0
"""For packing or unpacking the largest module on slow flash."""

_AT_ONCE: Final = 2
_PIECE_BYTES: Final = 1 << 18
_IN_MEMORY_BYTES: Final = 1 << 20


class ModuleDoor:
    """Answers requests whose path begins with ``/modules``.

    Args:
        store: the modules.
        spool: directory for what is packed, and too large for memory.
    """

    def __init__(self, store: ModuleStore, spool: Path) -> None:
        self._store = store
        self._spool = spool
        self._threads = trio.CapacityLimiter(_AT_ONCE)

    def serves(self, method: str, parts: tuple[str, ...]) -> bool:
        """Whether ``method`` on these segments, ``modules`` first, is a request for modules."""
        if parts[:1] != ("modules",) or "" in parts:
            return False
        return len(parts) <= 3 if method == "GET" else method == "POST" and len(parts) == 3

    async def answer(self, method: str, parts: tuple[str, ...], receive: Receive, send: Send) -> None:
        """Answer a request that :meth:`serves`."""
        try:
            names = [decoded(part) for part in parts[1:]]
            if method == "POST":
                body = await self._upload(names[0], names[1], await read_body(receive))
            elif len(names) == 2:
                await self._download(names[0], names[1], send)
                return
            else:
                body = await self._list(names)
        except FluxbeeError as error:
            await send_bytes(send, http_status_of(_code(error)), msgspec.json.encode(_failure(error)))
            return
        await send_bytes(send, 200, msgspec.json.encode(body))

    async def _list(self, names: list[str]) -> dict[str, object]:
        if not names:
            found = await trio.to_thread.run_sync(self._store.names, limiter=self._threads)
            return {"status": "ok", "modules": found}
        versions = await trio.to_thread.run_sync(self._store.versions, names[0], limiter=self._threads)
        return {"status": "ok", "name": names[0], "versions": versions}

    async def _upload(self, name: str, version: str, archive: bytes) -> dict[str, object]:
        # What is being unpacked is finished also when its client leaves: a version is whole or not there.
        await trio.to_thread.run_sync(self._store.store, name, version, archive, limiter=self._threads)
        return {"status": "ok", "name": name, "version": version}

    async def _download(self, name: str, version: str, send: Send) -> None:
        path = await trio.to_thread.run_sync(self._store.find, name, version, limiter=self._threads)
        file = await trio.to_thread.run_sync(self._opened, path, limiter=self._threads)
        try:
            length = file.seek(0, 2)
            file.seek(0)
            kind = b"application/x-tar" if path.is_dir() else b"application/octet-stream"
            headers = [(b"content-type", kind), (b"content-length", str(length).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            left = length
            while left > 0:
                piece = await trio.to_thread.run_sync(file.read, _PIECE_BYTES, limiter=self._threads)
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            file.close()

    def _opened(self, path: Path) -> IO[bytes]:
        if path.is_file():
            return path.open("rb")
        self._spool.mkdir(parents=True, exist_ok=True)
        # Whoever sends it closes it.
        spooled = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(self._spool))  # noqa: SIM115
        file = cast("IO[bytes]", spooled)
        try:
            self._store.pack(path, file)
        except BaseException:
            file.close()
            raise
        return file


def _code(error: FluxbeeError) -> str:
    return "NOT_FOUND" if isinstance(error, NotFound) else error.code


def _failure(error: FluxbeeError) -> dict[str, str]:
    code = _code(error)
    answer = {"status": "error", "error_code": code}
    if code not in ("NOT_FOUND", "MODULE_EXISTS"):  # these two are compared as they are
        answer["error_detail"] = error.message
    return answer
