"""What tests of services share: the connection by which they are asked."""

from __future__ import annotations

import trio

__all__ = ["ServiceNode"]


class ServiceNode:
    """A service's connection: what it is asked, what it answers; ``refuses`` is raised by every send."""

    uuid = "00000000-0000-4000-8000-0000000000aa"

    def __init__(self):
        self.questions, self.receiver = trio.open_memory_channel(10)
        self.answers, self.answered = trio.open_memory_channel(10)
        self.refuses = None

    async def send(self, message):
        """An answer of the service."""
        if self.refuses is not None:
            raise self.refuses
        await self.answers.send(message)

    def close(self):
        """The connection ends."""
        self.questions.close()
