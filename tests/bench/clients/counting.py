"""Counts delivered messages at the speed of memory, and still looks at every length.

Messages of a run have one length, so the headers lie at a fixed stride; four strided slices compare all of
them at C speed, which proves the same as walking from length to length. Where the stride breaks the counter
walks.
"""

from __future__ import annotations

from .frames import sequence_of

__all__ = ["FrameCounter", "MessageCounter", "NatsCounter"]


class MessageCounter:
    """Takes a byte stream and counts messages in it.

    ``messages`` are messages of the run (``message_bytes`` long together), ``other`` everything else
    (notices of a router, PONGs), ``disordered`` how often a sampled sequence number did not grow within its
    sender.
    """

    user_mark = b'"type":"user"'

    def __init__(self, size_bytes: int = 1 << 20) -> None:
        self._buffer = bytearray(size_bytes)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._last: dict[bytes, int] = {}
        self.messages = 0
        self.other = 0
        self.bytes = 0
        self.message_bytes = 0
        self.samples = 0
        self.disordered = 0
        self.notices: dict[str, int] = {}

    def room(self) -> memoryview:
        """Where the next bytes go; pass it to ``recv_into``."""
        return self._view[self._filled :]

    def took(self, size: int) -> int:
        """``size`` bytes were put into ``room()``; returns how many messages of the run they completed."""
        self.bytes += size
        end = self._filled + size
        buffer = self._buffer
        before = self.messages
        at = 0
        while (length := self._length(at, end)) and at + length <= end:
            alike = (end - at) // length
            while alike > 1 and not self._uniform(at, length, alike):
                alike //= 2
            self._account(bytes(buffer[at : at + min(length, 600)]), alike, length)
            at += alike * length
        self._filled = end - at
        if at and self._filled:
            buffer[: self._filled] = buffer[at:end]
        return self.messages - before

    def _account(self, first: bytes, alike: int, length: int) -> None:
        """Count ``alike`` messages of one length; the first is looked at."""
        if self.user_mark not in first:
            self.other += alike
            reason = _between(first, b'"reason":"', b'"') or _between(first, b'"msg":"', b'"') or "other"
            self.notices[reason] = self.notices.get(reason, 0) + alike
            return
        self.messages += alike
        self.message_bytes += alike * length
        found = sequence_of(first)
        if found is not None:
            self.samples += 1
            sender, number = found
            if number <= self._last.get(sender, -1):
                self.disordered += 1
            self._last[sender] = number

    def last_sequence(self) -> dict[bytes, int]:
        """Highest sampled sequence number by sender."""
        return dict(self._last)

    def _length(self, at: int, end: int) -> int:
        """Bytes of the message that begins at ``at`` (with its header), 0 when that is not known yet."""
        raise NotImplementedError

    def _uniform(self, at: int, length: int, count: int) -> bool:
        """Whether ``count`` messages of ``length`` bytes follow each other from ``at``."""
        buffer = self._buffer
        stop = at + count * length
        # The low byte first: it tells two lengths apart soonest.
        return all(
            buffer[at + place : stop : length] == bytes((buffer[at + place],)) * count
            for place in (3, 2, 1, 0)
        )


class FrameCounter(MessageCounter):
    """Frames of the node socket: four bytes of length, then JSON."""

    def _length(self, at: int, end: int) -> int:
        return int.from_bytes(self._buffer[at : at + 4], "big") + 4 if end - at >= 4 else 0


class NatsCounter(MessageCounter):
    """The NATS text protocol: ``MSG <subject> <sid> <size>``, payload; other lines are skipped."""

    def _length(self, at: int, end: int) -> int:
        line_end = self._buffer.find(b"\r\n", at, end)
        if line_end < 0:
            return 0
        if self._buffer[at : at + 4] != b"MSG ":
            return line_end + 2 - at
        size = int(self._buffer[self._buffer.rindex(b" ", at, line_end) + 1 : line_end])
        return line_end + 2 - at + size + 2


def _between(text: bytes, before: bytes, behind: bytes) -> str:
    start = text.find(before)
    if start < 0:
        return ""
    start += len(before)
    return text[start : text.find(behind, start)].decode("ascii", "replace")
