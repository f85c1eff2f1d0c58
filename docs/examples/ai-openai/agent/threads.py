"""What was said lately, per thread: a bounded window in memory.

The hive's own memory of a thread comes with each message (``meta.memory_package``) and outlives this process;
the window holds the last words verbatim, which no summary replaces. Messages of one thread are worked on one
after another, in the order in which the hive numbers them (``meta.thread_seq``): they arrive in it, and the
lock is fair.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import trio

from .model import ChatMessage

__all__ = ["Thread", "Threads"]


class Thread:
    """One conversation."""

    def __init__(self) -> None:
        self.turn = trio.Lock()
        self._messages: deque[ChatMessage] = deque()

    def window(self, max_turns: int, max_chars: int) -> list[ChatMessage]:
        """The latest exchanges that fit, oldest first; a turn is a question and its answer."""
        chosen: list[ChatMessage] = []
        chars = 0
        for message in reversed(self._messages):
            chars += len(message.content or "")
            if len(chosen) == 2 * max_turns or chars > max_chars:
                break
            chosen.append(message)
        chosen.reverse()
        while chosen and chosen[0].role != "user":
            chosen.pop(0)
        return chosen

    def note(self, question: str, answer: str, max_turns: int) -> None:
        """Remember one exchange; ``max_turns`` of them are kept."""
        self._messages.append(ChatMessage(role="user", content=question))
        self._messages.append(ChatMessage(role="assistant", content=answer))
        while len(self._messages) > 2 * max(max_turns, 1):
            self._messages.popleft()


class Threads:
    """All conversations; the one unused for longest goes first."""

    def __init__(self) -> None:
        self._threads: OrderedDict[str, Thread] = OrderedDict()

    def __len__(self) -> int:
        return len(self._threads)

    def get(self, thread_id: str | None, limit: int) -> Thread:
        """The thread with this id; without an id one that nobody remembers."""
        if not thread_id:
            return Thread()
        thread = self._threads.get(thread_id)
        if thread is None:
            thread = self._threads[thread_id] = Thread()
        self._threads.move_to_end(thread_id)
        while len(self._threads) > limit:
            self._threads.popitem(last=False)
        return thread
