"""The ``text/v1`` payload, and thread ids (``spec/node-protocol.md §6.1, §6.2, §2.7``).

A text payload carries its content inline or as a blob reference, never both, plus attachments. Keys that the
format does not name are kept in ``extra`` and written back, where the reference loses them. Whether content
is too long to travel inline is decided here; storing it is not. Sans-IO.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from .blob import BlobRef, blob_ref_from, validate_blob_ref
from .errors import Invalid

if TYPE_CHECKING:
    from .envelope import Json

__all__ = [
    "ENVELOPE_ALLOWANCE_BYTES",
    "MESSAGE_BUDGET_BYTES",
    "OFFLOAD_MIME",
    "OFFLOAD_NAME",
    "TEXT_TYPE",
    "DirectPair",
    "NativeThread",
    "PersistentChannel",
    "TextPayload",
    "ThreadIdInput",
    "compute_thread_id",
    "is_text_payload",
    "needs_offload",
    "parse_text_payload",
]

TEXT_TYPE = "text"
MESSAGE_BUDGET_BYTES = 65_536
"""Inline text payloads stay below this with :data:`ENVELOPE_ALLOWANCE_BYTES` added."""
ENVELOPE_ALLOWANCE_BYTES = 2_048
OFFLOAD_NAME = "content.txt"
OFFLOAD_MIME = "text/plain"


class TextPayload(msgspec.Struct, frozen=True, kw_only=True):
    """A text message. Exactly one of ``content`` (may be ``""``) and ``content_ref`` is set.

    Raises:
        Invalid: both or none are set, or a reference is malformed (``BLOB_INVALID_*``).
    """

    content: str | None = None
    content_ref: BlobRef | None = None
    attachments: tuple[BlobRef, ...] = ()
    extra: dict[str, Json] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.content is None) == (self.content_ref is None):
            raise _invalid("a text payload has exactly one of content and content_ref", "payload.content")
        for ref in (*self.attachments, *(() if self.content_ref is None else (self.content_ref,))):
            validate_blob_ref(ref)

    def to_payload(self) -> dict[str, object]:
        """The payload object as it goes on the wire; ``attachments`` is always written."""
        body: dict[str, object] = {"type": TEXT_TYPE}
        if self.content_ref is None:
            body["content"] = self.content
        else:
            body["content_ref"] = self.content_ref
        body["attachments"] = self.attachments
        return {**body, **{key: value for key, value in self.extra.items() if key not in _KNOWN}}

    def offloaded(self, ref: BlobRef) -> TextPayload:
        """The same payload with its content behind ``ref``."""
        return TextPayload(content_ref=ref, attachments=self.attachments, extra=self.extra)


_KNOWN = frozenset({"type", "content", "content_ref", "attachments"})


def _invalid(message: str, field: str) -> Invalid:
    return Invalid(message, code="INVALID_PAYLOAD", field=field)


class _Kind(msgspec.Struct):
    type: str


_kind_decoder = msgspec.json.Decoder(_Kind)


def is_text_payload(payload: msgspec.Raw) -> bool:
    """Whether raw payload bytes are an object with ``"type": "text"``."""
    try:
        return _kind_decoder.decode(payload).type == TEXT_TYPE
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def parse_text_payload(payload: msgspec.Raw) -> TextPayload:
    """Read raw payload bytes.

    Raises:
        Invalid: no ``text/v1`` payload; the message says where (``INVALID_PAYLOAD`` or ``BLOB_INVALID_*``).
    """
    try:
        body: Mapping[str, Json] = msgspec.json.decode(payload, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"payload: {error}", "payload") from error
    if body.get("type") != TEXT_TYPE:
        raise _invalid(f"payload type is {body.get('type')!r}, not {TEXT_TYPE!r}", "payload.type")
    content, attachments = body.get("content"), body.get("attachments")
    if content is not None and not isinstance(content, str):
        raise _invalid("content is not a string", "payload.content")
    if attachments is not None and not isinstance(attachments, list):
        raise _invalid("attachments is not an array", "payload.attachments")
    ref = body.get("content_ref")
    return TextPayload(
        content=content,
        content_ref=None if ref is None else blob_ref_from(ref),
        attachments=tuple(blob_ref_from(entry) for entry in attachments or ()),
        extra={key: value for key, value in body.items() if key not in _KNOWN},
    )


def needs_offload(
    payload: TextPayload,
    *,
    budget_bytes: int = MESSAGE_BUDGET_BYTES,
    allowance_bytes: int = ENVELOPE_ALLOWANCE_BYTES,
) -> bool:
    """Whether the content has to become a blob: the payload's JSON plus the allowance is over the budget.

    Extra keys count, as they travel too. A payload that has a ``content_ref`` already never needs it.
    """
    if payload.content is None:
        return False
    return len(msgspec.json.encode(payload.to_payload())) + allowance_bytes > budget_bytes


class NativeThread(msgspec.Struct, frozen=True, kw_only=True):
    """A thread that the channel itself knows, such as a Slack thread."""

    channel_type: str
    conversation_id: str
    native_thread_id: str
    entrypoint_id: str | None = None


class PersistentChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that is one endless thread."""

    channel_type: str
    conversation_id: str
    entrypoint_id: str | None = None


class DirectPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two parties, in any order."""

    channel_type: str
    party_a: str
    party_b: str
    entrypoint_id: str | None = None


ThreadIdInput = NativeThread | PersistentChannel | DirectPair


def compute_thread_id(thread: ThreadIdInput) -> str:
    """``thread:sha256:<64 hex>`` of a thread; equal for equal input on every hive and in every SDK.

    Raises:
        Invalid: a required field is blank; it is named.
    """
    parts = [("channel_type", _ascii_lower(_required(thread, "channel_type")))]
    parts.append(("entrypoint_id", (thread.entrypoint_id or "").strip() or "-"))
    if isinstance(thread, DirectPair):
        kind = "direct_pair"
        pair = sorted((_required(thread, "party_a"), _required(thread, "party_b")), key=str.encode)
        parts += zip(("party_a", "party_b"), pair, strict=True)
    elif isinstance(thread, NativeThread):
        kind = "native_thread"
        parts += [(name, _required(thread, name)) for name in ("conversation_id", "native_thread_id")]
    else:
        kind = "persistent_channel"
        parts.append(("conversation_id", _required(thread, "conversation_id")))
    material = "|".join(["v2", f"kind={kind}", *(f"{name}={value}" for name, value in parts)])
    return f"thread:sha256:{hashlib.sha256(material.encode()).hexdigest()}"


def _ascii_lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def _required(thread: ThreadIdInput, name: str) -> str:
    value: str = getattr(thread, name).strip()
    if not value:
        raise Invalid(f"{name} is blank", field=name, remedy=f"Give the {name} of the thread.")
    return value
