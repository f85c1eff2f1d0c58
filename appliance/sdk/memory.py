"""What the hive remembers of a thread, as it travels with a message (``spec/node-protocol.md §2.6``).

The router attaches ``meta.memory_package`` on delivery; a node only reads it. Weights and counts are the
memory service's; nothing is interpreted here.
"""

from __future__ import annotations

import msgspec

from appliance.wire.envelope import Message
from appliance.wire.errors import Invalid

__all__ = [
    "Episode",
    "Memory",
    "MemoryContext",
    "MemoryPackage",
    "MemoryReason",
    "MemoryTruncated",
    "memory_of",
]


class MemoryContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the thread is about."""

    context_id: str
    label: str
    weight: float


class MemoryReason(msgspec.Struct, frozen=True, kw_only=True):
    """Why it is talked about."""

    reason_id: str
    label: str
    weight: float


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing remembered."""

    memory_id: str
    summary: str
    weight: float
    dominant_context_id: str | None = None
    dominant_reason_id: str | None = None


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened; ``intensity`` is 0–255."""

    episode_id: str
    title: str
    intensity: int


class MemoryTruncated(msgspec.Struct, frozen=True, kw_only=True):
    """What did not fit."""

    applied: bool
    dropped_contexts: int = 0
    dropped_reasons: int = 0
    dropped_memories: int = 0
    dropped_episodes: int = 0


class MemoryPackage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The package of one thread; absent parts are empty."""

    package_version: int
    thread_id: str
    dominant_context: MemoryContext | None = None
    dominant_reason: MemoryReason | None = None
    contexts: tuple[MemoryContext, ...] = ()
    reasons: tuple[MemoryReason, ...] = ()
    memories: tuple[Memory, ...] = ()
    episodes: tuple[Episode, ...] = ()
    truncated: MemoryTruncated | None = None


def memory_of(message: Message) -> MemoryPackage | None:
    """The memory package of ``message``; ``None`` when it carries none.

    Raises:
        Invalid: there is one, and it does not have the documented shape.
    """
    raw = message.meta.memory_package
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=MemoryPackage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(
            f"memory_package: {error}", code="INVALID_FRAME", field="meta.memory_package"
        ) from error
