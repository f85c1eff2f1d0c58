"""The whole world as one file: ``GET /api/admin/backup`` and ``POST /api/admin/restore`` (admin token).

A backup is streamed as the engine writes it, no faster than the client takes it. A restore is spooled to a
file first: the world stops taking events only while a whole copy is read in, never while one arrives. What
was spooled is gone when the request ends.
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

import trio
from starlette.requests import ClientDisconnect

from appliance.http.gate import extend_deadline
from appliance.store.files import storage_error
from appliance.wire.errors import Busy, FluxbeeError, Unavailable
from appliance.world import WorldEngine

from .call import Call, Reply, json_reply
from .credentials import Credentials

__all__ = ["BACKUP_TYPE", "Copies"]

BACKUP_TYPE: Final = "application/octet-stream"
_LONGEST_S: Final = 3600.0
_PIECES: Final = 4
_PIECE_BYTES: Final = 256 << 10
_HEADERS: Final = (
    (b"content-type", BACKUP_TYPE.encode()),
    (b"content-disposition", b'attachment; filename="world.backup"'),
    (b"cache-control", b"no-store"),
)
_REFUSAL: Final = "Admin token required"
_FILES: Final = 4


class _Outlet(io.RawIOBase):
    """A file for a worker thread whose bytes come out on the loop; a reader that is gone is ``EPIPE``."""

    def __init__(self, pieces: trio.MemorySendChannel[bytes]) -> None:
        self._pieces = pieces
        self._gone = False

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self._gone:  # the buffer before this one empties itself once more when it is forgotten
            return len(data)
        try:
            trio.from_thread.run(self._pieces.send, bytes(data))
        except (trio.BrokenResourceError, trio.Cancelled) as error:
            self._gone = True
            raise BrokenPipeError("the client left") from error
        return len(data)


class Copies:
    """Backup and restore.

    Args:
        engine: the world.
        credentials: who is who.
        spool: directory for uploads.
    """

    def __init__(self, engine: WorldEngine, credentials: Credentials, spool: Path) -> None:
        self._engine = engine
        self._credentials = credentials
        self._spool = spool
        self._files = trio.CapacityLimiter(_FILES)
        self._restoring = False

    def _demand(self, call: Call) -> None:
        self._credentials.demand_admin(call.scope, trio.current_time(), _REFUSAL)

    async def backup(self, call: Call) -> Reply | None:
        """Stream a copy; ends early, visibly, when it takes longer than an hour."""
        self._demand(call)
        inlet, outlet = trio.open_memory_channel[bytes](_PIECES)
        failure: list[FluxbeeError] = []
        with trio.move_on_after(_LONGEST_S) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, inlet, failure)
                await _stream(call, outlet)
        if patience.cancelled_caught:
            raise Unavailable("the backup took too long")
        if failure:
            raise failure[0]  # an answer when nothing was sent yet; else the connection is cut
        await call.send({"type": "http.response.body", "body": b""})
        return None

    async def _write(self, inlet: trio.MemorySendChannel[bytes], failure: list[FluxbeeError]) -> None:
        async with inlet:
            try:
                await self._engine.backup(cast("BinaryIO", io.BufferedWriter(_Outlet(inlet), _PIECE_BYTES)))
            except FluxbeeError as error:
                failure.append(error)

    async def restore(self, call: Call) -> Reply:
        """Replace the world by the copy in the body: all of it or nothing."""
        self._demand(call)
        if self._restoring:
            raise Busy("another restore is under way", retry_after_s=10)
        extend_deadline(call.scope, _LONGEST_S)
        self._restoring = True
        try:
            async with self._spooled(call) as stream:
                return json_reply({"restored": True, "entities": await self._engine.restore(stream)})
        finally:
            self._restoring = False

    @asynccontextmanager
    async def _spooled(self, call: Call) -> AsyncIterator[BinaryIO]:
        """The body as a file that has no name any more."""
        try:
            stream = await trio.to_thread.run_sync(self._open, limiter=self._files)
            try:
                more = True
                while more:
                    message = await call.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    more = bool(message.get("more_body", False))
                    if piece := message.get("body", b""):
                        await trio.to_thread.run_sync(stream.write, piece, limiter=self._files)
                await trio.to_thread.run_sync(stream.seek, 0, limiter=self._files)
                yield stream
            finally:
                with trio.CancelScope(shield=True), suppress(OSError):
                    await trio.to_thread.run_sync(stream.close, limiter=self._files)
        except OSError as error:
            raise storage_error(error, "spool of the upload") from error

    def _open(self) -> BinaryIO:
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._spool / f"restore-{os.getpid()}"
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()
        return os.fdopen(handle, "w+b")


async def _stream(call: Call, pieces: trio.MemoryReceiveChannel[bytes]) -> None:
    """Send what comes; the head goes with the first piece, so that a backup that fails at once is told."""
    started = False
    async with pieces:
        async for piece in pieces:
            if not started:
                started = True
                await call.send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await call.send({"type": "http.response.body", "body": piece, "more_body": True})
