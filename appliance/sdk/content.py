"""Long texts and attachments: what does not fit into a message travels as a blob.

A ``text/v1`` payload whose JSON comes near the frame limit has its content stored, promoted and replaced by a
reference before it is queued (``spec/node-protocol.md §6.2``); its other keys are kept. Reading waits for a
blob that the message has overtaken. All file work runs in worker threads.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec

from appliance.store.blobs import BlobToolkit
from appliance.system.log import get_logger
from appliance.wire.blob import BLOB_IO_ERROR, BlobRef, ResolveRetry, blob_error
from appliance.wire.envelope import Message, raw_json
from appliance.wire.errors import FluxbeeError, Invalid
from appliance.wire.text import (
    ENVELOPE_ALLOWANCE_BYTES,
    MESSAGE_BUDGET_BYTES,
    OFFLOAD_MIME,
    OFFLOAD_NAME,
    is_text_payload,
    needs_offload,
    parse_text_payload,
)

__all__ = ["ContentDesk"]

log = get_logger("sdk")


class ContentDesk:
    """Blobs of one node.

    Args:
        root: root of the blob store.
        budget_bytes: a text payload whose JSON and the allowance are over it is off-loaded.
    """

    def __init__(self, root: Path, *, budget_bytes: int = MESSAGE_BUDGET_BYTES) -> None:
        self.toolkit = BlobToolkit(root, max_blob_bytes=None)
        self.budget_bytes = budget_bytes
        self.offloaded = 0
        self.failures = 0

    def may_offload(self, message: Message) -> bool:
        """Whether ``message`` is long enough for :meth:`offload` to look at it; cheap."""
        return len(message.payload) + ENVELOPE_ALLOWANCE_BYTES > self.budget_bytes

    async def offload(self, message: Message) -> Message:
        """``message``, or a copy whose text content is behind a reference.

        What is no well-formed inline text goes as it is; so does a text that cannot be stored (counted), as
        long as it fits into a frame.
        """
        if not is_text_payload(message.payload):
            return message
        try:
            payload = parse_text_payload(message.payload)
        except Invalid as error:
            log.warning("text_payload_malformed", code="TEXT_PAYLOAD_MALFORMED", reason=str(error))
            return message
        if payload.content is None or not needs_offload(payload, budget_bytes=self.budget_bytes):
            return message
        try:
            ref = await self.store(payload.content.encode(), OFFLOAD_NAME, OFFLOAD_MIME)
        except FluxbeeError as error:
            self.failures += 1
            log.warning("text_offload_failed", code="TEXT_OFFLOAD_FAILED", reason=str(error))
            return message
        self.offloaded += 1
        return msgspec.structs.replace(message, payload=raw_json(payload.offloaded(ref).to_payload()))

    async def store(self, data: bytes, name: str, mime: str | None = None) -> BlobRef:
        """Put ``data`` into the blob store and promote it; the reference may be sent at once.

        Args:
            data: the content.
            name: original file name.
            mime: MIME type; guessed from the name when ``None``.

        Raises:
            Invalid: ``BLOB_INVALID_NAME``, ``BLOB_TOO_LARGE``.
            Unavailable: ``BLOB_IO_ERROR``.
        """

        def put_and_promote() -> BlobRef:
            ref = self.toolkit.put_bytes(data, name, mime)
            self.toolkit.promote(ref)
            return ref

        return await anyio.to_thread.run_sync(put_and_promote)

    async def fetch(self, ref: BlobRef, retry: ResolveRetry | None = None) -> Path:
        """The file behind ``ref``, waiting for it to arrive (default: up to 5 s).

        Raises:
            NotFound: ``BLOB_NOT_FOUND``, it did not arrive in time.
            Invalid: ``BLOB_INVALID_*``.
        """
        return await self.toolkit.resolve_with_retry(ref, retry)

    async def read(self, ref: BlobRef, retry: ResolveRetry | None = None) -> bytes:
        """The content behind ``ref`` (errors: :meth:`fetch`, and ``BLOB_IO_ERROR``)."""
        path = await self.fetch(ref, retry)
        try:
            return await anyio.to_thread.run_sync(path.read_bytes)
        except OSError as error:
            raise blob_error(BLOB_IO_ERROR, f"{path.name}: {error}") from error

    async def text_of(self, message: Message, retry: ResolveRetry | None = None) -> str:
        """The text of a ``text/v1`` message, inline or behind its reference.

        Raises:
            Invalid: no ``text/v1`` payload, or the blob is no UTF-8.
            NotFound: ``BLOB_NOT_FOUND``.
        """
        payload = parse_text_payload(message.payload)
        if payload.content_ref is None:
            return payload.content or ""
        data = await self.read(payload.content_ref, retry)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise Invalid("the text behind content_ref is no UTF-8", code="INVALID_PAYLOAD") from error
