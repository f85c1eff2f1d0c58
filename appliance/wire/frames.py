"""Frames: a 4-byte big-endian length, then that many bytes of UTF-8 JSON (``spec/node-protocol.md §1.3``).

The length counts the JSON only and is at most :data:`MAX_FRAME_BYTES`, both ways, on every link. A reader
tolerates any fragmentation. An over-size length is an error before the body is read, and the connection
is finished: there is no way to find the next frame. Sans-IO.
"""

from __future__ import annotations

import struct

from .errors import Invalid

__all__ = ["HEADER", "MAX_FRAME_BYTES", "FrameSplitter", "FrameTooLarge", "pack_frame"]

MAX_FRAME_BYTES = 131_072
"""Limit of the JSON bytes of one frame, inclusive (``spec/routing-and-regions.md §8``)."""

HEADER = struct.Struct(">I")


class FrameTooLarge(Invalid):
    """A frame is over the limit; ``size_bytes`` says what it claimed."""

    code, status = "FRAME_TOO_LARGE", 413
    remedy = f"Keep a message under {MAX_FRAME_BYTES} bytes; send long content as a blob reference."

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"a frame of {size_bytes} bytes is over the limit of {MAX_FRAME_BYTES}")
        self.size_bytes = size_bytes


def pack_frame(body: bytes) -> bytes:
    """``body`` with its length in front.

    Raises:
        FrameTooLarge: ``body`` is over :data:`MAX_FRAME_BYTES`.
    """
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLarge(len(body))
    return HEADER.pack(len(body)) + body


class FrameSplitter:
    """Cuts a byte stream into frame bodies; holds at most one incomplete frame.

    After :class:`FrameTooLarge` the splitter must not be fed again.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def pending_bytes(self) -> int:
        """Bytes of the incomplete frame held; zero at a clean end of stream."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was read; return the complete bodies, in order.

        Raises:
            FrameTooLarge: a length over the limit; frames before it are lost with the connection.
        """
        buffer = self._rest + data if self._rest else data
        end = len(buffer)
        position = 0
        bodies: list[bytes] = []
        while end - position >= 4:
            (size,) = HEADER.unpack_from(buffer, position)
            if size > MAX_FRAME_BYTES:
                raise FrameTooLarge(size)
            stop = position + 4 + size
            if stop > end:
                break
            bodies.append(buffer[position + 4 : stop])
            position = stop
        self._rest = buffer[position:] if position else buffer
        return bodies
