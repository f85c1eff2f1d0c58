"""Equal questions at the same time are asked once: many who look do not make many messages.

Who comes while a question is under way waits for the next one, which begins after he came: an answer is
never older than its request, so a read behind a write sees the write. Such a question begins ``PACE_S`` after
the one before, so that readers cost the same however many they are; who comes alone asks at once. A question
that takes long keeps nobody: after ``STAGGER_S`` the next one begins beside it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec
import trio

__all__ = ["PACE_S", "STAGGER_S", "Shared", "SharedStatistics"]

T = TypeVar("T")

PACE_S = 0.01
"""Least time from one question to the next one that waited for it; no more than two begin in it."""

STAGGER_S = 0.05
"""Longest wait for a question that began earlier; a peer that is well answers in a few milliseconds."""


class SharedStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start, and keys that are being asked for now."""

    asked: int
    shared: int
    keys: int


class _Flight(Generic[T]):
    """One question, and what came of it; no answer when its caller left or it failed."""

    __slots__ = ("answer", "began", "done")

    def __init__(self) -> None:
        self.began = 0.0
        self.done = trio.Event()
        self.answer: tuple[T] | None = None


class Shared(Generic[T]):
    """Questions by key. Answers are given to several callers: they must not be changed.

    Not for changes: a caller that leaves takes his question with him, and those who wait ask anew.
    """

    def __init__(self) -> None:
        self._under_way: dict[bytes, _Flight[T]] = {}
        self._next: dict[bytes, _Flight[T]] = {}
        self._asked = self._joined = 0

    def statistics(self) -> SharedStatistics:
        """Counts and gauges."""
        return SharedStatistics(asked=self._asked, shared=self._joined, keys=len(self._under_way))

    async def ask(self, key: bytes, question: Callable[[], Awaitable[T]]) -> T:
        """What ``question`` returns, asked by this caller or by another one after this call.

        Raises:
            whatever ``question`` raises, to the caller who asked; the others ask for themselves.
        """
        while (waiting := self._next.get(key)) is not None:
            await waiting.done.wait()
            if waiting.answer is not None:
                self._joined += 1
                return waiting.answer[0]
        flight: _Flight[T] = _Flight()
        try:
            before = self._under_way.get(key)
            if before is not None:
                self._next[key] = flight
                try:
                    with trio.move_on_after(STAGGER_S):
                        await before.done.wait()
                    await trio.sleep_until(before.began + PACE_S)
                finally:
                    del self._next[key]  # whoever comes now comes too late for this one
            self._under_way[key] = flight
            flight.began = trio.current_time()
            self._asked += 1
            answer = await question()
            flight.answer = (answer,)
            return answer
        finally:
            flight.done.set()
            if self._under_way.get(key) is flight:
                del self._under_way[key]
