"""Blobs on disk: put into ``staging``, promote to ``active``, look up, collect.

:class:`BlobToolkit` does the work and blocks; :class:`AsyncBlobToolkit` offers the same calls to async code
(trio or asyncio) through worker threads. Rules: ``spec/node-protocol.md §6.3–6.4``. Invariants: a name
appears only with its whole content behind it; content of any size needs little memory; what lies in
``active`` never changes; a failure leaves nothing, a killed process at most a temporary file, which
collection removes; below the root no symbolic link is followed. A reference may be sent once ``promote``
returned: the blob is then on the medium.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
import msgspec

from appliance.wire import blob
from appliance.wire.blob import BlobGcOptions, BlobGcReport, BlobMetrics, BlobRef, BlobStat, ResolveRetry
from appliance.wire.errors import FluxbeeError

from .blob_gc import collect
from .blob_place import TEMP_PREFIX, BlobPlace, regular_file

__all__ = ["AsyncBlobToolkit", "BlobToolkit", "blob_metrics"]

_CHUNK_BYTES = 1 << 20

P = ParamSpec("P")
T = TypeVar("T")

_metrics = BlobMetrics()
_counting = threading.Lock()


def blob_metrics() -> BlobMetrics:
    """Counters of this process, over all toolkits."""
    return _metrics


def _count(**more: int) -> None:
    global _metrics
    with _counting:
        new = {key: getattr(_metrics, key) + value for key, value in more.items()}
        _metrics = msgspec.structs.replace(_metrics, **new)


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Map the system's errors to ``BLOB_IO_ERROR`` and count every error of a call."""
    try:
        try:
            yield
        except OSError as error:
            raise blob.blob_error(blob.BLOB_IO_ERROR, f"{what}: {error.strerror or error}") from error
    except FluxbeeError:
        _count(blob_errors_total=1)
        raise


class BlobToolkit:
    """The blobs below one root. Calls block and may run in any thread, several at once.

    Args:
        root: blob root; made when something is first put.
        name_max_chars: of the sanitized stem.
        max_blob_bytes: of one blob; ``None`` means no limit.
        durable: sync content and directories, so that a promoted blob survives a power cut.
        wall_s: wall clock in seconds, for ``spool_day`` and the age of files.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        name_max_chars: int = blob.NAME_MAX_CHARS,
        max_blob_bytes: int | None = blob.MAX_BLOB_BYTES,
        durable: bool = True,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.root = Path(root)
        self.name_max_chars = name_max_chars
        self.max_blob_bytes = max_blob_bytes
        self._durable = durable
        self._wall_s = wall_s
        self._place = BlobPlace(self.root)

    # --- names (``spec/node-protocol.md §8.1``) ----------------------------------------------------------

    prefix = staticmethod(blob.blob_prefix)
    validate_blob_name = staticmethod(blob.validate_blob_name)
    validate_blob_ref = staticmethod(blob.validate_blob_ref)
    metrics_snapshot = staticmethod(blob_metrics)

    # --- writing --------------------------------------------------------------------------------------

    def put(self, path: Path | str, name: str = "") -> BlobRef:
        """Copy the file at ``path`` into staging.

        Args:
            path: the source; read once, in pieces.
            name: original name; blank means the name of the source. The MIME type is guessed from it.

        Raises:
            Invalid: ``BLOB_TOO_LARGE``, ``BLOB_INVALID_NAME``.
            NotFound: ``BLOB_NOT_FOUND``; there is no source.
            Unavailable: ``BLOB_IO_ERROR``; for example a full disk. Nothing is left behind.
        """
        source = Path(path)
        original = name if name.strip() else source.name
        with _errors(str(source)), _open_source(source) as file:
            self._check_size(os.fstat(file.fileno()).st_size)
            return self._stage(_pieces(file), original, None)

    def put_bytes(self, data: bytes | bytearray | memoryview, name: str, mime: str | None = None) -> BlobRef:
        """Write ``data`` into staging; a blank ``mime`` is guessed from ``name``. Errors as :meth:`put`."""
        view = memoryview(data).cast("B")
        with _errors(name):
            self._check_size(len(view))
            pieces = (view[at : at + _CHUNK_BYTES] for at in range(0, len(view), _CHUNK_BYTES))
            return self._stage(pieces, name, mime)

    def _check_size(self, size_bytes: int) -> None:
        if self.max_blob_bytes is not None and size_bytes > self.max_blob_bytes:
            raise blob.blob_error(
                blob.BLOB_TOO_LARGE, f"{size_bytes} bytes, at most {self.max_blob_bytes} are allowed"
            )

    def _stage(self, pieces: Iterable[bytes | memoryview], original: str, mime: str | None) -> BlobRef:
        # Whether a name can be stored does not depend on the hash: refuse before writing.
        blob.blob_name_of(original, "0" * blob.HASH_CHARS, name_max_chars=self.name_max_chars)
        temp = f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        with self._place.area(blob.STAGING_DIR, create=True) as staging:
            try:
                hash16, size_bytes = self._write(staging, temp, pieces)
                name = blob.blob_name_of(original, hash16, name_max_chars=self.name_max_chars)
                self._place.move(staging, temp, blob.STAGING_DIR, name)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temp, dir_fd=staging)
                raise
        _count(blob_put_total=1, blob_put_bytes_total=size_bytes)
        return blob.make_blob_ref(
            blob_name=name, size_bytes=size_bytes, original=original, mime=mime, wall_s=self._wall_s()
        )

    def _write(self, staging: int, temp: str, pieces: Iterable[bytes | memoryview]) -> tuple[str, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        digest, size_bytes = hashlib.sha256(), 0
        with FileIO(os.open(temp, flags, blob.FILE_MODE, dir_fd=staging), "wb") as file:
            for piece in pieces:
                size_bytes += len(piece)
                self._check_size(size_bytes)  # a source may grow while it is read
                digest.update(piece)
                _write_all(file, piece)
            os.fchmod(file.fileno(), blob.FILE_MODE)  # the umask is not asked
            if self._durable:
                os.fdatasync(file.fileno())
        return digest.hexdigest()[: blob.HASH_CHARS], size_bytes

    def promote(self, ref: BlobRef) -> None:
        """Make a staged blob referable.

        When it is active already that is fine: a staged copy stays until collection, and the active one is
        touched, so that a blob that was just sent again is not collected for its age.

        Raises:
            Invalid: ``BLOB_INVALID_NAME``.
            NotFound: ``BLOB_NOT_FOUND``; it is neither staged nor active.
            Unavailable: ``BLOB_IO_ERROR``.
        """
        with _errors(ref.blob_name):
            blob.validate_blob_name(ref.blob_name)
            if self._place.touch(blob.ACTIVE_DIR, ref.blob_name):
                return
            try:
                with self._place.folder(blob.STAGING_DIR, ref.blob_name, create=False) as staged:
                    if regular_file(ref.blob_name, staged) is None:
                        raise FileNotFoundError
                    self._place.move(
                        staged, ref.blob_name, blob.ACTIVE_DIR, ref.blob_name, durable=self._durable
                    )
            except FileNotFoundError as error:
                # Somebody who put the same content may have promoted it in between.
                if not self._place.touch(blob.ACTIVE_DIR, ref.blob_name):
                    raise blob.blob_error(blob.BLOB_NOT_FOUND, f"{ref.blob_name} is not staged") from error

    # --- reading --------------------------------------------------------------------------------------

    def resolve(self, ref: BlobRef) -> Path:
        """Path of the blob in ``active``, without looking. A hostile name gives a path that cannot exist."""
        _count(blob_resolve_total=1)
        return self._place.path(blob.ACTIVE_DIR, ref.blob_name)

    async def resolve_with_retry(self, ref: BlobRef, retry: ResolveRetry | None = None) -> Path:
        """Path of the blob in ``active`` once it is there; it may arrive after the message that names it.

        Runs on trio and asyncio; looks at the disk in a worker thread.

        Raises:
            Invalid: ``BLOB_INVALID_REF``, ``BLOB_INVALID_NAME``.
            NotFound: ``BLOB_NOT_FOUND``; it did not come in time.
        """
        schedule, began = retry or ResolveRetry(), anyio.current_time()
        with _errors(ref.blob_name):
            blob.validate_blob_ref(ref)
            path = self.resolve(ref)
            for attempt in itertools.count():
                if await anyio.to_thread.run_sync(self._place.has, blob.ACTIVE_DIR, ref.blob_name):
                    break
                delay_s = schedule.delay_s(attempt, anyio.current_time() - began)
                if delay_s is None:
                    detail = f"{ref.blob_name} did not come within {schedule.max_wait_ms} ms"
                    raise blob.blob_error(blob.BLOB_NOT_FOUND, detail)
                _count(blob_resolve_retry_total=1)
                await anyio.sleep(delay_s)
        return path

    def exists(self, ref: BlobRef) -> bool:
        """Whether the blob is active; False for a malformed reference."""
        try:
            blob.validate_blob_ref(ref)
        except FluxbeeError:
            return False
        with _errors(ref.blob_name):
            return self._place.has(blob.ACTIVE_DIR, ref.blob_name)

    def stat(self, ref: BlobRef) -> BlobStat:
        """Size on disk of the active blob; raises ``BLOB_INVALID_*`` for a malformed reference."""
        with _errors(ref.blob_name):
            blob.validate_blob_ref(ref)
            size_bytes = self._place.size(blob.ACTIVE_DIR, ref.blob_name)
        path = str(self._place.path(blob.ACTIVE_DIR, ref.blob_name))
        return BlobStat(size_on_disk=size_bytes or 0, exists=size_bytes is not None, path=path)

    # --- collection -----------------------------------------------------------------------------------

    def run_gc(self, options: BlobGcOptions | None = None) -> BlobGcReport:
        """Collect old files of both areas by their modification time; a dry run unless ``apply`` is set."""
        return collect(self.root, options or BlobGcOptions(), self._wall_s())


class AsyncBlobToolkit:
    """:class:`BlobToolkit` for async code: every call that touches the disk runs in a worker thread.

    A cancelled call still finishes in its thread; what it put stays staged until collection.

    Args:
        toolkit: does the work.
        limiter: of the threads; anyio's default one when ``None``.
    """

    def __init__(self, toolkit: BlobToolkit, *, limiter: anyio.CapacityLimiter | None = None) -> None:
        self.toolkit = toolkit
        self._limiter = limiter
        self.resolve = toolkit.resolve
        self.resolve_with_retry = toolkit.resolve_with_retry

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._limiter)

    async def put(self, path: Path | str, name: str = "") -> BlobRef:
        """See :meth:`BlobToolkit.put`."""
        return await self._run(self.toolkit.put, path, name)

    async def put_bytes(self, data: bytes, name: str, mime: str | None = None) -> BlobRef:
        """See :meth:`BlobToolkit.put_bytes`."""
        return await self._run(self.toolkit.put_bytes, data, name, mime)

    async def promote(self, ref: BlobRef) -> None:
        """See :meth:`BlobToolkit.promote`."""
        await self._run(self.toolkit.promote, ref)

    async def exists(self, ref: BlobRef) -> bool:
        """See :meth:`BlobToolkit.exists`."""
        return await self._run(self.toolkit.exists, ref)

    async def stat(self, ref: BlobRef) -> BlobStat:
        """See :meth:`BlobToolkit.stat`."""
        return await self._run(self.toolkit.stat, ref)

    async def run_gc(self, options: BlobGcOptions | None = None) -> BlobGcReport:
        """See :meth:`BlobToolkit.run_gc`."""
        return await self._run(self.toolkit.run_gc, options)


def _open_source(path: Path) -> FileIO:
    try:
        # Not to be held up by a pipe that nobody writes.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise blob.blob_error(blob.BLOB_NOT_FOUND, str(path)) from error
    file = FileIO(fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        file.close()
        raise blob.blob_error(blob.BLOB_IO_ERROR, f"{path} is not a regular file")
    return file


def _pieces(file: FileIO) -> Iterator[memoryview]:
    """The rest of ``file`` in pieces of one buffer, which the next step overwrites."""
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    while count := file.readinto(buffer):
        yield view[:count]


def _write_all(file: FileIO, piece: bytes | memoryview) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]
