"""Where rooms of one floor meet: small protocols that the composition root binds.

The router asks these; policy, identity, cognition and the inter-hive link answer. Until a room exists, the
``No…`` class beside its protocol gives the answer that the specification wants without it. Sans-IO: an
implementation must answer at once from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from . import verbs
from .codec import HotMessage, HotMeta

__all__ = [
    "Forwarder",
    "Memory",
    "NoForwarder",
    "NoMemory",
    "NoResolver",
    "Resolution",
    "Resolver",
    "ThreadStore",
    "TurnSink",
]


class Resolution(msgspec.Struct, frozen=True):
    """What policy says about ``dst: null``: a target name, or the reason why there is none."""

    target: str | None
    reason: str = verbs.OPA_NO_TARGET


class Resolver(Protocol):
    """Decides where a message without destination goes (``routing-and-regions §3.8``)."""

    def resolve(self, source_uuid: str, message: HotMessage, meta: HotMeta) -> Resolution:
        """Called once, at the ingress hive. ``message.meta`` is as the sender wrote it."""
        ...


class NoResolver:
    """No policy is loaded: nothing has a target."""

    def resolve(self, source_uuid: str, message: HotMessage, meta: HotMeta) -> Resolution:
        """``OPA_NO_TARGET``, always."""
        return Resolution(None)


class Forwarder(Protocol):
    """Takes what leaves for other hives."""

    def forward(self, hive: str, message: HotMessage, ttl: int) -> str | None:
        """Send towards ``hive`` with hop budget ``ttl``; return an UNREACHABLE reason when impossible."""
        ...

    def broadcast(self, message: HotMessage, ttl: int) -> None:
        """Send to every neighbour hive."""
        ...


class NoForwarder:
    """There is no link: every other hive is out of reach."""

    def forward(self, hive: str, message: HotMessage, ttl: int) -> str | None:
        """``WAN_UNAVAILABLE``, always."""
        return verbs.WAN_UNAVAILABLE

    def broadcast(self, message: HotMessage, ttl: int) -> None:
        """Nobody to tell."""


class Memory(Protocol):
    """Cognitive snapshot per thread (``node-protocol §2.6``)."""

    def package(self, thread_id: str) -> bytes | None:
        """JSON bytes of the thread's memory package, ready to splice, or ``None``."""
        ...


class NoMemory:
    """No thread has a package."""

    def package(self, thread_id: str) -> bytes | None:
        """``None``, always."""
        return None


class ThreadStore(Protocol):
    """Durable upper bounds of thread sequences (``design.md §5`` *thread_seq*)."""

    def bound(self, key: bytes) -> int:
        """Highest number that may have been given out for the thread with this 16-byte key; 0 when new."""
        ...

    def reserve(self, bounds: Sequence[tuple[bytes, int]]) -> None:
        """Record new bounds; called once per turn, before that turn's frames leave."""
        ...


class TurnSink(Protocol):
    """Takes recorded turns (``routing-and-regions §3.12``)."""

    def appetite(self, now: float) -> tuple[bool, bool]:
        """Whether budget is left for turns of a thread, and for turns without one; asked once per turn."""
        ...

    def record(self, framed: bytes, count: int, skipped: int) -> None:
        """One turn of the router.

        Args:
            framed: bodies as delivered before ``memory_package``, each with its u32 big-endian length.
            count: how many those are.
            skipped: how many were left out.
        """
        ...
