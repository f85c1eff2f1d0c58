"""What changes in the directory, as the identity journal holds it (``spec/identity-and-knowledge.md §3.5``).

One committed change is one :class:`Transaction`: its operations apply together or not at all. An operation
carries the whole row, so applying one twice is harmless. A base image is transactions too. New kinds of rows
become new members of :data:`Op`; what they look like on disk is ``{"op":"upsert","kind":"ilk","row":{…}}``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from appliance.wire.errors import Damaged
from appliance.wire.identity import IdentityMeta, IlkRecord, TenantRecord

__all__ = [
    "Op",
    "Transaction",
    "UpsertIlk",
    "UpsertMeta",
    "UpsertTenant",
    "decode_transaction",
    "encode_transaction",
]


class UpsertMeta(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="meta"):
    """The directory's header."""

    op: Literal["upsert"] = "upsert"
    row: IdentityMeta


class UpsertTenant(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tenant"):
    """A tenant is new or changed."""

    op: Literal["upsert"] = "upsert"
    row: TenantRecord


class UpsertIlk(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ilk"):
    """An interlocutor is new, changed or deleted (``deleted_at_ms``)."""

    op: Literal["upsert"] = "upsert"
    row: IlkRecord


Op = UpsertMeta | UpsertTenant | UpsertIlk


class Transaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change, and who made it: the audit trail is the journal.

    Attributes:
        v: number of this layout.
        at_ms: wall clock, for display.
        action: verb that asked for it; ``START`` for what the service did by itself, ``BASE`` in images.
        actor: full name of who asked.
        trace_id: of the request.
        reason: the asker's ``change_reason``, or why the service did more than it was asked.
    """

    v: int = 1
    at_ms: int
    action: str
    actor: str | None = None
    trace_id: str | None = None
    reason: str | None = None
    ops: tuple[Op, ...]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Transaction)


def encode_transaction(transaction: Transaction) -> bytes:
    """The journal's record."""
    return _encoder.encode(transaction)


def decode_transaction(record: bytes) -> Transaction:
    """The change in a record.

    Raises:
        Damaged: not one of ours, or of a newer layout.
    """
    try:
        transaction = _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"a record of the identity journal does not decode: {error}") from error
    if transaction.v != 1:
        raise Damaged(f"the identity journal has a record of layout {transaction.v}; this program reads 1")
    return transaction
