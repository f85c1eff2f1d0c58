"""Small rules of identity: who may ask, tags, addresses (``spec/identity-and-knowledge.md §1, §2.2``).

Sans-IO and without state. The name of the caller is the one that the router stamped; it is the only input to
every decision about permission.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from appliance.wire import verbs
from appliance.wire.errors import Invalid
from appliance.wire.identity import ChannelRecord, GivenChannel, channel_id

__all__ = [
    "IDENTITY_CALLERS",
    "MUTATING",
    "OPEN",
    "address_key",
    "may_call",
    "new_channel",
    "plain_tags",
    "relayed",
    "text_of",
]

_ADMIN: Final = "SY.admin@"
_FRONTDESK: Final = "SY.frontdesk.gov@"
_ORCHESTRATOR: Final = "SY.orchestrator@"
_RELAY: Final = "SY.orchestrator.relay."
_DESK: Final = "<the configured front desk>"
_SELF: Final = "<this service>"

IDENTITY_CALLERS: Final[Mapping[str, tuple[str, ...]]] = {
    verbs.ILK_REGISTER: (_FRONTDESK, _ORCHESTRATOR, _DESK, _SELF),
    verbs.ILK_UPDATE: (_ORCHESTRATOR, _SELF),
    verbs.TNT_CREATE: (_FRONTDESK, _DESK, _ADMIN),
    verbs.TNT_APPROVE: (_ADMIN,),
    verbs.ILK_LIST: (_ADMIN,),
    verbs.ILK_GET: (_ADMIN,),
}
"""Beginnings of the names that may ask; what is not here is answered to anybody or not at all."""

OPEN: Final = frozenset({verbs.IDENTITY_METRICS, verbs.PING, verbs.STATUS})
MUTATING: Final = frozenset({verbs.ILK_REGISTER, verbs.ILK_UPDATE, verbs.TNT_CREATE, verbs.TNT_APPROVE})

_TAG: Final = re.compile(r"[a-z0-9_]{1,64}\Z")
_MAX_TAGS: Final = 128
_MAX_CHANNEL_TYPE_BYTES: Final = 32
_MAX_ADDRESS_BYTES: Final = 256
_NOT_DIALLED: Final = re.compile(r"[\s().\-/]")


def relayed(caller: str) -> str:
    """``caller``, with an orchestrator's relay as the orchestrator itself."""
    return f"{_ORCHESTRATOR}{caller.partition('@')[2]}" if caller.startswith(_RELAY) else caller


def may_call(action: str, caller: str | None, *, own_name: str, frontdesk: str) -> bool:
    """Whether the node called ``caller`` may ask for ``action``.

    Args:
        action: verb of the request.
        caller: as stamped by the router; a message without one is refused.
        own_name: full name of the identity service.
        frontdesk: full name of the configured front desk.
    """
    if caller is None:
        return False
    name = relayed(caller)
    for allowed in IDENTITY_CALLERS[action]:
        if allowed == _DESK:
            fits = name == frontdesk
        elif allowed == _SELF:
            fits = name == own_name
        else:
            fits = name.startswith(allowed)
        if fits:
            return True
    return False


def plain_tags(tags: tuple[str, ...], field: str) -> tuple[str, ...]:
    """Tags in lower case, each once, in the order given.

    Raises:
        Invalid: ``VOCABULARY_INVALID``; one has other characters than ``[a-z0-9_]``, or there are too many.
    """
    plain = tuple(dict.fromkeys(tag.strip().lower() for tag in tags))
    for tag in plain:
        if not _TAG.match(tag):
            raise Invalid(
                f"{field}: {tag!r} is not a tag of 1 to 64 characters [a-z0-9_]",
                code="VOCABULARY_INVALID",
                field=field,
            )
    if len(plain) > _MAX_TAGS:
        raise Invalid(
            f"{field}: {len(plain)} tags, at most {_MAX_TAGS}", code="VOCABULARY_INVALID", field=field
        )
    return plain


def text_of(identification: Mapping[str, object], key: str, max_bytes: int) -> str | None:
    """A text of ``identification``, trimmed; ``None`` when it is absent, null or empty.

    Raises:
        Invalid: it is no text, or has more than ``max_bytes`` bytes of UTF-8.
    """
    value = identification.get(key)
    field = f"identification.{key}"
    if value is None:
        return None
    if not isinstance(value, str):
        raise Invalid(f"{field} is not a text", field=field)
    if len(value.encode()) > max_bytes:
        raise Invalid(f"{field} has more than {max_bytes} bytes", field=field)
    return value.strip() or None


def address_key(channel_type: str, address: str) -> str:
    """``address`` as it is compared: e-mail in lower case, a number without punctuation, others as given."""
    plain = address.strip()
    if channel_type == "email":
        return plain.lower()
    if channel_type in ("phone", "whatsapp", "sms"):
        digits = _NOT_DIALLED.sub("", plain)
        return f"+{digits[2:]}" if digits.startswith("00") else digits
    return plain


def new_channel(given: GivenChannel, field: str, now_ms: int) -> ChannelRecord:
    """The record of a channel in a request; ``type`` and ``channel_type`` are the same key.

    Raises:
        Invalid: no id, no type, no address, or one of them is too long.
    """
    kind = (given.channel_type or given.type or "").strip().lower()
    address = given.address.strip()
    for name, value, most in (
        ("type", kind, _MAX_CHANNEL_TYPE_BYTES),
        ("address", address, _MAX_ADDRESS_BYTES),
    ):
        if not value:
            raise Invalid(f"{field}: missing {name}", field=f"{field}.{name}")
        if len(value.encode()) > most:
            raise Invalid(f"{field}: {name} has more than {most} bytes", field=f"{field}.{name}")
    return ChannelRecord(
        ich_id=channel_id(given.ich_id, f"{field}.ich_id"),
        channel_type=kind,
        address=address,
        address_key=address_key(kind, address),
        added_at_ms=now_ms,
    )
